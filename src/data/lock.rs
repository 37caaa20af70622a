//! One program at a time changes an export, and its journal is not in it.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::FlockOperation;

use super::idmap;
use crate::text;

/// Keeps a second conversion, rollback or verification of the same export out, for as long as the file is open.
pub(super) fn lock(export: &Path) -> Result<File> {
    let shown = text::escape_path(export);
    let directory = idmap::open_export(export)?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another conversion or rollback of '{shown}' is running: wait for its end")
        }
        Err(error) => Err(error).with_context(|| format!("locking '{shown}'")),
    }
}

/// Whether a journal would be in the export: it would be converted itself, and the guest could write to it.
pub(super) fn is_inside(export: &Path, journal: &Path) -> Result<bool> {
    let root = export.metadata()?;
    let folder = journal.parent().context("the journal's folder")?;
    let folder = folder
        .canonicalize()
        .with_context(|| format!("cannot find the journal's folder '{}'", text::escape_path(folder)))?;
    for above in folder.ancestors() {
        let above = above.metadata()?;
        if (above.dev(), above.ino()) == (root.dev(), root.ino()) {
            return Ok(true);
        }
    }
    Ok(false)
}
