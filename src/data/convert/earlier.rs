//! What there is of an earlier conversion of an export.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Result;

use crate::data::journal::{Journal, Mark, Stage, mark};

/// What there is of an earlier conversion.
pub(super) enum Earlier {
    /// No journal.
    Nothing,
    /// A journal that was just being made.
    Stillborn,
    /// A journal.
    Begun(Box<Journal>),
}

impl Earlier {
    /// What there is of the export with this open root, by its journal. An error where that can't be relied on.
    pub(super) fn of(path: &Path, root: &File) -> Result<Self> {
        if !path.exists() {
            mark::refuse_marked(root, path)?;
            return Ok(Self::Nothing);
        }
        if let Ok(journal) = Journal::open(path)
            && journal.stage() == Stage::RolledBack
        {
            // Another directory's is in the way as well, and does no harm.
            if Mark::of_export(root)?.is_some_and(|mark| mark.id != journal.begin().id) {
                mark::refuse_marked(root, path)?;
            }
            return Ok(Self::Begun(Box::new(journal)));
        }
        let journal = Journal::of_export(path, root.as_fd())?;
        if let Some(journal) = &journal {
            journal.ensure_of_conversion()?;
            journal.ensure_no_other(root.as_fd())?;
        }
        Ok(journal.map_or(Self::Stillborn, |journal| Self::Begun(Box::new(journal))))
    }
}
