//! How much room a rollback needs, by what the journal recorded: the converted export itself does not show what is replaced.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use crate::data::check::rollback_room;
use crate::data::entry::Kind;
use crate::data::goal::EntryError;
use crate::data::journal::{Journal, Record};
use crate::data::mapped_count;
use crate::data::pin::Pin;
use crate::text;

/// How often something is tried again: other workers may take the room that there is.
const RETRIES: u32 = 4;

/// From how many failures in a row on nothing is tried again any more.
const FUTILE: u32 = 8;

/// Makes room where a file system has some that it gives back only when its changes are on stable storage: Btrfs counts all that a
/// change may touch, and what is freed, until then.
#[derive(Debug)]
pub(super) struct Room {
    /// The export's root.
    root: File,
    /// Failures in a row, in spite of retries. Held while something is tried again, by one worker at a time.
    futile: Mutex<u32>,
}

impl Room {
    /// The room on the file system of an export with this open root.
    pub(super) fn new(root: File) -> Self {
        Self { root, futile: Mutex::new(0) }
    }

    /// [`Room::retry`] of what is done to a pinned inode: each further try gets the inode as the try before it left it.
    pub(super) fn retry_on(
        &self,
        pin: &Pin,
        work: impl Fn(&Pin) -> Result<(), EntryError>,
    ) -> Result<(), EntryError> {
        let is_first = Cell::new(true);
        self.retry(|| if is_first.replace(false) { work(pin) } else { work(&pin.again()?) })
    }

    /// Does something that can be repeated; where there is no room for it, once more after everything was put on stable storage.
    ///
    /// A try may have done a part: `work` must not rely on what an inode was before it.
    pub(super) fn retry(&self, work: impl Fn() -> Result<(), EntryError>) -> Result<(), EntryError> {
        let mut done = work();
        if !lacks_room(done) {
            return done;
        }
        let mut futile = self.futile.lock().unwrap_or_else(PoisonError::into_inner);
        if *futile >= FUTILE {
            return done;
        }
        for _ in 0..RETRIES {
            rustix::fs::syncfs(&self.root)?;
            done = work();
            if !lacks_room(done) {
                *futile = 0;
                return done;
            }
        }
        *futile += 1;
        done
    }
}

fn lacks_room(done: Result<(), EntryError>) -> bool {
    matches!(done, Err(EntryError::Failed(Errno::NOSPC | Errno::DQUOT)))
}

/// Says how much room is needed, and where.
pub(super) fn complain(export: &Path, journal: &Journal, jobs: usize, doing: &str) -> Result<()> {
    let shown = text::escape_path(export);
    let (bytes, inodes) =
        needed(export, journal, jobs).with_context(|| format!("how much room '{shown}' needs"))?;
    let file_system = &journal.begin().file_system;
    let of = if file_system.source.is_empty() {
        String::new()
    } else {
        format!(" ({}, {})", file_system.kind, file_system.source)
    };
    complain!(
        "virtfs-proxy-helper: {doing} '{shown}' needs about {} and {inodes} inodes on the export's file system{of}, and within each \
         quota that counts its files",
        crate::report::check::bytes(bytes)
    );
    Ok(())
}

/// About how many bytes and inodes a whole rollback takes before it gives room back.
fn needed(export: &Path, journal: &Journal, jobs: usize) -> Result<(u64, u64)> {
    let block = rustix::fs::statvfs(export)?.f_frsize;
    let kind = journal.begin().file_system.kind.as_bytes();
    if journal.begin().unmaps {
        // It tells of the root alone; what is still mapped does the rest.
        let left = mapped_count::count(export, journal.begin().model().unwrap_or_default(), jobs)?;
        return Ok(rollback_room(left.mapped, left.replaced, left.acls, block, kind));
    }
    let (mut entries, mut replaced, mut acls) = (0_u64, 0_u64, 0_u64);
    let mut count = |record: &Record| {
        entries += 1;
        replaced += u64::from(record.entry.kind().is_some_and(Kind::is_replaced));
        acls += u64::from(record.entry.access_acl.is_some() || record.entry.default_acl.is_some());
    };
    for listing in journal.listings()? {
        let (at, listing) = listing?;
        if listing.is_first(at) {
            count(&listing.own);
        }
        listing.entries.iter().filter_map(|(_, record)| record.as_ref()).for_each(&mut count);
    }
    Ok(rollback_room(entries, replaced, acls, block, kind))
}
