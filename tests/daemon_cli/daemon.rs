//! Without -n: the parent returns when the socket listens, and the daemon is on its own.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::process;
use crate::program;
use crate::start::{Daemon, Place, finish, text, words};
use crate::wire::{Client, ask};

#[test]
fn when_the_parent_returns_the_socket_listens() {
    for options in [&[][..], &["--persistent"], &["--shared=4"], &["--sandbox=chroot"]] {
        for _ in 0..5 {
            let place = Place::new();
            let daemon = Daemon::start(&place, options);
            // At once: no script has to poll.
            let mut client = Client::connect(&place.socket()).expect("a socket that listens");
            client.ask(&ask::lstat(b"/file")).ok();
            daemon.signal(Signal::SIGTERM);
            daemon.wait();
            assert!(!place.socket().exists(), "{options:?}: the socket stays behind");
            assert!(!place.pid_file().exists(), "{options:?}: the pid file stays behind");
        }
    }
}

#[test]
fn the_daemon_has_a_session_of_its_own_and_no_terminal() {
    let place = Place::new();
    for options in [&[][..], &["--persistent"]] {
        let daemon = Daemon::start(&place, options);
        // The session's id is the sixth field of /proc/PID/stat, the terminal's the seventh.
        let stat = fs::read_to_string(process::of(daemon.pid, "stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        assert_eq!((fields[3], fields[4]), (daemon.pid.to_string().as_str(), "0"), "{stat}");
        let open = process::descriptors(daemon.pid);
        for number in 0..3 {
            assert_eq!(open[&number], "/dev/null", "{options:?}: {open:?}");
        }
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
    }
}

#[test]
fn it_ends_with_its_client_and_takes_socket_and_pid_file_along() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut client = Client::connect(&place.socket()).unwrap();
    client.ask(&ask::lstat(b"/")).ok();
    assert!(place.pid_file().exists());
    drop(client);
    daemon.wait();
    assert!(!place.socket().exists() && !place.pid_file().exists());
}

#[test]
fn a_hangup_leaves_it_be() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["--persistent"]);
    daemon.signal(Signal::SIGHUP);
    let mut client = Client::connect(&place.socket()).unwrap();
    client.ask(&ask::lstat(b"/")).ok();
    daemon.signal(Signal::SIGHUP);
    client.ask(&ask::lstat(b"/")).ok();
    assert!(daemon.is_alive());
}

#[test]
fn defect_07_a_daemon_that_cannot_start_says_so_and_fails() {
    let place = Place::new();
    let args = ["-p", "export", "-s", "nowhere/socket", "-u", "0", "-g", "0"];
    assert_eq!(
        finish(&program::reference(), args, place.path()).status.code(),
        Some(0),
        "the reference is cured"
    );
    let ours = finish(&program::ours(), args, place.path());
    assert_eq!(ours.status.code(), Some(1));
    assert!(text(&ours.stderr).contains("cannot bind"), "{}", text(&ours.stderr));
}

#[test]
fn defect_13_relative_paths_are_the_callers() {
    let place = Place::new();
    let args = words(["-p", "export", "-s", "socket", "-u", "0", "-g", "0"]);
    let daemon = Daemon::start_with(&place, args, &["--pid-file=other", "--persistent"]);
    let mut client = Client::connect(&place.socket()).expect("a socket in the caller's directory");
    client.ask(&ask::lstat(b"/file")).ok();
    assert!(!Path::new("/socket").exists());
    // What it makes anew later lands there too.
    drop(client);
    fs::remove_file(place.socket()).unwrap();
    Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/file")).ok();
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    assert!(!place.socket().exists());
}
