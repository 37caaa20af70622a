//! The guest's locks on the host's files.
//!
//! The guest's kernel settles what its own processes want of each other before it asks. What is left is the guest against others: programs
//! of the host, and other guests. So all locks of one file are the locks of one open file description (`F_OFD_SETLK`,
//! fcntl(2)): those that any process of the guest holds. Two of its processes may hold the same bytes for reading, so
//! who holds what is kept here, and what one gives up stays locked for the other.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::wire::Lock;

/// To read.
pub(crate) const READ: u8 = 0;
/// To write.
pub(crate) const WRITE: u8 = 1;
/// None.
pub(crate) const UNLOCK: u8 = 2;

/// What a guest is told of its wish for a lock (`P9_LOCK_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has it.
    Success = 0,
    /// Somebody else has it.
    Blocked = 1,
    /// It cannot be had.
    Error = 2,
}

/// How many locks a guest may hold.
const MOST: usize = 1 << 16;

/// A file: device and inode number.
pub(crate) type FileNumber = (u64, u64);
/// Who holds a lock: a process of the guest.
type Owner = (u32, Box<[u8]>);

#[derive(Debug, Clone)]
struct Range {
    owner: Owner,
    start: u64,
    /// The last byte.
    last: u64,
    kind: u8,
}

/// The locks of one file.
struct Locked {
    file: OwnedFd,
    ranges: Vec<Range>,
}

/// The locks of one guest.
#[derive(Default)]
pub(crate) struct Locks {
    files: HashMap<FileNumber, Locked>,
    count: usize,
}

/// The largest offset of a file.
const LAST: u64 = i64::MAX as u64;

/// The bytes of a lock, the first and the last one.
fn bytes(lock: &Lock<'_>) -> Result<(u64, u64), Errno> {
    let last = match lock.length {
        0 => Some(LAST),
        length => lock.start.checked_add(length - 1),
    };
    last.filter(|last| *last <= LAST && lock.start <= *last)
        .map(|last| (lock.start, last))
        .ok_or(Errno::EINVAL)
}

impl Locks {
    /// Sets, changes or gives up a lock of the file of this number. `open` opens it once more.
    pub(crate) fn set(
        &mut self,
        number: FileNumber,
        lock: &Lock<'_>,
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<Answer, Errno> {
        let (start, last) = bytes(lock)?;
        if lock.kind > UNLOCK {
            return Err(Errno::EINVAL);
        }
        let locked = match self.files.entry(number) {
            Entry::Occupied(locked) => locked.into_mut(),
            Entry::Vacant(_) if lock.kind == UNLOCK => return Ok(Answer::Success),
            Entry::Vacant(place) => place.insert(Locked { file: open()?, ranges: Vec::new() }),
        };
        let before = locked.ranges.len();
        let answer = if self.count >= MOST && lock.kind != UNLOCK {
            Err(Errno::ENOLCK)
        } else {
            locked.set(lock, (start, last))
        };
        self.count = self.count - before + locked.ranges.len();
        if locked.ranges.is_empty() {
            self.files.remove(&number);
        }
        answer
    }

    /// The lock of somebody else that is in the way of `lock`: its kind, first byte, length (0 to the end) and process. `open` opens the file.
    pub(crate) fn conflict(
        &self,
        number: FileNumber,
        lock: &Lock<'_>,
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<Option<(u8, u64, u64, u32)>, Errno> {
        let (start, last) = bytes(lock)?;
        let opened;
        let file = if let Some(locked) = self.files.get(&number) {
            &locked.file
        } else {
            opened = open()?;
            &opened
        };
        let mut found = flock(lock.kind, start, last)?;
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
        if i32::from(found.l_type) == libc::F_UNLCK {
            return Ok(None);
        }
        let kind = if i32::from(found.l_type) == libc::F_WRLCK { WRITE } else { READ };
        let process = u32::try_from(found.l_pid).unwrap_or(0);
        Ok(Some((kind, found.l_start.cast_unsigned(), found.l_len.cast_unsigned(), process)))
    }

    /// Gives up all.
    pub(crate) fn clear(&mut self) {
        self.files.clear();
        self.count = 0;
    }
}

impl Locked {
    fn set(&mut self, lock: &Lock<'_>, (start, last): (u64, u64)) -> Result<Answer, Errno> {
        let owner: Owner = (lock.process, lock.client.into());
        let mut wanted = without(&self.ranges, &owner, start, last);
        if lock.kind != UNLOCK {
            wanted.push(Range { owner, start, last, kind: lock.kind });
        }
        for (done, &(from, to)) in pieces(&self.ranges, &wanted, (start, last)).iter().enumerate() {
            let asked = self.apply(strongest(&wanted, from), from, to);
            let answer = match asked {
                Ok(()) => continue,
                Err(Errno::EAGAIN | Errno::EACCES) => Ok(Answer::Blocked),
                Err(Errno::EBADF) => Ok(Answer::Error),
                Err(errno) => Err(errno),
            };
            for &(from, to) in &pieces(&self.ranges, &wanted, (start, last))[..done] {
                // What was held before is held again: nobody can have taken more than what was just locked.
                let _ = self.apply(strongest(&self.ranges, from), from, to);
            }
            return answer;
        }
        self.ranges = wanted;
        Ok(Answer::Success)
    }

    fn apply(&self, kind: u8, start: u64, last: u64) -> Result<(), Errno> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&flock(kind, start, last)?)).map(drop)
    }
}

/// `ranges` without those bytes of that owner.
fn without(ranges: &[Range], owner: &Owner, start: u64, last: u64) -> Vec<Range> {
    let mut rest = Vec::with_capacity(ranges.len() + 2);
    for range in ranges {
        if range.owner != *owner || range.last < start || range.start > last {
            rest.push(range.clone());
            continue;
        }
        if range.start < start {
            rest.push(Range { last: start - 1, ..range.clone() });
        }
        if range.last > last {
            rest.push(Range { start: last + 1, ..range.clone() });
        }
    }
    rest
}

/// The bytes from `start` to `last` in pieces, none of which has a border of a range inside.
fn pieces(before: &[Range], after: &[Range], (start, last): (u64, u64)) -> Vec<(u64, u64)> {
    let borders = before.iter().chain(after).flat_map(|range| [range.start, range.last.saturating_add(1)]);
    let mut starts: Vec<u64> = borders.filter(|at| *at > start && *at <= last).chain([start]).collect();
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([last]);
    starts.iter().copied().zip(ends).collect()
}

/// The strongest lock that is on a byte.
fn strongest(ranges: &[Range], at: u64) -> u8 {
    let on = ranges.iter().filter(|range| range.start <= at && at <= range.last);
    // To write is more than to read.
    on.map(|range| range.kind).max().unwrap_or(UNLOCK)
}

fn flock(kind: u8, start: u64, last: u64) -> Result<libc::flock, Errno> {
    let kind = match kind {
        READ => libc::F_RDLCK,
        WRITE => libc::F_WRLCK,
        UNLOCK => libc::F_UNLCK,
        _ => return Err(Errno::EINVAL),
    };
    let length = if last == LAST { 0 } else { last - start + 1 };
    Ok(libc::flock {
        l_type: i16::try_from(kind).map_err(|_| Errno::EINVAL)?,
        l_whence: 0,
        l_start: i64::try_from(start).map_err(|_| Errno::EINVAL)?,
        l_len: i64::try_from(length).map_err(|_| Errno::EINVAL)?,
        l_pid: 0,
    })
}
