//! What a hostile client would try if it had taken over a serving process: for the tests that show which wall stops
//! it. Built only by the feature `break-in`, and never optimised.
//!
//! A request to read the link `/.break-in/NAME` makes the worker try `NAME` there and then. The answer is `reached`, or the
//! errno that stopped it; or the worker dies. The environment variable [`VARIABLE`] says where to break in to, and which
//! walls are left out, so that those that remain show what they stop by themselves.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::LazyLock;

use libc::c_long;
use nix::errno::Errno;

use super::protocol::{VALUE_AT, finish_value};

#[cfg(not(debug_assertions))]
compile_error!("the feature 'break-in' is for tests alone: it is not for optimised builds");

/// `KEY=VALUE` pairs separated by `;`: `without` (walls, separated by commas), `outside` (a directory that the export is not
/// in), `inside` (the export as the worker names it), `victim` (a process), `handle` (a file handle of a file in
/// `outside`: type, then bytes in hexadecimal), `port` (TCP), `abstract` (the name of a unix socket), `shm` (a key).
pub(crate) const VARIABLE: &str = "VIRTFS_BREAK_IN";

/// The names below this make attempts.
const PREFIX: &[u8] = b"/.break-in/";

static TEXT: LazyLock<Vec<u8>> =
    LazyLock::new(|| std::env::var_os(VARIABLE).unwrap_or_default().as_bytes().to_vec());

fn setting(key: &str) -> &'static [u8] {
    let pair = |pair: &'static [u8]| pair.strip_prefix(key.as_bytes())?.strip_prefix(b"=");
    TEXT.split(|&byte| byte == b';').find_map(pair).unwrap_or_default()
}

fn number(key: &str) -> c_long {
    std::str::from_utf8(setting(key)).ok().and_then(|text| text.parse().ok()).unwrap_or(-1)
}

/// A path that is no longer than the system's own, terminated.
fn path(front: &[u8], name: &str) -> CString {
    CString::new([front, b"/", name.as_bytes()].concat()).unwrap_or_default()
}

fn outside(name: &str) -> CString {
    path(setting("outside"), name)
}

fn inside(name: &str) -> CString {
    path(setting("inside"), name)
}

/// Whether the layer of this name is built.
pub(crate) fn layer_enabled(layer: &str) -> bool {
    !setting("without").split(|&byte| byte == b',').any(|left_out| left_out == layer.as_bytes())
}

/// Makes the attempt that a request's path names. `None` for any other path.
pub(crate) fn attempt(request: &[u8], reply: &mut [u8]) -> Option<Result<usize, Errno>> {
    let name = request.strip_prefix(PREFIX)?;
    if name == b"list" {
        let names: Vec<&str> = ATTEMPTS.iter().map(|(name, _)| *name).collect();
        return Some(answer(names.join("\n").as_bytes(), reply));
    }
    let (_, act) = ATTEMPTS.iter().find(|(known, _)| known.as_bytes() == name)?;
    Some(act().and_then(|()| answer(b"reached", reply)))
}

fn answer(text: &[u8], reply: &mut [u8]) -> Result<usize, Errno> {
    reply.get_mut(VALUE_AT..VALUE_AT + text.len()).ok_or(Errno::E2BIG)?.copy_from_slice(text);
    finish_value(reply, text.len())
}

/// What an intruder does; an error where it was stopped.
type Attempt = fn() -> Result<(), Errno>;

/// Every attempt: its name, and what it does.
const ATTEMPTS: &[(&str, Attempt)] = &[
    ("read /proc", || open(c"/proc/self/status", libc::O_RDONLY).map(drop)),
    ("open a device of the host's", || open(c"/dev/zero", libc::O_RDONLY).map(drop)),
    ("open a file outside", || open(&outside("secret"), libc::O_RDONLY).map(drop)),
    ("make a file outside", || open(&outside("made"), libc::O_WRONLY | libc::O_CREAT).map(drop)),
    ("make a device outside", || {
        call(libc::SYS_mknodat, &[FDCWD, at(&outside("node")), (libc::S_IFCHR | 0o600).into(), 0x105])
            .map(drop)
    }),
    ("look at a file outside", || {
        call(libc::SYS_newfstatat, &[FDCWD, at(&outside("secret")), room(), 0]).map(drop)
    }),
    ("change a file's mode outside", || {
        call(libc::SYS_fchmodat, &[FDCWD, at(&outside("secret")), 0o644]).map(drop)
    }),
    ("climb by .. from the working directory", || open(&climb(), libc::O_RDONLY).map(drop)),
    ("climb by .. from a descriptor", climb_from_descriptors),
    ("chroot again, and climb", chroot_again),
    ("open_by_handle_at", open_by_handle),
    ("open a device that mknod made", make_device),
    ("link a file in", || {
        call(libc::SYS_linkat, &[FDCWD, at(&outside("secret")), FDCWD, at(&inside("linked")), 0]).map(drop)
    }),
    ("execve", || call(libc::SYS_execve, &[at(&inside("busybox")), arguments(), 0]).map(drop)),
    ("execveat a memfd", execute_memory),
    ("fork", fork),
    ("start a thread", || {
        let thread = std::thread::Builder::new().stack_size(65536).spawn(|| ());
        thread.map(drop).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }),
    ("kill another process", || call(libc::SYS_kill, &[number("victim"), 0]).map(drop)),
    ("tgkill another process", || call(libc::SYS_tgkill, &[number("victim"), number("victim"), 0]).map(drop)),
    ("ptrace another process", || {
        call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE.into(), number("victim"), 0, 0]).map(drop)
    }),
    ("read another process's memory", read_memory),
    ("pidfd_open another process", || call(libc::SYS_pidfd_open, &[number("victim"), 0]).map(drop)),
    ("enter another process's mounts", || {
        let victim = call(libc::SYS_pidfd_open, &[number("victim"), 0])?;
        call(libc::SYS_setns, &[victim, libc::CLONE_NEWNS.into()]).map(drop)
    }),
    ("mount", || call(libc::SYS_mount, &[at(c"none"), at(&inside("mount")), at(c"tmpfs"), 0, 0]).map(drop)),
    ("remount without nodev", || {
        let flags = libc::MS_REMOUNT | libc::MS_BIND;
        let flags = c_long::try_from(flags).unwrap_or(0);
        call(libc::SYS_mount, &[0, at(&inside("mounted")), 0, flags, 0]).map(drop)
    }),
    ("umount", || call(libc::SYS_umount2, &[at(&inside("mounted")), libc::MNT_DETACH.into()]).map(drop)),
    ("fsopen", || call(libc::SYS_fsopen, &[at(c"tmpfs"), 0]).map(drop)),
    ("open_tree", || {
        call(libc::SYS_open_tree, &[FDCWD, at(&inside("")), libc::OPEN_TREE_CLONE.into()]).map(drop)
    }),
    ("unshare a user namespace", || call(libc::SYS_unshare, &[libc::CLONE_NEWUSER.into()]).map(drop)),
    ("unshare a mount namespace", || call(libc::SYS_unshare, &[libc::CLONE_NEWNS.into()]).map(drop)),
    ("connect by TCP", connect_tcp),
    ("connect to an abstract socket", connect_abstract),
    ("open a raw socket", || socket(libc::AF_INET, libc::SOCK_RAW, 1).map(drop)),
    ("open a netlink socket", || socket(libc::AF_NETLINK, libc::SOCK_RAW, 0).map(drop)),
    ("receive a descriptor", receive_descriptor),
    ("attach shared memory of the host's", || {
        let segment = call(libc::SYS_shmget, &[number("shm"), 4096, 0])?;
        call(libc::SYS_shmat, &[segment, 0, 0]).map(drop)
    }),
    ("setuid", || call(libc::SYS_setresuid, &[1000, 1000, 1000]).map(drop)),
    ("raise CAP_SYS_ADMIN", || {
        let admin = caps::Capability::CAP_SYS_ADMIN.index();
        super::sys::raise_capability(admin)?;
        let held = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN);
        if held.unwrap_or(false) { Ok(()) } else { Err(Errno::EPERM) }
    }),
    ("become dumpable", || call(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0]).map(drop)),
    ("raise a limit", raise_limit),
    ("use a gigabyte", || anonymous(1 << 30, libc::PROT_READ | libc::PROT_WRITE).map(drop)),
    ("open ten thousand files", || (0..10_000).try_for_each(|_| open(&inside(""), libc::O_RDONLY).map(drop))),
    ("map memory to run code in", || {
        anonymous(4096, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC).map(drop)
    }),
    ("mprotect memory to run code in", || {
        let memory = anonymous(4096, libc::PROT_READ | libc::PROT_WRITE)?;
        call(libc::SYS_mprotect, &[memory, 4096, libc::PROT_EXEC.into()]).map(drop)
    }),
    ("map a file to run code in", || {
        let file = open(&inside("busybox"), libc::O_RDONLY)?;
        call(libc::SYS_mmap, &[0, 4096, libc::PROT_EXEC.into(), libc::MAP_PRIVATE.into(), file, 0]).map(drop)
    }),
    ("memfd_create", || call(libc::SYS_memfd_create, &[at(c"m"), 0]).map(drop)),
    ("keyctl", || call(libc::SYS_keyctl, &[0, -3, 1]).map(drop)),
    ("bpf", make_map),
    ("io_uring_setup", || call(libc::SYS_io_uring_setup, &[1, room()]).map(drop)),
    ("userfaultfd", || call(libc::SYS_userfaultfd, &[0]).map(drop)),
    ("perf_event_open", perf_event),
    ("fanotify_init", || call(libc::SYS_fanotify_init, &[0, 0]).map(drop)),
    ("load a module", || {
        call(libc::SYS_init_module, &[room(), 8, at(c"")]).map(drop).or_else(not_a(Errno::ENOEXEC))
    }),
    ("load another kernel", || {
        call(libc::SYS_kexec_file_load, &[-1, -1, 0, 0, 0]).map(drop).or_else(not_a(Errno::EBADF))
    }),
    ("read the kernel's log", || call(libc::SYS_syslog, &[3, room(), 100]).map(drop)),
    ("another ioctl", || {
        call(libc::SYS_ioctl, &[0, c_long::try_from(libc::FIONREAD).unwrap_or(0), room()])
            .map(drop)
            .or_else(not_a(Errno::ENOTTY))
    }),
    ("another fcntl", || call(libc::SYS_fcntl, &[0, libc::F_GETOWN.into()]).map(drop)),
    ("a call of another architecture's table", other_table),
];

const FDCWD: c_long = libc::AT_FDCWD as c_long;

/// A system call with whatever arguments an attempt makes up.
fn call(number: c_long, arguments: &[c_long]) -> Result<c_long, Errno> {
    let arg = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: none is claimed: this is what an intruder does. The pointers among the arguments are of live objects, and what the
    // kernel writes goes to `room`.
    Errno::result(unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) })
}

/// A string's address.
#[allow(clippy::cast_possible_wrap, reason = "an address")]
fn at(text: &CStr) -> c_long {
    text.as_ptr().addr() as c_long
}

/// The address of a page that the kernel may write to; never given back.
#[allow(clippy::cast_possible_wrap, reason = "an address")]
fn room() -> c_long {
    Box::leak(Box::new([0u64; 512])).as_ptr().addr() as c_long
}

/// The address of these words; never given back.
#[allow(clippy::cast_possible_wrap, reason = "an address")]
fn words(words: &[u64]) -> c_long {
    Box::leak(words.to_vec().into_boxed_slice()).as_ptr().addr() as c_long
}

/// The arguments of a shell that leaves the file `executed` in the export; never given back.
fn arguments() -> c_long {
    let pointer = |text: &CStr| u64::try_from(at(text)).unwrap_or(0);
    let place: &'static CStr = Box::leak(inside("executed").into_boxed_c_str());
    words(&[pointer(c"busybox"), pointer(c"sh"), pointer(c"-c"), pointer(c": >$0"), pointer(place), 0])
}

fn not_a(harmless: Errno) -> impl FnOnce(Errno) -> Result<(), Errno> {
    move |errno| if errno == harmless { Ok(()) } else { Err(errno) }
}

fn open(path: &CStr, flags: i32) -> Result<c_long, Errno> {
    call(libc::SYS_openat, &[FDCWD, at(path), flags.into(), 0o644])
}

/// The secret's path through every directory above.
fn climb() -> CString {
    CString::new([b"../".repeat(40).as_slice(), setting("outside"), b"/secret"].concat()).unwrap_or_default()
}

fn climb_from_descriptors() -> Result<(), Errno> {
    let path = climb();
    let open = |fd| call(libc::SYS_openat, &[fd, at(&path), 0]).ok();
    (0..100).find_map(open).map(drop).ok_or(Errno::EBADF)
}

fn chroot_again() -> Result<(), Errno> {
    call(libc::SYS_chroot, &[at(&inside("mount"))])?;
    open(&climb(), libc::O_RDONLY).map(drop)
}

fn open_by_handle() -> Result<(), Errno> {
    let text = std::str::from_utf8(setting("handle")).map_err(|_| Errno::EINVAL)?;
    let (kind, bytes) = text.split_once(',').ok_or(Errno::EINVAL)?;
    let bytes: Vec<u8> = (0..bytes.len() / 2)
        .filter_map(|index| u8::from_str_radix(bytes.get(2 * index..2 * index + 2)?, 16).ok())
        .collect();
    let mut handle = u32::try_from(bytes.len()).unwrap_or(0).to_ne_bytes().to_vec();
    handle.extend(kind.parse::<i32>().map_err(|_| Errno::EINVAL)?.to_ne_bytes());
    handle.extend(bytes);
    handle.resize(handle.len().next_multiple_of(8), 0);
    let handle: Vec<u64> = handle.as_chunks().0.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect();
    let mount = open(&inside(""), libc::O_RDONLY)?;
    call(libc::SYS_open_by_handle_at, &[mount, words(&handle), libc::O_RDONLY.into()]).map(drop)
}

/// The host's memory is reached through such a node, or its disks.
fn make_device() -> Result<(), Errno> {
    let node = inside("zero");
    let mode = libc::S_IFCHR | 0o600;
    call(libc::SYS_mknodat, &[FDCWD, at(&node), mode.into(), 0x105])
        .map(drop)
        .or_else(not_a(Errno::EEXIST))?;
    open(&node, libc::O_RDONLY).map(drop)
}

fn fork() -> Result<(), Errno> {
    match call(libc::SYS_clone, &[libc::SIGCHLD.into(), 0, 0, 0, 0])? {
        // SAFETY: ends the child, which has done nothing yet.
        0 => unsafe { libc::_exit(0) },
        child => call(libc::SYS_wait4, &[child, 0, 0, 0]).map(drop),
    }
}

fn execute_memory() -> Result<(), Errno> {
    let memory = call(libc::SYS_memfd_create, &[at(c"m"), 0])?;
    let program = open(&inside("busybox"), libc::O_RDONLY)?;
    call(libc::SYS_sendfile, &[memory, program, 0, 64 << 20])?;
    call(libc::SYS_execveat, &[memory, at(c""), arguments(), 0, libc::AT_EMPTY_PATH.into()]).map(drop)
}

fn read_memory() -> Result<(), Errno> {
    // The address is nobody's: the kernel looks at the permission first.
    let local = words(&[u64::try_from(room()).unwrap_or(0), 8]);
    let remote = words(&[8, 8]);
    call(libc::SYS_process_vm_readv, &[number("victim"), local, 1, remote, 1, 0])
        .map(drop)
        .or_else(not_a(Errno::EFAULT))
}

fn socket(family: i32, kind: i32, protocol: i32) -> Result<c_long, Errno> {
    call(libc::SYS_socket, &[family.into(), kind.into(), protocol.into()])
}

fn connect_tcp() -> Result<(), Errno> {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let port = u16::try_from(number("port")).unwrap_or(0).to_be_bytes();
    let family = libc::AF_INET.to_ne_bytes();
    let address = [family[0], family[1], port[0], port[1], 127, 0, 0, 1];
    call(libc::SYS_connect, &[socket, words(&[u64::from_ne_bytes(address), 0]), 16]).map(drop)
}

fn connect_abstract() -> Result<(), Errno> {
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let family = libc::AF_UNIX.to_ne_bytes();
    let mut address = [&family[..2], b"\0", setting("abstract")].concat();
    let length = address.len();
    address.resize(length.next_multiple_of(8), 0);
    let address: Vec<u64> = address.as_chunks().0.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect();
    call(libc::SYS_connect, &[socket, words(&address), c_long::try_from(length).unwrap_or(0)]).map(drop)
}

/// As a client that wants its descriptors used would have it; asked of a socket that is none, so that it does not wait.
fn receive_descriptor() -> Result<(), Errno> {
    call(libc::SYS_recvmsg, &[0, room(), libc::MSG_DONTWAIT.into()]).map(drop).or_else(not_a(Errno::ENOTSOCK))
}

fn raise_limit() -> Result<(), Errno> {
    let all = words(&[1 << 40, 1 << 40]);
    call(libc::SYS_prlimit64, &[0, c_long::from(libc::RLIMIT_AS), all, 0]).map(drop)
}

fn anonymous(length: c_long, protection: i32) -> Result<c_long, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    call(libc::SYS_mmap, &[0, length, protection.into(), flags.into(), -1, 0])
}

/// `BPF_MAP_CREATE` of an array of one word.
fn make_map() -> Result<(), Errno> {
    let attributes = [2u32, 4, 4, 1].map(u32::to_ne_bytes).concat();
    let attributes: Vec<u64> =
        attributes.as_chunks().0.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect();
    call(libc::SYS_bpf, &[0, words(&attributes), 16]).map(drop)
}

/// Counts this process's page faults, by software.
fn perf_event() -> Result<(), Errno> {
    let mut attributes = [0u64; 16];
    attributes[0] = u64::from_ne_bytes([1, 0, 0, 0, 128, 0, 0, 0]);
    attributes[1] = 2;
    call(libc::SYS_perf_event_open, &[words(&attributes), 0, -1, -1, 0]).map(drop)
}

/// getpid(2) as the x32 table numbers it; on other architectures a number that is in no table.
fn other_table() -> Result<(), Errno> {
    call(0x4000_0000 + libc::SYS_getpid, &[]).map(drop).or_else(not_a(Errno::ENOSYS))
}
