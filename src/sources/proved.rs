//! The rewrite of a document, proved by reading the result. `migrate config` writes it; `migrate audit` asks whether there is
//! one. Both call [`rewrite`], so that they give the same answer.

#![forbid(unsafe_code)]

use super::chars::Lines;
use super::format::{Beside, Document, Format, Reading, Unreadable};
use super::templates::refuse_cut;
use crate::share::backend::Backend;
use crate::share::bounds::bounded;
use crate::share::rewrite::{Edit, Edits, Moved, Refusal, Rewrite, apply};
use crate::share::{Device, Share, Transport};

/// What to do where a rewrite is not what it should be.
const BY_HAND: &str = "change it by hand";

/// A rewritten document.
#[derive(Debug)]
pub(super) struct Rewritten {
    /// The changes.
    pub edits: Edits,
    /// All of its text.
    pub text: Vec<u8>,
    /// Whether libvirt's own elements say a share.
    pub native: bool,
}

/// Rewrites the shares of a document, which a reader has found there. A rewrite that leaves one of them on the proxy, or
/// says another thing than it should, is refused. `more`: further changes, by the edits.
pub(super) fn rewrite(
    format: &dyn Format,
    document: &Document,
    shares: &[Share],
    how: &Rewrite,
    beside: Option<&dyn Beside>,
    more: &dyn Fn(&mut Edits) -> Vec<Edit>,
) -> Result<Rewritten, Refusal> {
    if let Some(refusal) = Refusal::too_many(shares.len()) {
        return Err(refusal);
    }
    let mut edits = bounded(|| format.rewrite_beside(document, how, beside)).0?;
    refuse_cut(document, &edits.edits)?;
    refuse_doubt(document, &edits.moved, how)?;
    let additions = more(&mut edits);
    let mut changes = edits.edits.clone();
    changes.extend(additions);
    let text = apply(document.bytes, &changes);
    // libvirt's own words for a share are in no argument, in a domain inside another file neither.
    let native = memchr::memmem::find(&text, b"<filesystem").is_some();
    let read = |bytes: &[u8]| bounded(|| format.read_beside(&Document { bytes, ..*document }, beside)).0;
    let stay: Vec<_> = shares.iter().filter(|share| !how.wants(share)).collect();
    refuse_left(read(&text), &stay)?;
    Backend::Local.seek(|| compare(read(document.bytes), read(&text), &edits.moved, native))?;
    Ok(Rewritten { edits, text, native })
}

/// Stops at a share with a socket that is not known, where the file says `readonly` in another place and the admin says
/// nothing: the socket's variable may hold it.
fn refuse_doubt(document: &Document, moved: &[Moved], how: &Rewrite) -> Result<(), Refusal> {
    let Some(Moved { share, .. }) = moved.iter().find(|moved| how.doubt(&moved.share).is_some()) else {
        return Ok(());
    };
    let Some(at) = readonly_in(document.bytes) else { return Ok(()) };
    let Some((readonly, writable)) = share.option("--readonly", "").zip(share.option("--writable", ""))
    else {
        return Ok(());
    };
    let line = Lines::new(document.bytes).line(at);
    Err(Refusal::at(
        share.place.line,
        format!(
            "the socket of the share {} is not known here, and line {line} says readonly: the share may be read-only",
            share.title()
        ),
        format!("pass {readonly} or {writable}"),
    ))
}

/// Where a text says `readonly` as an option: not as an element of XML, and not as the shell's command.
fn readonly_in(text: &[u8]) -> Option<usize> {
    memchr::memmem::find_iter(text, b"readonly").find(|at| {
        let before = text.get(..*at).unwrap_or_default();
        let behind = text.get(at + b"readonly".len()..).unwrap_or_default();
        let is_element = before.ends_with(b"<") || before.ends_with(b"</");
        let last = before.iter().rfind(|byte| !matches!(byte, b' ' | b'\t'));
        let starts_line = last.is_none_or(|byte| b"\n;{&(".contains(byte));
        let word = behind.iter().find(|byte| **byte != b' ');
        let is_command = starts_line
            && behind.starts_with(b" ")
            && word.is_some_and(|byte| byte.is_ascii_alphabetic() || b"_-".contains(byte));
        !is_element && !is_command
    })
}

fn unreadable(error: &Unreadable) -> Refusal {
    Refusal::at(None, format!("after the rewrite it could not be read any more: {error}"), BY_HAND)
}

/// What a share says, wherever in the file it says it: its id, its tag, its device, `readonly`, `writeout`, and what it is
/// over.
type Said = (Vec<u8>, Option<Vec<u8>>, Option<Device>, bool, bool, Transport);

fn said(share: &Share, transport: Transport) -> Said {
    let (tag, device) = (share.mount_tag.clone(), share.device.clone());
    (share.fsdev.clone(), tag, device, share.readonly, share.writeout, transport)
}

fn own(share: &Share) -> Said {
    said(share, share.transport.clone())
}

/// Stops at a share that would still go over the proxy, except for those that are to.
fn refuse_left(after: Result<Reading, Unreadable>, stay: &[&Share]) -> Result<(), Refusal> {
    let after = after.map_err(|error| unreadable(&error))?;
    match after.shares.iter().find(|share| !stay.iter().any(|one| own(one) == own(share))) {
        Some(share) => Err(Refusal::at(
            None,
            format!("after the rewrite the share {} would still go over the proxy", share.title()),
            BY_HAND,
        )),
        None => Ok(()),
    }
}

/// The rewritten file must hold, besides the `local` shares that were there, the moved ones as they are to be, and no
/// others. A share that libvirt says in its own words from now on is in no argument any more.
fn compare(
    before: Result<Reading, Unreadable>,
    after: Result<Reading, Unreadable>,
    moved: &[Moved],
    native: bool,
) -> Result<(), Refusal> {
    let after = after.map_err(|error| unreadable(&error))?;
    let wrong = |name: &str, how: &str| {
        Refusal::at(None, format!("after the rewrite the share {name} would {how}"), BY_HAND)
    };
    let before = before.unwrap_or_default().shares;
    let mut expected: Vec<_> = before.iter().map(|share| (own(share), share)).collect();
    expected.extend(
        moved.iter().map(|one| (said(&one.share, Transport::Socket(one.path().to_owned())), &one.share)),
    );
    for share in &after.shares {
        let Some(at) = expected.iter().position(|(one, _)| *one == own(share)) else {
            return Err(wrong(&share.title(), "not be what it should"));
        };
        expected.swap_remove(at);
    }
    // Two lists that share an argument move one share twice.
    let is_gone = |(one, _): &&(_, _)| !after.shares.iter().any(|share| own(share) == *one);
    match expected.iter().find(is_gone) {
        Some((_, share)) if !native => Err(wrong(&share.title(), "be gone")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::shell::Shell;

    fn compared(new: &str) -> Result<(), Refusal> {
        let old = "qemu -virtfs local,path=/b,mount_tag=b,security_model=none \\\n -virtfs \
                   proxy,id=f,mount_tag=t,socket=/a,readonly=on\n";
        let document = |text: &'static str| Document { path: None, bytes: text.as_bytes() };
        let read = |text: &[u8]| Shell.read(&Document { path: None, bytes: text });
        let share = Shell.read(&document(old)).unwrap().shares.remove(0);
        let moved = [Moved { share, export: "/srv".into(), inside: None }];
        Backend::Local.seek(|| compare(read(old.as_bytes()), read(new.as_bytes()), &moved, false))
    }

    #[test]
    fn a_rewrite_that_says_anything_else_is_refused() {
        let good = "qemu -virtfs local,path=/b,mount_tag=b,security_model=none \\\n -virtfs \
                    local,id=f,mount_tag=t,path=/srv,security_model=mapped-xattr,readonly=on\n";
        assert_eq!(compared(good), Ok(()));
        for (from, to) in [
            ("path=/srv", "path=/srv2"),
            ("readonly=on", "readonly=off"),
            ("mount_tag=t", "mount_tag=u"),
            ("id=f", "id=g"),
            ("path=/b", "path=/c"),
            ("-virtfs local,id=f", "# -virtfs local,id=f"),
            ("path=/srv", "path='/srv"),
        ] {
            compared(&good.replace(from, to)).expect_err(to);
        }
    }

    /// A file of each format, with a socket that is not known at `@`.
    const UNKNOWN: &[(&str, &str)] = &[
        ("/a.sh", "qemu -virtfs proxy,id=n,mount_tag=t,socket=@\n"),
        ("/a.sh", "qemu -virtfs \"proxy,id=n,mount_tag=t,socket=@\"\n"),
        ("/a.sh", "ssh host 'qemu -virtfs proxy,id=n,mount_tag=t,socket=@'\n"),
        ("/a.service", "[Service]\nExecStart=/q -virtfs proxy,id=n,mount_tag=t,socket=@\n"),
        ("/a.yml", "a: [\"-virtfs\", \"proxy,id=n,mount_tag=t,socket=@\"]\n"),
        ("/a.yml", "a: \"qemu -virtfs proxy,id=n,mount_tag=t,socket=@\"\n"),
        ("/a.json", "{\"a\": [\"-virtfs\", \"proxy,id=n,mount_tag=t,socket=@\"]}\n"),
        ("/qemu-server/1.conf", "name: x\nargs: -virtfs proxy,id=n,mount_tag=t,socket=@\n"),
        ("/a.tf", "a = [\"-virtfs\", \"proxy,id=n,mount_tag=t,socket=@\"]\n"),
        ("/Makefile", "run:\n\tqemu -virtfs proxy,id=n,mount_tag=t,socket=@\n"),
        ("/a.py", "x = ['-virtfs', 'proxy,id=n,mount_tag=t,socket=@']\n"),
        (
            "/a.cfg",
            "[fsdev \"n\"]\n  fsdriver = \"proxy\"\n  socket = \"@\"\n[device \"d\"]\n  driver = \"virtio-9p-pci\"\n  fsdev = \
             \"n\"\n  mount_tag = \"t\"\n",
        ),
        (
            "/a.xml",
            "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name><devices><disk><readonly/></disk>\
             </devices><qemu:commandline><qemu:arg value='-virtfs'/><qemu:arg value='proxy,id=n,mount_tag=t,socket=@'/>\
             </qemu:commandline></domain>\n",
        ),
    ];

    /// A file says `readonly` elsewhere: as a comment of its format, or as another value.
    fn with_readonly(name: &str, text: &str) -> String {
        match name.rsplit('.').next() {
            Some("xml") => format!("<!-- SOCK=/a,readonly=on -->{text}"),
            Some("json") => text.replacen('{', "{\"s\": \",readonly=on\", ", 1),
            Some("tf" | "py" | "cfg") => format!("{text}# SOCK=/a,readonly=on\n"),
            _ => format!("# SOCK=/a,readonly=on\n{text}"),
        }
    }

    fn answered(name: &str, text: &str, readonly: Option<bool>) -> Result<String, String> {
        let document = Document { path: Some(std::path::Path::new(name)), bytes: text.as_bytes() };
        let format = crate::sources::registry::recognise_named(&document).ok_or("of no format")?;
        let shares = format.read(&document).map_err(|error| error.to_string())?.shares;
        let how = Rewrite {
            exports: vec![(b"n".to_vec(), "/srv/n".into())],
            readonly: readonly.map(|on| (b"n".to_vec(), on)).into_iter().collect(),
            ..Rewrite::default()
        };
        let done = rewrite(format, &document, &shares, &how, None, &|_| Vec::new());
        let done = done.map_err(|refusal| format!("{}: {}", refusal.message, refusal.remedy))?;
        let doubts =
            done.edits.findings.iter().filter(|one| one.kind == &crate::report::finding::UNKNOWN_SOCKET);
        assert_eq!(doubts.count(), usize::from(readonly.is_none()), "{text}");
        Ok(String::from_utf8(done.text).unwrap())
    }

    #[test]
    fn a_socket_that_is_not_known_has_one_rule_in_all_formats() {
        for (name, text) in UNKNOWN {
            for socket in ["{{ sock }}", "${SOCK}"] {
                let text = text.replace('@', socket);
                let doubtful = with_readonly(name, &text);
                let shown = format!("{name} {text}");
                // Nothing else says readonly: the socket goes, and a finding says what it may have held.
                let plain = answered(name, &text, None).unwrap_or_else(|why| panic!("{shown}: {why}"));
                assert!(!plain.contains(socket), "{plain}");
                let refused = answered(name, &doubtful, None).expect_err(&shown);
                assert!(refused.contains("--readonly t or --writable t"), "{shown}: {refused}");
                for readonly in [true, false] {
                    let done = answered(name, &doubtful, Some(readonly))
                        .unwrap_or_else(|why| panic!("{shown}: {why}"));
                    let count = |text: &str| text.matches("readonly").count();
                    assert_eq!(count(&done), count(&doubtful) + usize::from(readonly), "{done}");
                }
            }
        }
    }

    #[test]
    fn readonly_is_told_from_elements_and_commands() {
        for (text, at) in [
            ("a\nreadonly SOCK=/a\n", None),
            ("readonly -a SOCK", None),
            ("<readonly/></readonly>", None),
            ("  readonly = \"on\"", Some(2)),
            ("S=,readonly=on", Some(3)),
            ("if a; then X=readonly; fi", Some(13)),
        ] {
            assert_eq!(readonly_in(text.as_bytes()), at, "{text}");
        }
    }
}
