//! The directory we serve: how a path of the client's becomes a file of the host's.
//!
//! Two rules hold whatever the client sends and whoever changes the tree meanwhile:
//!
//! - Nothing outside the export is reached. Where the export is this process's root directory the kernel sees to
//!   it, and each operation is the one system call on an absolute path ([`ExportRoot::Rooted`]). Elsewhere openat2(2) resolves
//!   the path beneath the export first ([`ExportRoot::Beneath`]).
//! - No device and no FIFO is opened or handed out. A file is *pinned* first: `O_PATH` opens nothing, only takes hold of the
//!   inode. What was pinned is then looked at, and only a regular file or a directory is opened, through its magic link: by
//!   then a rename can't put another file in its place. Where the client has just been told that the file is a regular one
//!   (QEMU asks so before each open), and the mount that it is on is always nodev, the file is opened by its path without
//!   waiting, then looked at, which takes half the time. That holds for the namespace's root mount only, which is made with
//!   nodev; one that the host mounts below it later gets nodev a moment after it arrives.
//!
//! Final symbolic links are followed where the original's system call follows them; as those on the way, inside the export.
//!
//! Magic links are looked up from the working directory, which is a private view of `/proc/self/fd` (see
//! [`super::sandbox`]); paths of the export are always absolute.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat, openat2};
use nix::poll::ppoll;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::sys::time::TimeSpec;

use super::signals;
use super::sys::{self, MagicLink};

/// How paths are kept inside the export.
pub enum ExportRoot {
    /// The export is this process's root directory.
    Rooted {
        /// Whether the mount at the root is nodev. The mounts below it need not be.
        nodev: bool,
    },
    /// The export is this directory, somewhere below the process's root.
    Beneath(OwnedFd),
}

/// Where a system call finds its file: a directory and a path from there.
pub struct DirAndName<'p> {
    parent: Option<OwnedFd>,
    /// The path: absolute where the export is the root directory, one name otherwise.
    pub name: &'p CStr,
}

impl DirAndName<'_> {
    /// The directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.parent.as_ref().map_or(AT_FDCWD, AsFd::as_fd)
    }
}

/// What is known of a file that is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// It was a regular file or a directory a moment ago.
    Regular,
}

/// How many times openat2(2) is asked again when renames elsewhere keep it from deciding.
const RESOLVE_TRIES: u32 = 64;

impl ExportRoot {
    /// Where a system call that looks at a file, and does not follow a final symbolic link, finds the absolute
    /// `path`.
    pub fn at<'p>(&self, path: &'p CStr) -> Result<DirAndName<'p>, Errno> {
        self.split(path, Split::file)
    }

    /// Where a system call that makes, renames or removes a name finds the absolute `path`.
    pub fn parent_and_name<'p>(&self, path: &'p CStr) -> Result<DirAndName<'p>, Errno> {
        self.split(path, Split::parent_and_name)
    }

    fn split<'p>(
        &self,
        path: &'p CStr,
        split: impl FnOnce(&'p CStr) -> Result<Split<'p>, Errno>,
    ) -> Result<DirAndName<'p>, Errno> {
        match self {
            Self::Rooted { .. } => Ok(DirAndName { parent: None, name: path }),
            Self::Beneath(root) => {
                let Split { parent, name } = split(path)?;
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                Ok(DirAndName { parent: Some(resolve(root, parent.as_c_str(), flags)?), name })
            }
        }
    }

    /// Takes hold of the inode at the absolute `path` without opening it; of a final symbolic link itself.
    pub fn pin(&self, path: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match self {
            Self::Rooted { .. } => openat(AT_FDCWD, path, flags, Mode::empty()),
            Self::Beneath(root) => resolve(root, path, flags),
        }
    }

    /// Takes hold of the inode that the absolute `path` leads to, through a final symbolic link too, without opening
    /// it.
    pub fn pin_target(&self, path: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        match self {
            Self::Rooted { .. } => openat(AT_FDCWD, path, flags, Mode::empty()),
            Self::Beneath(root) => resolve(root, path, flags),
        }
    }

    /// Opens the regular file or directory that the absolute `path` leads to; through a final symbolic link too, unless
    /// `flags` say `O_NOFOLLOW`. `ENXIO` for a special file. `known` is what is known of it.
    pub fn open(&self, path: &CStr, flags: OFlag, known: Known) -> Result<Opened, Errno> {
        let is_directory = flags.contains(OFlag::O_DIRECTORY);
        if let (Self::Rooted { nodev: true }, Known::Regular, false) = (self, known, is_directory) {
            match open_without_waiting(path, flags) {
                // On another mount, on a kernel or in a container without openat2(2), a device, a file under a lease, or what
                // it says: the pin finds out.
                Err(Errno::EXDEV | Errno::ENOSYS | Errno::EPERM | Errno::EACCES | Errno::EAGAIN) => {}
                result => return result,
            }
        }
        self.open_judged(path, flags, |_| Ok(()))
    }

    /// Opens the regular file or directory that the absolute `path` leads to as [`Self::open`] does, if `judge` has nothing against
    /// its status. `judge` is asked before a regular file is opened, about the very inode that is opened then.
    pub fn open_judged(
        &self,
        path: &CStr,
        flags: OFlag,
        judge: impl FnOnce(&FileStat) -> Result<(), Errno>,
    ) -> Result<Opened, Errno> {
        if flags.contains(OFlag::O_DIRECTORY) {
            return self.open_directory(path, flags);
        }
        let pin = if flags.contains(OFlag::O_NOFOLLOW) { self.pin(path)? } else { self.pin_target(path)? };
        open_pinned(pin, flags, judge)
    }

    /// The status of the directory in which a file is made at the absolute `path`.
    pub fn directory_of(&self, path: &CStr) -> Result<FileStat, Errno> {
        let parent = Split::parent_and_name(path)?.parent;
        fstat(self.pin_target(parent.as_c_str())?)
    }

    /// Opens a directory: `O_DIRECTORY` makes the kernel refuse everything else before it is opened.
    fn open_directory(&self, path: &CStr, flags: OFlag) -> Result<Opened, Errno> {
        let flags = flags | OURS;
        let file = match self {
            Self::Rooted { .. } => openat(AT_FDCWD, path, flags, Mode::empty()),
            Self::Beneath(root) => resolve(root, path, flags),
        }?;
        Ok(Opened { file, kind: Kind::Directory, pin: None })
    }

    /// Whether that is the export itself. Only for choosing between two errors.
    pub fn is_root(&self, at: &DirAndName<'_>) -> bool {
        let stat = |at: &DirAndName<'_>| fstatat(at.dir(), at.name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let root = self.at(c"/").and_then(|root| stat(&root));
        matches!((stat(at), root), (Ok(one), Ok(root)) if (one.st_dev, one.st_ino) == (root.st_dev, root.st_ino))
    }

    /// Whether the absolute `path` is a symbolic link. Only for choosing between two errors.
    pub fn is_symlink(&self, path: &CStr) -> bool {
        let stat = self.at(path).and_then(|at| fstatat(at.dir(), at.name, AtFlags::AT_SYMLINK_NOFOLLOW));
        stat.is_ok_and(|stat| Kind::of(&stat) == Kind::Symlink)
    }
}

/// What a pinned inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a FIFO or a socket.
    Special,
}

impl Kind {
    /// Reads it off a file's status.
    pub fn of(stat: &FileStat) -> Self {
        Self::of_mode(stat.st_mode)
    }

    /// Reads it off a file's mode.
    pub fn of_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            _ => Self::Special,
        }
    }
}

/// What each open of a client's says besides.
const OURS: OFlag = OFlag::O_CLOEXEC.union(OFlag::O_NOCTTY);

/// A regular file or directory that was opened.
pub struct Opened {
    /// The file.
    pub file: OwnedFd,
    /// What it is.
    pub kind: Kind,
    /// What it was opened through.
    pub pin: Option<OwnedFd>,
}

impl Opened {
    /// Lets go of it.
    pub fn close(self) {
        match self.pin {
            Some(pin) => sys::close_both(pin, self.file),
            None => drop(self.file),
        }
    }
}

/// The kind of what may be opened. `ELOOP` for a symbolic link, `ENXIO` for a special file.
fn openable(stat: &FileStat) -> Result<Kind, Errno> {
    match Kind::of(stat) {
        Kind::Symlink => Err(Errno::ELOOP),
        Kind::Special => Err(Errno::ENXIO),
        kind @ (Kind::File | Kind::Directory) => Ok(kind),
    }
}

/// Opens the regular file or directory at `path` on the mount of the root directory, where no device can be opened; `EXDEV` on
/// another mount. A FIFO that has taken the file's place opens without waiting, and is closed again.
fn open_without_waiting(path: &CStr, flags: OFlag) -> Result<Opened, Errno> {
    let how = OpenHow::new().flags(flags | OURS | OFlag::O_NONBLOCK).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    let file = openat2(AT_FDCWD, path, how)?;
    let kind = openable(&fstat(&file)?)?;
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(&file, FcntlArg::F_SETFL(flags))?;
    }
    Ok(Opened { file, kind, pin: None })
}

/// Opens a pinned regular file or directory. `ELOOP` for a symbolic link, `ENXIO` for a special file.
fn open_pinned(
    pin: OwnedFd,
    flags: OFlag,
    judge: impl FnOnce(&FileStat) -> Result<(), Errno>,
) -> Result<Opened, Errno> {
    let stat = fstat(&pin)?;
    let kind = openable(&stat)?;
    judge(&stat)?;
    let link = MagicLink::of(&pin);
    // O_NOFOLLOW would refuse the magic link itself.
    let how = (flags - OFlag::O_NOFOLLOW) | OURS | OFlag::O_NONBLOCK;
    let open = || openat(AT_FDCWD, link.name(), how, Mode::empty());
    if flags.contains(OFlag::O_NONBLOCK) {
        return open().map(|file| Opened { file, kind, pin: Some(pin) });
    }
    let file = wait_for_lease(open)?;
    fcntl(&file, FcntlArg::F_SETFL(flags))?;
    Ok(Opened { file, kind, pin: Some(pin) })
}

/// How long an open waits for a lease. The kernel takes it from its holder after `fs.lease-break-time`, 45 seconds unless it was
/// changed.
pub(crate) const LEASE_PATIENCE: Duration = Duration::from_secs(60);
/// How often it looks whether the lease is gone.
const LEASE_PAUSE: TimeSpec = TimeSpec::new(0, 10_000_000);

/// Repeats `open`, which must not wait in the kernel, as long as another program holds a lease on the file: the guest sees an open
/// that takes that long, as from the original. Meanwhile this process answers health checks and ends when it is asked to,
/// which it could not do in the kernel. `EAGAIN` where the lease does not go.
pub(crate) fn wait_for_lease<T>(mut open: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let first = open();
    if !matches!(first, Err(Errno::EAGAIN)) {
        return first;
    }
    log::warn!("a request waits for another program that holds a lease on the file (fcntl F_SETLEASE)");
    let start = Instant::now();
    while start.elapsed() < LEASE_PATIENCE {
        let paused = signals::while_idle(|| ppoll(&mut [], Some(LEASE_PAUSE), None));
        if paused.is_none() {
            return Err(Errno::EINTR);
        }
        match open() {
            Err(Errno::EAGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::EAGAIN)
}

/// Resolves `path` with `root` as its root directory, for symbolic links on the way too.
fn resolve(root: &OwnedFd, path: &CStr, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 0..RESOLVE_TRIES {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::EAGAIN)
}

/// A path, split before its last name.
struct Split<'p> {
    parent: ParentPath,
    name: &'p CStr,
}

impl<'p> Split<'p> {
    /// Splits an absolute path to a file. One that ends in no name of its own (`/`, `.`, `..`) is wholly parent, and so
    /// is one with a slash at its end: the kernel would follow a symbolic link there.
    fn file(path: &'p CStr) -> Result<Self, Errno> {
        let bytes = path.to_bytes();
        let start = after_last_slash(bytes);
        if matches!(&bytes[start..], b"" | b"." | b"..") {
            return Ok(Self { parent: ParentPath::of(bytes)?, name: c"." });
        }
        Self::before(path, start)
    }

    /// Splits an absolute path to a name that is to be made, renamed or removed. System calls that do so look at no file
    /// behind it: they refuse `/`, `.` and `..` by sight, and take a slash at its end for "must be a directory",
    /// of which a symbolic link there is none.
    fn parent_and_name(path: &'p CStr) -> Result<Self, Errno> {
        let bytes = path.to_bytes();
        let trimmed = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        if trimmed == 0 {
            return Ok(Self { parent: ParentPath::of(b"/")?, name: c"/" });
        }
        Self::before(path, after_last_slash(&bytes[..trimmed]))
    }

    /// Splits before byte `start`.
    fn before(path: &'p CStr, start: usize) -> Result<Self, Errno> {
        let name =
            CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[start..]).map_err(|_| Errno::EINVAL)?;
        Ok(Self { parent: ParentPath::of(&path.to_bytes()[..start])?, name })
    }
}

/// Where the last name of a path starts.
fn after_last_slash(path: &[u8]) -> usize {
    path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1)
}

/// The path of a parent directory, terminated.
struct ParentPath {
    bytes: [u8; libc::PATH_MAX as usize + 1],
}

impl ParentPath {
    fn of(path: &[u8]) -> Result<Self, Errno> {
        let mut bytes = [0; libc::PATH_MAX as usize + 1];
        bytes.get_mut(..path.len()).ok_or(Errno::ENAMETOOLONG)?.copy_from_slice(path);
        Ok(Self { bytes })
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_splits_before_its_last_name() {
        // The path, then what a look at a file and what a change of a name make of it.
        for (path, file, parent_and_name) in [
            (c"/f", (c"/", c"f"), (c"/", c"f")),
            (c"//d//f", (c"//d//", c"f"), (c"//d//", c"f")),
            (c"/d/e/f", (c"/d/e/", c"f"), (c"/d/e/", c"f")),
            (c"/", (c"/", c"."), (c"/", c"/")),
            (c"//", (c"//", c"."), (c"/", c"/")),
            (c"/d/..", (c"/d/..", c"."), (c"/d/", c"..")),
            (c"/d/.", (c"/d/.", c"."), (c"/d/", c".")),
            (c"/d/", (c"/d/", c"."), (c"/", c"d/")),
            (c"/d/e//", (c"/d/e//", c"."), (c"/d/", c"e//")),
        ] {
            let parts = |split: Split<'static>| (split.parent.as_c_str().to_owned(), split.name);
            let owned = |(parent, name): (&CStr, &'static CStr)| (parent.to_owned(), name);
            assert_eq!(parts(Split::file(path).unwrap()), owned(file), "{path:?}");
            assert_eq!(parts(Split::parent_and_name(path).unwrap()), owned(parent_and_name), "{path:?}");
        }
    }
}
