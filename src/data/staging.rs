//! Puts another inode in an entry's place, at once: nobody ever sees the name without an inode, or an inode half made.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, renameat_with};
use rustix::io::{Errno, Result};

use super::entry::{Entry, Inode, Time};
use super::identity::{Id, Key};
use super::pin::{BENEATH, Pin, magic_link};
use super::tree::Directory;

/// A place in a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'p> {
    /// The directory.
    pub directory: &'p Arc<Directory>,
    /// Its descriptor.
    pub fd: BorrowedFd<'p>,
    /// The name in it.
    pub name: &'p CStr,
}

impl Place<'_> {
    /// The path from the tree's root.
    pub(crate) fn path(&self) -> Vec<u8> {
        self.directory.path_of(self.name)
    }
}

/// Does something at the place of a directory itself: in its parent; the root's is in itself, under an empty name.
pub(crate) fn at_own_place<E: From<Errno>>(
    directory: &Arc<Directory>,
    work: impl FnOnce(Place<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let within = directory.parent().unwrap_or(directory);
    let fd = within.open()?;
    work(Place { directory: within, fd: fd.as_fd(), name: directory.name() })
}

/// Names of files that are made on the way to their place.
#[derive(Debug)]
pub(crate) struct Staging {
    prefix: String,
}

impl Staging {
    /// Names that start with `prefix`, which no entry's name does.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// Whether a name is one of these: what bears it is a crash's leftover.
    pub(crate) fn made(&self, name: &CStr) -> bool {
        !self.prefix.is_empty() && name.to_bytes().starts_with(self.prefix.as_bytes())
    }

    /// The name of a directory for inodes that wait for more than one of their names.
    pub(crate) fn kept(&self) -> CString {
        CString::new(format!("{}kept", self.prefix)).unwrap_or_default()
    }

    /// The name under which the inode `number` is replaced.
    fn name(&self, number: u64) -> CString {
        CString::new(format!("{}{number:x}", self.prefix)).unwrap_or_default()
    }

    /// Replaces what is at `place`: `make` makes the new inode, in the same directory under the name that it is given.
    /// `number` tells this replacement from all others that go on at the same time in the same directory.
    pub(crate) fn replace(
        &self,
        place: Place<'_>,
        number: u64,
        make: impl Fn(&CStr) -> Result<()>,
    ) -> Result<()> {
        self.stage(place, number, make, |staged| rustix::fs::renameat(place.fd, staged, place.fd, place.name))
    }

    /// [`Staging::replace`] for a new inode with content, which many file systems would write to the disk first: here the two
    /// change places, then the old one is removed. `was` is the number of the old one; where another has taken its place
    /// meanwhile, that one stays, and this is `ESTALE`.
    pub(crate) fn swap(
        &self,
        place: Place<'_>,
        number: u64,
        was: u64,
        make: impl Fn(&CStr) -> Result<()>,
    ) -> Result<()> {
        let staged = self.name(number);
        let to_place = |flags| renameat_with(place.fd, &*staged, place.fd, place.name, flags);
        let has_old = Cell::new(true);
        self.stage(place, number, make, |_| match to_place(RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                has_old.set(false);
                to_place(RenameFlags::empty())
            }
            exchanged => exchanged,
        })?;
        if !has_old.get() {
            return Ok(());
        }
        if rustix::fs::statat(place.fd, &*staged, AtFlags::SYMLINK_NOFOLLOW)?.st_ino == was {
            return rustix::fs::unlinkat(place.fd, &*staged, AtFlags::empty());
        }
        match to_place(RenameFlags::EXCHANGE) {
            // Ours has been taken away.
            Err(Errno::NOENT) => to_place(RenameFlags::NOREPLACE)?,
            exchanged => {
                exchanged?;
                rustix::fs::unlinkat(place.fd, &*staged, AtFlags::empty())?;
            }
        }
        Err(Errno::STALE)
    }

    /// Makes a new inode under a name of its own, and calls `put` with that to bring it to its place.
    fn stage(
        &self,
        place: Place<'_>,
        number: u64,
        make: impl Fn(&CStr) -> Result<()>,
        put: impl Fn(&CStr) -> Result<()>,
    ) -> Result<()> {
        let staged = self.name(number);
        let made = match make(&staged) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(place.fd, &*staged, AtFlags::empty())?;
                make(&staged)
            }
            made => made,
        };
        let put = made.and_then(|()| put(&staged));
        if put.is_err() {
            // What failed is said; that its leftover can't be removed either adds nothing.
            let _ = rustix::fs::unlinkat(place.fd, &*staged, AtFlags::empty());
        }
        put
    }

    /// Makes `place` another name of the inode that `pin` holds, at once; it may be one already.
    pub(crate) fn link(&self, place: Place<'_>, number: u64, pin: &Pin) -> Result<()> {
        // A rename of one name of an inode over another does nothing, and leaves both.
        let now = place.directory.entry_at(place.fd, place.name, None);
        if now.is_ok_and(|now| now.inode().identity == pin.inode().identity) {
            return Ok(());
        }
        self.replace(place, number, |staged| link(pin, place.fd, staged))
    }
}

/// Gives the inode that `pin` holds another name.
pub(crate) fn link(pin: &Pin, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    rustix::fs::linkat(rustix::fs::CWD, magic_link(pin.as_fd()), dir, name, AtFlags::SYMLINK_FOLLOW)
}

/// Makes a new regular file, open for writing.
pub(crate) fn create_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<Pin> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat2(dir, name, flags, Mode::RUSR | Mode::WUSR, BENEATH)?;
    Pin::of(fd, true)
}

/// Writes all of `content` to a file that was just made.
pub(crate) fn write_all(pin: &Pin, content: &[u8]) -> Result<()> {
    let mut at = 0;
    while let Some(rest) = content.get(at..).filter(|rest| !rest.is_empty()) {
        at += rustix::io::pwrite(pin, rest, at as u64)?;
    }
    Ok(())
}

/// An entry's times, for the kernel.
pub(crate) fn timestamps(entry: &Entry) -> Timestamps {
    times(entry.accessed, entry.modified)
}

/// Times, for the kernel.
fn times(accessed: Time, modified: Time) -> Timestamps {
    let time = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time(accessed), last_modification: time(modified) }
}

/// Gives a directory its times back, where they are not these already.
pub(crate) fn restore_times(fd: BorrowedFd<'_>, accessed: Time, modified: Time) -> Result<()> {
    let inode = super::pin::stat(fd)?;
    if (inode.accessed, inode.modified) == (accessed, modified) {
        return Ok(());
    }
    rustix::fs::futimens(fd, &times(accessed, modified))
}

/// Inodes of several names that got another inode in their place: where that is.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<HashMap<Key, Linked>>);

/// One name of the inode in another one's place.
#[derive(Debug, Clone)]
pub(crate) struct Linked {
    directory: Arc<Directory>,
    name: CString,
    id: Id,
}

impl Linked {
    /// Pins it; `None` where it is not there any more.
    pub(crate) fn pin(&self) -> Result<Option<Pin>> {
        match self.directory.entry(&self.name, None) {
            Ok(pin) if pin.inode().id == self.id => Ok(Some(pin)),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Links {
    /// All of them, for as long as one is dealt with.
    pub(crate) fn lock(&self) -> LockedLinks<'_> {
        LockedLinks(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// [`Links`] that nobody else changes.
#[derive(Debug)]
pub(crate) struct LockedLinks<'l>(MutexGuard<'l, HashMap<Key, Linked>>);

impl LockedLinks<'_> {
    /// What is in place of the inode that was this one.
    pub(crate) fn get(&self, original: Key) -> Option<&Linked> {
        self.0.get(&original)
    }

    /// `name` in `directory` is the inode `now` in place of `original`.
    pub(crate) fn insert(&mut self, original: Key, place: Place<'_>, now: &Inode) {
        let linked =
            Linked { directory: Arc::clone(place.directory), name: place.name.to_owned(), id: now.id };
        self.0.insert(original, linked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tree::Tree;

    /// A directory with a file, and what is done to it.
    fn at(work: impl FnOnce(&Staging, Place<'_>, u64, &std::path::Path)) -> Vec<String> {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("name"), "old").unwrap();
        let tree = Tree::open(scratch.path()).unwrap();
        let fd = tree.root().open().unwrap();
        let place = Place { directory: tree.root(), fd: fd.as_fd(), name: c"name" };
        let number = place.directory.entry(place.name, None).unwrap().inode().identity.number;
        work(&Staging::new(".new-"), place, number, scratch.path());
        let entries = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = entries
            .map(|path| {
                let content = std::fs::read_to_string(&path).unwrap();
                format!("{}={content}", path.file_name().unwrap().display())
            })
            .collect();
        found.sort();
        found
    }

    fn make(place: Place<'_>) -> impl Fn(&CStr) -> Result<()> {
        move |name| write_all(&create_file(place.fd, name)?, b"new")
    }

    #[test]
    fn what_is_swapped_in_is_all_that_is_left() {
        let left = at(|staging, place, number, _| staging.swap(place, number, number, make(place)).unwrap());
        assert_eq!(left, ["name=new"]);
    }

    #[test]
    fn a_name_that_an_inode_has_already_stays_its_only_one() {
        let left = at(|staging, place, number, _| {
            let pin = place.directory.entry(place.name, None).unwrap();
            staging.link(place, number, &pin).unwrap();
        });
        assert_eq!(left, ["name=old"]);
    }

    #[test]
    fn what_a_crash_left_on_the_way_is_in_nobodys_way() {
        let left = at(|staging, place, number, folder| {
            std::fs::write(folder.join(format!(".new-{number:x}")), "half").unwrap();
            staging.swap(place, number, number, make(place)).unwrap();
        });
        assert_eq!(left, ["name=new"]);
    }

    #[test]
    fn another_file_in_the_place_stays() {
        let left = at(|staging, place, number, folder| {
            std::fs::write(folder.join("other"), "another's").unwrap();
            std::fs::rename(folder.join("other"), folder.join("name")).unwrap();
            assert_eq!(staging.swap(place, number, number, make(place)).unwrap_err(), Errno::STALE);
        });
        assert_eq!(left, ["name=another's"]);
    }

    #[test]
    fn a_place_that_is_empty_stays_so() {
        let left = at(|staging, place, number, folder| {
            std::fs::remove_file(folder.join("name")).unwrap();
            assert_eq!(staging.swap(place, number, number, make(place)).unwrap_err(), Errno::NOENT);
        });
        assert!(left.is_empty(), "{left:?}");
    }
}
