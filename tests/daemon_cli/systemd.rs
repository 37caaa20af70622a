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

/// The template unit that is shipped.
const TEMPLATE: &str = "scripts/systemd/virtfs-proxy-helper@.service";

fn template() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(TEMPLATE)).unwrap()
}

/// The words of all settings of this name.
fn words_of<'a>(unit: &'a str, setting: &'a str) -> Vec<&'a str> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
    values.flat_map(str::split_ascii_whitespace).collect()
}

fn analyze(args: &[&str]) -> String {
    let mut command = Command::new("systemd-analyze");
    let output = command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("systemd-analyze is missing: install systemd");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The exposure that `systemd-analyze security` states.
fn exposure(unit: &str) -> f64 {
    let said = analyze(&["security", "--offline=true", "--no-pager", unit]);
    let last = said.split("Overall exposure level for ").nth(1).unwrap_or_else(|| panic!("{said}"));
    last.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_template_is_well_formed_and_as_exposed_as_the_readme_says() {
    let folder = program::scratch();
    // systemd-analyze looks for the program.
    let unit =
        template().replace("/usr/lib/qemu/virtfs-proxy-helper", &program::ours().display().to_string());
    let path = folder.path().join("virtfs-proxy-helper@.service");
    fs::write(&path, unit).unwrap();
    let said = analyze(&["verify", "--man=no", path.to_str().unwrap()]);
    assert!(!said.contains("virtfs-proxy-helper@"), "{said}");
    let bare = folder.path().join("bare@.service");
    fs::write(&bare, "[Service]\nExecStart=/bin/true\n").unwrap();
    let readme = include_str!("../../README.md");
    let rated = readme.split("rates its exposure ").nth(1).unwrap().split(';').next().unwrap();
    let without = readme.split("the same service has ").nth(1).unwrap().split(". ").next().unwrap();
    // Later versions of systemd may rate otherwise.
    let close = |found: f64, said: &str| (found - said.parse::<f64>().unwrap()).abs() < 0.35;
    let found = (exposure(path.to_str().unwrap()), exposure(bare.to_str().unwrap()));
    assert!(close(found.0, rated) && close(found.1, without), "{found:?}: {rated} {without}");
}

#[test]
fn the_units_that_adopt_are_well_formed() {
    let folder = program::scratch();
    // An escaped path of an export: its own words must come through.
    let instance = "virtfs-migrate-adopt@srv-drop\\x2dfolder";
    for kind in ["service", "timer", "path"] {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("scripts/systemd/virtfs-migrate-adopt@.{kind}"));
        let unit = fs::read_to_string(shipped).unwrap();
        let unit = unit.replace("/usr/lib/qemu/virtfs-proxy-helper", &program::ours().display().to_string());
        fs::write(folder.path().join(format!("virtfs-migrate-adopt@.{kind}")), unit).unwrap();
    }
    for kind in ["service", "timer", "path"] {
        let path = folder.path().join(format!("{instance}.{kind}"));
        let said = analyze(&["verify", "--man=no", path.to_str().unwrap()]);
        assert!(!said.contains("virtfs-migrate-adopt@"), "{kind}: {said}");
    }
    // The options of the service are the program's.
    let service = fs::read_to_string(folder.path().join("virtfs-migrate-adopt@.service")).unwrap();
    let start: Vec<_> =
        words_of(&service, "ExecStart").into_iter().filter(|word| !word.starts_with('$')).collect();
    let parsed = <virtfs_proxy_helper::internals::Cli as clap::Parser>::try_parse_from(start);
    assert!(parsed.is_ok(), "{:?}", parsed.err());
}

/// What the template forbids, applied without systemd: its variables, capabilities, no new privileges, namespaces. Which
/// system calls the helper makes is compared with the filter.
#[test]
fn the_helper_serves_under_the_templates_restrictions() {
    let unit = template();
    let place = Place::new();
    let capabilities: Vec<_> = words_of(&unit, "CapabilityBoundingSet")
        .iter()
        .map(|name| format!("+{}", name.strip_prefix("CAP_").unwrap().to_lowercase()))
        .collect();
    assert_eq!((capabilities.len(), words_of(&unit, "NoNewPrivileges")), (10, vec!["yes"]));
    let trace = place.path().join("trace");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--propagation", "slave", "strace", "-f", "-qq", "-o"]).arg(&trace);
    command.args(["setpriv", "--no-new-privs", "--bounding-set"]);
    command.arg(format!("-all,{}", capabilities.join(",")));
    command.arg("--").arg(program::ours());
    let start = words_of(&unit, "ExecStart");
    command.args(&start[1..]);
    for assignment in words_of(&unit, "Environment") {
        let (name, value) = assignment.split_once('=').unwrap();
        let socket = place.socket().display().to_string();
        command.env(name, if name == "VIRTFS_SOCKET" { &socket } else { value });
    }
    // The file of options.
    command.env("VIRTFS_PATH", place.export()).env("VIRTFS_UID", "0").env("VIRTFS_GID", "0");
    let mut helper = Running::spawn(command.stdin(std::process::Stdio::null()));
    let mut client = Client::connect_soon(&place.socket());
    client.ask(&ask::mkdir(b"/dir", 0o755, 1000, 1000)).ok();
    client.ask(&ask::mknod(b"/null", libc::S_IFCHR | 0o600, 0x103, 0, 0)).ok();
    client.ask(&ask::chown(b"/file", 5, 6)).ok();
    client.ask(&ask::chmod(b"/file", 0o6755)).ok();
    client.ask(&ask::open(b"/file", libc::O_RDWR)).ok();
    assert!(!helper.log().contains("missing") && !helper.log().contains("falling back"), "{}", helper.log());
    drop(client);
    for child in crate::process::children(helper.pid()) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.cast_signed()), Signal::SIGTERM).unwrap();
    }
    helper.wait();
    let mut allowed = std::collections::BTreeSet::new();
    let mut sets: Vec<String> = words_of(&unit, "SystemCallFilter").iter().map(ToString::to_string).collect();
    sets.push("@default".into());
    while let Some(name) = sets.pop() {
        if !name.starts_with('@') {
            allowed.insert(name);
            continue;
        }
        let listed = analyze(&["syscall-filter", "--no-pager", &name]);
        let calls = listed.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#'));
        sets.extend(calls.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    let trace = fs::read_to_string(&trace).unwrap();
    let called: std::collections::BTreeSet<_> = trace
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('(').map(|(name, _)| name))
        .filter(|name| {
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        })
        .collect();
    assert!(called.len() > 30 && called.contains("pivot_root"), "{called:?}");
    let refused: Vec<_> = called.iter().filter(|name| !allowed.contains(**name)).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
