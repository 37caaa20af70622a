//! A process that waits for its one client (without `--persistent` and `--shared`): it takes the client off the socket, and finds out
//! whether it could serve one whenever a health check or the service manager's watchdog asks.
//!
//! To find that out it forks a process that confines itself as this one will, and looks at the export. It waits for that process: a client
//! that comes meanwhile would wait for the same file system.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::isolation::Sandbox;
use super::layer_switch::layer_enabled;
use super::notify::{self, Manager};
use super::sandbox::Export;
use super::seccomp::Filter;
use super::settings::Settings;
use super::socket::{Listener, accept, close_elsewhere, describe_peer, set_nonblocking};
use super::{health_socket, privileges, signals, sys, worker};
use crate::text::escape_path;

/// How many health checks are answered at once; others wait in the socket's queue.
const ASKERS: usize = 16;
/// How often a service manager is told again what it could not be told.
const RETRY: Duration = Duration::from_secs(1);

/// Gives up what neither waiting for a client nor confining this process afterwards takes, as a supervisor does, who confines processes in
/// the same way. What serves the client has this besides its own.
pub(crate) fn confine(settings: &Settings) -> Result<()> {
    if layer_enabled("capabilities") {
        privileges::drop_all_but(&settings.kept.for_supervisor())?;
    }
    if layer_enabled("limits") {
        privileges::limit_supervisor(settings.rlimit_nofile, settings.device.is_some())?;
    }
    Filter::for_supervisor(settings.seccomp, settings.device.is_some())?.install()
}

/// What a process needs that waits for its one client.
pub(crate) struct Waiting<'w> {
    settings: &'w Settings,
    sandbox: Sandbox,
    export: &'w Export,
    listener: &'w Listener,
    health: Option<&'w Listener>,
    manager: &'w mut Manager,
    /// How often the service manager's watchdog is told, and when next.
    watchdog: Option<(Duration, Instant)>,
    /// Whether the kernel lets nobody who asks send descriptors.
    refuses_descriptors: bool,
}

impl<'w> Waiting<'w> {
    /// Waits at `listener`; answers health checks at `health`.
    pub(crate) fn new(
        settings: &'w Settings,
        sandbox: Sandbox,
        export: &'w Export,
        listener: &'w Listener,
        health: Option<&'w Listener>,
        manager: &'w mut Manager,
    ) -> Self {
        let watchdog = notify::watchdog().map(|limit| (limit / 3, Instant::now()));
        let refuses_descriptors = health.is_none_or(|health| sys::refuse_descriptors(health.socket.as_fd()));
        Self { settings, sandbox, export, listener, health, manager, watchdog, refuses_descriptors }
    }

    /// Waits for the one client. `None` where this process was asked to stop meanwhile.
    pub(crate) fn for_client(mut self) -> Result<Option<OwnedFd>> {
        set_nonblocking(self.listener.socket.as_fd())?;
        loop {
            let Some(asked) = signals::while_idle(|| self.wait()) else { return Ok(None) };
            let asked = asked?;
            self.manager.tell_again();
            if let Some(client) = self.take_client()? {
                return Ok(Some(client));
            }
            let due = self.watchdog.is_some_and(|(_, due)| due <= Instant::now());
            if (asked || due) && !self.find_out(due) {
                return Ok(None);
            }
        }
    }

    /// Waits for something to do. True where a health check asks.
    fn wait(&self) -> Result<bool> {
        let mut fds = vec![PollFd::new(self.listener.socket.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.health.map(|health| PollFd::new(health.socket.as_fd(), PollFlags::POLLIN)));
        let due = self.watchdog.map(|(_, due)| due.saturating_duration_since(Instant::now()));
        let timeout = due.into_iter().chain(self.manager.is_behind().then_some(RETRY)).min();
        // Whole milliseconds: one more, so that time is up afterwards.
        let timeout = timeout.map(|timeout| PollTimeout::try_from(timeout + Duration::from_millis(1)));
        match poll(&mut fds, timeout.transpose()?.unwrap_or(PollTimeout::NONE)) {
            Ok(_) => Ok(fds.get(1).is_some_and(|health| health.any() == Some(true))),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno).context("cannot wait for a client"),
        }
    }

    /// Takes a client off the socket that may be served.
    fn take_client(&self) -> Result<Option<OwnedFd>> {
        loop {
            match self.listener.accept() {
                Ok(client) if self.listener.admits(client.as_fd()) => return Ok(Some(client)),
                Ok(client) => {
                    let peer = describe_peer(client.as_fd());
                    log::warn!("refused a client that is not for this socket (-u, -g): {peer}");
                }
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno).context("cannot take a client off the socket"),
            }
        }
    }

    /// Finds out whether a client could be served, and tells those who ask; the watchdog where it is `due`. False where this process was
    /// asked to stop meanwhile.
    fn find_out(&mut self, due: bool) -> bool {
        // Those that closed sockets. The cleaner may be among them: who waits for it later is told that it is gone.
        let ended = || waitpid(None, Some(WaitPidFlag::WNOHANG));
        while ended().is_ok_and(|status| status != WaitStatus::StillAlive) {}
        let askers = self
            .health
            .into_iter()
            .flat_map(|health| std::iter::from_fn(|| accept(health.socket.as_fd()).ok()).take(ASKERS));
        let askers: Vec<_> = askers.collect();
        if let Some((interval, due_at)) = self.watchdog.as_mut().filter(|_| due) {
            *due_at = Instant::now() + *interval;
        }
        let serves = || worker::could_serve(self.settings, self.sandbox, self.export);
        let Some(serves) = signals::while_idle(serves) else { return false };
        let problem = if let Some(name) = self.listener.name.as_ref().filter(|name| !name.stands()) {
            Some(format!("the socket '{}' is missing", escape_path(name.path())))
        } else {
            match serves {
                Ok(true) => None,
                Ok(false) => Some("no client can be served; the log says why".into()),
                Err(error) => Some(format!("{error:#}")),
            }
        };
        let text = problem.as_deref().unwrap_or(signals::WAITS);
        for asker in &askers {
            health_socket::answer(asker.as_fd(), problem.is_none(), text);
        }
        if self.refuses_descriptors {
            drop(askers);
        } else {
            close_elsewhere(askers);
        }
        if due && problem.is_none() {
            self.manager.send("WATCHDOG=1");
        }
        true
    }
}
