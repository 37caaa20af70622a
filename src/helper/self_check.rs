//! How a supervisor finds out whether it can serve, for health checks and for the service manager's watchdog.
//!
//! It forks a process that confines itself as a worker does and looks at the export. One such check runs at a time, however many
//! ask. A supervisor that is stopped gives no answer, and a check that a file system holds gives none either: both are failures
//! to whoever asks.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::health_socket;
use super::identity::Identity;
use super::parent_death::Lifeline;
use super::socket::{Listener, Name, accept};

/// How many may wait for an answer at once; others wait in the socket's queue.
const ASKERS: usize = 16;
/// How often a health socket that could not be made is tried anew.
const RETRY: Duration = Duration::from_secs(1);

/// Who asks, and the check that runs for them.
pub(crate) struct SelfCheck {
    listener: Option<Listener>,
    tried_at: Instant,
    askers: Vec<OwnedFd>,
    /// Sockets that are of no more use. Their queues may hold descriptors that somebody sent.
    answered: Vec<OwnedFd>,
    /// Since when none can be taken off the socket.
    short_since: Option<Instant>,
    running: Option<(Pid, Lifeline)>,
    watchdog: Option<Watchdog>,
}

/// The service manager's watchdog.
struct Watchdog {
    /// How often it is to be told, with time to spare.
    interval: Duration,
    due: Instant,
    /// Whether the check that runs is for it.
    waits: bool,
}

impl SelfCheck {
    /// With the health socket of the socket `name`. `watchdog` is how long the service manager waits for a sign of life.
    pub(crate) fn new(name: Option<&Name>, identity: &Identity, watchdog: Option<Duration>) -> Self {
        let watchdog =
            watchdog.map(|limit| Watchdog { interval: limit / 3, due: Instant::now(), waits: false });
        let listener = name.and_then(|name| health_socket::bind(name, identity));
        Self {
            listener,
            tried_at: Instant::now(),
            askers: Vec::new(),
            answered: Vec::new(),
            short_since: None,
            running: None,
            watchdog,
        }
    }

    /// Makes the health socket anew when its name is gone.
    pub(crate) fn keep_name(&mut self, identity: &Identity) {
        let Some(name) = self.listener.as_ref().and_then(|it| it.name.as_ref()) else { return };
        if name.stands() || self.tried_at.elapsed() < RETRY {
            return;
        }
        self.tried_at = Instant::now();
        if let Ok(again) = name.bind_again(identity).inspect_err(|error| log::debug!("{error:#}"))
            && super::socket::set_nonblocking(again.socket.as_fd()).is_ok()
        {
            self.answered.extend(self.listener.replace(again).map(|old| old.socket));
        }
    }

    /// The sockets that are to be closed.
    pub(crate) fn take_answered(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.answered)
    }

    /// What becomes readable when somebody asks.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        let open = self.askers.len() < ASKERS && self.short_since.is_none_or(|since| since.elapsed() > RETRY);
        self.listener.as_ref().filter(|_| open).map(|listener| listener.socket.as_fd())
    }

    /// Takes those who ask off the socket.
    pub(crate) fn take_questions(&mut self) {
        while let Some(socket) = self.socket() {
            match accept(socket) {
                Ok(asker) => self.askers.push(asker),
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => break,
                // No descriptor is left: the kernel would say "there is one" without end.
                Err(_) => self.short_since = Some(Instant::now()),
            }
        }
    }

    /// Whether a check is to be started.
    pub(crate) fn is_due(&self) -> bool {
        let by_watchdog = || self.watchdog.as_ref().is_some_and(|watchdog| watchdog.due <= Instant::now());
        self.running.is_none() && (!self.askers.is_empty() || by_watchdog())
    }

    /// When this is to be looked at again, whatever happens.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let missing =
            self.listener.as_ref().and_then(|it| it.name.as_ref()).is_some_and(|name| !name.stands());
        let due = self.watchdog.as_ref().filter(|_| self.running.is_none());
        let due = due.map(|watchdog| watchdog.due.saturating_duration_since(Instant::now()));
        let again = missing || self.short_since.is_some_and(|since| since.elapsed() <= RETRY);
        due.into_iter().chain(again.then_some(RETRY)).min()
    }

    /// A check is about to be started.
    pub(crate) fn begin(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.due = Instant::now() + watchdog.interval;
            watchdog.waits = true;
        }
    }

    /// The check runs as this process.
    pub(crate) fn started(&mut self, pid: Pid, parent_death: Lifeline) {
        self.running = Some((pid, parent_death));
    }

    /// Whether this process is the check that runs.
    pub(crate) fn is_running(&self, pid: Pid) -> bool {
        self.running.as_ref().is_some_and(|(running, _)| *running == pid)
    }

    /// Whether there are sockets of those who ask.
    pub(crate) fn holds_sockets(&self) -> bool {
        !self.askers.is_empty() || !self.answered.is_empty()
    }

    /// Forgets the check that runs: nobody is answered any more.
    pub(crate) fn abandon(&mut self) -> Option<(Pid, Lifeline)> {
        self.answered.append(&mut self.askers);
        self.running.take()
    }

    /// The check has ended, or could not be started: answers all who asked. True where the watchdog is to be told.
    pub(crate) fn ended(&mut self, ok: bool, text: &str) -> bool {
        self.running = None;
        for asker in &self.askers {
            // Its end is the end of the answer, whenever the socket is closed.
            health_socket::answer(asker.as_fd(), ok, text);
        }
        self.answered.append(&mut self.askers);
        self.watchdog.as_mut().is_some_and(|watchdog| std::mem::take(&mut watchdog.waits)) && ok
    }

    /// Removes the health socket.
    pub(crate) fn remove(&self) {
        if let Some(name) = self.listener.as_ref().and_then(|listener| listener.name.as_ref()) {
            name.remove();
        }
    }
}
