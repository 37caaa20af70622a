//! `--persistent` and `--shared`: one process that listens, and a worker process for each client.
//!
//! The supervisor never speaks to a client and never looks into the export. A worker that dies, however it does, takes nobody
//! with it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, pipe2};

use super::identity::{IdMaps, Identity};
use super::isolation::Sandbox;
use super::layer_switch::layer_enabled;
use super::log_relay::LogRelay;
use super::notify::{Manager, Parent};
use super::parent_death::{self, Lifeline, WorkersEnd};
use super::pid_file::PidFile;
use super::pid_namespace::{PidNamespaces, id_outside};
use super::sandbox::{Directory, Export};
use super::seccomp::Filter;
use super::self_check::SelfCheck;
use super::settings::{Endpoint, Settings};
use super::socket::{Listener, Name, close_elsewhere, describe_peer, set_nonblocking};
use super::worker::Client;
use super::{counters, logging, notify, privileges, signals, sys, worker};
use crate::exit::Outcome;
use crate::text::escape_path;

/// How long a client that found the old socket may take to arrive after the new one is there.
const GRACE: Duration = Duration::from_secs(2);
/// How often a socket that could not be made again is tried anew, and looked for where its directory can't be watched.
const RETRY: Duration = Duration::from_secs(1);
/// How long workers may take to end before they are killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long workers that were killed may take to be gone.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// How often workers are nudged while a client waits, where clients can send descriptors.
const NUDGE: Duration = Duration::from_millis(100);
/// How many clients are taken off the sockets before signals are looked at again.
const ACCEPTS: usize = 64;

/// Everything the supervisor holds.
struct Supervisor<'s> {
    settings: &'s Settings,
    sandbox: Sandbox,
    export: Export,
    listener: Listener,
    /// Sockets that lost their name, for the clients that are still in their queues.
    retired: Vec<(Listener, Instant)>,
    watch: Option<Inotify>,
    signals: SignalFd,
    /// Who binds the socket again.
    identity: Identity,
    pid_namespaces: PidNamespaces,
    manager: Manager,
    check: SelfCheck,
    log_relay: Option<LogRelay>,
    /// The next worker's two ends.
    spare: Option<(Lifeline, WorkersEnd)>,
    workers: HashMap<Pid, Lifeline>,
    served: bool,
    /// Since when the name is known to be missing.
    failed_at: Option<Instant>,
    /// Since when clients wait because none can be taken off the socket.
    short_since: Option<Instant>,
    /// Whether a client waits for another to leave, and the log says so.
    client_waits: bool,
    /// Whether the kernel lets no client send descriptors.
    refuses_descriptors: bool,
}

/// Serves clients until told to stop or, without `--persistent`, until the last has left.
pub(crate) fn run(
    settings: &Settings,
    sandbox: Sandbox,
    directory: Directory,
    listener: Listener,
    pid_file: &mut Option<PidFile>,
    mut manager: Manager,
    parent: Parent,
) -> Result<Outcome> {
    let export = directory.close()?;
    signals::ignore_hangup()?;
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGUSR1] {
        wanted.add(signal);
    }
    wanted.thread_block().context("cannot block signals")?;
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let watch = listener.name.as_ref().and_then(watch);
    set_nonblocking(listener.socket.as_fd())?;
    // What clients sent to a passed socket before is there already.
    let refuses_descriptors = sys::refuse_descriptors(listener.socket.as_fd())
        && !matches!(settings.endpoint, Endpoint::Inherited(..));
    if layer_enabled("capabilities") {
        privileges::drop_all_but(&settings.kept.for_supervisor())?;
    }
    let identity = Identity::of_this_thread(IdMaps::read()?)?;
    let pid_namespaces = PidNamespaces::find(sandbox);
    nix::unistd::chdir("/").context("cannot change to /")?;
    confine(settings)?;
    let check = SelfCheck::new(listener.name.as_ref(), &identity, notify::watchdog());
    parent.release().inspect_err(|_| check.remove())?;
    let log_relay = LogRelay::where_needed().inspect_err(|_| check.remove())?;
    manager.tell("READY=1");
    let mut supervisor = Supervisor {
        settings,
        sandbox,
        export,
        listener,
        retired: Vec::new(),
        watch,
        signals,
        identity,
        pid_namespaces,
        manager,
        check,
        log_relay,
        spare: None,
        workers: HashMap::new(),
        served: false,
        failed_at: None,
        short_since: None,
        client_waits: false,
        refuses_descriptors,
    };
    let ended = supervisor.run();
    if matches!(ended, Ok(Role::Worker(..) | Role::Check(_))) {
        // Its directory is the supervisor's to reach.
        *pid_file = None;
    }
    match ended {
        Ok(Role::Worker(client, parent_death)) => {
            return Ok(supervisor.become_worker(Some(client), parent_death));
        }
        Ok(Role::Check(parent_death)) => return Ok(supervisor.become_worker(None, parent_death)),
        Ok(Role::Supervisor) | Err(_) => {}
    }
    supervisor.manager.tell("STOPPING=1");
    supervisor.stop_workers();
    if let Some(name) = &supervisor.listener.name {
        name.remove();
    }
    supervisor.check.remove();
    if let Some(file) = pid_file.take() {
        file.remove();
    }
    // The kernel closes the sockets at the end of the process, where it waits for nothing that their queues hold.
    std::mem::forget(supervisor);
    ended.map(|_| Outcome::Clean)
}

/// Gives up what neither the supervisor's work takes nor that of the processes that it forks: they inherit this. No Landlock: any
/// rule set forbids renames and links between directories, except below directories that it names, and the export can be
/// made anew.
fn confine(settings: &Settings) -> Result<()> {
    if layer_enabled("limits") {
        privileges::limit_supervisor(settings.rlimit_nofile, settings.device.is_some())?;
    }
    Filter::for_supervisor(settings.seccomp, settings.device.is_some())?.install()
}

/// The two ends of a pipe: the last close of a descriptor that somebody sent can take long, and is not to be a forked process's.
struct Closing(Option<(OwnedFd, OwnedFd)>);

impl Closing {
    /// In the supervisor: returns when the forked process has closed its copies.
    fn wait(self) {
        if let Some((read, write)) = self.0 {
            drop(write);
            let _ = nix::unistd::read(&read, &mut [0]);
        }
    }
}

/// What this process is when [`Supervisor::run`] returns.
enum Role {
    /// The supervisor, and it is to end.
    Supervisor,
    /// Forked off to serve this client.
    Worker(Client, WorkersEnd),
    /// Forked off to find out whether a client could be served.
    Check(WorkersEnd),
}

/// Watches for the removal of the socket's name.
fn watch(name: &Name) -> Option<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    let events = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(name.path().parent()?, events).ok()?;
    Some(inotify)
}

impl<'s> Supervisor<'s> {
    fn run(&mut self) -> Result<Role> {
        // Asked before signals came by descriptor.
        let mut stop = signals::asked_to_stop();
        loop {
            if stop {
                log::info!("stopping: asked by a signal");
                return Ok(Role::Supervisor);
            }
            self.keep_name();
            if !self.settings.persistent && self.served && self.workers.is_empty() {
                return Ok(Role::Supervisor);
            }
            self.manager.tell_again();
            logging::report_lost();
            self.wait()?;
            stop = self.take_signals()?;
            if stop {
                continue;
            }
            if let Some(watch) = &self.watch {
                let _ = watch.read_events();
            }
            if let Some(log) = &mut self.log_relay {
                log.reader().forward();
            }
            if let Some((client, parent_death)) = self.accept_clients() {
                return Ok(Role::Worker(client, parent_death));
            }
            self.check.take_questions();
            if self.check.is_due()
                && let Some(parent_death) = self.start_check()
            {
                return Ok(Role::Check(parent_death));
            }
        }
    }

    /// Waits for something to do.
    fn wait(&mut self) -> Result<()> {
        let watch = self.watch.as_ref().map(AsFd::as_fd);
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(watch.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(self.log_relay.as_ref().map(|log| PollFd::new(log.as_fd(), PollFlags::POLLIN)));
        let full = self.workers.len() >= self.settings.shared;
        let before = fds.len();
        if self.short_since.is_none() && !(full && self.client_waits) {
            fds.extend(self.listeners().map(|it| PollFd::new(it.socket.as_fd(), PollFlags::POLLIN)));
        }
        let clients = before..fds.len();
        fds.extend(self.check.socket().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let needs_time = !self.retired.is_empty()
            || self.failed_at.is_some()
            || self.short_since.is_some()
            || self.manager.is_behind()
            || logging::has_lost()
            || (self.listener.name.is_some() && self.watch.is_none());
        let nudge = (self.client_waits && !self.refuses_descriptors).then_some(NUDGE);
        let timeout = self.check.timeout().into_iter().chain(needs_time.then_some(RETRY)).chain(nudge).min();
        // Whole milliseconds: one more, so that time is up afterwards.
        let timeout = timeout.map(|timeout| PollTimeout::try_from(timeout + Duration::from_millis(1)));
        let timeout = timeout.transpose()?.unwrap_or(PollTimeout::NONE);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for clients"),
        }
        if full && fds[clients].iter().any(|fd| fd.any() == Some(true)) {
            self.client_waits = true;
            let shared = self.settings.shared;
            log::warn!("a client waits: as many are served as may be at once (--shared={shared})");
        }
        if nudge.is_some() {
            // One of them may be closing a descriptor that its client sent: that wait ends with any signal.
            for pid in self.workers.keys() {
                let _ = kill(*pid, signals::NUDGE);
            }
        }
        Ok(())
    }

    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        std::iter::once(&self.listener).chain(self.retired.iter().map(|(listener, _)| listener))
    }

    /// Closes sockets whose queues may hold descriptors that clients sent.
    fn dispose<T>(&self, sockets: Vec<T>) {
        if self.refuses_descriptors { drop(sockets) } else { close_elsewhere(sockets) }
    }

    /// Makes the socket anew when its name is gone: QEMU removes it as it connects.
    fn keep_name(&mut self) {
        let (kept, old) =
            std::mem::take(&mut self.retired).into_iter().partition(|(_, since)| since.elapsed() < GRACE);
        self.retired = kept;
        self.dispose(old);
        self.check.keep_name(&self.identity);
        let answered = self.check.take_answered();
        self.dispose(answered);
        let Some(name) = &self.listener.name else { return };
        if name.stands() || self.failed_at.is_some_and(|at| at.elapsed() < RETRY) {
            return;
        }
        let again = name.bind_again(&self.identity).and_then(|listener| {
            set_nonblocking(listener.socket.as_fd())?;
            Ok(listener)
        });
        match again {
            Ok(listener) => {
                if self.failed_at.take().is_some() {
                    self.watch = listener.name.as_ref().and_then(watch);
                }
                let old = std::mem::replace(&mut self.listener, listener);
                self.retired.push((old, Instant::now()));
            }
            Err(error) => {
                if self.failed_at.is_none() {
                    log::error!("cannot make the socket again, trying once a second: {error:#}");
                }
                self.failed_at = Some(Instant::now());
            }
        }
    }

    /// True when asked to stop.
    fn take_signals(&mut self) -> Result<bool> {
        let (mut stop, mut asked) = (false, false);
        while let Some(info) = self.signals.read_signal().context("cannot read signals")? {
            match i32::try_from(info.ssi_signo) {
                Ok(libc::SIGCHLD) => {}
                Ok(libc::SIGUSR1) => asked = true,
                _ => stop = true,
            }
        }
        self.reap();
        if asked {
            let pids = self.workers.keys().copied().chain([Pid::this()]);
            let memory = counters::memory_of(pids.map(Pid::as_raw));
            let clients = u64::try_from(self.workers.len()).unwrap_or(u64::MAX);
            log::info!("{}", counters::Counts { clients, memory });
        }
        Ok(stop)
    }

    /// Takes leave of the workers that have ended. Where this process is the first of its PID namespace, the processes that
    /// they leave behind are its too.
    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) if self.check.is_running(pid) => {
                    self.end_check(status == 0);
                }
                Ok(WaitStatus::Signaled(pid, ..)) if self.check.is_running(pid) => self.end_check(false),
                Ok(WaitStatus::Exited(pid, _)) => {
                    self.workers.remove(&pid);
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.workers.remove(&pid);
                    log::error!("worker {pid} was killed by {signal}; its client is cut off, others are not");
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Starts a worker for each client that waits. Returns the client, and the worker's end of its pair, where this process is
    /// the worker.
    fn accept_clients(&mut self) -> Option<(Client, WorkersEnd)> {
        for _ in 0..ACCEPTS {
            if self.workers.len() >= self.settings.shared {
                break;
            }
            self.client_waits = false;
            let (socket, admitted) = self.accept()?;
            if !admitted {
                log::warn!(
                    "refused a client that is not for this socket (-u, -g): {}",
                    describe_peer(socket.as_fd())
                );
                self.dispose(vec![socket]);
                continue;
            }
            let Ok((gate, open)) = pipe2(OFlag::O_CLOEXEC) else { return None };
            let client = Client::new(socket);
            let (ours, workers) = self.spare.take()?;
            let closing = self.before_fork();
            // SAFETY: this process has one thread.
            match unsafe { self.pid_namespaces.fork() } {
                Ok(ForkResult::Parent { child }) => {
                    closing.wait();
                    self.served = true;
                    counters::count_client();
                    self.workers.insert(child, ours);
                    // Not the last to close it.
                    drop(client);
                }
                Ok(ForkResult::Child) => {
                    drop(open);
                    self.let_go(closing);
                    let _ = nix::unistd::read(&gate, &mut [0]);
                    return Some((client, workers));
                }
                Err(errno) => log::error!("cannot serve a client: fork: {}", errno.desc()),
            }
        }
        None
    }

    /// Prepares a fork: the new process is to close the sockets of those who ask before this one does.
    fn before_fork(&self) -> Closing {
        let needed = !self.refuses_descriptors && self.check.holds_sockets();
        Closing(if needed { pipe2(OFlag::O_CLOEXEC).ok() } else { None })
    }

    /// In a forked process: closes the sockets of those who ask. The supervisor has them too, and waits.
    fn let_go(&mut self, closing: Closing) {
        self.check.abandon();
        drop(self.check.take_answered());
        drop(closing);
    }

    /// Starts to find out whether a client could be served. Returns that process's end of its pair in the process that does.
    fn start_check(&mut self) -> Option<WorkersEnd> {
        self.check.begin();
        let (ours, its) = match parent_death::pair() {
            Ok(pair) => pair,
            Err(errno) => {
                self.check.ended(false, &format!("cannot start a process: {}", errno.desc()));
                return None;
            }
        };
        let closing = self.before_fork();
        // SAFETY: this process has one thread.
        match unsafe { self.pid_namespaces.fork() } {
            Ok(ForkResult::Parent { child }) => {
                closing.wait();
                self.check.started(child, ours);
            }
            Ok(ForkResult::Child) => {
                self.let_go(closing);
                return Some(its);
            }
            Err(errno) => {
                self.check.ended(false, &format!("cannot start a process: {}", errno.desc()));
            }
        }
        None
    }

    /// Answers those who asked how this helper is.
    fn end_check(&mut self, well: bool) {
        let problem = if let Some(name) = self.listener.name.as_ref().filter(|name| !name.stands()) {
            Some(format!("the socket '{}' is missing", escape_path(name.path())))
        } else if self.short_since.is_some() {
            Some("no client can be taken off the socket; the log says why".into())
        } else {
            (!well).then(|| "no client can be served; the log says why".into())
        };
        let text = format!("{} of {} clients", self.workers.len(), self.settings.shared);
        if self.check.ended(problem.is_none(), problem.as_ref().unwrap_or(&text)) {
            self.manager.send("WATCHDOG=1");
        }
    }

    /// Takes a client off the sockets. Where this process has no descriptor left for it, it waits a while: the kernel
    /// would say "there is one" without end.
    ///
    /// The second value says whether it may be served.
    fn accept(&mut self) -> Option<(OwnedFd, bool)> {
        let mut short = None;
        // First what its worker needs: a client that is off the socket can't wait for better times.
        if self.spare.is_none() {
            match parent_death::pair() {
                Ok(pair) => self.spare = Some(pair),
                Err(errno) => short = Some(errno),
            }
        }
        let client = self.listeners().filter(|_| self.spare.is_some()).find_map(|listener| {
            listener
                .accept()
                .map(|client| {
                    let admitted = listener.admits(client.as_fd());
                    (client, admitted)
                })
                .inspect_err(|&errno| {
                    if !matches!(errno, Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) {
                        short = Some(errno);
                    }
                })
                .ok()
        });
        match short {
            Some(errno) if self.short_since.is_none() => {
                log::error!("cannot take a client off the socket, trying once a second: {}", errno.desc());
                self.short_since = Some(Instant::now());
            }
            Some(_) => {}
            None => self.short_since = None,
        }
        client
    }

    /// In a forked process: lets go of all that is the supervisor's, and serves the client, or finds out whether one could be
    /// served.
    fn become_worker(self, client: Option<Client>, parent_death: WorkersEnd) -> Outcome {
        logging::set_pid(id_outside());
        let (settings, sandbox, export, log_relay) = self.into_workers_part();
        let confine = || {
            log_relay.map(LogRelay::use_in_worker).transpose()?;
            signals::handle_stop(-1)?;
            parent_death.hold()?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            let directory = if client.is_some() { export.find() } else { export.find_silently() };
            worker::confine(settings, sandbox, &directory?, None)
        };
        match confine() {
            Ok(mut confined) => match client {
                Some(client) => worker::serve(client, &mut confined),
                None => worker::look_at_export(&mut confined),
            },
            Err(error) => {
                log::error!("cannot serve a client: {error:#}");
                Outcome::Failure
            }
        }
    }

    /// What a worker needs. All else is dropped here: a worker that held the listening socket would keep it alive
    /// after the supervisor, and one that held the supervisor's ends of the pairs other workers.
    fn into_workers_part(self) -> (&'s Settings, Sandbox, Export, Option<LogRelay>) {
        let Self { settings, sandbox, export, log_relay, .. } = self;
        (settings, sandbox, export, log_relay)
    }

    /// Ends all workers, in good time.
    fn stop_workers(&mut self) {
        self.workers.extend(self.check.abandon());
        for (signal, patience) in [(Signal::SIGTERM, PATIENCE), (Signal::SIGKILL, LAST_PATIENCE)] {
            for pid in self.workers.keys() {
                let _ = kill(*pid, signal);
            }
            let deadline = Instant::now() + patience;
            while !self.workers.is_empty() && Instant::now() < deadline {
                let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, PollTimeout::from(100u8));
                let _ = self.signals.read_signal();
                self.reap();
                if let Some(log) = &mut self.log_relay {
                    log.reader().forward();
                }
            }
        }
        if let Some(log) = &mut self.log_relay {
            log.reader().drain();
        }
        // A file system that hangs holds them in the kernel. They end when it lets them go.
        for pid in self.workers.keys() {
            log::error!("worker {pid} does not end: a file system does not answer; leaving it behind");
        }
    }
}
