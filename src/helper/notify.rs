//! Telling whoever started the daemon: systemd through `NOTIFY_SOCKET` (sd_notify(3)), a shell through the
//! parent's exit.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{ForkResult, fork, pipe, setsid};

use crate::exit::Outcome;

/// The service manager's socket, connected while its path is in reach.
pub(crate) struct Manager {
    socket: Option<UnixDatagram>,
    /// What the manager could not be told yet: its socket's queue was full.
    behind: Option<&'static str>,
}

impl Manager {
    /// Connects, if the manager asked to be told.
    pub(crate) fn connect() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
            return Self { socket: None, behind: None };
        };
        let connected = connect_notify(&name);
        if let Err(error) = &connected {
            log::warn!("cannot tell the service manager about readiness: NOTIFY_SOCKET: {error}");
        }
        Self { socket: connected.ok(), behind: None }
    }

    /// Tells the manager, without waiting: a manager that does not read its socket is told later, by
    /// [`Manager::tell_again`]. Nobody to tell, or nobody listening, is no failure.
    pub(crate) fn tell(&mut self, state: &'static str) {
        let Some(socket) = &self.socket else { return };
        let full = socket.send(state.as_bytes()).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        if full && self.behind.is_none() {
            log::warn!("the service manager does not read NOTIFY_SOCKET: cannot tell it {state} now");
        }
        self.behind = full.then_some(state);
    }

    /// Tells the manager now or never.
    pub(crate) fn send(&self, state: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(state.as_bytes());
        }
    }

    /// Whether the manager is still to be told something.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Tells the manager what it could not be told before.
    pub(crate) fn tell_again(&mut self) {
        if let Some(state) = self.behind {
            self.tell(state);
        }
    }

    /// The socket, for the handler that ends the process.
    pub(crate) fn as_raw(&self) -> i32 {
        self.socket.as_ref().map_or(-1, std::os::fd::AsRawFd::as_raw_fd)
    }
}

fn connect_notify(name: &OsString) -> std::io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How long the service manager waits for `WATCHDOG=1` before it takes this process for dead (sd_watchdog_enabled(3)).
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|&usec| usec > 0).map(Duration::from_micros)
}

/// The parent that waits for a daemon to be ready.
pub(crate) struct Parent {
    /// Where it waits; none where this process stays in the foreground.
    pipe: Option<OwnedFd>,
    /// `/dev/null`, opened while it is in reach.
    null: File,
}

/// Which side of [`detach`] this is.
pub(crate) enum Side {
    /// The daemon, which goes on.
    Daemon(Parent),
    /// The parent, which is to exit.
    Parent(Outcome),
}

impl Parent {
    /// Takes standard input and output from this process: a process that serves a guest has no business with a
    /// terminal. Standard error stays until the daemon is ready, and in the foreground for good.
    fn new(pipe: Option<OwnedFd>) -> Result<Self> {
        let null =
            File::options().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        Ok(Self { pipe, null })
    }

    /// Lets the parent exit with success, and goes on without a terminal.
    pub(crate) fn release(self) -> Result<()> {
        let Some(pipe) = self.pipe else { return Ok(()) };
        nix::unistd::dup2_stderr(&self.null)?;
        File::from(pipe).write_all(b"1").context("the parent process is gone")
    }
}

/// Stays in the foreground: there is no parent to release.
pub(crate) fn stay() -> Result<Parent> {
    Parent::new(None)
}

/// Forks a daemon off. The parent returns when the daemon is ready, with success, or when it has ended without being
/// ready, with failure: the daemon keeps the terminal until then, and has said there what is wrong.
pub(crate) fn detach() -> Result<Side> {
    let (read, write) = pipe().context("cannot make a pipe")?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Parent { .. } => {
            drop(write);
            let ready = File::from(read).read(&mut [0]).is_ok_and(|count| count == 1);
            Ok(Side::Parent(if ready { Outcome::Clean } else { Outcome::Failure }))
        }
        ForkResult::Child => {
            setsid().context("cannot start a session")?;
            Ok(Side::Daemon(Parent::new(Some(write))?))
        }
    }
}
