//! Everything that a tree is, entry by entry: what a rollback must bring back. It shares no code with the program.
//!
//! Looking leaves no trace but the time of change, which is left out like the inodes' numbers: what is read is given its
//! times back.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, Stat, Timespec, Timestamps};

/// The tree below `root`, one line an entry, sorted; the root itself as `.`.
pub fn snapshot(root: &Path) -> String {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
    let root = rustix::fs::open(root, flags, Mode::empty()).expect("the tree's root");
    let mut walk = Walk::default();
    walk.line(b".", &root);
    walk.below(b".", &root);
    walk.lines.values().map(String::as_str).collect()
}

/// The lines by which two snapshots differ.
pub fn difference(left: &str, right: &str) -> String {
    let mut text = String::new();
    for (sign, lines, others) in [("-", left, right), ("+", right, left)] {
        let others: std::collections::HashSet<_> = others.lines().collect();
        for line in lines.lines().filter(|line| !others.contains(line)).take(20) {
            writeln!(text, "{sign} {}", &line[..line.len().min(600)]).expect("text");
        }
    }
    text
}

/// Panics where two snapshots differ.
#[track_caller]
pub fn assert_same(before: &str, after: &str, what: &str) {
    let difference = difference(before, after);
    assert!(difference.is_empty(), "{what}: the tree differs\n{difference}");
}

#[derive(Default)]
struct Walk {
    lines: BTreeMap<Vec<u8>, String>,
    /// The first name of each inode.
    first: BTreeMap<(u64, u64), Vec<u8>>,
}

impl Walk {
    fn below(&mut self, path: &[u8], directory: &OwnedFd) {
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).expect("a directory's entries") {
            let name = entry.expect("an entry").file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let path = [path, b"/", name.to_bytes()].concat();
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let pin = rustix::fs::openat(directory, &name, flags, Mode::empty()).expect("an entry");
            self.line(&path, &pin);
            if is(&stat(&pin), FileType::Directory) {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME | OFlags::CLOEXEC;
                let below = rustix::fs::openat(directory, &name, flags, Mode::empty()).expect("a directory");
                self.below(&path, &below);
            }
        }
    }

    fn line(&mut self, path: &[u8], pin: &OwnedFd) {
        let told = stat(pin);
        let mut line =
            format!("{} mode={:o} owner={}:{}", path.escape_ascii(), told.st_mode, told.st_uid, told.st_gid);
        let mut add = |text: std::fmt::Arguments<'_>| line.write_fmt(text).expect("text");
        add(format_args!(" rdev={:x} links={}", told.st_rdev, told.st_nlink));
        add(format_args!(" mtime={}.{:09}", told.st_mtime, told.st_mtime_nsec));
        add(format_args!(" atime={}.{:09}", told.st_atime, told.st_atime_nsec));
        let first = self.first.entry((told.st_dev, told.st_ino)).or_insert_with(|| path.to_vec());
        if first != path {
            add(format_args!(" same-as={}", first.escape_ascii()));
        }
        let magic = format!("/proc/self/fd/{}", pin.as_raw_fd());
        if is(&told, FileType::Symlink) {
            let target = rustix::fs::readlinkat(pin, c"", Vec::new()).expect("a target");
            add(format_args!(" target={}", target.to_bytes().escape_ascii()));
            let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
            let times = Timestamps {
                last_access: Timespec { tv_sec: told.st_atime, tv_nsec: told.st_atime_nsec.cast_signed() },
                last_modification: now,
            };
            match rustix::fs::utimensat(pin, c"", &times, AtFlags::EMPTY_PATH) {
                // Where nothing can be written, reading left no trace.
                Ok(()) | Err(rustix::io::Errno::ROFS) => {}
                Err(error) => panic!("the link's times: {error}"),
            }
        }
        if is(&told, FileType::RegularFile) || is(&told, FileType::Directory) {
            let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::CLOEXEC;
            let open = rustix::fs::open(&*magic, flags, Mode::empty()).expect("a file");
            let inode_flags = rustix::fs::ioctl_getflags(&open).unwrap_or(IFlags::empty());
            add(format_args!(" flags={:x}", (inode_flags & (IFlags::IMMUTABLE | IFlags::APPEND)).bits()));
            if is(&told, FileType::RegularFile) {
                add(format_args!(" size={} content={:016x}", told.st_size, content(open)));
            }
        }
        for (name, value) in xattrs(&magic) {
            add(format_args!(" {}={}", name.escape_ascii(), value.escape_ascii()));
        }
        line.push('\n');
        self.lines.insert(path.to_vec(), line);
    }
}

fn stat(pin: impl AsFd) -> Stat {
    rustix::fs::statat(pin, c"", AtFlags::EMPTY_PATH).expect("an entry's state")
}

fn is(told: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(told.st_mode) == kind
}

/// A checksum of the first 16 MiB.
fn content(file: OwnedFd) -> u64 {
    let mut bytes = Vec::new();
    File::from(file).take(16 << 20).read_to_end(&mut bytes).expect("a file's content");
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn xattrs(magic: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let count = rustix::fs::listxattr(magic, &mut buffer[..]).unwrap_or(0);
    let names = buffer[..count].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let key = CString::new(name).expect("a name");
            let count =
                rustix::fs::getxattr(magic, &key, &mut value[..]).expect("an attribute that was listed");
            (name.to_vec(), value[..count].to_vec())
        })
        .collect()
}
