//! The second half of a conversion: one inode after the other becomes QEMU's user's, and what the guest sees of it is
//! kept as the model keeps it.
//!
//! For each inode in this order: what the guest sees, then the real owner, ACLs and mode. At every moment the guest would
//! see either the old state or the new one, which are equal; whoever is killed in between goes on from there.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::{Errno, Result};

use super::converter::Converter;
use crate::data::entry::{Entry, Inode, Kind};
use crate::data::flags::FlagGuard;
use crate::data::form::Model;
use crate::data::goal::{ConversionTarget, EntryError};
use crate::data::journal::Record;
use crate::data::mapped_xattr::{
    self, Attributes, GID, MAPPED_ACCESS_ACL, MAPPED_DEFAULT_ACL, MODE, RDEV, UID,
};
use crate::data::pin::Pin;
use crate::data::staging::{self, Place};
use crate::data::{mapped_file, passthrough};

type Done = std::result::Result<(), EntryError>;

impl Converter<'_> {
    /// Converts what is at `place`, where `record` was.
    pub(super) fn entry(&self, place: Place<'_>, record: &Record) -> Done {
        match record.entry.kind() {
            Some(Kind::File) => {
                let pin = place.directory.entry_at(place.fd, place.name, Some(Kind::File))?;
                self.keep(place, &pin, record)
            }
            Some(Kind::Directory) | None => Err(EntryError::Changed),
            Some(_) => self.replace(place, record),
        }
    }

    /// Converts a regular file or a directory, which stays what it is. `place` is the directory it is in, except for
    /// the root, which is in itself under an empty name.
    pub(super) fn keep(&self, place: Place<'_>, pin: &Pin, record: &Record) -> Done {
        let inode = pin.inode();
        if !record.is(inode) {
            return Err(EntryError::Changed);
        }
        if self.is_done(inode, record) {
            return Ok(());
        }
        let lifted = FlagGuard::of(pin.as_fd(), record.immutable, record.append_only)?;
        let known = if is_pristine(inode, record) {
            Attributes::default()
        } else if has_changed(inode, record) {
            return Err(EntryError::Changed);
        } else {
            self.resumed(pin, record)?.ok_or(EntryError::Changed)?
        };
        self.show(place, pin, record, &known)?;
        self.own(pin, &record.entry)?;
        if let Some(lifted) = lifted {
            lifted.restore()?;
        }
        Ok(())
    }

    /// Whether an entry is adopted already, so that what is seen of it is the guest's to change: that is there before the owner
    /// changes.
    fn is_done(&self, inode: &Inode, record: &Record) -> bool {
        // Under mapped-file each name has something of its own.
        let is_shown_elsewhere = self.goal.model == Model::MappedFile && inode.is_linked();
        self.adopting
            && !is_shown_elsewhere
            && self.goal.is_reached(inode, &record.entry)
            && (inode.immutable, inode.append_only) == (record.immutable, record.append_only)
    }

    /// Lets the guest see `record` at `pin`.
    fn show(&self, place: Place<'_>, pin: &Pin, record: &Record, known: &Attributes) -> Result<()> {
        match self.goal.model {
            Model::MappedXattr => {
                mapped_xattr::write(pin, &self.goal.shown(&record.entry), known)?;
                // What is adopted is kept as it is.
                if self.goal.adopts { Ok(()) } else { discard_foreign(pin, &record.entry) }
            }
            Model::MappedFile => self.show_in_file(place, record),
        }
    }

    fn show_in_file(&self, place: Place<'_>, record: &Record) -> Result<()> {
        match self.try_show_in_file(place, record) {
            // The directory's own turn, in which it gets its metadata directory, is still to come.
            Err(Errno::NOENT) => {
                mapped_file::make_metadata_directory(place.fd, self.goal.uid, self.goal.gid)?;
                self.try_show_in_file(place, record)
            }
            shown => shown,
        }
    }

    fn try_show_in_file(&self, place: Place<'_>, record: &Record) -> Result<()> {
        let ConversionTarget { uid, gid, .. } = self.goal;
        if record.entry.links < 2 || record.entry.kind() == Some(Kind::Directory) {
            return mapped_file::write(place.fd, place.name, &record.entry, uid, gid).map(drop);
        }
        // All names of an inode share one metadata file, so that the guest's changes are seen by each.
        let mut links = self.metadata.lock();
        if let Some(first) = links.get(record.id.recorded_key())
            && let Some(first) = first.pin()?
        {
            return mapped_file::link(place.fd, place.name, &first);
        }
        let pin = mapped_file::write(place.fd, place.name, &record.entry, uid, gid)?;
        let directory = place.directory.child(mapped_file::METADATA);
        links.insert(record.id.recorded_key(), Place { directory: &directory, ..place }, pin.inode());
        Ok(())
    }

    /// Gives an inode that shows what the guest is to see to QEMU's user.
    fn own(&self, pin: &Pin, entry: &Entry) -> Result<()> {
        let ConversionTarget { uid, gid, .. } = self.goal;
        let inode = pin.inode();
        if (inode.uid, inode.gid) != (uid, gid) {
            rustix::fs::fchown(pin, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        if self.goal.model == Model::MappedXattr {
            for (name, acl) in [
                (c"system.posix_acl_access", &entry.access_acl),
                (c"system.posix_acl_default", &entry.default_acl),
            ] {
                if acl.is_some() {
                    pin.remove_xattr(name)?;
                }
            }
        }
        let permissions = self.goal.permissions(entry);
        if inode.permissions() != permissions {
            rustix::fs::fchmod(pin, Mode::from_raw_mode(permissions))?;
        }
        Ok(())
    }

    /// What an inode that was touched since it was recorded has of the mapped attributes; `None` where somebody else
    /// has changed it.
    fn resumed(&self, pin: &Pin, record: &Record) -> Result<Option<Attributes>> {
        let (inode, entry) = (pin.inode(), &record.entry);
        let real = [
            (inode.uid, entry.uid, self.goal.uid),
            (inode.gid, entry.gid, self.goal.gid),
            (inode.permissions(), entry.permissions(), self.goal.permissions(entry)),
        ];
        let real_is_ours = real.iter().all(|(now, was, becomes)| now == was || now == becomes)
            // In between, a change of owner has cleared the set-id bits.
            || (inode.uid, inode.gid) == (self.goal.uid, self.goal.gid);
        if self.goal.model == Model::MappedFile {
            return Ok(real_is_ours.then(Attributes::default));
        }
        let (now, rest) = mapped_xattr::read_attributes(pin)?;
        let users = |entry: &Entry| {
            entry.xattrs.iter().filter(|(name, _)| mapped_xattr::is_passed(name)).cloned().collect::<Vec<_>>()
        };
        if users(&rest) != users(entry) {
            return Ok(None);
        }
        let becomes = self.goal.shown(entry);
        let shown =
            (now.uid, now.gid, now.mode) == (Some(becomes.uid), Some(becomes.gid), Some(becomes.mode));
        let mapped = [
            (now.uid, number(entry, UID), becomes.uid),
            (now.gid, number(entry, GID), becomes.gid),
            (now.mode, number(entry, MODE), becomes.mode),
        ];
        let mapped_is_ours = mapped.iter().all(|(now, was, becomes)| now == was || *now == Some(*becomes));
        // Once the guest would see the recorded state, the real one does not matter any more.
        Ok((shown || real_is_ours && mapped_is_ours).then_some(now))
    }

    /// Converts a symbolic link or a special file: a regular file takes its place.
    fn replace(&self, place: Place<'_>, record: &Record) -> Done {
        // Held while other names of the same inode could be replaced, too.
        let mut links = (record.entry.links > 1).then(|| self.links.lock());
        let pin = place.directory.entry_at(place.fd, place.name, None)?;
        let state = self.state(&pin, record)?;
        if state == State::Foreign {
            return Err(EntryError::Changed);
        }
        if !(self.adopting && state == State::Done && self.is_shown(place)?) {
            self.show_replaced(place, record)?;
        }
        if let Some(first) = links.as_ref().and_then(|links| links.get(record.id.recorded_key()))
            && let Some(first) = first.pin()?
        {
            if first.inode().identity != pin.inode().identity {
                self.staging.link(place, record.id.number, &first)?;
            }
            return Ok(());
        }
        if state == State::Done {
            staging::restore_times(pin.as_fd(), record.entry.accessed, record.entry.modified)?;
        } else {
            let was = pin.inode().identity.number;
            self.staging.swap(place, record.id.number, was, |staged| self.make(place, staged, record))?;
        }
        if let Some(links) = &mut links {
            let now = place.directory.entry_at(place.fd, place.name, None)?;
            links.insert(record.id.recorded_key(), place, now.inode());
        }
        Ok(())
    }

    /// Whether there is something that says what the guest sees of what stands for an entry: the guest may have changed it.
    fn is_shown(&self, place: Place<'_>) -> Result<bool> {
        match self.goal.model {
            Model::MappedXattr => Ok(true),
            Model::MappedFile => Ok(mapped_file::read_attributes(place.directory, place.name)?.is_some()),
        }
    }

    /// Under mapped-file, what the guest sees of an entry is there before the entry is replaced: it says what the guest
    /// sees anyway.
    fn show_replaced(&self, place: Place<'_>, record: &Record) -> Result<()> {
        match self.goal.model {
            Model::MappedXattr => Ok(()),
            Model::MappedFile => self.show_in_file(place, record),
        }
    }

    /// How far the replacement of `record` by what `pin` holds has got.
    fn state(&self, pin: &Pin, record: &Record) -> Result<State> {
        let (inode, entry) = (pin.inode(), &record.entry);
        if inode.kind() != Some(Kind::File) || !self.goal.is_reached(inode, entry) {
            return Ok(if is_original(pin, record)? { State::Original } else { State::Foreign });
        }
        let shown = match self.goal.model {
            // Its metadata file is written anyway.
            Model::MappedFile => None,
            Model::MappedXattr => {
                let now = mapped_xattr::read(pin)?;
                Some((now.mode, now.uid, now.gid, now.rdev) == (entry.mode, entry.uid, entry.gid, entry.rdev))
            }
        };
        let content = pin.content(mapped_xattr::LONGEST_TARGET + 1)?;
        let is_complete = content == entry.target.as_deref().unwrap_or_default();
        // After a power cut, what was written to a file may be missing.
        let is_lost = content.iter().all(|&byte| byte == 0);
        Ok(match (shown, is_complete) {
            (None | Some(true), true) => State::Done,
            (Some(true), false) => State::Incomplete,
            (None, false) if is_lost => State::Incomplete,
            _ => State::Foreign,
        })
    }

    /// Makes the regular file that stands for `record`.
    fn make(&self, place: Place<'_>, staged: &CStr, record: &Record) -> Result<()> {
        let ConversionTarget { uid, gid, model, .. } = self.goal;
        let (pin, entry) = (staging::create_file(place.fd, staged)?, &record.entry);
        mapped_file::shed_acls(&pin)?;
        label(&pin, entry)?;
        staging::write_all(&pin, entry.target.as_deref().unwrap_or_default())?;
        match model {
            Model::MappedXattr => mapped_xattr::write(&pin, entry, &Attributes::default())?,
            Model::MappedFile => {
                if let Some(acl) = &entry.access_acl {
                    pin.set_xattr(c"system.posix_acl_access", acl)?;
                }
            }
        }
        rustix::fs::fchown(&pin, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        rustix::fs::fchmod(&pin, Mode::from_raw_mode(self.goal.permissions(entry)))?;
        rustix::fs::futimens(&pin, &staging::timestamps(entry))
    }
}

/// Gives the file that takes an entry's place the entry's label, by which the host's SELinux knows it.
fn label(pin: &Pin, entry: &Entry) -> Result<()> {
    const LABEL: &CStr = c"security.selinux";
    let Some((_, value)) = entry.xattrs.iter().find(|(name, _)| name == LABEL.to_bytes()) else {
        return Ok(());
    };
    match pin.set_xattr(LABEL, value) {
        // The policy, or a container, does not let us: the kernel's default label stays.
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        labelled => labelled,
    }
}

/// How far the replacement of an entry has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is what was recorded.
    Original,
    /// A regular file stands for it.
    Done,
    /// A regular file is there that lacks its content.
    Incomplete,
    /// Somebody else has put something else there.
    Foreign,
}

/// Whether an inode is as it was when it was recorded, in every way.
fn is_pristine(inode: &Inode, record: &Record) -> bool {
    let entry = &record.entry;
    inode.changed == record.changed
        && (inode.mode, inode.uid, inode.gid) == (entry.mode, entry.uid, entry.gid)
        // These would count as known.
        && number(entry, UID).or(number(entry, GID)).or(number(entry, MODE)).is_none()
}

/// Whether somebody has changed what a conversion leaves alone of a file.
fn has_changed(inode: &Inode, record: &Record) -> bool {
    let was = &record.entry;
    inode.kind() == Some(Kind::File)
        && ((inode.size, inode.modified, inode.links) != (was.size, was.modified, was.links)
            || inode.accessed < was.accessed)
}

/// Whether what is to be replaced is what was recorded.
fn is_original(pin: &Pin, record: &Record) -> Result<bool> {
    let inode = pin.inode();
    if !record.is(inode) {
        return Ok(false);
    }
    if inode.changed == record.changed {
        return Ok(true);
    }
    // Its other names may have been replaced, which counts as a change of the inode.
    let now = passthrough::read(pin)?;
    let was = &record.entry;
    Ok((now.mode, now.uid, now.gid, now.rdev) == (was.mode, was.uid, was.gid, was.rdev)
        && now.target == was.target
        && now.modified == was.modified
        && now.xattrs == was.xattrs
        && now.access_acl == was.access_acl)
}

/// Removes mapped attributes that were there before the conversion and that the guest would now be shown.
fn discard_foreign(pin: &Pin, entry: &Entry) -> Result<()> {
    let stale = [
        (RDEV, false),
        (MAPPED_ACCESS_ACL, entry.access_acl.is_some()),
        (MAPPED_DEFAULT_ACL, entry.default_acl.is_some()),
    ];
    for (name, is_ours) in stale {
        if !is_ours && entry.xattrs.iter().any(|(other, _)| other == name.to_bytes()) {
            pin.remove_xattr(name)?;
        }
    }
    Ok(())
}

/// The value that one of the mapped attributes had before the conversion.
fn number(entry: &Entry, name: &CStr) -> Option<u32> {
    let (_, value) = entry.xattrs.iter().find(|(other, _)| other == name.to_bytes())?;
    value.as_slice().try_into().ok().map(u32::from_le_bytes)
}
