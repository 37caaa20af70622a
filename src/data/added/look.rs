//! The walk that finds what was added to a converted export: each entry that is not as a mapped model keeps it.

use std::cmp::Ordering;
use std::ffi::CStr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::data::check::entries::entry_findings;
use crate::data::entry::{Identity, Inode, Kind};
use crate::data::filesystem::Filesystem;
use crate::data::form::{Form, Model};
use crate::data::goal::ConversionTarget;
use crate::data::identity::Key;
use crate::data::journal::Record;
use crate::data::pin::Pin;
use crate::data::staging::Staging;
use crate::data::survey::{self, Group};
use crate::data::tree::{Directory, Tree};
use crate::data::walk::{Trouble, Visitor};
use crate::data::{mapped_file, mapped_xattr, passthrough, sys};
use crate::report::finding::{self, Finding};
use crate::report::spool::{Keyed, Sorted};

/// For how long a file with a name of rsync's temporary files is taken for one.
const TEMPORARY: u64 = 3600;

/// What says that the guest sees an entry otherwise than it really is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Said {
    /// Nothing, or a metadata file that another inode of this name had.
    Nothing,
    /// Mapped attributes.
    Attributes,
    /// A metadata file that may be this inode's.
    Other,
}

/// A path from the export. In the order of these, what is in a directory follows the directory at once: no byte is less than the slash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Path(pub(super) Vec<u8>);

impl Path {
    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.0.iter().map(|&byte| if byte == b'/' { 0 } else { byte })
    }

    /// Whether it is of something below the directory at `above`.
    pub(super) fn is_below(&self, above: &Self) -> bool {
        self.0.strip_prefix(above.0.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Keyed for Path {
    type Key = Self;

    fn key(&self) -> Self {
        self.clone()
    }
}

/// An entry that is not as a mapped model keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub(super) path: Path,
    /// Which directory it is in.
    pub(super) within: Identity,
    pub(super) inode: Inode,
    pub(super) record: Record,
    pub(super) said: Said,
    pub(super) is_busy: bool,
    pub(super) findings: Vec<Finding>,
}

impl Keyed for Candidate {
    type Key = Key;

    fn key(&self) -> Key {
        self.inode.id.key()
    }
}

#[derive(Default)]
pub(super) struct Seen {
    /// By their inodes.
    pub(super) candidates: Sorted<Candidate>,
    /// The paths of those that are still being written.
    pub(super) busy: Sorted<Path>,
    pub(super) unmapped: Group,
}

/// What all workers of a walk share.
pub(super) struct Looker<'l> {
    /// The export, free of symbolic links.
    pub(super) export: &'l std::path::Path,
    pub(super) tree: &'l Tree,
    /// What changed less long ago is taken to be written still.
    pub(super) settle: Duration,
    pub(super) goal: ConversionTarget,
    pub(super) filesystem: &'l Filesystem,
    pub(super) staging: Staging,
    /// Seconds since 1970.
    pub(super) now: u64,
    pub(super) seen: Mutex<Seen>,
}

impl Looker<'_> {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at an entry of `directory`; `itself` is the entry where it is a directory.
    fn look(
        &self,
        directory: &Arc<Directory>,
        name: &CStr,
        itself: Option<&Arc<Directory>>,
        pin: &Pin,
    ) -> rustix::io::Result<()> {
        let inode = *pin.inode();
        if !inode.kind().is_some_and(Kind::is_replaced) && inode.uid == self.goal.uid {
            if !self.is_mapped(directory, name, pin)? {
                self.seen().unmapped.add(|| directory.path_of(name));
            }
            return Ok(());
        }
        let survey = survey::of_entry(self.tree, self.filesystem, itself.unwrap_or(directory), name, pin);
        let mut findings = entry_findings(self.export, &survey, true, self.goal.model);
        // It is adopted by what they say.
        findings.retain(|finding| *finding.kind != finding::ALREADY_MAPPED);
        let candidate = Candidate {
            path: Path(directory.path_of(name)),
            within: directory.identity().ok_or(Errno::STALE)?,
            inode,
            record: Record::new(&inode, passthrough::read(pin)?),
            said: self.said(directory, name, pin)?,
            is_busy: self.is_busy(name, pin),
            findings,
        };
        let mut seen = self.seen();
        if candidate.is_busy {
            seen.busy.push(&candidate.path);
        }
        seen.candidates.push(&candidate);
        Ok(())
    }

    fn is_mapped(&self, directory: &Directory, name: &CStr, pin: &Pin) -> rustix::io::Result<bool> {
        match self.goal.model {
            Model::MappedXattr => mapped_xattr::is_carried(pin),
            Model::MappedFile => Ok(mapped_file::stat_metadata(directory, name)?.is_some()),
        }
    }

    /// What there is that says what the guest sees of an entry of another user.
    fn said(&self, directory: &Directory, name: &CStr, pin: &Pin) -> rustix::io::Result<Said> {
        let inode = pin.inode();
        if inode.kind().is_some_and(Kind::is_replaced) {
            return Ok(Said::Nothing);
        }
        if self.goal.model == Model::MappedXattr {
            return Ok(if mapped_xattr::is_carried(pin)? { Said::Attributes } else { Said::Nothing });
        }
        // A metadata file is the name's: that of a file which was replaced by another is of no use.
        let is_there = mapped_file::stat_metadata(directory, name)?.is_some();
        let is_its = is_there && !mapped_file::belongs_to_another(directory, name, inode, self.goal.uid)?;
        Ok(if is_its { Said::Other } else { Said::Nothing })
    }

    /// Whether an entry is still being written, as far as that can be seen.
    fn is_busy(&self, name: &CStr, pin: &Pin) -> bool {
        let inode = pin.inode();
        let changed = u64::try_from(inode.changed.seconds).unwrap_or(0);
        let is_younger = |seconds: u64| changed.saturating_add(seconds) > self.now;
        if is_younger(self.settle.as_secs()) {
            return true;
        }
        inode.kind() == Some(Kind::File)
            && (is_temporary(name) && is_younger(TEMPORARY) || sys::is_written(pin.as_fd()))
    }
}

/// One worker of the walk.
pub(super) struct Eye<'e>(pub(super) &'e Looker<'e>);

impl Eye<'_> {
    fn note(directory: &Directory, name: &CStr, looked: rustix::io::Result<()>) -> Result<()> {
        match looked.map_err(Trouble::of) {
            // It is gone, or no part of the export.
            Ok(()) | Err(Trouble::Mount | Trouble::Changed) => Ok(()),
            Err(Trouble::Failed(error)) => Err(error)
                .with_context(|| format!("looking at '{}'", crate::text::escape(&directory.path_of(name)))),
        }
    }
}

impl Visitor for Eye<'_> {
    type Error = anyhow::Error;

    fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> Result<()> {
        let Some(parent) = directory.parent() else { return Ok(()) };
        let looked = self.0.look(parent, directory.name(), Some(directory), pin);
        Self::note(directory, c"", looked)
    }

    fn entry(&mut self, directory: &Arc<Directory>, name: &CStr, pin: Pin) -> Result<()> {
        let looked = self.0.look(directory, name, None, &pin);
        Self::note(directory, name, looked)
    }

    fn trouble(&mut self, directory: &Arc<Directory>, name: &CStr, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Mount | Trouble::Changed => Ok(()),
            Trouble::Failed(error) => Self::note(directory, name, Err(error)),
        }
    }

    fn hides(&self, directory: &Arc<Directory>, name: &CStr) -> bool {
        self.0.staging.made(name) || Form::Mapped(self.0.goal.model).hides(directory, name)
    }
}

/// Whether a name is one of those under which rsync writes a file: `.NAME.` and six letters or digits.
fn is_temporary(name: &CStr) -> bool {
    let Some((name, ending)) = name.to_bytes().split_last_chunk::<7>() else { return false };
    let Some((b'.', letters)) = ending.split_first() else { return false };
    name.len() > 1 && name.starts_with(b".") && letters.iter().all(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_directory_follows_it_at_once() {
        let path = |path: &str| Path(path.as_bytes().to_vec());
        let mut paths = ["a.b", "a/b", "a b", "a", "ab", "a/b/c", "b", "a/b.c"].map(path);
        paths.sort();
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a/b.c", "a b", "a.b", "ab", "b"].map(path));
        assert!(path("a/b/c").is_below(&path("a")) && path("a/b").is_below(&path("a")));
        assert!(!path("ab").is_below(&path("a")) && !path("a").is_below(&path("a")));
    }

    #[test]
    fn names_of_rsyncs_temporary_files_are_known() {
        for (name, is) in [
            (c".file.aB3xYz", true),
            (c".a.b.c.000000", true),
            (c"file.aB3xYz", false),
            (c".file.aB3xY", false),
            (c".file.aB3xY-", false),
            (c"..aB3xYz", false),
            (c".aB3xYz", false),
            (c".bashrc", false),
            (c"", false),
        ] {
            assert_eq!(is_temporary(name), is, "{name:?}");
        }
    }
}
