//! `healthcheck` and systemd's watchdog: only a helper that could serve a client now is healthy.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::{fs, io};

use nix::sys::signal::Signal;

use crate::program::{self, Launch, Running, wait_until};
use crate::start::{Place, finish, text, words};
use crate::wire::{Client, PATIENCE, ask};

fn check_within(socket: &Path, seconds: u32) -> Output {
    let mut args = words(["healthcheck", "--socket"]);
    args.push(socket.into());
    args.push(format!("--timeout={seconds}").into());
    finish(&program::ours(), args, Path::new("/"))
}

/// What `healthcheck` says on standard output; the status must be 0.
#[track_caller]
fn healthy(socket: &Path) -> String {
    let output = check_within(socket, 15);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What `healthcheck` says on standard error; the status must be 1.
#[track_caller]
fn unhealthy(socket: &Path) -> String {
    let output = check_within(socket, 1);
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.stdout.is_empty());
    text(&output.stderr)
}

fn health_socket(place: &Place) -> PathBuf {
    place.path().join("socket.health")
}

fn start(place: &Place, options: &[&str], variables: &[(&str, &Path)]) -> Running {
    let mut launch = Launch::new(&program::ours(), &place.export());
    for option in options {
        launch = launch.option(option);
    }
    for (name, value) in variables {
        launch = launch.variable(name, value);
    }
    let running = launch.by_socket(&place.socket());
    wait_until("the health socket", || UnixStream::connect(health_socket(place)).is_ok());
    running
}

/// Each way to serve from a socket, and what is said without a client and with one.
const WAYS: [(&[&str], &str, &str); 5] = [
    (&[], "waiting for its one client\n", "serving its one client\n"),
    (&["--sandbox=none"], "waiting for its one client\n", "serving its one client\n"),
    (&["--persistent"], "0 of 1 clients\n", "1 of 1 clients\n"),
    (&["--shared=2"], "0 of 2 clients\n", "1 of 2 clients\n"),
    (&["--persistent", "--sandbox=chroot", "--shared=3"], "0 of 3 clients\n", "1 of 3 clients\n"),
];

#[test]
fn a_helper_that_serves_is_healthy_and_asking_takes_no_clients_place() {
    for (options, without, with) in WAYS {
        let place = Place::new();
        let mut helper = start(&place, options, &[]);
        for _ in 0..3 {
            assert_eq!(healthy(&place.socket()), without, "{options:?}");
        }
        let mut client = Client::connect(&place.socket()).unwrap();
        client.ask(&ask::lstat(b"/file")).ok();
        for _ in 0..3 {
            assert_eq!(healthy(&place.socket()), with, "{options:?}");
            client.ask(&ask::lstat(b"/file")).ok();
        }
        helper.signal(Signal::SIGTERM);
        assert!(helper.wait().success(), "{options:?}: {}", helper.log());
        let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["export"], "{options:?}");
        assert!(unhealthy(&place.socket()).contains("no helper answers"), "{options:?}");
    }
}

#[test]
fn a_stopped_helper_is_unhealthy() {
    for (options, without, _) in WAYS {
        let place = Place::new();
        let helper = start(&place, options, &[]);
        healthy(&place.socket());
        helper.signal(Signal::SIGSTOP);
        assert!(unhealthy(&place.socket()).contains("no answer"), "{options:?}");
        helper.signal(Signal::SIGCONT);
        assert_eq!(healthy(&place.socket()), without, "{options:?}");
    }
}

#[test]
fn a_helper_that_refuses_every_client_is_unhealthy() {
    for options in [&["--persistent"][..], &["--persistent", "--sandbox=chroot"]] {
        let place = Place::new();
        let helper = start(&place, options, &[]);
        healthy(&place.socket());
        fs::remove_dir_all(place.export()).unwrap();
        let said = unhealthy(&place.socket());
        assert!(said.contains("no client can be served") || said.contains("no helper answers"), "{said}");
        assert!(helper.log().contains("does not exist"), "{}", helper.log());
    }
}

#[test]
fn a_helper_that_waits_for_its_one_client_is_as_healthy_as_its_export() {
    for options in [&["--sandbox=namespace"][..], &["--sandbox=chroot"], &["--sandbox=none"]] {
        let place = Place::new();
        let mut helper = start(&place, options, &[]);
        assert_eq!(healthy(&place.socket()), "waiting for its one client\n", "{options:?}");
        fs::remove_dir_all(place.export()).unwrap();
        assert!(unhealthy(&place.socket()).contains("no client can be served"), "{options:?}");
        assert!(helper.log().contains("does not exist"), "{}", helper.log());
        fs::write(place.export(), b"").unwrap();
        assert!(unhealthy(&place.socket()).contains("no client can be served"), "{options:?}");
        assert!(helper.log().contains("is not a directory"), "{}", helper.log());
        // Made again, it is the directory that the client gets.
        fs::remove_file(place.export()).unwrap();
        fs::create_dir(place.export()).unwrap();
        fs::write(place.export().join("new"), b"").unwrap();
        assert_eq!(healthy(&place.socket()), "waiting for its one client\n", "{options:?}");
        assert!(!helper.log().contains("another directory"), "{options:?}: {}", helper.log());
        // Nobody can connect to a socket without a name.
        fs::rename(place.socket(), place.path().join("away")).unwrap();
        assert!(unhealthy(&place.socket()).contains("is missing"), "{options:?}");
        fs::rename(place.path().join("away"), place.socket()).unwrap();
        let mut client = Client::connect(&place.socket()).unwrap();
        client.ask(&ask::lstat(b"/new")).ok();
        assert_eq!(healthy(&place.socket()), "serving its one client\n", "{options:?}");
        client.ask(&ask::lstat(b"/new")).ok();
        drop(client);
        assert!(helper.wait().success(), "{options:?}: {}", helper.log());
        let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["export"], "{options:?}");
    }
}

#[test]
fn a_helper_whose_socket_can_not_come_back_is_unhealthy() {
    let place = Place::new();
    let helper = start(&place, &["--persistent"], &[]);
    fs::remove_file(place.socket()).unwrap();
    let listener = loop {
        // The helper makes it anew meanwhile.
        match UnixListener::bind(place.socket()) {
            Ok(listener) => break listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                fs::remove_file(place.socket()).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    };
    helper.wait_for_log("cannot make the socket again");
    assert!(unhealthy(&place.socket()).contains("is missing"));
    drop(listener);
    wait_until("a socket again", || check_within(&place.socket(), 15).status.success());
}

/// Answers all who connect with the bytes given, as the effective user given; none: says nothing.
fn listen_as(path: &Path, uid: libc::uid_t, answer: Option<&'static [u8]>) {
    let listener = UnixListener::bind(path).expect("a socket");
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    let listening = std::thread::spawn(move || {
        // SAFETY: plain integers. The system call itself changes this thread alone.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) }, 0);
        // Who listens is who called listen(2) last.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(16).unwrap()).unwrap();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                if let Some(answer) = answer {
                    (&stream).write_all(answer).unwrap();
                } else {
                    held.push(stream);
                }
            }
        });
    });
    listening.join().unwrap();
}

#[test]
fn what_is_no_helper_is_unhealthy() {
    let place = Place::new();
    assert!(unhealthy(&place.socket()).contains("No such file"));
    let _other = UnixListener::bind(place.socket()).unwrap();
    assert!(unhealthy(&place.socket()).contains("another program"));
    drop(UnixListener::bind(health_socket(&place)).unwrap());
    assert!(unhealthy(&place.socket()).contains("another program"));
    for (uid, answer, sense) in [
        (0, Some(&b"HTTP/1.1 200 OK\n"[..]), "is not a helper"),
        (0, Some(b""), "is not a helper"),
        (0, Some(&[b'x'; 4096]), "is not a helper"),
        (0, None, "no answer"),
        (1234, Some(b"virtfs-proxy-helper ok all is well\n"), "uid 1234 listens"),
    ] {
        fs::remove_file(health_socket(&place)).unwrap();
        listen_as(&health_socket(&place), uid, answer);
        let said = unhealthy(&place.socket());
        assert!(said.contains(sense), "{sense}: {said}");
    }
}

#[test]
fn the_health_socket_comes_back_and_asking_without_reading_harms_nobody() {
    let place = Place::new();
    let _helper = start(&place, &["--persistent"], &[]);
    let _asking: Vec<_> = (0..40).map(|_| UnixStream::connect(health_socket(&place)).unwrap()).collect();
    healthy(&place.socket());
    fs::remove_file(health_socket(&place)).unwrap();
    wait_until("the health socket, made anew", || health_socket(&place).exists());
    healthy(&place.socket());
    Client::connect(&place.socket()).unwrap().ask(&ask::lstat(b"/file")).ok();
}

fn next(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let count = manager.recv(&mut buffer).expect("a message to the manager");
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[test]
fn the_watchdog_is_told_as_long_as_the_helper_can_serve() {
    for (options, ..) in WAYS {
        let place = Place::new();
        let path = place.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let variables = [("NOTIFY_SOCKET", path.as_path()), ("WATCHDOG_USEC", Path::new("300000"))];
        let mut helper = start(&place, options, &variables);
        assert_eq!(next(&manager), "READY=1", "{options:?}");
        for _ in 0..2 {
            assert_eq!(next(&manager), "WATCHDOG=1", "{options:?}");
        }
        let mut client = Client::connect(&place.socket()).unwrap();
        client.ask(&ask::lstat(b"/file")).ok();
        for _ in 0..3 {
            assert_eq!(next(&manager), "WATCHDOG=1", "{options:?}");
            client.ask(&ask::lstat(b"/file")).ok();
        }
        helper.signal(Signal::SIGTERM);
        assert!(helper.wait().success(), "{options:?}: {}", helper.log());
    }
}

#[test]
fn a_helper_that_refuses_every_client_does_not_tell_the_watchdog() {
    let place = Place::new();
    let path = place.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let variables = [("NOTIFY_SOCKET", path.as_path()), ("WATCHDOG_USEC", Path::new("60000"))];
    for options in [&["--persistent"][..], &[], &["--sandbox=none"]] {
        fs::create_dir_all(place.export()).unwrap();
        manager.set_nonblocking(false).unwrap();
        let mut helper = start(&place, options, &variables);
        while next(&manager) != "WATCHDOG=1" {}
        fs::remove_dir_all(place.export()).unwrap();
        let failures = || helper.log().matches("does not exist").count();
        wait_until("a check that fails", || failures() > 0);
        manager.set_nonblocking(true).unwrap();
        while manager.recv(&mut [0; 64]).is_ok() {}
        let before = failures();
        wait_until("more checks that fail", || failures() > before + 3);
        assert!(manager.recv(&mut [0; 64]).is_err(), "{options:?}: the watchdog was told");
        helper.signal(Signal::SIGTERM);
        assert!(helper.wait().success(), "{options:?}: {}", helper.log());
        while manager.recv(&mut [0; 64]).is_ok() {}
    }
}
