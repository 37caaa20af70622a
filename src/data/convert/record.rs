//! The first half of a conversion: everything's original state into the journal.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;

use crate::data::entry::{Entry, Kind};
use crate::data::form::{Form, Model};
use crate::data::goal::ConversionTarget;
use crate::data::journal::{Format, Part, Record, Totals, Writer};
use crate::data::moved_inodes::MovedInodes;
use crate::data::passthrough;
use crate::data::pin::Pin;
use crate::data::progress::Progress;
use crate::data::staging::Staging;
use crate::data::survey::Surveyor;
use crate::data::tree::Directory;
use crate::data::walk::{Trouble, Visitor};

/// What all recorders of a walk share.
pub(super) struct Recording<'r> {
    pub(super) writer: &'r Mutex<Writer>,
    /// For entries that are met after the recording proper.
    pub(super) late: Option<Rescan<'r>>,
    pub(super) progress: &'r Progress,
    /// The journal's.
    format: Format,
    /// Directories of which some entries are still to be read, by their ids.
    suspended: Mutex<HashMap<u64, Part>>,
}

/// What is known of entries that are met after the recording proper: some of them may be converted already.
#[derive(Clone, Copy)]
pub(super) struct Rescan<'r> {
    pub(super) goal: ConversionTarget,
    pub(super) moved_inodes: &'r MovedInodes,
    pub(super) staging: &'r Staging,
}

impl<'r> Recording<'r> {
    pub(super) fn new(writer: &'r Mutex<Writer>, late: Option<Rescan<'r>>, progress: &'r Progress) -> Self {
        let format = writer.lock().unwrap_or_else(PoisonError::into_inner).format();
        Self { writer, late, progress, format, suspended: Mutex::default() }
    }
}

/// Walks and records. The mark of each directory becomes its id in the journal.
pub(super) struct Recorder<'r> {
    shared: &'r Recording<'r>,
    pub(super) surveyor: Option<Surveyor<'r>>,
    pub(super) totals: Totals,
    part: Option<Part>,
}

impl<'r> Recorder<'r> {
    pub(super) fn new(shared: &'r Recording<'r>, surveyor: Option<Surveyor<'r>>) -> Self {
        Self { shared, surveyor, totals: Totals::default(), part: None }
    }

    /// The part of `directory` that is being filled.
    fn part(&mut self, directory: &Directory) -> Option<&mut Part> {
        if self.part.is_none() {
            let id = directory.mark.load(Ordering::Acquire);
            self.part = self.shared.suspended.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
        self.part.as_mut()
    }

    fn look(&self, directory: &Directory, name: &CStr, pin: &Pin) -> rustix::io::Result<Record> {
        match self.shared.late {
            Some(late) => late.current(directory, name, pin),
            None => record(pin),
        }
    }

    /// Counts what was recorded. Its attributes are looked at once more where there are any.
    fn survey(&mut self, directory: &Directory, name: &CStr, pin: &Pin, record: &Record) {
        if let Some(surveyor) = &mut self.surveyor {
            let entry = &record.entry;
            let acls = entry.access_acl.is_some() || entry.default_acl.is_some();
            surveyor.meet(directory, name, pin, acls || !entry.xattrs.is_empty());
        }
    }

    fn push(&mut self, directory: &Directory, name: &CStr, record: Option<&Record>) -> anyhow::Result<()> {
        let Some(part) = self.part(directory) else { return Ok(()) };
        part.push(name.to_bytes(), record);
        if part.is_full() { self.write(directory) } else { Ok(()) }
    }

    fn write(&mut self, directory: &Directory) -> anyhow::Result<()> {
        let writer = self.shared.writer;
        let Some(part) = self.part(directory) else { return Ok(()) };
        writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .listing(part)
            .map_err(crate::data::journal::not_recorded)?;
        directory.mark.store(part.id().unwrap_or(0), Ordering::Release);
        Ok(())
    }
}

impl Rescan<'_> {
    /// The record of an inode that somebody has changed or moved since, which may be converted, if only in part: what the
    /// guest would see of it counts.
    pub(super) fn current(
        &self,
        directory: &Directory,
        name: &CStr,
        pin: &Pin,
    ) -> rustix::io::Result<Record> {
        let now = self.look(directory, name, pin)?;
        self.moved_inodes.note(&now);
        Ok(now)
    }

    fn look(&self, directory: &Directory, name: &CStr, pin: &Pin) -> rustix::io::Result<Record> {
        let mut now = record(pin)?;
        let (goal, inode) = (self.goal, pin.inode());
        if goal.model == Model::MappedFile {
            // A metadata file is the name's, not the inode's: of one that is not converted it says nothing, and of one
            // that was moved here nothing that is true.
            if (inode.uid, inode.gid) != (goal.uid, goal.gid) {
                return Ok(now);
            }
            if let Some(origin) = self.moved_inodes.scattered(pin)? {
                let Entry { mode, uid, gid, rdev, target, access_acl, default_acl, .. } = origin.entry;
                now.entry = Entry { mode, uid, gid, rdev, target, access_acl, default_acl, ..now.entry };
                self.moved_inodes.complete(pin, &mut now);
                return Ok(now);
            }
        }
        let shown = Form::Mapped(goal.model).read(directory, name, pin)?;
        let is_link = shown.kind() == Some(Kind::Symlink);
        // What a name's metadata file says of another inode that has taken the name may not fit it.
        let fits = shown.kind().is_some_and(|kind| Some(ConversionTarget::carrier(kind)) == inode.kind());
        if fits && (!is_link || shown.target.as_ref().is_some_and(|target| !target.is_empty())) {
            let real_acls = (now.entry.access_acl, now.entry.default_acl);
            now.entry = Entry { xattrs: now.entry.xattrs, ..shown };
            now.entry.access_acl = now.entry.access_acl.or(real_acls.0);
            now.entry.default_acl = now.entry.default_acl.or(real_acls.1);
            if goal.model == Model::MappedXattr {
                now.entry.xattrs.retain(|(name, _)| !name.starts_with(b"user.virtfs."));
                self.moved_inodes.complete(pin, &mut now);
            }
        }
        Ok(now)
    }
}

/// The record of an inode.
fn record(pin: &Pin) -> rustix::io::Result<Record> {
    Ok(Record::new(pin.inode(), passthrough::read(pin)?))
}

impl Visitor for Recorder<'_> {
    type Error = anyhow::Error;

    fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> anyhow::Result<()> {
        self.totals.entries += 1;
        self.totals.directories += 1;
        self.shared.progress.add(1);
        let within = directory.parent().unwrap_or(directory);
        let own = self
            .look(within, directory.name(), pin)
            .with_context(|| format!("reading the directory '{}'", crate::text::escape(&directory.path())))?;
        self.survey(directory, directory.name(), pin, &own);
        let parent = directory.parent().map(|parent| parent.mark.load(Ordering::Acquire));
        let (name, is_late) = (directory.name().to_bytes(), self.shared.late.is_some());
        self.part = Some(Part::new(self.shared.format, parent, name, own, is_late));
        Ok(())
    }

    fn entry(&mut self, directory: &Arc<Directory>, name: &CStr, pin: Pin) -> anyhow::Result<()> {
        match self.look(directory, name, &pin) {
            Ok(record) => {
                self.totals.entries += 1;
                self.shared.progress.add(1);
                self.push(directory, name, Some(&record))?;
                self.survey(directory, name, &pin, &record);
                Ok(())
            }
            Err(error) => self.trouble(directory, name, Trouble::of(error)),
        }
    }

    fn subdirectory(&mut self, directory: &Arc<Directory>, name: &CStr) {
        if let Some(part) = self.part(directory) {
            part.push(name.to_bytes(), None);
        }
    }

    fn chunk(&mut self, directory: &Arc<Directory>, last: bool) -> anyhow::Result<()> {
        if let Some(part) = self.part(directory)
            && last
        {
            part.end();
        }
        self.write(directory)?;
        if let Some(part) = self.part.take()
            && !last
        {
            let id = directory.mark.load(Ordering::Acquire);
            self.shared.suspended.lock().unwrap_or_else(PoisonError::into_inner).insert(id, part);
        }
        Ok(())
    }

    fn trouble(&mut self, directory: &Arc<Directory>, name: &CStr, trouble: Trouble) -> anyhow::Result<()> {
        if let Some(surveyor) = &mut self.surveyor {
            let Ok(()) = surveyor.trouble(directory, name, trouble);
        }
        // What is gone has no name any more; what can't be looked at has.
        if !name.is_empty() && trouble != Trouble::Changed {
            self.push(directory, name, None)?;
        }
        Ok(())
    }

    fn hides(&self, directory: &Arc<Directory>, name: &CStr) -> bool {
        // Before the conversion they are entries like all others.
        self.shared.late.is_some_and(|Rescan { goal, staging, .. }| {
            // What a crash left is removed when its directory's names are looked at.
            staging.made(name) || Form::Mapped(goal.model).hides(directory, name)
        })
    }
}
