//! What is logged, where and how much.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::program::{self, Launch, Running};
use crate::start::{Place, words};
use crate::wire::{Client, PATIENCE, ask};

/// The last line of counts, once it says `wanted`.
#[track_caller]
fn counts(running: &Running, wanted: &str) -> String {
    running.signal(Signal::SIGUSR1);
    running.wait_for_log(wanted);
    running.log().lines().rfind(|line| line.contains("requests: ")).unwrap().to_owned()
}

#[test]
fn sigusr1_counts_requests_errors_clients_and_memory() {
    for options in [&[][..], &["--persistent", "--shared=3"]] {
        let place = Place::new();
        let mut launch = Launch::new(&program::ours(), &place.export()).option("--log-level=debug");
        for option in options {
            launch = launch.option(option);
        }
        let running = launch.by_socket(&place.socket());
        let mut client = Client::connect_soon(&place.socket());
        for _ in 0..7 {
            client.ask(&ask::lstat(b"/file")).ok();
        }
        client.ask(&ask::lstat(b"/none")).fails(Errno::ENOENT);
        std::os::unix::fs::symlink("loop", place.export().join("loop")).unwrap();
        client.ask(&ask::chmod(b"/loop/\nx", 0o600)).fails(Errno::ELOOP);
        let line = counts(
            &running,
            "lstat 8 (1 failed), chmod 1 (1 failed); errors: ENOENT 1, ELOOP 1; clients: 1 now, 1 since",
        );
        let memory = line.split("memory: ").nth(1).unwrap().split(' ').next().unwrap();
        assert!(memory.parse::<u64>().unwrap() > 100_000, "{line}");
        assert!(running.log().contains(r"refused T_CHMOD '/loop/\x0ax': ELOOP"), "{}", running.log());
        assert!(!running.log().contains("refused T_LSTAT"), "{}", running.log());
        // The counts of a worker are there after its end.
        if !options.is_empty() {
            drop(client);
            let mut client = Client::connect_soon(&place.socket());
            client.ask(&ask::lstat(b"/file")).ok();
            counts(&running, "2 since the start");
            running.wait_for_log("lstat 9 (1 failed)");
        }
    }
}

#[test]
fn one_line_at_the_start_says_that_the_backends_time_is_over() {
    let place = Place::new();
    let (mut running, mut client) = Launch::new(&program::ours(), &place.export()).by_fd();
    client.ask(&ask::lstat(b"/")).ok();
    drop(client);
    running.wait();
    let log = running.log();
    let about: Vec<&str> = log.lines().filter(|line| line.contains("9.2")).collect();
    assert_eq!(about.len(), 1, "{log}");
    let command = format!("migrate check {}", place.export().display());
    assert!(about[0].contains(&command), "{log}");
}

#[test]
fn the_level_decides_what_is_said() {
    let place = Place::new();
    let said = |level: &str| {
        let launch = Launch::new(&program::ours(), &place.export());
        let (mut running, mut client) = launch.option(format!("--log-level={level}")).by_fd();
        client.ask(&ask::lstat(b"/")).ok();
        // No request: an error.
        assert!(client.send(&[0xff; 8]));
        client.wait_closed().closed();
        running.wait();
        running.log()
    };
    assert_eq!(said("off"), "");
    let errors = said("error");
    assert!(errors.lines().count() == 1 && errors.contains("closing the connection"), "{errors}");
    assert_eq!(said("warn").lines().count(), 1);
    let info = said("info");
    assert!(info.contains("serving '") && info.contains("client connected"), "{info}");
    assert!(said("debug").lines().count() >= info.lines().count());
}

/// Starts ours where `/dev/log` is the socket given, and nowhere else.
fn with_syslog(place: &Place, options: &[&str]) -> (UnixDatagram, Running) {
    let dev = place.path().join("dev");
    std::fs::create_dir(&dev).unwrap();
    std::fs::write(dev.join("null"), "").unwrap();
    let log = UnixDatagram::bind(dev.join("log")).unwrap();
    log.set_read_timeout(Some(PATIENCE)).unwrap();
    let script = r#"mount --bind /dev/null "$0/null" && mount --rbind "$0" /dev && exec "$@""#;
    let mut all = words(["--mount", "sh", "-c", script]);
    all.push(dev.into());
    all.push(program::ours().into());
    all.extend(place.listening());
    all.extend(words(options));
    (log, Running::spawn(Command::new("unshare").args(all).stdin(Stdio::null())))
}

fn line(log: &UnixDatagram) -> String {
    let mut buffer = [0; 2048];
    let count = log.recv(&mut buffer).expect("a line in syslog");
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

/// Defect 15: severities, who connected, and the original's ident and facility.
#[test]
fn defect_15_a_daemon_logs_to_syslog_with_severities_and_peers() {
    for options in [&["-n", "--syslog"][..], &[]] {
        let place = Place::new();
        let (log, mut helper) = with_syslog(&place, options);
        // facility daemon (3), severity info (6)
        let first = line(&log);
        let (head, message) = first.split_once(": ").unwrap();
        let pid = head.strip_prefix("<30>virtfs-proxy-helper[").and_then(|rest| rest.strip_suffix(']'));
        assert!(pid.is_some_and(|pid| pid.parse::<u32>().is_ok()), "{first}");
        assert!(message.starts_with("serving '"), "{first}");
        let layers = line(&log);
        assert!(layers.starts_with("<30>") && layers.contains(": isolation layers: "), "{layers}");
        let mut client = Client::connect_soon(&place.socket());
        client.ask(&ask::lstat(b"/file")).ok();
        let connected = line(&log);
        let me = format!("client connected: pid {}, uid 0, gid 0", std::process::id());
        assert!(connected.starts_with("<30>") && connected.ends_with(&me), "{connected}");
        assert!(client.send(&[0xff; 8]));
        // severity error (3)
        assert!(line(&log).starts_with("<27>virtfs-proxy-helper["));
        helper.wait();
        assert_eq!(helper.log(), "", "{options:?}");
    }
}
