//! Live QEMUs with their helpers: by socket, by a connected pair, as daemons; the C helper and ours.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::program::{Running, need_root, ours, reference, scratch, wait_until};
use crate::run::{Audit, audit};

/// The number by which QEMU finds its end of a pair.
const FD: i32 = 9;

/// A QEMU that never runs its guest, with a share.
fn emulator(name: &str, fsdev: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-name", name, "-accel", "tcg", "-S", "-display", "none", "-m", "64", "-nodefaults", "-fsdev"])
        .arg(format!("proxy,id=f,{fsdev}"))
        .args(["-device", &format!("virtio-9p-pci,fsdev=f,mount_tag={name}")]);
    command
}

/// Hands `end` to the child as descriptor `number`.
fn hand_over(command: &mut Command, end: OwnedFd, number: i32) {
    // SAFETY: between fork and exec only dup2 and fcntl are called, on descriptors that the closure owns.
    unsafe {
        command.pre_exec(move || {
            if end.as_raw_fd() == number {
                fcntl(&end, FcntlArg::F_SETFD(FdFlag::empty()))?;
            } else if nix::libc::dup2(end.as_raw_fd(), number) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

fn by_socket(helper: &Path, folder: &Path, name: &str) -> (Running, Running, PathBuf) {
    let export = folder.join(name);
    fs::create_dir(&export).unwrap();
    let socket = folder.join(format!("{name}.sock"));
    let mut command = Command::new(helper);
    command.arg("-n").arg("-p").arg(&export).arg("-s").arg(&socket).args(["-u", "0", "-g", "0"]);
    let helper = Running::spawn(&mut command);
    wait_until("the helper listens", || socket.exists());
    let qemu = Running::spawn(&mut emulator(name, &format!("socket={}", socket.display())));
    (helper, qemu, export)
}

fn by_pair(helper: &Path, folder: &Path, name: &str) -> (Running, Running, PathBuf) {
    let export = folder.join(name);
    fs::create_dir(&export).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(helper);
    command.args(["--nodaemon", "--fd", "3", "--path"]).arg(&export);
    hand_over(&mut command, ours.into(), 3);
    let helper = Running::spawn(&mut command);
    let mut command = emulator(name, &format!("sock_fd={FD}"));
    hand_over(&mut command, theirs.into(), FD);
    (helper, Running::spawn(&mut command), export)
}

/// Audits until the share of each name is joined, and checks what is said of it.
fn expect(arguments: &[&str], names: &[(&str, &Path, &Running, &Running)]) -> Audit {
    let find = |audit: &Audit, name: &str| {
        audit
            .list("shares")
            .iter()
            .find(|share| share["mount_tag"] == name && share["pid"].is_number())
            .cloned()
    };
    let mut last = audit(arguments);
    wait_until("every share is joined", || {
        last = audit(arguments);
        names.iter().all(|(name, ..)| find(&last, name).is_some_and(|share| share["resolved"] == true))
    });
    for (name, export, helper, qemu) in names {
        let share = find(&last, name).unwrap();
        assert_eq!(share["export"], export.to_str().unwrap(), "{share:#}");
        assert_eq!(share["export_from"], "process", "{share:#}");
        assert_eq!(share["export_place"], format!("/proc/{}", helper.pid()), "{share:#}");
        assert_eq!((&share["pid"], &share["guest"]), (&qemu.pid().into(), &(*name).into()), "{share:#}");
        let helpers = last.list("helpers").iter().filter(|row| row["pid"] == helper.pid());
        assert_eq!(helpers.count(), 1, "one row a helper");
    }
    last
}

#[test]
fn live_pairs_are_found_and_joined() {
    need_root();
    let dir = scratch();
    let folder = dir.path();
    let socket = by_socket(&reference(), folder, "by-socket");
    let pair = by_pair(&reference(), folder, "by-pair");
    let own_socket = by_socket(&ours(), folder, "own-socket");
    let own_pair = by_pair(&ours(), folder, "own-pair");
    let all = [
        ("by-socket", &socket.2, &socket.0, &socket.1),
        ("by-pair", &pair.2, &pair.0, &pair.1),
        ("own-socket", &own_socket.2, &own_socket.0, &own_socket.1),
        ("own-pair", &own_pair.2, &own_pair.0, &own_pair.1),
    ]
    .map(|(name, export, helper, qemu)| (name, export.as_path(), helper, qemu));
    let found = expect(&["--qemu", "11.1.1"], &all);
    let rows = found.list("findings").iter();
    let severities: Vec<_> =
        rows.filter(|row| row["id"] == "qemu-vulnerability").map(|row| &row["severity"]).collect();
    assert!(
        !severities.is_empty() && severities.iter().all(|severity| *severity == "error"),
        "QEMU runs as root"
    );
    // The same machine, mounted at its own root.
    let audit = expect(&["--root", "/"], &all);
    assert_eq!(audit.status, 3);
}

#[test]
fn a_daemon_is_found_and_joined() {
    need_root();
    let dir = scratch();
    for (name, program) in [("daemon", reference()), ("own-daemon", ours())] {
        let (export, socket) = (dir.path().join(name), dir.path().join(format!("{name}.sock")));
        fs::create_dir(&export).unwrap();
        let status = Command::new(program)
            .arg("-p")
            .arg(&export)
            .arg("-s")
            .arg(&socket)
            .args(["-u", "0", "-g", "0"])
            .status()
            .unwrap();
        assert!(status.success());
        wait_until("the daemon listens", || socket.exists());
        let _qemu = Running::spawn(&mut emulator(name, &format!("socket={}", socket.display())));
        let find = || {
            audit(Vec::<&str>::new()).list("shares").iter().find(|share| share["mount_tag"] == name).cloned()
        };
        wait_until("the share is joined", || find().is_some_and(|share| share["resolved"] == true));
        let share = find().unwrap();
        assert_eq!(share["export"], export.to_str().unwrap(), "{share:#}");
        assert_eq!(share["export_from"], "process", "{share:#}");
    }
}

#[test]
fn a_configuration_that_a_running_qemu_has_read_is_joined_too() {
    need_root();
    let dir = scratch();
    let export = dir.path().join("export");
    fs::create_dir(&export).unwrap();
    let conf = dir.path().join("vm.conf");
    fs::write(
        &conf,
        format!(
            "[fsdev \"f\"]\nfsdriver = \"proxy\"\nsock_fd = \"{FD}\"\n\n[device \"d\"]\ndriver = \"virtio-9p-pci\"\n\
             fsdev = \"f\"\nmount_tag = \"read\"\n"
        ),
    )
    .unwrap();
    let (ours_end, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(reference());
    command.args(["--nodaemon", "--fd", "3", "--path"]).arg(&export);
    hand_over(&mut command, ours_end.into(), 3);
    let _helper = Running::spawn(&mut command);
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-name", "read", "-accel", "tcg", "-S", "-display", "none", "-m", "64", "-nodefaults"]);
    command.arg("-readconfig").arg(&conf);
    hand_over(&mut command, theirs.into(), FD);
    let _qemu = Running::spawn(&mut command);
    let find = || {
        audit(Vec::<&str>::new()).list("shares").iter().find(|share| share["mount_tag"] == "read").cloned()
    };
    wait_until("the share is joined", || find().is_some_and(|share| share["resolved"] == true));
    let share = find().unwrap();
    assert_eq!((&share["kind"], &share["guest"]), (&"readconfig".into(), &"read".into()), "{share:#}");
    assert_eq!(share["export"], export.to_str().unwrap());
}

/// Helpers that are hard to tell apart, or go by other names than the host's.
#[test]
fn a_helper_is_known_by_its_socket_not_by_names() {
    need_root();
    let dir = scratch();
    let folder = dir.path();
    let mut all = Vec::new();
    for (kind, program) in [("c", reference()), ("own", ours())] {
        // One relative socket name in several folders, and a relative export.
        let name = format!("relative-{kind}");
        let below = folder.join(&name);
        let export = below.join("export");
        fs::create_dir_all(&export).unwrap();
        let mut helper = Command::new(&program);
        helper.args(["-n", "-p", ".", "-s", "../vm.sock", "-u", "0", "-g", "0"]).current_dir(&export);
        let mut qemu = emulator(&name, "socket=vm.sock");
        qemu.current_dir(&below);
        all.push(started(&name, export, &mut helper, &below.join("vm.sock"), &mut qemu));

        // A helper under another name.
        let name = format!("renamed-{kind}");
        let (export, socket) = (folder.join(&name), folder.join(format!("{name}.sock")));
        fs::create_dir(&export).unwrap();
        fs::copy(&program, folder.join(format!("my-{kind}"))).unwrap();
        let mut helper = Command::new(folder.join(format!("my-{kind}")));
        helper.arg("-n").arg("-p").arg(&export).arg("-s").arg(&socket).args(["-u", "0", "-g", "0"]);
        let mut qemu = emulator(&name, &format!("socket={}", socket.display()));
        all.push(started(&name, export, &mut helper, &socket, &mut qemu));

        // In a container, export and socket have other names.
        let name = format!("container-{kind}");
        let (export, inside) = (folder.join(&name), folder.join(format!("inside-{kind}")));
        fs::create_dir_all(inside.join("export")).unwrap();
        fs::create_dir_all(inside.join("run")).unwrap();
        fs::create_dir_all(&export).unwrap();
        fs::create_dir_all(folder.join(format!("run-{kind}"))).unwrap();
        let mut helper = Command::new("unshare");
        helper.args(["-m", "--propagation", "private", "--", "sh", "-ec"]);
        helper.arg(format!(
            "mount --bind {0}/{name} {1}/export; mount --bind {0}/run-{kind} {1}/run; \
             exec {2} -n -p {1}/export -s {1}/run/vm.sock -u 0 -g 0",
            folder.display(),
            inside.display(),
            program.display()
        ));
        let socket = folder.join(format!("run-{kind}/vm.sock"));
        let mut qemu = emulator(&name, &format!("socket={}", socket.display()));
        all.push(started(&name, export, &mut helper, &socket, &mut qemu));
    }
    let all: Vec<_> = all
        .iter()
        .map(|(name, export, helper, qemu)| (name.as_str(), export.as_path(), helper, qemu))
        .collect();
    expect(&[], &all);
    expect(&["--root", "/"], &all);
}

/// Starts a helper, and a QEMU once it listens.
fn started(
    name: &str,
    export: PathBuf,
    helper: &mut Command,
    socket: &Path,
    qemu: &mut Command,
) -> (String, PathBuf, Running, Running) {
    let helper = Running::spawn(helper);
    wait_until("the helper listens", || socket.exists());
    (name.to_owned(), export, helper, Running::spawn(qemu))
}

/// A helper that was started in `folder` with the socket's path `socket`; its export has a socket of the same path.
fn with_own_socket(program: &Path, folder: &Path, socket: &Path) -> Running {
    let inside = folder.join("export").join(folder.strip_prefix("/").unwrap());
    fs::create_dir_all(&inside).unwrap();
    std::os::unix::net::UnixListener::bind(inside.join("s.sock")).unwrap();
    let mut command = Command::new(program);
    command.arg("-p").arg(folder.join("export")).args(["-u", "0", "-g", "0", "-n", "-s"]).arg(socket);
    let helper = Running::spawn(command.current_dir(folder).env("PWD", folder));
    wait_until("the helper listens", || folder.join("s.sock").exists());
    helper
}

/// A served export is its helper's root directory, and its socket's path is that of its starter all the same: with a client and without.
#[test]
fn a_running_helper_has_the_path_of_its_own_socket() {
    need_root();
    let dir = scratch();
    let place = dir.path().canonicalize().unwrap();
    let mut helpers = Vec::new();
    for (program, name) in [(reference(), "reference"), (ours(), "ours")] {
        for spelling in ["absolute", "relative"] {
            let folder = place.join(format!("{name}-{spelling}"));
            fs::create_dir(&folder).unwrap();
            let socket = folder.join("s.sock");
            let spelt = if spelling == "relative" { Path::new("s.sock") } else { &socket };
            helpers.push((with_own_socket(&program, &folder, spelt), socket));
        }
    }
    let expect = |when: &str| {
        let found = audit(["--qemu", "8.0"]);
        for (helper, socket) in &helpers {
            let rows: Vec<_> =
                found.list("helpers").iter().filter(|row| row["pid"] == helper.pid()).collect();
            let [row] = rows.as_slice() else { panic!("{when}: {rows:#?}") };
            assert_eq!(row["socket"], socket.to_str().unwrap(), "{when}");
            let export = socket.with_file_name("export");
            assert_eq!(row["export"], export.to_str().unwrap(), "{when}");
        }
    };
    expect("without a client");
    let start = |(_, socket): &(Running, std::path::PathBuf)| {
        Running::spawn(&mut emulator("own", &format!("socket={}", socket.display())))
    };
    let _emulators: Vec<_> = helpers.iter().map(start).collect();
    wait_until("each helper has its client", || helpers.iter().all(|(_, socket)| !socket.exists()));
    wait_until("QEMU's helper is in its export", || {
        let is_in = |(helper, socket): &(Running, std::path::PathBuf)| {
            let root = fs::read_link(format!("/proc/{}/root", helper.pid())).unwrap();
            !socket.to_str().unwrap().contains("reference") || root != Path::new("/")
        };
        helpers.iter().all(is_in)
    });
    expect("with a client");
}
