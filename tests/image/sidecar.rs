//! The helper beside a QEMU on the host: scripts/run-sidecar, and what becomes of it when things die.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno::EPERM;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::container::{Engine, stdout_of};
use crate::guest::Guest;
use crate::process;
use crate::program::wait_until;
use crate::wire::{Client, ask};
use crate::work::{WORK, check_work, worker};

/// A sidecar, and where its export and its socket are.
struct Sidecar {
    engine: Engine,
    export: PathBuf,
    socket: PathBuf,
}

const NAME: &str = "helper";

/// Who QEMU runs as in these tests: nobody, whom the socket's directory belongs to.
const QEMU: (u32, u32) = (65534, 65534);

impl Sidecar {
    fn start(options: &[&str]) -> Self {
        let engine = Engine::new();
        let (export, sockets) = (engine.directory("export"), engine.directory("sockets"));
        chown(&sockets, Some(QEMU.0), Some(QEMU.1)).unwrap();
        let mut words = vec!["--name".as_ref(), NAME.as_ref(), export.as_os_str(), sockets.as_os_str()];
        words.splice(0..0, options.iter().map(AsRef::as_ref));
        stdout_of("scripts/run-sidecar", &engine.sidecar(words));
        engine.wait_healthy(NAME);
        Self { engine, export, socket: sockets.join("helper.sock") }
    }

    fn share(&self) -> String {
        format!("proxy,socket={}", self.socket.display())
    }

    fn kill(pid: u32) {
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    }

    /// A guest that runs as QEMU does on most hosts, and does a little of everything that takes a capability.
    fn works(&self, folder: &str) {
        let guest = Guest::new().user("nobody").share("work", self.share()).variable("FOLDER", folder);
        guest.script(A_LITTLE_OF_EVERYTHING).run().success();
        let made = |name: &str| self.export.join(folder).join(name).symlink_metadata().unwrap();
        assert_eq!((made("file").uid(), made("file").gid(), made("file").mode()), (1234, 567, 0o104_755));
        assert!(made("null").file_type().is_char_device());
        assert_eq!(made("null").rdev(), nix::sys::stat::makedev(1, 3));
        assert_eq!((made("mine/file").uid(), made("mine/file").gid()), (1000, 1000));
    }
}

const A_LITTLE_OF_EVERYTHING: &str = r#"
set -e
mkdir "/mnt/work/$FOLDER"
cd "/mnt/work/$FOLDER"
echo content >file
chown 1234:567 file
chmod 4755 file
mknod null c 1 3
mkdir mine
chown 1000:1000 mine
su user -c 'echo mine >mine/file'
"#;

/// The bits of the capabilities that scripts/run-sidecar gives: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID,
/// SYS_CHROOT, MKNOD.
const GIVEN: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 18 | 1 << 27;

#[test]
#[ignore = "a minute, and tests/daemon_guest does it without the container: scripts/test slow"]
fn a_guest_does_a_days_work_through_it() {
    let sidecar = Sidecar::start(&[]);
    check_work(&sidecar.export.join("day"), &worker(&sidecar.share(), WORK, "day").user("nobody").run());
}

#[test]
fn a_guest_works_through_it_and_it_has_no_more_privileges_than_said() {
    let sidecar = Sidecar::start(&[]);
    sidecar.works("day");
    let meta = sidecar.socket.symlink_metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (QEMU.0, QEMU.1, 0o660));
    let pid = sidecar.engine.pid(NAME);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(process::capabilities(pid, set) & !GIVEN, 0, "{set} of the supervisor");
    }
    assert_eq!(process::status(pid, "NoNewPrivs"), "1");
    assert_eq!(process::status(pid, "Seccomp"), "2", "the engine's default filter");
    let _client = Client::connect_soon(&sidecar.socket);
    wait_until("a worker", || process::children(pid).len() == 1);
    let without_chroot = GIVEN & !(1 << 18);
    let worker = process::children(pid)[0];
    wait_until("the worker behind its walls", || process::capabilities(worker, "CapPrm") == without_chroot);
}

#[test]
fn it_comes_back_after_every_death_and_leaves_nothing_behind() {
    let sidecar = Sidecar::start(&[]);
    sidecar.works("first");

    // QEMU dies in the middle of its work: the helper waits for the next.
    let guest = Guest::new()
        .user("nobody")
        .share("work", sidecar.share())
        .script("cd /mnt/work; echo started; while :; do echo x >busy; rm busy; done")
        .start();
    wait_until("the guest's work", || guest.stdout().contains("started"));
    let helper = sidecar.engine.pid(NAME);
    wait_until("a worker", || !process::children(helper).is_empty());
    Sidecar::kill(qemu_of(guest.pid()));
    drop(guest);
    wait_until("the worker's end", || process::children(helper).is_empty());
    sidecar.engine.wait_healthy(NAME);
    assert_eq!(sidecar.engine.pid(NAME), helper, "the helper must not have ended with its client");
    sidecar.works("after-qemu");

    // The helper dies, with a client: the engine starts it again, and it takes its stale socket over.
    let mut client = Client::connect_soon(&sidecar.socket);
    client.ask(&ask::lstat(b"/")).ok();
    Sidecar::kill(helper);
    wait_until("another helper", || {
        let pid = sidecar.engine.pid(NAME);
        pid != 0 && pid != helper
    });
    sidecar.engine.wait_healthy(NAME);
    client.wait_closed().closed();
    assert!(sidecar.engine.log(NAME).contains("taking over the socket"), "{}", sidecar.engine.log(NAME));
    sidecar.works("after-helper");

    // The host reboots: no process is left, the socket is, where its directory is not in /run.
    sidecar.engine.reboot();
    assert!(sidecar.socket.symlink_metadata().unwrap().file_type().is_socket());
    assert!(Client::connect(&sidecar.socket).is_err(), "nobody may listen any more");
    // What podman-restart.service does at start-up.
    sidecar.engine.run(["start", "--all", "--filter", "restart-policy=always"]);
    sidecar.engine.wait_healthy(NAME);
    sidecar.works("after-reboot");

    // It is stopped: in good time, and it stays so.
    let pid = sidecar.engine.pid(NAME);
    sidecar.engine.run(["stop", "--time", "8", NAME]);
    assert!(!process::of(pid, "").exists(), "the helper still runs");
    assert!(sidecar.socket.symlink_metadata().is_err(), "the socket stays behind");
    assert_eq!(fs::read_dir(sidecar.socket.parent().unwrap()).unwrap().count(), 0);
    let status = sidecar.engine.run(["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", NAME]);
    assert_eq!(status.trim(), "exited 0", "{}", sidecar.engine.log(NAME));
}

/// The QEMU below tests/guest/run.
fn qemu_of(run: u32) -> u32 {
    let mut waiting = vec![run];
    while let Some(pid) = waiting.pop() {
        let name = fs::read_to_string(process::of(pid, "comm")).unwrap_or_default();
        if name.starts_with("qemu-system") {
            return pid;
        }
        waiting.extend(process::children(pid));
    }
    panic!("no QEMU runs below {run}");
}

#[test]
fn readonly_means_so_for_the_helper_and_for_the_mount() {
    let engine = Engine::new();
    let (export, sockets) = (engine.directory("export"), engine.directory("sockets"));
    fs::write(export.join("file"), "content").unwrap();
    let words =
        ["--name".as_ref(), NAME.as_ref(), "--readonly".as_ref(), export.as_os_str(), sockets.as_os_str()];
    stdout_of("scripts/run-sidecar", &engine.sidecar(words));
    engine.wait_healthy(NAME);
    let mut client = Client::connect_soon(&sockets.join("helper.sock"));
    client.ask(&ask::lstat(b"/file")).ok();
    client.ask(&ask::chmod(b"/file", 0o600)).fails(nix::errno::Errno::EROFS);
    let mounts = process::mounts(engine.pid(NAME));
    let mount = mounts.iter().find(|mount| mount.point == "/export").expect("the export's mount");
    assert!(mount.options.iter().any(|option| option == "ro"), "{mount:?}");
    let root = mounts.iter().find(|mount| mount.point == "/").expect("the root");
    assert!(root.options.iter().any(|option| option == "ro"), "{root:?}");
}

#[test]
fn privileged_it_has_a_namespace_of_its_own() {
    let sidecar = Sidecar::start(&["--privileged"]);
    assert!(!sidecar.engine.log(NAME).contains("falling back"), "{}", sidecar.engine.log(NAME));
    let mut client = Client::connect_soon(&sidecar.socket);
    client.ask(&ask::mkdir(b"/made", 0o755, 1, 2)).ok();
    let worker = process::children(sidecar.engine.pid(NAME))[0];
    let mounts = process::mounts(worker);
    let root = mounts.iter().find(|mount| mount.point == "/").expect("the worker's root");
    assert!(root.options.iter().any(|option| option == "nodev"), "{mounts:?}");
}

/// Tries what takes a capability.
type Try = fn(&Path, &mut Client);

/// What fails without each capability, in the helper's words or by a request's error.
#[test]
fn each_capability_is_there_for_a_reason() {
    const ALL: [&str; 8] =
        ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID", "MKNOD", "SYS_CHROOT"];
    let engine = Engine::new();
    let (export, sockets) = (engine.directory("export"), engine.directory("sockets"));
    chown(&sockets, Some(107), Some(107)).unwrap();
    fs::write(export.join("theirs"), "content").unwrap();
    chown(export.join("theirs"), Some(1000), Some(1000)).unwrap();
    fs::create_dir(export.join("locked")).unwrap();
    fs::set_permissions(export.join("locked"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    chown(export.join("locked"), Some(1000), Some(1000)).unwrap();
    let start = |missing: &str| {
        let caps = ALL.iter().filter(|name| **name != missing).copied().collect::<Vec<_>>().join(",");
        let (export, sockets) = (export.display(), sockets.display());
        engine.podman([
            "run",
            "--detach",
            "--name",
            missing,
            "--network=none",
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--env=VIRTFS_PERSISTENT=1",
            "--env=VIRTFS_SANDBOX=chroot",
            "--env=VIRTFS_UID=107",
            "--env=VIRTFS_GID=107",
            &format!("--cap-add={caps}"),
            &format!("--volume={export}:/export"),
            &format!("--volume={sockets}:/run/virtfs"),
            crate::container::IMAGE,
        ])
    };
    for (missing, says) in [
        ("SETUID", "that needs CAP_SETUID and CAP_SETGID"),
        ("SETGID", "that needs CAP_SETUID and CAP_SETGID"),
        ("SYS_CHROOT", "CAP_SYS_CHROOT is missing"),
        ("FOWNER", "cannot give the socket"),
    ] {
        stdout_of("podman run", &start(missing));
        let ended = engine.run(["wait", missing]);
        assert_ne!(ended.trim(), "0", "without {missing}");
        assert!(engine.log(missing).contains(says), "without {missing}: {}", engine.log(missing));
    }
    let tries: [(&str, Try); 4] = [
        ("CHOWN", |_, client| client.ask(&ask::chown(b"/theirs", 5, 6)).fails(EPERM)),
        ("DAC_OVERRIDE", |_, client| {
            client.ask(&ask::lstat(b"/locked/file")).fails(nix::errno::Errno::EACCES);
        }),
        // The kernel takes the bit away instead of refusing.
        ("FSETID", |export, client| {
            client.ask(&ask::chmod(b"/theirs", 0o2755)).ok();
            assert_eq!(fs::metadata(export.join("theirs")).unwrap().mode() & 0o7777, 0o755);
        }),
        ("MKNOD", |_, client| {
            client.ask(&ask::mknod(b"/null", libc::S_IFCHR | 0o600, 0x103, 0, 0)).fails(EPERM);
        }),
    ];
    for (missing, fails) in tries {
        stdout_of("podman run", &start(missing));
        wait_until(&format!("{missing}: {}", engine.log(missing)), || sockets.join("helper.sock").exists());
        let mut client = Client::connect_soon(&sockets.join("helper.sock"));
        let warning = format!("CAP_{missing} is missing here");
        assert!(engine.log(missing).contains(&warning), "{missing}: {}", engine.log(missing));
        client.ask(&ask::lstat(b"/theirs")).ok();
        fails(&export, &mut client);
        engine.run(["stop", "--time", "8", missing]);
    }
}

#[test]
fn run_sidecar_says_what_is_wrong() {
    let engine = Engine::empty();
    let colon = engine.directory("a:b");
    for (words, sense) in [
        (&["/tmp"][..], "EXPORT and SOCKET-DIR are needed"),
        (&["/no/such/directory", "/tmp"], "is no directory"),
        (&["/tmp", "/tmp", "/tmp"], "after --"),
        (&["--cap-add=ALL", "/tmp", "/tmp"], "what is '--cap-add=ALL'"),
        (&[colon.to_str().unwrap(), "/tmp"], "has a colon"),
        (&["--name"], "needs a value"),
    ] {
        let output = engine.sidecar(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(sense), "{words:?}: {said}");
    }
}
