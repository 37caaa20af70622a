//! Being asked to stop: SIGTERM and SIGINT end the daemon after the request in hand, SIGHUP leaves it be.
//!
//! A process that serves waits in recv(2), and a signal must neither be missed just before it nor tear a request
//! apart just after. [`while_idle`] marks the wait; the handler ends the process there and then while the mark stands,
//! and only takes note otherwise.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// A signal asked this process to stop.
static STOP: AtomicBool = AtomicBool::new(false);
/// This process waits for a request, and nothing is in hand.
static IDLE: AtomicBool = AtomicBool::new(false);
/// What the handler lets go, and waits for, before it ends the process: the pipe to the process that cleans up
/// behind this one, and its pid. -1: nothing.
static CLEANER: (AtomicI32, AtomicI32) = (AtomicI32::new(-1), AtomicI32::new(-1));

/// Where the handler tells the service manager that it stops; -1: nowhere.
static MANAGER: AtomicI32 = AtomicI32::new(-1);

/// Lets the handlers of [`handle_stop`] end the cleaner, too: `pipe` is closed and `pid` waited for.
pub fn register_cleaner(pipe: i32, pid: i32) {
    CLEANER.1.store(pid, Ordering::SeqCst);
    CLEANER.0.store(pipe, Ordering::SeqCst);
}

/// The cleaner is gone.
pub fn forget_cleaner() {
    CLEANER.0.store(-1, Ordering::SeqCst);
}

extern "C" fn on_stop(_: libc::c_int) {
    STOP.store(true, Ordering::SeqCst);
    if IDLE.load(Ordering::SeqCst) {
        let pipe = CLEANER.0.load(Ordering::SeqCst);
        let manager = MANAGER.load(Ordering::SeqCst);
        // SAFETY: send, close, waitpid and _exit are async-signal-safe (signal-safety(7)). The descriptor that is closed is the
        // cleaner's pipe, which nothing uses any more.
        unsafe {
            if manager >= 0 {
                let state = b"STOPPING=1";
                libc::send(
                    manager,
                    state.as_ptr().cast(),
                    state.len(),
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                );
            }
            if pipe >= 0 {
                libc::close(pipe);
                libc::waitpid(CLEANER.1.load(Ordering::SeqCst), std::ptr::null_mut(), 0);
            }
            libc::_exit(0);
        }
    }
}

/// Installs the handlers of a process that serves or waits for a client by [`while_idle`]. `manager` is the service
/// manager's socket, or -1.
pub fn handle_stop(manager: i32) -> Result<()> {
    MANAGER.store(manager, Ordering::SeqCst);
    let stop = SigAction::new(SigHandler::Handler(on_stop), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        install(signal, &stop)?;
    }
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

/// Lets this signal, which the kernel sends when a process is gone that this one cannot do without, end this one with status
/// 1. (SIGKILL would not do: the first process of a PID namespace ignores it.)
pub fn end_when_lost(signal: Signal) -> Result<()> {
    install(signal, &SigAction::new(SigHandler::Handler(on_lost), SaFlags::empty(), SigSet::empty()))
}

/// SIGHUP leaves the daemon be.
pub fn ignore_hangup() -> Result<()> {
    install(Signal::SIGHUP, &SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty()))
}

/// SIGTERM and SIGINT are left to another process: this one ends with it.
pub fn ignore_stop() -> Result<()> {
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
pub fn while_idle<T>(wait: impl FnOnce() -> T) -> Option<T> {
    IDLE.store(true, Ordering::SeqCst);
    let result = (!STOP.load(Ordering::SeqCst)).then(wait);
    IDLE.store(false, Ordering::SeqCst);
    result
}
