//! What holds of every format that carries argument lists, whatever the exported path is called.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

mod cases;
mod mutations;
mod streams;
mod templates;
mod variations;

use super::format::Reading;
use super::registry::recognise;
use super::{Document, Format};
use crate::share::Transport;
use crate::share::rewrite::{Edits, Rewrite, apply};

/// A share in every kind of place: the file's name, and its text.
const PLACES: &[(&str, &str)] = &[
    ("/a.sh", "qemu -virtfs proxy,id=f,mount_tag=t,socket=/a -m 1G # proxy\n"),
    ("/a.sh", "qemu -virtfs 'proxy,id=f,mount_tag=t,socket=/a,readonly=on' -m 1G\n"),
    ("/a.sh", "qemu -virtfs \"proxy,id=f,mount_tag=t,socket=/a\"\n"),
    ("/a.sh", "qemu -virtfs proxy,id=f,mount_tag=t,socket=\"/a b\",readonly=on\n"),
    ("/a.sh", "qemu -virtfs $'proxy,id=f,mount_tag=t,socket=/a'\n"),
    ("/a.sh", "S=/a\nqemu -virtfs \"proxy,id=f,mount_tag=t,socket=$S\"\n"),
    ("/a.sh", "S='/a'\nqemu -virtfs proxy,id=f,mount_tag=t,socket=$S\n"),
    ("/a.sh", "a=(-m 1G -virtfs \"proxy,id=f,mount_tag=t,socket=/a\")\nqemu \"${a[@]}\"\n"),
    ("/a.sh", "O='-virtfs proxy,id=f,mount_tag=t,socket=/a'\nqemu $O\n"),
    ("/a.sh", "F='proxy,id=f,mount_tag=t,socket=/a'\nqemu -virtfs \"$F\"\n"),
    ("/a.sh", "su -c 'qemu -virtfs proxy,id=f,mount_tag=t,socket=/a' vm\n"),
    ("/a.sh", "sh -c \"qemu -virtfs 'proxy,id=f,mount_tag=t,socket=/a'\"\n"),
    ("/a.sh", "cat > /b.sh <<EOF\nqemu -virtfs 'proxy,id=f,mount_tag=t,socket=/a'\nEOF\n"),
    ("/a.sh", "cat > /b.sh <<-'EOF'\n\tqemu -virtfs proxy,id=f,mount_tag=t,socket=/a\n\tEOF\n"),
    ("/a.service", "[Service]\nExecStart=/usr/bin/qemu -virtfs proxy,id=f,mount_tag=t,socket=/a -m 1G\n"),
    (
        "/a.service",
        "[Service]\nExecStart=/usr/bin/qemu -virtfs \"proxy,id=f,mount_tag=t,socket=/a\" \\\n  -m 1G\n",
    ),
    ("/a.service", "[Service]\nExecStart=/bin/sh -c 'qemu -virtfs \"proxy,id=f,mount_tag=t,socket=/a\"'\n"),
    ("/qemu-server/1.conf", "name: x\nargs: -virtfs 'proxy,id=f,mount_tag=t,socket=/a' -m 1\n"),
    ("/qemu-server/1.conf", "args: -virtfs proxy,id=f,mount_tag=t,socket=/a\r\nname: x\r\n"),
    ("/a.yaml", "a: [-virtfs, \"proxy,id=f,mount_tag=t,socket=/a\"]\n"),
    ("/a.yaml", "a:\n- -virtfs\n- proxy,id=f,mount_tag=t,socket=/a\n"),
    ("/a.yaml", "a:\n- '-virtfs'\n- 'proxy,id=f,mount_tag=t,socket=/a' # x\n"),
    ("/a.yaml", "a: qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\n"),
    ("/a.yaml", "a: |\n  qemu \\\n    -virtfs 'proxy,id=f,mount_tag=t,socket=/a'\n"),
    ("/a.yaml", "a: >-\n  qemu\n  -virtfs\n  \"proxy,id=f,mount_tag=t,socket=/a\"\n"),
    ("/a.json", "{\"a\": [\"-virtfs\", \"proxy,id=f,mount_tag=t,socket=/a\"]}\n"),
    ("/a.py", "x = ['-virtfs', 'proxy,id=f,mount_tag=t,socket=/a']\n"),
    ("/Makefile", "run:\n\tqemu -virtfs proxy,id=f,mount_tag=t,socket=/a -m 1G\n"),
    ("/a.mk", "run:\n\t@qemu -virtfs \"proxy,id=f,mount_tag=t,socket=/a\" \\\n\t  -m $(MEM)\n"),
    ("/a.mk", "O = -virtfs 'proxy,id=f,mount_tag=t,socket=/a'\nrun:\n\tqemu $(O) -m $$MEM\n"),
];

fn read(format: &dyn Format, path: &str, bytes: &[u8]) -> Reading {
    format.read(&Document { path: Some(Path::new(path)), bytes }).unwrap()
}

/// The text with its share moved to `export`; `None` where that is refused.
fn moved(path: &str, text: &str, export: &Path) -> Option<(&'static dyn Format, Vec<u8>)> {
    let document = Document { path: Some(Path::new(path)), bytes: text.as_bytes() };
    let format = recognise(&document).unwrap();
    assert_eq!(read(format, path, text.as_bytes()).shares.len(), 1, "{text}");
    let how = Rewrite { exports: vec![(b"f".to_vec(), export.to_owned())], ..Rewrite::default() };
    let edits = format.rewrite(&document, &how).map_err(|refusal| refusal.message);
    let Ok(Edits { edits, .. }) = &edits else {
        eprintln!("{text}: {edits:?}");
        return None;
    };
    Some((format, apply(text.as_bytes(), edits)))
}

/// The path as the format reads it from where the rewriter has put it.
fn read_back(format: &dyn Format, path: &str, new: &[u8]) -> Option<PathBuf> {
    let mut text = new.to_vec();
    for (from, to) in
        [("local,", "proxy,"), ("path=", "socket="), (",security_model=mapped-xattr", ",writeout=immediate")]
    {
        let at = memchr::memmem::find(&text, from.as_bytes())?;
        text.splice(at..at + from.len(), to.bytes());
    }
    match &read(format, path, &text).shares.first()?.transport {
        Transport::Socket(socket) => Some(socket.clone()),
        _ => None,
    }
}

#[test]
fn a_plain_path_goes_everywhere() {
    for (path, text) in PLACES {
        let (format, new) = moved(path, text, Path::new("/srv/a-b_c.d")).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(read_back(format, path, &new).as_deref(), Some(Path::new("/srv/a-b_c.d")), "{text}");
    }
}

/// Moves a file's share to an export of this name, and reads it again.
fn written_is_read_back((path, text): (&str, &str), name: &[u8]) {
    let export = Path::new("/srv").join(OsStr::from_bytes(name));
    if let Some((format, new)) = moved(path, text, &export) {
        assert_eq!(read_back(format, path, &new), Some(export), "{}", String::from_utf8_lossy(&new));
        // Nothing is left to do, and a second rewrite does nothing.
        assert!(read(format, path, &new).shares.is_empty());
    }
}

/// Names that were once written wrongly somewhere.
#[test]
fn awkward_names_are_read_back_everywhere() {
    for place in PLACES {
        for name in [&b"\xe9"[..], b"$A", b" "] {
            written_is_read_back(*place, name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(
        place in 0..PLACES.len(),
        name in proptest::collection::vec(
            prop_oneof![0x20_u8..0x7f, proptest::sample::select(b"'\"\\$`%,;# {}*\xe9\t".to_vec())], 1..12),
    ) {
        written_is_read_back(PLACES[place], &name);
    }

    #[test]
    fn no_text_is_the_end(
        place in 0..PLACES.len(),
        at in 0_usize..120,
        bytes in proptest::collection::vec(any::<u8>(), 0..6),
        cut in any::<bool>(),
    ) {
        let (path, text) = PLACES[place];
        let mut text = text.as_bytes().to_vec();
        let at = at.min(text.len());
        text.splice(at..at, bytes);
        if cut {
            text.truncate(at + 2);
        }
        let document = Document { path: Some(Path::new(path)), bytes: &text };
        if let Some(format) = recognise(&document) {
            let _ = format.read(&document);
            let how = Rewrite { exports: vec![(b"f".to_vec(), "/srv".into())], ..Rewrite::default() };
            if let Ok(edits) = format.rewrite(&document, &how) {
                apply(&text, &edits.edits);
            }
        }
    }
}
