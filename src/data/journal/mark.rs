//! How far a conversion got, in short, kept apart from the journal: with the export's root and with the journal's file. What a
//! journal lost that was cut or damaged is known by it.
//!
//! No guest reaches the root's over QEMU's local backend, in any security model: it passes on `user.*` attributes and ACLs alone.

use std::ffi::CStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::records::Stage;
use crate::data::sys;

/// The attribute of the export's root.
pub(crate) const ROOT: &CStr = c"trusted.virtfs-migrate.journal";

/// The attribute of the journal's file.
const FILE: &CStr = c"user.virtfs-migrate.journal";

/// Longer than any mark.
const LONGEST: usize = 256;

/// How far the conversion of a journal got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// [`super::Begin::id`].
    pub id: String,
    /// How far it got.
    pub stage: Stage,
    /// How many bytes of the journal were on stable storage then, at least.
    pub length: u64,
}

impl Mark {
    /// `1 ID STAGE LENGTH`. It never grows, so that it can be replaced where there is no room left.
    fn text(&self) -> String {
        format!("1 {} {:<12} {:020}", self.id, self.stage.name(), self.length)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
        let (version, id, stage, length) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let stage = Stage::ALL.into_iter().find(|known| known.name() == stage)?;
        (version == "1").then_some(Self { id: id.into(), stage, length: length.parse().ok()? })
    }

    /// The mark of an export, by its open root.
    pub(crate) fn of_export(root: impl AsFd) -> Result<Option<Self>> {
        read(root.as_fd(), ROOT).context("reading the mark of a conversion on the export's root")
    }

    /// The mark of a journal's file.
    pub(super) fn of_journal(file: impl AsFd) -> Result<Option<Self>> {
        read(file.as_fd(), FILE).context("reading the mark of the journal's file")
    }

    /// Marks an export's root, on stable storage.
    pub(super) fn put_on_export(&self, root: impl AsFd) -> rustix::io::Result<()> {
        write(root.as_fd(), ROOT, self)
    }

    /// Marks a journal's file, where its file system keeps attributes.
    pub(super) fn put_on_journal(&self, file: impl AsFd) -> rustix::io::Result<()> {
        match write(file.as_fd(), FILE, self) {
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::DQUOT) => Ok(()),
            written => written,
        }
    }
}

/// Takes the mark of an export away, if it has one.
pub(crate) fn remove(root: impl AsFd) -> rustix::io::Result<()> {
    match rustix::fs::fremovexattr(&root, ROOT) {
        Ok(()) => rustix::fs::fsync(root),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether an export's root can be marked, tried on a temporary inode.
pub(crate) fn is_possible(root: impl AsFd) -> bool {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    sys::sees_trusted_attributes()
        && rustix::fs::openat(root, ".", flags, Mode::RUSR | Mode::WUSR)
            .and_then(|inode| rustix::fs::fsetxattr(inode, ROOT, &[b'x'; LONGEST / 2], XattrFlags::empty()))
            .is_ok()
}

/// Refuses an export that another journal's conversion has marked.
pub(crate) fn refuse_marked(root: impl AsFd, journal: &Path) -> Result<()> {
    let Some(Mark { id, stage, .. }) = Mark::of_export(root)? else { return Ok(()) };
    let shown = crate::text::escape_path(journal);
    let what = if journal.exists() {
        format!("{shown} is another journal")
    } else {
        format!("there is no journal at {shown}")
    };
    bail!(
        "the export is marked as {} by the journal {id}, and {what}: name the right one by --journal. Nothing was changed. {WITHOUT}. Where \
         nothing is mapped any more, remove the mark: setfattr -x {} EXPORT",
        stage.name(),
        ROOT.to_string_lossy()
    )
}

/// What is left to do where a journal is lost.
pub(crate) const WITHOUT: &str =
    "If the journal is lost, `migrate unmap` makes the files what the guest sees; it needs no journal";

/// Refuses to go on where there is no journal.
pub(crate) fn ensure_exists(journal: &Path) -> Result<()> {
    ensure!(
        // One that can't be looked at is there, perhaps: opening it says why not.
        journal.try_exists().unwrap_or(true),
        "there is no journal at {}: name the conversion's by --journal. {WITHOUT}",
        crate::text::escape_path(journal)
    );
    Ok(())
}

/// Whether an open file has the mark of a journal, or its file system keeps none.
pub(super) fn may_be_of_journal(file: impl AsFd) -> rustix::io::Result<bool> {
    match rustix::fs::fgetxattr(file, FILE, &mut [0_u8; LONGEST][..]) {
        Err(Errno::NODATA) => Ok(false),
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::RANGE) => Ok(true),
        Err(error) => Err(error),
    }
}

fn read(fd: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Option<Mark>> {
    let mut buffer = [MaybeUninit::uninit(); LONGEST];
    match rustix::fs::fgetxattr(fd, name, &mut buffer[..]) {
        Ok((value, _)) => Ok(Mark::parse(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(fd: BorrowedFd<'_>, name: &CStr, mark: &Mark) -> rustix::io::Result<()> {
    if read(fd, name)?.as_ref() == Some(mark) {
        return Ok(());
    }
    let text = mark.text();
    rustix::fs::fsetxattr(fd, name, text.as_bytes(), XattrFlags::empty())?;
    rustix::fs::fsync(fd)
}

/// An open directory of its own, for marks that are written later.
pub(super) fn root(of: BorrowedFd<'_>) -> std::io::Result<File> {
    Ok(File::from(of.try_clone_to_owned()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_as_it_was_and_never_grows() {
        let mut lengths = Vec::new();
        for stage in Stage::ALL {
            let mark = Mark { id: "0123456789abcdef".into(), stage, length: u64::MAX >> (stage as u32 * 9) };
            assert_eq!(Mark::parse(mark.text().as_bytes()), Some(mark.clone()));
            lengths.push(mark.text().len());
        }
        lengths.dedup();
        assert_eq!(lengths.len(), 1);
        assert!(lengths[0] < LONGEST / 2);
        for other in ["", "1", "2 a converted 5", "1 a unknown 5", "1 a converted x", "1 a converted -1"] {
            assert_eq!(Mark::parse(other.as_bytes()), None, "{other}");
        }
    }
}
