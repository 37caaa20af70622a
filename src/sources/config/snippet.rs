//! `--to`: the shares of a file in another form.

use std::path::{Path, PathBuf};

use super::super::managed::Managed;
use crate::share::local::{Options, Unrepresentable, libvirt_filesystem, qemu_args, readconfig};
use crate::share::rewrite::{Moved, Refusal, Rewrite};
use crate::share::target::Target;
use crate::share::virtiofs::{self, Daemon};
use crate::share::{Note, Part, Share, argv};
use crate::sources::config::options::Snippet;
use crate::text::{escape, shell_word};

/// The equivalents of `shares`. `seen`: where QEMU sees their exports.
pub(super) fn print(
    form: Snippet,
    shares: &[Share],
    how: &Rewrite,
    seen: &[Moved],
    daemon: &Daemon,
) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    let mut seen: Vec<&Moved> = seen.iter().collect();
    for (index, share) in shares.iter().enumerate() {
        let managed = Managed::of(&share.fsdev, share.place.file.as_deref());
        for note in argv::refuse_doubtful(share)
            .err()
            .into_iter()
            .chain(managed.map(|managed| Refusal::at(share.place.line, managed.message(), managed.remedy())))
        {
            complain!("virtfs-proxy-helper: warning: {note}");
        }
        let export = how.export_of(share).unwrap_or_else(|refusal| {
            complain!("virtfs-proxy-helper: warning: {refusal}: {PLACEHOLDER} stands in its place");
            PLACEHOLDER.into()
        });
        let local = how.local_for(&export);
        if let Some(doubt) = how.doubt(share) {
            complain!("virtfs-proxy-helper: warning: {}: {}", doubt.message, doubt.remedy());
        }
        let export = inside(share, &mut seen).unwrap_or(export);
        let share = how.answered(share)?;
        if how.target == Target::Virtiofs {
            let ends = ends_guest(shares, index);
            out.extend(over_virtiofs(form, &share, &export, how, daemon, ends)?);
            continue;
        }
        if form == Snippet::Readconfig && !out.is_empty() {
            out.push(b'\n');
        }
        if form != Snippet::QemuArgs {
            tell_unknown(&share);
        }
        match form {
            Snippet::Libvirt => match libvirt_filesystem(&as_text(&share), &export, &local) {
                Ok(element) => out.extend(element.into_bytes()),
                Err(Unrepresentable(reason)) => {
                    tell_other_form(&share, &reason);
                    out.extend(xml_args(&qemu_args(&as_text(&share), &export, &local)));
                }
            },
            Snippet::Readconfig => match readconfig(&as_text(&share), &export, &local) {
                Ok(sections) => out.extend(sections),
                Err(Unrepresentable(reason)) => {
                    tell_other_form(&share, &reason);
                    for line in shell_args(&share, &export, &local).split_inclusive(|byte| *byte == b'\n') {
                        out.extend([b"# ", line].concat());
                    }
                }
            },
            Snippet::QemuArgs => out.extend(shell_args(&share, &export, &local)),
            // Not without virtiofs.
            Snippet::VirtiofsdUnit => {}
        }
    }
    Ok(out)
}

/// The export's path for QEMU, where that is another than the host's.
fn inside(share: &Share, seen: &mut Vec<&Moved>) -> Option<PathBuf> {
    let is_it = |moved: &&Moved| {
        let own = &moved.share;
        (&own.fsdev, &own.mount_tag, &own.transport) == (&share.fsdev, &share.mount_tag, &share.transport)
    };
    // Shares that are said alike stand in the same order.
    let at = seen.iter().position(is_it)?;
    seen.remove(at).inside.clone()
}

/// A share over virtiofs. `ends`: the memory of its guest is to be printed behind it.
fn over_virtiofs(
    form: Snippet,
    share: &Share,
    export: &Path,
    how: &Rewrite,
    daemon: &Daemon,
    ends: bool,
) -> Result<Vec<u8>, Refusal> {
    let unsayable = |Unrepresentable(reason)| Refusal::at(share.place.line, reason, "change that first");
    tell_unknown(share);
    match form {
        Snippet::VirtiofsdUnit | Snippet::Readconfig => {
            let unit = virtiofs::unit(&as_text(share), export, daemon).map_err(unsayable)?;
            Ok(unit.into_bytes())
        }
        Snippet::Libvirt => {
            let element = how.target.element(&as_text(share), export, &how.local).map_err(unsayable)?;
            Ok(element.print("", "  ", "\n").into_bytes())
        }
        Snippet::QemuArgs => {
            let marked = Marked::of(share);
            let words = how.target.qemu_args(&marked.share, export, &how.local).map_err(unsayable)?;
            let mut out = Vec::new();
            for pair in words.chunks(2) {
                let words: Vec<_> = pair.iter().map(|word| marked.shell_word(word)).collect();
                out.extend(words.join(&b' '));
                out.push(b'\n');
            }
            if ends {
                for pair in virtiofs::memory_args(&share.memory).map_err(unsayable)?.chunks(2) {
                    out.extend(pair.join(" ").into_bytes());
                    out.push(b'\n');
                }
            }
            Ok(out)
        }
    }
}

/// Whether no share of the same guest follows.
fn ends_guest(shares: &[Share], index: usize) -> bool {
    let of = |at: usize| shares.get(at).map(|share| (&share.place.guest, &share.memory));
    of(index) != of(index + 1)
}

/// What stands for a directory that is not known.
const PLACEHOLDER: &str = "/DIRECTORY";

fn tell_other_form(share: &Share, reason: &str) {
    complain!(
        "virtfs-proxy-helper: warning: {reason}: QEMU's arguments for the share {} are printed in its place",
        share.title()
    );
}

/// QEMU's arguments, a pair a line.
fn shell_args(share: &Share, export: &Path, local: &Options) -> Vec<u8> {
    let marked = Marked::of(share);
    let mut words = qemu_args(&marked.share, export, local);
    if let Some(fsdev) = words.get_mut(1) {
        fsdev.extend_from_slice(&marked.more);
    }
    let mut out = Vec::new();
    for pair in words.chunks(2) {
        let words: Vec<_> = pair.iter().map(|word| marked.shell_word(word)).collect();
        out.extend(words.join(&b' '));
        out.push(b'\n');
    }
    out
}

/// QEMU's arguments as libvirt passes them on.
fn xml_args(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n".to_vec();
    for word in words {
        out.extend(b"  <qemu:arg value='");
        for byte in word {
            match byte {
                b'&' => out.extend(b"&amp;"),
                b'<' => out.extend(b"&lt;"),
                b'\'' => out.extend(b"&apos;"),
                0..=0x1f | 0x7f => out.extend(format!("&#{byte};").bytes()),
                _ => out.push(*byte),
            }
        }
        out.extend(b"'/>\n");
    }
    out.extend(b"</qemu:commandline>\n");
    out
}

/// The share with the text that stands for an unknown value in its place. Read-only unless the admin says otherwise.
fn as_text(share: &Share) -> Share {
    let text = |part| share.unknown(part).map(<[u8]>::to_vec);
    let mut plain = share.clone();
    if let Some(id) = text(Part::Id) {
        plain.fsdev = id;
    }
    plain.mount_tag = plain.mount_tag.or_else(|| text(Part::Tag)).or_else(|| tag_of_device(share));
    if plain.fsdev.is_empty() {
        plain.fsdev = plain.mount_tag.clone().unwrap_or_else(|| b"ID".to_vec());
    }
    plain.readonly |= share.unknown(Part::Readonly).is_some();
    plain
}

/// The text that stands for the tag of a share's `-device`.
fn tag_of_device(share: &Share) -> Option<Vec<u8>> {
    let device = share.device.as_ref()?;
    let is_other =
        |text: &Vec<u8>| device.driver == *text || device.properties.iter().any(|(_, value)| value == text);
    share.notes.iter().find_map(|note| match note {
        Note::UnknownOfDevice(text) if !is_other(text) => Some(text.clone()),
        _ => None,
    })
}

/// Says which parts of a printed share have to be replaced by hand.
fn tell_unknown(share: &Share) {
    for note in &share.notes {
        match note {
            Note::Unknown(Part::Socket | Part::Driver, _) => {}
            Note::Unknown(Part::Readonly, text) => complain!(
                "virtfs-proxy-helper: warning: whether the share {} is read-only depends on {}: it is printed as \
                 read-only; --writable prints it as writable",
                share.title(),
                escape(text)
            ),
            Note::Unknown(_, text) | Note::UnknownOfDevice(text) => complain!(
                "virtfs-proxy-helper: warning: {} in the share {} is not known here: write its value in its place",
                escape(text),
                share.title()
            ),
            _ => {}
        }
    }
}

/// A share with marks where a value is not known, which no argument can hold: NUL, a letter, NUL.
struct Marked {
    share: Share,
    /// What follows the fsdev's options.
    more: Vec<u8>,
    texts: Vec<Vec<u8>>,
}

impl Marked {
    fn of(share: &Share) -> Self {
        let mut marked = Self { share: share.clone(), more: Vec::new(), texts: Vec::new() };
        if let Some(id) = share.unknown(Part::Id) {
            marked.share.fsdev = marked.mark(id);
        }
        let tag = share.unknown(Part::Tag).map(<[u8]>::to_vec).or_else(|| tag_of_device(share));
        if let Some(tag) = tag.filter(|_| share.mount_tag.is_none()) {
            marked.share.mount_tag = Some(marked.mark(&tag));
        }
        for (key, part) in [("readonly", Part::Readonly), ("writeout", Part::Writeout)] {
            if let Some(text) = share.unknown(part) {
                let mark = marked.mark(text);
                marked.more.extend([b",", key.as_bytes(), b"=", &mark].concat());
            }
        }
        let more = share.notes.iter().filter_map(|note| match note {
            Note::Unknown(Part::More, text) => Some(text),
            _ => None,
        });
        for text in more {
            let mark = marked.mark(text);
            marked.more.extend([b",", mark.as_slice()].concat());
        }
        let of_device = share.notes.iter().filter_map(|note| match note {
            Note::UnknownOfDevice(text) => Some(text.clone()),
            _ => None,
        });
        let of_device: Vec<_> = of_device.collect();
        if let Some(mut device) = marked.share.device.take() {
            let values = device.properties.iter_mut().map(|(_, value)| value);
            for value in values.chain([&mut device.driver]).filter(|value| of_device.contains(value)) {
                *value = marked.mark(value);
            }
            marked.share.device = Some(device);
        }
        marked
    }

    fn mark(&mut self, text: &[u8]) -> Vec<u8> {
        let number = u8::try_from(self.texts.len()).unwrap_or(u8::MAX);
        self.texts.push(text.to_vec());
        vec![0, number, 0]
    }

    /// The word for a shell: what is known is quoted, and a variable stays one.
    fn shell_word(&self, word: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = word;
        while let Some(at) = memchr::memchr(0, rest) {
            let (known, behind) = rest.split_at(at);
            out.extend(quoted(known));
            let text = behind.get(1).and_then(|number| self.texts.get(usize::from(*number)));
            out.extend(text.map(|text| expansion(text)).unwrap_or_default());
            rest = behind.get(3..).unwrap_or_default();
        }
        out.extend(quoted(rest));
        out
    }
}

fn quoted(text: &[u8]) -> Vec<u8> {
    if text.is_empty() { Vec::new() } else { shell_word(text) }
}

/// Text that the file's own shell or template fills in.
fn expansion(text: &[u8]) -> Vec<u8> {
    let is_shell = memchr::memchr(b'$', text).is_some() && !text.iter().any(|byte| b"\"`\\{ ".contains(byte));
    if is_shell || text.starts_with(b"${") && text.ends_with(b"}") && !text.contains(&b'"') {
        return [b"\"", text, b"\""].concat();
    }
    shell_word(text)
}
