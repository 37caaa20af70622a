//! What is not what the journal says, and not where: it is recorded anew, and the next round converts it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use rustix::io::Errno;

use super::converter::Converter;
use super::record::{Recorder, Recording, Rescan};
use crate::data::entry::Kind;
use crate::data::goal::EntryError;
use crate::data::journal::{Listing, Part};
use crate::data::staging::{self, Place};
use crate::data::tree::Directory;
use crate::data::walk;

impl Converter<'_> {
    /// Records what is at a place now, if that is anything; `listing` tells of the directory.
    pub(super) fn adopt(&self, place: Place<'_>, listing: &Listing) {
        let adopted = match self.try_adopt(place, listing) {
            Err(EntryError::Vanished) => self.forget(place, listing),
            adopted => adopted,
        };
        if let Err(obstacle) = adopted {
            self.error_summary.add(place.path(), obstacle);
        }
    }

    /// Records what is now where a recorded directory was, if that is anything; `parent` tells of the directory it is in.
    pub(super) fn adopt_other(&self, directory: &Arc<Directory>, parent: &Listing) {
        let adopted = staging::at_own_place(directory, |place| {
            let is_it = parent.own.is_inode(place.directory.pin()?.inode());
            // Otherwise what it was in is not there either, and is told of by itself.
            if is_it {
                self.adopt(place, parent);
            }
            Ok::<_, EntryError>(())
        });
        if let Err(obstacle @ EntryError::Failed(_)) = adopted {
            self.error_summary.add(directory.path(), obstacle);
        }
    }

    fn try_adopt(&self, place: Place<'_>, listing: &Listing) -> Result<(), EntryError> {
        let pin = place.directory.entry_at(place.fd, place.name, None)?;
        if pin.inode().kind() == Some(Kind::Directory) {
            return self.adopt_directory(place, listing);
        }
        let record = self.late().current(place.directory, place.name, &pin)?;
        let mut part = more(listing);
        part.push(place.name.to_bytes(), Some(&record));
        self.write(&mut part)
    }

    /// Records a directory that was not there, and all that is in it.
    fn adopt_directory(&self, place: Place<'_>, listing: &Listing) -> Result<(), EntryError> {
        let mut part = more(listing);
        part.push(place.name.to_bytes(), None);
        self.write(&mut part)?;
        place.directory.mark.store(listing.id, Ordering::Release);
        let recording = Recording::new(&self.writer, Some(self.late()), self.progress);
        let top = place.directory.child(place.name);
        let walked = walk::from(&top, 1, || Recorder::new(&recording, None));
        walked.map(drop).map_err(|_| EntryError::Failed(Errno::IO))
    }

    /// Records that nothing is at a place any more.
    fn forget(&self, place: Place<'_>, listing: &Listing) -> Result<(), EntryError> {
        let mut part = more(listing);
        part.push_gone(place.name.to_bytes());
        self.write(&mut part)
    }

    fn late(&self) -> Rescan<'_> {
        Rescan { goal: self.goal, moved_inodes: &self.moved_inodes, staging: &self.staging }
    }

    pub(super) fn write(&self, part: &mut Part) -> Result<(), EntryError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer
            .listing(part)
            .map_err(|error| EntryError::Failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }
}

/// One more part of the directory that a listing tells of.
pub(super) fn more(listing: &Listing) -> Part {
    Part::new(listing.format, listing.parent, listing.name.to_bytes(), listing.own.clone(), true)
        .more(listing.id)
}
