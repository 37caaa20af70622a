//! The entries that the journal tells of, at their places.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use anyhow::Result;
use rustix::io::Errno;

use super::restorer::Restorer;
use super::seen::Seen;
use super::times;
use crate::data::acl;
use crate::data::entry::{Entry, Inode, Kind, Time};
use crate::data::flags::FlagGuard;
use crate::data::form::Model;
use crate::data::goal::EntryError;
use crate::data::identity::Stamp;
use crate::data::journal::each_listing;
use crate::data::journal::{Listing, Record};
use crate::data::mapped_xattr;
use crate::data::pin::Pin;
use crate::data::staging::{self, Place};
use crate::data::tree::Directory;

impl Restorer<'_> {
    /// Restores what is where it was recorded.
    pub(super) fn journaled(&self) -> Result<()> {
        let superseded = self.journal.superseded()?;
        each_listing(self.journal, self.jobs, |at, mut listing| {
            if self.errors.is_hopeless() {
                return Ok(());
            }
            let is_over = superseded.is_over(&listing);
            if self.journal.has_adopted() {
                // What had the place of an adopted entry before may have been moved by the guest.
                let moved = listing
                    .entries
                    .iter()
                    .filter(|(name, _)| is_over || superseded.is_stale(at, &listing, name));
                moved
                    .filter_map(|(_, record)| record.as_ref())
                    .for_each(|record| self.note_absent(record, at));
            }
            if is_over {
                return Ok(());
            }
            superseded.prune(at, &mut listing);
            let directory = self.journal.directory(self.tree, &listing)?;
            // Its listings may be worked on at the same time.
            let is_alone = listing.is_first(at) && listing.names.is_some() && !superseded.has(&listing);
            if let Err(obstacle) = self.listing(&directory, at, &listing, is_alone) {
                self.errors.add(directory.path(), obstacle);
            }
            Ok(())
        })
    }

    /// Restores (a part of) a directory. `is_alone` says that there is no other part.
    fn listing(
        &self,
        directory: &Arc<Directory>,
        at: u64,
        listing: &Listing,
        is_alone: bool,
    ) -> Result<(), EntryError> {
        let own = &listing.own;
        let (pin, fd) = match directory.pin().and_then(|pin| Ok((pin, directory.open()?))) {
            Ok((pin, fd)) if own.is_inode(pin.inode()) => (pin, fd),
            // The guest has removed it, or put it elsewhere: the walk that follows finds it.
            Ok(_) | Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::LOOP) => {
                let records = listing.entries.iter().filter_map(|(_, record)| record.as_ref());
                records.chain([own]).for_each(|record| self.note_absent(record, at));
                return Ok(());
            }
            // An earlier version recorded it.
            Err(Errno::XDEV) if directory.is_absent_subvolume(c"") => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let is_open = self.open.as_ref().is_some_and(|(from, _)| at >= *from);
        if listing.is_first(at) {
            self.room.retry_on(&pin, |pin| {
                staging::at_own_place(directory, |place| self.kept(place, pin, own, at, is_open))
            })?;
            self.progress.add(1);
        }
        let (accessed, modified) = self.times(&pin, listing, is_alone)?;
        // A conversion to mapped-file that was interrupted may have made the metadata directory and not given the times back.
        let was_touched = !self.complete && self.goal.model == Model::MappedFile || self.is_open(listing);
        let touches = was_touched
            || listing
                .entries
                .iter()
                .any(|(_, record)| record.as_ref().is_some_and(|record| is_replaced(&record.entry)));
        let lifted = if touches { FlagGuard::of(fd.as_fd(), own.immutable, own.append_only)? } else { None };
        if touches && (accessed, modified) != (own.entry.accessed, own.entry.modified) {
            times::keep(fd.as_fd(), accessed, modified)?;
        }
        for (name, record) in &listing.entries {
            let Some(record) = record else { continue };
            let place = Place { directory, fd: fd.as_fd(), name };
            if let Err(obstacle) = self.room.retry(|| self.entry(place, record, at, is_open)) {
                self.errors.add(place.path(), obstacle);
            }
            self.progress.add(1);
            if self.errors.is_hopeless() {
                break;
            }
        }
        if touches {
            staging::restore_times(fd.as_fd(), accessed, modified)?;
        }
        if let Some(lifted) = lifted {
            lifted.restore()?;
        }
        Ok(())
    }

    /// The times that a directory is to have after its entries were replaced.
    fn times(&self, pin: &Pin, listing: &Listing, is_alone: bool) -> Result<(Time, Time), EntryError> {
        if let Some(pending) = times::pending(pin.as_fd())? {
            return Ok(pending);
        }
        if is_alone {
            return Ok(self.times_now(pin.inode(), listing));
        }
        // Several parts of it may be worked on at the same time: what counts is what was there before the first.
        let mut parted = self.parted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = parted.get(&listing.id) {
            return Ok(*times);
        }
        let times = self.times_now(&super::super::pin::stat(pin.as_fd())?, listing);
        parted.insert(listing.id, times);
        Ok(times)
    }

    fn times_now(&self, inode: &Inode, listing: &Listing) -> (Time, Time) {
        let was = &listing.own.entry;
        let is_ours = self.since.is_some_and(|since| {
            u64::try_from(inode.modified.seconds).is_ok_and(|modified| modified >= since)
        });
        // Unless the guest has worked in it since, they are the recorded ones; where a rollback that was interrupted
        // has touched it, nobody knows better.
        if self.complete && !is_ours && !self.is_open(listing) {
            (inode.accessed, inode.modified)
        } else {
            (was.accessed, was.modified)
        }
    }

    /// Whether an adoption that was interrupted may have touched the directory that a listing tells of.
    fn is_open(&self, listing: &Listing) -> bool {
        self.open.as_ref().is_some_and(|(_, directories)| directories.contains(&listing.id))
    }

    /// Restores an entry that is no directory, of which the journal tells at `at`. `is_open` says that its adoption was interrupted.
    fn entry(&self, place: Place<'_>, record: &Record, at: u64, is_open: bool) -> Result<(), EntryError> {
        let hint = (record.entry.kind() == Some(Kind::File)).then_some(Kind::File);
        let (_turn, pin) = match self.pin(place, hint) {
            Ok(pin) => pin,
            Err(Errno::NOENT | Errno::LOOP) => {
                self.note_absent(record, at);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if is_replaced(&record.entry) {
            self.replaced(place, &pin, record, at)
        } else {
            self.kept(place, &pin, record, at, is_open)
        }
    }

    /// Pins an entry, and keeps all others from its inode for as long as the first part is held, where it has several names.
    pub(super) fn pin(
        &self,
        place: Place<'_>,
        hint: Option<Kind>,
    ) -> rustix::io::Result<(Option<MutexGuard<'_, ()>>, Pin)> {
        let pin = place.directory.entry_at(place.fd, place.name, hint)?;
        if !pin.inode().is_linked() {
            return Ok((None, pin));
        }
        let turn = self.linked.lock().unwrap_or_else(PoisonError::into_inner);
        // Another name's turn may just have been.
        Ok((Some(turn), place.directory.entry_at(place.fd, place.name, hint)?))
    }

    /// Restores a regular file or a directory. `is_open` says that its adoption was interrupted.
    fn kept(
        &self,
        place: Place<'_>,
        pin: &Pin,
        record: &Record,
        at: u64,
        is_open: bool,
    ) -> Result<(), EntryError> {
        if !record.is(pin.inode()) {
            self.note_absent(record, at);
            return Ok(());
        }
        let is_restored = self.is_restored(pin, record)?;
        if self.goal.model == Model::MappedFile && !self.is_owned(pin.inode()) && (is_restored || is_open) {
            // It was recorded and not converted yet. A metadata file of its name says what another inode was.
            crate::data::mapped_file::remove(place.fd, place.name)?;
            // Its flags may have been lifted to convert it.
            crate::data::flags::set_again(pin, record)?;
            self.counts.as_recorded.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if is_restored {
            self.note_mapped_before(pin, record);
            self.counts.as_recorded.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if !self.complete {
            self.restore(place, pin, &record.entry, Some(record))?;
            self.note_mapped_before(pin, record);
            self.counts.as_recorded.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if has_flags(pin.inode(), record) && self.is_bare(pin)? {
            self.note_mapped_before(pin, record);
            self.count(&Self::real(pin)?, record);
            return Ok(());
        }
        self.as_seen(place, pin, record)
    }

    /// Makes a regular file or a directory of a complete conversion what the guest sees.
    pub(super) fn as_seen(&self, place: Place<'_>, pin: &Pin, record: &Record) -> Result<(), EntryError> {
        let adopted = self.goal.adopted(&record.entry);
        let Seen { entry: shown, is_lost } =
            self.seen(place, pin, adopted.as_ref().unwrap_or(&record.entry))?;
        if is_lost {
            self.give_attributes_back(pin, &shown, record)?;
        }
        let is_as_recorded = self.restore_seen(place, pin, record, &shown, adopted.as_ref())?;
        self.note_restored(pin.inode(), &shown, record);
        if is_lost {
            self.note_lost(place);
        } else if is_as_recorded {
            self.counts.as_recorded.fetch_add(1, Ordering::Relaxed);
        } else {
            self.counts.as_changed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes a regular file or a directory what the guest sees: `shown`. `adopted` is what mapped attributes said of it before the
    /// conversion. Returns whether it is as recorded.
    fn restore_seen(
        &self,
        place: Place<'_>,
        pin: &Pin,
        record: &Record,
        shown: &Entry,
        adopted: Option<&Entry>,
    ) -> Result<bool, EntryError> {
        let Some(adopted) = adopted else {
            self.restore(place, pin, shown, Some(record))?;
            self.note_mapped_before(pin, record);
            return Ok(self.is_as_recorded(shown, record));
        };
        let of = |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.rdev);
        let acls = |entry: &Entry| (entry.access_acl.clone(), entry.default_acl.clone());
        if of(shown) == of(adopted) && acls(shown) == acls(adopted) {
            // What the attributes said before, they say again.
            self.restore(place, pin, &record.entry, Some(record))?;
            self.note_mapped_before(pin, record);
            return Ok(true);
        }
        // The guest has changed it: it becomes really what the guest sees.
        let mut record = record.clone();
        record.entry.xattrs.retain(|(name, _)| !name.starts_with(b"user.virtfs."));
        self.restore(place, pin, shown, (!is_replaced(shown)).then_some(&record))?;
        Ok(false)
    }

    /// Whether an inode is as it was recorded, and nothing is left to take away.
    fn is_restored(&self, pin: &Pin, record: &Record) -> rustix::io::Result<bool> {
        let (inode, entry) = (pin.inode(), &record.entry);
        if inode.changed == record.changed && has_flags(inode, record) {
            return Ok(true);
        }
        if !has_flags(inode, record) {
            return Ok(false);
        }
        // Mapped attributes from before the conversion must not be taken for what the guest sees.
        if self.mapped_before.is_none()
            || (inode.mode, inode.uid, inode.gid) != (entry.mode, entry.uid, entry.gid)
        {
            return Ok(false);
        }
        let now = crate::data::passthrough::read(pin)?;
        Ok(now.xattrs == entry.xattrs
            && now.access_acl == entry.access_acl
            && entry.xattrs.iter().any(|(name, _)| name.starts_with(b"user.virtfs.")))
    }

    fn note_mapped_before(&self, pin: &Pin, record: &Record) {
        if let Some(numbers) = &self.mapped_before
            && record.entry.xattrs.iter().any(|(name, _)| name.starts_with(b"user.virtfs."))
        {
            numbers.lock().unwrap_or_else(PoisonError::into_inner).insert(pin.inode().id.key());
        }
    }

    /// Restores a symbolic link or a special file.
    fn replaced(&self, place: Place<'_>, pin: &Pin, record: &Record, at: u64) -> Result<(), EntryError> {
        if pin.inode().kind() == record.entry.kind() {
            // An interrupted rollback made it, or it was never converted.
            if record.entry.links > 1 {
                self.rejoin(place, pin, record)?;
            }
            if self.goal.model == Model::MappedFile {
                crate::data::mapped_file::remove(place.fd, place.name)?;
            }
            self.counts.as_recorded.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if pin.inode().kind() != Some(Kind::File) {
            self.note_absent(record, at);
            return Ok(());
        }
        let Seen { entry: shown, is_lost: has_lost } = self.seen_special(place, pin, record)?;
        if self.complete {
            if shown.kind() != record.entry.kind() || !self.stands_for_it(pin, record) {
                // The guest has put something else there, which the walk finds.
                self.note_absent(record, at);
            } else {
                let is_lost = shown.target.as_ref().is_some_and(Vec::is_empty);
                let entry = if is_lost { record.entry.clone() } else { shown };
                self.restore(place, pin, &entry, Some(record))?;
                if has_lost {
                    self.note_lost(place);
                } else {
                    self.count(&entry, record);
                }
            }
            return Ok(());
        }
        if let Some(origin) = self.stands_for(pin, record, shown)? {
            self.restore(place, pin, &origin.entry, Some(&origin))?;
            self.count(&origin.entry, record);
        }
        Ok(())
    }

    /// Whether a regular file of the recorded kind is the one that the conversion put in the place of `record`, not one that the
    /// guest made there since.
    pub(super) fn stands_for_it(&self, pin: &Pin, record: &Record) -> bool {
        let inode = pin.inode();
        let is_as_old = match inode.id.stamp {
            Stamp::Born(born) if !self.journal.is_by_path() => {
                let done = self.journal.converted_at().and_then(|at| i64::try_from(at).ok());
                done.is_some_and(|done| born.seconds <= done)
            }
            _ => false,
        };
        is_as_old || inode.modified == record.entry.modified
    }

    /// What a regular file in the place of `record` stands for, which the guest would see as `shown`, if it stands for
    /// anything special. The conversion was not complete, so that it may be what stands for another entry, moved here.
    fn stands_for(&self, pin: &Pin, record: &Record, shown: Entry) -> rustix::io::Result<Option<Record>> {
        let was = &record.entry;
        let is_remnant = self.is_remnant(pin, record)?;
        if self.goal.model == Model::MappedFile {
            if is_remnant && pin.inode().modified == was.modified {
                return Ok(Some(record.clone()));
            }
            if let Some(origin) = self.moved_inodes.scattered(pin)? {
                return Ok(is_replaced(&origin.entry).then_some(origin));
            }
            return Ok((is_remnant || shown.kind() == was.kind()).then(|| record.clone()));
        }
        if !is_replaced(&shown) {
            return Ok(is_remnant.then(|| record.clone()));
        }
        let is_lost = shown.target.as_deref().is_none_or(|target| target.iter().all(|&byte| byte == 0));
        if (shown.mode, shown.uid, shown.gid, shown.rdev) == (was.mode, was.uid, was.gid, was.rdev)
            && (is_lost || shown.target == was.target)
        {
            return Ok(Some(record.clone()));
        }
        let mut origin = Record::new(pin.inode(), shown);
        self.moved_inodes.complete(pin, &mut origin);
        Ok(Some(origin))
    }

    /// Makes a name of a special inode that was several times there before the conversion one of the same inode again.
    fn rejoin(&self, place: Place<'_>, pin: &Pin, record: &Record) -> Result<(), EntryError> {
        let mut originals = self.originals.lock();
        let first = originals.get(record.id.recorded_key()).map(staging::Linked::pin).transpose()?.flatten();
        match first {
            Some(first) if first.inode().identity != pin.inode().identity => {
                self.staging.link(place, record.id.number, &first)?;
            }
            Some(_) => {}
            None => originals.insert(record.id.recorded_key(), place, pin.inode()),
        }
        Ok(())
    }

    /// Whether a regular file is what a conversion that a power cut ended left in the place of `record`.
    pub(super) fn is_remnant(&self, pin: &Pin, record: &Record) -> rustix::io::Result<bool> {
        if !self.is_converted(pin, &record.entry) {
            return Ok(false);
        }
        let content = pin.content(mapped_xattr::LONGEST_TARGET + 1)?;
        Ok(content.iter().all(|&byte| byte == 0) || Some(&content) == record.entry.target.as_ref())
    }

    fn count(&self, entry: &Entry, record: &Record) {
        let is_as_recorded = self.is_as_recorded(entry, record);
        let counter = if is_as_recorded { &self.counts.as_recorded } else { &self.counts.as_changed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn is_as_recorded(&self, entry: &Entry, record: &Record) -> bool {
        let was = &record.entry;
        // Under mapped-file the conversion itself may have added rights of the owner's.
        let acl = |acl: &Option<Vec<u8>>| {
            acl.as_ref().map(|acl| match self.goal.model {
                Model::MappedFile => acl::with_owner_rights(acl, 7),
                Model::MappedXattr => acl.clone(),
            })
        };
        let is_users = |name: &[u8]| name.starts_with(b"user.") && !name.starts_with(b"user.virtfs.");
        let attributes = |entry: &Entry| {
            let own = entry.xattrs.iter().filter(|(name, _)| is_users(name));
            own.cloned().collect::<BTreeMap<_, _>>()
        };
        // What a directory holds is told of by itself.
        let content = |entry: &Entry| match entry.kind() {
            Some(Kind::Directory) => None,
            Some(Kind::File) => Some((entry.size, entry.modified)),
            _ => Some((0, entry.modified)),
        };
        (entry.mode, entry.uid, entry.gid, entry.rdev, &entry.target)
            == (was.mode, was.uid, was.gid, was.rdev, &was.target)
            && acl(&entry.access_acl) == acl(&was.access_acl)
            && entry.default_acl == was.default_acl
            && content(entry) == content(was)
            && attributes(entry) == attributes(was)
    }
}

/// Whether an inode has the flags that it had when it was recorded.
fn has_flags(inode: &Inode, record: &Record) -> bool {
    (inode.immutable, inode.append_only) == (record.immutable, record.append_only)
}

fn is_replaced(entry: &Entry) -> bool {
    entry.kind().is_some_and(Kind::is_replaced)
}
