//! A mount of our own, through which a tree is looked at.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::kernel;

/// A private, unattached copy of the mounts at and below `directory`, with `directory` as its root, on which devices
/// can't be opened, set-id bits and programs are dead, and reading leaves no trace.
pub fn private_mount(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(directory, c"", flags)?;
    restrict(tree.as_fd())?;
    Ok(tree)
}

fn restrict(tree: BorrowedFd<'_>) -> Result<()> {
    let attributes =
        libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOATIME;
    // The modes of access times exclude each other: all are cleared before one is set.
    kernel::restrict_mount(tree, attributes, libc::MOUNT_ATTR__ATIME)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
