//! The daemon: a privileged helper that QEMU ≤ 9.1 speaks to over a unix socket.
//!
//! It knows nothing of migration. [`run`] is the start-up order; each step has a room of its own:
//!
//! | room | what |
//! |---|---|
//! | [`settings`] | what the command line asks for, checked |
//! | [`socket`] | bind, adopt, take over, bring back, remove |
//! | [`notify`] | detach, and tell when ready |
//! | [`cleaner`] | what removes socket and pid file behind a process that serves |
//! | [`sandbox`], [`landlock`], [`privileges`], [`seccomp`] | the walls, and what is left to do inside |
//! | [`mount_watch`], [`mount_table`] | the process that keeps the export's mounts as the host's |
//! | [`worker`], [`supervisor`] | a process that serves, and the one that starts them |
//! | [`waiting`] | a process that serves its one client itself, until the client comes |
//! | [`layers`] | which isolation layers were asked for, and which there are |
//! | [`pid_namespace`], [`parent_death`] | what a worker has besides, because it was forked |
//! | [`connection`], [`busy_poll`] | bytes ↔ requests and replies on a socket |
//! | [`protocol`] | the wire format: table and codec |
//! | [`operations`], [`export`], [`path`], [`identity`], [`sticky`], [`version`] | what requests do, to which files, as whom |
//! | `ninep` | with the feature `vhost-user`: the helper as a 9p device of its own |
//! | [`health`] | asking a running helper how it is |
//! | [`health_socket`], [`self_check`] | a running helper's answer |
//! | [`counters`] | what was served, for who asks with SIGUSR1 |
//! | [`sys`], [`signals`], [`logging`], [`stderr`], [`log_relay`] | the kernel's side |

#[cfg(feature = "break-in")]
pub(crate) mod break_in;
pub(crate) mod busy_poll;
pub(crate) mod capabilities;
pub(crate) mod cleaner;
pub(crate) mod connection;
pub(crate) mod counters;
pub(crate) mod export;
pub(crate) mod health;
pub(crate) mod health_socket;
pub(crate) mod identity;
pub(crate) mod isolation;
pub(crate) mod landlock;
pub(crate) mod layer_switch;
pub(crate) mod layers;
pub(crate) mod log_relay;
pub(crate) mod logging;
pub(crate) mod mount_table;
pub(crate) mod mount_watch;
#[cfg(feature = "vhost-user")]
pub(crate) mod ninep;
pub(crate) mod notify;
pub(crate) mod operations;
pub(crate) mod options;
pub(crate) mod parent_death;
pub(crate) mod path;
pub(crate) mod pid_file;
pub(crate) mod pid_namespace;
pub(crate) mod privileges;
pub(crate) mod protocol;
pub(crate) mod sandbox;
pub(crate) mod seccomp;
pub(crate) mod self_check;
pub(crate) mod settings;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod stderr;
pub(crate) mod sticky;
pub(crate) mod supervisor;
pub(crate) mod sys;
pub(crate) mod version;
pub(crate) mod waiting;
pub(crate) mod worker;

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};

use crate::exit::Outcome;
use crate::text::{escape, escape_path};
use cleaner::Cleaner;
use identity::{IdMaps, Identity};
use isolation::Sandbox;
use layers::{Layer, Layers};
use notify::{Manager, Parent, Side};
use options::HelperArgs;
use pid_file::PidFile;
use sandbox::Directory;
use settings::Endpoint;
pub use settings::Settings;
use socket::Listener;
use waiting::Waiting;
use worker::Client;

/// Serves an export as the command line says. Errors are printed here, once, with their context.
pub(crate) fn run(args: HelperArgs) -> Outcome {
    stderr::prepare();
    let settings = match Settings::try_from(args) {
        Ok(settings) => settings,
        Err(message) => {
            logging::complain(format_args!("{message}"));
            stderr::write_line(b"Try 'virtfs-proxy-helper --help'.\n");
            return Outcome::Usage;
        }
    };
    let outcome = start(&settings).unwrap_or_else(|error| {
        logging::complain(format_args!("{error:#}"));
        Outcome::Failure
    });
    logging::report_lost();
    outcome
}

/// The start-up order. Everything that can fail does so before the daemon is ready, and so before its parent exits.
fn start(settings: &Settings) -> Result<Outcome> {
    close_inherited(settings)?;
    signals::ignore_file_size()?;
    let inherited = Source::inherited(settings)?;
    let parent = if settings.foreground {
        notify::stay()?
    } else {
        match notify::detach()? {
            Side::Daemon(parent) => parent,
            Side::Parent(outcome) => return Ok(outcome),
        }
    };
    // A signal ends this process at once until it makes the first file; then only when another process can remove the files.
    signals::handle_stop(-1)?;
    let listens = !matches!(inherited, Some(Source::Client(_)));
    let Some(prepared) = signals::while_idle(|| prepare(settings, listens)) else {
        return Ok(Outcome::Clean);
    };
    let (manager, directory, sandbox) = prepared?;
    let source = match inherited {
        Some(source) => source,
        None => Source::bind(settings)?,
    };
    let name = source.name().cloned();
    let outcome = serve(settings, sandbox, directory, source, manager, parent);
    if let (Err(_), Some(name)) = (&outcome, name) {
        name.remove();
    }
    outcome
}

/// What can take time or fail, before any file is made. Returns the sandbox that a process that serves is to use.
fn prepare(settings: &Settings, listens: bool) -> Result<(Manager, Directory, Sandbox)> {
    logging::start(settings.log_level, settings.syslog)?;
    counters::start()?;
    let manager = Manager::connect();
    privileges::give_up_removed(&settings.kept)?;
    let directory = Directory::find(&settings.path)?;
    privileges::limit_open_files(settings.rlimit_nofile)?;
    say_what_is_served(&directory, settings.device.as_deref());
    privileges::report_missing(&settings.kept)?;
    let mut sandbox = settings.sandbox;
    if listens {
        let layers = layers_at_start(settings);
        let rehearsed = worker::rehearse(settings, &directory)?;
        layers::report(settings, layers.and(rehearsed.layers))?;
        sandbox = rehearsed.sandbox;
    }
    Ok((manager, directory, sandbox))
}

/// Takes the layers that processes that serve inherit.
fn layers_at_start(settings: &Settings) -> Layers {
    // This process ends where it cannot close the descriptors.
    Layers::of(&[Layer::Descriptors]).and(sandbox::leave_shared_namespaces(settings.sandbox))
}

/// Serves one client or many.
fn serve(
    settings: &Settings,
    sandbox: Sandbox,
    directory: Directory,
    source: Source,
    manager: Manager,
    parent: Parent,
) -> Result<Outcome> {
    let mut pid_file = settings.pid_file.as_deref().map(PidFile::write).transpose()?;
    match source {
        Source::Listener(listener) if settings.has_supervisor() => {
            let outcome =
                supervisor::run(settings, sandbox, directory, listener, &mut pid_file, manager, parent);
            if let (Err(_), Some(file)) = (&outcome, pid_file) {
                file.remove();
            }
            outcome
        }
        source => serve_one(settings, sandbox, directory, source, pid_file, manager, parent),
    }
}

/// Where clients come from, open.
enum Source {
    /// The one client is there.
    Client(OwnedFd),
    /// Clients will connect.
    Listener(Listener),
}

impl Source {
    /// Takes the socket that was passed to this process, if one was.
    fn inherited(settings: &Settings) -> Result<Option<Self>> {
        match &settings.endpoint {
            Endpoint::Connected(fd) => socket::adopt_connected(*fd).map(|client| Some(Self::Client(client))),
            Endpoint::Inherited(fd, owner) => {
                Listener::adopt(*fd, *owner).map(|listener| Some(Self::Listener(listener)))
            }
            Endpoint::Listen { .. } => Ok(None),
        }
    }

    /// Makes the socket to listen on.
    fn bind(settings: &Settings) -> Result<Self> {
        let Endpoint::Listen { path, owner } = &settings.endpoint else {
            anyhow::bail!("there is no socket to listen on");
        };
        let identity = Identity::of_this_thread(IdMaps::read()?)?;
        Listener::bind(path, *owner, &identity).map(Self::Listener)
    }

    fn name(&self) -> Option<&socket::Name> {
        match self {
            Self::Client(_) => None,
            Self::Listener(listener) => listener.name.as_ref(),
        }
    }
}

/// Serves the one client in this very process, as the original does. Where the client is still to come, a forked process
/// finds out beforehand whether this one can be confined: the directory is served that is there when the client is.
fn serve_one(
    settings: &Settings,
    sandbox: Sandbox,
    directory: Directory,
    source: Source,
    pid_file: Option<PidFile>,
    mut manager: Manager,
    parent: Parent,
) -> Result<Outcome> {
    let health = match source.name() {
        Some(name) => health_socket::bind(name, &Identity::of_this_thread(IdMaps::read()?)?),
        None => None,
    };
    let health_name = health.as_ref().and_then(|listener| listener.name.as_ref());
    let started = Cleaner::start(source.name(), health_name, pid_file.as_ref(), settings);
    let mut cleaner = started.inspect_err(|_| {
        health_name.into_iter().for_each(socket::Name::remove);
        pid_file.iter().for_each(PidFile::remove);
    })?;
    // The way to its directory is not for the process that serves.
    drop(pid_file);
    signals::handle_stop(manager.as_raw())?;
    signals::report_counts();
    let health_fd = health.as_ref().map(|listener| listener.socket.as_raw_fd());
    let (client, mut confined) = match source {
        Source::Client(client) => {
            let layers = layers_at_start(settings);
            let confined = || worker::confine(settings, sandbox, &directory, health_fd);
            let Some(confined) = signals::while_idle(confined) else { return Ok(Outcome::Clean) };
            let confined = confined?;
            layers::report(settings, layers.and(confined.layers))?;
            drop(directory);
            show_life(health.as_ref())?;
            parent.release()?;
            manager.tell("READY=1");
            (client, confined)
        }
        Source::Listener(listener) => {
            let export = directory.close()?;
            show_life(health.as_ref())?;
            waiting::confine(settings)?;
            parent.release()?;
            manager.tell("READY=1");
            let waiting = Waiting::new(settings, sandbox, &export, &listener, health.as_ref(), &mut manager);
            let Some(client) = waiting.for_client()? else { return Ok(Outcome::Clean) };
            let confined = || worker::confine(settings, sandbox, &export.find()?, health_fd);
            let Some(confined) = signals::while_idle(confined) else { return Ok(Outcome::Clean) };
            (client, confined?)
        }
    };
    cleaner.connected()?;
    if notify::watchdog().is_none() {
        manager.tell_again();
        // A process that was taken over could name another main process, which the manager then signals (MAINPID=, sd_notify(3)).
        signals::forget_manager();
        drop(manager);
    }
    signals::serving();
    counters::count_client();
    let outcome = worker::serve(Client::new(client), &mut confined);
    drop(cleaner);
    Ok(outcome)
}

/// Has this process, once it serves its one client itself, answer health checks and the service manager's watchdog.
fn show_life(health: Option<&Listener>) -> Result<()> {
    let answer = health_socket::line(true, "serving its one client");
    signals::show_life(health.map(|listener| listener.socket.as_fd()), answer, notify::watchdog())
}

/// One line for the log of every start: what is served, and over the proxy that its time is over.
fn say_what_is_served(directory: &Directory, device: Option<&str>) {
    let path = escape_path(directory.path());
    if let Some(tag) = device {
        log::info!(
            "serving '{path}' as a 9p device over vhost-user with the mount tag '{}'",
            escape(tag.as_bytes())
        );
        return;
    }
    log::info!(
        "serving '{path}'; QEMU removed the proxy backend in 9.2: \
         'virtfs-proxy-helper migrate check {path}' says how this export moves to 'local'"
    );
}

/// Closes every descriptor that was inherited by accident: all but the standard streams and the socket that was
/// passed on purpose.
fn close_inherited(settings: &Settings) -> Result<()> {
    let passed = match settings.endpoint {
        Endpoint::Connected(fd) | Endpoint::Inherited(fd, _) if fd >= 0 => Some(fd),
        _ => None,
    };
    // SAFETY: only its number is used.
    let passed = passed.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    sys::close_all_from(libc::STDERR_FILENO.unsigned_abs() + 1, passed.as_slice())
        .context("cannot close the descriptors that this process was started with")
}
