//! Socket activation and readiness, as systemd does them: `sd_listen_fds(3)`, `sd_notify(3)`.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::socket::{UnixAddr, getpeername, getsockname};

use crate::process;
use crate::program::{self, Launch, Running, wait_until};
use crate::start::Place;
use crate::wire::{Client, PATIENCE, ask};

/// Passes standard input as the first descriptor, to the process that this shell becomes.
const ACTIVATE: &str = r#"LISTEN_PID=$$ LISTEN_FDS=${COUNT-1} && export LISTEN_PID LISTEN_FDS &&
    exec "$@" 3<&0 0</dev/null"#;

/// Starts ours on a listening socket that it inherits.
fn activated(listener: UnixListener, place: &Place, options: &[&str], variables: &[(&str, &str)]) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", ACTIVATE, "sh"]).arg(program::ours()).arg("-p").arg(place.export()).args(options);
    command.envs(variables.iter().copied()).stdin(std::os::fd::OwnedFd::from(listener));
    Running::spawn(&mut command)
}

fn listen(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).expect("a socket");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the socket's mode");
    listener
}

#[test]
fn a_socket_that_systemd_passes_is_served_and_left_in_place() {
    for options in [&["-n"][..], &["-n", "--sandbox=chroot"], &["-n", "--shared=2"]] {
        let place = Place::new();
        let mut helper = activated(listen(&place.socket()), &place, options, &[]);
        Client::connect(&place.socket()).unwrap().ask(&ask::lstat(b"/file")).ok();
        assert!(helper.wait().success(), "{options:?}: {}", helper.log());
        // systemd made it and will pass it to the next one.
        assert!(place.socket().exists(), "{options:?}");
    }
}

#[test]
fn a_passed_socket_comes_back_when_qemu_removes_it() {
    // The client that the helper is started for has removed the name by the time the helper looks.
    for (options, at_first) in
        [(&["-n", "--persistent"][..], false), (&["-n", "--persistent", "-u0", "-g0"], true)]
    {
        let place = Place::new();
        let listener = listen(&place.socket());
        let first = at_first.then(|| {
            let client = Client::connect(&place.socket()).unwrap();
            fs::remove_file(place.socket()).unwrap();
            client
        });
        let _helper = activated(listener, &place, options, &[]);
        if let Some(mut client) = first {
            client.ask(&ask::lstat(b"/file")).ok();
        }
        for _ in 0..3 {
            let mut client = Client::connect_soon(&place.socket());
            client.ask(&ask::lstat(b"/file")).ok();
            fs::remove_file(place.socket()).unwrap();
            wait_until("the socket, made anew", || place.socket().exists());
        }
    }
}

#[test]
fn a_passed_socket_that_cannot_come_back_is_named() {
    let place = Place::new();
    let listener = listen(&place.socket());
    let mut client = Client::connect(&place.socket()).unwrap();
    fs::remove_file(place.socket()).unwrap();
    let helper = activated(listener, &place, &["-n", "--persistent"], &[]);
    client.ask(&ask::lstat(b"/file")).ok();
    let said = helper.log();
    assert!(said.contains("can't be made anew; add -u USER -g GROUP"), "{said}");
}

#[test]
fn a_daemon_takes_a_passed_socket_too() {
    let place = Place::new();
    let pid_file = format!("--pid-file={}", place.pid_file().display());
    let mut parent = activated(listen(&place.socket()), &place, &[&pid_file], &[]);
    assert!(parent.wait().success(), "{}", parent.log());
    Client::connect(&place.socket()).unwrap().ask(&ask::lstat(b"/file")).ok();
    wait_until("the daemon's end", || !place.pid_file().exists());
}

#[test]
fn what_was_passed_to_another_process_or_is_too_much_is_not_taken() {
    let place = Place::new();
    let mut two = activated(listen(&place.socket()), &place, &["-n"], &[("COUNT", "2")]);
    assert_eq!(two.wait().code(), Some(2));
    assert!(two.log().contains("systemd passed 2 sockets"), "{}", two.log());
    let launch = Launch::new(&program::ours(), &place.export());
    let launch = launch.variable("LISTEN_PID", "1").variable("LISTEN_FDS", "1");
    let (mut running, mut client) = launch.by_fd();
    client.ask(&ask::lstat(b"/file")).ok();
    drop(client);
    assert!(running.wait().success());
    let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", ACTIVATE, "sh"]).arg(program::ours()).arg("-n").arg("-p").arg(place.export());
    let mut connected = Running::spawn(command.stdin(std::os::fd::OwnedFd::from(near)));
    assert_eq!(connected.wait().code(), Some(1));
    assert!(connected.log().contains("not a listening socket"), "{}", connected.log());
}

#[track_caller]
fn told(manager: &UnixDatagram, expected: &str) {
    let mut buffer = [0; 256];
    let count = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("waiting for {expected}: {error}"));
    assert_eq!(String::from_utf8_lossy(&buffer[..count]), expected);
}

/// Whether a process has a socket that is connected to the manager's.
fn is_connected(pid: u32, manager: &UnixDatagram) -> bool {
    let address: UnixAddr = getsockname(manager.as_raw_fd()).unwrap();
    // SAFETY: plain integers; the descriptors that come back are this process's own.
    let copy = |number: u32| unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(process >= 0, "pidfd_open");
        let process = OwnedFd::from_raw_fd(i32::try_from(process).unwrap());
        let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
        (copy >= 0).then(|| OwnedFd::from_raw_fd(i32::try_from(copy).unwrap()))
    };
    let peer = |fd: OwnedFd| getpeername::<UnixAddr>(fd.as_raw_fd()).ok();
    process::descriptors(pid).into_keys().filter_map(copy).filter_map(peer).any(|peer| peer == address)
}

/// Reads a manager's socket while helpers start, serve and end in every way.
fn readiness(manager: &UnixDatagram, address: impl AsRef<OsStr>) {
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    for options in [&[][..], &["--persistent"], &["--shared=2"]] {
        for ended_by_client in [false, true] {
            if ended_by_client && options == ["--persistent"] {
                continue;
            }
            let place = Place::new();
            let mut launch =
                Launch::new(&program::ours(), &place.export()).variable("NOTIFY_SOCKET", &address);
            for option in options {
                launch = launch.option(option);
            }
            let mut helper = launch.by_socket(&place.socket());
            told(manager, "READY=1");
            // Ready means that a client can connect.
            let mut client = Client::connect(&place.socket()).expect("a socket that listens");
            client.ask(&ask::lstat(b"/file")).ok();
            if !options.is_empty() {
                assert!(is_connected(helper.pid(), manager), "{options:?}");
            }
            // A process that serves can't tell the manager anything: which process is the main one, for example.
            let of_serving: Vec<u32> =
                if options.is_empty() { vec![helper.pid()] } else { process::children(helper.pid()) };
            for pid in of_serving.into_iter().flat_map(|pid| [vec![pid], process::children(pid)].concat()) {
                assert!(!is_connected(pid, manager), "{options:?}: process {pid}");
            }
            if ended_by_client {
                drop(client);
            } else {
                helper.signal(Signal::SIGTERM);
            }
            if !options.is_empty() {
                told(manager, "STOPPING=1");
            }
            assert!(helper.wait().success(), "{options:?}: {}", helper.log());
        }
    }
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 256]).is_err(), "the manager was told more than once");
}

#[test]
fn the_manager_is_told_by_path() {
    let place = Place::new();
    let path = place.path().join("notify");
    readiness(&UnixDatagram::bind(&path).unwrap(), path);
}

#[test]
fn the_manager_is_told_by_abstract_name() {
    let name = format!("vph-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    readiness(&manager, format!("@{name}"));
}

#[test]
fn a_manager_that_is_not_there_harms_nobody() {
    let place = Place::new();
    let launch = Launch::new(&program::ours(), &place.export());
    let (mut running, mut client) = launch.variable("NOTIFY_SOCKET", place.path().join("nobody")).by_fd();
    client.ask(&ask::lstat(b"/file")).ok();
    drop(client);
    assert!(running.wait().success());
    assert!(running.log().contains("NOTIFY_SOCKET"), "{}", running.log());
}
