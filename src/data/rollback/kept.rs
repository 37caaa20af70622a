//! Inodes that became special again and whose other names still wait, kept in a directory of their own until all is restored:
//! killed in between, the next run finds them there, and an inode of several names stays one.
//!
//! The directory is in the export's root. An inode of a Btrfs subvolume can have no name outside of it, so that the root of each
//! subvolume in the export has such a directory, too.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::times::changing;
use crate::data::goal::EntryError;
use crate::data::identity::{Key, Stamp};
use crate::data::pin::Pin;
use crate::data::staging::{Links, Place, Staging};
use crate::data::tree::{Directory, Tree};
use crate::data::walk::{self, Trouble, Visitor};

/// The directories.
#[derive(Debug, Default)]
pub(super) struct Kept {
    name: CString,
    /// By the numbers of the subvolumes. One is missing where there was no room for it, and a kill may part the names of an inode.
    directories: HashMap<u64, Arc<Directory>>,
}

impl Kept {
    /// Makes the directories, or opens those that an interrupted rollback left, and notes in `carriers` what is in them.
    pub(super) fn open(
        tree: &Tree,
        staging: &Staging,
        carriers: &Links,
        jobs: usize,
    ) -> Result<Self, EntryError> {
        let mut kept = Self { name: staging.kept(), directories: HashMap::new() };
        kept.open_in(tree.root(), carriers)?;
        for volume in volumes(tree, jobs) {
            match kept.open_in(&volume, carriers) {
                // Nothing in it can be restored, which is said of what is in it.
                Err(EntryError::Failed(Errno::ROFS)) => {}
                opened => opened?,
            }
        }
        Ok(kept)
    }

    fn open_in(&mut self, parent: &Arc<Directory>, carriers: &Links) -> Result<(), EntryError> {
        let root = parent.open()?;
        let mut is_refused = false;
        changing(root.as_fd(), || match rustix::fs::mkdirat(&root, &*self.name, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::NOSPC | Errno::DQUOT | Errno::MLINK) => {
                is_refused = true;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        })?;
        if is_refused {
            return Ok(());
        }
        let directory = parent.child(&self.name);
        let fd = directory.open()?;
        for (name, _) in walk::names(&directory)? {
            let Some(carrier) = key(&name) else {
                rustix::fs::unlinkat(&fd, &*name, AtFlags::empty())?;
                continue;
            };
            let pin = directory.entry_at(fd.as_fd(), &name, None)?;
            let place = Place { directory: &directory, fd: fd.as_fd(), name: &name };
            carriers.lock().insert(carrier, place, pin.inode());
        }
        let volume = directory.pin()?.inode().id.volume;
        self.directories.entry(volume).or_insert(directory);
        Ok(())
    }

    /// Calls `work` with the place at which what replaces the inode `carrier` is kept, if there is one.
    pub(super) fn place<T>(
        &self,
        carrier: Key,
        work: impl FnOnce(Place<'_>) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<Option<T>> {
        let Some(directory) = self.directories.get(&carrier.volume) else { return Ok(None) };
        let fd = directory.open()?;
        let name = CString::new(format!("{:x}-{:x}", carrier.volume, carrier.number)).unwrap_or_default();
        work(Place { directory, fd: fd.as_fd(), name: &name }).map(Some)
    }

    /// Whether an entry is one of the directories, which are none of the export's.
    pub(super) fn is(&self, directory: &Directory, name: &CStr) -> bool {
        *name == *self.name
            && self
                .directories
                .values()
                .any(|kept| kept.parent().is_some_and(|parent| parent.identity() == directory.identity()))
    }

    /// Takes them away: every name has its inode.
    pub(super) fn close(self) -> Result<(), EntryError> {
        for directory in self.directories.values() {
            let Some(parent) = directory.parent() else { continue };
            let fd = directory.open()?;
            for (name, _) in walk::names(directory)? {
                rustix::fs::unlinkat(&fd, &*name, AtFlags::empty())?;
            }
            let parent = parent.open()?;
            changing(parent.as_fd(), || {
                rustix::fs::unlinkat(&parent, directory.name(), AtFlags::REMOVEDIR)?;
                Ok(true)
            })?;
        }
        Ok(())
    }
}

/// The roots of the Btrfs subvolumes in a tree, its own root left out. What can't be looked at has its own turn later.
fn volumes(tree: &Tree, jobs: usize) -> Vec<Arc<Directory>> {
    if tree.inode().id.volume == 0 {
        return Vec::new();
    }
    let Ok(finders) = walk::parallel(tree, jobs, || Volumes(Vec::new()));
    finders.into_iter().flat_map(|Volumes(found)| found).collect()
}

/// Gathers the roots of subvolumes.
struct Volumes(Vec<Arc<Directory>>);

impl Visitor for Volumes {
    type Error = Infallible;

    fn directory(&mut self, directory: &Arc<Directory>, _: &Pin) -> Result<(), Infallible> {
        if directory.is_in_other_volume() {
            self.0.push(Arc::clone(directory));
        }
        Ok(())
    }

    fn entry(&mut self, _: &Arc<Directory>, _: &CStr, _: Pin) -> Result<(), Infallible> {
        Ok(())
    }

    fn trouble(&mut self, _: &Arc<Directory>, _: &CStr, _: Trouble) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The inode that a name in the directory stands for; `None`: it was only on the way there.
fn key(name: &CStr) -> Option<Key> {
    let name = name.to_str().ok()?;
    // Without a volume: a rollback that an earlier version began.
    let (volume, number) = name.split_once('-').unwrap_or(("0", name));
    let parse = |digits| u64::from_str_radix(digits, 16).ok();
    Some(Key { volume: parse(volume)?, number: parse(number)?, stamp: Stamp::None })
}
