//! What the workers of a rollback share.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use super::kept::Kept;
use super::lost::Lost;
use super::room::Room;
use crate::data::entry::Time;
use crate::data::error_summary::ErrorSummary;
use crate::data::form::Form;
use crate::data::goal::ConversionTarget;
use crate::data::identity::Key;
use crate::data::journal::Journal;
use crate::data::moved_inodes::MovedInodes;
use crate::data::progress::Progress;
use crate::data::staging::{Links, Staging};
use crate::data::tree::Tree;

/// Who restores one inode after the other: shared by all workers.
pub(super) struct Restorer<'r> {
    pub(super) tree: &'r Tree,
    pub(super) goal: ConversionTarget,
    pub(super) form: Form,
    pub(super) journal: &'r Journal,
    pub(super) jobs: usize,
    /// Whether the conversion was complete, so that guests may have worked in the export.
    pub(super) complete: bool,
    /// From where on the journal tells of an adoption that was interrupted, and the ids of the directories it tells of: its
    /// entries may not be touched yet, and the directories' times may be ours.
    pub(super) open: Option<(u64, HashSet<u64>)>,
    /// When the rollback that is resumed began: seconds since 1970.
    pub(super) since: Option<u64>,
    pub(super) staging: Staging,
    /// Held while an inode of several names is worked on: what it shows the guest is taken away at the end.
    pub(super) linked: Mutex<()>,
    /// Inodes of several names that became special again, by the numbers that they had before the conversion…
    pub(super) originals: Links,
    /// … and by those of the regular files that stood for them.
    pub(super) carriers: Links,
    /// What is kept of the latter until all names are restored.
    pub(super) kept: Kept,
    /// The times that directories of several parts had before the first was worked on, by their ids.
    pub(super) parted: Mutex<HashMap<u64, (Time, Time)>>,
    /// What was recorded of inodes that are not at their recorded places.
    pub(super) moved_inodes: MovedInodes,
    /// Inodes that had mapped attributes before the conversion, and have them again. The admin agreed to convert them.
    pub(super) mapped_before: Option<Mutex<HashSet<Key>>>,
    pub(super) counts: Counts,
    /// Entries that lost what says what the guest sees of them.
    pub(super) lost: Lost,
    pub(super) room: Room,
    pub(super) errors: ErrorSummary,
    pub(super) progress: &'r Progress,
}

/// How many entries were restored.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// To what the journal recorded.
    pub(super) as_recorded: AtomicU64,
    /// To what a guest has made of them since.
    pub(super) as_changed: AtomicU64,
    /// That a guest made or moved.
    pub(super) unrecorded: AtomicU64,
    /// Links and special files that a guest moved, of which it can't be told which attributes they had.
    pub(super) untold: AtomicU64,
}
