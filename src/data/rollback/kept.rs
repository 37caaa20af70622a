//! Inodes that became special again and whose other names still wait, kept in a directory of their own in the export's root
//! until all is restored: killed in between, the next run finds them there, and an inode of several names stays one.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::rest::changing;
use crate::data::goal::Obstacle;
use crate::data::identity::Key;
use crate::data::staging::{Links, Place, Staging};
use crate::data::tree::{Directory, Tree};
use crate::data::walk;

/// The directory; `None` where there was no room for it, and a kill may part the names of an inode.
#[derive(Debug)]
pub(super) struct Kept(Option<Arc<Directory>>);

impl Kept {
    /// Nothing is kept.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Makes the directory, or opens the one that an interrupted rollback left, and notes in `carriers` what is in it.
    pub(super) fn open(tree: &Tree, staging: &Staging, carriers: &Links) -> Result<Self, Obstacle> {
        let name = staging.kept();
        let root = tree.root().open()?;
        let mut is_refused = false;
        changing(root.as_fd(), || match rustix::fs::mkdirat(&root, &*name, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::NOSPC | Errno::DQUOT | Errno::MLINK) => {
                is_refused = true;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        })?;
        if is_refused {
            return Ok(Self(None));
        }
        let directory = tree.root().child(&name);
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
        Ok(Self(Some(directory)))
    }

    /// Calls `work` with the place at which what replaces the inode `carrier` is kept, if there is one.
    pub(super) fn place<T>(
        &self,
        carrier: Key,
        work: impl FnOnce(Place<'_>) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<Option<T>> {
        let Some(directory) = &self.0 else { return Ok(None) };
        let fd = directory.open()?;
        let name = CString::new(format!("{:x}-{:x}", carrier.volume, carrier.number)).unwrap_or_default();
        work(Place { directory, fd: fd.as_fd(), name: &name }).map(Some)
    }

    /// Whether an entry is the directory itself, which is none of the export's.
    pub(super) fn is(&self, directory: &Directory, name: &CStr) -> bool {
        directory.is_root() && self.0.as_ref().is_some_and(|kept| kept.name() == name)
    }

    /// Takes it away: every name has its inode.
    pub(super) fn close(self) -> Result<(), Obstacle> {
        let Some((directory, root)) = self.0.as_ref().and_then(|kept| Some((kept, kept.parent()?))) else {
            return Ok(());
        };
        let fd = directory.open()?;
        for (name, _) in walk::names(directory)? {
            rustix::fs::unlinkat(&fd, &*name, AtFlags::empty())?;
        }
        let root = root.open()?;
        changing(root.as_fd(), || {
            rustix::fs::unlinkat(&root, directory.name(), AtFlags::REMOVEDIR)?;
            Ok(true)
        })
    }
}

/// The inode that a name in the directory stands for; `None`: it was only on the way there.
fn key(name: &CStr) -> Option<Key> {
    let name = name.to_str().ok()?;
    // Without a volume: a rollback that an earlier version began.
    let (volume, number) = name.split_once('-').unwrap_or(("0", name));
    let parse = |digits| u64::from_str_radix(digits, 16).ok();
    Some(Key { volume: parse(volume)?, number: parse(number)? })
}
