//! System calls that no crate we use has.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

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
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NOEXEC
            | libc::MOUNT_ATTR_NOATIME,
        // The modes of access times exclude each other: all are cleared before one is set.
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is terminated and empty; the kernel reads `size_of::<MountAttr>()` bytes of `attr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(last_error()) } else { Ok(()) }
}

/// The error of the last system call.
fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
