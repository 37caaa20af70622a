//! What the guest holds: numbers (fids) for files of the export.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::directory::Directory;
use super::locks::Locks;
use super::node::Node;
use super::qid::FileSystems;
use super::wire::{HEAD, Qid};
use crate::helper::export::ExportRoot;
use crate::helper::identity::Identity;
use crate::helper::sticky::ProtectedRegular;

/// The largest messages there are, in bytes: what the guest may ask for at the most.
pub(crate) const MOST_MSIZE: usize = 1 << 20;
/// The smallest that a session has room in.
pub(crate) const LEAST_MSIZE: usize = 4096;

/// The export, and how it is served.
pub(crate) struct Export {
    /// Its directory.
    pub root: Arc<Node>,
    /// Whose files are made.
    pub identity: Identity,
    /// Whether every change is `EROFS`.
    pub readonly: bool,
    /// The host's setting.
    pub protected: ProtectedRegular,
    /// Numbers of files.
    pub file_systems: FileSystems,
}

impl Export {
    /// The export that is reached by `reach`.
    pub(crate) fn new(
        reach: &ExportRoot,
        identity: Identity,
        readonly: bool,
        protected: ProtectedRegular,
    ) -> Result<Self, Errno> {
        let root = Node::root(reach.pin(c"/")?);
        let file_systems = FileSystems::new(root.status()?.st_dev);
        Ok(Self { root, identity, readonly, protected, file_systems })
    }

    /// The qid of a file whose status is known.
    pub(crate) fn qid(&self, node: &Node, stat: &FileStat) -> Qid {
        self.file_systems.qid(node.as_fd(), stat)
    }
}

/// What a fid is for.
pub(crate) enum Held {
    /// A file that is not open.
    Path,
    /// An open regular file.
    File(OwnedFd),
    /// An open directory.
    Directory(Mutex<Directory>),
    /// The value of an extended attribute, or the list of their names, to be read.
    Value(Vec<u8>),
    /// An extended attribute that is being set.
    NewValue(Mutex<NewValue>),
}

/// An extended attribute that is being set.
pub(crate) struct NewValue {
    /// Its name, terminated.
    pub name: std::ffi::CString,
    /// The bytes so far; there is room for all.
    pub bytes: Vec<u8>,
    /// How many there are to be.
    pub size: usize,
    /// `XATTR_CREATE` and `XATTR_REPLACE`.
    pub flags: i32,
}

/// A file that the guest holds.
pub(crate) struct Fid {
    /// The file.
    pub node: Arc<Node>,
    /// As whom the guest does: the user that it attached as.
    pub uid: u32,
    /// What for.
    pub held: Held,
}

/// One guest's session.
pub(crate) struct Session {
    /// What is served.
    pub export: Export,
    fids: Mutex<HashMap<u32, Arc<Fid>>>,
    locks: Mutex<Locks>,
    msize: AtomicUsize,
}

impl Session {
    /// A session that has not begun.
    pub(crate) fn new(export: Export) -> Self {
        Self { export, fids: Mutex::default(), locks: Mutex::default(), msize: AtomicUsize::new(0) }
    }

    /// Begins anew: what was held is let go, and messages have so many bytes at the most.
    pub(crate) fn begin(&self, msize: usize) {
        self.end();
        self.msize.store(msize, Ordering::Relaxed);
    }

    /// Lets go of all.
    pub(crate) fn end(&self) {
        let fids = std::mem::take(&mut *self.fids());
        self.locks().clear();
        drop(fids);
    }

    /// The most bytes of a message.
    pub(crate) fn msize(&self) -> usize {
        self.msize.load(Ordering::Relaxed)
    }

    /// The most bytes of a message behind its head and `fields` bytes more.
    pub(crate) fn room(&self, fields: usize) -> usize {
        self.msize().saturating_sub(HEAD + fields)
    }

    fn fids(&self) -> MutexGuard<'_, HashMap<u32, Arc<Fid>>> {
        self.fids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest's locks.
    pub(crate) fn locks(&self) -> MutexGuard<'_, Locks> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a guest has begun a session here. One that has begun with a process before this one holds nothing any more.
    pub(crate) fn has_begun(&self) -> bool {
        self.msize() > 0
    }

    /// What a fid is. `EBADF` where it is nothing.
    pub(crate) fn fid(&self, number: u32) -> Result<Arc<Fid>, Errno> {
        self.fids().get(&number).cloned().ok_or(Errno::EBADF)
    }

    /// Makes a fid. `EBADF` where it is one already.
    pub(crate) fn insert(&self, number: u32, fid: Fid) -> Result<(), Errno> {
        let mut fids = self.fids();
        if fids.contains_key(&number) {
            return Err(Errno::EBADF);
        }
        fids.insert(number, Arc::new(fid));
        Ok(())
    }

    /// Has a fid stand for something else, if it still is what it was.
    pub(crate) fn replace(&self, number: u32, old: &Arc<Fid>, fid: Fid) -> Result<(), Errno> {
        let replaced = {
            let mut fids = self.fids();
            let place = fids.get_mut(&number).filter(|it| Arc::ptr_eq(it, old)).ok_or(Errno::EBADF)?;
            std::mem::replace(place, Arc::new(fid))
        };
        // Its descriptors are closed when nobody waits for the numbers.
        drop(replaced);
        Ok(())
    }

    /// Takes a fid away. `EBADF` where it is none.
    pub(crate) fn remove(&self, number: u32) -> Result<Arc<Fid>, Errno> {
        self.fids().remove(&number).ok_or(Errno::EBADF)
    }
}
