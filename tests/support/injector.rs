//! Runs a program and meddles with its system calls: kills it at the n-th that changes something, or lets that one fail.
//!
//! A seccomp filter stops the program at the calls in [`CHANGING`] alone; everything else runs at full speed.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the injector knows the registers of x86-64 alone: run these tests there");

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The calls that change a file system, or put changes on stable storage.
const CHANGING: [i64; 29] = [
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_ioctl,
];

/// Those of them that take room of a file system or count against a quota: not writing, for the program reports by it.
const TAKING_ROOM: [i64; 8] = [
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
];

/// What happens at the chosen call.
#[derive(Debug, Clone, Copy)]
pub enum Meddling {
    /// Nothing: the calls are only counted.
    Count,
    /// SIGKILL, before it is done.
    Kill(usize),
    /// It fails with this error, and is not done.
    Fail(usize, i32),
    /// From it on, every call that needs room or quota fails with this error, and is not done.
    FailFrom(usize, i32),
    /// From it on, every call fails with this error, and is not done, but for what is written to standard output and error.
    FailAllFrom(usize, i32),
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// Its exit status; `None`: a signal ended it.
    pub status: Option<i32>,
    /// How many changing calls it came to.
    pub calls: usize,
}

/// Runs `command` to its end. Calls are counted from 1.
pub fn run(command: Command, meddling: Meddling) -> Run {
    run_watched(command, meddling, &mut |_| ())
}

/// [`run`], with a look at the number of each call before it is done: those before it are.
pub fn run_watched(mut command: Command, meddling: Meddling, watch: &mut dyn FnMut(i64)) -> Run {
    let program = filter();
    // SAFETY: between fork and exec only system calls are made, on memory that was allocated before.
    unsafe {
        command.pre_exec(move || {
            ptrace::traceme()?;
            seccompiler::apply_filter(&program).map_err(std::io::Error::other)
        });
    }
    #[allow(clippy::zombie_processes, reason = "follow waits for it")]
    let child = command.spawn().expect("the program started");
    follow(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), meddling, watch)
}

fn filter() -> BpfProgram {
    let rules = CHANGING.into_iter().map(|call| (call, vec![])).collect();
    let arch = std::env::consts::ARCH.try_into().expect("an architecture that seccomp knows");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trace(0), arch);
    filter.and_then(BpfProgram::try_from).expect("a filter")
}

fn follow(first: Pid, meddling: Meddling, watch: &mut dyn FnMut(i64)) -> Run {
    // Children of this thread alone: other tests have children of their own.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    let started = waitpid(first, Some(flags)).expect("the program's first stop");
    assert!(
        matches!(started, WaitStatus::Stopped(_, Signal::SIGTRAP)),
        "the program did not start: {started:?}"
    );
    let options = Options::PTRACE_O_TRACESECCOMP | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(first, options).expect("options for tracing");
    ptrace::cont(first, None).expect("the program goes on");
    let mut calls = 0;
    loop {
        match waitpid(Pid::from_raw(-1), Some(flags)).expect("news of the program") {
            WaitStatus::Exited(pid, status) if pid == first => return Run { status: Some(status), calls },
            WaitStatus::Signaled(pid, ..) if pid == first => return Run { status: None, calls },
            WaitStatus::PtraceEvent(pid, _, event) => {
                if event == libc::PTRACE_EVENT_SECCOMP {
                    calls += 1;
                    watch(ptrace::getregs(pid).expect("registers").orig_rax.cast_signed());
                    meddle(pid, first, calls, meddling);
                }
                // It may have been killed.
                let _ = ptrace::cont(pid, None);
            }
            // A new thread's first stop, and signals, which are passed on.
            WaitStatus::Stopped(pid, Signal::SIGSTOP | Signal::SIGTRAP) => {
                let _ = ptrace::cont(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => {
                let _ = ptrace::cont(pid, signal);
            }
            _ => {}
        }
    }
}

fn meddle(pid: Pid, first: Pid, calls: usize, meddling: Meddling) {
    match meddling {
        Meddling::Kill(at) if at == calls => {
            nix::sys::signal::kill(first, Signal::SIGKILL).expect("killing the program");
        }
        Meddling::Fail(at, error) if at == calls => fail(pid, error),
        Meddling::FailFrom(at, error) if at <= calls => {
            let call = ptrace::getregs(pid).expect("registers").orig_rax.cast_signed();
            if TAKING_ROOM.contains(&call) {
                fail(pid, error);
            }
        }
        Meddling::FailAllFrom(at, error) if at <= calls => {
            let registers = ptrace::getregs(pid).expect("registers");
            let is_said = registers.orig_rax.cast_signed() == libc::SYS_write && registers.rdi <= 2;
            if !is_said {
                fail(pid, error);
            }
        }
        _ => {}
    }
}

/// Lets the call that a thread is stopped at fail.
fn fail(pid: Pid, error: i32) {
    let mut registers = ptrace::getregs(pid).expect("registers");
    // No such call: the kernel leaves it out, and the result as it is set here.
    registers.orig_rax = u64::MAX;
    registers.rax = i64::from(-error).cast_unsigned();
    ptrace::setregs(pid, registers).expect("changed registers");
}
