//! Immutable and append-only inodes: their flags are lifted while they are worked on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::IFlags;
use rustix::io::Result;

use super::journal::Record;
use super::pin::Pin;

/// The flags that stand in the way of a change.
const OBSTRUCTIVE: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// Lifts an open inode's flags.
pub(super) fn lift(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = rustix::fs::ioctl_getflags(fd)?;
    if flags.intersects(OBSTRUCTIVE) { rustix::fs::ioctl_setflags(fd, flags - OBSTRUCTIVE) } else { Ok(()) }
}

/// Sets an open inode's flags to these.
pub(super) fn set(fd: BorrowedFd<'_>, immutable: bool, append_only: bool) -> Result<()> {
    let now = rustix::fs::ioctl_getflags(fd)?;
    let mut flags = now - OBSTRUCTIVE;
    flags.set(IFlags::IMMUTABLE, immutable);
    flags.set(IFlags::APPEND, append_only);
    if flags == now { Ok(()) } else { rustix::fs::ioctl_setflags(fd, flags) }
}

/// Sets the flags of an inode to what was recorded, where they are others.
pub(super) fn set_again(pin: &Pin, record: &Record) -> Result<()> {
    let (now, was) = (pin.inode(), (record.immutable, record.append_only));
    if (now.immutable, now.append_only) == was { Ok(()) } else { set(pin.as_fd(), was.0, was.1) }
}

/// Lifted flags, which are set again when this is dropped.
#[derive(Debug)]
pub(super) struct FlagGuard {
    fd: OwnedFd,
    immutable: bool,
    append_only: bool,
}

impl FlagGuard {
    /// Lifts the flags of an open inode that has, or is to have, these; `None` where it has none.
    pub(super) fn of(fd: BorrowedFd<'_>, immutable: bool, append_only: bool) -> Result<Option<Self>> {
        if !immutable && !append_only {
            return Ok(None);
        }
        let fd = fd.try_clone_to_owned().map_err(|_| rustix::io::Errno::MFILE)?;
        lift(fd.as_fd())?;
        Ok(Some(Self { fd, immutable, append_only }))
    }

    /// Sets them again, and says how that went.
    pub(super) fn restore(self) -> Result<()> {
        set(self.fd.as_fd(), self.immutable, self.append_only)
        // The drop that follows finds them set.
    }
}

impl Drop for FlagGuard {
    fn drop(&mut self) {
        // Whoever wants to know calls `restore`; this is for the way out after another error.
        let _ = set(self.fd.as_fd(), self.immutable, self.append_only);
    }
}
