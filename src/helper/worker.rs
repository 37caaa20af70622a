//! A process that serves: behind its walls, with what it needs and nothing else.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::busy_poll::BusyPoll;
use super::connection::{Connection, Ending, Limits};
use super::export::ExportRoot;
use super::identity::{IdMaps, Identity};
use super::isolation::Sandbox;
use super::layer_switch::layer_enabled;
use super::layers::{Layer, Layers};
use super::mount_watch::Watched;
#[cfg(feature = "vhost-user")]
use super::ninep::{
    serve::{Ending as DeviceEnding, Server},
    session::Export as Export9p,
};
use super::operations::{Operations, REPLY};
use super::pid_namespace::{PidNamespaces, id_outside};
use super::protocol::Request;
use super::sandbox::{self, Directory, Entered, Export};
use super::seccomp::Filter;
use super::settings::Settings;
use super::socket::describe_peer;
use super::sticky::ProtectedRegular;
use super::{landlock, layers, logging, privileges, signals, sys};
use crate::exit::Outcome;

/// Who is served.
pub(crate) struct Client {
    socket: OwnedFd,
    /// Who it is, for the log: asked while its pid means something to this process.
    peer: String,
}

impl Client {
    /// The client at the other end of `socket`.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        let peer = describe_peer(socket.as_fd());
        Self { socket, peer }
    }
}

/// What a confined process serves the export with.
pub(crate) struct Confined {
    service: Service,
    /// The sandbox that it got.
    pub sandbox: Sandbox,
    /// What keeps it from the rest of the host.
    pub layers: Layers,
    /// What keeps it from the rest of the kernel, once it serves.
    filter: Arc<Filter>,
    busy_poll: BusyPoll,
    limits: Limits,
    /// Keeps the process alive that watches the mounts.
    watched: Option<Watched>,
}

/// What is spoken to clients.
enum Service {
    /// QEMU's proxy protocol.
    Proxy(Box<Operations>),
    /// 9P2000.L, as a device over vhost-user.
    #[cfg(feature = "vhost-user")]
    Device {
        /// The mount tag.
        tag: String,
        /// Taken by the one client that a process serves.
        export: Option<Box<Export9p>>,
    },
}

/// Confines this process to `directory` for good, and returns what serves it.
///
/// The order matters. The id maps and `fs.protected_regular` are read, and the processors counted, while `/proc` is in reach. The walls come first, because building them
/// takes capabilities that nothing after them does; then everything but the seven capabilities goes. The
/// identity is read last, as the capabilities that are left decide what it can do. The system call filter is prepared here
/// and falls into place when there is a client to serve: waiting for one takes calls that serving it does not.
///
/// Where this process answers health checks itself, it does so on the socket `health`.
pub(crate) fn confine(
    settings: &Settings,
    sandbox: Sandbox,
    directory: &Directory,
    health: Option<RawFd>,
) -> Result<Confined> {
    let maps = IdMaps::read()?;
    let protected = ProtectedRegular::read();
    let busy_poll = BusyPoll::new(settings.busy_poll);
    let Entered { reach, sandbox, mut layers, watched } =
        sandbox::enter(sandbox, directory, settings.access(), settings.seccomp)?;
    if layer_enabled("landlock") {
        layers = layers.with(Layer::Landlock, landlock::confine(&reach, settings.access())?);
    }
    if layer_enabled("capabilities") {
        layers = layers.and(privileges::drop_all_but(&settings.kept)?);
    }
    let identity = Identity::of_this_thread(maps)?;
    if layer_enabled("limits") {
        match settings.device {
            Some(_) => privileges::limit_device(settings.rlimit_nofile)?,
            None => privileges::limit_resources(settings.rlimit_nofile)?,
        }
        layers = layers.with(Layer::Limits, true);
    }
    let filter = match settings.device {
        Some(_) => Filter::for_device(settings.seccomp, health)?,
        None => Filter::prepare(settings.seccomp, health)?,
    };
    // A forked process is the first of a PID namespace only where the namespace was made for it.
    let is_first = settings.has_supervisor() && std::process::id() == 1;
    layers = layers.with(Layer::SystemCalls, filter.exists()).with(Layer::Pid, is_first);
    layers::require_confined(settings, layers)?;
    let service = service(settings, reach, identity, protected)?;
    let (filter, limits) = (Arc::new(filter), Limits::of(settings));
    Ok(Confined { service, sandbox, layers, filter, busy_poll, limits, watched })
}

#[cfg_attr(not(feature = "vhost-user"), allow(clippy::unnecessary_wraps, reason = "a device can fail"))]
fn service(
    settings: &Settings,
    reach: ExportRoot,
    identity: Identity,
    protected: ProtectedRegular,
) -> Result<Service> {
    #[cfg(feature = "vhost-user")]
    if let Some(tag) = &settings.device {
        let export = Export9p::new(&reach, identity, settings.readonly, protected);
        let export = Some(Box::new(export.context("cannot look at the export")?));
        return Ok(Service::Device { tag: tag.clone(), export });
    }
    let operations = Operations::new(reach, identity, settings.readonly, protected);
    Ok(Service::Proxy(Box::new(operations)))
}

/// Serves one client until it leaves, and says how that ended.
pub(crate) fn serve(client: Client, confined: &mut Confined) -> Outcome {
    let Client { socket, peer } = client;
    log::info!("client connected: {peer}");
    if let Some(watched) = &mut confined.watched {
        watched.settle();
    }
    #[cfg_attr(
        not(feature = "vhost-user"),
        allow(clippy::infallible_destructuring_match, reason = "there is a device, too")
    )]
    let operations = match &mut confined.service {
        Service::Proxy(operations) => operations,
        #[cfg(feature = "vhost-user")]
        Service::Device { tag, export } => {
            let Some(export) = export.take() else { return Outcome::Failure };
            return serve_device(socket, &peer, tag, *export, &confined.filter, confined.busy_poll);
        }
    };
    // Sets the socket up, which the filter does not allow.
    let mut connection = Connection::new(socket, confined.busy_poll, confined.limits);
    if let Err(error) = confined.filter.install() {
        log::error!("cannot serve a client: {error:#}");
        return Outcome::Failure;
    }
    sys::slim_down();
    let ending = connection.serve(operations);
    // The kernel closes the socket at the end of the process, where it waits for nothing that its queue holds.
    std::mem::forget(connection);
    match ending {
        Ending::Left => log::info!("client left: {peer}"),
        Ending::Idle => log::info!(
            "client was idle for as long as --idle-timeout allows: closing the connection ({peer})"
        ),
        Ending::Stopped => log::info!("stopped by a signal"),
        Ending::CutOff(bytes) => {
            log::warn!("client left in the middle of a request, after {bytes} bytes: {peer}");
        }
        Ending::Malformed(reason) => {
            log::error!("{reason}: closing the connection ({peer})");
            return Outcome::Failure;
        }
        Ending::Broken(errno) => {
            log::error!("the connection failed: {} ({peer})", errno.desc());
            return Outcome::Failure;
        }
    }
    Outcome::Clean
}

/// Serves one front-end until it leaves, and says how that ended.
#[cfg(feature = "vhost-user")]
fn serve_device(
    socket: OwnedFd,
    peer: &str,
    tag: &str,
    export: Export9p,
    filter: &Arc<Filter>,
    busy_poll: BusyPoll,
) -> Outcome {
    let started = Server::new(socket, tag.as_bytes(), export, busy_poll).and_then(|server| {
        signals::end_at_bus_error()?;
        server.start(filter)?;
        Ok(server)
    });
    let mut server = match started {
        Ok(server) => server,
        Err(error) => {
            log::error!("cannot serve a client: {error:#}");
            return Outcome::Failure;
        }
    };
    sys::slim_down();
    let ending = server.serve();
    // As for a client of the proxy protocol: the end of the process closes it. Its threads end so, too.
    std::mem::forget(server);
    match ending {
        DeviceEnding::Left => log::info!("client left: {peer}"),
        DeviceEnding::Stopped => log::info!("stopped by a signal"),
        DeviceEnding::Malformed(error) => {
            log::error!(
                "the front-end sent a message that cannot be: {error}: closing the connection ({peer})"
            );
            return Outcome::Failure;
        }
        DeviceEnding::Broken(errno) => {
            log::error!("the connection failed: {} ({peer})", errno.desc());
            return Outcome::Failure;
        }
    }
    Outcome::Clean
}

/// Finds out whether the export can be looked at, as the first request of a client would.
pub(crate) fn look_at_export(confined: &mut Confined) -> Outcome {
    let looked = match &mut confined.service {
        Service::Proxy(operations) => {
            let mut reply = vec![0; REPLY];
            operations.perform(Request::Lstat { path: b"/" }, &mut reply).map(drop)
        }
        #[cfg(feature = "vhost-user")]
        Service::Device { export, .. } => export.iter().try_for_each(|it| it.root.status().map(drop)),
    };
    confined.watched.take().into_iter().for_each(Watched::end);
    match looked {
        Ok(()) => Outcome::Clean,
        Err(errno) => {
            log::error!("cannot serve a client: the export can't be looked at: {}", errno.desc());
            Outcome::Failure
        }
    }
}

/// Whether this process could confine itself to the export and look at it now: a forked process tries.
pub(crate) fn could_serve(settings: &Settings, sandbox: Sandbox, export: &Export) -> Result<bool> {
    // Not 0, with which a process ends that a signal asks to stop.
    const WELL: i32 = 10;

    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }.context("cannot start a process")? {
        ForkResult::Child => {
            // What the other process holds must not stay open in a process that a file system holds. Nothing here uses it.
            let kept = logging::descriptor();
            let closed = sys::close_all_from(libc::STDERR_FILENO.unsigned_abs() + 1, kept.as_slice());
            signals::forget_cleaner();
            let looked = closed
                .context("cannot close the waiting process's descriptors")
                .and_then(|()| signals::handle_stop(-1))
                .and_then(|()| confine(settings, sandbox, &export.find_silently()?, None));
            let outcome = match looked {
                Ok(mut confined) => look_at_export(&mut confined),
                Err(error) => {
                    log::error!("cannot serve a client: {error:#}");
                    Outcome::Failure
                }
            };
            // SAFETY: ends the forked process; nothing is left to unwind or flush.
            unsafe { libc::_exit(if outcome == Outcome::Clean { WELL } else { 1 }) }
        }
        ForkResult::Parent { child } => Ok(matches!(wait_for(child)?, WaitStatus::Exited(_, WELL))),
    }
}

/// What a worker can be confined by.
pub(crate) struct Rehearsed {
    /// The sandbox that workers are to use: namespace becomes chroot where only that can be had.
    pub sandbox: Sandbox,
    /// The layers that a worker gets.
    pub layers: Layers,
}

/// Confines a forked process as a worker would be, to find out beforehand whether a worker can be.
pub(crate) fn rehearse(settings: &Settings, directory: &Directory) -> Result<Rehearsed> {
    // Not 0: a process that a signal ends before it has found out exits with 0.
    const WELL: i32 = 10;
    const FELL_BACK: i32 = 11;

    let layers = sys::shared_counter().context("cannot allocate a counter")?;
    let pid_namespaces = settings.has_supervisor().then(|| PidNamespaces::find(settings.sandbox));
    // SAFETY: this process has one thread.
    match unsafe { pid_namespaces.unwrap_or_default().fork() }.context("cannot fork")? {
        ForkResult::Child => {
            logging::set_pid(id_outside());
            let status = match confine(settings, settings.sandbox, directory, None) {
                Ok(confined) => {
                    layers.store(confined.layers.to_bits(), Ordering::SeqCst);
                    confined.watched.into_iter().for_each(Watched::end);
                    if confined.sandbox == settings.sandbox { WELL } else { FELL_BACK }
                }
                Err(error) => {
                    logging::complain(format_args!("{error:#}"));
                    1
                }
            };
            // SAFETY: ends the forked process; nothing is left to unwind or flush.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => {
            let sandbox = match wait_for(child)? {
                WaitStatus::Exited(_, WELL) => settings.sandbox,
                WaitStatus::Exited(_, FELL_BACK) => Sandbox::Chroot,
                _ => anyhow::bail!("no process of this helper's can be confined to the export"),
            };
            Ok(Rehearsed { sandbox, layers: Layers::from_bits(layers.load(Ordering::SeqCst)) })
        }
    }
}

/// Waits for the end of a child. A signal that asks this process to stop does not end the wait: it is heeded later.
fn wait_for(child: Pid) -> Result<WaitStatus> {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            result => return result.context("cannot wait for a process"),
        }
    }
}
