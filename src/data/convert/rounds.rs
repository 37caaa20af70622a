//! All listings of the journal, one after the other, by several workers; and what was not in the export when it was
//! recorded.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::Converter;
use super::record::{Recorder, Recording, current};
use crate::data::entry::Kind;
use crate::data::flags::Lifted;
use crate::data::form::Model;
use crate::data::goal::Obstacle;
use crate::data::journal::{Journal, Listing, NameSum, Part, Record};
use crate::data::staging::{self, Place};
use crate::data::tree::Directory;
use crate::data::{mapped_file, walk};

/// How often the export is gone through at most, while it keeps changing.
const ROUNDS: usize = 4;

impl Converter<'_> {
    /// Converts everything that is recorded, and what appeared since, until there is nothing left to do. Says whether
    /// all was reached.
    pub(super) fn convert_all(&self) -> Result<bool> {
        let mut from = 0;
        for _ in 0..ROUNDS {
            let failed = self.troubles.failures();
            let end = self.journal_len();
            self.convert_from(from)?;
            if self.troubles.is_hopeless() {
                return Ok(false);
            }
            self.sweep()?;
            let grown = self.journal_len() > end;
            if self.troubles.failures() > failed && from == 0 && !grown {
                // What stood in the way may have been somebody else's turn.
                self.troubles.retry();
                self.convert_from(0)?;
            }
            if !grown {
                return Ok(self.troubles.failures() == 0);
            }
            self.writer.lock().unwrap_or_else(PoisonError::into_inner).sync()?;
            from = end;
        }
        // It keeps changing: somebody is at work in it.
        Ok(false)
    }

    fn journal_len(&self) -> u64 {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Converts what the listings from `offset` on tell of.
    fn convert_from(&self, offset: u64) -> Result<()> {
        let journal = Journal::open(self.journal)?;
        let superseded = journal.superseded()?;
        each_listing(&journal, self.jobs, |at, mut listing| {
            if at < offset || self.troubles.is_hopeless() || superseded.is_over(&listing) {
                return Ok(());
            }
            superseded.prune(at, &mut listing);
            let directory = journal.directory(self.tree, &listing)?;
            match self.listing(&directory, at, &listing) {
                Ok(()) if listing.late => {
                    let unlisted = listing.entries.iter().filter(|(name, record)| {
                        record.is_none() && superseded.is_unlisted(at, listing.id, name)
                    });
                    for (name, _) in unlisted {
                        self.adopt_unlisted(&directory, name, &listing);
                    }
                }
                Ok(()) => {}
                Err(Obstacle::Changed) => {
                    let parent = listing.parent.map(|parent| journal.listing_at(parent)).transpose()?;
                    self.adopt_other(&directory, parent.as_ref());
                }
                Err(obstacle) => self.troubles.add(directory.path(), obstacle),
            }
            Ok(())
        })
    }

    /// Records what is now where a directory was that went away before it could be recorded.
    fn adopt_unlisted(&self, directory: &Arc<Directory>, name: &CStr, listing: &Listing) {
        let Ok(fd) = directory.open() else { return };
        if directory.entry_at(fd.as_fd(), name, None).is_ok() {
            self.adopt(Place { directory, fd: fd.as_fd(), name }, listing);
        }
    }

    /// Records what has taken the place of a recorded directory; `parent` is the listing of the directory it is in.
    fn adopt_other(&self, directory: &Arc<Directory>, parent: Option<&Listing>) {
        let adopted = match parent {
            None => Err(Obstacle::Changed),
            Some(parent) => staging::at_own_place(directory, |place| {
                self.adopt(place, parent);
                Ok(())
            }),
        };
        if let Err(obstacle) = adopted {
            self.troubles.add(directory.path(), obstacle);
        }
    }

    /// Converts (a part of) a directory.
    fn listing(&self, directory: &Arc<Directory>, at: u64, listing: &Listing) -> Result<(), Obstacle> {
        let own = &listing.own;
        let pin = directory.pin()?;
        if pin.inode().identity.number != own.number {
            return Err(Obstacle::Changed);
        }
        let fd = directory.open()?;
        if listing.is_first(at) {
            staging::at_own_place(directory, |place| self.keep(place, &pin, own))?;
            self.progress.add(1);
        }
        let files = self.goal.model == Model::MappedFile;
        let replaces = |record: &Option<Record>| {
            record.as_ref().is_some_and(|record| record.entry.kind().is_some_and(Kind::is_replaced))
        };
        let touches = files || listing.entries.iter().any(|(_, record)| replaces(record));
        let lifted = if touches { Lifted::of(fd.as_fd(), own.immutable, own.append_only)? } else { None };
        if files && !listing.entries.is_empty() {
            mapped_file::make_metadata_directory(fd.as_fd(), self.goal.uid, self.goal.gid)?;
        }
        for (name, record) in &listing.entries {
            let Some(record) = record else { continue };
            let place = Place { directory, fd: fd.as_fd(), name };
            match self.entry(place, record) {
                Ok(()) => {}
                Err(Obstacle::Changed) => self.adopt(place, listing),
                Err(obstacle) => self.troubles.add(place.path(), obstacle),
            }
            self.progress.add(1);
            if self.troubles.is_hopeless() {
                break;
            }
        }
        if touches {
            staging::restore_times(fd.as_fd(), own.entry.accessed, own.entry.modified)?;
        }
        if let Some(lifted) = lifted {
            lifted.restore()?;
        }
        Ok(())
    }

    /// Records an entry that is not what was recorded: the next round converts it.
    fn adopt(&self, place: Place<'_>, listing: &Listing) {
        self.troubles.add(place.path(), Obstacle::Changed);
        if let Err(obstacle) = self.try_adopt(place, listing) {
            self.troubles.add(place.path(), obstacle);
        }
    }

    fn try_adopt(&self, place: Place<'_>, listing: &Listing) -> Result<(), Obstacle> {
        let pin = place.directory.entry_at(place.fd, place.name, None)?;
        if pin.inode().kind() == Some(Kind::Directory) {
            return self.adopt_directory(place, listing);
        }
        let record = current(self.goal, place.directory, place.name, &pin)?;
        let mut part = Part::new(listing.parent, listing.name.to_bytes(), listing.own.clone(), true);
        part.push(place.name.to_bytes(), Some(&record));
        self.write(&mut part.more(listing.id))
    }

    /// Records a directory that was not there, and all that is in it.
    fn adopt_directory(&self, place: Place<'_>, listing: &Listing) -> Result<(), Obstacle> {
        let mut part = Part::new(listing.parent, listing.name.to_bytes(), listing.own.clone(), true);
        part.push(place.name.to_bytes(), None);
        self.write(&mut part.more(listing.id))?;
        place.directory.mark.store(listing.id, Ordering::Release);
        let recording = Recording::new(&self.writer, Some(self.goal), self.progress);
        let top = place.directory.child(place.name);
        let walked = walk::from(&top, 1, || Recorder::new(&recording, None));
        walked.map(drop).map_err(|_| Obstacle::Failed(Errno::IO))
    }

    fn write(&self, part: &mut Part) -> Result<(), Obstacle> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer
            .listing(part)
            .map_err(|error| Obstacle::Failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }

    /// Looks for names that are in no listing: leftovers of a crash, which are removed, and entries that appeared since,
    /// which are recorded.
    fn sweep(&self) -> Result<()> {
        let journal = Journal::open(self.journal)?;
        let odd = Mutex::new(HashMap::new());
        each_listing(&journal, self.jobs, |_, listing| {
            let Some(names) = listing.names else { return Ok(()) };
            let directory = journal.directory(self.tree, &listing)?;
            // What is gone was told when its entries were to be converted.
            if let Ok(now) = self.names(&directory)
                && now != names
            {
                let mut odd = odd.lock().unwrap_or_else(PoisonError::into_inner);
                odd.insert(listing.id, HashSet::new());
            }
            Ok(())
        })?;
        let mut odd = odd.into_inner().unwrap_or_else(PoisonError::into_inner);
        if odd.is_empty() {
            return Ok(());
        }
        let mut samples = Vec::new();
        for listing in journal.listings()? {
            let (_, listing) = listing?;
            let Some(known) = odd.get_mut(&listing.id) else { continue };
            known.extend(listing.entries.iter().map(|(name, _)| name.clone()));
            if listing.names.is_some() {
                samples.push(Listing { entries: Vec::new(), ..listing });
            }
        }
        for listing in samples {
            let directory = journal.directory(self.tree, &listing)?;
            let known = odd.remove(&listing.id).unwrap_or_default();
            if let Err(obstacle) = self.sweep_directory(&directory, &listing, &known) {
                self.troubles.add(directory.path(), obstacle);
            }
        }
        Ok(())
    }

    /// All names in a directory that the guest sees, in short.
    fn names(&self, directory: &Directory) -> rustix::io::Result<NameSum> {
        let mut sum = NameSum::default();
        walk::each_name(directory, |name, _| {
            if !self.is_own(directory, name) {
                sum.add(name.to_bytes());
            }
        })?;
        Ok(sum)
    }

    /// Whether a name is QEMU's own, under this model.
    fn is_own(&self, directory: &Directory, name: &CStr) -> bool {
        self.goal.model == Model::MappedFile && mapped_file::is_reserved(directory, name)
    }

    fn sweep_directory(
        &self,
        directory: &Arc<Directory>,
        listing: &Listing,
        known: &HashSet<std::ffi::CString>,
    ) -> Result<(), Obstacle> {
        let fd = directory.open()?;
        for (name, _) in walk::names(directory)? {
            let place = Place { directory, fd: fd.as_fd(), name: &name };
            if self.is_own(directory, &name) || known.contains(&name) {
                continue;
            }
            if self.staging.made(&name) {
                rustix::fs::unlinkat(&fd, &*name, AtFlags::empty())?;
                staging::restore_times(fd.as_fd(), listing.own.entry.accessed, listing.own.entry.modified)?;
                continue;
            }
            self.troubles.add(place.path(), Obstacle::Appeared);
            self.try_adopt(place, listing)?;
        }
        Ok(())
    }
}

/// Does something with each listing of a journal, by several workers. The first error ends it.
pub(in crate::data) fn each_listing(
    journal: &Journal,
    jobs: usize,
    work: impl Fn(u64, Listing) -> Result<()> + Sync,
) -> Result<()> {
    let listings = Mutex::new(journal.listings()?);
    let worker = || {
        loop {
            let next = listings.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(listing) = next else { return Ok(()) };
            let (at, listing) = listing?;
            work(at, listing)?;
        }
    };
    if jobs <= 1 {
        return worker();
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
