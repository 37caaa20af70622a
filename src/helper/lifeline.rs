//! What ends the workers when their supervisor is gone without having ended them: killed by SIGKILL, or out of memory.
//!
//! The supervisor alone holds the writing end of a pipe. A worker has the reading end in standard input's place, and asked the
//! kernel for SIGTERM when something happens there: the only thing that can is that the supervisor has ended.
//! (`PR_SET_PDEATHSIG` would not do: the kernel forgets it whenever an identity is lent.)

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stdin, pipe2};

use super::sys;

/// Both ends, in the supervisor.
pub struct Lifeline {
    read: OwnedFd,
    write: OwnedFd,
}

impl Lifeline {
    /// Makes the pipe.
    pub fn new() -> Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        Ok(Self { read, write })
    }

    /// In a worker that handles SIGTERM: lets go of the writing end, and has this process asked to stop when the supervisor's
    /// is closed.
    pub fn hold(self) -> Result<()> {
        let Self { read, write } = self;
        drop(write);
        // Opened anew: whom to signal belongs to the open file, and each worker needs one of its own.
        let path = format!("/proc/self/fd/{}", read.as_raw_fd());
        let own = open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())
            .context("cannot open /proc/self/fd; mount /proc where the helper runs")?;
        dup2_stdin(&own).context("cannot set standard input")?;
        sys::signal_on_event(own.as_fd(), libc::SIGTERM).context("cannot watch the supervisor")?;
        let mut fds = [PollFd::new(own.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? > 0 {
            bail!("the supervisor is gone");
        }
        Ok(())
    }
}
