//! One function a request: what it does to the export, and its reply.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, openat, renameat};
use nix::sys::stat::{FileStat, SFlag, makedev, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::directory::{Directory, mode_of};
use super::locks::Answer;
use super::memory::Buffers;
use super::names::Name;
use super::node::Node;
use super::qid;
use super::session::{Fid, Held, LEAST_MSIZE, MOST_MSIZE, NewValue, Session};
use super::wire::{
    Attributes, DATA_AT, Lock, MOST_NAMES, NONE, Names, Qid, Reply, Request, Status, VERSION, WRITE_HEAD,
};
use crate::helper::export::{Kind, LEASE_PATIENCE};
use crate::helper::identity::NO_CHANGE;
use crate::helper::operations::{XATTR_SIZE_MAX, permissions, statfs_reply};
use crate::helper::sys::{self, Final};

/// Whether a request may wait for a disk, or for another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It may not: it says that it would.
    No,
    /// It may.
    Yes,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// The reply stands in its buffer, and so many bytes of data behind it in the guest's memory already.
    Reply(usize),
    /// It would wait, and nothing was done yet.
    WouldWait,
}

/// How often an open that waits for a lease looks whether it is gone.
const LEASE_PAUSE: Duration = Duration::from_millis(10);

/// What a request is done with.
pub(crate) struct Context<'c, 'b> {
    /// Whose it is.
    pub session: &'c Session,
    /// Where its data are, and where the data of its reply go.
    pub buffers: &'c Buffers<'c>,
    /// Its reply.
    pub reply: &'c mut Reply<'b>,
    /// Whether it may wait.
    pub patience: Patience,
}

impl Context<'_, '_> {
    /// Does what `request` asks.
    pub(crate) fn perform(&mut self, request: &Request<'_>) -> Result<Done, Errno> {
        if !self.session.has_begun() && !matches!(request, Request::Version { .. }) {
            return Err(Errno::EIO);
        }
        if self.session.export.readonly && changes(request) {
            return Err(Errno::EROFS);
        }
        match *request {
            Request::Version { msize, version } => self.version(msize, version),
            Request::Auth { .. } => Err(Errno::EOPNOTSUPP),
            Request::Attach { fid, uid, .. } => self.attach(fid, uid),
            Request::Flush { .. } => Ok(Done::Reply(0)),
            Request::Walk { fid, newfid, names } => self.walk(fid, newfid, &names),
            Request::Clunk { fid } => self.clunk(fid),
            Request::Remove { fid } => self.remove(fid),
            Request::Statfs { fid } => self.statfs(fid),
            Request::Lopen { fid, flags } => self.open(fid, flags),
            Request::Lcreate { fid, name, flags, mode, gid } => self.create(fid, name, flags, mode, gid),
            Request::Symlink { fid, name, target, gid } => {
                let target = symlink_target(target)?;
                self.make(fid, name, gid, |parent, name| symlinkat(target.as_c_str(), parent.as_fd(), name))
            }
            Request::Mknod { fid, name, mode, major, minor, gid } => {
                let kind = SFlag::from_bits_retain(mode & libc::S_IFMT);
                let device = makedev(major.into(), minor.into());
                let mode = permissions(mode);
                self.make(fid, name, gid, |parent, name| mknodat(parent.as_fd(), name, kind, mode, device))
            }
            Request::Mkdir { fid, name, mode, gid } => {
                self.make(fid, name, gid, |parent, name| mkdirat(parent.as_fd(), name, permissions(mode)))
            }
            Request::Link { directory, fid, name } => self.link(directory, fid, name),
            Request::Rename { fid, directory, name } => self.rename(fid, directory, name),
            Request::Renameat { from, old, to, new } => self.renameat(from, old, to, new),
            Request::Unlinkat { fid, name, flags } => self.unlinkat(fid, name, flags),
            Request::Readlink { fid } => self.readlink(fid),
            Request::Getattr { fid, .. } => self.getattr(fid),
            Request::Setattr { fid, attributes } => self.setattr(fid, &attributes),
            Request::Xattrwalk { fid, newfid, name } => self.xattrwalk(fid, newfid, name),
            Request::Xattrcreate { fid, name, size, flags } => self.xattrcreate(fid, name, size, flags),
            Request::Readdir { fid, offset, count } => self.readdir(fid, offset, count),
            Request::Read { fid, offset, count } => self.read(fid, offset, count),
            Request::Write { fid, offset, count } => self.write(fid, offset, count),
            Request::Fsync { fid, datasync } => self.fsync(fid, datasync != 0),
            Request::Lock { fid, kind, start, length, process, client, .. } => {
                self.lock(fid, &Lock { kind, start, length, process, client })
            }
            Request::Getlock { fid, kind, start, length, process, client } => {
                self.getlock(fid, &Lock { kind, start, length, process, client })
            }
        }
    }

    fn version(&mut self, msize: u32, version: &[u8]) -> Result<Done, Errno> {
        let msize = usize::try_from(msize).unwrap_or(MOST_MSIZE).min(MOST_MSIZE);
        if msize < LEAST_MSIZE {
            return Err(Errno::EMSGSIZE);
        }
        self.session.begin(msize);
        let version = if version == VERSION { VERSION } else { b"unknown" };
        self.reply.u32(u32::try_from(msize).unwrap_or(u32::MAX)).string(version);
        Ok(Done::Reply(0))
    }

    fn attach(&mut self, fid: u32, uid: u32) -> Result<Done, Errno> {
        let export = &self.session.export;
        let qid = export.qid(&export.root, &export.root.status()?);
        // A guest that names no user does as this process.
        let uid = if uid == NONE { NO_CHANGE } else { uid };
        self.session.insert(fid, Fid { node: Arc::clone(&export.root), uid, held: Held::Path })?;
        self.reply.qid(qid);
        Ok(Done::Reply(0))
    }

    fn walk(&mut self, number: u32, newfid: u32, names: &Names<'_>) -> Result<Done, Errno> {
        let fid = self.session.fid(number)?;
        if !matches!(fid.held, Held::Path) && names.iter().next().is_some() {
            return Err(Errno::EBUSY);
        }
        let mut node = Arc::clone(&fid.node);
        let mut qids = [Qid::default(); MOST_NAMES];
        let mut count = 0;
        for (name, place) in names.iter().zip(&mut qids) {
            let found = node.walk(name).and_then(|found| found.status().map(|stat| (found, stat)));
            let (found, stat) = match found {
                Ok(found) => found,
                Err(errno) if count == 0 => return Err(errno),
                // The names so far were found; the fid is not made.
                Err(_) => break,
            };
            *place = self.session.export.qid(&found, &stat);
            node = found;
            count += 1;
        }
        if count == names.iter().count() {
            let new = Fid { node, uid: fid.uid, held: Held::Path };
            if newfid == number {
                self.session.replace(number, &fid, new)?;
            } else {
                self.session.insert(newfid, new)?;
            }
        }
        self.reply.u16(u16::try_from(count).unwrap_or(0));
        for qid in &qids[..count] {
            self.reply.qid(*qid);
        }
        Ok(Done::Reply(0))
    }

    fn clunk(&mut self, number: u32) -> Result<Done, Errno> {
        let fid = self.session.remove(number)?;
        if let Held::NewValue(value) = &fid.held {
            set_value(&fid.node, &value.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        Ok(Done::Reply(0))
    }

    fn remove(&mut self, number: u32) -> Result<Done, Errno> {
        // The fid is gone whatever becomes of the file.
        let fid = self.session.remove(number)?;
        if self.session.export.readonly {
            return Err(Errno::EROFS);
        }
        let (parent, name) = fid.node.place()?;
        let kind = Kind::of(&fid.node.status()?);
        let how = if kind == Kind::Directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        unlinkat(parent.as_fd(), name.as_c_str(), how)?;
        Ok(Done::Reply(0))
    }

    fn statfs(&mut self, fid: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let status = statfs_reply(&sys::fstatfs(fid.node.as_fd())?);
        let half = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let fsid = status.fsid[0] & 0xffff_ffff | status.fsid[1] << 32;
        self.reply.u32(half(status.kind & 0xffff_ffff)).u32(half(status.bsize));
        self.reply.u64(status.blocks).u64(status.bfree).u64(status.bavail);
        self.reply.u64(status.files).u64(status.ffree).u64(fsid).u32(half(status.namelen));
        Ok(Done::Reply(0))
    }

    fn open(&mut self, number: u32, flags: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(number)?;
        if !matches!(fid.held, Held::Path) {
            return Err(Errno::EBUSY);
        }
        let flags = self.open_flags(flags)?;
        let stat = fid.node.status()?;
        let Some(file) = self.patiently(|| fid.node.open_judged(&stat, flags))? else {
            return Ok(Done::WouldWait);
        };
        let held = match Kind::of(&stat) {
            Kind::Directory => Held::Directory(Mutex::new(Directory::new(file))),
            _ => Held::File(file),
        };
        let qid = self.session.export.qid(&fid.node, &stat);
        self.session.replace(number, &fid, Fid { node: Arc::clone(&fid.node), uid: fid.uid, held })?;
        self.reply.qid(qid).u32(0);
        Ok(Done::Reply(0))
    }

    /// What an open says to the kernel, of what the guest says. `EROFS` where the export is not to be changed.
    fn open_flags(&self, flags: u32) -> Result<OFlag, Errno> {
        let flags = open_flags(flags);
        if !self.session.export.readonly {
            return Ok(flags);
        }
        if flags & OFlag::O_ACCMODE != OFlag::O_RDONLY || flags.contains(OFlag::O_TRUNC) {
            return Err(Errno::EROFS);
        }
        // On a mount for reading no access times change, and O_NOATIME takes a capability that is not kept for it.
        Ok(flags - OFlag::O_NOATIME)
    }

    /// Opens a file on which another program may hold a lease. None where that is to be waited for elsewhere.
    fn patiently<T>(&self, mut open: impl FnMut() -> Result<T, Errno>) -> Result<Option<T>, Errno> {
        let start = Instant::now();
        loop {
            match open() {
                Err(Errno::EAGAIN) if self.patience == Patience::No => return Ok(None),
                Err(Errno::EAGAIN) if start.elapsed() < LEASE_PATIENCE => std::thread::sleep(LEASE_PAUSE),
                result => return result.map(Some),
            }
        }
    }

    fn create(&mut self, number: u32, name: &[u8], flags: u32, mode: u32, gid: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(number)?;
        if !matches!(fid.held, Held::Path) {
            return Err(Errno::EBUSY);
        }
        let (checked, exclusive) = (Name::of_new(name)?, flags & P9_EXCL != 0);
        let flags = open_flags(flags) - OFlag::O_DIRECTORY;
        let made = self.patiently(|| self.create_or_open(&fid, &checked, flags, exclusive, mode, gid))?;
        let Some(file) = made else { return Ok(Done::WouldWait) };
        let file = Arc::new(file);
        let pinned =
            Arc::new(file.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?);
        let node = fid.node.child(pinned, name);
        let qid = self.session.export.qid(&node, &node.status()?);
        let file = Arc::try_unwrap(file).map_err(|_| Errno::EBADF)?;
        self.session.replace(number, &fid, Fid { node, uid: fid.uid, held: Held::File(file) })?;
        self.reply.qid(qid).u32(0);
        Ok(Done::Reply(0))
    }

    /// Makes a regular file, or opens the one that is there unless the guest wants none to be.
    fn create_or_open(
        &self,
        fid: &Fid,
        name: &Name,
        flags: OFlag,
        exclusive: bool,
        mode: u32,
        gid: u32,
    ) -> Result<OwnedFd, Errno> {
        /// How often a create gives way to a file that comes and goes.
        const TRIES: u32 = 16;

        let export = &self.session.export;
        let make =
            flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let fsuid = export.identity.fsuid(fid.uid);
        export.identity.with_fsids(fid.uid, gid, || {
            for _ in 0..TRIES {
                match openat(fid.node.as_fd(), name.as_c_str(), make, permissions(mode)) {
                    Err(Errno::EEXIST) if !exclusive => {}
                    result => return result,
                }
                let there = match fid.node.walk(name.as_c_str().to_bytes()) {
                    Err(Errno::ENOENT) => continue,
                    there => there?,
                };
                let stat = there.status()?;
                let is_protected = export.protected.is_set() && Kind::of(&stat) == Kind::File;
                if is_protected && export.protected.refuses(&fid.node.status()?, &stat, fsuid) {
                    return Err(Errno::EACCES);
                }
                if Kind::of(&stat) == Kind::Directory {
                    return Err(Errno::EISDIR);
                }
                return there.open_judged(&stat, flags);
            }
            Err(Errno::ENOENT)
        })
    }

    /// Makes a name in a directory as the guest's user, and replies with the qid of what has that name now.
    fn make(
        &mut self,
        number: u32,
        name: &[u8],
        gid: u32,
        make: impl Fn(&Node, &CStr) -> Result<(), Errno>,
    ) -> Result<Done, Errno> {
        let fid = self.session.fid(number)?;
        let checked = Name::of_new(name)?;
        let export = &self.session.export;
        export.identity.with_fsids(fid.uid, gid, || make(&fid.node, checked.as_c_str()))?;
        let qid = export.qid(&fid.node, &fid.node.status_of(&checked)?);
        self.reply.qid(qid);
        Ok(Done::Reply(0))
    }

    fn link(&mut self, directory: u32, fid: u32, name: &[u8]) -> Result<Done, Errno> {
        let (directory, fid) = (self.session.fid(directory)?, self.session.fid(fid)?);
        let name = Name::of_new(name)?;
        // The magic link leads to the file itself, be it a symbolic link.
        let how = LinkatFlags::AT_SYMLINK_FOLLOW;
        linkat(AT_FDCWD, fid.node.link().name(), directory.node.as_fd(), name.as_c_str(), how)?;
        Ok(Done::Reply(0))
    }

    fn rename(&mut self, fid: u32, directory: u32, name: &[u8]) -> Result<Done, Errno> {
        let (fid, directory) = (self.session.fid(fid)?, self.session.fid(directory)?);
        let (parent, old) = fid.node.place()?;
        let new = Name::of_changed(name)?;
        renameat(parent.as_fd(), old.as_c_str(), directory.node.as_fd(), new.as_c_str())?;
        Ok(Done::Reply(0))
    }

    fn renameat(&mut self, from: u32, old: &[u8], to: u32, new: &[u8]) -> Result<Done, Errno> {
        let (from, to) = (self.session.fid(from)?, self.session.fid(to)?);
        let (old, new) = (Name::of_changed(old)?, Name::of_changed(new)?);
        renameat(from.node.as_fd(), old.as_c_str(), to.node.as_fd(), new.as_c_str())?;
        Ok(Done::Reply(0))
    }

    fn unlinkat(&mut self, fid: u32, name: &[u8], flags: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let name = Name::of_changed(name)?;
        let how = match flags {
            0 => UnlinkatFlags::NoRemoveDir,
            // P9_DOTL_AT_REMOVEDIR.
            0x200 => UnlinkatFlags::RemoveDir,
            _ => return Err(Errno::EINVAL),
        };
        unlinkat(fid.node.as_fd(), name.as_c_str(), how)?;
        Ok(Done::Reply(0))
    }

    fn readlink(&mut self, fid: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let mut target = [0; libc::PATH_MAX as usize];
        let length = fid.node.readlink(&mut target)?;
        let target =
            target.get(..length).filter(|it| it.len() <= self.session.room(2)).ok_or(Errno::ENAMETOOLONG)?;
        self.reply.string(target);
        Ok(Done::Reply(0))
    }

    fn getattr(&mut self, fid: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let stat = fid.node.status()?;
        let qid = self.session.export.qid(&fid.node, &stat);
        self.reply.attributes(&status(qid, &stat));
        Ok(Done::Reply(0))
    }

    fn setattr(&mut self, fid: u32, attributes: &Attributes) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let has = |bit| attributes.valid & bit != 0;
        if has(SET_MODE) {
            fid.node.chmod(attributes.mode)?;
        }
        if has(SET_ATIME | SET_MTIME) {
            let time = |bit, given, (seconds, nanoseconds): (u64, u64)| match (has(bit), has(given)) {
                (false, _) => TimeSpec::UTIME_OMIT,
                (true, false) => TimeSpec::UTIME_NOW,
                (true, true) => {
                    TimeSpec::new(seconds.cast_signed(), nanoseconds.min(u32::MAX.into()).cast_signed())
                }
            };
            let atime = time(SET_ATIME, SET_ATIME_GIVEN, attributes.atime);
            let mtime = time(SET_MTIME, SET_MTIME_GIVEN, attributes.mtime);
            fid.node.utimens(&atime, &mtime)?;
        }
        // Even a change of nothing changes ctime, which is all that SET_CTIME asks for.
        if has(SET_UID | SET_GID) || attributes.valid & !SET_ANY_TIME_GIVEN == SET_CTIME {
            let id = |bit, id| Some(id).filter(|id| has(bit) && *id != NO_CHANGE);
            fid.node.chown(id(SET_UID, attributes.uid), id(SET_GID, attributes.gid))?;
        }
        if has(SET_SIZE) {
            let size = i64::try_from(attributes.size).map_err(|_| Errno::EFBIG)?;
            match &fid.held {
                Held::File(file) if is_open_to_write(file)? => nix::unistd::ftruncate(file, size)?,
                _ => fid.node.truncate(size)?,
            }
        }
        Ok(Done::Reply(0))
    }

    fn xattrwalk(&mut self, fid: u32, newfid: u32, name: &[u8]) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let name = if name.is_empty() { None } else { Some(xattr_name(name)?) };
        let mut value = vec![0; XATTR_SIZE_MAX];
        let length = fid.node.getxattr(name.as_deref(), &mut value)?;
        value.truncate(length);
        value.shrink_to_fit();
        let size = u64::try_from(length).unwrap_or(u64::MAX);
        let new = Fid { node: Arc::clone(&fid.node), uid: fid.uid, held: Held::Value(value) };
        self.session.insert(newfid, new)?;
        self.reply.u64(size);
        Ok(Done::Reply(0))
    }

    fn xattrcreate(&mut self, number: u32, name: &[u8], size: u64, flags: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(number)?;
        if !matches!(fid.held, Held::Path) {
            return Err(Errno::EBUSY);
        }
        let name = xattr_name(name)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= XATTR_SIZE_MAX).ok_or(Errno::E2BIG)?;
        let flags = i32::try_from(flags).map_err(|_| Errno::EINVAL)?;
        if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
            return Err(Errno::EINVAL);
        }
        let held = Held::NewValue(Mutex::new(NewValue { name, bytes: Vec::new(), size, flags }));
        self.session.replace(number, &fid, Fid { node: Arc::clone(&fid.node), uid: fid.uid, held })?;
        Ok(Done::Reply(0))
    }

    fn readdir(&mut self, fid: u32, offset: u64, count: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let Held::Directory(directory) = &fid.held else { return Err(Errno::ENOTDIR) };
        let room = usize::try_from(count).unwrap_or(usize::MAX).min(self.session.room(4));
        let room = room.min(self.buffers.room_behind(DATA_AT));
        let mut directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
        let device = fid.node.status()?.st_dev;
        let (export, reply) = (&self.session.export, &mut *self.reply);
        let start = reply.len();
        reply.u32(0);
        directory.read(offset, room, |entry| {
            let path = export.file_systems.number(fid.node.as_fd(), device, entry.inode);
            let kind = qid::kind(mode_of(entry.kind));
            reply
                .qid(Qid { kind, version: 0, path })
                .u64(entry.next)
                .u8(entry.kind)
                .string(entry.name.to_bytes());
        })?;
        let length = reply.len() - start - 4;
        reply.set_u32(start, u32::try_from(length).unwrap_or(0));
        Ok(Done::Reply(0))
    }

    fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.session.room(4));
        let count = count.min(self.buffers.room_behind(DATA_AT));
        let read = match &fid.held {
            Held::File(file) => {
                let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
                match self.buffers.read_from(
                    file.as_fd(),
                    DATA_AT,
                    count,
                    offset,
                    self.patience == Patience::Yes,
                ) {
                    Err(Errno::EAGAIN | Errno::EOPNOTSUPP) if self.patience == Patience::No => {
                        return Ok(Done::WouldWait);
                    }
                    read => read?,
                }
            }
            Held::Value(value) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(value.len());
                let bytes = &value[start..value.len().min(start.saturating_add(count))];
                self.buffers.put(DATA_AT, bytes)?;
                bytes.len()
            }
            Held::Directory(_) => return Err(Errno::EISDIR),
            Held::Path | Held::NewValue(_) => return Err(Errno::EBADF),
        };
        self.reply.u32(u32::try_from(read).unwrap_or(0));
        Ok(Done::Reply(read))
    }

    fn write(&mut self, fid: u32, offset: u64, count: u32) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > self.buffers.data_behind(WRITE_HEAD) {
            return Err(Errno::EPROTO);
        }
        let written = match &fid.held {
            Held::File(file) => {
                let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
                match self.buffers.write_to(
                    file.as_fd(),
                    WRITE_HEAD,
                    count,
                    offset,
                    self.patience == Patience::Yes,
                ) {
                    Err(Errno::EAGAIN | Errno::EOPNOTSUPP) if self.patience == Patience::No => {
                        return Ok(Done::WouldWait);
                    }
                    written => written?,
                }
            }
            Held::NewValue(value) => {
                let mut value = value.lock().unwrap_or_else(PoisonError::into_inner);
                let at = usize::try_from(offset).unwrap_or(usize::MAX);
                // The guest writes from the start to the end.
                if at != value.bytes.len() || count > value.size - value.bytes.len() {
                    return Err(Errno::ENOSPC);
                }
                let start = value.bytes.len();
                value.bytes.resize(start + count, 0);
                self.buffers.take(WRITE_HEAD, &mut value.bytes[start..])?;
                count
            }
            Held::Path | Held::Value(_) | Held::Directory(_) => return Err(Errno::EBADF),
        };
        self.reply.u32(u32::try_from(written).unwrap_or(0));
        Ok(Done::Reply(0))
    }

    fn fsync(&mut self, fid: u32, data_only: bool) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        if self.patience == Patience::No {
            return Ok(Done::WouldWait);
        }
        match &fid.held {
            Held::File(file) if data_only => nix::unistd::fdatasync(file)?,
            Held::File(file) => nix::unistd::fsync(file)?,
            Held::Directory(directory) => {
                nix::unistd::fsync(directory.lock().unwrap_or_else(PoisonError::into_inner).as_fd())?;
            }
            Held::Path | Held::Value(_) | Held::NewValue(_) => return Err(Errno::EBADF),
        }
        Ok(Done::Reply(0))
    }

    fn lock(&mut self, fid: u32, lock: &Lock<'_>) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let answer = match &fid.held {
            Held::File(_) => {
                let stat = fid.node.status()?;
                let open = || self.open_to_lock(&fid.node, &stat);
                self.session.locks().set((stat.st_dev, stat.st_ino), lock, open)?
            }
            _ => Answer::Error,
        };
        self.reply.u8(answer as u8);
        Ok(Done::Reply(0))
    }

    fn getlock(&mut self, fid: u32, lock: &Lock<'_>) -> Result<Done, Errno> {
        let fid = self.session.fid(fid)?;
        let Held::File(_) = &fid.held else { return Err(Errno::EBADF) };
        let stat = fid.node.status()?;
        let open = || self.open_to_lock(&fid.node, &stat);
        let conflict = self.session.locks().conflict((stat.st_dev, stat.st_ino), lock, open)?;
        let (kind, start, length, process) =
            conflict.unwrap_or((super::locks::UNLOCK, lock.start, lock.length, lock.process));
        self.reply.u8(kind).u64(start).u64(length).u32(process).string(lock.client);
        Ok(Done::Reply(0))
    }

    /// Opens a file once more, to hold locks on it.
    fn open_to_lock(&self, node: &Node, stat: &FileStat) -> Result<OwnedFd, Errno> {
        let ways = if self.session.export.readonly {
            &[OFlag::O_RDONLY][..]
        } else {
            &[OFlag::O_RDWR, OFlag::O_RDONLY]
        };
        let mut last = Errno::EBADF;
        for way in ways {
            match node.open_judged(stat, *way | OFlag::O_NONBLOCK) {
                Ok(file) => return Ok(file),
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }
}

/// Whether a request changes something, whatever its arguments. An open and a `Remove` say so themselves.
fn changes(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Lcreate { .. }
            | Request::Symlink { .. }
            | Request::Mknod { .. }
            | Request::Rename { .. }
            | Request::Setattr { .. }
            | Request::Xattrcreate { .. }
            | Request::Link { .. }
            | Request::Mkdir { .. }
            | Request::Renameat { .. }
            | Request::Unlinkat { .. }
            | Request::Write { .. }
    )
}

// The bits of `valid` in a Setattr (`P9_ATTR_*`).
const SET_MODE: u32 = 1;
const SET_UID: u32 = 1 << 1;
const SET_GID: u32 = 1 << 2;
const SET_SIZE: u32 = 1 << 3;
const SET_ATIME: u32 = 1 << 4;
const SET_MTIME: u32 = 1 << 5;
const SET_CTIME: u32 = 1 << 6;
const SET_ATIME_GIVEN: u32 = 1 << 7;
const SET_MTIME_GIVEN: u32 = 1 << 8;
const SET_ANY_TIME_GIVEN: u32 = SET_ATIME_GIVEN | SET_MTIME_GIVEN;

/// `O_EXCL` of the wire.
const P9_EXCL: u32 = 0o200;

/// The open flags of the wire that mean something here, and what the kernel calls them on this machine. What else there is is ignored:
/// O_CREAT and O_EXCL follow from the type of the request, O_DIRECT takes buffers that the guest's are not, the others speak of
/// this process.
const FLAGS: [(u32, OFlag); 9] = [
    (0o1000, OFlag::O_TRUNC),
    (0o2000, OFlag::O_APPEND),
    (0o4000, OFlag::O_NONBLOCK),
    (0o10000, OFlag::O_DSYNC),
    (0o100_000, OFlag::O_LARGEFILE),
    (0o200_000, OFlag::O_DIRECTORY),
    (0o400_000, OFlag::O_NOFOLLOW),
    (0o1_000_000, OFlag::O_NOATIME),
    (0o4_000_000, OFlag::O_SYNC),
];

fn open_flags(wire: u32) -> OFlag {
    let access = OFlag::from_bits_retain((wire & 0o3).cast_signed());
    let named = FLAGS.iter().filter(|(bit, _)| wire & bit != 0);
    named.fold(access, |flags, (_, flag)| flags | *flag)
}

fn is_open_to_write(file: &OwnedFd) -> Result<bool, Errno> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    Ok(flags & OFlag::O_ACCMODE != OFlag::O_RDONLY)
}

fn symlink_target(target: &[u8]) -> Result<CString, Errno> {
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    if target.len() >= libc::PATH_MAX.unsigned_abs() as usize {
        return Err(Errno::ENAMETOOLONG);
    }
    CString::new(target).map_err(|_| Errno::EINVAL)
}

/// The name of an extended attribute: what the kernel says of one that is no name, it says before it looks at the file.
fn xattr_name(name: &[u8]) -> Result<CString, Errno> {
    if name.is_empty() || name.len() > 255 {
        return Err(Errno::ERANGE);
    }
    CString::new(name).map_err(|_| Errno::EINVAL)
}

/// Sets an extended attribute when its fid is let go. One without a value that must be there already is what a guest's
/// removexattr(2) becomes.
fn set_value(node: &Node, value: &NewValue) -> Result<(), Errno> {
    if value.bytes.len() != value.size {
        return Err(Errno::EINVAL);
    }
    if value.size == 0 && value.flags & libc::XATTR_REPLACE != 0 {
        return sys::removexattr(node.link().name(), &value.name, Final::Target);
    }
    sys::setxattr(node.link().name(), &value.name, &value.bytes, value.flags, Final::Target)
}

#[allow(
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "field types differ by architecture and libc"
)]
fn status(qid: Qid, stat: &FileStat) -> Status {
    let time = |seconds: i64, nanoseconds: i64| (seconds.cast_unsigned(), nanoseconds.cast_unsigned());
    Status {
        qid,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        nlink: stat.st_nlink as u64,
        rdev: stat.st_rdev as u64,
        size: stat.st_size as u64,
        blksize: stat.st_blksize as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}
