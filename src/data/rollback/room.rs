//! How much room a rollback needs, by what the journal recorded: the converted export itself does not show what is replaced.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::data::check::rollback_room;
use crate::data::entry::Kind;
use crate::data::journal::{Journal, Record};
use crate::text;

/// Says how much room is needed, and where.
pub(super) fn complain(export: &Path, journal: &Journal, doing: &str) -> Result<()> {
    let shown = text::escape_path(export);
    let (bytes, inodes) =
        needed(export, journal).with_context(|| format!("how much room '{shown}' needs"))?;
    let file_system = &journal.begin().file_system;
    let of = if file_system.source.is_empty() {
        String::new()
    } else {
        format!(" ({}, {})", file_system.kind, file_system.source)
    };
    // What it reserves for each change counts until it has written that: room that is free again when the next run begins.
    let is_reserving = file_system.kind == "btrfs";
    let more = if is_reserving {
        "; Btrfs reserves more for a time: run it again if it stops once more"
    } else {
        ""
    };
    complain!(
        "virtfs-proxy-helper: {doing} '{shown}' needs about {} and {inodes} inodes on the export's file system{of}, and within each \
         quota that counts its files{more}",
        crate::report::check::bytes(bytes)
    );
    Ok(())
}

/// About how many bytes and inodes a whole rollback takes before it gives room back.
fn needed(export: &Path, journal: &Journal) -> Result<(u64, u64)> {
    let (mut entries, mut replaced, mut acls) = (0_u64, 0_u64, 0_u64);
    let mut count = |record: &Record| {
        entries += 1;
        replaced += u64::from(record.entry.kind().is_some_and(Kind::is_replaced));
        acls += u64::from(record.entry.access_acl.is_some() || record.entry.default_acl.is_some());
    };
    for listing in journal.listings()? {
        let (at, listing) = listing?;
        if listing.is_first(at) {
            count(&listing.own);
        }
        listing.entries.iter().filter_map(|(_, record)| record.as_ref()).for_each(&mut count);
    }
    let block = rustix::fs::statvfs(export)?.f_frsize;
    Ok(rollback_room(entries, replaced, acls, block, journal.begin().file_system.kind.as_bytes()))
}
