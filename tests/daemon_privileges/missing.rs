//! With fewer rights than usual: user namespaces, single capabilities, no privileges at all.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use libc::{O_CREAT, O_RDWR};
use nix::errno::Errno::{self, EACCES, EINVAL, EPERM};

use crate::namespace::in_user_namespace;
use crate::process;
use crate::program::{self, Launch, Running};
use crate::tree::Owned;
use crate::wire::{Client, LEAVE, ask};
use crate::{SANDBOXES, ours};

/// A user namespace's map, one line an entry: first id inside, first id outside, how many.
const ROOT_IS_ROOT: &str = "0 0 1\n1 100001 65535\n";
const ROOT_IS_NOBODY: &str = "0 100000 65536\n";

/// A directory that `uid` owns, with a file in it.
fn export_of(uid: u32) -> tempfile::TempDir {
    let dir = program::scratch();
    Owned::below(dir.path()).file("file", b"content", 0o644, uid, uid);
    chown(dir.path(), Some(uid), Some(uid)).unwrap();
    dir
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

#[test]
fn in_a_user_namespace_the_guests_ids_are_the_namespaces() {
    for (map, base) in [(ROOT_IS_ROOT, 0), (ROOT_IS_NOBODY, 100_000)] {
        for sandbox in SANDBOXES {
            let when = format!("{sandbox}, root is {base}");
            let dir = export_of(base);
            let (running, mut client) = in_user_namespace(ours(dir.path(), sandbox), map, Launch::by_fd);
            let answer = client.ask(&ask::lstat(b"/file"));
            let stat = answer.stat().unwrap_or_else(|| panic!("{when}: {answer:?}: {}", running.log()));
            assert_eq!((stat.uid, stat.gid), (0, 0), "{when}");
            client.ask(&ask::mkdir(b"/theirs", 0o755, 1000, 1000)).ok();
            client.ask(&ask::create(b"/theirs/file", O_CREAT | O_RDWR, 0o644, 1000, 2000)).ok();
            client.ask(&ask::mkdir(b"/roots", 0o755, 0, 0)).ok();
            client.ask(&ask::mkdir(b"/left", 0o755, LEAVE, LEAVE)).ok();
            client.ask(&ask::chown(b"/file", 5, 6)).ok();
            client.ask(&ask::chmod(b"/theirs/file", 0o4755)).ok();
            client.ask(&ask::mknod(b"/fifo", libc::S_IFIFO | 0o600, 0, 7, 7)).ok();
            assert_eq!(owner(&dir.path().join("theirs")), (101_000, 101_000), "{when}");
            assert_eq!(owner(&dir.path().join("theirs/file")), (101_000, 102_000), "{when}");
            assert_eq!(owner(&dir.path().join("roots")), (base, base), "{when}");
            assert_eq!(owner(&dir.path().join("left")), (base, base), "{when}");
            assert_eq!(owner(&dir.path().join("file")), (100_005, 100_006), "{when}");
            assert_eq!(owner(&dir.path().join("fifo")), (100_007, 100_007), "{when}");
            // What the namespace has no name for, or does not allow.
            client.ask(&ask::mkdir(b"/far", 0o755, 70_000, 0)).fails(EINVAL);
            client.ask(&ask::chown(b"/file", 70_000, 0)).fails(EINVAL);
            client.ask(&ask::mknod(b"/null", libc::S_IFCHR | 0o600, 0x103, 0, 0)).fails(EPERM);
            client.ask(&ask::mkdir(b"/after", 0o755, 1000, 1000)).ok();
            assert!(!running.log().contains("falling back"), "{when}: {}", running.log());
        }
    }
}

#[test]
fn in_a_user_namespace_that_has_no_name_for_root_files_are_made_as_its_first_user() {
    let map = "1000 101000 10\n";
    for sandbox in SANDBOXES {
        let dir = export_of(101_000);
        let (_running, mut client) = in_user_namespace(ours(dir.path(), sandbox), map, Launch::by_fd);
        client.ask(&ask::mkdir(b"/d", 0o755, 1003, 1004)).ok();
        client.ask(&ask::mkdir(b"/e", 0o755, 0, 0)).fails(EINVAL);
        client.ask(&ask::mkdir(b"/f", 0o755, LEAVE, LEAVE)).ok();
        assert_eq!(owner(&dir.path().join("d")), (101_003, 101_004), "{sandbox}");
        assert_eq!(owner(&dir.path().join("f")), (101_000, 101_000), "{sandbox}");
    }
}

#[test]
fn in_a_user_namespace_without_a_pid_namespace_every_client_is_served() {
    // Who can't come back to its own PID namespace must not leave it: its first worker's end would be the end of all.
    let dir = export_of(0);
    let socket = dir.path().join("socket");
    let elsewhere = program::scratch();
    let program = program::ours_for_all(elsewhere.path());
    for (wrapper, apart) in [
        (&["unshare", "--user", "--map-root-user"][..], false),
        (&["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"], true),
    ] {
        let launch = ours(dir.path(), "namespace").under(wrapper).option("--persistent").option("--shared=2");
        // The way to this build's folder may be closed to the namespace's root.
        let running = launch.program(program.clone()).by_socket(&socket);
        let supervisor = || if apart { process::children(running.pid())[0] } else { running.pid() };
        for _ in 0..4 {
            let (mut one, mut other) = (Client::connect_soon(&socket), Client::connect_soon(&socket));
            one.ask(&ask::lstat(b"/file")).ok();
            other.ask(&ask::lstat(b"/file")).ok();
            let own = fs::read_link(process::of(supervisor(), "ns/pid")).unwrap();
            let workers = process::children(supervisor());
            assert_eq!(workers.len(), 2, "{wrapper:?}: {}", running.log());
            for worker in workers {
                let its = fs::read_link(process::of(worker, "ns/pid")).unwrap();
                assert_eq!(its != own, apart, "{wrapper:?}: {}", running.log());
            }
            drop((one, other));
            program::wait_until("the workers' end", || process::children(supervisor()).is_empty());
        }
    }
}

/// Ours without one capability.
fn without(capability: &str, root: &Path) -> (Running, Client) {
    let launch = Launch::new(&program::ours(), root);
    launch.under(["setpriv", "--bounding-set", &format!("-{capability}"), "--"]).by_fd()
}

#[test]
fn a_missing_capability_is_named_and_costs_what_it_costs() {
    type Try = fn(&mut Client) -> Option<Errno>;
    let cases: [(&str, Option<Errno>, Try); 6] = [
        ("chown", Some(EPERM), |client| client.ask(&ask::chown(b"/file", 5, 5)).errno()),
        ("dac_override", Some(EACCES), |client| client.ask(&ask::mkdir(b"/d", 0o755, 1000, 1000)).errno()),
        ("fowner", Some(EPERM), |client| client.ask(&ask::chmod(b"/file", 0o600)).errno()),
        ("setgid", Some(EPERM), |client| client.ask(&ask::mkdir(b"/d", 0o755, 0, 1000)).errno()),
        ("setuid", Some(EPERM), |client| client.ask(&ask::mkdir(b"/d", 0o755, 1000, 0)).errno()),
        ("mknod", Some(EPERM), |client| {
            client.ask(&ask::mknod(b"/n", libc::S_IFCHR | 0o600, 0x103, 0, 0)).errno()
        }),
    ];
    for (capability, expected, attempt) in cases {
        let dir = program::scratch();
        Owned::below(dir.path()).file("file", b"", 0o644, 1000, 1000);
        let (running, mut client) = without(capability, dir.path());
        assert_eq!(attempt(&mut client), expected, "{capability}");
        let name = format!("CAP_{}", capability.to_uppercase());
        running.wait_for_log(&name);
        // The rest works.
        client.ask(&ask::mkdir(b"/still", 0o755, 0, 0)).ok();
        client.ask(&ask::create(b"/still/file", O_CREAT | O_RDWR, 0o644, 0, 0)).ok();
        client.ask(&ask::lstat(b"/still/file")).ok();
        let others =
            ["CHOWN", "FOWNER", "SETUID", "MKNOD"].iter().filter(|other| name != format!("CAP_{other}"));
        for other in others {
            assert!(!running.log().contains(&format!("CAP_{other} is missing")), "{}", running.log());
        }
    }
}

#[test]
fn without_fsetid_foreign_setgid_bits_go() {
    let dir = program::scratch();
    Owned::below(dir.path()).file("file", b"", 0o644, 1000, 1000);
    let mode = |client: &mut Client| {
        client.ask(&ask::chmod(b"/file", 0o2755)).ok();
        client.ask(&ask::lstat(b"/file")).stat().unwrap().mode & 0o7777
    };
    let (_running, mut client) = ours(dir.path(), "namespace").by_fd();
    assert_eq!(mode(&mut client), 0o2755);
    let (running, mut client) = without("fsetid", dir.path());
    assert_eq!(mode(&mut client), 0o755);
    running.wait_for_log("CAP_FSETID");
}

#[test]
fn without_sys_admin_a_chroot_takes_the_namespaces_place() {
    let dir = program::scratch();
    Owned::below(dir.path()).file("file", b"", 0o644, 0, 0);
    for options in [&[][..], &["--persistent", "--shared=2"]] {
        let socket = dir.path().join("socket");
        let mut launch = Launch::new(&program::ours(), dir.path()).under([
            "setpriv",
            "--bounding-set",
            "-sys_admin",
            "--",
        ]);
        for option in options {
            launch = launch.option(option);
        }
        let running = launch.by_socket(&socket);
        let mut client = Client::connect_soon(&socket);
        let answer = client.ask(&ask::lstat(b"/file"));
        assert!(answer.is_success(), "{options:?}: {answer:?}: {}", running.log());
        client.ask(&ask::mkdir(&format!("/d{}", options.len()).into_bytes(), 0o755, 1000, 1000)).ok();
        running.wait_for_log("chroot");
        let server = process::children(running.pid()).first().copied().filter(|_| !options.is_empty());
        let root = fs::read_link(process::of(server.unwrap_or(running.pid()), "root")).unwrap();
        assert_eq!(root, dir.path());
    }
}

#[test]
fn without_any_way_to_build_walls_it_says_what_to_do() {
    let dir = program::scratch();
    for sandbox in ["namespace", "chroot"] {
        let launch =
            ours(dir.path(), sandbox).under(["setpriv", "--bounding-set", "-sys_admin,-sys_chroot", "--"]);
        let (mut running, _client) = launch.by_fd();
        assert_eq!(running.wait().code(), Some(1));
        let log = running.log();
        assert!(log.contains("CAP_SYS_CHROOT") && log.contains("--sandbox=none"), "{log}");
    }
    // And that works.
    let launch =
        ours(dir.path(), "none").under(["setpriv", "--bounding-set", "-sys_admin,-sys_chroot", "--"]);
    let (_running, mut client) = launch.by_fd();
    client.ask(&ask::mkdir(b"/d", 0o755, 1000, 1000)).ok();
}

#[test]
fn without_setpcap_it_serves_all_the_same() {
    let dir = program::scratch();
    for sandbox in SANDBOXES {
        let launch = ours(dir.path(), sandbox).under(["setpriv", "--bounding-set", "-setpcap", "--"]);
        let (running, mut client) = launch.by_fd();
        client.ask(&ask::mkdir(format!("/{sandbox}").as_bytes(), 0o755, 1000, 1000)).ok();
        assert_eq!(process::capabilities(running.pid(), "CapEff"), 0x0800_00db, "{sandbox}");
    }
}

/// An ordinary user serves files of their own.
#[test]
fn an_ordinary_user_serves_their_own_files_without_walls() {
    let dir = export_of(1000);
    let program = program::ours_for_all(dir.path());
    let as_user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "--"];
    let launch = Launch::new(&program, dir.path()).under(as_user);
    let (mut running, _client) = launch.clone().by_fd();
    assert_eq!(running.wait().code(), Some(1), "{}", running.log());
    assert!(running.log().contains("--sandbox=none"), "{}", running.log());

    let (running, mut client) = launch.option("--sandbox=none").by_fd();
    client.ask(&ask::create(b"/mine", O_CREAT | O_RDWR, 0o640, 1000, 1000)).ok();
    client.ask(&ask::create(b"/mine-too", O_CREAT | O_RDWR, 0o640, LEAVE, LEAVE)).ok();
    client.ask(&ask::mkdir(b"/dir", 0o755, 1000, 1000)).ok();
    client.ask(&ask::open(b"/mine", O_RDWR)).ok();
    client.ask(&ask::chmod(b"/mine", 0o600)).ok();
    client.ask(&ask::setxattr(b"/mine", b"user.a", b"1", 0)).ok();
    client.ask(&ask::version(b"/mine")).ok();
    client.ask(&ask::mkdir(b"/other", 0o755, 0, 0)).fails(EPERM);
    client.ask(&ask::chown(b"/mine", 0, 0)).fails(EPERM);
    assert_eq!(owner(&dir.path().join("mine")), (1000, 1000));
    for set in ["CapPrm", "CapEff"] {
        assert_eq!(process::capabilities(running.pid(), set), 0, "{set}");
    }
}

/// The tools these tests start helpers with.
#[test]
fn the_tools_are_there() {
    for tool in ["setpriv", "unshare", "strace", "chattr"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
        assert!(found.status.success(), "{tool} is missing: install util-linux, strace and e2fsprogs");
    }
}
