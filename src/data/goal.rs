//! What a conversion makes of every inode.

use std::borrow::Cow;

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::entry::{Entry, Inode, Kind};
use super::form::Model;
use super::journal::{Begin, Journal};
use super::mapped_xattr;

/// What a conversion makes of every inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversionTarget {
    /// Where what the guest sees is kept.
    pub model: Model,
    /// The user that QEMU runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The real mode of files.
    pub fmode: u32,
    /// The real mode of directories.
    pub dmode: u32,
    /// Whether mapped attributes from before the conversion are what the guest sees.
    pub adopts: bool,
}

/// What an owner needs to use a file, and a directory.
const FILE_NEEDS: u32 = 0o600;
const DIRECTORY_NEEDS: u32 = 0o700;

impl ConversionTarget {
    /// The goal of the conversion that a journal tells of.
    pub fn of(begin: &Begin) -> Result<Self> {
        let model = begin.model();
        ensure!(
            model.is_some(),
            "the journal is of a conversion to security_model={}, which this version does not know",
            crate::text::escape(begin.security_model.as_bytes())
        );
        let Begin { uid, gid, fmode, dmode, adopts, .. } = *begin;
        Ok(Self { model: model.unwrap_or_default(), uid, gid, fmode, dmode, adopts })
    }

    /// The goal of a journal whose conversion is done: what was adopted since is kept as its mapped attributes say.
    pub fn of_journal(journal: &Journal) -> Result<Self> {
        let goal = Self::of(journal.begin())?;
        Ok(Self { adopts: goal.adopts || journal.has_adopted(), ..goal })
    }

    /// The kind of inode that carries what the guest sees as `kind`.
    pub fn carrier(kind: Kind) -> Kind {
        if kind == Kind::Directory { Kind::Directory } else { Kind::File }
    }

    /// What the guest is to see of an entry that was recorded.
    pub fn shown<'e>(&self, entry: &'e Entry) -> Cow<'e, Entry> {
        match self.adopted(entry) {
            Some(adopted) => Cow::Owned(adopted),
            None => Cow::Borrowed(entry),
        }
    }

    /// What the guest saw, and goes on seeing, of an entry that had mapped attributes before the conversion.
    pub fn adopted(&self, entry: &Entry) -> Option<Entry> {
        if self.adopts && self.model == Model::MappedXattr { mapped_xattr::adopted(entry) } else { None }
    }

    /// The real permissions of the inode that carries an entry.
    ///
    /// Under mapped-file the guest sees the real ACL, of which the permissions are a part: they stay as they are, but
    /// for what the owner needs.
    pub fn permissions(&self, entry: &Entry) -> u32 {
        let (mode, needs) = match entry.kind() {
            Some(Kind::Directory) => (self.dmode, DIRECTORY_NEEDS),
            _ => (self.fmode, FILE_NEEDS),
        };
        if self.model == Model::MappedFile && entry.access_acl.is_some() {
            (entry.permissions() & 0o777) | needs
        } else {
            mode
        }
    }

    /// Whether an inode belongs to QEMU's user already, with the permissions that `entry` calls for.
    pub fn is_reached(&self, inode: &Inode, entry: &Entry) -> bool {
        (inode.uid, inode.gid) == (self.uid, self.gid) && inode.permissions() == self.permissions(entry)
    }
}

/// Why something was not done to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryError {
    /// It is not there any more.
    Vanished,
    /// It is not what was recorded.
    Changed,
    /// It was not there when the export was recorded.
    Appeared,
    /// Something is mounted over it.
    Mounted,
    /// The kernel says no.
    Failed(Errno),
}

impl From<Errno> for EntryError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::Vanished,
            Errno::STALE | Errno::LOOP | Errno::NOTDIR => Self::Changed,
            Errno::XDEV => Self::Mounted,
            error => Self::Failed(error),
        }
    }
}
