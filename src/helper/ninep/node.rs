//! Files of the export, held by descriptors that open nothing (`O_PATH`).
//!
//! A request names a file by what the guest holds of it, so renames and removals do not matter: there is no path to go stale. Every name
//! is looked up in a directory that is held, one component at a time, and no symbolic link is followed. Nothing above
//! the export can be reached so: `..` is the directory that a file was looked up in, never the kernel's.
//!
//! Magic links are looked up from the working directory, a private view of `/proc/self/fd` (see [`crate::helper::export`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fstat, fstatat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};

use super::names::{Name, is_dots};
use crate::helper::export::Kind;
use crate::helper::sys::{self, Final, MagicLink};

/// A file of the export.
pub(crate) struct Node {
    file: Arc<OwnedFd>,
    /// The directory that it was looked up in, and its name there. The export's own directory has none.
    parent: Option<(Arc<Node>, Box<[u8]>)>,
}

const PIN: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// What each open says besides.
const OURS: OFlag = OFlag::O_CLOEXEC.union(OFlag::O_NOCTTY);

impl Node {
    /// The export's directory.
    pub(crate) fn root(file: OwnedFd) -> Arc<Self> {
        Arc::new(Self { file: Arc::new(file), parent: None })
    }

    /// The file `file`, which is `name` in `self`.
    pub(crate) fn child(self: &Arc<Self>, file: Arc<OwnedFd>, name: &[u8]) -> Arc<Self> {
        Arc::new(Self { file, parent: Some((Arc::clone(self), name.into())) })
    }

    /// Looks a name up in this directory.
    pub(crate) fn walk(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>, Errno> {
        if is_dots(name) {
            // A file has no names in it, not even these.
            if Kind::of(&self.status()?) != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            let parent = self.parent.as_ref().filter(|_| name == b"..");
            return Ok(parent.map_or_else(|| Arc::clone(self), |(parent, _)| Arc::clone(parent)));
        }
        let file = openat(self.as_fd(), Name::of(name)?.as_c_str(), PIN, Mode::empty())?;
        Ok(self.child(Arc::new(file), name))
    }

    /// The directory that it was looked up in and its name there, if that is still so.
    pub(crate) fn place(&self) -> Result<(&Arc<Self>, Name), Errno> {
        let (parent, name) = self.parent.as_ref().ok_or(Errno::EBUSY)?;
        let name = Name::of(name)?;
        let (own, there) =
            (self.status()?, fstatat(parent.as_fd(), name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?);
        if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino) {
            Ok((parent, name))
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// The file's status.
    pub(crate) fn status(&self) -> Result<FileStat, Errno> {
        fstat(&*self.file)
    }

    /// The status of what has a name in this directory.
    pub(crate) fn status_of(&self, name: &Name) -> Result<FileStat, Errno> {
        fstatat(self.as_fd(), name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// The magic link that leads to the file itself, be it a symbolic link.
    pub(crate) fn link(&self) -> MagicLink {
        MagicLink::of(&*self.file)
    }

    /// Opens a regular file or a directory, whose status is known. `ELOOP` for a symbolic link, `ENXIO` for a special file, `EAGAIN` where
    /// another program holds a lease on it.
    pub(crate) fn open_judged(&self, stat: &FileStat, flags: OFlag) -> Result<OwnedFd, Errno> {
        match Kind::of(stat) {
            Kind::Symlink => Err(Errno::ELOOP),
            Kind::Special => Err(Errno::ENXIO),
            Kind::Directory => openat(self.as_fd(), c".", flags | OURS | OFlag::O_DIRECTORY, Mode::empty()),
            Kind::File if flags.contains(OFlag::O_DIRECTORY) => Err(Errno::ENOTDIR),
            Kind::File => {
                // O_NOFOLLOW would refuse the magic link itself.
                let how = (flags - OFlag::O_NOFOLLOW) | OURS | OFlag::O_NONBLOCK;
                let file = openat(AT_FDCWD, self.link().name(), how, Mode::empty())?;
                if !flags.contains(OFlag::O_NONBLOCK) {
                    fcntl(&file, FcntlArg::F_SETFL(flags))?;
                }
                Ok(file)
            }
        }
    }

    /// Changes permission bits. `EOPNOTSUPP` for a symbolic link, which has none.
    pub(crate) fn chmod(&self, mode: u32) -> Result<(), Errno> {
        sys::fchmodat(AT_FDCWD, self.link().name(), mode & 0o7777)
    }

    /// Changes the owner, the group or both.
    pub(crate) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        fchownat(self.as_fd(), c"", uid, gid, AtFlags::AT_EMPTY_PATH)
    }

    /// Changes times.
    pub(crate) fn utimens(&self, atime: &TimeSpec, mtime: &TimeSpec) -> Result<(), Errno> {
        utimensat(AT_FDCWD, self.link().name(), atime, mtime, UtimensatFlags::FollowSymlink)
    }

    /// Changes a regular file's size.
    pub(crate) fn truncate(&self, size: i64) -> Result<(), Errno> {
        sys::truncate(self.link().name(), size)
    }

    /// Reads a symbolic link's target into the front of `buffer`.
    pub(crate) fn readlink(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        sys::readlinkat(self.as_fd(), c"", buffer)
    }

    /// Reads an extended attribute, or the list of them where `name` is None, as getxattr(2) does.
    pub(crate) fn getxattr(&self, name: Option<&std::ffi::CStr>, buffer: &mut [u8]) -> Result<usize, Errno> {
        match name {
            Some(name) => sys::getxattr(self.link().name(), name, buffer, Final::Target),
            None => sys::listxattr(self.link().name(), buffer, Final::Target),
        }
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
