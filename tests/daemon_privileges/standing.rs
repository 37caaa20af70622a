//! The state of a process that serves: capabilities, mounts, descriptors.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::Path;

use libc::{O_CREAT, O_RDWR};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::apart::with_private_mounts;
use crate::process::{self, capabilities, status};
use crate::program::{self, Launch, Running};
use crate::refuse::{Refused, refusing};
use crate::tree::Owned;
use crate::wire::{Client, LEAVE, ask};
use crate::{SANDBOXES, ours};

/// DAC_OVERRIDE.
pub const FOR_READING: u64 = 1 << 1;
/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD.
const THE_SEVEN: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 27;
/// SETPCAP, SYS_CHROOT, SYS_ADMIN: what building a worker's walls takes besides.
const FOR_WALLS: u64 = 1 << 8 | 1 << 18 | 1 << 21;

/// Every way to be served, with the process that serves.
pub fn each_way(root: &Path, sandbox: &str, test: impl Fn(&str, u32, &mut Client)) {
    each_way_of(&ours(root, sandbox), test);
}

/// The same, with the options of `launch`.
pub fn each_way_of(launch: &Launch, test: impl Fn(&str, u32, &mut Client)) {
    let (running, mut client) = launch.by_fd();
    client.ask(&ask::lstat(b"/")).ok();
    test("by -f", running.pid(), &mut client);
    let dir = program::scratch();
    let socket = dir.path().join("socket");
    let running = launch.by_socket(&socket);
    let mut client = Client::connect_soon(&socket);
    client.ask(&ask::lstat(b"/")).ok();
    test("by -s", running.pid(), &mut client);
    drop(running);
    let running = launch.clone().option("--persistent").option("--shared=4").by_socket(&socket);
    let mut client = Client::connect_soon(&socket);
    client.ask(&ask::lstat(b"/")).ok();
    test("by a supervisor", only_child(&running), &mut client);
}

/// The one worker of a supervisor.
fn only_child(running: &Running) -> u32 {
    let children = process::children(running.pid());
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

/// Whether a process has another one that watches its mounts.
fn watches(pid: u32) -> bool {
    let comm = |pid: u32| fs::read_to_string(process::of(pid, "comm")).unwrap_or_default();
    process::children(pid).into_iter().any(|child| comm(child) == "virtfs-mounts\n")
}

#[track_caller]
fn has_the_seven(pid: u32, when: &str) {
    for (set, expected) in
        [("CapPrm", THE_SEVEN), ("CapEff", THE_SEVEN), ("CapBnd", THE_SEVEN), ("CapInh", 0), ("CapAmb", 0)]
    {
        assert_eq!(capabilities(pid, set), expected, "{set}, {when}");
    }
}

#[test]
fn a_serving_process_has_seven_capabilities_and_no_way_to_more() {
    let dir = program::scratch();
    for sandbox in SANDBOXES {
        each_way(dir.path(), sandbox, |way, pid, client| {
            let when = format!("{sandbox}, {way}");
            has_the_seven(pid, &when);
            assert_eq!(status(pid, "NoNewPrivs"), "1", "{when}");
            assert_eq!(status(pid, "Groups"), "", "{when}");
            assert_eq!(status(pid, "Threads"), "1", "{when}");
            assert_eq!(status(pid, "Umask"), "0000", "{when}");
            let limits = fs::read_to_string(process::of(pid, "limits")).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().nth(4), Some("0"), "{when}");
            // And none is lost or won by serving.
            for (at, (uid, gid)) in [(1000, 1000), (LEAVE, LEAVE), (LEAVE, 7), (0, 0)].into_iter().enumerate()
            {
                let name = format!("/{sandbox}-{}-{at}", way.replace(' ', "-")).into_bytes();
                client.ask(&ask::mkdir(&name, 0o755, uid, gid)).ok();
                client.ask(&ask::mkdir(b"/none/x", 0o755, uid, gid)).fails(nix::errno::Errno::ENOENT);
                has_the_seven(pid, &format!("{when}, after a create as {uid}:{gid}"));
                for line in ["Uid", "Gid"] {
                    assert_eq!(status(pid, line), "0\t0\t0\t0", "{when}, after a create as {uid}:{gid}");
                }
            }
        });
    }
}

#[test]
fn what_a_supervisor_keeps_is_named() {
    let dir = program::scratch();
    let socket = dir.path().join("socket");
    let running = ours(dir.path(), "namespace").option("--persistent").by_socket(&socket);
    Client::connect_soon(&socket).ask(&ask::lstat(b"/")).ok();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(capabilities(running.pid(), set), THE_SEVEN | FOR_WALLS, "{set}");
    }
    assert_eq!(status(running.pid(), "NoNewPrivs"), "1");
    assert_eq!(status(running.pid(), "Threads"), "1");
}

#[test]
fn modcaps_takes_and_gives() {
    let dir = program::scratch();
    let launch = ours(dir.path(), "namespace").option("--modcaps=-mknod:+sys_chroot");
    let (running, mut client) = launch.by_fd();
    client.ask(&ask::lstat(b"/")).ok();
    let expected = THE_SEVEN & !(1 << 27) | 1 << 18;
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(capabilities(running.pid(), set), expected, "{set}");
    }
    client.ask(&ask::mknod(b"/null", libc::S_IFCHR | 0o600, 0x103, 0, 0)).fails(nix::errno::Errno::EPERM);
}

#[test]
fn behind_a_namespace_the_export_is_all_there_is() {
    let dir = program::scratch();
    let export = dir.path().join("export");
    fs::create_dir(&export).unwrap();
    Owned::below(&export).dir("below", 0o755, 0, 0).file("file", b"", 0o644, 0, 0);
    with_private_mounts(move || {
        mount(Some("tmpfs"), &export.join("below"), Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .unwrap();
        fs::write(export.join("below/mounted"), b"").unwrap();
        each_way(&export, "namespace", |way, pid, client| {
            let mounts = process::mounts(pid);
            let points: Vec<&str> = mounts.iter().map(|mount| mount.point.as_str()).collect();
            assert_eq!(points, ["/", "/below"], "{way}: {mounts:?}");
            for mount in &mounts {
                for option in ["nodev", "nosuid", "noexec"] {
                    assert!(mount.options.iter().any(|has| has == option), "{way}: {mount:?} lacks {option}");
                }
                assert!(!mount.options.iter().any(|has| has == "ro"), "{way}: {mount:?}");
            }
            let root = fs::metadata(process::of(pid, "root")).unwrap();
            let served = fs::metadata(&export).unwrap();
            assert_eq!((root.dev(), root.ino()), (served.dev(), served.ino()), "{way}");
            assert_ne!(
                fs::read_link(process::of(pid, "ns/mnt")).unwrap(),
                fs::read_link("/proc/thread-self/ns/mnt").unwrap(),
                "{way}"
            );
            client.ask(&ask::lstat(b"/below/mounted")).ok();
            client.ask(&ask::lstat(b"/proc")).fails(nix::errno::Errno::ENOENT);
        });
        umount2(&export.join("below"), MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn behind_a_chroot_the_export_is_the_root() {
    let dir = program::scratch();
    let export = fs::metadata(dir.path()).unwrap();
    each_way(dir.path(), "chroot", |way, pid, _| {
        let root = fs::metadata(process::of(pid, "root")).unwrap();
        assert_eq!((root.dev(), root.ino()), (export.dev(), export.ino()), "{way}");
    });
    each_way(dir.path(), "none", |way, pid, _| {
        assert_eq!(fs::read_link(process::of(pid, "root")).unwrap(), Path::new("/"), "{way}");
    });
}

#[test]
fn only_the_standard_streams_and_the_clients_socket_stay_open() {
    let dir = program::scratch();
    for sandbox in SANDBOXES {
        each_way(dir.path(), sandbox, |way, pid, client| {
            let before = process::descriptors(pid);
            let sockets = before.values().filter(|name| name.starts_with("socket:")).count();
            // The client's; the cleaner's, and perhaps the listening socket; the one that tells of the supervisor's end.
            let (least, most) = match way {
                "by -f" => (1, 1),
                "by -s" => (2, 3),
                _ => (2, 2),
            };
            // Beside these there is the connection to the process that watches the mounts.
            let watched = usize::from(watches(pid));
            let expected = least + watched..=most + watched;
            assert!(expected.contains(&sockets), "{sandbox}, {way}: {before:?}");
            for (number, name) in &before {
                let known = name == "/dev/null"
                    || name.starts_with("socket:")
                    || *number <= 2
                    || (sandbox == "none" && Path::new(name) == dir.path());
                assert!(known, "{sandbox}, {way}: descriptor {number} is {name}");
            }
            // Serving opens and closes, and keeps nothing.
            for at in 0..50 {
                let name = format!("/{sandbox}{}{at}", way.len()).into_bytes();
                client.ask(&ask::create(&name, O_CREAT | O_RDWR, 0o644, 1000, 1000)).ok();
                client.ask(&ask::open(&name, O_RDWR)).ok();
                client.ask(&ask::open(b"/", libc::O_DIRECTORY)).ok();
                client.ask(&ask::version(&name)).ok();
                client.ask(&ask::truncate(&name, 5)).ok();
                client.ask(&ask::chmod(&name, 0o600)).ok();
                client.ask(&ask::setxattr(&name, b"user.a", b"1", 0)).ok();
                client.ask(&ask::statfs(&name)).ok();
                client.ask(&ask::remove(&name)).ok();
                assert!(!client.ask(&ask::open(b"/none", O_RDWR)).is_success());
                assert!(!client.ask(&ask::create(b"/", O_CREAT, 0o644, 1, 1)).is_success());
            }
            assert_eq!(process::descriptors(pid), before, "{sandbox}, {way}");
        });
    }
}

/// Starts a helper with descriptors of a wrapper's open, below and above the socket's, and looks for them in every process of it.
fn inherited_descriptors_are_closed() {
    let leave_open = r#"exec "$@" 4</etc/passwd 9</etc/passwd 5>/dev/null"#;
    let dir = program::scratch();
    let launch = ours(dir.path(), "namespace").under(["sh", "-c", leave_open, "sh"]);
    let pid_file = format!("--pid-file={}", dir.path().join("pid").display());
    let socket = dir.path().join("socket");
    for (way, launch) in [
        ("by -f", launch.clone()),
        ("by -f, with a cleaner", launch.clone().option(&pid_file)),
        ("by a supervisor", launch.option("--persistent")),
    ] {
        let (running, mut client) = if way == "by a supervisor" {
            let running = launch.by_socket(&socket);
            (running, Client::connect_soon(&socket))
        } else {
            launch.by_fd()
        };
        client.ask(&ask::lstat(b"/")).ok();
        let children = process::children(running.pid());
        // The one that watches the mounts where there is one, and the cleaner or the worker.
        let expected = usize::from(watches(running.pid())) + usize::from(way != "by -f");
        assert_eq!(children.len(), expected, "{way}");
        for pid in children.into_iter().chain([running.pid()]) {
            let open = process::descriptors(pid);
            assert!(!open.values().any(|name| name == "/etc/passwd"), "{way}: {open:?}");
            assert!(open.len() <= 12, "{way}: {open:?}");
        }
    }
}

#[test]
fn what_was_inherited_by_accident_is_closed() {
    inherited_descriptors_are_closed();
    for errno in [Errno::ENOSYS, Errno::EPERM] {
        refusing(Refused(libc::SYS_close_range, None, errno), inherited_descriptors_are_closed);
    }
}

/// A worker that was taken over can't open another end of anything that it has: not the pipe that its log lines go to,
/// nor what ends the workers with their supervisor.
#[test]
fn no_descriptor_of_a_serving_process_can_be_opened_anew() {
    let dir = program::scratch();
    let export = dir.path().join("export");
    fs::create_dir(&export).unwrap();
    let socket = dir.path().join("socket");
    for sandbox in SANDBOXES {
        let lines = dir.path().join(format!("lines-{sandbox}"));
        let through_a_pipe = r#"exec "$@" 2> >(exec cat >>"$0")"#;
        let launch = ours(&export, sandbox).under(["bash", "-c", through_a_pipe]).under([&lines]);
        for way in ["by -f", "by -s", "by a supervisor"] {
            let (mut running, mut clients) = match way {
                "by -f" => {
                    let (running, client) = launch.by_fd();
                    (running, vec![client])
                }
                "by -s" => {
                    let running = launch.by_socket(&socket);
                    (running, vec![Client::connect_soon(&socket)])
                }
                _ => {
                    let running =
                        launch.clone().option("--persistent").option("--shared=2").by_socket(&socket);
                    (running, vec![Client::connect_soon(&socket), Client::connect_soon(&socket)])
                }
            };
            for client in &mut clients {
                client.ask(&ask::lstat(b"/")).ok();
            }
            let mut serving = vec![running.pid()];
            if way == "by a supervisor" {
                serving = process::children(running.pid());
                serving.retain(|&pid| status(pid, "Name").starts_with("virtfs"));
            }
            assert_eq!(serving.len(), clients.len());
            for pid in serving {
                for (number, name) in process::descriptors(pid) {
                    if name == "/dev/null" || Path::new(&name) == export {
                        continue;
                    }
                    let path = process::of(pid, "fd").join(number.to_string());
                    let anew = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
                    let errno = anew.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw);
                    assert_eq!(errno, Some(Errno::ENXIO), "{sandbox}, {way}: {number} is {name}");
                }
            }
            // The lines arrive all the same, the last ones too.
            drop(clients);
            let text = || fs::read_to_string(&lines).unwrap();
            if way == "by a supervisor" {
                program::wait_until("both workers' last lines", || {
                    text().matches("client left: ").count() == 2
                });
                running.signal(nix::sys::signal::Signal::SIGTERM);
            }
            assert_eq!(running.wait().code(), Some(0), "{sandbox}, {way}");
            let whole = |line: &str| line.starts_with("virtfs-proxy-helper: ");
            program::wait_until("the last client's line", || text().contains("client left: "));
            assert!(text().contains("client connected: ") && text().lines().all(whole), "{}", text());
            fs::remove_file(&lines).unwrap();
        }
    }
}

/// The soft and the hard limit of a process, as `/proc/PID/limits` has them.
fn limit(pid: u32, name: &str) -> (String, String) {
    let limits = fs::read_to_string(process::of(pid, "limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut words = line.split_whitespace().map(String::from);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn what_a_serving_process_can_use_up_is_bounded() {
    let dir = program::scratch();
    for sandbox in SANDBOXES {
        each_way(dir.path(), sandbox, |way, pid, _| {
            for (name, most) in [
                ("Max address space", 64 << 20),
                ("Max open files", 8192),
                ("Max processes", 0),
                ("Max core file size", 0),
            ] {
                let (soft, hard) = limit(pid, name);
                assert_eq!(soft, hard, "{sandbox}, {way}: {name}");
                assert!(soft.parse::<u64>().unwrap() <= most, "{sandbox}, {way}: {name} is {soft}");
            }
            let memory: u64 = status(pid, "VmSize").trim_end_matches(" kB").parse().unwrap();
            assert!(memory < 32 << 10, "{sandbox}, {way}: {memory} KiB of address space are in use");
        });
    }
    let (running, mut client) = ours(dir.path(), "namespace").option("--rlimit-nofile=100").by_fd();
    client.ask(&ask::lstat(b"/")).ok();
    assert_eq!(limit(running.pid(), "Max open files"), ("100".into(), "100".into()));
}

#[test]
fn a_serving_process_has_namespaces_of_its_own() {
    let dir = program::scratch();
    let of = |pid: u32, kind: &str| fs::read_link(process::of(pid, "ns").join(kind)).unwrap();
    let here = std::process::id();
    each_way(dir.path(), "namespace", |way, pid, _| {
        for kind in ["mnt", "net", "ipc", "uts"] {
            assert_ne!(of(pid, kind), of(here, kind), "{way}: {kind}");
        }
        // One that was started by somebody who knows its pid keeps it.
        assert_eq!(of(pid, "pid") != of(here, "pid"), way == "by a supervisor", "{way}");
    });
}

#[test]
fn each_worker_has_a_pid_namespace_to_itself_and_is_known_outside_by_its_pid() {
    let dir = program::scratch();
    let socket = dir.path().join("socket");
    let running =
        ours(dir.path(), "namespace").option("--shared=8").option("--persistent").by_socket(&socket);
    let mut namespaces = std::collections::BTreeSet::from(
        [process::of(running.pid(), "ns/pid")].map(|path| fs::read_link(path).unwrap()),
    );
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect_soon(&socket)).collect();
    for client in &mut clients {
        client.ask(&ask::lstat(b"/")).ok();
    }
    for worker in process::children(running.pid()) {
        assert_eq!(status(worker, "NSpid"), format!("{worker}\t1"));
        namespaces.insert(fs::read_link(process::of(worker, "ns/pid")).unwrap());
    }
    assert_eq!(namespaces.len(), 6);
    // The log names the client by the pid that it has here.
    running.wait_for_log(&format!("client connected: pid {}, uid 0", std::process::id()));
}
