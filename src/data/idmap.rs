//! Whether the mount that an export is reached through has the ids that a conversion or a rollback gives to files.
//!
//! An id-mapped mount, mount_setattr(2), and a user namespace show files under other ids. What their maps lack can't be given to
//! a file, and a file whose owner they lack can't be changed at all. It is tried on a temporary inode, which no directory has.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::fs::{Gid, Uid, fchown};
use rustix::io::Errno;

use super::filesystem::temporary;
use super::journal::Journal;
use super::mounts::{self, Mounts};
use crate::text;

/// The first of these owners (user and group) that a map lacks; root, who makes files, before all others. `None` where nothing is
/// lacking, and where nothing can be tried: without a temporary inode, or as an ordinary user.
pub fn lacking(export: impl AsFd, owners: impl IntoIterator<Item = (u32, u32)>) -> Option<(u32, u32)> {
    let inode = match temporary(export) {
        Ok(inode) => inode,
        Err(Errno::OVERFLOW) => return Some((0, 0)),
        Err(_) => return None,
    };
    owners.into_iter().find(|&(uid, gid)| {
        let owned = fchown(&inode, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        matches!(owned, Err(Errno::OVERFLOW | Errno::INVAL))
    })
}

/// Refuses to go on with a conversion, or to roll it back, through an id-mapped mount that can't have the owners that the journal
/// tells of.
pub fn refuse(export: &Path, journal: &Journal) -> anyhow::Result<()> {
    let shown = text::escape_path(export);
    let directory = File::open(export).with_context(|| format!("cannot open the export '{shown}'"))?;
    let id = mounts::mount_id(&directory).with_context(|| format!("asking for the mount of '{shown}'"))?;
    if !Mounts::own()?.by_id(id).is_some_and(|mount| mount.has_option("idmapped")) {
        return Ok(());
    }
    let mut owners = BTreeSet::from([(journal.begin().uid, journal.begin().gid)]);
    for listing in journal.listings()? {
        let (_, listing) = listing?;
        let entries = listing.entries.iter().filter_map(|(_, record)| record.as_ref());
        owners.extend(entries.chain([&listing.own]).map(|record| (record.entry.uid, record.entry.gid)));
    }
    if let Some((uid, gid)) = lacking(&directory, owners) {
        bail!(
            "nothing was changed: '{shown}' is reached through an id-mapped mount that can't have files of {uid}:{gid}, of which \
             the journal tells. Reach it through the mount by which it was converted, or through one without an id map."
        );
    }
    Ok(())
}
