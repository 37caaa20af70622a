//! The processes beside the one that serves: the supervisor, the cleaner, and the one that watches the mounts.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::process::{self, capabilities, status};
use crate::program::{self, Running};
use crate::wire::{Client, ask};
use crate::{SANDBOXES, ours};

/// Every process of a helper, with its name.
fn all(running: &Running) -> Vec<(u32, String)> {
    let mut found = vec![running.pid()];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(process::children(pid));
        next += 1;
    }
    found.into_iter().map(|pid| (pid, status(pid, "Name"))).collect()
}

/// The soft and the hard limit of a process.
fn limit(pid: u32, name: &str) -> (u64, u64) {
    let limits = fs::read_to_string(process::of(pid, "limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut numbers = line.split_whitespace().map(|word| word.parse().unwrap_or(u64::MAX));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[track_caller]
fn is_confined(pid: u32, when: &str) {
    assert_eq!(status(pid, "Seccomp"), "2", "{when}");
    assert_eq!(status(pid, "NoNewPrivs"), "1", "{when}");
    assert_eq!(capabilities(pid, "CapPrm") & !capabilities(pid, "CapBnd"), 0, "{when}");
    for (name, most) in [("Max address space", 64 << 20), ("Max open files", 8192), ("Max core file size", 0)]
    {
        let (soft, hard) = limit(pid, name);
        assert!(soft <= hard && hard <= most, "{when}: {name} is {soft}, {hard}");
    }
}

#[test]
fn every_process_of_a_helper_that_serves_has_a_filter_and_limits() {
    let dir = program::scratch();
    let socket = dir.path().join("socket");
    let export = dir.path().join("export");
    fs::create_dir(&export).unwrap();
    let pid_file = format!("--pid-file={}", dir.path().join("pid").display());
    for sandbox in SANDBOXES {
        let watcher = usize::from(sandbox == "namespace");
        let launch = ours(&export, sandbox).option(&pid_file);
        for (way, workers) in [("by -s", 1), ("by a supervisor", 2)] {
            let launch = if workers == 1 {
                launch.clone()
            } else {
                launch.clone().option("--persistent").option("--shared=2")
            };
            let mut running = launch.by_socket(&socket);
            let mut clients: Vec<_> = (0..workers).map(|_| Client::connect_soon(&socket)).collect();
            for client in &mut clients {
                client.ask(&ask::lstat(b"/")).ok();
            }
            let processes = all(&running);
            for (pid, name) in &processes {
                is_confined(*pid, &format!("{sandbox}, {way}, {name}"));
            }
            let count = |name: &str| processes.iter().filter(|(_, its)| its == name).count();
            let watches = count("virtfs-mounts");
            assert!(watches >= workers * watcher, "{sandbox}, {way}: {processes:?}");
            assert_eq!(count("virtfs-cleaner"), usize::from(way == "by -s"), "{processes:?}");
            assert_eq!(processes.len(), workers + 1 + watches, "{sandbox}, {way}: {processes:?}");
            drop(clients);
            if way == "by a supervisor" {
                running.signal(Signal::SIGTERM);
            }
            assert_eq!(running.wait().code(), Some(0), "{sandbox}, {way}: {}", running.log());
            // The cleaner can still do its work, and so can the supervisor.
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
            assert_eq!(left, ["export"], "{sandbox}, {way}");
            assert!(!running.log().contains("SIGSYS"), "{}", running.log());
        }
    }
}

#[test]
fn a_process_that_waits_for_its_one_client_has_a_filter_and_limits_and_serves_afterwards() {
    let dir = program::scratch();
    let socket = dir.path().join("socket");
    let export = dir.path().join("export");
    fs::create_dir(&export).unwrap();
    for sandbox in SANDBOXES {
        for (options, filter) in [(&[][..], "2"), (&["--readonly"], "2"), (&["--seccomp=none"], "0")] {
            let when = format!("{sandbox}, {options:?}");
            let launch = options.iter().fold(ours(&export, sandbox), program::Launch::option);
            let mut running = launch.by_socket(&socket);
            // It answers: it is ready.
            program::wait_until("the health socket", || healthy(&socket));
            assert_eq!(status(running.pid(), "Seccomp"), filter, "{when}");
            if filter == "2" {
                is_confined(running.pid(), &when);
            }
            assert_eq!(status(running.pid(), "Groups"), "", "{when}");
            let mut client = Client::connect_soon(&socket);
            client.ask(&ask::lstat(b"/")).ok();
            if options.is_empty() {
                client.ask(&ask::mkdir(b"/d", 0o755, 1000, 1000)).ok();
                client.ask(&ask::remove(b"/d")).ok();
            }
            // On top of the first one.
            let filters = if filter == "2" { "2" } else { "0" };
            assert_eq!(status(running.pid(), "Seccomp_filters"), filters, "{when}");
            drop(client);
            assert_eq!(running.wait().code(), Some(0), "{when}: {}", running.log());
            assert!(!running.log().contains("SIGSYS"), "{}", running.log());
        }
    }
}

/// What a health check says.
fn healthy(socket: &Path) -> bool {
    let command = ["healthcheck", "--timeout=60", "--socket"];
    std::process::Command::new(program::ours()).args(command).arg(socket).output().unwrap().status.success()
}

#[test]
fn a_supervisor_keeps_on_after_everything_that_it_does() {
    let dir = program::scratch();
    let socket = dir.path().join("sockets/socket");
    let export = dir.path().join("export");
    fs::create_dir(&export).unwrap();
    fs::create_dir(dir.path().join("sockets")).unwrap();
    for sandbox in SANDBOXES {
        let launch = ours(&export, sandbox).option("--persistent").option("--shared=3");
        let mut running = launch.by_socket(&socket);
        for _ in 0..2 {
            // Clients, also one whose worker is shot; questions; the socket and its directory made anew.
            let mut one = Client::connect_soon(&socket);
            let mut other = Client::connect_soon(&socket);
            one.ask(&ask::mkdir(b"/d", 0o755, 1000, 1000)).ok();
            other.ask(&ask::remove(b"/d")).ok();
            assert!(healthy(&socket), "{sandbox}: {}", running.log());
            let worker = process::children(running.pid())[0];
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(i32::try_from(worker).unwrap()),
                Signal::SIGKILL,
            )
            .unwrap();
            running.wait_for_log(&format!("worker {worker} was killed"));
            fs::remove_file(&socket).unwrap();
            program::wait_until("the socket", || socket.exists());
            fs::rename(dir.path().join("sockets"), dir.path().join("old")).unwrap();
            fs::create_dir(dir.path().join("sockets")).unwrap();
            program::wait_until("the socket and its health socket", || {
                socket.exists() && socket.with_extension("health").exists()
            });
            fs::remove_dir_all(dir.path().join("old")).unwrap();
            // Another directory at the export's path.
            fs::remove_dir(&export).unwrap();
            fs::create_dir(&export).unwrap();
            let mut third = Client::connect_soon(&socket);
            third.ask(&ask::mkdir(b"/third", 0o755, 0, 0)).ok();
            third.ask(&ask::remove(b"/third")).ok();
        }
        running.signal(Signal::SIGTERM);
        assert_eq!(running.wait().code(), Some(0), "{sandbox}: {}", running.log());
        assert!(!socket.exists());
    }
}
