//! Being asked to stop: SIGTERM and SIGINT end the daemon after the request in hand, SIGHUP leaves it be.
//!
//! A process that serves waits in recv(2), and a signal must neither be missed just before it nor tear a request
//! apart just after. [`while_idle`] marks the wait; the handler ends the process there and then while the mark stands,
//! and only takes note otherwise.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::{counters, logging, sys};

/// A signal asked this process to stop.
static STOP: AtomicBool = AtomicBool::new(false);
/// This process waits for a request, and nothing is in hand.
static IDLE: AtomicBool = AtomicBool::new(false);
/// What the handler lets go, and waits for, before it ends the process: the pipe to the process that cleans up
/// behind this one, and its pid. -1: nothing.
static CLEANER: (AtomicI32, AtomicI32) = (AtomicI32::new(-1), AtomicI32::new(-1));

/// Where the handler tells the service manager that it stops; -1: nowhere.
static MANAGER: AtomicI32 = AtomicI32::new(-1);

/// Somebody asks how this process is, or the service manager is to be told: nothing was in hand to be interrupted for it yet.
static SIGN_OF_LIFE: AtomicBool = AtomicBool::new(false);
/// Whether the service manager's watchdog is told, too.
static WATCHED: AtomicBool = AtomicBool::new(false);
/// Where it is asked: a listening socket; -1: nowhere.
static HEALTH: AtomicI32 = AtomicI32::new(-1);
/// Whether the client is there.
static SERVING: AtomicBool = AtomicBool::new(false);
/// What is answered while the client is there.
static ANSWER: OnceLock<String> = OnceLock::new();

/// What a process says of itself that waits for its one client.
pub(crate) const WAITS: &str = "waiting for its one client";

/// Has this process, once it serves its one client itself ([`serving`]), answer health checks on `socket` by `answer`, and tell the
/// service manager's watchdog every third of `watchdog`. Both happen between two requests only: a process that is stuck in one is silent.
pub(crate) fn show_life(
    socket: Option<BorrowedFd<'_>>,
    answer: String,
    watchdog: Option<Duration>,
) -> Result<()> {
    ANSWER.get_or_init(|| answer);
    let show = SigAction::new(SigHandler::Handler(on_sign_of_life), SaFlags::SA_RESTART, SigSet::empty());
    if let Some(socket) = socket {
        HEALTH.store(socket.as_raw_fd(), Ordering::SeqCst);
        install(Signal::SIGIO, &show)?;
        sys::signal_on_event(socket, libc::SIGIO).context("cannot watch the health socket")?;
        // Who asked before that is answered before the first wait.
        SIGN_OF_LIFE.store(true, Ordering::SeqCst);
    }
    if let Some(limit) = watchdog {
        WATCHED.store(true, Ordering::SeqCst);
        install(Signal::SIGALRM, &show)?;
        sys::signal_every(limit / 3).context("cannot start a timer for the watchdog")?;
    }
    Ok(())
}

/// The client is there.
pub(crate) fn serving() {
    SERVING.store(true, Ordering::SeqCst);
}

/// What makes a worker go on that waits in the kernel for the close of a descriptor that its client sent.
pub(crate) const NUDGE: Signal = Signal::SIGUSR1;

/// Whether [`NUDGE`] asks for the counts: it does in a process that serves its one client itself, which nobody nudges.
static REPORTS: AtomicBool = AtomicBool::new(false);

/// Has this process log its counts at SIGUSR1.
pub(crate) fn report_counts() {
    REPORTS.store(true, Ordering::SeqCst);
}

extern "C" fn on_nudge(_: libc::c_int) {
    if REPORTS.load(Ordering::SeqCst) {
        let errno = Errno::last_raw();
        let clients = u64::from(SERVING.load(Ordering::SeqCst));
        let counts = counters::Counts { clients, memory: counters::peak_memory() };
        logging::log_from_handler(format_args!("{counts}"));
        Errno::set_raw(errno);
    }
}

extern "C" fn on_sign_of_life(_: libc::c_int) {
    let errno = Errno::last_raw();
    SIGN_OF_LIFE.store(true, Ordering::SeqCst);
    if IDLE.load(Ordering::SeqCst) {
        give_sign_of_life();
    }
    Errno::set_raw(errno);
}

/// Answers all who ask once the client is there; before, the process finds out first whether it could serve ([`super::waiting`]). Makes
/// async-signal-safe calls only (signal-safety(7)): accept, send, close.
fn give_sign_of_life() {
    if !SERVING.load(Ordering::SeqCst) || !SIGN_OF_LIFE.swap(false, Ordering::SeqCst) {
        return;
    }
    if WATCHED.load(Ordering::SeqCst) {
        sys::send_raw(MANAGER.load(Ordering::SeqCst), b"WATCHDOG=1");
    }
    let answer = ANSWER.get().map_or("", String::as_str);
    // More than one can wait, and the kernel signals some of them once.
    for _ in 0..64 {
        let Ok(asker) = sys::accept_raw(HEALTH.load(Ordering::SeqCst)) else { break };
        let _ = sys::send(asker.as_fd(), answer.as_bytes());
    }
}

/// Lets the handlers of [`handle_stop`] end the cleaner, too: `pipe` is closed and `pid` waited for.
pub(crate) fn register_cleaner(pipe: i32, pid: i32) {
    CLEANER.1.store(pid, Ordering::SeqCst);
    CLEANER.0.store(pipe, Ordering::SeqCst);
}

/// The cleaner is gone.
pub(crate) fn forget_cleaner() {
    CLEANER.0.store(-1, Ordering::SeqCst);
}

extern "C" fn on_stop(_: libc::c_int) {
    STOP.store(true, Ordering::SeqCst);
    if IDLE.load(Ordering::SeqCst) {
        let pipe = CLEANER.0.load(Ordering::SeqCst);
        let manager = MANAGER.load(Ordering::SeqCst);
        sys::send_raw(manager, b"STOPPING=1");
        // SAFETY: send, close, waitpid and _exit are async-signal-safe (signal-safety(7)). The descriptor that is closed is the
        // cleaner's pipe, which nothing uses any more.
        unsafe {
            if pipe >= 0 {
                libc::close(pipe);
                wait_for_cleaner(CLEANER.1.load(Ordering::SeqCst));
            }
            libc::_exit(0);
        }
    }
}

/// Waits until the cleaner is gone, for some seconds at most: a file system that hangs can hold it. Safe in a signal handler.
pub(crate) fn wait_for_cleaner(pid: i32) {
    static PAUSE: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    for _ in 0..1500 {
        // SAFETY: plain calls that write to nothing; the time is only read.
        unsafe {
            if libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) != 0 {
                return;
            }
            libc::ppoll(std::ptr::null_mut(), 0, &raw const PAUSE, std::ptr::null());
        }
    }
}

/// The service manager's socket is about to be closed.
pub(crate) fn forget_manager() {
    MANAGER.store(-1, Ordering::SeqCst);
}

/// Whether this process was asked to stop.
pub(crate) fn asked_to_stop() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Installs the handlers of a process that serves or waits for a client by [`while_idle`]. `manager` is the service
/// manager's socket, or -1.
pub(crate) fn handle_stop(manager: i32) -> Result<()> {
    MANAGER.store(manager, Ordering::SeqCst);
    let stop = SigAction::new(SigHandler::Handler(on_stop), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        install(signal, &stop)?;
    }
    install(NUDGE, &SigAction::new(SigHandler::Handler(on_nudge), SaFlags::SA_RESTART, SigSet::empty()))?;
    ignore_hangup()
}

/// What [`end_when_lost`]'s handler writes to standard error.
const LOST: &[u8] = b"error: the process that watches the export's mounts has ended: ending too\n";

extern "C" fn on_lost(_: libc::c_int) {
    // SAFETY: write and _exit are async-signal-safe (signal-safety(7)); the message is a constant.
    unsafe {
        libc::write(libc::STDERR_FILENO, LOST.as_ptr().cast(), LOST.len());
        libc::_exit(1)
    }
}

/// What [`end_at_bus_error`]'s handler writes to standard error.
#[cfg(feature = "vhost-user")]
const TAKEN_AWAY: &[u8] = b"error: the front-end took away memory of the guest's that it had given: ending\n";

#[cfg(feature = "vhost-user")]
extern "C" fn on_bus_error(_: libc::c_int) {
    // SAFETY: as in on_lost.
    unsafe {
        libc::write(libc::STDERR_FILENO, TAKEN_AWAY.as_ptr().cast(), TAKEN_AWAY.len());
        libc::_exit(1)
    }
}

/// Ends this process in order where the memory that a front-end gave is there no more.
#[cfg(feature = "vhost-user")]
pub(crate) fn end_at_bus_error() -> Result<()> {
    install(
        Signal::SIGBUS,
        &SigAction::new(SigHandler::Handler(on_bus_error), SaFlags::empty(), SigSet::empty()),
    )
}

/// Lets this signal, which the kernel sends when a process is gone that this one cannot do without, end this one with status
/// 1. (SIGKILL would not do: the first process of a PID namespace ignores it.)
pub(crate) fn end_when_lost(signal: Signal) -> Result<()> {
    install(signal, &SigAction::new(SigHandler::Handler(on_lost), SaFlags::empty(), SigSet::empty()))
}

/// A file that would be larger than `ulimit -f` allows is `EFBIG`, and not this process's end.
pub(crate) fn ignore_file_size() -> Result<()> {
    install(Signal::SIGXFSZ, &SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty()))
}

/// SIGHUP leaves the daemon be.
pub(crate) fn ignore_hangup() -> Result<()> {
    install(Signal::SIGHUP, &SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty()))
}

/// SIGTERM and SIGINT are left to another process: this one ends with it.
pub(crate) fn ignore_stop() -> Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        install(signal, &ignore)?;
    }
    ignore_hangup()
}

fn install(signal: Signal, action: &SigAction) -> Result<()> {
    // SAFETY: the only handlers installed, `on_stop` and `on_lost`, call nothing but async-signal-safe functions.
    unsafe { sigaction(signal, action) }.with_context(|| format!("cannot handle {signal}"))?;
    Ok(())
}

/// Runs a call that waits with nothing in hand. `None` where this process was asked to stop before it waited; asked
/// during the call, it ends at once with status 0.
pub(crate) fn while_idle<T>(wait: impl FnOnce() -> T) -> Option<T> {
    IDLE.store(true, Ordering::SeqCst);
    give_sign_of_life();
    let result = (!STOP.load(Ordering::SeqCst)).then(wait);
    IDLE.store(false, Ordering::SeqCst);
    result
}
