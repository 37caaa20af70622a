//! One function a request: what it does to the export, and its answer.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::export::{ExportRoot, Kind, Known, Opened};
use super::identity::{Identity, NO_CHANGE};
use super::path::{NameBuffer, PathBuffer, TargetBuffer};
use super::protocol::{
    DONE, Effect, HEADER, MAX_PAYLOAD, MAX_VALUE, Request, StatfsReply, VALUE_AT, encode_length, encode_stat,
    encode_statfs, encode_version, finish_value,
};
use super::sticky::ProtectedRegular;
use super::sys::{self, Final, MagicLink};
use super::version::Versions;

/// The bytes of the largest reply.
pub const REPLY: usize = HEADER + MAX_PAYLOAD;

/// What a request that succeeded is answered with.
pub enum Answer {
    /// The first so many bytes of the reply buffer.
    Bytes(usize),
    /// A descriptor; where there is a pin, what was held to open it, to be let go after the reply.
    File(OwnedFd, Option<OwnedFd>),
}

/// Does what requests ask, to one export.
pub struct Operations {
    reach: ExportRoot,
    identity: Identity,
    readonly: bool,
    protected: ProtectedRegular,
    versions: Versions,
    /// The regular file that the last request was told of.
    looked: Looked,
    first: PathBuffer,
    second: PathBuffer,
    target: TargetBuffer,
    name: NameBuffer,
}

/// The open flags of a client's that mean something. What else it sends is refused ([`REFUSED`]) or ignored: O_CREAT
/// and O_EXCL follow from the request's type, the others speak of this process.
const HONOURED: OFlag = OFlag::O_ACCMODE
    .union(OFlag::O_TRUNC)
    .union(OFlag::O_APPEND)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_DSYNC)
    .union(OFlag::O_SYNC)
    .union(OFlag::O_DIRECT)
    .union(OFlag::O_LARGEFILE)
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NOATIME);

/// Open flags that ask for a kind of descriptor that no request hands out.
const REFUSED: OFlag = OFlag::O_PATH.union(OFlag::O_TMPFILE.difference(OFlag::O_DIRECTORY));

/// Which system calls each request makes, on every C library and architecture that this builds for: the system call
/// filter allows these. `--sandbox=none` adds openat2(2), a pin and its release to each.
pub(crate) const CALLS: &[(&str, &[libc::c_long])] = &[
    ("beneath", &[libc::SYS_openat2, libc::SYS_close]),
    ("identity", &[libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_capget, libc::SYS_capset]),
    // And one fcntl, F_SETFL.
    ("T_OPEN", &[libc::SYS_openat, libc::SYS_openat2, libc::SYS_newfstatat, libc::SYS_fstat]),
    ("T_CREATE", &[libc::SYS_openat, libc::SYS_newfstatat, libc::SYS_fstat]),
    ("T_MKNOD", &[libc::SYS_mknodat]),
    ("T_MKDIR", &[libc::SYS_mkdirat]),
    ("T_SYMLINK", &[libc::SYS_symlinkat]),
    ("T_LINK", &[libc::SYS_linkat, libc::SYS_newfstatat]),
    ("T_LSTAT", &[libc::SYS_newfstatat]),
    ("T_READLINK", &[libc::SYS_readlinkat]),
    ("T_STATFS", &[libc::SYS_statfs, libc::SYS_openat, libc::SYS_fstatfs]),
    ("T_CHMOD", &[libc::SYS_openat, libc::SYS_fchmodat]),
    ("T_CHOWN", &[libc::SYS_fchownat]),
    ("T_TRUNCATE", &[libc::SYS_openat, libc::SYS_truncate]),
    ("T_UTIME", &[libc::SYS_utimensat]),
    ("T_RENAME", &[libc::SYS_renameat, libc::SYS_renameat2]),
    ("T_REMOVE", &[libc::SYS_unlinkat]),
    ("T_LGETXATTR", &[libc::SYS_lgetxattr, libc::SYS_openat, libc::SYS_getxattr]),
    ("T_LLISTXATTR", &[libc::SYS_llistxattr, libc::SYS_openat, libc::SYS_listxattr]),
    ("T_LSETXATTR", &[libc::SYS_lsetxattr, libc::SYS_openat, libc::SYS_setxattr]),
    ("T_LREMOVEXATTR", &[libc::SYS_lremovexattr, libc::SYS_openat, libc::SYS_removexattr]),
    // And one ioctl: VERSION_IOCTL.
    (
        "T_GETVERSION",
        &[
            libc::SYS_statx,
            libc::SYS_newfstatat,
            libc::SYS_statfs,
            libc::SYS_name_to_handle_at,
            libc::SYS_openat,
            libc::SYS_fstat,
            libc::SYS_fstatfs,
        ],
    ),
];

/// The one ioctl that requests make.
///
/// The kernel takes 32 bits. In musl the constant is a negative int, whose upper half would be all ones here.
#[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "its type differs by C library")]
pub(crate) const VERSION_IOCTL: u64 = libc::FS_IOC_GETVERSION as u64 & 0xffff_ffff;

/// The client's open flags, those kept that mean something. `EINVAL` for a kind of descriptor that no request hands out.
fn open_flags(flags: i32) -> Result<OFlag, Errno> {
    let flags = OFlag::from_bits_retain(flags);
    if flags.intersects(REFUSED) { Err(Errno::EINVAL) } else { Ok(flags & HONOURED) }
}

/// Whether opening so can change a file.
fn opens_for_change(flags: OFlag) -> bool {
    flags & OFlag::O_ACCMODE != OFlag::O_RDONLY || flags.contains(OFlag::O_TRUNC)
}

/// An id for chown(2).
fn id<T>(raw: u32, new: impl FnOnce(u32) -> T) -> Option<T> {
    (raw != NO_CHANGE).then(|| new(raw))
}

impl Operations {
    /// Serves what `reach` reaches, as `identity` where nothing else is asked for. `protected` is the host's setting.
    pub fn new(reach: ExportRoot, identity: Identity, readonly: bool, protected: ProtectedRegular) -> Self {
        let looked = Looked::new(&reach);
        Self {
            reach,
            identity,
            readonly,
            protected,
            versions: Versions::default(),
            looked,
            first: PathBuffer::default(),
            second: PathBuffer::default(),
            target: TargetBuffer::default(),
            name: NameBuffer::default(),
        }
    }

    /// Does what `request` asks. What is answered with bytes is written to `reply`, which has [`REPLY`] bytes.
    pub fn perform(&mut self, request: Request<'_>, reply: &mut [u8]) -> Result<Answer, Errno> {
        #[cfg(feature = "break-in")]
        if let Request::Readlink { path, .. } = request
            && let Some(outcome) = super::break_in::attempt(path, reply)
        {
            return outcome.map(Answer::Bytes);
        }
        if self.readonly && request.effect() == Effect::Changes {
            return Err(Errno::EROFS);
        }
        let known = self.looked.take(&request);
        match request {
            Request::Open { path, flags } => self.open(path, open_flags(flags)?, known),
            Request::Create { path, flags, mode, uid, gid } => {
                self.create(path, open_flags(flags)?, OFlag::from_bits_retain(flags), mode, (uid, gid))
            }
            Request::Mknod { uid, gid, path, mode, rdev } => {
                refuse_kind(mode)?;
                let at = self.reach.parent_and_name(self.first.set(path)?)?;
                let (kind, mode) = (SFlag::from_bits_retain(mode & libc::S_IFMT), permissions(mode));
                self.identity.with_fsids(uid, gid, || mknodat(at.dir(), at.name, kind, mode, rdev))?;
                Ok(put(reply, &DONE))
            }
            Request::Mkdir { uid, gid, path, mode } => {
                let at = self.reach.parent_and_name(self.first.set(path)?)?;
                self.identity.with_fsids(uid, gid, || mkdirat(at.dir(), at.name, permissions(mode)))?;
                Ok(put(reply, &DONE))
            }
            Request::Symlink { uid, gid, target, path } => {
                let target = self.target.set(target)?;
                let at = self.reach.parent_and_name(self.first.set(path)?)?;
                self.identity.with_fsids(uid, gid, || symlinkat(target, at.dir(), at.name))?;
                Ok(put(reply, &DONE))
            }
            Request::Link { old, new } => self.link(old, new).map(|()| put(reply, &DONE)),
            Request::Lstat { path } => Ok(put(reply, &encode_stat(&self.lstat(path)?))),
            Request::Readlink { path, size } => self.readlink(path, size, reply),
            Request::Statfs { path } => self.statfs(path).map(|status| put(reply, &encode_statfs(&status))),
            Request::Chmod { path, mode } => self.chmod(path, mode).map(|()| put(reply, &DONE)),
            Request::Chown { path, uid, gid } => {
                let at = self.reach.at(self.first.set(path)?)?;
                let (uid, gid) = (id(uid, Uid::from_raw), id(gid, Gid::from_raw));
                fchownat(at.dir(), at.name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                Ok(put(reply, &DONE))
            }
            Request::Truncate { path, size } => self.truncate(path, size).map(|()| put(reply, &DONE)),
            Request::Utime { path, atime, atime_ns, mtime, mtime_ns } => {
                let at = self.reach.at(self.first.set(path)?)?;
                let (atime, mtime) = (TimeSpec::new(atime, atime_ns), TimeSpec::new(mtime, mtime_ns));
                utimensat(at.dir(), at.name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?;
                Ok(put(reply, &DONE))
            }
            Request::Rename { old, new } => self.rename(old, new).map(|()| put(reply, &DONE)),
            Request::Remove { path } => self.remove(path).map(|()| put(reply, &DONE)),
            Request::Lgetxattr { size, path, name } => {
                let name = self.name.set(name)?;
                let target = Target::itself(&self.reach, &mut self.first, path)?;
                answer_value(size, reply, |buffer| sys::getxattr(target.path(), name, buffer, target.last()))
            }
            Request::Llistxattr { size, path } => {
                let target = Target::itself(&self.reach, &mut self.first, path)?;
                answer_value(size, reply, |buffer| sys::listxattr(target.path(), buffer, target.last()))
            }
            Request::Lsetxattr { path, name, value, size, flags } => {
                self.setxattr(path, name, (value, size), flags).map(|()| put(reply, &DONE))
            }
            Request::Lremovexattr { path, name } => {
                let name = self.name.set(name)?;
                let target = Target::itself(&self.reach, &mut self.first, path)?;
                sys::removexattr(target.path(), name, target.last())?;
                Ok(put(reply, &DONE))
            }
            Request::Getversion { path } => {
                let version = self.versions.get(&self.reach, self.first.set(path)?)?;
                Ok(put(reply, &encode_version(version)))
            }
        }
    }

    /// Makes a hard link. The old name is judged before the new one.
    fn link(&mut self, old: &[u8], new: &[u8]) -> Result<(), Errno> {
        let old = self.reach.at(self.first.set(old)?)?;
        let new = match self.second.set(new).and_then(|new| self.reach.parent_and_name(new)) {
            Ok(new) => new,
            // The kernel looks for the old file first.
            Err(second) => {
                fstatat(old.dir(), old.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                return Err(second);
            }
        };
        match linkat(old.dir(), old.name, new.dir(), new.name, LinkatFlags::empty()) {
            // Landlock's word for the export itself; without it the kernel says of any directory:
            Err(Errno::EXDEV) if self.reach.is_root(&old) => return Err(Errno::EPERM),
            result => result?,
        }
        Ok(())
    }

    /// Renames a file. Of the old name, the directory is looked for before the new one is judged.
    fn rename(&mut self, old: &[u8], new: &[u8]) -> Result<(), Errno> {
        let old = self.reach.parent_and_name(self.first.set(old)?)?;
        let new = match self.second.set(new) {
            Ok(new) => self.reach.parent_and_name(new)?,
            Err(Errno::EINVAL) => return Err(Errno::EINVAL),
            Err(second) => {
                // The kernel looks for the old file's directory first, and this asks it to go on to such a path.
                let long = CStr::from_bytes_with_nul(&TOO_LONG).unwrap_or(c"");
                let unusable = if second == Errno::ENOENT { c"" } else { long };
                renameat(old.dir(), old.name, nix::fcntl::AT_FDCWD, unusable)?;
                return Err(second);
            }
        };
        match renameat(old.dir(), old.name, new.dir(), new.name) {
            // Landlock's word for the export itself; without it the kernel says of any root directory:
            Err(Errno::EXDEV) if self.reach.is_root(&old) || self.reach.is_root(&new) => {
                return Err(Errno::EBUSY);
            }
            result => result?,
        }
        Ok(())
    }

    /// Sets an extended attribute to the first `size` bytes of a value.
    fn setxattr(
        &mut self,
        path: &[u8],
        name: &[u8],
        (value, size): (&[u8], u32),
        flags: i32,
    ) -> Result<(), Errno> {
        // The kernel's order: flags, name, size, and only then the file.
        if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
            return Err(Errno::EINVAL);
        }
        let name = self.name.set(name)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= XATTR_SIZE_MAX).ok_or(Errno::E2BIG)?;
        let value = value.get(..size).ok_or(Errno::EINVAL)?;
        let target = Target::itself(&self.reach, &mut self.first, path)?;
        sys::setxattr(target.path(), name, value, flags, target.last())?;
        Ok(())
    }

    fn lstat(&mut self, path: &[u8]) -> Result<FileStat, Errno> {
        let at = self.reach.at(self.first.set(path)?)?;
        let stat = fstatat(at.dir(), at.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        self.looked.remember(path, &stat);
        Ok(stat)
    }

    fn open(&mut self, path: &[u8], flags: OFlag, known: Known) -> Result<Answer, Errno> {
        // On a mount for reading no access times change, and O_NOATIME takes a capability that is not kept for it.
        let flags = if self.readonly { flags - OFlag::O_NOATIME } else { flags };
        if self.readonly && opens_for_change(flags) {
            return Err(Errno::EROFS);
        }
        let Opened { file, pin, .. } = self.reach.open(self.first.set(path)?, flags, known)?;
        if known == Known::Regular && pin.is_some() {
            self.looked.was_pinned();
        }
        Ok(Answer::File(file, pin))
    }

    /// Creates a regular file. One that exists already is opened instead, as [`Self::open`] would, unless the client
    /// asked for `O_EXCL`; without `O_CREAT` none is made. None is made through a symbolic link that leads nowhere: `ELOOP`.
    fn create(
        &mut self,
        path: &[u8],
        flags: OFlag,
        asked: OFlag,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<Answer, Errno> {
        let makes = asked.contains(OFlag::O_CREAT);
        if makes && flags.contains(OFlag::O_DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        let path = self.first.set(path)?;
        let at = self.reach.parent_and_name(path)?;
        let create =
            flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let (reach, protected) = (&self.reach, self.protected);
        let fsuid = self.identity.fsuid(uid);
        // The kernel judges a symbolic link's target by the directory of the target, which is not known here.
        let judge = |stat: &FileStat| {
            let is_judged =
                makes && protected.is_set() && Kind::of(stat) == Kind::File && !reach.is_symlink(path);
            let refuses = is_judged && protected.refuses(&reach.directory_of(path)?, stat, fsuid);
            if refuses { Err(Errno::EACCES) } else { Ok(()) }
        };
        self.identity.with_fsids(uid, gid, || {
            // A file that comes and goes meanwhile sends us from one call to the other and back.
            for _ in 0..CREATE_TRIES {
                if makes {
                    match openat(at.dir(), at.name, create, permissions(mode)) {
                        Err(Errno::EEXIST) if !asked.contains(OFlag::O_EXCL) => {}
                        result => return result.map(|file| Answer::File(file, None)),
                    }
                }
                return match reach.open_judged(path, flags, judge) {
                    Err(Errno::ENOENT) if makes && reach.is_symlink(path) => Err(Errno::ELOOP),
                    Err(Errno::ENOENT) if makes => continue,
                    Ok(opened) if makes && opened.kind == Kind::Directory => {
                        opened.close();
                        Err(Errno::EISDIR)
                    }
                    result => result.map(|Opened { file, pin, .. }| Answer::File(file, pin)),
                };
            }
            Err(Errno::EAGAIN)
        })
    }

    /// Reads a symbolic link. A target that does not fit the client's buffer is `ENAMETOOLONG`: half a target would
    /// be a wrong one.
    fn readlink(&mut self, path: &[u8], size: u32, reply: &mut [u8]) -> Result<Answer, Errno> {
        // Room for a terminator and nothing else is none, whatever the path.
        let room = usize::try_from(size).ok().and_then(|size| size.checked_sub(1)).filter(|room| *room > 0);
        let room = room.ok_or(Errno::EINVAL)?;
        let at = self.reach.at(self.first.set(path)?)?;
        let length = sys::readlinkat(at.dir(), at.name, &mut reply[VALUE_AT..])?;
        if length > room {
            return Err(Errno::ENAMETOOLONG);
        }
        finish_value(reply, length).map(Answer::Bytes)
    }

    /// The status of the file system that the path leads into; a final symbolic link is followed, inside the export.
    fn statfs(&mut self, path: &[u8]) -> Result<StatfsReply, Errno> {
        let path = self.first.set(path)?;
        let status = match self.reach {
            ExportRoot::Rooted { .. } => sys::statfs(path)?,
            ExportRoot::Beneath(_) => sys::fstatfs(self.reach.pin_target(path)?.as_fd())?,
        };
        Ok(statfs_reply(&status))
    }

    /// Changes permission bits; a final symbolic link is followed, inside the export.
    fn chmod(&mut self, path: &[u8], mode: u32) -> Result<(), Errno> {
        let target = Target::behind(&self.reach, &mut self.first, path)?;
        sys::fchmodat(nix::fcntl::AT_FDCWD, target.path(), mode & 0o7777)
    }

    /// Changes a regular file's size; a final symbolic link is followed, inside the export. `truncate(2)` itself opens
    /// nothing and refuses everything else.
    fn truncate(&mut self, path: &[u8], size: i64) -> Result<(), Errno> {
        if size < 0 {
            return Err(Errno::EINVAL);
        }
        let target = Target::behind(&self.reach, &mut self.first, path)?;
        sys::truncate(target.path(), size)
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), Errno> {
        let at = self.reach.parent_and_name(self.first.set(path)?)?;
        match unlinkat(at.dir(), at.name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(at.dir(), at.name, UnlinkatFlags::RemoveDir),
            result => result,
        }
    }
}

/// The path of the regular file that a client was told of by its last request. QEMU asks for a file's status before it opens
/// the file.
struct Looked {
    path: Box<[u8; libc::PATH_MAX as usize]>,
    length: usize,
    /// The file's device, and that of the export's root.
    device: u64,
    root: Option<u64>,
    /// The device of another mount, on which it does not help to know the file.
    other: Option<u64>,
}

impl Looked {
    fn new(reach: &ExportRoot) -> Self {
        let root = reach.at(c"/").and_then(|at| fstatat(at.dir(), at.name, AtFlags::empty()));
        Self {
            path: Box::new([0; libc::PATH_MAX as usize]),
            length: 0,
            device: 0,
            root: root.ok().map(|stat| stat.st_dev),
            other: None,
        }
    }

    fn remember(&mut self, path: &[u8], stat: &FileStat) {
        if Kind::of(stat) == Kind::File
            && self.other != Some(stat.st_dev)
            && let Some(place) = self.path.get_mut(..path.len())
        {
            place.copy_from_slice(path);
            (self.length, self.device) = (path.len(), stat.st_dev);
        }
    }

    /// What is known of the file that a request opens, and forgets it.
    fn take(&mut self, request: &Request<'_>) -> Known {
        let looked = &self.path[..std::mem::take(&mut self.length)];
        match request {
            Request::Open { path, .. } if !looked.is_empty() && *path == looked => Known::Regular,
            _ => Known::Nothing,
        }
    }

    /// The file had to be pinned all the same.
    fn was_pinned(&mut self) {
        self.other = Some(self.device).filter(|_| self.root != Some(self.device));
    }
}

/// How often a create gives way to a file that comes and goes.
const CREATE_TRIES: u32 = 16;

/// The largest value of an extended attribute: `XATTR_SIZE_MAX` of linux/limits.h.
pub(crate) const XATTR_SIZE_MAX: usize = 65536;

/// A path that the kernel refuses with `ENAMETOOLONG` wherever it stands, and its terminator.
const TOO_LONG: [u8; libc::PATH_MAX as usize + 1] = {
    let mut bytes = [b'x'; libc::PATH_MAX as usize + 1];
    bytes[libc::PATH_MAX as usize] = 0;
    bytes
};

/// Stops at a kind of file that mknod(2) does not make, before the path is looked up, as the kernel does.
fn refuse_kind(mode: u32) -> Result<(), Errno> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG | libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO | libc::S_IFSOCK => Ok(()),
        libc::S_IFDIR => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// Permission bits, without the type that may stand above them.
pub(crate) fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}

/// Puts a reply of fixed size into the buffer.
fn put(reply: &mut [u8], bytes: &[u8]) -> Answer {
    reply[..bytes.len()].copy_from_slice(bytes);
    Answer::Bytes(bytes.len())
}

/// Answers with what `read` reads: its length where the client asks for 0 bytes, else the bytes themselves. The client's
/// `size` bounds what is read, the reply buffer bounds `size`.
fn answer_value(
    size: u32,
    reply: &mut [u8],
    read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Answer, Errno> {
    if size == 0 {
        let length = u32::try_from(read(&mut [])?).map_err(|_| Errno::E2BIG)?;
        return Ok(put(reply, &encode_length(length)));
    }
    let wanted = usize::try_from(size).unwrap_or(usize::MAX);
    let value = &mut reply[VALUE_AT..];
    let room = wanted.min(value.len());
    let length = match read(&mut value[..room]) {
        // The client has room for it, the wire has not.
        Err(Errno::ERANGE) if wanted > MAX_VALUE => return Err(Errno::E2BIG),
        result => result?,
    };
    finish_value(reply, length).map(Answer::Bytes)
}

/// The file that a system call without a directory descriptor is about.
enum Target<'p> {
    /// A file of the export, which is this process's root directory.
    Path(&'p CStr),
    /// A pinned file.
    Pinned { _held: OwnedFd, link: MagicLink },
}

impl<'p> Target<'p> {
    /// What the path names, be it a symbolic link.
    fn itself(reach: &ExportRoot, buffer: &'p mut PathBuffer, path: &[u8]) -> Result<Self, Errno> {
        Self::of(reach, buffer.set(path)?, ExportRoot::pin)
    }

    /// What the path leads to, through a final symbolic link too.
    fn behind(reach: &ExportRoot, buffer: &'p mut PathBuffer, path: &[u8]) -> Result<Self, Errno> {
        Self::of(reach, buffer.set(path)?, ExportRoot::pin_target)
    }

    fn of(
        reach: &ExportRoot,
        path: &'p CStr,
        pin: impl FnOnce(&ExportRoot, &CStr) -> Result<OwnedFd, Errno>,
    ) -> Result<Self, Errno> {
        match reach {
            ExportRoot::Rooted { .. } => Ok(Self::Path(path)),
            ExportRoot::Beneath(_) => {
                let pin = pin(reach, path)?;
                let link = MagicLink::of(&pin);
                Ok(Self::Pinned { _held: pin, link })
            }
        }
    }

    fn path(&self) -> &CStr {
        match self {
            Self::Path(path) => path,
            Self::Pinned { link, .. } => link.name(),
        }
    }

    /// For a call on the file itself: the magic link must be followed, a link of the export's must not.
    fn last(&self) -> Final {
        match self {
            Self::Path(_) => Final::Link,
            Self::Pinned { .. } => Final::Target,
        }
    }
}

/// A file system's status as the wire has it.
#[allow(
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "field types differ by architecture and libc"
)]
pub(crate) fn statfs_reply(status: &libc::statfs) -> StatfsReply {
    let fsid = sys::fsid_halves(status);
    StatfsReply {
        kind: status.f_type as u64,
        bsize: status.f_bsize as u64,
        blocks: status.f_blocks as u64,
        bfree: status.f_bfree as u64,
        bavail: status.f_bavail as u64,
        files: status.f_files as u64,
        ffree: status.f_ffree as u64,
        // Sign-extended, as the original has it.
        fsid: [i64::from(fsid[0]) as u64, i64::from(fsid[1]) as u64],
        namelen: status.f_namelen as u64,
        frsize: status.f_frsize as u64,
    }
}
