//! A tree of files, and its directories by descriptors: nothing in here is ever reached by a path from outside.
//!
//! The tree is looked at through a mount of our own where we may make one: on it devices are dead (`nodev`), and
//! looking at directories and symbolic links leaves no trace (`noatime`).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::entry::{Identity, Inode, Kind};
use super::pin::{BENEATH, Pin, stat};
use super::sys;

/// How much of a path the kernel takes at once: `PATH_MAX` with room for the terminator.
const PATH_ROOM: usize = 4000;

/// How many directories are kept open at most, to come back to them quickly.
const MOST_OPEN: usize = 1024;

/// A tree of files.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Arc<Directory>,
    inode: Inode,
    shared: Arc<Shared>,
}

/// What all directories of a tree share.
#[derive(Debug)]
struct Shared {
    /// Directories that may still be kept open.
    room: AtomicUsize,
    /// Whether opening a device would reach its driver.
    devices: bool,
}

impl Tree {
    /// Opens the directory at `path`, which the admin named: here symbolic links are followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let given = rustix::fs::open(path, flags, Mode::empty())?;
        // Without the right to mount (outside of root's own namespace, say) devices are kept from being opened by
        // looking twice, and the times of reading by O_NOATIME.
        let (root, devices) = match sys::private_mount(given.as_fd()) {
            Ok(root) => (rustix::fs::openat(&root, c".", flags, Mode::empty())?, false),
            Err(_) => (given, true),
        };
        let inode = stat(root.as_fd())?;
        let shared = Arc::new(Shared { room: AtomicUsize::new(descriptors()), devices });
        let root = Directory {
            parent: None,
            name: CString::default(),
            identity: OnceLock::from(inode.identity),
            kept: Mutex::new(Some(Arc::new(root))),
            mark: AtomicU64::new(0),
            shared: Arc::clone(&shared),
        };
        Ok(Self { root: Arc::new(root), inode, shared })
    }

    /// The root.
    pub fn root(&self) -> &Arc<Directory> {
        &self.root
    }

    /// The root's inode, as it was when the tree was opened.
    pub fn inode(&self) -> &Inode {
        &self.inode
    }

    /// Whether looking at the tree goes through a mount of our own, on which devices are dead and nothing is
    /// marked as read.
    pub fn is_private(&self) -> bool {
        !self.shared.devices
    }

    /// The directory at a path below the root, given as its names.
    pub fn directory<'n>(&self, names: impl IntoIterator<Item = &'n CStr>) -> Arc<Directory> {
        names.into_iter().fold(Arc::clone(&self.root), |parent, name| parent.child(name))
    }
}

/// How many directories may be kept open: most of what this process may, which is raised as far as it goes.
fn descriptors() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let most = limit.current.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    MOST_OPEN.min(most / 2)
}

/// A directory of a tree, known by its parent and its name. It is opened when it is needed, and may be closed in
/// between; it is then found again by its name, and known by its inode.
#[derive(Debug)]
pub struct Directory {
    /// `None`: the root.
    parent: Option<Arc<Directory>>,
    name: CString,
    identity: OnceLock<Identity>,
    kept: Mutex<Option<Arc<OwnedFd>>>,
    /// For whoever walks: a number of its own about this directory.
    pub mark: AtomicU64,
    shared: Arc<Shared>,
}

impl Directory {
    /// The directory `name` in this one. Nothing is looked up yet.
    pub fn child(self: &Arc<Self>, name: &CStr) -> Arc<Self> {
        Arc::new(Self {
            parent: Some(Arc::clone(self)),
            name: name.to_owned(),
            identity: OnceLock::new(),
            kept: Mutex::new(None),
            mark: AtomicU64::new(0),
            shared: Arc::clone(&self.shared),
        })
    }

    /// The directory it is in; `None` for the root.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// Its name there; empty for the root.
    pub fn name(&self) -> &CStr {
        &self.name
    }

    /// Whether it is the tree's root.
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// Whether it is the root of another part of the file system than the directory that it is in: of a Btrfs subvolume. Both
    /// have been opened.
    pub fn is_in_other_volume(&self) -> bool {
        let device = |directory: &Self| directory.identity().map(|identity| identity.device);
        self.parent.as_ref().is_some_and(|parent| device(parent) != device(self))
    }

    /// Which inode it was when it was opened first.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.get().copied()
    }

    /// Says which inode it was when somebody else opened it. Without effect where it was opened already.
    pub fn expect(&self, identity: Identity) {
        let _ = self.identity.set(identity);
    }

    /// Its path from the root, without a slash in front; empty for the root.
    pub fn path(&self) -> Vec<u8> {
        self.path_of(c"")
    }

    /// The path of its entry `name`, likewise.
    pub fn path_of(&self, name: &CStr) -> Vec<u8> {
        let mut names: Vec<_> = self.upwards().map(|directory| directory.name.to_bytes()).collect();
        // The root has no name.
        names.pop();
        names.reverse();
        if !name.is_empty() {
            names.push(name.to_bytes());
        }
        names.join(&b'/')
    }

    /// This directory, its parent, and so on to the root.
    fn upwards(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |directory| directory.parent.as_deref())
    }

    /// Its descriptor, opened if need be.
    pub fn open(&self) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.kept() {
            return Ok(fd);
        }
        let fd = self.find()?;
        let inode = stat(fd.as_fd())?;
        if *self.identity.get_or_init(|| inode.identity) != inode.identity {
            // Another directory has taken its name: it is not there any more.
            return Err(Errno::STALE);
        }
        if inode.is_absent_subvolume() {
            // No part of the tree, as a mount is none.
            return Err(Errno::XDEV);
        }
        self.keep(&fd);
        Ok(fd)
    }

    /// Pins the directory itself.
    pub fn pin(&self) -> Result<Pin> {
        Pin::of(self.open()?.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?, true)
    }

    /// Pins its entry `name`, which `kind` says what it is, as far as that is known.
    pub fn entry(&self, name: &CStr, kind: Option<Kind>) -> Result<Pin> {
        Pin::entry(self.open()?.as_fd(), name, kind, self.shared.devices)
    }

    /// [`Directory::entry`] by the directory's open descriptor.
    pub(super) fn entry_at(&self, fd: BorrowedFd<'_>, name: &CStr, kind: Option<Kind>) -> Result<Pin> {
        Pin::entry(fd, name, kind, self.shared.devices)
    }

    /// Whether its entry `name`, or itself if that is empty, is [`Inode::is_absent_subvolume`], and not something that is mounted
    /// there.
    pub fn is_absent_subvolume(&self, name: &CStr) -> bool {
        let (directory, name) = match &self.parent {
            Some(parent) if name.is_empty() => (&**parent, &*self.name),
            _ => (self, name),
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let place = directory.open().and_then(|fd| rustix::fs::openat(fd, name, flags, Mode::empty()));
        place.and_then(|fd| stat(fd.as_fd())).is_ok_and(|inode| inode.is_absent_subvolume())
    }

    fn kept(&self) -> Option<Arc<OwnedFd>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps it open where there is room.
    fn keep(&self, fd: &Arc<OwnedFd>) {
        let take = |room: usize| room.checked_sub(1);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() && self.shared.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        {
            *kept = Some(Arc::clone(fd));
        }
    }

    /// Opens it, from the nearest directory above it that is open.
    fn find(&self) -> Result<Arc<OwnedFd>> {
        let mut names = Vec::new();
        let mut from = None;
        for directory in self.upwards() {
            from = directory.kept();
            if from.is_some() {
                break;
            }
            names.push(directory.name.to_bytes());
        }
        let from = from.ok_or(Errno::BADF)?;
        names.reverse();
        let mut at: Option<OwnedFd> = None;
        for part in parts(&names) {
            let fd = open_directory(at.as_ref().map_or(from.as_fd(), AsFd::as_fd), &part)?;
            at = Some(fd);
        }
        // Without a name to look up, another worker has just opened this very directory.
        Ok(at.map_or(from, Arc::new))
    }
}

/// Paths of some of `names` each, as long as the kernel takes them.
fn parts(names: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for name in names {
        match parts.last_mut() {
            Some(part) if part.len() + name.len() < PATH_ROOM => {
                part.push(b'/');
                part.extend_from_slice(name);
            }
            _ => parts.push(name.to_vec()),
        }
    }
    parts
}

/// Opens a directory for reading, without marking it as read where that is possible.
fn open_directory(from: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(from, path, flags | OFlags::NOATIME, Mode::empty(), BENEATH) {
        Err(Errno::PERM) => rustix::fs::openat2(from, path, flags, Mode::empty(), BENEATH),
        opened => opened,
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.kept.get_mut().unwrap_or_else(PoisonError::into_inner).is_some() {
            self.shared.room.fetch_add(1, Ordering::Relaxed);
        }
        // One after the other, for a chain of parents may be longer than the stack is deep.
        let mut next = self.parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.parent.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_are_looked_up_in_parts() {
        assert!(parts(&[]).is_empty());
        assert_eq!(parts(&[b"a", b"b"]), [b"a/b"]);
        let name = [b'x'; 255];
        let names = [&name[..]; 40];
        let parts = parts(&names);
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() < 4096));
        assert_eq!(parts.join(&b'/'), names.join(&b'/'));
    }

    #[test]
    fn a_directory_beyond_every_limit_is_found_and_let_go_again() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = Tree::open(scratch.path()).unwrap();
        tree.shared.room.store(3, Ordering::Relaxed);
        let name = CString::new("d".repeat(50)).unwrap();
        let mut directory = Arc::clone(tree.root());
        for _ in 0..200 {
            let fd = directory.open().unwrap();
            rustix::fs::mkdirat(&fd, &name, Mode::RWXU).unwrap();
            directory = directory.child(&name);
        }
        assert_eq!(directory.path().len(), 200 * 51 - 1);
        assert_eq!(directory.pin().unwrap().inode().kind(), Some(Kind::Directory));
        drop(directory);
        assert_eq!(tree.shared.room.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_directory_whose_name_another_one_took_is_stale() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = Tree::open(scratch.path()).unwrap();
        tree.shared.room.store(0, Ordering::Relaxed);
        std::fs::create_dir(scratch.path().join("a")).unwrap();
        let directory = tree.root().child(c"a");
        directory.open().unwrap();
        std::fs::rename(scratch.path().join("a"), scratch.path().join("b")).unwrap();
        std::fs::create_dir(scratch.path().join("a")).unwrap();
        assert_eq!(directory.open().unwrap_err(), Errno::STALE);
    }
}
