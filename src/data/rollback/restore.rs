//! One entry: what the guest sees of it becomes what it really is.
//!
//! What is real comes first, then what the guest is shown besides is taken away: at every moment it would see the same.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, Uid};
use rustix::io::{Errno, Result};

use super::restorer::Restorer;
use crate::data::entry::{CAPABILITY, Entry, Inode, Kind};
use crate::data::flags::{self, FlagGuard};
use crate::data::form::Model;
use crate::data::goal::EntryError;
use crate::data::journal::Record;
use crate::data::pin::Pin;
use crate::data::staging::{self, Place};
use crate::data::{mapped_file, mapped_xattr};

/// The names of the real ACLs.
const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

impl Restorer<'_> {
    /// Makes what is at `place` really what `entry` says. `record` is its original state, where that is known.
    pub(super) fn restore(
        &self,
        place: Place<'_>,
        pin: &Pin,
        entry: &Entry,
        record: Option<&Record>,
    ) -> std::result::Result<(), EntryError> {
        let (Some(is), Some(becomes)) = (pin.inode().kind(), entry.kind()) else {
            return Err(EntryError::Failed(Errno::INVAL));
        };
        if is == becomes && !is.is_replaced() {
            return Ok(self.restore_inode(place, pin, entry, record)?);
        }
        if is == Kind::File && becomes.is_replaced() {
            return Ok(self.restore_special(place, pin, entry, record)?);
        }
        // It is special already.
        if is == becomes { Ok(()) } else { Err(EntryError::Failed(Errno::INVAL)) }
    }

    /// A regular file or a directory.
    fn restore_inode(
        &self,
        place: Place<'_>,
        pin: &Pin,
        entry: &Entry,
        record: Option<&Record>,
    ) -> Result<()> {
        let inode = pin.inode();
        let flags = record
            .map_or((inode.immutable, inode.append_only), |record| (record.immutable, record.append_only));
        let lifted = FlagGuard::of(pin.as_fd(), inode.immutable, inode.append_only)?;
        if (inode.uid, inode.gid) != (entry.uid, entry.gid) {
            rustix::fs::fchown(pin, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        }
        for (name, acl) in ACLS.into_iter().zip([&entry.access_acl, &entry.default_acl]) {
            if let Some(acl) = acl {
                pin.set_xattr(name, acl)?;
            }
        }
        // After the owner, which clears set-id bits, and the ACL, of which the group's bits are a part.
        rustix::fs::fchmod(pin, Mode::from_raw_mode(entry.permissions()))?;
        if let Some(record) = record {
            restore_capabilities(pin, entry, record)?;
        }
        self.forget(place, pin, record)?;
        let is_lifted = lifted.is_some();
        drop(lifted);
        if is_lifted || flags != (inode.immutable, inode.append_only) {
            flags::set(pin.as_fd(), flags.0, flags.1)?;
        }
        Ok(())
    }

    /// Takes away what the guest was shown of an inode that really is so now.
    fn forget(&self, place: Place<'_>, pin: &Pin, record: Option<&Record>) -> Result<()> {
        match self.goal.model {
            Model::MappedXattr => {
                mapped_xattr::remove(pin)?;
                let Some(record) = record else { return Ok(()) };
                for (name, value) in &record.entry.xattrs {
                    if name.starts_with(b"user.virtfs.") {
                        pin.set_xattr(&mapped_xattr::name(name), value)?;
                    }
                }
                Ok(())
            }
            // The root's is in the root itself, and goes with all others in the end.
            Model::MappedFile if place.name.is_empty() => Ok(()),
            Model::MappedFile => mapped_file::remove(place.fd, place.name),
        }
    }

    /// A symbolic link, a device, a FIFO or a socket, for which a regular file stands.
    fn restore_special(
        &self,
        place: Place<'_>,
        pin: &Pin,
        entry: &Entry,
        record: Option<&Record>,
    ) -> Result<()> {
        let carrier = pin.inode();
        // The last of a carrier's names has none beside it: its others have been replaced already.
        let is_linked = carrier.links > 1
            || record.is_some_and(|record| record.entry.links > 1)
            || self.carriers.lock().get(carrier.id.key()).is_some();
        if !is_linked {
            self.staging.replace(place, carrier.identity.number, |name| make(place, name, entry, record))?;
            return self.forget_special(place);
        }
        let (mut originals, mut carriers) = (self.originals.lock(), self.carriers.lock());
        let first = match record.and_then(|record| originals.get(record.id.recorded_key())) {
            None => carriers.get(carrier.id.key()),
            first => first,
        };
        match first.map(staging::Linked::pin).transpose()?.flatten() {
            Some(first) => self.staging.link(place, carrier.identity.number, &first)?,
            None if carrier.links > 1 && self.link_kept(place, carrier, entry, record)? => {}
            None => {
                self.staging
                    .replace(place, carrier.identity.number, |name| make(place, name, entry, record))?;
            }
        }
        let now = place.directory.entry_at(place.fd, place.name, entry.kind())?;
        if let Some(record) = record {
            originals.insert(record.id.recorded_key(), place, now.inode());
        }
        carriers.insert(carrier.id.key(), place, now.inode());
        self.forget_special(place)
    }

    /// Makes the first of several names of what replaces the inode `carrier`, and keeps the inode for the others. Returns
    /// `false` where it can't be kept: what is in a directory of the file system can't have names in another part of it.
    fn link_kept(
        &self,
        place: Place<'_>,
        carrier: &Inode,
        entry: &Entry,
        record: Option<&Record>,
    ) -> Result<bool> {
        let number = carrier.identity.number;
        let linked = self.kept.place(carrier.id.key(), |kept| {
            self.staging.replace(kept, number, |name| make(kept, name, entry, record))?;
            let pin = kept.directory.entry_at(kept.fd, kept.name, entry.kind())?;
            match self.staging.link(place, number, &pin) {
                Err(Errno::XDEV | Errno::MLINK) => {
                    rustix::fs::unlinkat(kept.fd, kept.name, AtFlags::empty())?;
                    Ok(false)
                }
                linked => linked.map(|()| true),
            }
        })?;
        Ok(linked.unwrap_or(false))
    }

    fn forget_special(&self, place: Place<'_>) -> Result<()> {
        match self.goal.model {
            Model::MappedXattr => Ok(()),
            Model::MappedFile => mapped_file::remove(place.fd, place.name),
        }
    }

    /// What an entry is to become really: what the guest sees of it.
    pub(super) fn shown(&self, place: Place<'_>, pin: &Pin) -> Result<Entry> {
        self.form.read(place.directory, place.name, pin)
    }

    /// Whether an inode belongs to QEMU's user, as what was converted does.
    pub(super) fn is_converted(&self, pin: &Pin, entry: &Entry) -> bool {
        self.is_owned(pin.inode()) && pin.inode().permissions() == self.goal.permissions(entry)
    }

    /// Whether an inode belongs to QEMU's user.
    pub(super) fn is_owned(&self, inode: &Inode) -> bool {
        (inode.uid, inode.gid) == (self.goal.uid, self.goal.gid)
    }
}

/// Capabilities belong to a file's content and owner: they come back where neither has changed.
fn restore_capabilities(pin: &Pin, entry: &Entry, record: &Record) -> Result<()> {
    let was = &record.entry;
    let inode = pin.inode();
    let is_same = record.is(inode)
        && (inode.size, inode.modified) == (was.size, was.modified)
        && (entry.uid, entry.gid) == (was.uid, was.gid);
    for (name, value) in &was.xattrs {
        if is_same && name == CAPABILITY {
            pin.set_xattr(c"security.capability", value)?;
        }
    }
    Ok(())
}

/// Makes a symbolic link or a special file.
fn make(place: Place<'_>, name: &CStr, entry: &Entry, record: Option<&Record>) -> Result<()> {
    let kind = entry.kind().ok_or(Errno::INVAL)?;
    if kind == Kind::Symlink {
        let target = entry.target.as_deref().filter(|target| !target.is_empty()).ok_or(Errno::INVAL)?;
        rustix::fs::symlinkat(target, place.fd, name)?;
    } else {
        let device = if kind.is_device() { entry.rdev } else { 0 };
        let kind = FileType::from_raw_mode(kind.bits());
        rustix::fs::mknodat(place.fd, name, kind, Mode::RUSR | Mode::WUSR, device as Dev)?;
    }
    let pin = place.directory.entry_at(place.fd, name, entry.kind())?;
    let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    rustix::fs::chownat(&pin, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    if kind != Kind::Symlink {
        // A default ACL of the directory's may have come with it.
        mapped_file::shed_acls(&pin)?;
        if let Some(acl) = &entry.access_acl {
            pin.set_xattr(c"system.posix_acl_access", acl)?;
        }
        rustix::fs::chmod(pin.link(), Mode::from_raw_mode(entry.permissions()))?;
    }
    for (name, value) in record.iter().flat_map(|record| &record.entry.xattrs) {
        pin.set_xattr(&mapped_xattr::name(name), value)?;
    }
    let times = staging::timestamps(entry);
    rustix::fs::utimensat(place.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}
