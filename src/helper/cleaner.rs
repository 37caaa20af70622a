//! What removes the socket and the pid file when the process that serves can't: it is behind walls by then.
//!
//! A forked process waits at one end of a socket pair (a pipe could be opened anew through `/proc/self/fd`). One byte says that
//! the client has connected: the socket is of no more use, and goes. When the other end closes, however the serving process
//! ended, the rest goes. Where standard error is a pipe, this process also passes on the log lines ([`super::log_relay`]).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork};

use super::log_relay::{LogReader, LogRelay};
use super::pid_file::PidFile;
use super::privileges::{self, Kept};
use super::signals;
use super::socket::Name;
use super::sys;

/// The process that cleans up behind this one; none where there is nothing to do for it.
pub struct Cleaner {
    process: Option<(OwnedFd, Pid)>,
    log: Option<LogRelay>,
}

impl Cleaner {
    /// Forks it off. A process that leaves the foreground has no standard error when it serves, and so needs no relay.
    pub fn start(
        socket: Option<&Name>,
        health: Option<&Name>,
        pid_file: Option<&PidFile>,
        foreground: bool,
    ) -> Result<Self> {
        let log = if foreground { LogRelay::where_needed()? } else { None };
        if socket.is_none() && pid_file.is_none() && log.is_none() {
            return Ok(Self { process: None, log });
        }
        let (its, ours) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
            .context("cannot make a socket pair")?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }.context("cannot fork")? {
            ForkResult::Parent { child } => {
                signals::register_cleaner(ours.as_raw_fd(), child.as_raw());
                Ok(Self { process: Some((ours, child)), log })
            }
            ForkResult::Child => {
                drop(ours);
                clean_up(its, log.map(LogRelay::into_reader), [socket, health], pid_file);
                // SAFETY: ends the process; nothing is left to unwind or flush.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// The client has connected: the socket's name is removed, and log lines go to the cleaner where standard error is a pipe.
    pub fn connected(&mut self) -> Result<()> {
        if let Some((control, _)) = &self.process {
            let _ = nix::unistd::write(control, b"c");
        }
        self.log.take().map_or(Ok(()), LogRelay::use_in_worker)
    }
}

impl Drop for Cleaner {
    /// Returns when all is removed.
    fn drop(&mut self) {
        if let Some((control, pid)) = self.process.take() {
            signals::forget_cleaner();
            drop(control);
            signals::wait_for_cleaner(pid.as_raw());
        }
    }
}

/// What the cleaner does, from its start to its end.
fn clean_up(
    control: OwnedFd,
    mut log: Option<LogReader>,
    [socket, health]: [Option<&Name>; 2],
    pid_file: Option<&PidFile>,
) {
    log::set_max_level(log::LevelFilter::Off);
    let _ = signals::ignore_stop();
    let _ = nix::unistd::chdir("/");
    let _ = nix::sys::prctl::set_name(c"virtfs-cleaner");
    // It needs its two sockets, the pid file's directory and, where log lines go through it, standard error: whoever started a
    // daemon may wait for the end of its output. Of root's capabilities it needs those that removing a file can need.
    let stderr = std::io::stderr();
    let mut kept = vec![control.as_fd()];
    kept.extend(pid_file.map(PidFile::directory));
    if let Some(log) = &log {
        kept.extend([log.as_fd(), stderr.as_fd()]);
    }
    let _ = sys::close_all_from(0, &kept);
    let _ = privileges::drop_all_but(&Kept::for_cleaner());
    let _ = privileges::limit_resources(None);
    let mut control = File::from(control);
    let connected = next_event(&mut control, &mut log);
    if let Some(socket) = socket {
        socket.remove();
    }
    // Whatever the process says after that, the cleaner waits for its end.
    while connected && next_event(&mut control, &mut log) {}
    if let Some(log) = &mut log {
        log.drain();
    }
    if let Some(socket) = health {
        socket.remove();
    }
    if let Some(file) = pid_file {
        file.remove();
    }
}

/// Waits for a byte on `control`, and passes log lines on meanwhile. False at the other process's end.
fn next_event(control: &mut File, log: &mut Option<LogReader>) -> bool {
    loop {
        let mut fds = vec![PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        fds.extend(log.as_ref().map(|log| PollFd::new(log.as_fd(), PollFlags::POLLIN)));
        if !matches!(poll(&mut fds, PollTimeout::NONE), Ok(_) | Err(Errno::EINTR)) {
            return false;
        }
        let is_ready = fds[0].any().unwrap_or(true);
        if let Some(log) = log {
            log.forward();
        }
        if is_ready {
            return control.read(&mut [0]).is_ok_and(|count| count > 0);
        }
    }
}
