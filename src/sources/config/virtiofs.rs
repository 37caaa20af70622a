//! What is peculiar about a move to virtiofs: the options that don't go with it, and what is left to do.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::share::Share;
use crate::share::memory::Memory;
use crate::share::rewrite::{Moved, Refusal};
use crate::share::target::Target;
use crate::share::virtiofs::{self, Daemon};
use crate::sources::config::options::{ConfigArgs, Snippet};
use crate::text::{escape, shell_word};

/// Why the command line makes no sense; `None` where it does.
pub(super) fn wrong_options(args: &ConfigArgs) -> Option<String> {
    if args.backend != Target::Virtiofs {
        let unit = args.to == Some(Snippet::VirtiofsdUnit);
        return unit.then(|| "--to virtiofsd-unit goes with --backend virtiofs only".to_owned());
    }
    let of_local = [
        ("--security-model", args.security_model.is_some()),
        ("--fmode", args.fmode.is_some()),
        ("--dmode", args.dmode.is_some()),
        ("--multidevs", args.multidevs.is_some()),
        ("--in-place-args", args.in_place_args),
        ("--to readconfig", args.to == Some(Snippet::Readconfig)),
    ];
    let (option, _) = of_local.into_iter().find(|(_, given)| *given)?;
    Some(format!("{option} goes with --backend local only; --to qemu-args prints what virtiofs needs"))
}

/// A file whose arguments would become others, and more: that is not done in place.
pub(super) fn refusal_of_file(shares: &[Share]) -> Refusal {
    Refusal::at(
        shares.first().and_then(|share| share.place.line),
        "only libvirt XML is rewritten for virtiofs, because QEMU's arguments for the guest's memory change, too",
        "print the new arguments by `--backend virtiofs --to qemu-args` and the unit of virtiofsd by `--backend virtiofs \
         --to virtiofsd-unit`, and put them into the file by hand",
    )
}

/// Says what is left to do behind a printed form.
pub(super) fn tell_printed(form: Snippet, shares: &[Share], daemon: &Daemon) {
    let by_libvirt = form == Snippet::Libvirt;
    let mut steps =
        vec![in_guest(shares), "Shut down the guest, and stop and disable the helper.".to_owned()];
    steps.extend(common(by_libvirt));
    let unit = format!(
        "Store the unit that `--backend virtiofs --to virtiofsd-unit` prints under the name in its first line, write the group for GROUP, \
         and start it before each start of QEMU. It is for {}.",
        daemon.told()
    );
    match form {
        Snippet::Libvirt => steps.push(format!(
            "Put the element into <devices>, and into the domain: <memoryBacking>{}</memoryBacking>. Take the share's <qemu:arg>s out. \
             `migrate config FILE --backend virtiofs` does all of it in libvirt XML.",
            virtiofs::MEMORY_BACKING.concat()
        )),
        Snippet::QemuArgs => {
            steps.push(unit);
            steps.push(
                "Put these arguments in the place of the share's -fsdev (or -virtfs) and -device. vhost-user-fs is in QEMU 4.2 and newer."
                    .to_owned(),
            );
            let plain = |share: &Share| match &share.memory {
                Memory::Plain(plain) => Some(plain.clone()),
                Memory::Shared | Memory::Conflict(_) => None,
            };
            let plain: Vec<_> = shares.iter().filter_map(plain).collect();
            if plain.iter().any(|plain| plain.size.is_none()) {
                steps.push("SIZE is the guest's memory, as its -m says it, with its unit (512M): it is not known here.".to_owned());
            }
            let elsewhere: BTreeSet<_> = plain.iter().filter_map(|plain| plain.elsewhere.as_deref()).collect();
            steps.extend(elsewhere.into_iter().map(|elsewhere| {
                format!(
                    "See what {elsewhere} says of the guest's memory, which is not read here: where it makes a memory backend (-object \
                     memory-backend-…, -machine memory-backend=, -numa node, -mem-path), leave the last two arguments out and give that backend \
                     share=on."
                )
            }));
        }
        Snippet::VirtiofsdUnit | Snippet::Readconfig => steps.push(unit),
    }
    steps.extend(notes(shares, by_libvirt));
    steps.push("Start the guest.".to_owned());
    let mut text = String::from("\nWhat is left to do:\n");
    for (index, step) in steps.iter().enumerate() {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {}. {step}", index + 1);
    }
    complain!("{}", text.trim_end_matches('\n'));
}

/// What virtiofs needs wherever it is.
fn common(by_libvirt: bool) -> Vec<String> {
    let acl = if by_libvirt {
        " libvirt does not pass ACLs on (virtiofsd's --posix-acl): a guest that mounts with posixacl loses sight of them."
    } else {
        ""
    };
    vec![
        "Convert nothing: virtiofsd serves the files as they are. Where `migrate convert` ran already, take it back by \
         `migrate rollback` first."
            .to_owned(),
        format!(
            "Install virtiofsd (a package of its own since QEMU 8.0). To keep the guest's owners it runs as root; as an ordinary user it \
             needs a map of ids (/etc/subuid and --uid-map, --gid-map; in libvirt <idmap>).{acl}"
        ),
    ]
}

/// The guest's part. It comes first: the guest can't be entered while it is down, and a line for 9p in its /etc/fstab stops its
/// next start.
pub(super) fn in_guest<'a>(shares: impl IntoIterator<Item = &'a Share>) -> String {
    let mut out = "In the guest, Linux 5.4 or newer, while it still runs: change what mounts the share from its next start on. The tag stays; in \
                   /etc/fstab the type is virtiofs, and the options of 9p (trans=, version=, msize=, cache=, access=) go:"
        .to_owned();
    // A snapshot describes the same guest twice.
    let mut said = BTreeSet::new();
    for share in shares {
        if !said.insert((&share.mount_tag, share.readonly)) {
            continue;
        }
        let tag = share.mount_tag.as_deref().unwrap_or(b"TAG");
        let word = escape(&shell_word(tag)).into_owned();
        let options = if share.readonly { "ro" } else { "defaults" };
        let read_only = if share.readonly { " -o ro" } else { "" };
        let fstab = escape(tag).replace(' ', "\\040");
        let _ = write!(
            out,
            "\n     mount -t virtiofs{read_only} {word} FOLDER\n     {fstab} FOLDER virtiofs {options} 0 0"
        );
    }
    out
}

/// What is left to do after libvirt XML was rewritten and the guest is down.
pub(super) fn steps(moved: &[Moved]) -> Vec<String> {
    let mut steps = common(true);
    steps.extend(notes(moved.iter().map(|one| &one.share), true));
    steps
}

/// What shares say that virtiofs says otherwise, or not at all.
fn notes<'a>(shares: impl IntoIterator<Item = &'a Share> + Clone, by_libvirt: bool) -> Vec<String> {
    let mut steps = Vec::new();
    if by_libvirt && shares.clone().into_iter().any(|share| share.readonly) {
        steps.push(
            "A share is read-only: libvirt 9 refuses <readonly/> for virtiofs, and older versions may ignore it. Where it is refused, bind-mount \
             the directory read-only (mount -o bind,ro), share that and leave <readonly/> out; else try to write in the guest before you \
             trust it."
                .to_owned(),
        );
    }
    if shares.into_iter().any(|share| share.writeout) {
        steps.push(
            "virtiofs has no writeout=immediate: the host writes when it does for its own files.".to_owned(),
        );
    }
    steps
}
