//! What the guest sees of entries of which not all is said any more: the rest is in the journal.

use std::ffi::CStr;
use std::sync::PoisonError;

use rustix::fd::AsFd as _;
use rustix::io::Result;

use super::restorer::Restorer;
use crate::data::entry::{Entry, Inode, Kind};
use crate::data::flags::FlagGuard;
use crate::data::form::Model;
use crate::data::identity::Stamp;
use crate::data::journal::Record;
use crate::data::mapped_xattr::{self, Attributes, LONGEST_TARGET};
use crate::data::pin::Pin;
use crate::data::staging::Place;
use crate::data::{mapped_file, passthrough};

/// What the guest sees of an entry.
pub(super) struct Seen {
    pub(super) entry: Entry,
    /// Whether some of it is not said any more, and comes from the journal.
    pub(super) is_lost: bool,
}

impl Restorer<'_> {
    /// Counts an entry that is restored.
    pub(super) fn note_lost(&self, place: Place<'_>) {
        self.lost.restored_to_record.add(place.path());
    }

    /// Notes that what `record` tells of is not at its place; the journal tells of it at `at`.
    pub(super) fn note_absent(&self, record: &Record, at: u64) {
        self.moved_inodes.note_absent(record);
        if self.complete && matches!(record.entry.kind(), Some(Kind::File | Kind::Directory)) {
            let mut absent = self.lost.absent.lock().unwrap_or_else(PoisonError::into_inner);
            absent.insert(record.id.recorded_key(), at);
        }
    }

    /// The record of a file or a directory that is not at its place.
    pub(super) fn absent(&self, inode: &Inode) -> Option<Record> {
        let absent = self.lost.absent.lock().unwrap_or_else(PoisonError::into_inner);
        let at = *absent.get(&inode.id.recorded_key())?;
        drop(absent);
        // A journal that can't be read is told by everybody else who reads it.
        let listing = self.journal.listing_at(at).ok()?;
        let records = listing.entries.into_iter().filter_map(|(_, record)| record);
        std::iter::once(listing.own).chain(records).find(|record| record.is(inode))
    }

    /// What the guest sees of a file or a directory that was `was`. What nothing says any more is as it was.
    pub(super) fn seen(&self, place: Place<'_>, pin: &Pin, was: &Entry) -> Result<Seen> {
        let mut entry = self.shown(place, pin)?;
        let inode = pin.inode();
        if !self.is_unrestored(inode) || !shows_through(inode, &entry) {
            return Ok(Seen { entry, is_lost: false });
        }
        let said = self.said(place, pin)?;
        if said.uid.is_some() && said.gid.is_some() && said.mode.is_some() {
            return Ok(Seen { entry, is_lost: false });
        }
        self.fill(&mut entry, &said, was);
        if entry.kind() == Some(Kind::Symlink) && entry.target.is_none() {
            entry.target = mapped_xattr::target(pin)?;
        }
        Ok(Seen { entry, is_lost: true })
    }

    /// What the guest sees of the regular file that stands for the link or the special file of `record`.
    pub(super) fn seen_special(&self, place: Place<'_>, pin: &Pin, record: &Record) -> Result<Seen> {
        let mut entry = self.shown(place, pin)?;
        let was = &record.entry;
        let has_device = was.kind().is_some_and(Kind::is_device);
        let may_lack = shows_through(pin.inode(), &entry) || has_device && entry.rdev == 0;
        if !self.complete || !may_lack || !self.stands_for_it(pin, record) || !self.is_remnant(pin, record)? {
            return Ok(Seen { entry, is_lost: false });
        }
        let said = self.said(place, pin)?;
        let is_all = said.uid.is_some()
            && said.gid.is_some()
            && said.mode.is_some()
            && (said.rdev.is_some() || !has_device);
        if !is_all {
            self.fill(&mut entry, &said, was);
            entry.target.clone_from(&was.target);
        }
        Ok(Seen { entry, is_lost: !is_all })
    }

    /// What the guest saw of the link or the special file that a regular file without some of its attributes stands for: the guest has
    /// moved it, and the journal tells of one like it that is not at its place.
    pub(super) fn absent_special(&self, place: Place<'_>, pin: &Pin) -> Result<Option<(Entry, Record)>> {
        let inode = pin.inode();
        let may_be = inode.kind() == Some(Kind::File)
            && inode.size <= LONGEST_TARGET as u64
            && self.moved_inodes.has_absent();
        if !may_be || !self.is_unrestored(inode) {
            return Ok(None);
        }
        let said = self.said(place, pin)?;
        let content = pin.content(LONGEST_TARGET + 1)?;
        let mut candidates = Vec::new();
        for record in self.moved_inodes.absent(&content, inode.modified) {
            if lacks_some(&said, &record.entry) && self.is_remnant(pin, &record)? && self.was_made_for(inode)
            {
                candidates.push(record);
            }
        }
        let Some((record, others)) = candidates.split_first() else { return Ok(None) };
        let known = |record: &Record| {
            let was = &record.entry;
            let of = (was.mode, was.uid, was.gid, was.rdev);
            (of, was.xattrs.clone(), was.access_acl.clone())
        };
        if others.iter().any(|other| known(other) != known(record)) {
            self.lost.ambiguous.add(place.path());
            return Ok(None);
        }
        let mut entry = self.shown(place, pin)?;
        self.fill(&mut entry, &said, &record.entry);
        entry.target.clone_from(&record.entry.target);
        Ok(Some((entry, record.clone())))
    }

    /// Whether an inode may have been made by the conversion: no guest has made it since.
    fn was_made_for(&self, inode: &Inode) -> bool {
        let done = self.journal.converted_at().and_then(|at| i64::try_from(at).ok());
        match (inode.id.stamp, done) {
            // What was adopted was made later, and a copy of the export later still.
            _ if self.journal.is_by_path() || self.journal.has_adopted() => true,
            (Stamp::Born(born), Some(done)) => born.seconds <= done,
            _ => true,
        }
    }

    /// Whether nothing says what the guest sees of an inode, because it is restored: by a run before, or with another name.
    pub(super) fn is_bare(&self, pin: &Pin) -> Result<bool> {
        Ok(self.complete
            && self.goal.model == Model::MappedXattr
            && !self.is_unrestored(pin.inode())
            && !mapped_xattr::is_carried(pin)?)
    }

    /// What an inode really is.
    pub(super) fn real(pin: &Pin) -> Result<Entry> {
        passthrough::read(pin)
    }

    /// Gives a file or a directory whose attributes are all gone those of `record` that the guest saw.
    pub(super) fn give_attributes_back(&self, pin: &Pin, seen: &Entry, record: &Record) -> Result<()> {
        let of_guest = |name: &[u8]| mapped_xattr::is_passed(name);
        let is_bare = self.goal.model == Model::MappedXattr
            && !mapped_xattr::is_carried(pin)?
            && !seen.xattrs.iter().any(|(name, _)| of_guest(name));
        if !is_bare {
            return Ok(());
        }
        let inode = pin.inode();
        let lifted = FlagGuard::of(pin.as_fd(), inode.immutable, inode.append_only)?;
        for (name, value) in record.entry.xattrs.iter().filter(|(name, _)| of_guest(name)) {
            pin.set_xattr(&mapped_xattr::name(name), value)?;
        }
        lifted.map_or(Ok(()), FlagGuard::restore)
    }

    /// Notes that the inode of `record` is restored to what looks converted: where the journal tells of it at another place, too, it is
    /// known by this.
    pub(super) fn note_restored(&self, inode: &Inode, entry: &Entry, record: &Record) {
        let is_told_again = inode.is_linked() || record.entry.links > 1 || self.journal.has_adopted();
        if is_told_again && (entry.uid, entry.gid) == (self.goal.uid, self.goal.gid) {
            self.lost.restored.lock().unwrap_or_else(PoisonError::into_inner).insert(inode.id.key());
        }
    }

    /// Whether an inode is converted, and no rollback has restored it.
    fn is_unrestored(&self, inode: &Inode) -> bool {
        let is_restored = || {
            let by_this_run = || {
                let restored = self.lost.restored.lock().unwrap_or_else(PoisonError::into_inner);
                restored.contains(&inode.id.key())
            };
            let changed = u64::try_from(inode.changed.seconds).unwrap_or_default();
            self.since.is_some_and(|since| changed >= since) || by_this_run()
        };
        self.complete && !self.journal.begin().unmaps && self.is_owned(inode) && !is_restored()
    }

    /// What says what the guest sees of an entry.
    fn said(&self, place: Place<'_>, pin: &Pin) -> Result<Attributes> {
        match self.goal.model {
            Model::MappedXattr => Ok(mapped_xattr::read_attributes(pin)?.0),
            Model::MappedFile => {
                let name: &CStr = place.name;
                Ok(mapped_file::read_attributes(place.directory, name)?.unwrap_or_default())
            }
        }
    }

    /// Takes from `was` what is not said.
    fn fill(&self, entry: &mut Entry, said: &Attributes, was: &Entry) {
        if said.is_empty() && self.goal.model == Model::MappedXattr {
            // Under mapped-file they are the inode's own.
            entry.access_acl = entry.access_acl.take().or_else(|| was.access_acl.clone());
            entry.default_acl = entry.default_acl.take().or_else(|| was.default_acl.clone());
        }
        entry.uid = said.uid.unwrap_or(was.uid);
        entry.gid = said.gid.unwrap_or(was.gid);
        entry.mode = said.mode.unwrap_or(was.mode);
        entry.rdev =
            if entry.kind().is_some_and(Kind::is_device) { said.rdev.unwrap_or(was.rdev) } else { 0 };
    }
}

/// Whether the guest may see something of the inode itself, because nothing else is said.
fn shows_through(inode: &Inode, shown: &Entry) -> bool {
    shown.uid == inode.uid || shown.gid == inode.gid || shown.mode == inode.mode
}

/// Whether some of what the guest sees of `was` is not said, and nothing else that contradicts it.
fn lacks_some(said: &Attributes, was: &Entry) -> bool {
    let has_device = was.kind().is_some_and(Kind::is_device);
    let is_all = said.uid.is_some()
        && said.gid.is_some()
        && said.mode.is_some()
        && (said.rdev.is_some() || !has_device);
    !is_all && said.mode.is_none_or(|mode| Kind::of(mode) == was.kind())
}
