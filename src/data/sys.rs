//! System calls of the rooms that read and change trees.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use caps::{CapSet, Capability};
use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::kernel;

/// A private, unattached copy of the mounts at and below `directory`, with `directory` as its root, on which devices
/// can't be opened, set-id bits and programs are dead, and reading leaves no trace.
pub(super) fn private_mount(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
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

/// A file handle: what a file system finds an inode by, whatever its names are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handle {
    /// `handle_type`.
    pub kind: i32,
    /// `f_handle`.
    pub bytes: Vec<u8>,
}

/// The longest handle, `MAX_HANDLE_SZ`.
const LONGEST_HANDLE: usize = 128;

/// `struct file_handle` with room for the longest.
#[repr(C)]
struct RawHandle {
    length: u32,
    kind: i32,
    bytes: [u8; LONGEST_HANDLE],
}

/// The handle of the inode that `fd` refers to, by name_to_handle_at(2); `None` where its file system has none.
pub(super) fn file_handle(fd: BorrowedFd<'_>) -> Option<Handle> {
    let mut handle = RawHandle { length: 128, kind: 0, bytes: [0; LONGEST_HANDLE] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path is terminated and empty; RawHandle is laid out as struct file_handle, and `length` says how many bytes
    // the kernel may write behind its head; `mount` takes an int.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    let length = usize::try_from(handle.length).ok()?;
    (result == 0)
        .then(|| handle.bytes.get(..length))
        .flatten()
        .map(|bytes| Handle { kind: handle.kind, bytes: bytes.into() })
}

/// `F_SETSIG` of fcntl(2), the same on every architecture; the libc crate does not name it.
const F_SETSIG: libc::c_int = 10;

/// Whether any process has a regular file open for writing, or maps it so. `fd` is open for reading. Where the file system
/// can't tell, nobody has.
pub(super) fn is_written(fd: BorrowedFd<'_>) -> bool {
    let control = |command, argument: libc::c_int| {
        // SAFETY: these commands of fcntl(2) take an int and touch no memory of this process.
        unsafe { libc::fcntl(fd.as_raw_fd(), command, argument) }
    };
    // A writer that comes while the lease is held makes the kernel send a signal: one that is ignored unless it is handled.
    if control(F_SETSIG, libc::SIGURG) != 0 {
        return false;
    }
    if control(libc::F_SETLEASE, libc::F_RDLCK) == 0 {
        control(libc::F_SETLEASE, libc::F_UNLCK);
        return false;
    }
    std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

/// Whether this process sees `trusted.*` attributes: by `CAP_SYS_ADMIN` of the first user namespace, xattr(7). To others
/// they are not there.
pub(super) fn sees_trusted_attributes() -> bool {
    // The number of the first user namespace, the same on every Linux: include/linux/proc_ns.h.
    const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";
    let is_first =
        std::fs::read_link("/proc/self/ns/user").is_ok_and(|name| name == Path::new(FIRST_USER_NAMESPACE));
    is_first && caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

/// `STATMOUNT_MNT_UIDMAP` and `STATMOUNT_MNT_GIDMAP` (Linux 6.15): include/uapi/linux/mount.h.
const ID_MAPS: u64 = 0x2000 | 0x4000;

/// `struct mnt_id_req`, its first version.
#[repr(C)]
struct MountRequest {
    size: u32,
    spare: u32,
    mount: u64,
    wanted: u64,
}

/// `struct statmount`, with room for strings. Only the fields that are read have names.
#[repr(C)]
struct MountAnswer {
    size: u32,
    other: u32,
    told: u64,
    others: [u64; 17],
    uid_count: u32,
    uid_map: u32,
    gid_count: u32,
    gid_map: u32,
    spare: [u64; 43],
    strings: [u8; 16384],
}

/// The maps of users and of groups of the id-mapped mount through which `fd` was opened, by statmount(2), a line for each range. `None`
/// where the kernel does not tell.
pub(super) fn mount_id_maps(fd: BorrowedFd<'_>) -> Option<[String; 2]> {
    // The same number on every architecture; the libc crate does not name it everywhere.
    const STATMOUNT: libc::c_long = 457;
    // `STATX_MNT_ID_UNIQUE`.
    let unique = rustix::fs::StatxFlags::from_bits_retain(0x4000);
    let told = rustix::fs::statx(fd, c"", rustix::fs::AtFlags::EMPTY_PATH, unique).ok()?;
    if told.stx_mask & unique.bits() == 0 {
        return None;
    }
    let request = MountRequest { size: 24, spare: 0, mount: told.stx_mnt_id, wanted: ID_MAPS };
    let mut answer = Box::new(MountAnswer {
        size: 0,
        other: 0,
        told: 0,
        others: [0; 17],
        uid_count: 0,
        uid_map: 0,
        gid_count: 0,
        gid_map: 0,
        spare: [0; 43],
        strings: [0; 16384],
    });
    // SAFETY: both structures are laid out as the kernel's; it reads 24 bytes of the request, the length that this says, and writes no
    // more than the length of the answer that it is told.
    let result = unsafe {
        libc::syscall(STATMOUNT, &raw const request, &raw mut *answer, size_of::<MountAnswer>(), 0)
    };
    if result != 0 || answer.told & ID_MAPS != ID_MAPS {
        return None;
    }
    let map = |at: u32, count: u32| {
        let mut rest = answer.strings.get(usize::try_from(at).ok()?..)?;
        let mut lines = String::new();
        for _ in 0..count {
            let end = rest.iter().position(|&byte| byte == 0)?;
            lines.push_str(std::str::from_utf8(rest.get(..end)?).ok()?);
            lines.push('\n');
            rest = rest.get(end + 1..)?;
        }
        Some(lines)
    };
    Some([map(answer.uid_map, answer.uid_count)?, map(answer.gid_map, answer.gid_count)?])
}
