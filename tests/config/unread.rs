//! What `migrate audit` calls unread, `migrate config` does not call a file without a share, and the other way round.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{config, text};

/// What a file is to both verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    /// Without a share: 0 and 0.
    Clean,
    /// With one that is rewritten once its directory is named: 3 and 0.
    Share,
    /// With one that is told and not rewritten: 3 and 1.
    Told,
    /// Unread: 4 and 1.
    Unread,
}

use Is::{Clean, Share, Told, Unread};

const SCRIPT: &str = "#!/bin/sh\nqemu -virtfs proxy,socket=/run/a,mount_tag=t\n";

const TEXTS: &[(&str, &str, Is)] = &[
    ("a.sh", SCRIPT, Share),
    ("a.txt", "Use -fsdev proxy,id=t,socket=/a\n", Share),
    ("b.txt", "the fsdev proxy\n", Unread),
    ("c.txt", "the proxy\n", Clean),
    ("a.md", "Use `-fsdev proxy,id=t,socket=/a`\n", Unread),
    ("a.foo", "<<<>>> x := \"proxy,id=t,socket=/a\" !!\n", Unread),
    ("open-quote.sh", "#!/bin/sh\nX='a\nqemu -virtfs proxy,socket=/run/a,mount_tag=t\n", Unread),
    ("open-document.sh", "#!/bin/sh\ncat <<EOF\nqemu -fsdev proxy,id=t,socket=/a\n", Unread),
    ("a.yaml", "a: [b\nc: \"qemu -fsdev proxy,id=t,socket=/a\n  d: e: f\n", Unread),
    ("b.yaml", "a: [b\nc: \"fsdev proxy\"\n  d: e: f\n", Unread),
    ("c.yaml", "a: [b\nc: \"qemu\n  d: e: f\n", Clean),
    ("a.json", "{\"a\": [\"qemu\", \"-fsdev\", \"proxy,id=t,socket=/a\",}\n", Unread),
    ("b.json", "{\"a\": [\"qemu\",}\n", Clean),
    ("vault.yml", "$ANSIBLE_VAULT;1.1;AES256\n3839\n", Unread),
    // XML.
    ("a.xml", "<domain><devices>\n<qemu:arg value=\"proxy,id=t,socket=/a\"/>\n", Unread),
    ("b.xml", "<domain><devices>\n", Clean),
    ("doctype.xml", "<!DOCTYPE domain>\n<domain>-fsdev proxy,id=t,socket=/a</domain>\n", Unread),
    ("doctype-escape.xml", "<!DOCTYPE domain>\n<domain>-fsdev &#112;roxy,id=t</domain>\n", Unread),
    ("doctype-entity.xml", "<!DOCTYPE domain [<!ENTITY e \"pr\">]>\n<domain>&e;</domain>\n", Unread),
    ("doctype-book.xml", "<!DOCTYPE book [<!ENTITY e \"pr\">]>\n<book>&e;</book>\n", Clean),
    ("doctype-clean.xml", "<!DOCTYPE domain>\n<domain type='kvm'><name>x</name></domain>\n", Clean),
    // The word by escapes alone.
    ("escape.json", "{\"a\": [\"qemu\", \"-virtfs\", \"\\u0070roxy,socket=/a,mount_tag=t\"]}\n", Share),
    ("escape.sh", "#!/bin/sh\nqemu -virtfs $'\\x70roxy,socket=/a,mount_tag=t'\n", Share),
    ("escape.txt", "some text -fsdev \\x70roxy,id=t,socket=/a\n", Unread),
    ("escape", "fsdev %70roxy,id=t,socket=/a\n", Unread),
    ("other-escape.txt", "fsdev \\x71roxy,id=t,socket=/a\n", Clean),
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Files that are no text.
fn others() -> Vec<(&'static str, Vec<u8>, Is)> {
    let packed = gzip(SCRIPT.as_bytes());
    let wide: Vec<u8> = "\u{feff}-fsdev proxy,id=t".encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        ("a.sh.gz", packed.clone(), Told),
        ("b.sh.gz", gzip(b"#!/bin/sh\n:\n"), Clean),
        ("b.txt.gz", gzip(b"the fsdev proxy\n"), Unread),
        ("doctype.xml.gz", gzip(TEXTS[16].1.as_bytes()), Unread),
        ("cut.gz", packed[..packed.len() - 9].to_vec(), Unread),
        ("long.gz", gzip(&vec![b' '; (16 << 20) + 1]), Unread),
        ("twice.gz", gzip(&packed), Unread),
        ("a.xz", b"\xfd7zXZ\0\0\x04".to_vec(), Unread),
        ("a.zip", b"PK\x03\x04".to_vec(), Unread),
        ("disk", b"QFI\xfb\0\0\0\x03".to_vec(), Unread),
        ("picture", b"PNG\0\x01\x02 -fsdev proxy,id=t,socket=/a\0\x01".to_vec(), Unread),
        ("other-picture", b"PNG\0\x01\x02 proxy \0\x01".to_vec(), Clean),
        ("program", b"\x7fELF\x02\x01\0 -fsdev proxy,id=t,socket=/a\0".to_vec(), Unread),
        ("wide.txt", wide, Unread),
        ("latin.sh", [SCRIPT.as_bytes(), b"# \xe4\n"].concat(), Share),
        ("long.sh", [&vec![b'#'; 16 << 20], &b"\n"[..], SCRIPT.as_bytes()].concat(), Unread),
        ("long-clean.sh", vec![b'#'; (16 << 20) + 1], Clean),
    ]
}

/// The exit statuses of audit and of config for a file, or for its content on standard input.
fn statuses(file: &Path, piped: bool) -> ([Option<i32>; 2], String) {
    let mut audit = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
    audit.args(["migrate", "audit", "--qemu", "9.0.0"]);
    if piped {
        audit.arg("-").stdin(fs::File::open(file).unwrap());
    } else {
        audit.arg(file).stdin(Stdio::null());
    }
    let audited = audit.output().unwrap();
    let argument = if piped { "-" } else { file.to_str().unwrap() };
    let input = if piped { fs::read(file).unwrap() } else { Vec::new() };
    let rewritten = config(["--export", "t=/srv/t", argument], &input);
    let said = format!("{}{}", text(&audited.stdout), text(&rewritten.stderr));
    ([audited.status.code(), rewritten.status.code()], said)
}

#[test]
fn what_is_unread_to_audit_is_an_error_of_config() {
    let folder = tempfile::tempdir().unwrap();
    let texts = TEXTS.iter().map(|(name, text, is)| (*name, text.as_bytes().to_vec(), *is));
    let files: Vec<_> = texts.chain(others()).collect();
    for (name, bytes, _) in &files {
        fs::create_dir(folder.path().join(format!("of-{name}"))).unwrap();
        fs::write(folder.path().join(format!("of-{name}/{name}")), bytes).unwrap();
    }
    for (name, bytes, is) in &files {
        let file = folder.path().join(format!("of-{name}/{name}"));
        let expected = match is {
            Clean => [Some(0), Some(0)],
            Share => [Some(3), Some(0)],
            Told => [Some(3), Some(1)],
            Unread => [Some(4), Some(1)],
        };
        let (status, said) = statuses(&file, false);
        assert_eq!(status, expected, "{name}: {said}");
        // What comes through a pipe has no name, and no more than 16 MiB.
        let ([audited, rewritten], said) = statuses(&file, true);
        let fits = matches!((audited, rewritten), (Some(0 | 3), Some(0)) | (Some(4), Some(1)))
            || *is == Told && (audited, rewritten) == (Some(3), Some(1));
        assert!(fits, "{name}, {} bytes through a pipe: {audited:?} {rewritten:?} {said}", bytes.len());
    }
}
