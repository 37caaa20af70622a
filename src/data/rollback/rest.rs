//! Everything else that carries what a guest sees: what it made or moved since; and what QEMU keeps for itself.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use anyhow::Result;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::restorer::Restorer;
use super::times::{self, changing};
use crate::data::entry::{Entry, Kind};
use crate::data::form::Model;
use crate::data::goal::EntryError;
use crate::data::identity::Key;
use crate::data::journal::Record;
use crate::data::moved_inodes::Moved;
use crate::data::pin::Pin;
use crate::data::staging::{self, Place};
use crate::data::tree::Directory;
use crate::data::walk::{self, Trouble, Visitor};
use crate::data::{mapped_file, mapped_xattr};

impl Restorer<'_> {
    /// Restores what the journal does not tell of.
    pub(super) fn rest(&self) -> Result<()> {
        walk::parallel(self.tree, self.jobs, || Rest { restorer: self, clears: false })?;
        // Only now: until all is restored, this is where it says what it is.
        if self.goal.model == Model::MappedFile && self.errors.failures() == 0 {
            walk::parallel(self.tree, self.jobs, || Rest { restorer: self, clears: true })?;
        }
        Ok(())
    }

    /// Restores an entry that a guest made or moved, if it is one.
    fn unrecorded(&self, place: Place<'_>, pin: &Pin) -> Result<(), EntryError> {
        if let Some(record) = self.absent_lost(place, pin)? {
            return self.as_seen(place, pin, &record);
        }
        if let Some((entry, record)) = self.absent_special(place, pin)? {
            changing(place.fd, || self.restore(place, pin, &entry, Some(&record)).map(|()| true))?;
            self.note_lost(place);
            return Ok(());
        }
        let (entry, record) = if let Some(origin) = self.moved_inodes.scattered(pin)? {
            (origin.entry.clone(), Some(origin))
        } else if self.carries(place, pin)? {
            let shown = self.shown(place, pin)?;
            let record = if shown.kind().is_some_and(Kind::is_replaced) {
                self.moved(&shown)
            } else {
                self.moved_inodes.kept(pin.inode())
            };
            (shown, record)
        } else {
            return Ok(());
        };
        if entry.kind().is_some_and(Kind::is_replaced) {
            changing(place.fd, || self.restore(place, pin, &entry, record.as_ref()).map(|()| true))?;
        } else {
            self.restore(place, pin, &entry, record.as_ref())?;
        }
        // The root, which is in itself under an empty name, is always recorded, and counted. Under mapped-file its metadata
        // file stays up to the end.
        if !place.name.is_empty() {
            self.counts.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The record of a file or a directory that the guest moved here, where it has lost what says what the guest sees of it.
    fn absent_lost(&self, place: Place<'_>, pin: &Pin) -> rustix::io::Result<Option<Record>> {
        let Some(record) = self.absent(pin.inode()) else { return Ok(None) };
        let is_lost = self.seen(place, pin, &record.entry)?.is_lost;
        Ok(is_lost.then_some(record))
    }

    /// What was recorded of a link or a special file that a guest moved here.
    fn moved(&self, shown: &Entry) -> Option<Record> {
        match self.moved_inodes.moved(shown) {
            Moved::From(record) => Some(*record),
            Moved::Unknown => None,
            Moved::Ambiguous => {
                self.counts.untold.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Whether an entry has something that shows the guest what it is.
    fn carries(&self, place: Place<'_>, pin: &Pin) -> rustix::io::Result<bool> {
        match self.goal.model {
            // Before a conversion is complete, one that is not converted has the metadata file of another that was moved.
            Model::MappedFile if !self.complete && !self.is_owned(pin.inode()) => Ok(false),
            Model::MappedFile => {
                // What the host has put in the place of another is as the host has it.
                Ok(mapped_file::read_attributes(place.directory, place.name)?.is_some()
                    && !mapped_file::belongs_to_another(
                        place.directory,
                        place.name,
                        pin.inode(),
                        self.goal.uid,
                    )?)
            }
            Model::MappedXattr => {
                let is_old = |numbers: &std::sync::Mutex<std::collections::HashSet<Key>>| {
                    let numbers = numbers.lock().unwrap_or_else(PoisonError::into_inner);
                    numbers.contains(&pin.inode().id.key())
                };
                Ok(mapped_xattr::is_carried(pin)? && !self.mapped_before.as_ref().is_some_and(is_old))
            }
        }
    }
}

/// Removes a directory's metadata files and their directory.
fn clear(directory: &Arc<Directory>) -> Result<(), EntryError> {
    let fd = directory.open()?;
    changing(fd.as_fd(), || {
        let touched = mapped_file::remove_metadata_directory(directory)?;
        if !directory.is_root() {
            return Ok(touched);
        }
        match rustix::fs::unlinkat(&fd, mapped_file::METADATA_ROOT, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(touched),
            Err(error) => Err(error.into()),
        }
    })
}

/// One worker of a walk over all that is left.
struct Rest<'r> {
    restorer: &'r Restorer<'r>,
    /// Whether this is the second walk, which takes QEMU's own files away.
    clears: bool,
}

impl Rest<'_> {
    fn note(&self, directory: &Directory, name: &CStr, done: Result<(), EntryError>) {
        match done {
            // What goes away while nobody may use the export was not there to be restored.
            Ok(()) | Err(EntryError::Vanished) => {}
            Err(obstacle) => self.restorer.errors.add(directory.path_of(name), obstacle),
        }
    }

    fn restore_entry(&self, directory: &Arc<Directory>, name: &CStr, pin: &Pin) -> Result<(), EntryError> {
        let fd = directory.open()?;
        if self.restorer.staging.made(name) {
            return changing(fd.as_fd(), || {
                rustix::fs::unlinkat(&fd, name, AtFlags::empty())?;
                Ok(true)
            });
        }
        let place = Place { directory, fd: fd.as_fd(), name };
        if !pin.inode().is_linked() {
            return self.restorer.unrecorded(place, pin);
        }
        let (_turn, pin) = self.restorer.pin(place, None)?;
        self.restorer.unrecorded(place, &pin)
    }
}

impl Visitor for Rest<'_> {
    type Error = anyhow::Error;

    fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> Result<()> {
        let done = self.restorer.room.retry_on(pin, |pin| {
            if self.clears {
                return clear(directory);
            }
            staging::at_own_place(directory, |place| self.restorer.unrecorded(place, pin))?;
            Ok(times::give_back(pin.as_fd())?)
        });
        self.note(directory, c"", done);
        Ok(())
    }

    fn entry(&mut self, directory: &Arc<Directory>, name: &CStr, pin: Pin) -> Result<()> {
        if !self.clears {
            let done = self.restorer.room.retry_on(&pin, |pin| self.restore_entry(directory, name, pin));
            self.note(directory, name, done);
        }
        Ok(())
    }

    fn trouble(&mut self, directory: &Arc<Directory>, name: &CStr, trouble: Trouble) -> Result<()> {
        match trouble {
            // Mounts are no part of the export.
            Trouble::Mount | Trouble::Changed => {}
            Trouble::Failed(error) => {
                self.restorer.errors.add(directory.path_of(name), EntryError::Failed(error));
            }
        }
        Ok(())
    }

    fn hides(&self, directory: &Arc<Directory>, name: &CStr) -> bool {
        self.restorer.kept.is(directory, name) || self.restorer.form.hides(directory, name)
    }
}
