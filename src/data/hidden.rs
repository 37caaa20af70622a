//! Mounts that hide entries of an export: what is below them can be neither restored nor converted, and would be left behind.
//!
//! A mount that was there when the export was recorded hides nothing that a journal tells of. Every other one does, or may: the
//! guest may have made the entry that it is mounted over.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::journal::Journal;
use super::mounts::Mounts;
use super::tree::Tree;
use crate::text;

/// Refuses to work on `export`, which is absolute and free of symbolic links, while anything is mounted over entries of it that were
/// recorded, or that nothing is known of. Without a journal that is every mount.
pub(super) fn refuse(export: &Path, journal: Option<&Journal>) -> anyhow::Result<()> {
    let mut points: Vec<PathBuf> = Mounts::own()?.below(export).map(|mount| mount.point.clone()).collect();
    points.sort();
    // What is mounted inside of another mount is no part of the export.
    points.dedup_by(|inner, outer| inner.starts_with(outer));
    if points.is_empty() {
        return Ok(());
    }
    let accepted = journal.map_or_else(|| Ok(Vec::new()), |journal| recorded(export, journal, &points))?;
    let Some(point) = points.iter().find(|point| !accepted.contains(point)) else { return Ok(()) };
    let shown = text::escape_path(point);
    bail!(
        "nothing was changed: something is mounted at '{shown}', over a part of the export that would be left as it is. Unmount it \
         (umount '{shown}') and run the same command again; mount it afterwards."
    );
}

/// Those of `points` that were mounts already when the journal's export was recorded: their names were, nothing else.
fn recorded<'p>(export: &Path, journal: &Journal, points: &'p [PathBuf]) -> anyhow::Result<Vec<&'p PathBuf>> {
    let tree = Tree::open(export).with_context(|| format!("cannot open '{}'", text::escape_path(export)))?;
    let (mut named, mut known) = (Vec::new(), Vec::new());
    for listing in journal.listings()? {
        let (_, listing) = listing?;
        let directory = export.join(OsStr::from_bytes(&journal.directory(&tree, &listing)?.path()));
        known.extend(points.iter().filter(|point| **point == directory));
        for point in points.iter().filter(|point| point.parent() == Some(&directory)) {
            let is_name = |name: &[u8]| point.file_name().is_some_and(|last| last.as_bytes() == name);
            for (name, record) in &listing.entries {
                if is_name(name.as_bytes()) {
                    if record.is_some() { known.push(point) } else { named.push(point) }
                }
            }
        }
    }
    // Others work on a tree of their own.
    journal.forget();
    named.retain(|point| !known.contains(point));
    Ok(named)
}
