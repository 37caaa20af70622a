//! The filesystem that an export lies on: what it is, what room it has, and whether the mapped attributes fit it.
//!
//! Support for attributes is tried on an unnamed temporary inode (`O_TMPFILE`), which no directory and no other
//! process ever sees, where the export can be written; else it is deduced from what the filesystem answers.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, XattrFlags, fgetxattr, fremovexattr, fsetxattr, fstat, fstatvfs, openat};
use rustix::io::Errno;

use super::mounts::{self, Mount, Mounts};
use crate::text;

/// The filesystem of an export.
#[derive(Debug)]
pub(crate) struct Filesystem {
    /// Its type: `ext4`.
    pub kind: Vec<u8>,
    /// Whether it is mounted for reading only.
    pub read_only: bool,
    /// Whether it is mounted with quotas, which what belongs to QEMU's user will count against.
    pub quota: bool,
    /// Bytes of one block.
    pub block: u64,
    /// Bytes free, for unprivileged users; `None` where the filesystem does not count them.
    pub free_bytes: Option<u64>,
    /// Inodes free; `None` where the filesystem makes them as they are needed.
    pub free_inodes: Option<u64>,
    /// Whether user xattrs can be kept.
    pub attributes: Attributes,
    /// What is known of it where it is an overlay.
    pub overlay: Option<Overlay>,
}

/// An overlay filesystem: what is changed of a lower layer is copied up first.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// Where the export is in the upper layer, as far as that is known and can be seen.
    upper: Option<PathBuf>,
    /// Whether names of one file stay names of one file when it is copied up (`index=on`).
    pub keeps_links: bool,
    /// Whether a change of owner, mode or attributes leaves the content in the lower layer (`metacopy=on`).
    pub metadata_alone: bool,
}

impl Overlay {
    /// That of a mount, on which an export is at `path`.
    fn of(mount: &Mount, path: &Path) -> Option<Self> {
        if mount.kind != b"overlay" {
            return None;
        }
        let is_on = |name: &str| match mount.filesystem_option(name) {
            Some(value) => value == b"on",
            // What is the default is not told.
            None => std::fs::read(format!("/sys/module/overlay/parameters/{name}"))
                .is_ok_and(|value| value.starts_with(b"Y")),
        };
        let within = mount.locate(path).map(|location| location.path);
        let upper = mount.filesystem_option("upperdir").zip(within).map(|(upper, within)| {
            let upper = PathBuf::from(OsString::from_vec(mounts::unescape(upper)));
            upper.join(within.strip_prefix("/").unwrap_or(&within))
        });
        Some(Self {
            upper: upper.filter(|upper| upper.is_absolute()),
            keeps_links: is_on("index"),
            metadata_alone: is_on("metacopy"),
        })
    }

    /// Whether the entry at a path from the export is in the upper layer already. Where that layer can't be seen, none is.
    pub(crate) fn has_copied_up(&self, entry: &[u8]) -> bool {
        let at = |upper: &PathBuf| {
            if entry.is_empty() { upper.clone() } else { upper.join(OsStr::from_bytes(entry)) }
        };
        self.upper.as_ref().is_some_and(|upper| at(upper).symlink_metadata().is_ok())
    }
}

/// What is known of a filesystem's user xattrs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attributes {
    /// They were set on a temporary inode of this filesystem.
    Tried {
        /// Bytes that an inode with the mapped attributes has left for the value of one more; at least this many.
        room: usize,
        /// Bytes of blocks that the mapped attributes alone take of an inode that has none.
        bytes: u64,
    },
    /// Setting them on a temporary inode failed so.
    Refused(Errno),
    /// No temporary inode could be made, for this reason; asked for one, the filesystem answers as if it knew them.
    Likely(Errno),
    /// No temporary inode could be made; asked for one, the filesystem answers that it knows none.
    Unlikely(Errno),
}

impl Attributes {
    /// Whether the mapped-xattr model can work here.
    pub(crate) fn usable(self) -> bool {
        matches!(self, Self::Tried { .. } | Self::Likely(_))
    }
}

/// The attributes of the mapped-xattr model that every entry gets, with values that take as much room as any.
const ATTRIBUTES: [(&str, &[u8]); 3] =
    [("user.virtfs.uid", &[0xff; 4]), ("user.virtfs.gid", &[0xff; 4]), ("user.virtfs.mode", &[0xff; 4])];
/// More bytes than any filesystem keeps in one value.
const VALUE_LIMIT: usize = 65536;

impl Filesystem {
    /// Asks the filesystem of an export. `path` is where the export is, free of symbolic links.
    pub(crate) fn of(export: impl AsFd, path: &Path) -> anyhow::Result<Self> {
        let shown = text::escape_path(path);
        let export = export.as_fd();
        let room = fstatvfs(export).with_context(|| format!("asking for the room at '{shown}'"))?;
        let mounts = Mounts::own()?;
        let id = mounts::mount_id(export).with_context(|| format!("asking for the mount of '{shown}'"))?;
        let mount = mounts.by_id(id);
        let option = |name: &str| mount.is_some_and(|mount| mount.has_option(name));
        let quotas = ["quota", "usrquota", "grpquota", "uquota", "gquota", "prjquota", "pquota"];
        let inodes = (room.f_files > 0).then_some(room.f_favail);
        Ok(Self {
            kind: mount.map_or_else(|| b"unknown".to_vec(), |mount| mount.kind.clone()),
            read_only: option("ro"),
            quota: quotas.into_iter().any(option),
            block: room.f_frsize.max(1),
            free_bytes: (room.f_blocks > 0).then_some(room.f_bavail.saturating_mul(room.f_frsize)),
            free_inodes: inodes,
            attributes: try_attributes(export),
            overlay: mount.and_then(|mount| Overlay::of(mount, path)),
        })
    }
}

/// A temporary inode of the export's filesystem. It is gone when it is closed.
pub(crate) fn temporary(export: impl AsFd) -> Result<OwnedFd, Errno> {
    openat(export, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
}

fn try_attributes(export: impl AsFd) -> Attributes {
    let inode = match temporary(&export) {
        Ok(inode) => inode,
        Err(why) => {
            return match fgetxattr(export, ATTRIBUTES[0].0, &mut [0u8; 4][..]) {
                Ok(_) | Err(Errno::NODATA | Errno::RANGE) => Attributes::Likely(why),
                Err(_) => Attributes::Unlikely(why),
            };
        }
    };
    let before = blocks(&inode);
    for (name, value) in ATTRIBUTES {
        if let Err(errno) = fsetxattr(&inode, name, value, XattrFlags::empty()) {
            return Attributes::Refused(errno);
        }
    }
    let bytes = blocks(&inode).saturating_sub(before);
    Attributes::Tried { room: room(&inode), bytes }
}

/// Bytes of blocks that an inode takes.
fn blocks(inode: &OwnedFd) -> u64 {
    fstat(inode).map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
}

/// The longest value that one more attribute can have, by halving.
fn room(inode: &OwnedFd) -> usize {
    let name = "user.virtfs.room";
    let value = vec![0xff; VALUE_LIMIT];
    let fits = |length: usize| {
        value.get(..length).is_some_and(|value| fsetxattr(inode, name, value, XattrFlags::empty()).is_ok())
    };
    let (mut fitting, mut failing) = (0, VALUE_LIMIT + 1);
    while failing - fitting > 1 {
        let middle = usize::midpoint(fitting, failing);
        if fits(middle) { fitting = middle } else { failing = middle }
    }
    // An absent attribute answers with an error, which is as good.
    let _ = fremovexattr(inode, name);
    fitting
}

/// Whether an inode with these attributes has room for the mapped ones besides, tried on a temporary inode.
pub(crate) fn fits(export: impl AsFd, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, Errno> {
    let inode = temporary(export)?;
    for (name, value) in attributes {
        match fsetxattr(&inode, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(errno) if is_full(errno) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    for (name, value) in ATTRIBUTES {
        match fsetxattr(&inode, name, value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(errno) if is_full(errno) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

/// Whether an error says that attributes have no room.
fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::DQUOT)
}

/// How long it takes to give one inode of this filesystem all that a conversion gives it, measured on temporary
/// ones; `None` where none can be made.
pub(crate) fn time_per_inode(export: impl AsFd) -> Option<Duration> {
    const INODES: usize = 64;
    let inodes: Vec<_> = (0..INODES).map(|_| temporary(&export)).collect::<Result<_, _>>().ok()?;
    let mut times = Vec::with_capacity(INODES);
    for inode in &inodes {
        let start = Instant::now();
        for (name, value) in ATTRIBUTES {
            fsetxattr(inode, name, value, XattrFlags::empty()).ok()?;
        }
        rustix::fs::fchmod(inode, Mode::RUSR | Mode::WUSR).ok()?;
        rustix::fs::fchown(inode, None, None).ok()?;
        times.push(start.elapsed());
    }
    // The median: one wait for the disk says nothing about the others.
    times.sort_unstable();
    times.get(INODES / 2).copied()
}

/// Refuses to change what is mounted read-only.
pub(crate) fn refuse_read_only(export: &Path) -> Result<()> {
    let shown = crate::text::escape_path(export);
    let told =
        rustix::fs::statvfs(export).with_context(|| format!("asking for the file system of '{shown}'"))?;
    ensure!(
        !told.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        "nothing was changed: '{shown}' is mounted read-only. Mount it read-write for this, and run the same command again"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn attributes_are_tried_where_the_directory_can_be_written_and_leave_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let before = dir.path().metadata().unwrap().modified().unwrap();
        let file = File::open(dir.path()).unwrap();
        let found = Filesystem::of(&file, dir.path()).unwrap();
        assert!(matches!(found.attributes, Attributes::Tried { room: 1.., .. }), "{found:?}");
        assert!(!found.read_only && found.free_bytes > Some(0), "{found:?}");
        assert_eq!(dir.path().metadata().unwrap().modified().unwrap(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn where_nothing_can_be_written_support_is_deduced() {
        let file = File::open("/proc").unwrap();
        let found = Filesystem::of(&file, Path::new("/proc")).unwrap();
        assert!(matches!(found.attributes, Attributes::Unlikely(_)), "{found:?}");
        assert_eq!(found.kind, b"proc");
    }

    #[test]
    fn the_room_that_was_found_is_the_room_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::open(dir.path()).unwrap();
        let Attributes::Tried { room, .. } = try_attributes(&file) else { panic!("no attributes here") };
        let one = |length| [(b"user.virtfs.room".to_vec(), vec![1; length])];
        assert_eq!(fits(&file, &one(room)), Ok(true));
        if room < VALUE_LIMIT {
            assert_eq!(fits(&file, &one(room + 1)), Ok(false));
        }
    }
}
