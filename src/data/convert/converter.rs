//! What the workers of a conversion share.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;

use crate::data::entry::Time;
use crate::data::error_summary::ErrorSummary;
use crate::data::goal::ConversionTarget;
use crate::data::journal::Writer;
use crate::data::moved_inodes::MovedInodes;
use crate::data::progress::Progress;
use crate::data::staging::{Links, Staging};
use crate::data::tree::Tree;

/// Who converts one inode after the other: shared by all workers.
pub(super) struct Converter<'c> {
    pub(super) tree: &'c Tree,
    pub(super) goal: ConversionTarget,
    pub(super) journal: &'c Path,
    pub(super) writer: Mutex<Writer>,
    pub(super) jobs: usize,
    /// Whether an earlier run may have been killed.
    pub(super) resumed: bool,
    /// Whether what was added to the converted export is adopted: a guest may be running.
    pub(super) adopting: bool,
    /// The times that directories had before the first of their listings was worked on, by their ids: while adopting.
    pub(super) before: Mutex<HashMap<u64, (Time, Time)>>,
    /// Directories in which the kernel refused something, by their ids: their times may be ours.
    pub(super) unfinished: Mutex<HashSet<u64>>,
    pub(super) staging: Staging,
    /// Symbolic links and special files of several names that are replaced, by their original numbers.
    pub(super) links: Links,
    /// Metadata files of inodes of several names, by the inodes' original numbers.
    pub(super) metadata: Links,
    pub(super) moved_inodes: MovedInodes,
    pub(super) error_summary: &'c ErrorSummary,
    pub(super) progress: &'c Progress,
}
