//! A working day of a guest's in a share, and what the host must see afterwards.

#![allow(dead_code, clippy::unwrap_used, reason = "each test crate uses its own part of this module")]

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::guest::{Answer, Guest};

const DESCRIBE: &str = include_str!("../guest/describe.sh");

/// The day's work, for [`worker`].
pub const WORK: &str = include_str!("../guest/work.sh");

/// A guest that will work in a folder of the share's.
pub fn worker(share: &str, script: &str, folder: &str) -> Guest {
    Guest::new()
        .share("work", share)
        .variable("FOLDER", format!("/mnt/work/{folder}"))
        .script(format!("{DESCRIBE}\n{script}"))
}

/// What the host sees of a folder, in the guest's words.
pub fn described(folder: &Path) -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("{DESCRIBE}\ndescribe \"$0\"")])
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .expect("a description of the tree");
    assert!(output.status.success(), "describing {}: {output:?}", folder.display());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The results of a day's work, as the host sees them.
#[track_caller]
pub fn check_work(folder: &Path, answer: &Answer) {
    let guest = answer.success();
    let host = described(folder);
    for (guest, host) in guest.lines().zip(host.lines()) {
        assert_eq!(guest, host, "guest and host see different things in {}", folder.display());
    }
    assert_eq!(guest.lines().count(), host.lines().count(), "guest and host see different numbers of things");
    check_owners_and_modes(folder);
    check_links(folder);
    check_files(folder);
}

/// Owner, group and mode that the host must see, with the bits of the type.
const ATTRIBUTES: &[(&str, u32, u32, u32)] = &[
    ("owned", 1234, 567, 0o040_755),
    ("owned/file", 1234, 99, 0o100_644),
    ("owned/link", 4321, 765, 0o120_777),
    ("modes/f0000", 0, 0, 0o100_000),
    ("modes/f7777", 0, 0, 0o107_777),
    ("modes/d1755", 0, 0, 0o041_755),
    ("modes/f4755", 0, 0, 0o104_755),
    ("modes/private", 0, 0, 0o100_600),
    ("modes/team/file", 0, 2000, 0o100_644),
    ("modes/team/folder", 0, 2000, 0o042_755),
    ("special/null", 0, 0, 0o020_644),
    ("special/disk", 7, 8, 0o060_644),
    ("special/fifo", 0, 0, 0o010_640),
    ("users/mine", 1000, 1000, 0o040_755),
    ("users/mine/file", 1000, 1000, 0o100_644),
    ("users/mine/link", 1000, 1000, 0o120_777),
    ("users/mine/fifo", 1000, 1000, 0o010_644),
];

fn check_owners_and_modes(folder: &Path) {
    for &(name, uid, gid, mode) in ATTRIBUTES {
        let found = folder.join(name).symlink_metadata().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((found.uid(), found.gid()), (uid, gid), "{name}'s owner");
        assert_eq!(found.mode(), mode, "{name}'s mode: {:o}", found.mode());
    }
    let device = |name| nix::sys::stat::lstat(&folder.join(name)).unwrap().st_rdev;
    assert_eq!(device("special/null"), nix::sys::stat::makedev(1, 3));
    assert_eq!(device("special/disk"), nix::sys::stat::makedev(259, 65537));
}

fn check_links(folder: &Path) {
    for (name, target) in [
        ("links/relative", "../owned/file"),
        ("links/absolute", "/etc/passwd"),
        ("links/dangling", "nowhere"),
        ("links/loop", "loop"),
        ("links/long", "x".repeat(4000).as_str()),
    ] {
        assert_eq!(fs::read_link(folder.join(name)).unwrap(), Path::new(target), "{name}");
    }
    let (a, c) = (folder.join("hard/a").metadata().unwrap(), folder.join("hard/c").metadata().unwrap());
    assert_eq!((a.ino(), a.nlink()), (c.ino(), 2), "hard links");
    assert!(!folder.join("unlinked").exists());
    assert!(!folder.join("rename/from").exists());
    assert_eq!(fs::read(folder.join("rename/moved/file")).unwrap(), b"new\n");
    assert_eq!(fs::read(folder.join("rename/empty/deep/file")).unwrap(), b"inside\n");
}

fn check_files(folder: &Path) {
    assert_eq!(folder.join("times/file").metadata().unwrap().mtime(), 1);
    assert_eq!(folder.join("times/late").metadata().unwrap().mtime(), 2_214_090_123);
    assert_eq!(folder.join("times/link").symlink_metadata().unwrap().mtime(), 981_173_106);
    let names: Vec<_> =
        fs::read_dir(folder.join("names")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name.as_bytes() == b"not \xff UTF-8"), "{names:?}");
    assert!(names.iter().any(|name| name.as_bytes() == b"new\nline"), "{names:?}");
    let hole = folder.join("sizes/hole").metadata().unwrap();
    assert_eq!(hole.len(), 100_000_001);
    assert!(hole.blocks() * 512 < 1_000_000, "the hole takes {} blocks", hole.blocks());
    let large = File::open(folder.join("large")).unwrap();
    assert_eq!(large.metadata().unwrap().len(), 1 << 30);
    for number in 0..1024u64 {
        let mut found = [0; 8];
        large.read_exact_at(&mut found, number << 20).unwrap();
        let expected = if number % 64 == 0 { format!("MiB {number:04}").into_bytes() } else { vec![0; 8] };
        assert_eq!(found, *expected, "MiB {number} of the large file");
    }
}
