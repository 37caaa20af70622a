//! Trees: made by the host, described completely, compared.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::fs::{self, Metadata, Permissions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat,
    utimensat,
};

/// A file or directory of the host's, given everything by which it can be told apart.
#[derive(Debug, Clone, Copy)]
pub struct Owned<'a> {
    /// The tree's root.
    pub root: &'a Path,
}

impl<'a> Owned<'a> {
    /// Makes things below `root`.
    pub fn below(root: &'a Path) -> Self {
        Self { root }
    }

    /// The path of `name`, which may start with slashes and hold any byte.
    pub fn path(&self, name: impl AsRef<[u8]>) -> PathBuf {
        let name = name.as_ref();
        let start = name.iter().position(|&byte| byte != b'/').unwrap_or(name.len());
        self.root.join(OsStr::from_bytes(&name[start..]))
    }

    /// A directory.
    pub fn dir(&self, name: impl AsRef<[u8]>, mode: u32, uid: u32, gid: u32) -> &Self {
        let path = self.path(name);
        fs::create_dir(&path).expect("a directory");
        own(&path, mode, uid, gid);
        self
    }

    /// A regular file.
    pub fn file(&self, name: impl AsRef<[u8]>, content: &[u8], mode: u32, uid: u32, gid: u32) -> &Self {
        let path = self.path(name);
        fs::write(&path, content).expect("a file");
        own(&path, mode, uid, gid);
        self
    }

    /// Opens a path as a process would whose root directory this is.
    pub fn open(&self, path: impl AsRef<[u8]>, flags: OFlags) -> Option<OwnedFd> {
        let root = fs::File::open(self.root).expect("the tree's root");
        let path = OsStr::from_bytes(path.as_ref());
        loop {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
                // The kernel can't vouch for a `..` while anything is renamed or mounted, wherever that is.
                Err(rustix::io::Errno::AGAIN) => {}
                opened => return opened.ok(),
            }
        }
    }

    /// What lstat tells to such a process.
    pub fn stat(&self, path: impl AsRef<[u8]>) -> Option<Stat> {
        let pin = self.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        rustix::fs::fstat(pin).ok()
    }

    /// What stat tells to such a process: of what a final symbolic link leads to.
    pub fn stat_target(&self, path: impl AsRef<[u8]>) -> Option<Stat> {
        let pin = self.open(path, OFlags::PATH)?;
        rustix::fs::fstat(pin).ok()
    }

    /// Removes everything in a directory.
    pub fn empty(&self, name: impl AsRef<[u8]>) -> &Self {
        for entry in fs::read_dir(self.path(name)).expect("a directory's entries") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("an entry's type").is_dir() {
                fs::remove_dir_all(entry.path()).expect("a directory removed");
            } else {
                fs::remove_file(entry.path()).expect("a file removed");
            }
        }
        self
    }

    /// A symbolic link.
    pub fn link(&self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &Self {
        symlink(OsStr::from_bytes(target.as_ref()), self.path(name)).expect("a symlink");
        self
    }

    /// A FIFO.
    pub fn fifo(&self, name: impl AsRef<[u8]>) -> &Self {
        self.node(name, FileType::Fifo, 0)
    }

    /// A FIFO, a device or a socket's file.
    pub fn node(&self, name: impl AsRef<[u8]>, kind: FileType, device: u64) -> &Self {
        let path = self.path(name);
        mknodat(CWD, &path, kind, Mode::empty(), device).expect("a node");
        own(&path, 0o644, 0, 0);
        self
    }

    /// An extended attribute.
    pub fn xattr(&self, name: impl AsRef<[u8]>, key: &str, value: &[u8]) -> &Self {
        lsetxattr(self.path(name), key, value, XattrFlags::empty()).expect("an extended attribute");
        self
    }

    /// Times of the distant past, in seconds.
    pub fn times(&self, name: impl AsRef<[u8]>, atime: i64, mtime: i64) -> &Self {
        let at = |tv_sec| Timespec { tv_sec, tv_nsec: 0 };
        let times = Timestamps { last_access: at(atime), last_modification: at(mtime) };
        utimensat(CWD, self.path(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("times");
        self
    }
}

fn own(path: &Path, mode: u32, uid: u32, gid: u32) {
    chown(path, Some(uid), Some(gid)).expect("an owner");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

/// Describes everything below `root`, one line an entry: what two trees must share to be called equal. Inode
/// numbers become the first name of the inode; times of today are left out, for no two runs share them.
pub fn describe(root: &Path) -> String {
    let mut description = Description::default();
    let directory = fs::File::open(root).expect("the tree's root");
    description.entry(Path::new(""), &below(&directory, OsStr::new(".")));
    description.text
}

/// The path of `name` in an open directory: short however deep the directory lies.
fn below(directory: &fs::File, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

/// A description in the making.
#[derive(Default)]
struct Description {
    text: String,
    leaders: BTreeMap<u64, PathBuf>,
}

impl Description {
    /// Describes the entry at `path`, and what is below it in the order of names. It is called `name`.
    fn entry(&mut self, name: &Path, path: &Path) {
        let metadata = fs::symlink_metadata(path).expect("an entry's metadata");
        self.line(name, path, &metadata);
        if metadata.is_dir() {
            let directory = fs::File::open(path).expect("a directory");
            let entries = fs::read_dir(below(&directory, OsStr::new("."))).expect("a directory's entries");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
            names.sort();
            for child in names {
                self.entry(&name.join(&child), &below(&directory, &child));
            }
        }
    }

    fn line(&mut self, name: &Path, path: &Path, metadata: &Metadata) {
        let text = &mut self.text;
        write!(
            text,
            "\"{}\" mode={:o} uid={} gid={} nlink={} rdev={:x}",
            shown(name),
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.nlink(),
            metadata.rdev()
        )
        .expect("text");
        let leader = self.leaders.entry(metadata.ino()).or_insert_with(|| name.into());
        if leader != name {
            write!(text, " same-as=\"{}\"", shown(leader)).expect("text");
        }
        for (what, time) in [("atime", metadata.atime()), ("mtime", metadata.mtime())] {
            if !is_of_today(time) {
                write!(text, " {what}={time}").expect("text");
            }
        }
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(path).expect("a link's target");
            write!(text, " target=\"{}\"", shown(&target)).expect("text");
        } else if kind.is_file() {
            write!(text, " size={}", metadata.len()).expect("text");
            if metadata.len() <= LARGE {
                write!(text, " content={}", digest(&fs::read(path).expect("a file's content")))
                    .expect("text");
            }
        }
        for (key, value) in xattrs(path) {
            write!(text, " {}={}", key.escape_ascii(), digest(&value)).expect("text");
        }
        text.push('\n');
    }
}

/// A path's bytes as text.
fn shown(path: &Path) -> impl std::fmt::Display {
    path.as_os_str().as_bytes().escape_ascii()
}

/// The length from which on a file's content is not looked at.
const LARGE: u64 = 16 << 20;

/// Bytes in full when they are few, else their length and a checksum.
fn digest(bytes: &[u8]) -> String {
    if bytes.len() <= 48 {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}:{hash:016x}", bytes.len())
}

/// Whether a time is one that this very test may have made by acting.
pub fn is_of_today(seconds: i64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    now.cast_signed().abs_diff(seconds) < 86_400
}

/// Every extended attribute of a path, which is not followed.
pub fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let count = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap_or(0);
    let mut found = BTreeMap::new();
    for key in buffer[..count].split(|&byte| byte == 0).filter(|key| !key.is_empty()) {
        let name = CString::new(key).expect("a name without NUL");
        let mut value = vec![0; 65536];
        let count = rustix::fs::lgetxattr(path, &name, &mut value[..]).expect("an attribute that was listed");
        value.truncate(count);
        found.insert(key.to_vec(), value);
    }
    found
}

/// The generation number of an open file or directory, as its filesystem tells.
pub fn generation(file: impl AsFd) -> Option<u32> {
    let mut room: libc::c_long = 0;
    // SAFETY: the request writes at most a long, which `room` is. (It is declared with a long and writes an int.)
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::FS_IOC_GETVERSION, &raw mut room) };
    let bytes = room.to_ne_bytes();
    (result == 0).then(|| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The lines by which two descriptions differ; empty when they are equal.
pub fn difference(left: &str, right: &str) -> String {
    let mut text = String::new();
    for (sign, lines, others) in [("-", left, right), ("+", right, left)] {
        for line in lines.lines().filter(|line| !others.lines().any(|other| other == *line)) {
            writeln!(text, "{sign} {line}").expect("text");
        }
    }
    text
}
