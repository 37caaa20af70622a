//! What went wrong with single entries while many were worked on: the first of each sort by name, all by number.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::goal::EntryError;
use crate::text;

/// How many paths of each sort are kept to be named.
const NAMED: usize = 20;

/// From how many failures on it is no use to go on.
const HOPELESS: u64 = 1000;

/// What went wrong, gathered from all workers.
#[derive(Debug, Default)]
pub(crate) struct ErrorSummary(Mutex<Sorts>);

#[derive(Debug, Default)]
struct Sorts {
    vanished: Sort,
    changed: Sort,
    appeared: Sort,
    mounted: Sort,
    failed: BTreeMap<i32, Sort>,
}

impl Sorts {
    /// How many entries were not what was recorded, or not there.
    fn noticed(&self) -> u64 {
        [&self.vanished, &self.changed, &self.appeared, &self.mounted].iter().map(|sort| sort.count).sum()
    }
}

/// Entries of one sort.
#[derive(Debug, Default)]
struct Sort {
    count: u64,
    paths: Vec<Vec<u8>>,
}

impl ErrorSummary {
    /// Adds an entry by its path from the export.
    pub(crate) fn add(&self, path: Vec<u8>, obstacle: EntryError) {
        let mut sorts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sort = match obstacle {
            EntryError::Vanished => &mut sorts.vanished,
            EntryError::Changed => &mut sorts.changed,
            EntryError::Appeared => &mut sorts.appeared,
            EntryError::Mounted => &mut sorts.mounted,
            EntryError::Failed(error) => sorts.failed.entry(error.raw_os_error()).or_default(),
        };
        sort.count += 1;
        if sort.paths.len() < NAMED {
            sort.paths.push(path);
        }
    }

    /// Whether the kernel refused something for want of room: the file system is full, or a quota is reached.
    pub(crate) fn lacks_room(&self) -> bool {
        let sorts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        [Errno::NOSPC, Errno::DQUOT].iter().any(|error| sorts.failed.contains_key(&error.raw_os_error()))
    }

    /// Forgets what a later try may do better.
    pub(crate) fn retry(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failed.clear();
    }

    /// How many entries the kernel refused.
    pub(crate) fn failures(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failed.values().map(|sort| sort.count).sum()
    }

    /// Whether so much failed that going on makes no sense.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.failures() >= HOPELESS
    }

    /// How many entries were not what was recorded, or not there.
    pub(crate) fn noticed(&self) -> u64 {
        let sorts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sorts.noticed()
    }

    /// Whether nothing went wrong.
    pub(crate) fn is_empty(&self) -> bool {
        let sorts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sorts.noticed() == 0 && sorts.failed.is_empty()
    }

    /// Says all of it.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let sorts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (sort, what) in [
            (&sorts.vanished, "went away meanwhile"),
            (&sorts.changed, "changed meanwhile"),
            (&sorts.appeared, "appeared meanwhile"),
            (&sorts.mounted, "something was mounted over it meanwhile: unmount it"),
        ] {
            sort.write(what, out)?;
        }
        for (error, sort) in &sorts.failed {
            let what = format!("failed: {}{}", io::Error::from_raw_os_error(*error), advice(*error));
            sort.write(&what, out)?;
        }
        Ok(())
    }
}

impl Sort {
    fn write(&self, what: &str, out: &mut dyn Write) -> io::Result<()> {
        for path in &self.paths {
            let path = if path.is_empty() { b"." } else { path.as_slice() };
            writeln!(out, "{}: {what}", text::escape(path))?;
        }
        let more = self.count - self.paths.len() as u64;
        if more > 0 { writeln!(out, "… and {more} more that {what}") } else { Ok(()) }
    }
}

/// What to do about an error of the kernel's.
fn advice(error: i32) -> &'static str {
    match Errno::from_raw_os_error(error) {
        Errno::NOSPC => {
            "; make room on the export's file system (before a conversion, migrate check says how much it needs), or see whether the attributes fit"
        }
        Errno::DQUOT => {
            "; raise the quota that is reached: QEMU's user's in a conversion, that of the owners who get their files back in a rollback; on Btrfs the limit of a quota group (btrfs qgroup show)"
        }
        Errno::IO => "; the disk or the file system is damaged: see the kernel's log",
        Errno::ROFS => "; mount the file system read-write",
        Errno::PERM | Errno::ACCESS => "; is it immutable (lsattr), or are you not root?",
        Errno::INVAL | Errno::NAMETOOLONG => {
            "; this file system can't hold what it is to become (XFS: a link's target of more than 1,023 bytes, a device's minor number of 2^18 or more): remove it, or copy the export to another file system"
        }
        Errno::OVERFLOW => {
            "; the id map of the mount lacks its owner or group: run the same command through a mount without an id map"
        }
        Errno::AGAIN => "; a process holds a lease on it: end what uses the export",
        _ => "",
    }
}
