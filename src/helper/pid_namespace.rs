//! A PID namespace for each worker: no other process of the host's has a number in there, and so none can be named
//! in a call.
//!
//! A process can't move to another PID namespace, only its children can be born in one. So this is for the workers that
//! a supervisor forks. A process that serves its one client itself stays in the namespace it was started in, because whoever started
//! it knows it by its pid; the system call filter and Landlock keep it from others' processes instead.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, fork};

use super::isolation::Sandbox;

/// Forks workers, each into a namespace of its own where that is allowed.
#[derive(Default)]
pub(crate) struct PidNamespaces {
    /// This process's own namespace, to come back to: its later children must not be born in an earlier one's.
    own: Option<OwnedFd>,
}

impl PidNamespaces {
    /// Finds out whether namespaces can be had. Without one the other walls stand.
    pub(crate) fn find(sandbox: Sandbox) -> Self {
        if sandbox != Sandbox::Namespace {
            return Self { own: None };
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let own = nix::fcntl::open("/proc/self/ns/pid", flags, Mode::empty());
        // Coming back can be forbidden where leaving is not: in a user namespace without a PID namespace of its own.
        let own = own.and_then(|own| setns(&own, CloneFlags::CLONE_NEWPID).map(|()| own));
        Self { own: own.map_err(report).ok() }
    }

    /// Forks. The child is the first process of a new namespace.
    ///
    /// # Safety
    /// As fork(2): this process must have one thread.
    pub(crate) unsafe fn fork(&self) -> Result<ForkResult, Errno> {
        let left = self.own.as_ref().filter(|_| unshare(CloneFlags::CLONE_NEWPID).map_err(report).is_ok());
        // SAFETY: the caller's promise.
        let forked = unsafe { fork() };
        if let (Some(own), false) = (left, matches!(forked, Ok(ForkResult::Child)))
            && let Err(errno) = setns(own, CloneFlags::CLONE_NEWPID)
        {
            log::error!("cannot come back to this process's PID namespace: {}", errno.desc());
        }
        forked
    }
}

fn report(errno: Errno) {
    log::debug!("no PID namespaces for workers: {}", errno.desc());
}

/// This process's id where the host's `/proc` was mounted: the one that an administrator can do something with.
pub(crate) fn id_outside() -> u32 {
    let link = std::fs::read_link("/proc/self").ok();
    link.and_then(|link| link.to_str()?.parse().ok()).unwrap_or_else(std::process::id)
}
