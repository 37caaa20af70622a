//! What is left for the admin after a rewrite, on standard error.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::super::format::{Beside, Document};
use super::super::libvirt::{self, Holder};
use crate::data::journal::{Journal, Stage, default_path};
use crate::data::owner::Owner;
use crate::share::Transport;
use crate::share::local::path_bytes;
use crate::share::rewrite::{Edits, Moved, Rewrite};
use crate::share::target::Target;
use crate::sources::config::options::ConfigArgs;
use crate::text::{escape, escape_path, shell_word};

/// The kinds of findings that are about other lines than the share's.
const AROUND: &[&str] =
    &["export-hidden", "export-locked", "qemu-confined", "helper-required", "helper-started"];

/// What there is to tell of.
pub(super) struct Told<'a> {
    pub document: &'a Document<'a>,
    pub beside: Option<&'a dyn Beside>,
    pub edits: &'a Edits,
    pub how: &'a Rewrite,
    pub args: &'a ConfigArgs,
}

/// Prints it.
pub(super) fn tell(told: &Told) {
    complain!("{}", told.text().trim_end_matches('\n'));
}

impl Told<'_> {
    fn text(&self) -> String {
        let mut out = String::from("\nWhat the rewrite means:\n");
        for finding in &self.edits.findings {
            // Writing to a String does not fail.
            let remedy = finding.remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
            let place = if AROUND.contains(&finding.kind.id) { finding.location() } else { String::new() };
            let place = if place.is_empty() { place } else { format!("{place}: ") };
            let line = format!("  {place}{}{remedy} [{}]\n", finding.message, finding.kind.id);
            if !out.contains(&line) {
                out.push_str(&line);
            }
        }
        for addition in &self.edits.additions {
            let done = self.args.in_place || self.args.diff;
            let who = if done { "This change" } else { "`migrate config --in-place`" };
            let _ = writeln!(out, "  {who} {} as well", addition.what);
        }
        for moved in &self.edits.moved {
            // A snapshot says the share of its guest once more.
            let (title, export) = (moved.share.title(), escape_path(&moved.export));
            let target = match self.how.target {
                Target::Local => format!("local, {}", self.how.local.security_model.name()),
                Target::Virtiofs => "virtiofs".to_owned(),
            };
            let line = format!("  {title}: {export} over {target}\n");
            if !out.contains(&line) {
                out.push_str(&line);
            }
        }
        out.push_str("What is left to do:\n");
        for (index, step) in self.steps().into_iter().enumerate() {
            let _ = writeln!(out, "  {}. {step}", index + 1);
        }
        out
    }

    fn steps(&self) -> Vec<String> {
        let holder = libvirt::held(self.document).map(|held| held.holder);
        // The guest stays down throughout: neither the old configuration fits converted files, nor the new one others.
        let mut steps = Vec::new();
        if self.how.target == Target::Virtiofs {
            steps.push(super::virtiofs::in_guest(self.moved().map(|moved| &moved.share)));
        }
        steps.push(format!(
            "Shut down {}, and leave it down until the last step: 9p can't be changed while it runs.",
            self.guests()
        ));
        steps.extend(self.helpers());
        if self.how.target == Target::Virtiofs {
            steps.extend(super::virtiofs::steps(&self.edits.moved));
        }
        if self.how.target == Target::Local {
            steps.extend(self.conversions(holder.is_some()));
        }
        match holder {
            Some(holder) => steps.extend(self.libvirt(holder)),
            None if !self.args.in_place => {
                steps.push(
                    "Put the new configuration in place: `migrate config --in-place` does it.".to_owned(),
                );
            }
            None => {}
        }
        steps.push("Start the guest.".to_owned());
        steps
    }

    fn moved(&self) -> impl Iterator<Item = &Moved> {
        self.edits.moved.iter()
    }

    fn guests(&self) -> String {
        let names: BTreeSet<_> = self.moved().filter_map(|moved| moved.share.place.guest.clone()).collect();
        if names.is_empty() {
            return "the guest".into();
        }
        let names: Vec<_> = names.iter().map(|name| escape(name)).collect();
        format!("the guest {}", names.join(" and "))
    }

    /// The first guest's name, for a command line.
    fn domain(&self) -> String {
        let name = self.moved().find_map(|moved| moved.share.place.guest.as_deref());
        name.map_or_else(|| "NAME".into(), word)
    }

    fn conversions(&self, by_libvirt: bool) -> Vec<String> {
        let mut exports: BTreeSet<&Path> = self.moved().map(|moved| moved.export.as_path()).collect();
        let wanted = self.how.local.security_model.name();
        let mut told: Vec<String> = Vec::new();
        exports.retain(|export| match Converted::of(export) {
            Some(converted) => {
                told.push(converted.told(export, wanted));
                false
            }
            None => true,
        });
        if exports.is_empty() {
            return told;
        }
        let owner = if by_libvirt { Owner::of_libvirt().ok().flatten() } else { None };
        let mut users = self.edits.users.iter();
        let around = users.next().filter(|first| users.all(|user| user == *first)).cloned();
        let said = super::user::of_document(self.document, self.beside).or(around);
        let argument = said.clone().or_else(|| owner.as_ref().map(Owner::argument));
        let argument = argument.unwrap_or_else(|| "USER".to_owned());
        let mut model = self.how.local.security_model.name().to_owned();
        for (option, mode) in [("fmode", self.how.local.fmode), ("dmode", self.how.local.dmode)] {
            if let Some(mode) = mode {
                let _ = write!(model, " --{option} {mode:04o}");
            }
        }
        let mut convert = "Convert its files, first without --apply to see what would happen:".to_owned();
        for export in &exports {
            let _ = write!(
                convert,
                "\n     virtfs-proxy-helper migrate convert {} --owner {argument} --security-model {model} --apply",
                word(path_bytes(export))
            );
        }
        let mut verify = "Verify them:".to_owned();
        for export in &exports {
            let _ = write!(verify, "\n     virtfs-proxy-helper migrate verify {}", word(path_bytes(export)));
        }
        let who = match &owner {
            _ if said.is_some() => format!("The configuration says that QEMU runs as {argument}"),
            Some(owner) => format!("libvirt runs QEMU as {owner} here"),
            None if by_libvirt => {
                "USER is libvirt's QEMU user (user= in /etc/libvirt/qemu.conf; else libvirt-qemu on Debian and Ubuntu, \
                 qemu elsewhere)"
                    .to_owned()
            }
            None => "USER is whom QEMU runs as".to_owned(),
        };
        let who =
            format!("{who}: that user must own the files, and be able to enter every directory above them.");
        told.extend([convert, who, verify]);
        told
    }

    fn libvirt(&self, holder: Holder) -> Vec<String> {
        let (name, file) = (self.domain(), self.file());
        let mut steps = Vec::new();
        match holder {
            Holder::Snapshot => steps.push(format!("virsh snapshot-create {name} {file} --redefine")),
            Holder::Checkpoint => steps.push(format!("virsh checkpoint-create {name} {file} --redefine")),
            Holder::SavedImage => steps.push(format!("virsh restore {file}")),
            Holder::Stylesheet => {
                steps.push("Apply the stylesheet again to the guests that it was applied to.".to_owned());
            }
            Holder::Domain | Holder::Other | Holder::Status => {
                steps.push(format!(
                    "virsh define {file}\n     (made from `virsh dumpxml --inactive --security-info {name}`: a plain dump \
                     lacks the VNC password, and libvirt does not see an edit of /etc/libvirt/qemu/*.xml)"
                ));
                if self.how.target == Target::Virtiofs {
                    steps.push(format!(
                        "What was saved before holds the old devices, and can't be given the new ones: `virsh managedsave-remove \
                         {name}` drops a managed save image (or shut the guest down cleanly first); snapshots with memory and `virsh \
                         save` images can be restored only with the old configuration."
                    ));
                    return steps;
                }
                steps.push(format!(
                    "What was saved before holds the old configuration: `virsh managedsave-remove {name}` drops a managed \
                     save image (or shut the guest down cleanly first); for `virsh save` images, snapshots and \
                     checkpoints rewrite their own XML, too (--in-place-args): `virsh save-image-dumpxml` and `virsh \
                     save-image-define`, `virsh snapshot-dumpxml` and `snapshot-create --redefine`, `virsh \
                     checkpoint-dumpxml` and `checkpoint-create --redefine`."
                ));
            }
        }
        if self.edits.findings.iter().all(|finding| finding.kind.id != "kept-as-argument")
            && holder == Holder::Domain
            && !self.how.in_place_args
        {
            let exports: BTreeSet<&Path> = self.moved().map(|moved| moved.export.as_path()).collect();
            let mut step =
                "AppArmor: libvirt grants QEMU the directory by itself. SELinux: it does not label 9p directories:"
                    .to_owned();
            for export in exports {
                let _ = write!(step, "\n     {}", libvirt::relabel(export));
            }
            steps.push(step);
        } else {
            steps.push("AppArmor, SELinux: libvirt does not know of a directory in QEMU's own arguments; allow it by hand.".to_owned());
        }
        steps
    }

    fn file(&self) -> String {
        match self.document.path {
            Some(path) if self.args.in_place => word(path_bytes(path)),
            _ => "NEW-FILE".into(),
        }
    }

    fn helpers(&self) -> Vec<String> {
        let sockets: BTreeSet<_> = self
            .moved()
            .filter_map(|moved| match &moved.share.transport {
                Transport::Socket(path) => Some(escape_path(path)),
                _ => None,
            })
            .collect();
        let on = if sockets.is_empty() {
            String::new()
        } else {
            format!(" on {}", sockets.into_iter().collect::<Vec<_>>().join(" and "))
        };
        vec![format!(
            "Stop and disable the helper{on} where it is started: a systemd unit, rc.local, a script, \
             /etc/libvirt/hooks/qemu. `virtfs-proxy-helper migrate audit` finds it.",
        )]
    }
}

/// What the journal beside an export says of its conversion.
struct Converted {
    stage: Stage,
    model: String,
}

impl Converted {
    /// `None`: nothing says that it is converted.
    fn of(export: &Path) -> Option<Self> {
        let export = export.canonicalize().ok()?;
        let root = std::fs::File::open(&export).ok()?;
        let journal = Journal::of_export(&default_path(&export), root.as_fd()).ok()??;
        let begun = matches!(journal.stage(), Stage::Converting | Stage::Converted | Stage::RollingBack);
        let model = escape(journal.begin().security_model.as_bytes()).into_owned();
        begun.then(|| Self { stage: journal.stage(), model })
    }

    /// What to do about it, where the shares are to be of the model `wanted`.
    fn told(&self, export: &Path, wanted: &str) -> String {
        let (shown, word) = (escape_path(export), word(path_bytes(export)));
        match self.stage {
            Stage::Converted if self.model == wanted => format!(
                "{shown} is converted already, to {wanted}, as its journal says. Verify it, unless you have:\n     \
                 virtfs-proxy-helper migrate verify {word}"
            ),
            Stage::Converted => format!(
                "{shown} is converted to {}, as its journal says, and this configuration says {wanted}: rewrite it with \
                 --security-model {} before the guest starts",
                self.model, self.model
            ),
            Stage::RollingBack => format!(
                "The rollback of {shown} was interrupted: end it by `virtfs-proxy-helper migrate rollback {word} --apply`, and \
                 convert it again"
            ),
            _ => format!(
                "The conversion of {shown} was interrupted: go on by the same `migrate convert` with --apply, then verify it"
            ),
        }
    }
}

/// A word of a command line to copy, safe to print.
fn word(bytes: &[u8]) -> String {
    escape(&shell_word(bytes)).into_owned()
}
