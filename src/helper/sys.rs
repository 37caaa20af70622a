//! System calls in the form the daemon needs them: into buffers it already has, without allocating. Everything
//! that nix offers in that form is called through nix.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{AtFlags, Statx, StatxFlags};

use crate::kernel;

/// Which file, of all that there are and were: its device and inode number, which are both given out again, and when it was made,
/// where the file system tells that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: (u32, u32),
    number: u64,
    made: Option<(i64, u32)>,
}

impl FileId {
    /// The open file.
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        Self::look(file.as_fd(), c"", AtFlags::EMPTY_PATH)
    }

    /// The file of this name; a symbolic link itself.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Self::look(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)
    }

    // std's metadata has the time of birth with some C libraries only.
    fn look(directory: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: AtFlags) -> io::Result<Self> {
        path.into_with_c_str(|path| {
            let found = match rustix::fs::statx(directory, path, flags, StatxFlags::INO | StatxFlags::BTIME) {
                Ok(found) => found,
                // A container engine's filter refuses it.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                    let found = rustix::fs::statat(directory, path, flags)?;
                    let device = (rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev));
                    return Ok(Self { device, number: found.st_ino, made: None });
                }
                Err(error) => return Err(error),
            };
            let made = (found.stx_mask & StatxFlags::BTIME.bits() != 0)
                .then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
            Ok(Self { device: (found.stx_dev_major, found.stx_dev_minor), number: found.stx_ino, made })
        })
        .map_err(Into::into)
    }
}

/// A system call's result: the errno where it is negative.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

/// A length that a system call returned.
fn length(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}

/// Whether a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until there is something.
    Yes,
    /// `EAGAIN` where there is nothing.
    No,
}

/// `recv(2)` into the front of `buffer`.
pub(crate) fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: Wait) -> Result<usize, Errno> {
    let flags = if wait == Wait::Yes { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the kernel writes at most `buffer.len()` bytes to the buffer, which is borrowed for the call.
    length(unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) })
}

/// How replies are sent: a peer that is gone is `EPIPE`, never a signal; one that does not read is `EAGAIN`, never a wait.
const SEND: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

/// `send(2)`, as [`SEND`] says.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads at most `bytes.len()` bytes from the slice, which is borrowed for the call.
    length(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), SEND) })
}

/// [`send`] on a descriptor that may be -1, whatever comes of it. Safe in a signal handler.
pub(crate) fn send_raw(socket: RawFd, bytes: &[u8]) {
    // SAFETY: the kernel reads at most `bytes.len()` bytes from the slice; a descriptor that is none is an error.
    unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), SEND) };
}

/// `accept4(2)` on a descriptor that may be -1. Safe in a signal handler.
pub(crate) fn accept_raw(socket: RawFd) -> Result<OwnedFd, Errno> {
    let (address, length) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: no address is asked for; the descriptor that comes back is nobody else's.
    unsafe {
        let fd = check(libc::accept4(socket, address, length, libc::SOCK_CLOEXEC).into())?;
        Ok(OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?))
    }
}

/// Has the kernel send this process SIGALRM again and again (`setitimer(2)`).
pub(crate) fn signal_every(interval: Duration) -> Result<(), Errno> {
    let time = libc::timeval {
        tv_sec: interval.as_secs().try_into().map_err(|_| Errno::EINVAL)?,
        tv_usec: interval.subsec_micros().max(1).into(),
    };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: the kernel only reads the timer.
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }.into())
        .map(drop)
}

/// Space for one `SCM_RIGHTS` message of one descriptor, aligned as the kernel wants it.
#[repr(C, align(8))]
struct RightsBuffer([u8; 24]);

/// `sendmsg(2)` of `bytes` with one descriptor beside them, as [`SEND`] says.
pub(crate) fn send_with_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<usize, Errno> {
    const FD_SIZE: u32 = 4;
    const { assert!(size_of::<RawFd>() == FD_SIZE as usize) };
    let mut control = RightsBuffer([0; 24]);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr. CMSG_SPACE of one descriptor is 24 bytes at most, the buffer's size, and the
    // buffer has a cmsghdr's alignment; CMSG_FIRSTHDR and CMSG_DATA point into it. The kernel only reads
    // `bytes`, although iovec holds a mutable pointer. All pointers outlive the call.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(FD_SIZE) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(FD_SIZE) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, SEND)
    };
    length(sent)
}

/// Has the kernel refuse descriptors that the other side of `socket`, or of what it accepts, sends (`SO_PASSRIGHTS`, Linux 6.16). False
/// where it can't.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> bool {
    pass_descriptors(socket, false)
}

/// Has the kernel pass on descriptors that the other side of `socket` sends from now on. Kernels that cannot refuse them do so anyway.
#[cfg(feature = "vhost-user")]
pub(crate) fn accept_descriptors(socket: BorrowedFd<'_>) {
    pass_descriptors(socket, true);
}

fn pass_descriptors(socket: BorrowedFd<'_>, pass: bool) -> bool {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let value = libc::c_int::from(pass);
    let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the kernel reads `size` bytes of an integer that lives as long.
    unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const value).cast(), size)
            == 0
    }
}

/// The groups of the process that connected `socket` (`SO_PEERGROUPS`).
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0_u32; 65_536];
    let mut size = libc::socklen_t::try_from(size_of_val(&*groups)).map_err(|_| Errno::EINVAL)?;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
    // SAFETY: the kernel writes at most `size` bytes to the vector, which has as many.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, groups.as_mut_ptr().cast(), &raw mut size)
    };
    check(result.into())?;
    groups.truncate(usize::try_from(size).unwrap_or(0) / size_of::<u32>());
    Ok(groups)
}

/// How much memory, in bytes, the messages take that were sent on `socket` and that the other side has not yet received.
pub(crate) fn unread(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) }.into())?;
    Ok(bytes.unsigned_abs())
}

/// A counter that this process shares with those that it forks.
pub(crate) fn shared_counter() -> Result<&'static AtomicU64, Errno> {
    shared_counters::<1>().map(|[counter]| counter)
}

/// Counters that this process shares with those that it forks.
pub(crate) fn shared_counters<const N: usize>() -> Result<&'static [AtomicU64; N], Errno> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, zero-filled, aligned to a page and never unmapped; all access to it is atomic.
    unsafe {
        let memory = libc::mmap(std::ptr::null_mut(), size_of::<[AtomicU64; N]>(), access, flags, -1, 0);
        if memory == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(&*memory.cast::<[AtomicU64; N]>())
    }
}

/// `statfs(2)`.
pub(crate) fn statfs(path: &CStr) -> Result<libc::statfs, Errno> {
    let mut out = MaybeUninit::uninit();
    // SAFETY: path is terminated; the kernel writes one statfs to `out`, which is read only on success.
    unsafe {
        check(libc::statfs(path.as_ptr(), out.as_mut_ptr()).into())?;
        Ok(out.assume_init())
    }
}

/// `fstatfs(2)`.
pub(crate) fn fstatfs(fd: BorrowedFd<'_>) -> Result<libc::statfs, Errno> {
    let mut out = MaybeUninit::uninit();
    // SAFETY: the kernel writes one statfs to `out`, which is read only on success.
    unsafe {
        check(libc::fstatfs(fd.as_raw_fd(), out.as_mut_ptr()).into())?;
        Ok(out.assume_init())
    }
}

/// The id of a file system, its two halves (`f_fsid` of statfs(2)).
pub(crate) fn fsid_halves(status: &libc::statfs) -> [i32; 2] {
    // SAFETY: fsid_t is two ints (statfs(2)); libc keeps them private.
    unsafe { std::mem::transmute(status.f_fsid) }
}

/// `readlinkat(2)` into the front of `buffer`.
pub(crate) fn readlinkat(dir: BorrowedFd<'_>, path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: path is terminated; the kernel writes at most `buffer.len()` bytes to the buffer.
    length(unsafe {
        libc::readlinkat(dir.as_raw_fd(), path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    })
}

/// Whether an extended attribute call follows a final symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Final {
    /// The link itself: `lgetxattr(2)` and its like.
    Link,
    /// What it leads to: `getxattr(2)` and its like.
    Target,
}

/// `getxattr(2)` or `lgetxattr(2)` into the front of `buffer`; into an empty one, only the length is asked for.
pub(crate) fn getxattr(path: &CStr, name: &CStr, buffer: &mut [u8], last: Final) -> Result<usize, Errno> {
    let call = match last {
        Final::Link => libc::lgetxattr,
        Final::Target => libc::getxattr,
    };
    // SAFETY: path and name are terminated; the kernel writes at most `buffer.len()` bytes to the buffer.
    length(unsafe { call(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// `listxattr(2)` or `llistxattr(2)`, as [`getxattr`].
pub(crate) fn listxattr(path: &CStr, buffer: &mut [u8], last: Final) -> Result<usize, Errno> {
    let call = match last {
        Final::Link => libc::llistxattr,
        Final::Target => libc::listxattr,
    };
    // SAFETY: path is terminated; the kernel writes at most `buffer.len()` bytes to the buffer.
    length(unsafe { call(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// `setxattr(2)` or `lsetxattr(2)`.
pub(crate) fn setxattr(path: &CStr, name: &CStr, value: &[u8], flags: i32, last: Final) -> Result<(), Errno> {
    let call = match last {
        Final::Link => libc::lsetxattr,
        Final::Target => libc::setxattr,
    };
    // SAFETY: path and name are terminated; the kernel reads `value.len()` bytes from value.
    let result = unsafe { call(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    check(result.into()).map(drop)
}

/// `removexattr(2)` or `lremovexattr(2)`.
pub(crate) fn removexattr(path: &CStr, name: &CStr, last: Final) -> Result<(), Errno> {
    let call = match last {
        Final::Link => libc::lremovexattr,
        Final::Target => libc::removexattr,
    };
    // SAFETY: path and name are terminated.
    check(unsafe { call(path.as_ptr(), name.as_ptr()) }.into()).map(drop)
}

/// `truncate(2)`.
pub(crate) fn truncate(path: &CStr, size: i64) -> Result<(), Errno> {
    // SAFETY: path is terminated.
    check(unsafe { libc::truncate(path.as_ptr(), size) }.into()).map(drop)
}

/// `fchmodat(2)`, which follows a final symbolic link.
pub(crate) fn fchmodat(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: path is terminated.
    check(unsafe { libc::fchmodat(dir.as_raw_fd(), path.as_ptr(), mode, 0) }.into()).map(drop)
}

/// `ioctl(FS_IOC_GETVERSION)`: the inode's generation number.
pub(crate) fn inode_version(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    // The ioctl's number is made with `long`, but every file system writes an int.
    let mut version: [u32; 2] = [0; 2];
    // SAFETY: the kernel writes four bytes, or at most a long's eight, to `version`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_GETVERSION, version.as_mut_ptr()) }.into())?;
    Ok(version[0].into())
}

/// `struct file_handle` (open_by_handle_at(2)), with room for the longest.
#[repr(C)]
pub(crate) struct FileHandle {
    length: u32,
    kind: i32,
    bytes: [u8; MAX_HANDLE],
}

/// The longest content of a file handle, `MAX_HANDLE_SZ`.
const MAX_HANDLE: usize = 128;

impl FileHandle {
    /// One of this type and content; content that is too long is cut.
    #[cfg(test)]
    pub(crate) fn new(kind: i32, content: &[u8]) -> Self {
        let mut bytes = [0; MAX_HANDLE];
        let length = content.len().min(MAX_HANDLE);
        bytes[..length].copy_from_slice(&content[..length]);
        Self { length: u32::try_from(length).unwrap_or(0), kind, bytes }
    }

    /// Its type: the file system's own affair.
    pub(crate) fn kind(&self) -> i32 {
        self.kind
    }

    /// Its content: the file system's own affair, too.
    pub(crate) fn bytes(&self) -> &[u8] {
        let length = usize::try_from(self.length).unwrap_or(0).min(MAX_HANDLE);
        &self.bytes[..length]
    }
}

/// `name_to_handle_at(2)`: the handle of a file, without opening it or following a final symbolic link.
pub(crate) fn name_to_handle(dir: BorrowedFd<'_>, path: &CStr) -> Result<FileHandle, Errno> {
    let mut handle = FileHandle { length: 128, kind: 0, bytes: [0; MAX_HANDLE] };
    let mut mount: libc::c_int = 0;
    // SAFETY: path is terminated; FileHandle is laid out as struct file_handle, and `length` says how many bytes the kernel
    // may write behind its head; `mount` takes an int.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            0,
        )
    })?;
    Ok(handle)
}

/// Closes the descriptors `first` to `last`; those that are not open do not matter.
fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: the callers close descriptors that they own, or that nobody in this process does.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Closes every descriptor from `first` on except those in `kept`: one by one where close_range(2) is missing (before Linux 5.9)
/// or filtered. None of those that are closed may belong to anything in this process.
pub(crate) fn close_all_from(first: u32, kept: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut from = first;
    for &fd in kept.iter().filter(|&&fd| fd >= first) {
        if fd > from && close_range(from, fd - 1).is_err() {
            return close_one_by_one(first, &kept);
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX).or_else(|_| close_one_by_one(first, &kept))
}

/// As [`close_all_from`], without close_range(2).
fn close_one_by_one(first: u32, kept: &[u32]) -> Result<(), Errno> {
    for number in open_descriptors()? {
        if number >= first && !kept.contains(&number) {
            // SAFETY: as the caller of close_all_from promises. EBADF is the descriptor of the directory that was read.
            unsafe { libc::close(number.cast_signed()) };
        }
    }
    Ok(())
}

/// The numbers that open descriptors can have: those in `/proc/self/fd`; without it, all up to the limit.
fn open_descriptors() -> Result<Vec<u32>, Errno> {
    const MOST: u64 = 1 << 20;
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        return Ok(entries.filter_map(Result::ok).filter_map(number).collect());
    }
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    Ok((0..u32::try_from(hard.min(MOST)).unwrap_or(u32::MAX)).collect())
}

/// Closes two descriptors, with one system call where their numbers are neighbours.
pub(crate) fn close_both(one: OwnedFd, other: OwnedFd) {
    let (low, high) = (one.as_raw_fd().min(other.as_raw_fd()), one.as_raw_fd().max(other.as_raw_fd()));
    if high == low + 1
        && let (Ok(first), Ok(last)) = (u32::try_from(low), u32::try_from(high))
        && close_range(first, last).is_ok()
    {
        std::mem::forget((one, other));
    }
}

/// `setfsuid(2)`; returns the previous id. It reports no error: see [`super::identity`].
pub(crate) fn setfsuid(uid: u32) -> u32 {
    // SAFETY: plain integers. Not libc's wrapper, which may signal other threads.
    id(unsafe { libc::syscall(libc::SYS_setfsuid, uid) })
}

/// `setfsgid(2)`; returns the previous id. It reports no error: see [`super::identity`].
pub(crate) fn setfsgid(gid: u32) -> u32 {
    // SAFETY: plain integers. Not libc's wrapper, which may signal other threads.
    id(unsafe { libc::syscall(libc::SYS_setfsgid, gid) })
}

/// An id that the kernel returned: 32 bits, which an architecture may have extended by sign.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the upper half says nothing")]
fn id(result: libc::c_long) -> u32 {
    result as u32
}

/// Lets go of memory that only starting up needed: what the allocator holds unused, code and constants. What of these
/// is needed again comes back from the page cache. Purely a matter of size: nothing fails where the kernel declines.
pub(crate) fn slim_down() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives unused memory back to the kernel (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
    // SAFETY: the callback has the type that is asked for, and uses no data.
    unsafe { libc::dl_iterate_phdr(Some(forget_code_of), std::ptr::null_mut()) };
}

/// For one object of this process, a `dl_iterate_phdr(3)` callback.
#[allow(clippy::cast_possible_truncation, reason = "addresses of this process, and lengths between them")]
unsafe extern "C" fn forget_code_of(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library passes a valid description, with that many headers.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    // SAFETY: a plain question.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1).cast_unsigned();
    // The headers are constants themselves: whoever looks at them again has them back.
    let mut segments = [(0, 0); 8];
    let constant = headers.iter().filter(|it| it.p_type == libc::PT_LOAD && it.p_flags & libc::PF_W == 0);
    for (segment, header) in segments.iter_mut().zip(constant) {
        let start = (base + header.p_vaddr) / page * page;
        *segment = (start, base + header.p_vaddr + header.p_memsz - start);
    }
    for (start, length) in segments.into_iter().filter(|&(_, length)| length > 0) {
        // SAFETY: a private mapping of a file that was never written to: reading any page of it again gives what is there
        // now (madvise(2), MADV_DONTNEED).
        unsafe {
            libc::madvise(start as *mut libc::c_void, length as usize, libc::MADV_DONTNEED);
        }
    }
    0
}

/// `struct __user_cap_header_struct` (capget(2)).
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: 32 capabilities of each set.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The version of capget(2) and capset(2) that means two [`CapData`].
const CAP_VERSION_3: u32 = 0x2008_0522;

/// capget(2) of this thread.
fn capget() -> Result<[CapData; 2], Errno> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 means two CapData (capget(2)); the kernel writes these, and only reads the header.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(data)
}

/// capset(2) of this thread.
fn capset(data: &[CapData; 2]) -> Result<(), Errno> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    // SAFETY: as for capget; the kernel only reads both.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Puts the capability of this number (below 32) into this thread's effective set, without allocating. False where it was
/// there already, or is not permitted.
pub(crate) fn raise_capability(number: u8) -> Result<bool, Errno> {
    let mut data = capget()?;
    let bit = 1u32 << number;
    if data[0].effective & bit != 0 || data[0].permitted & bit == 0 {
        return Ok(false);
    }
    data[0].effective |= bit;
    capset(&data)?;
    Ok(true)
}

/// A thread's effective capabilities, ready to be set without allocating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EffectiveSet([CapData; 2]);

/// The capabilities that the kernel takes out of effect when the file system uid 0 becomes another one (capabilities(7)): CHOWN,
/// DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, LINUX_IMMUTABLE, MKNOD, and of the upper half MAC_OVERRIDE.
const FILE_SYSTEM_CAPABILITIES: [u32; 2] =
    [1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9 | 1 << 27, 1 << 0];

impl EffectiveSet {
    /// The set that this thread has now.
    pub(crate) fn of_this_thread() -> Result<Self, Errno> {
        capget().map(Self)
    }

    /// This set without the capabilities that a file system uid other than 0 does without.
    pub(crate) fn without_file_system(&self) -> Self {
        let mut reduced = self.clone();
        for (data, removed) in reduced.0.iter_mut().zip(FILE_SYSTEM_CAPABILITIES) {
            data.effective &= !removed;
        }
        reduced
    }

    /// Makes it this thread's effective set.
    pub(crate) fn apply(&self) -> Result<(), Errno> {
        capset(&self.0)
    }
}

/// Whether the kernel leaves capabilities alone when this thread's user ids change: the secure bit `NO_SETUID_FIXUP`.
pub(crate) fn no_setuid_fixup() -> Result<bool, Errno> {
    const NO_SETUID_FIXUP: libc::c_long = 1 << 2;
    // SAFETY: plain integers; the call changes nothing.
    let bits = check(unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) }.into())?;
    Ok(bits & NO_SETUID_FIXUP != 0)
}

/// `open_tree(2)` with `OPEN_TREE_CLONE`: a private, unattached copy of the mount that `path` is on, with `path`
/// as its root; with everything mounted below where `recursive`.
pub(crate) fn clone_mount(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: path is terminated; the descriptor that comes back is nobody else's.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags))?;
        Ok(OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?))
    }
}

/// `move_mount(2)` of the unattached mount `tree` onto the directory `onto`.
pub(crate) fn attach_mount(tree: BorrowedFd<'_>, onto: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are terminated and empty.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            onto.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// Sets `attributes` (`MOUNT_ATTR_*`) on the mount `tree` and on all mounted below it.
pub(crate) fn set_mount_attributes(tree: BorrowedFd<'_>, attributes: u64) -> Result<(), Errno> {
    kernel::change_mounts(tree, attributes, 0, 0).map_err(|_| Errno::last())
}

/// Sets `attributes` on the mount `tree` and on all mounted below it, and makes them slaves: what the kernel mounts and
/// unmounts on their masters, it mounts and unmounts here, and nothing from here reaches a master.
pub(crate) fn enslave_mounts(tree: BorrowedFd<'_>, attributes: u64) -> Result<(), Errno> {
    kernel::change_mounts(tree, attributes, 0, libc::MS_SLAVE).map_err(|_| Errno::last())
}

/// The number by which `/proc/PID/mountinfo` knows the mount that `fd` is on (`statx(2)`, `STATX_MNT_ID`, Linux 5.8).
pub(crate) fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    const STATX_MNT_ID: libc::c_uint = 0x1000;
    // struct statx: 256 bytes, of which the first 4 say what is filled in, and those from 144 on are the number.
    let mut out = [0u64; 32];
    // SAFETY: the path is terminated and empty; the kernel writes one struct statx to `out`.
    check(unsafe {
        libc::syscall(
            libc::SYS_statx,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
            STATX_MNT_ID,
            out.as_mut_ptr(),
        )
    })?;
    if out[0].to_ne_bytes().first_chunk().map_or(0, |mask| u32::from_ne_bytes(*mask)) & STATX_MNT_ID == 0 {
        return Err(Errno::ENOSYS);
    }
    Ok(out[18])
}

/// `STATX_MNT_ID_UNIQUE` of statx(2) (Linux 6.8): the id of a mount that no other mount gets as long as the kernel runs. The ids of
/// mountinfo and the device numbers are given out again.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The type bits of the mode of the file at `path`, and the unique id of the mount that it is on; None where the kernel does not
/// tell that. A final symbolic link is not followed.
pub(crate) fn kind_and_mount(dir: BorrowedFd<'_>, path: &CStr) -> Result<(u32, Option<u64>), Errno> {
    let told = rustix::fs::statx(dir, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE | MNT_ID_UNIQUE);
    told.map(|told| (told.stx_mode.into(), unique_id(&told))).map_err(errno)
}

/// The unique id of the mount that `fd` is on, as [`kind_and_mount`].
pub(crate) fn unique_mount_id(fd: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, MNT_ID_UNIQUE).map(|told| unique_id(&told)).map_err(errno)
}

fn unique_id(told: &Statx) -> Option<u64> {
    (told.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(told.stx_mnt_id)
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// `statx(2)` asks no server of a network file system. Not every C library's part of the libc crate names it.
const AT_STATX_DONT_SYNC: libc::c_int = 0x4000;

/// Has the kernel send this process `signal` whenever something happens on the open file `fd` (`F_SETSIG`, fcntl(2)).
pub(crate) fn signal_on_event(fd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let fd = fd.as_raw_fd();
    // SAFETY: plain integers; the descriptor is borrowed for the calls.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()).into())?;
        check(libc::fcntl(fd, F_SETSIG, signal).into())?;
        let flags = check(libc::fcntl(fd, libc::F_GETFL).into())?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::c_long::from(libc::O_ASYNC)).into()).map(drop)
    }
}

/// `F_SETSIG`, the same on every architecture that this builds for; the libc crate does not name it.
const F_SETSIG: i32 = 10;

/// The name of `fd` in `/proc/self/fd`, terminated: with that directory as working directory, the path of the
/// kernel's magic link to what `fd` refers to.
pub(crate) struct MagicLink([u8; 12]);

impl MagicLink {
    /// The link of `fd`.
    pub(crate) fn of(fd: &impl AsFd) -> Self {
        let mut name = [0; 12];
        let mut at = name.len() - 1;
        let mut rest = fd.as_fd().as_raw_fd().unsigned_abs();
        loop {
            at -= 1;
            name[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 || at == 0 {
                break;
            }
        }
        name.copy_within(at.., 0);
        let end = name.len() - at - 1;
        name[end..].fill(0);
        Self(name)
    }

    /// The name.
    pub(crate) fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magic_link_is_the_descriptors_number() {
        for number in [0, 7, 10, 65_535, i32::MAX] {
            // SAFETY: the descriptor is not used, only its number.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            assert_eq!(MagicLink::of(&fd).name().to_str().unwrap(), number.to_string());
        }
    }
}
