//! Whether an export is converted already, by the journal beside it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::data::journal::{Journal, Stage, default_path};
use crate::report::finding::{self, Finding};
use crate::share::Place;
use crate::text;

/// A finding where the journal beside the export (free of symbolic links) says that it is converted, or half so. A
/// journal that can't be read says nothing.
pub fn conversion(export: &Path, root_inode: u64) -> Option<Finding> {
    let path = default_path(export);
    let journal = Journal::open(&path).ok()?;
    if journal.begin().root_inode != root_inode {
        return None;
    }
    let message = format!(
        "{}, to {}: its journal is '{}'",
        state(journal.stage())?,
        text::escape(journal.begin().security_model.as_bytes()),
        text::escape_path(&path)
    );
    Some(found(export, message))
}

/// Likewise where the journal beside a directory around the export says so of that one.
pub fn around(export: &Path) -> Option<Finding> {
    export.ancestors().skip(1).find_map(|directory| {
        let journal = Journal::open(&default_path(directory)).ok()?;
        let is_it = directory.metadata().is_ok_and(|of| of.ino() == journal.begin().root_inode);
        let state = state(journal.stage()).filter(|_| is_it)?;
        let message =
            format!("it is inside '{}', of which a journal says: {state}", text::escape_path(directory));
        Some(found(export, message))
    })
}

/// Likewise where one of these files in the export, by their paths in it, is the journal of a directory there.
pub fn inside(export: &Path, journals: &[Vec<u8>]) -> Option<Finding> {
    journals.iter().find_map(|path| {
        let path = export.join(OsStr::from_bytes(path));
        let state = state(Journal::open(&path).ok()?.stage())?;
        Some(found(&path, format!("it is the journal of a directory in this export, and says: {state}")))
    })
}

/// What a journal says of its export; nothing where that is what it was.
fn state(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Recording | Stage::RolledBack => None,
        Stage::Converting => Some("its conversion was interrupted"),
        Stage::Converted => Some("it is converted"),
        Stage::RollingBack => Some("its rollback was interrupted"),
    }
}

fn found(path: &Path, message: String) -> Finding {
    let place = Place { file: Some(path.to_path_buf()), ..Place::default() };
    Finding { kind: &finding::ALREADY_CONVERTED, place, message, remedy: None, subject: None }
}
