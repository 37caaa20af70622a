//! One inode, held by a descriptor: whatever happens to its name meanwhile, this is the one that is read and changed.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags, XattrFlags};
use rustix::io::{Errno, Result};

use super::entry::{Identity, Inode, Kind, Time};
use super::identity;

/// How everything below an export is looked up: never out of it, never through a symbolic link, never onto
/// another mount.
pub(super) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// What every descriptor here is opened with.
const ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

/// How a regular file is opened: neither waiting for anything, nor becoming a terminal's process.
const REGULAR: OFlags = ALWAYS.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// The longest value of an extended attribute, `XATTR_SIZE_MAX`, and the longest list of names, `XATTR_LIST_MAX`.
const XATTR_MAX: usize = 65536;

/// What is asked about every inode.
const ASKED: StatxFlags =
    StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID).union(StatxFlags::BTIME).union(identity::ASKED);

/// An inode held by a descriptor, and what the kernel said about it when it was opened.
#[derive(Debug)]
pub struct Pin {
    fd: OwnedFd,
    inode: Inode,
    /// Whether `fd` is open for reading; otherwise it only names the inode (`O_PATH`).
    open: bool,
}

impl Pin {
    /// Pins the entry `name` of the directory `dir`, which `kind` says what it is, as far as that is known. With
    /// `devices` false, opening a device by mistake does no harm here, for its mount says `nodev`. `XDEV` for what is no part of the
    /// tree: a mount, and the place of a subvolume that a snapshot does not contain.
    pub(super) fn entry(dir: BorrowedFd<'_>, name: &CStr, kind: Option<Kind>, devices: bool) -> Result<Self> {
        let pin = match kind {
            Some(Kind::File) if !devices => {
                let fd = rustix::fs::openat2(dir, name, REGULAR, Mode::empty(), BENEATH)?;
                Self::of(fd, true)?
            }
            Some(Kind::Directory) => {
                let flags = ALWAYS | OFlags::DIRECTORY;
                let fd = rustix::fs::openat2(dir, name, flags, Mode::empty(), BENEATH)?;
                Self::of(fd, true)?
            }
            _ => {
                let fd = rustix::fs::openat2(dir, name, ALWAYS | OFlags::PATH, Mode::empty(), BENEATH)?;
                let pin = Self::of(fd, false)?;
                if pin.inode.kind() == Some(Kind::File) { pin.opened()? } else { pin }
            }
        };
        if pin.inode.is_absent_subvolume() { Err(Errno::XDEV) } else { Ok(pin) }
    }

    /// Takes an open descriptor; `open` says whether it is open for reading.
    pub(super) fn of(fd: OwnedFd, open: bool) -> Result<Self> {
        let inode = stat(fd.as_fd())?;
        Ok(Self { fd, inode, open })
    }

    /// The same regular file, open for reading.
    fn opened(self) -> Result<Self> {
        let flags = REGULAR.difference(OFlags::NOFOLLOW);
        let fd = rustix::fs::open(self.link(), flags, Mode::empty())?;
        Ok(Self { fd, inode: self.inode, open: true })
    }

    /// What the kernel said when it was pinned.
    pub fn inode(&self) -> &Inode {
        &self.inode
    }

    /// The same inode, with what the kernel says now.
    pub(super) fn again(&self) -> Result<Self> {
        Self::of(rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?, self.open)
    }

    /// What the kernel says now.
    pub fn refresh(&mut self) -> Result<&Inode> {
        self.inode = stat(self.fd.as_fd())?;
        Ok(&self.inode)
    }

    /// The kernel's magic link to it, by which calls reach it that know no `O_PATH` descriptors.
    pub fn link(&self) -> CString {
        magic_link(self.fd.as_fd())
    }

    /// The names of its extended attributes, each ended by a NUL.
    pub fn xattr_names(&self) -> Result<XattrNames> {
        let mut small = [MaybeUninit::uninit(); 512];
        match self.list(&mut small[..]) {
            Ok(names) => Ok(XattrNames(names)),
            Err(Errno::RANGE) => {
                self.list(&mut Vec::with_capacity(XATTR_MAX).spare_capacity_mut()[..]).map(XattrNames)
            }
            Err(error) => no_xattrs(error),
        }
    }

    fn list(&self, buffer: &mut [MaybeUninit<u8>]) -> Result<Vec<u8>> {
        let (names, _) = if self.open {
            rustix::fs::flistxattr(&self.fd, buffer)?
        } else {
            rustix::fs::listxattr(self.link(), buffer)?
        };
        Ok(names.to_vec())
    }

    /// The value of an extended attribute; `None` where it has none of this name.
    pub fn xattr(&self, name: &CStr) -> Result<Option<Vec<u8>>> {
        let mut small = [MaybeUninit::uninit(); 256];
        let found = match self.value(name, &mut small[..]) {
            Err(Errno::RANGE) => {
                self.value(name, &mut Vec::with_capacity(XATTR_MAX).spare_capacity_mut()[..])
            }
            found => found,
        };
        match found {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn value(&self, name: &CStr, buffer: &mut [MaybeUninit<u8>]) -> Result<Vec<u8>> {
        let (value, _) = if self.open {
            rustix::fs::fgetxattr(&self.fd, name, buffer)?
        } else {
            rustix::fs::getxattr(self.link(), name, buffer)?
        };
        Ok(value.to_vec())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, name: &CStr, value: &[u8]) -> Result<()> {
        if self.open {
            rustix::fs::fsetxattr(&self.fd, name, value, XattrFlags::empty())
        } else {
            rustix::fs::setxattr(self.link(), name, value, XattrFlags::empty())
        }
    }

    /// Removes an extended attribute; one that is not there is no error.
    pub fn remove_xattr(&self, name: &CStr) -> Result<()> {
        let removed = if self.open {
            rustix::fs::fremovexattr(&self.fd, name)
        } else {
            rustix::fs::removexattr(self.link(), name)
        };
        match removed {
            Err(Errno::NODATA) => Ok(()),
            removed => removed,
        }
    }

    /// A symbolic link's target.
    pub fn target(&self) -> Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, c"", Vec::new())?.into_bytes())
    }

    /// The content of a regular file that is open, up to `most` bytes.
    pub fn content(&self, most: usize) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut buffer = [0; 4096];
        while content.len() < most {
            let at = u64::try_from(content.len()).unwrap_or(u64::MAX);
            let room = buffer.len().min(most - content.len());
            let count = rustix::io::pread(&self.fd, &mut buffer[..room], at)?;
            if count == 0 {
                break;
            }
            content.extend_from_slice(&buffer[..count]);
        }
        Ok(content)
    }
}

impl AsFd for Pin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The kernel's magic link to what `fd` refers to.
pub(super) fn magic_link(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// Where a file system knows no extended attributes, there are none.
fn no_xattrs(error: Errno) -> Result<XattrNames> {
    if error == Errno::OPNOTSUPP { Ok(XattrNames(Vec::new())) } else { Err(error) }
}

/// The names of an inode's extended attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XattrNames(Vec<u8>);

impl XattrNames {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each name.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.0.split_inclusive(|&byte| byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok())
    }
}

/// What the kernel says about `fd`'s inode.
pub(super) fn stat(fd: BorrowedFd<'_>) -> Result<Inode> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, ASKED).map(|told| inode(fd, &told))
}

fn inode(fd: BorrowedFd<'_>, told: &Statx) -> Inode {
    let time = |time: rustix::fs::StatxTimestamp| Time { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
    let has = |flag| told.stx_attributes.contains(flag);
    Inode {
        identity: Identity {
            device: rustix::fs::makedev(told.stx_dev_major, told.stx_dev_minor),
            number: told.stx_ino,
        },
        id: identity::of(fd, told),
        mount: told.stx_mnt_id,
        mode: told.stx_mode.into(),
        uid: told.stx_uid,
        gid: told.stx_gid,
        rdev: rustix::fs::makedev(told.stx_rdev_major, told.stx_rdev_minor),
        links: told.stx_nlink.into(),
        size: told.stx_size,
        blocks: told.stx_blocks,
        accessed: time(told.stx_atime),
        modified: time(told.stx_mtime),
        changed: time(told.stx_ctime),
        immutable: has(StatxAttributes::IMMUTABLE),
        append_only: has(StatxAttributes::APPEND),
    }
}
