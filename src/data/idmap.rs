//! Whether the mount that an export is reached through has the ids that a conversion or a rollback gives to files.
//!
//! An id-mapped mount, mount_setattr(2), and a user namespace show files under other ids. What their maps lack can't be given to
//! a file, and a file whose owner they lack can't be changed at all. It is tried on a temporary inode, which no directory has.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Gid, Uid, fchown};
use rustix::io::Errno;

use super::filesystem::temporary;
use super::id_view::IdMaps;
use super::journal::Journal;
use super::mounts::{self, Mounts};
use crate::text;

/// Opens an export's directory.
pub(crate) fn open_export(export: &Path) -> Result<File> {
    const KEPT_OUT: &str =
        "not even root may: the id map of the mount lacks the directory's owner, or a server (NFS) decides";
    File::open(export)
        .map_err(|error| {
            let is_kept_out =
                error.kind() == std::io::ErrorKind::PermissionDenied && nix::unistd::geteuid().is_root();
            let error = anyhow::Error::new(error);
            if is_kept_out { error.context(KEPT_OUT) } else { error }
        })
        .with_context(|| format!("cannot open the export '{}'", text::escape_path(export)))
}

/// The first of these owners (user and group) that a map lacks; root, who makes files, before all others. `None` where nothing is
/// lacking, and where nothing can be tried: without a temporary inode, or as an ordinary user.
pub(crate) fn lacking(export: impl AsFd, owners: impl IntoIterator<Item = (u32, u32)>) -> Option<(u32, u32)> {
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

/// Refuses an export that shows other numbers of users and groups than at the conversion, by another id map of its mount or in another
/// user namespace: what is recorded of owners would be other users'.
pub(crate) fn ensure_same_ids(export: &Path, journal: &Journal) -> Result<()> {
    let Some(was) = &journal.begin().ids else { return Ok(()) };
    let shown = text::escape_path(export);
    let directory = open_export(export)?;
    let id = mounts::mount_id(&directory).with_context(|| format!("asking for the mount of '{shown}'"))?;
    let now = IdMaps::of(directory.as_fd(), Mounts::own()?.by_id(id));
    if was.agrees(&now) {
        return Ok(());
    }
    let how = match (&was.mount, &now.mount) {
        (Some(_), None) => "it was converted through an id-mapped mount, and this mount has no id map",
        (None, Some(_)) => "it was converted through a mount without an id map, and this mount has one",
        (was, now) if was != now => "it was converted through a mount with another id map",
        _ => "it was converted in another user namespace",
    };
    bail!(
        "'{shown}' shows the numbers of users and groups otherwise than at its conversion: {how}. Files would become other users'. Nothing \
         was changed. Run the same command on the export as it was reached then: in the same user namespace, and through a mount with \
         the same id map, or without one if it had none"
    )
}

/// Refuses to go on with a conversion, or to roll it back, where the numbers of users and groups are not those of the conversion, or
/// through an id-mapped mount that can't have the owners that the journal tells of.
pub(crate) fn refuse(export: &Path, journal: &Journal) -> Result<()> {
    ensure_same_ids(export, journal)?;
    refuse_unless_it_has(export, || {
        let mut owners = BTreeSet::from([(journal.begin().uid, journal.begin().gid)]);
        for listing in journal.listings()? {
            let (_, listing) = listing?;
            let entries = listing.entries.iter().filter_map(|(_, record)| record.as_ref());
            owners.extend(entries.chain([&listing.own]).map(|record| (record.entry.uid, record.entry.gid)));
        }
        Ok(owners)
    })
}

/// Refuses to work through an id-mapped mount that can't have these owners.
pub(crate) fn refuse_unless_it_has(
    export: &Path,
    owners: impl FnOnce() -> Result<BTreeSet<(u32, u32)>>,
) -> Result<()> {
    let shown = text::escape_path(export);
    let directory = open_export(export)?;
    let id = mounts::mount_id(&directory).with_context(|| format!("asking for the mount of '{shown}'"))?;
    if !Mounts::own()?.by_id(id).is_some_and(|mount| mount.has_option("idmapped")) {
        return Ok(());
    }
    if let Some((uid, gid)) = lacking(&directory, owners()?) {
        bail!(
            "nothing was changed: '{shown}' is reached through an id-mapped mount that can't have files of {uid}:{gid}, which are to be \
             or to become theirs. Reach it through the mount by which it was converted, or through one without an id map."
        );
    }
    Ok(())
}
