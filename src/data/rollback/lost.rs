//! Converted entries of which nothing says any more, or not wholly, what the guest sees: another program has taken their mapped
//! attributes or their metadata files away. What they were is in the journal.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::data::form::Model;
use crate::data::identity::Key;
use crate::text;
use crate::text::counted;

/// How many of them are named.
const NAMED: usize = 10;

/// What is known of such entries.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) restored_to_record: Paths,
    /// Those that stay regular files, because several records may be theirs.
    pub(super) ambiguous: Paths,
    /// Where the journal tells of the files and directories that are not at their places.
    pub(super) absent: Mutex<HashMap<Key, u64>>,
    /// Inodes that this run has restored, that belong to QEMU's user for all that, and of which the journal may tell again.
    pub(super) restored: Mutex<HashSet<Key>>,
}

/// Entries, of which the first are named.
#[derive(Debug, Default)]
pub(super) struct Paths {
    count: AtomicU64,
    first: Mutex<Vec<Vec<u8>>>,
}

impl Paths {
    pub(super) fn add(&self, path: Vec<u8>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < NAMED {
            first.push(path);
        }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn shown(&self) -> String {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let paths: Vec<_> = first.iter().map(|path| format!("'{}'", text::escape(path))).collect();
        let more = if self.count() > NAMED as u64 { ", and more" } else { "" };
        paths.join(", ") + more
    }
}

impl Lost {
    /// Says how many there are, and what is not known of them. Whether all of them are restored.
    pub(super) fn complain(&self, model: Model) -> bool {
        let what = match model {
            Model::MappedXattr => "user.virtfs.* attributes",
            Model::MappedFile => "metadata in .virtfs_metadata",
        };
        let count = self.restored_to_record.count();
        if count > 0 {
            complain!(
                "virtfs-proxy-helper: {} had lost all or part of the {what}, which another program took away. What the journal recorded \
                 is restored; a change of owner or mode that the guest made there after the conversion is lost: {}",
                counted(count, "entry"),
                self.restored_to_record.shown()
            );
        }
        let count = self.ambiguous.count();
        if count > 0 {
            complain!(
                "virtfs-proxy-helper: {} without {what} stay regular files of QEMU's user: each stands for a symbolic link, a device, a \
                 FIFO or a socket that the guest moved, and several that the journal recorded look the same. Make them by hand: {}",
                counted(count, "entry"),
                self.ambiguous.shown()
            );
        }
        count == 0
    }
}
