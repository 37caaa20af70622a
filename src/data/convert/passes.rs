//! All listings of the journal, one after the other, by several workers, until the export is what the journal says.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

use super::adopt::more;
use super::converter::Converter;
use crate::data::entry::{Kind, Time};
use crate::data::flags::FlagGuard;
use crate::data::form::Model;
use crate::data::goal::EntryError;
use crate::data::journal::{Journal, Listing, Record, Stage, each_listing, not_written};
use crate::data::mapped_file;
use crate::data::pin::Pin;
use crate::data::staging::{self, Place};
use crate::data::tree::Directory;

/// How often an export in use is gone through at most, while it keeps changing.
const ROUNDS: usize = 6;

/// How often any other is: what was moved about before is found layer by layer.
const QUIET_ROUNDS: usize = 50;

/// Longer than the kernel's clock for time stamps stands still.
const TICK: Duration = Duration::from_millis(20);

/// How far a conversion got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// A round over the whole export found nothing that was not converted, recorded or in its place.
    All,
    /// What was found is converted, but somebody kept changing the export.
    Found,
    /// Something stands in the way.
    Part,
}

impl Converter<'_> {
    /// Converts everything that is recorded, and what appeared or moved since, until a round over all of it finds nothing
    /// left to do. With `in_use`, nothing may have changed during that round either.
    pub(super) fn convert_all(&self, in_use: bool) -> Result<Reached> {
        let mut from = 0;
        for _ in 0..if in_use { ROUNDS } else { QUIET_ROUNDS } {
            if in_use {
                std::thread::sleep(TICK);
            }
            if from == 0 {
                // What is in the way still will be met again.
                self.error_summary.retry();
            }
            let began = now();
            let (failed, noticed, end) =
                (self.error_summary.failures(), self.error_summary.noticed(), self.journal_len());
            self.convert_from(from)?;
            if self.error_summary.is_hopeless() {
                return Ok(Reached::Part);
            }
            self.sweep()?;
            let is_longer = self.journal_len() > end;
            if self.error_summary.failures() > failed && from == 0 && !is_longer {
                // What stood in the way may have been somebody else's turn.
                self.error_summary.retry();
                self.convert_from(0)?;
                self.sweep()?;
            }
            if !is_longer && self.error_summary.failures() > 0 {
                return Ok(Reached::Part);
            }
            let is_clean = !is_longer && self.error_summary.noticed() == noticed;
            if is_clean && from == 0 && !(in_use && self.has_changed(began)?) {
                return Ok(Reached::All);
            }
            self.sync_late(Stage::Converting)?;
            // What was met late first; a round that found nothing more is no proof before it went over all.
            from = if is_longer { end } else { 0 };
        }
        Ok(if self.error_summary.failures() == 0 { Reached::Found } else { Reached::Part })
    }

    /// Converts what the listings from `from` on tell of, all of it added to the converted export; what has changed since is recorded
    /// anew. Whether that came to an end.
    pub(super) fn convert_added(&self, from: u64) -> Result<bool> {
        let mut from = from;
        for _ in 0..ROUNDS {
            let end = self.journal_len();
            self.convert_from(from)?;
            if self.journal_len() == end {
                return Ok(true);
            }
            self.sync_late(Stage::Converted)?;
            from = end;
        }
        Ok(false)
    }

    /// The times that a directory is to have in the end, in which entries are adopted while a guest may work in it: those that it
    /// has before it is touched.
    fn heed_guest(&self, pin: &Pin, listing: &mut Listing) -> Result<(), EntryError> {
        // Under mapped-file the directory of metadata files may have been made in it already.
        if !self.adopting || self.resumed || self.goal.model == Model::MappedFile {
            return Ok(());
        }
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let times = if let Some(times) = before.get(&listing.id) {
            *times
        } else {
            let now = crate::data::pin::stat(pin.as_fd())?;
            *before.entry(listing.id).or_insert((now.accessed, now.modified))
        };
        (listing.own.entry.accessed, listing.own.entry.modified) = times;
        Ok(())
    }

    /// Where somebody has worked in a directory since it was recorded, its new time counts.
    fn heed_times(
        &self,
        directory: &Arc<Directory>,
        pin: &Pin,
        listing: &mut Listing,
        touches: bool,
    ) -> Result<(), EntryError> {
        let (inode, was) = (pin.inode(), &listing.own.entry);
        if (inode.modified, inode.accessed.min(was.accessed)) == (was.modified, was.accessed) {
            return Ok(());
        }
        // Another worker, or a run that was killed, may have replaced entries of a further part of it, whatever there is in this one.
        let is_in_parts = listing.names.is_none();
        // What was killed has touched it; the metadata directory in it may have been made for one of its own directories.
        let is_ours =
            self.resumed || self.goal.model == Model::MappedFile || self.unfinished().contains(&listing.id);
        if is_in_parts || touches && is_ours {
            return Ok(());
        }
        (listing.own.entry.modified, listing.own.entry.accessed) = (inode.modified, inode.accessed);
        self.error_summary.add(directory.path(), EntryError::Changed);
        self.write(&mut more(listing))
    }

    fn unfinished(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what was met late on stable storage, before it is touched.
    fn sync_late(&self, stage: Stage) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.sync_late(stage).map_err(|error| not_written(error, self.journal))
    }

    fn journal_len(&self) -> u64 {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Converts what the listings from `offset` on tell of.
    fn convert_from(&self, offset: u64) -> Result<()> {
        let journal = Journal::open(self.journal)?;
        let superseded = journal.superseded()?;
        each_listing(&journal, self.jobs, |at, mut listing| {
            if at < offset || self.error_summary.is_hopeless() || superseded.is_over(&listing) {
                return Ok(());
            }
            superseded.prune(at, &mut listing);
            let directory = journal.directory(self.tree, &listing)?;
            if let Err(obstacle) = self.listing(&directory, at, &mut listing) {
                self.error_summary.add(directory.path(), obstacle);
                if matches!(obstacle, EntryError::Failed(_)) {
                    self.unfinished().insert(listing.id);
                }
                if let Some(parent) = listing.parent.filter(|_| !matches!(obstacle, EntryError::Failed(_))) {
                    let mut parent = journal.listing_at(parent)?;
                    superseded.prune(parent.id, &mut parent);
                    self.adopt_other(&directory, &parent);
                }
            }
            Ok(())
        })
    }

    /// Converts (a part of) a directory.
    fn listing(&self, directory: &Arc<Directory>, at: u64, listing: &mut Listing) -> Result<(), EntryError> {
        let pin = directory.pin()?;
        if !listing.own.is_inode(pin.inode()) {
            return Err(EntryError::Changed);
        }
        let fd = directory.open()?;
        let files = self.goal.model == Model::MappedFile;
        let replaces = |record: &Option<Record>| {
            record.as_ref().is_some_and(|record| record.entry.kind().is_some_and(Kind::is_replaced))
        };
        let touches = files || listing.entries.iter().any(|(_, record)| replaces(record));
        if listing.is_first(at) {
            let kept = staging::at_own_place(directory, |place| self.keep(place, &pin, &listing.own));
            if files && directory.is_root() && matches!(kept, Err(EntryError::Failed(_))) {
                // Its own metadata file, which is in it, may have been made.
                staging::restore_times(fd.as_fd(), listing.own.entry.accessed, listing.own.entry.modified)?;
            }
            kept?;
            self.progress.add(1);
            self.heed_times(directory, &pin, listing, touches)?;
        }
        self.heed_guest(&pin, listing)?;
        let own = &listing.own;
        let lifted = if touches { FlagGuard::of(fd.as_fd(), own.immutable, own.append_only)? } else { None };
        let converted = self.entries(directory, fd.as_fd(), listing);
        // Whatever failed, names in it may have changed: its times and its flags are given back.
        let given_back = if touches {
            staging::restore_times(fd.as_fd(), own.entry.accessed, own.entry.modified)
        } else {
            Ok(())
        };
        let locked = lifted.map_or(Ok(()), FlagGuard::restore);
        converted?;
        Ok(given_back.and(locked)?)
    }

    /// Converts the entries of (a part of) a directory.
    fn entries(
        &self,
        directory: &Arc<Directory>,
        fd: BorrowedFd<'_>,
        listing: &Listing,
    ) -> Result<(), EntryError> {
        if self.goal.model == Model::MappedFile && !listing.entries.is_empty() {
            mapped_file::make_metadata_directory(fd, self.goal.uid, self.goal.gid)?;
        }
        for (name, record) in &listing.entries {
            let Some(record) = record else { continue };
            let place = Place { directory, fd, name };
            match self.entry(place, record) {
                Ok(()) => {}
                Err(obstacle) => {
                    self.error_summary.add(place.path(), obstacle);
                    if !matches!(obstacle, EntryError::Failed(_)) {
                        self.adopt(place, listing);
                    }
                }
            }
            self.progress.add(1);
            if self.error_summary.is_hopeless() {
                break;
            }
        }
        Ok(())
    }
}

/// The time that the kernel would stamp a change with now.
fn now() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Time { seconds: now.tv_sec, nanoseconds: u32::try_from(now.tv_nsec).unwrap_or_default() }
}
