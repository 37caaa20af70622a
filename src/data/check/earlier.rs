//! Whether an export is converted already, by the journal beside it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::data::added;
use crate::data::journal::mark::WITHOUT;
use crate::data::journal::{Journal, Mark, Stage, default_path};
use crate::data::tree::Tree;
use crate::report::finding::{self, Finding};
use crate::share::Place;
use crate::text;

/// What to do about a journal that is there and can't be relied on.
const UNRELIABLE: &str =
    "do what is said there; without its journal, a converted export becomes plain again by `migrate unmap`";

/// A finding where the journal beside the export (free of symbolic links), or the mark on the export's root, says that it is
/// converted, or half so; also where there is a journal that can't be relied on. One that may not be read says nothing.
pub(super) fn conversion(export: &Path, tree: &Tree) -> Option<Finding> {
    let path = default_path(export);
    let root = tree.root().open().ok()?;
    let shown = text::escape_path(&path);
    let (message, remedy) = match Journal::of_export_to_read(&path, root.as_fd()) {
        Ok(None) => return None,
        Ok(Some(journal)) => {
            let state = state(journal.stage())?;
            let model = text::escape(journal.begin().security_model.as_bytes());
            (format!("{state}, to {model}: its journal is '{shown}'"), None)
        }
        // Another directory's, which is in nobody's way.
        Err(_) if Journal::open_to_read(&path).is_ok_and(|journal| journal.stage() == Stage::RolledBack) => {
            return None;
        }
        Err(error) => {
            let is_of = |kind| {
                let cause = error.downcast_ref::<std::io::Error>();
                cause.is_some_and(|cause| cause.kind() == kind)
            };
            let mark = Mark::of_export(&root).ok().flatten();
            match mark {
                Some(mark) if is_of(std::io::ErrorKind::NotFound) => (
                    format!(
                        "it is marked as {} by the journal {}, which is not at '{shown}'",
                        mark.stage.name(),
                        mark.id
                    ),
                    Some(format!(
                        "name that journal by --journal in `migrate verify` and `migrate rollback`. {WITHOUT}"
                    )),
                ),
                _ if is_of(std::io::ErrorKind::NotFound) || is_of(std::io::ErrorKind::PermissionDenied) => {
                    return None;
                }
                _ => (format!("{error:#}"), Some(UNRELIABLE.to_owned())),
            }
        }
    };
    Some(Finding { remedy, ..found(export, message) })
}

/// How much was added to a converted export (free of symbolic links) on the host since; nothing where it is not converted, or where
/// its journal may not be read.
pub(super) fn additions(export: &Path, tree: &Tree, jobs: usize) -> Option<Finding> {
    let root = tree.root().open().ok()?;
    let journal = Journal::of_export_to_read(&default_path(export), root.as_fd()).ok()??;
    if journal.stage() != Stage::Converted {
        return None;
    }
    match added::of(export, tree, &journal, jobs) {
        Ok(additions) => additions.finding(export),
        Err(error) => {
            let place = Place { file: Some(export.to_path_buf()), ..Place::default() };
            let message = format!("what was added on the host since the conversion is not known: {error:#}");
            Some(Finding { kind: &finding::ADDED_ON_HOST, place, message, remedy: None, subject: None })
        }
    }
}

/// [`conversion`] where the journal beside a directory around the export says so of that one.
pub(super) fn around(export: &Path) -> Option<Finding> {
    export.ancestors().skip(1).find_map(|directory| {
        let root = File::open(directory).ok()?;
        let state = state(Journal::of_export_to_read(&default_path(directory), root.as_fd()).ok()??.stage())?;
        let message =
            format!("it is inside '{}', of which a journal says: {state}", text::escape_path(directory));
        Some(found(export, message))
    })
}

/// Likewise where one of these files in the export, by their paths in it, is the journal of a directory there.
pub(super) fn inside(export: &Path, journals: &[Vec<u8>]) -> Option<Finding> {
    journals.iter().find_map(|path| {
        let path = export.join(OsStr::from_bytes(path));
        let state = state(Journal::open_to_read(&path).ok()?.stage())?;
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
