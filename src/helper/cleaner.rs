//! What removes the socket and the pid file when the process that serves can't: it is behind walls by then.
//!
//! A forked process waits at one end of a socket pair (a pipe could be opened anew through `/proc/self/fd`). One byte says that
//! the client has connected: the socket is of no more use, and goes. When the other end closes, however the serving process
//! ended, the rest goes. Where standard error is a pipe, this process also passes on the log lines ([`super::log_relay`]).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, fork};

use super::capabilities::CapabilitySet;
use super::isolation::Seccomp;
use super::layer_switch::layer_enabled;
use super::log_relay::{LogReader, LogRelay};
use super::pid_file::PidFile;
use super::privileges;
use super::seccomp::Filter;
use super::settings::Settings;
use super::socket::Name;
use super::{landlock, logging, signals, sys};

/// The process that cleans up behind this one; none where there is nothing to do for it.
pub(crate) struct Cleaner {
    process: Option<(OwnedFd, Pid)>,
    log: Option<LogRelay>,
}

impl Cleaner {
    /// Forks it off. A process that leaves the foreground has no standard error when it serves, and so needs no relay.
    pub(crate) fn start(
        socket: Option<&Name>,
        health: Option<&Name>,
        pid_file: Option<&PidFile>,
        settings: &Settings,
    ) -> Result<Self> {
        let log = if settings.foreground { LogRelay::where_needed()? } else { None };
        if socket.is_none() && pid_file.is_none() && log.is_none() {
            return Ok(Self { process: None, log });
        }
        let (its, ours) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
            .context("cannot make a socket pair")?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }.context("cannot fork")? {
            ForkResult::Parent { child } => {
                drop(its);
                signals::register_cleaner(ours.as_raw_fd(), child.as_raw());
                let mut ready = [0];
                let received = loop {
                    // A signal that asks this process to stop is heeded later.
                    match sys::recv(ours.as_fd(), &mut ready, sys::Wait::Yes) {
                        Err(Errno::EINTR) => {}
                        result => break result?,
                    }
                };
                anyhow::ensure!(
                    received == 1,
                    "the process that removes the socket and the pid file cannot start"
                );
                Ok(Self { process: Some((ours, child)), log })
            }
            ForkResult::Child => {
                drop(ours);
                let mut work = Work {
                    control: its.into(),
                    log: log.map(LogRelay::into_reader),
                    socket,
                    health,
                    pid_file,
                };
                let status = match work.confine(settings.seccomp) {
                    Ok(()) => {
                        work.run();
                        0
                    }
                    Err(error) => {
                        logging::complain(format_args!(
                            "cannot confine the process that cleans up: {error:#}"
                        ));
                        1
                    }
                };
                // SAFETY: ends the process; nothing is left to unwind or flush.
                unsafe { libc::_exit(status) }
            }
        }
    }

    /// The client has connected: the socket's name is removed, and log lines go to the cleaner where standard error is a pipe.
    pub(crate) fn connected(&mut self) -> Result<()> {
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

/// What the forked process holds.
struct Work<'w> {
    control: File,
    log: Option<LogReader>,
    socket: Option<&'w Name>,
    health: Option<&'w Name>,
    pid_file: Option<&'w PidFile>,
}

impl Work<'_> {
    /// Gives up what cleaning up does not take.
    fn confine(&self, seccomp: Seccomp) -> Result<()> {
        log::set_max_level(log::LevelFilter::Off);
        signals::ignore_stop()?;
        nix::unistd::chdir("/").context("cannot change to /")?;
        let _ = nix::sys::prctl::set_name(c"virtfs-cleaner");
        if layer_enabled("capabilities") {
            // Of root's capabilities it needs those that removing a file can need.
            privileges::drop_all_but(&CapabilitySet::for_cleaner())?;
        }
        privileges::limit_resources(None)?;
        let filter = Filter::for_cleaner(seccomp)?;
        if layer_enabled("landlock") {
            self.confine_by_landlock()?;
        }
        // It needs its two sockets, the pid file's directory and, where log lines go through it, standard error: whoever started a
        // daemon may wait for the end of its output.
        let stderr = std::io::stderr();
        let mut kept = vec![self.control.as_fd()];
        kept.extend(self.pid_file.map(PidFile::directory));
        if let Some(log) = &self.log {
            kept.extend([log.as_fd(), stderr.as_fd()]);
        }
        sys::close_all_from(0, &kept).context("cannot close the serving process's descriptors")?;
        filter.install()
    }

    /// The directories of the socket and of the pid file are all that it changes.
    fn confine_by_landlock(&self) -> Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let parents = self.socket.iter().chain(&self.health).filter_map(|name| name.path().parent());
        let parents = parents.map(|parent| open(parent, flags, Mode::empty()));
        let parents =
            parents.collect::<Result<Vec<_>, _>>().context("cannot reach the socket's directory")?;
        let parents: Vec<_> = parents.iter().map(AsFd::as_fd).collect();
        landlock::confine_to_removal(&parents, self.pid_file.map(PidFile::directory))
    }

    /// Cleans up when it is time.
    fn run(&mut self) {
        let _ = sys::send(self.control.as_fd(), b"r");
        let connected = self.next_event();
        if let Some(socket) = self.socket {
            socket.remove();
        }
        // Whatever the process says after that, the cleaner waits for its end.
        while connected && self.next_event() {}
        if let Some(log) = &mut self.log {
            log.drain();
        }
        if let Some(socket) = self.health {
            socket.remove();
        }
        if let Some(file) = self.pid_file {
            file.remove();
        }
    }

    /// Waits for a byte from the other process, and passes log lines on meanwhile. False at the other process's end.
    fn next_event(&mut self) -> bool {
        loop {
            let mut fds = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.log.as_ref().map(|log| PollFd::new(log.as_fd(), PollFlags::POLLIN)));
            if !matches!(ppoll(&mut fds, None, None), Ok(_) | Err(Errno::EINTR)) {
                return false;
            }
            let is_ready = fds[0].any().unwrap_or(true);
            if let Some(log) = &mut self.log {
                log.forward();
            }
            if is_ready {
                return self.control.read(&mut [0]).is_ok_and(|count| count > 0);
            }
        }
    }
}
