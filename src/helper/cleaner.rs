//! What removes the socket and the pid file when the process that serves can't: it is behind walls by then.
//!
//! A forked process waits at a pipe. One byte says that the client has connected: the socket is of no more use, and
//! goes. When the pipe closes, however the serving process ended, the rest goes.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context as _, Result};
use nix::unistd::{ForkResult, Pid, fork, pipe};

use super::mount_watch::close_all_but;
use super::pid_file::PidFile;
use super::privileges::{self, Kept};
use super::signals;
use super::socket::Name;
use super::sys;

/// The process that cleans up behind this one; none where there is nothing to remove.
pub struct Cleaner(Option<(OwnedFd, Pid)>);

impl Cleaner {
    /// Forks it off.
    pub fn start(socket: Option<&Name>, health: Option<&Name>, pid_file: Option<&PidFile>) -> Result<Self> {
        if socket.is_none() && pid_file.is_none() {
            return Ok(Self(None));
        }
        let (read, write) = pipe().context("cannot make a pipe")?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }.context("cannot fork")? {
            ForkResult::Parent { child } => {
                signals::register_cleaner(write.as_raw_fd(), child.as_raw());
                Ok(Self(Some((write, child))))
            }
            ForkResult::Child => {
                drop(write);
                clean_up(read, socket, health, pid_file);
                // SAFETY: ends the process; nothing is left to unwind or flush.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// The client has connected.
    pub fn connected(&self) {
        if let Some((pipe, _)) = &self.0 {
            let _ = nix::unistd::write(pipe, b"c");
        }
    }
}

impl Drop for Cleaner {
    /// Returns when all is removed.
    fn drop(&mut self) {
        if let Some((pipe, pid)) = self.0.take() {
            signals::forget_cleaner();
            drop(pipe);
            signals::wait_for_cleaner(pid.as_raw());
        }
    }
}

fn clean_up(read: OwnedFd, socket: Option<&Name>, health: Option<&Name>, pid_file: Option<&PidFile>) {
    log::set_max_level(log::LevelFilter::Off);
    let _ = signals::ignore_stop();
    let _ = nix::unistd::chdir("/");
    let _ = nix::sys::prctl::set_name(c"virtfs-cleaner");
    // It needs the pipe and the pid file's directory alone, and of root's powers only those that removing a file can need.
    let mut pipe = File::from(read);
    let held: Vec<_> = std::iter::once(pipe.as_raw_fd()).chain(pid_file.map(PidFile::as_raw)).collect();
    close_all_but(&held);
    // Whoever started the daemon may wait for the end of its output.
    let _ = sys::close_range(libc::STDERR_FILENO.unsigned_abs(), libc::STDERR_FILENO.unsigned_abs());
    let _ = privileges::drop_all_but(&Kept::for_cleaner());
    let _ = privileges::limit_resources(None);
    let connected = pipe.read(&mut [0]).is_ok_and(|count| count > 0);
    if let Some(socket) = socket {
        socket.remove();
    }
    if connected && (health.is_some() || pid_file.is_some()) {
        let _ = pipe.read(&mut [0]);
    }
    if let Some(socket) = health {
        socket.remove();
    }
    if let Some(file) = pid_file {
        file.remove();
    }
}
