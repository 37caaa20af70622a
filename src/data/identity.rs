//! Which inode: beyond its number, which repeats between the subvolumes of a Btrfs and is given out again after a deletion.

use std::cell::Cell;
use std::os::fd::BorrowedFd;

use rustix::fs::{Statx, StatxFlags};
use serde::{Deserialize, Serialize};

use super::sys;
use super::time::Time;

/// An inode of one file system, for as long as the file system exists: it stays the same across mounts and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Id {
    /// The Btrfs subvolume's number; 0 on other file systems; [`Id::ANY_VOLUME`] where it was not recorded.
    pub volume: u64,
    /// The inode's number.
    pub number: u64,
    /// What tells it from an earlier or a later inode of the same number.
    pub stamp: Stamp,
}

/// What tells an inode from an earlier or a later one of the same number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stamp {
    /// Nothing: the file system keeps neither, or not for as long as it exists.
    #[default]
    None,
    /// When it was made: `stx_btime` of statx(2).
    Born(Time),
    /// The 64-bit FNV-1a hash of its file handle, of `handle_type` (little-endian) and `f_handle`: name_to_handle_at(2).
    Handle(u64),
    /// Every inode of its kind: a journal that is compared by path.
    Any,
}

impl Id {
    /// The volume of an inode of which only the number was recorded (format 1).
    pub const ANY_VOLUME: u64 = u64::MAX;

    /// Whether `inode` is this one, which last changed at `changed`.
    ///
    /// Where nothing but the number was recorded (format 1), one that was made after that is another.
    pub fn is(&self, inode: &Self, changed: Time) -> bool {
        let is_same = match (self.stamp, inode.stamp) {
            (Stamp::Any, _) | (_, Stamp::Any) => return true,
            (Stamp::Born(was), Stamp::Born(now)) => was == now,
            (Stamp::Handle(was), Stamp::Handle(now)) => was == now,
            (Stamp::None, Stamp::Born(born)) => born <= changed,
            // One of the two is not known.
            _ => true,
        };
        is_same
            && self.number == inode.number
            && (self.volume == inode.volume || self.volume == Self::ANY_VOLUME)
    }

    /// What an inode is found by among those that exist at one time.
    pub fn key(&self) -> Key {
        Key { volume: self.volume, number: self.number, stamp: Stamp::None }
    }

    /// What an inode is found by among all that a journal tells of: a number that was free again may be told of twice.
    pub fn recorded_key(&self) -> Key {
        Key { volume: self.volume, number: self.number, stamp: self.stamp }
    }
}

/// An inode among those that exist at one time, or among those that a journal tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// [`Id::volume`].
    pub volume: u64,
    /// [`Id::number`].
    pub number: u64,
    /// [`Id::stamp`] among those of a journal.
    pub stamp: Stamp,
}

/// What [`of`] asks statx(2) for, beside the time at which an inode was made. Older kernels leave out what they do not know, and rustix
/// does not name it: `STATX_MNT_ID_UNIQUE` (Linux 6.8), the id of a mount that no other mount gets, and `STATX_SUBVOL` (6.10).
pub(super) const ASKED: StatxFlags = MNT_ID_UNIQUE.union(SUBVOL);
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
const SUBVOL: StatxFlags = StatxFlags::from_bits_retain(0x8000);

/// `f_type` of statfs(2) for Btrfs.
const BTRFS: u64 = 0x9123_683e;

/// The id of the inode that `fd` refers to and of which statx(2) told `told`, asked for [`ASKED`].
pub(super) fn of(fd: BorrowedFd<'_>, told: &Statx) -> Id {
    let has = |flag: StatxFlags| told.stx_mask & flag.bits() != 0;
    let kind = kind(fd, has(MNT_ID_UNIQUE).then_some(told.stx_mnt_id));
    let volume = match kind {
        BTRFS if has(SUBVOL) => told.stx_subvol,
        BTRFS => sys::file_handle(fd).and_then(|handle| subvolume(&handle)).unwrap_or(0),
        _ => 0,
    };
    let stamp = if !is_lasting(kind) {
        Stamp::None
    } else if has(StatxFlags::BTIME) {
        Stamp::Born(Time { seconds: told.stx_btime.tv_sec, nanoseconds: told.stx_btime.tv_nsec })
    } else {
        sys::file_handle(fd).map_or(Stamp::None, |handle| Stamp::Handle(hash(&handle)))
    };
    Id { volume, number: told.stx_ino, stamp }
}

/// The type of `fd`'s file system, `f_type` of statfs(2). It is remembered by the mount's unique id alone: the kernel gives a device number
/// out again, after an unmount or for another subvolume.
fn kind(fd: BorrowedFd<'_>, mount: Option<u64>) -> u64 {
    thread_local! {
        static LAST: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
    }
    if let Some((_, kind)) = LAST.get().filter(|(last, _)| mount == Some(*last)) {
        return kind;
    }
    let kind = rustix::fs::fstatfs(fd).map_or(0, |told| told.f_type.cast_unsigned());
    LAST.set(mount.map(|mount| (mount, kind)));
    kind
}

/// Whether the times at which inodes were made and their handles last as long as the file system: ext2 to ext4, XFS, Btrfs, tmpfs, F2FS,
/// ZFS. Those that pass on what another file system says (overlayfs, FUSE, NFS) may give an inode another handle after a restart, or
/// another time when it is copied up.
fn is_lasting(kind: u64) -> bool {
    [0xef53, 0x5846_5342, BTRFS, 0x0102_1994, 0xf2f5_2010, 0x2fc1_2fc1].contains(&kind)
}

/// The number of the subvolume in a handle of Btrfs: `struct btrfs_fid` has the inode's number, the subvolume's and the
/// generation.
fn subvolume(handle: &sys::Handle) -> Option<u64> {
    // FILEID_BTRFS_WITHOUT_PARENT, FILEID_BTRFS_WITH_PARENT and FILEID_BTRFS_WITH_PARENT_ROOT: include/linux/exportfs.h.
    if !(0x4d..=0x4f).contains(&handle.kind) {
        return None;
    }
    handle.bytes.get(8..16)?.try_into().ok().map(u64::from_le_bytes)
}

fn hash(handle: &sys::Handle) -> u64 {
    let kind = handle.kind.to_le_bytes();
    kind.iter()
        .chain(&handle.bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(volume: u64, number: u64, stamp: Stamp) -> Id {
        Id { volume, number, stamp }
    }

    #[test]
    fn an_inode_is_known_by_volume_number_and_stamp() {
        let time = |seconds| Time { seconds, nanoseconds: 5 };
        let (born, later) = (Stamp::Born(time(3)), Stamp::Born(time(9)));
        for (was, now, is) in [
            (id(0, 7, born), id(0, 7, born), true),
            (id(0, 7, born), id(0, 7, later), false),
            (id(0, 7, born), id(0, 8, born), false),
            (id(256, 7, born), id(257, 7, born), false),
            (id(0, 7, Stamp::Handle(1)), id(0, 7, Stamp::Handle(1)), true),
            (id(0, 7, Stamp::Handle(1)), id(0, 7, Stamp::Handle(2)), false),
            // Format 1: it last changed at 5.
            (id(Id::ANY_VOLUME, 7, Stamp::None), id(256, 7, born), true),
            (id(0, 7, Stamp::None), id(0, 7, later), false),
            (id(0, 7, Stamp::None), id(0, 7, Stamp::None), true),
            (id(0, 7, born), id(0, 7, Stamp::None), true),
            (id(0, 7, Stamp::Any), id(3, 8, later), true),
        ] {
            assert_eq!(was.is(&now, time(5)), is, "{was:?} {now:?}");
        }
    }
}
