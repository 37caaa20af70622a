//! The last wall: a process that serves makes only the system calls that requests need.
//!
//! What requests need stands in [`super::operations::CALLS`], one row a request. What the loop around them needs stands
//! here. Everything else ends the process, or is logged by the kernel where somebody looks for a call that is missing
//! (`--seccomp=log`).

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use anyhow::{Context, Result, anyhow};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use super::isolation::Seccomp;
use super::operations;

/// What the loop around requests needs.
const LOOP: &[libc::c_long] = &[
    // Receive, reply (to a client that does not read: wait), close what was passed on; look again before sleeping; be
    // told to stop.
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_ppoll,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    // Log lines: to standard error or syslog, with the process's id, in allocated memory.
    libc::SYS_write,
    libc::SYS_getpid,
    // SIGUSR1: how much memory there was.
    libc::SYS_getrusage,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The end: wait for the cleaner, give back the signal stack, exit; abort where an identity was lost.
    libc::SYS_wait4,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_gettid,
];

/// Calls that musl makes in place of those that other C libraries make: for fstatat(3) and abort(3).
#[cfg(all(target_env = "musl", target_arch = "x86_64"))]
const MUSL: &[libc::c_long] = &[libc::SYS_stat, libc::SYS_lstat, libc::SYS_tkill];
#[cfg(all(target_env = "musl", not(target_arch = "x86_64")))]
const MUSL: &[libc::c_long] = &[libc::SYS_tkill];
#[cfg(not(target_env = "musl"))]
const MUSL: &[libc::c_long] = &[];

/// What a device needs besides: the front-end's messages, the guest's memory and notifications, files by their descriptors, and threads
/// that wait for work.
const DEVICE: &[libc::c_long] = &[
    libc::SYS_recvmsg,
    libc::SYS_read,
    libc::SYS_futex,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_statx,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
];

/// The commands of fcntl(2) that a device gives besides: locks, flags, copies of descriptors.
const DEVICE_FCNTL: &[libc::c_int] =
    &[libc::F_OFD_SETLK, libc::F_OFD_GETLK, libc::F_GETFL, libc::F_DUPFD_CLOEXEC];

/// What the process that watches the mounts needs besides: to read the tables of mounts, to find mount points, to copy, attach
/// and detach mounts. It enters mount namespaces alone.
const MOUNT_WATCHER: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_lseek,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_readlinkat,
    libc::SYS_openat2,
    libc::SYS_fchdir,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_umount2,
];

#[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "its type differs by C library")]
const UNREAD_IOCTL: u64 = libc::TIOCOUTQ as u64;

/// What the process that removes the socket and the pid file needs besides, and passes log lines on.
const CLEANER: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_openat,
    libc::SYS_unlinkat,
];

/// What the supervisor needs besides, and the processes that it forks until they have filters of their own: theirs come on top of this
/// one. So it holds what serves requests, what watches mounts and what building the isolation layers takes.
const SUPERVISOR: &[libc::c_long] = &[
    // Processes: start, end, wait for, tell them to stop.
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_futex,
    libc::SYS_getppid,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_sched_getaffinity,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    // Descriptors. The worker's own filter knows fewer commands.
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_getdents64,
    libc::SYS_signalfd4,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Sockets: make them anew, take clients off them, look at those.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
    libc::SYS_fchmod,
    // Isolation layers.
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_umask,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_setgroups,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    libc::SYS_seccomp,
];

/// Calls that C libraries make there instead of newer ones where the architecture has both.
#[cfg(target_arch = "x86_64")]
const SUPERVISOR_OLD: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_poll,
    libc::SYS_dup2,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_chmod,
    libc::SYS_rename,
];
#[cfg(not(target_arch = "x86_64"))]
const SUPERVISOR_OLD: &[libc::c_long] = &[];

/// The calls of [`SUPERVISOR`] that are allowed with certain arguments only: the argument's number, a mask, and what the masked
/// argument must be.
fn narrow_for_supervisor(threads: bool) -> Vec<(libc::c_long, u8, u64, u64)> {
    const ALL: u64 = u32::MAX as u64;
    let flags = |flags: libc::c_int| u64::from(flags.cast_unsigned());
    let exec = flags(libc::PROT_EXEC);
    let (mounts, pids) = (flags(libc::CLONE_NEWNS), flags(libc::CLONE_NEWPID));
    let not_forked = if threads { 0 } else { libc::CLONE_VM }
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    let slaves = libc::MS_REC | libc::MS_SLAVE;
    vec![
        (libc::SYS_ioctl, 1, ALL, operations::VERSION_IOCTL),
        (libc::SYS_ioctl, 1, ALL, UNREAD_IOCTL),
        (libc::SYS_mmap, 2, exec, 0),
        (libc::SYS_mprotect, 2, exec, 0),
        // Processes, but no threads and no namespaces.
        (libc::SYS_clone, 0, flags(not_forked), 0),
        (libc::SYS_unshare, 0, ALL, mounts),
        (libc::SYS_unshare, 0, ALL, pids),
        (libc::SYS_setns, 1, ALL, mounts),
        (libc::SYS_setns, 1, ALL, pids),
        // No mount but of propagation: what is attached is a copy of what there is (open_tree).
        (libc::SYS_mount, 3, ALL, slaves),
        (libc::SYS_socket, 0, ALL, flags(libc::AF_UNIX)),
        (libc::SYS_socketpair, 0, ALL, flags(libc::AF_UNIX)),
    ]
}

/// The calls that are allowed with certain arguments only: the argument's number, and what it must be. The kernel remembers which
/// calls are allowed whatever their arguments, and runs the filter for these alone: of what serves a request the
/// ioctl and F_SETFL.
fn narrow() -> Vec<(libc::c_long, u8, SeccompCmpArgLen, SeccompCmpOp, u64)> {
    use SeccompCmpArgLen::Dword;
    use SeccompCmpOp::{Eq, MaskedEq};
    let (exec, this_process) = (libc::PROT_EXEC.unsigned_abs().into(), std::process::id().into());
    let mut calls = vec![
        // The one ioctl that T_GETVERSION makes.
        (libc::SYS_ioctl, 1, Dword, Eq, operations::VERSION_IOCTL),
        // Whether a client has taken the descriptors that were sent to it.
        (libc::SYS_ioctl, 1, Dword, Eq, UNREAD_IOCTL),
        // An open that must not wait takes that back for the client (T_OPEN, T_CREATE).
        (libc::SYS_fcntl, 1, Dword, Eq, libc::F_SETFL.unsigned_abs().into()),
        // std looks at a descriptor before it closes it, in builds with debug assertions.
        (libc::SYS_fcntl, 1, Dword, Eq, libc::F_GETFD.unsigned_abs().into()),
        // Memory, but none to run code in.
        (libc::SYS_mmap, 2, Dword, MaskedEq(exec), 0),
        // abort(3) signals this process; nobody signals another one.
        (libc::SYS_tgkill, 0, Dword, Eq, this_process),
    ];
    // musl's allocator calls mprotect(2). Other C libraries do without it.
    if cfg!(target_env = "musl") {
        calls.push((libc::SYS_mprotect, 2, Dword, MaskedEq(exec), 0));
    }
    calls
}

/// The calls that are allowed; one without rules, whatever its arguments.
type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// A filter, ready to be installed.
pub(crate) struct Filter(Vec<BpfProgram>);

impl Filter {
    /// Prepares the filter, so that nothing but its installation can fail later. None where the kernel has no seccomp.
    ///
    /// Health checks are answered on the socket `health`.
    pub(crate) fn prepare(seccomp: Seccomp, health: Option<RawFd>) -> Result<Self> {
        Self::build(seccomp, rules_of_requests(health)?)
    }

    /// Prepares the filter of the supervisor and of the processes that it forks.
    ///
    /// A device's worker starts threads. C libraries do so by clone3(2), whose flags a filter cannot see; told that the kernel has
    /// none they take clone(2).
    pub(crate) fn for_supervisor(seccomp: Seccomp, threads: bool) -> Result<Self> {
        let requests = operations::CALLS.iter().flat_map(|(_, calls)| *calls);
        let lists = [LOOP, MUSL, MOUNT_WATCHER, SUPERVISOR, SUPERVISOR_OLD];
        let mut rules: Rules =
            lists.into_iter().flatten().chain(requests).map(|&call| (call, Vec::new())).collect();
        if threads {
            rules.extend(DEVICE.iter().chain(&[libc::SYS_clone3]).map(|&call| (call, Vec::new())));
        }
        let narrow = narrow_for_supervisor(threads);
        for (call, ..) in &narrow {
            rules.insert(*call, Vec::new());
        }
        for (call, argument, mask, value) in narrow {
            let operator = SeccompCmpOp::MaskedEq(mask);
            let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
            rules.entry(call).or_default().push(SeccompRule::new(vec![condition])?);
        }
        let mut filter = Self::build(seccomp, rules)?;
        if threads && filter.exists() {
            let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
            let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
            filter.0.insert(0, compile(rules, SeccompAction::Allow, missing)?);
        }
        Ok(filter)
    }

    /// Prepares the filter of a device, for each of its threads.
    pub(crate) fn for_device(seccomp: Seccomp, health: Option<RawFd>) -> Result<Self> {
        let mut rules = rules_of_requests(health)?;
        rules.extend(DEVICE.iter().map(|&call| (call, Vec::new())));
        for &command in DEVICE_FCNTL {
            let (length, number) = (SeccompCmpArgLen::Dword, command.unsigned_abs().into());
            let condition = SeccompCondition::new(1, length, SeccompCmpOp::Eq, number)?;
            rules.entry(libc::SYS_fcntl).or_default().push(SeccompRule::new(vec![condition])?);
        }
        Self::build(seccomp, rules)
    }

    /// Prepares the filter of the process that removes the socket and the pid file.
    pub(crate) fn for_cleaner(seccomp: Seccomp) -> Result<Self> {
        let mut rules: Rules =
            LOOP.iter().chain(MUSL).chain(CLEANER).map(|&call| (call, Vec::new())).collect();
        let others = narrow().into_iter().filter(|(call, ..)| *call != libc::SYS_ioctl);
        for (call, argument, length, comparison, value) in others {
            let condition = SeccompCondition::new(argument, length, comparison, value)?;
            rules.entry(call).or_default().push(SeccompRule::new(vec![condition])?);
        }
        Self::build(seccomp, rules)
    }

    /// Prepares the filter of the process that watches the mounts.
    pub(crate) fn for_mount_watcher(seccomp: Seccomp) -> Result<Self> {
        let mut rules: Rules =
            LOOP.iter().chain(MUSL).chain(MOUNT_WATCHER).map(|&call| (call, Vec::new())).collect();
        let mounts = (
            libc::SYS_setns,
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            libc::CLONE_NEWNS.unsigned_abs().into(),
        );
        let others = narrow().into_iter().filter(|(call, ..)| *call != libc::SYS_ioctl);
        for (call, argument, length, comparison, value) in others.chain([mounts]) {
            let condition = SeccompCondition::new(argument, length, comparison, value)?;
            rules.entry(call).or_default().push(SeccompRule::new(vec![condition])?);
        }
        Self::build(seccomp, rules)
    }

    fn build(seccomp: Seccomp, rules: Rules) -> Result<Self> {
        let otherwise = match seccomp {
            Seccomp::Kill => SeccompAction::KillProcess,
            Seccomp::Log => SeccompAction::Log,
            Seccomp::None => return Ok(Self(Vec::new())),
        };
        if !kernel_has_seccomp() {
            log::debug!("this kernel has no seccomp filters");
            return Ok(Self(Vec::new()));
        }
        Ok(Self(vec![compile(rules, otherwise, SeccompAction::Allow)?]))
    }

    /// Whether there is something to install.
    pub(crate) fn exists(&self) -> bool {
        !self.0.is_empty()
    }

    /// Installs the filter on this process, for good.
    pub(crate) fn install(&self) -> Result<()> {
        self.0.iter().try_for_each(|it| apply_filter(it).context("cannot install the system call filter"))
    }
}

/// The rules of a process that serves requests. Health checks are answered on the socket `health`.
fn rules_of_requests(health: Option<RawFd>) -> Result<Rules> {
    let mut rules: Rules = LOOP.iter().chain(MUSL).map(|&call| (call, Vec::new())).collect();
    for (_, calls) in operations::CALLS {
        rules.extend(calls.iter().map(|&call| (call, Vec::new())));
    }
    for (call, argument, length, comparison, value) in narrow() {
        let condition = SeccompCondition::new(argument, length, comparison, value)?;
        rules.entry(call).or_default().push(SeccompRule::new(vec![condition])?);
    }
    if let Some(health) = health {
        let (length, number) = (SeccompCmpArgLen::Dword, health.unsigned_abs().into());
        let condition = SeccompCondition::new(0, length, SeccompCmpOp::Eq, number)?;
        rules.insert(libc::SYS_accept4, vec![SeccompRule::new(vec![condition])?]);
    }
    Ok(rules)
}

/// A program for the kernel: `matched` for calls with a rule, `otherwise` for all others.
fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| anyhow!("no seccomp filters for {}; use --seccomp=none", std::env::consts::ARCH))?;
    let filter = SeccompFilter::new(rules, otherwise, matched, arch)?;
    filter.try_into().context("cannot build the system call filter")
}

fn kernel_has_seccomp() -> bool {
    // SAFETY: plain integers; the call changes nothing.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) >= 0 }
}
