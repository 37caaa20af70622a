//! Numbers by which the guest tells files apart: as the host's where they can be.
//!
//! A qid's path becomes the guest's inode number. On the export's own file system it is the host's inode number, as over the
//! proxy. Other file systems below the export may use the same numbers, so there the number is mixed with the file
//! system's id and its highest bit is set. Both stay the same when the helper starts anew.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use nix::sys::stat::FileStat;

use super::wire::{QID_DIRECTORY, QID_SYMLINK, Qid};
use crate::helper::sys;

/// How many file systems are remembered.
const REMEMBERED: usize = 1024;
/// Set in the number of each file that is not on the export's own file system.
const ELSEWHERE: u64 = 1 << 63;

/// The file systems of an export.
pub(crate) struct FileSystems {
    own: u64,
    /// What the inode numbers of other devices are mixed with.
    others: Mutex<HashMap<u64, u64>>,
}

impl FileSystems {
    /// `own` is the device of the export's directory.
    pub(crate) fn new(own: u64) -> Self {
        Self { own, others: Mutex::default() }
    }

    /// The qid of the file of this status, which `file` refers to.
    pub(crate) fn qid(&self, file: BorrowedFd<'_>, stat: &FileStat) -> Qid {
        let path = self.number(file, stat.st_dev, stat.st_ino);
        let version = stat.st_mtime.cast_unsigned() ^ stat.st_size.cast_unsigned() << 8;
        Qid { kind: kind(stat.st_mode), version: low(version), path }
    }

    /// The number of the file `inode` on `device`, the file system of `file`.
    pub(crate) fn number(&self, file: BorrowedFd<'_>, device: u64, inode: u64) -> u64 {
        if device == self.own {
            return inode;
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if others.len() >= REMEMBERED {
            others.clear();
        }
        let id = *others.entry(device).or_insert_with(|| file_system(file).unwrap_or(device));
        mix(inode ^ mix(id)) | ELSEWHERE
    }
}

/// The id of the file system that a file is on.
fn file_system(file: BorrowedFd<'_>) -> Option<u64> {
    let [one, other] = sys::fsid_halves(&sys::fstatfs(file).ok()?);
    Some(u64::from(one.cast_unsigned()) << 32 | u64::from(other.cast_unsigned())).filter(|id| *id != 0)
}

/// The kind of a qid of a file of this mode.
pub(crate) fn kind(mode: u32) -> u8 {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => QID_DIRECTORY,
        libc::S_IFLNK => QID_SYMLINK,
        _ => 0,
    }
}

/// The lower half of a number.
#[allow(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn low(number: u64) -> u32 {
    number as u32
}

/// Spreads a number over 64 bits, and no two numbers to the same: the finalizer of SplitMix64.
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
