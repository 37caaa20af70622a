//! What a test does on a thread of its own.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread with mounts of its own, which nobody else sees, and which go with it.
pub fn with_private_mounts<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    with_own_mounts(MsFlags::MS_PRIVATE, test)
}

/// The same where what is mounted comes into the namespaces of the thread's child processes (`MS_SHARED`, as under systemd), or
/// does not (`MS_PRIVATE`).
pub fn with_own_mounts<T: Send + 'static>(
    propagation: MsFlags,
    test: impl FnOnce() -> T + Send + 'static,
) -> T {
    const NONE: Option<&str> = None;
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: these tests need CAP_SYS_ADMIN");
        for propagation in [MsFlags::MS_PRIVATE, propagation] {
            mount(NONE, "/", NONE, MsFlags::MS_REC | propagation, NONE).expect("a propagation type");
        }
        test()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Stops other threads at its end, even when the test panics.
pub struct Stopper<'a>(pub &'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
