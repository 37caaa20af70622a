//! The times that a directory is to have in the end, kept with it while names in it change: killed in between, the next run
//! finds them there.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use crate::data::entry::Time;
use crate::data::flags::FlagGuard;
use crate::data::{pin, staging};

/// Where they are kept: seconds and nanoseconds of the time of access, then of that of modification, little-endian.
const PENDING: &CStr = c"trusted.virtfs-rollback.times";

/// How long that is.
const LENGTH: usize = 24;

/// The times of access and of modification that an open directory is to have, where they are kept with it.
pub(super) fn pending(directory: BorrowedFd<'_>) -> Result<Option<(Time, Time)>> {
    let mut buffer = [MaybeUninit::uninit(); LENGTH];
    match rustix::fs::fgetxattr(directory, PENDING, &mut buffer[..]) {
        Ok((value, _)) => Ok(parse(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps them. Where the file system has no place for them, a kill loses them.
pub(super) fn keep(directory: BorrowedFd<'_>, accessed: Time, modified: Time) -> Result<()> {
    let bytes = |time: Time| (time.seconds.to_le_bytes(), time.nanoseconds.to_le_bytes());
    let ((a, an), (m, mn)) = (bytes(accessed), bytes(modified));
    let value = [&a[..], &an, &m, &mn].concat();
    match rustix::fs::fsetxattr(directory, PENDING, &value, XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::DQUOT | Errno::PERM) => Ok(()),
        kept => kept,
    }
}

/// Gives a directory the times that are kept with it, if any are.
pub(super) fn give_back(directory: BorrowedFd<'_>) -> Result<()> {
    let Some((accessed, modified)) = pending(directory)? else { return Ok(()) };
    let inode = pin::stat(directory)?;
    let lifted = FlagGuard::of(directory, inode.immutable, inode.append_only)?;
    staging::restore_times(directory, accessed, modified)?;
    forget(directory)?;
    lifted.map_or(Ok(()), FlagGuard::restore)
}

/// Takes away what is kept with a directory.
pub(super) fn forget(directory: BorrowedFd<'_>) -> Result<()> {
    match rustix::fs::fremovexattr(directory, PENDING) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        // Where such attributes are nobody's, none is seen either.
        Err(Errno::PERM) if pending(directory)?.is_none() => Ok(()),
        removed => removed,
    }
}

fn parse(value: &[u8]) -> Option<(Time, Time)> {
    let (accessed, modified) = value.split_at_checked(LENGTH / 2)?;
    Some((time(accessed)?, time(modified)?))
}

fn time(bytes: &[u8]) -> Option<Time> {
    let (seconds, nanoseconds) = bytes.split_first_chunk()?;
    let nanoseconds = u32::from_le_bytes(nanoseconds.try_into().ok()?);
    Some(Time { seconds: i64::from_le_bytes(*seconds), nanoseconds })
}

/// Does something to the names in a directory, of which nothing is seen afterwards: its flags are lifted meanwhile, and
/// where `work` says that it did something, its times are given back.
pub(super) fn changing(
    directory: BorrowedFd<'_>,
    work: impl FnOnce() -> std::result::Result<bool, crate::data::goal::EntryError>,
) -> std::result::Result<(), crate::data::goal::EntryError> {
    let before = pin::stat(directory)?;
    let pending = pending(directory)?;
    let lifted = FlagGuard::of(directory, before.immutable, before.append_only)?;
    let (accessed, modified) = pending.unwrap_or((before.accessed, before.modified));
    keep(directory, accessed, modified)?;
    let worked = work();
    // What failed half-way may have changed names, too, and where there is no room the times are kept nowhere else.
    let given_back = if matches!(worked, Ok(false)) && pending.is_none() {
        Ok(())
    } else {
        staging::restore_times(directory, accessed, modified)
    };
    worked?;
    given_back?;
    forget(directory)?;
    lifted.map_or(Ok(()), |lifted| Ok(lifted.restore()?))
}
