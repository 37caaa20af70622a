//! Whether an export is converted already, by the journal beside it.

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
    let state = match journal.stage() {
        Stage::Recording | Stage::RolledBack => return None,
        Stage::Converting => "its conversion was interrupted",
        Stage::Converted => "it is converted",
        Stage::RollingBack => "its rollback was interrupted",
    };
    let message = format!(
        "{state}, to {}: its journal is '{}'",
        text::escape(journal.begin().security_model.as_bytes()),
        text::escape_path(&path)
    );
    let place = Place { file: Some(export.to_path_buf()), ..Place::default() };
    Some(Finding { kind: &finding::ALREADY_CONVERTED, place, message, remedy: None })
}
