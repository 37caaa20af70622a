//! A small tree that has one of everything that a conversion treats in its own way.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, IFlags, Mode, Timespec, Timestamps, XattrFlags};

/// An access ACL: `u::rw-,u:1000:rwx,g::r--,m::rwx,o::r--`.
pub const ACL: &[u8] =
    b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x07\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
\x10\0\x07\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

/// `cap_net_raw+ep`.
pub const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The findings that a conversion of the tree must be told to accept.
pub const ACCEPT: [&str; 4] = [
    "--accept=xattr-lost",
    "--accept=immutable-file",
    "--accept=append-only-file",
    "--accept=owner-kept-out",
];

/// Makes the tree in a new directory. Removing it again takes [`untie`] first.
pub fn tie(root: &Path) {
    let at = |name: &str| root.join(name);
    for folder in ["", "d", "d/e", "closed", "grows", "empty", "files", "files/only"] {
        fs::create_dir(at(folder)).expect("a directory");
    }
    for (name, content) in [
        ("set-id", "x"),
        ("d/caps", "program"),
        ("acl", "a"),
        ("closed/file", ""),
        ("fixed", "f"),
        ("z\n\u{fe}", "z"),
        // Nothing in these directories is replaced.
        ("files/a", "a"),
        ("files/only/b", "b"),
    ] {
        fs::write(at(name), content).expect("a file");
    }
    fs::hard_link(at("set-id"), at("d/e/set-id")).expect("a hard link");
    symlink("../outside", at("link")).expect("a symlink");
    symlink("l", at("closed/link")).expect("a symlink");
    symlink("g", at("grows/link")).expect("a symlink");
    rustix::fs::linkat(CWD, at("link"), CWD, at("d/link"), AtFlags::empty())
        .expect("a hard link of a symlink");
    node(&at("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    fs::hard_link(at("null"), at("d/null")).expect("a hard link of a device");
    node(&at("d/e/fifo"), FileType::Fifo, 0);
    drop(UnixListener::bind(at("socket")).expect("a socket"));
    File::create(at("sparse")).expect("a file").write_all_at(b"end", 1 << 20).expect("content");
    xattr(&at("acl"), c"system.posix_acl_access", ACL);
    xattr(&at("d"), c"system.posix_acl_default", ACL);
    xattr(&at("d/e/fifo"), c"system.posix_acl_access", ACL);
    xattr(&at("acl"), c"user.comment", b"\0\xff");
    xattr(&at("d"), c"user.on-folder", b"yes");
    for (name, uid, gid, mode) in [
        ("set-id", 1000, 100, 0o6755),
        ("null", 0, 6, 0o660),
        ("socket", 1000, 1000, 0o4777),
        ("d", 1001, 0, 0o2775),
        ("closed/file", 5, 5, 0),
        ("closed", 1000, 1000, 0),
        ("", 1000, 1001, 0o2751),
    ] {
        std::os::unix::fs::lchown(at(name), Some(uid), Some(gid)).expect("an owner");
        fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("a mode");
    }
    std::os::unix::fs::lchown(at("link"), Some(1000), Some(7)).expect("an owner");
    xattr(&at("d/caps"), c"security.capability", CAPABILITY);
    xattr(&at("link"), c"trusted.of-link", b"t");
    for (number, name) in [
        "link",
        "null",
        "d/e/fifo",
        "socket",
        "set-id",
        "grows",
        "closed",
        "d/e",
        "d",
        "",
        "files",
        "files/only",
    ]
    .iter()
    .enumerate()
    {
        let time = |tv_sec| Timespec { tv_sec, tv_nsec: 123_456_789 };
        let seconds = i64::try_from(number).expect("a number") * 1_000_000_000 - 2_000_000_000;
        let times = Timestamps { last_access: time(seconds + 1), last_modification: time(seconds) };
        rustix::fs::utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
    }
    flag(&at("fixed"), IFlags::IMMUTABLE);
    flag(&at("grows"), IFlags::APPEND);
}

/// Takes the flags away that keep the tree from being removed, and removes it.
pub fn untie(root: &Path) {
    for name in ["fixed", "grows"] {
        if root.join(name).exists() {
            flag(&root.join(name), IFlags::empty());
        }
    }
    fs::remove_dir_all(root).expect("the tree removed");
}

fn node(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device).expect("a special file");
}

fn xattr(path: &Path, name: &std::ffi::CStr, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("an extended attribute");
}

fn flag(path: &Path, flag: IFlags) {
    let file = File::open(path).expect("a file");
    let rest = rustix::fs::ioctl_getflags(&file).expect("flags") - (IFlags::IMMUTABLE | IFlags::APPEND);
    rustix::fs::ioctl_setflags(&file, rest | flag).expect("flags: these tests need ext4, XFS or Btrfs");
}
