//! System calls that more than one room wants and no crate we use has.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Opens a file or directory as a mere name (`O_PATH`, with `flags` besides), which never waits. std's `OpenOptions` drop `O_PATH`
/// with musl, whose `O_ACCMODE` contains it.
pub(crate) fn open_path(path: &Path, flags: OFlags) -> io::Result<File> {
    let file = rustix::fs::open(path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(file.into())
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `mount_setattr(2)`: sets and clears attributes (`MOUNT_ATTR_*`) of the mount `tree` and of all mounted below it, and makes
/// them private.
pub(crate) fn restrict_mount(tree: BorrowedFd<'_>, set: u64, clear: u64) -> io::Result<()> {
    change_mounts(tree, set, clear, libc::MS_PRIVATE)
}

/// `mount_setattr(2)`: sets and clears attributes (`MOUNT_ATTR_*`) of the mount `tree` and of all mounted below it, and gives
/// them the propagation type `propagation` (`MS_*`; 0 leaves it as it is).
pub(crate) fn change_mounts(tree: BorrowedFd<'_>, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
    let attr = MountAttr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
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
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the program that `command` starts be ended with the thread that starts it (`PR_SET_PDEATHSIG`).
pub(crate) fn end_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let set = || Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?);
    // SAFETY: between fork and exec there is one system call, which neither allocates nor takes a lock.
    unsafe { command.pre_exec(set) };
}

/// Another descriptor of the open file that `fd` is, by its number: with the same offset and flags.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers alone; a number that is no descriptor is EBADF.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
