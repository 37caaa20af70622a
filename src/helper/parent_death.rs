//! What ends the workers when their supervisor is gone without having ended them: killed by SIGKILL, or out of memory.
//!
//! The supervisor holds one end of a socket pair for each worker. A worker has the other end in standard input's place, and asked
//! the kernel for SIGTERM when something happens there: the only thing that can is that the supervisor has ended.
//! (`PR_SET_PDEATHSIG` would not do: the kernel forgets it whenever the thread's identity is switched.)
//!
//! It is a socket pair because a socket cannot be opened anew through `/proc/self/fd`, as a pipe can: a worker that was taken over could
//! open a pipe's other end and with that signal every worker that shares it. It is one pair for each worker because whom
//! to signal belongs to the open file.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::dup2_stdin;

use super::sys;

/// The supervisor's end: the worker ends when it is closed.
pub(crate) struct Lifeline(#[allow(dead_code, reason = "held open")] OwnedFd);

/// The worker's end.
pub(crate) struct WorkersEnd(OwnedFd);

/// Makes both ends, before the worker is forked.
pub(crate) fn pair() -> Result<(Lifeline, WorkersEnd), Errno> {
    let (ours, workers) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Lifeline(ours), WorkersEnd(workers)))
}

impl WorkersEnd {
    /// In a worker that handles SIGTERM, and that has closed the supervisor's end: has this process asked to stop when the
    /// supervisor's is closed.
    pub(crate) fn hold(self) -> Result<()> {
        dup2_stdin(&self.0).context("cannot set standard input")?;
        sys::signal_on_event(self.0.as_fd(), libc::SIGTERM).context("cannot watch the supervisor")?;
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? > 0 {
            bail!("the supervisor is gone");
        }
        Ok(())
    }
}
