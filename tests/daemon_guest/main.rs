//! A real Linux guest works in a share that our helper serves; then the host looks at what it left.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::guest::Guest;
use crate::namespace::in_user_namespace;
use crate::program::{Launch, Running, ours, reference, scratch, wait_until};
use crate::work::{WORK, check_work, worker};

mod clock;
#[path = "../support/guest.rs"]
mod guest;
#[path = "../support/namespace.rs"]
mod namespace;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/wire.rs"]
mod wire;
#[path = "../support/work.rs"]
mod work;

const ANY: &str = include_str!("../guest/any.sh");
const SHARE: &str = include_str!("../guest/share.sh");

/// A share by socket path.
fn by_socket(socket: &Path) -> String {
    format!("proxy,socket={}", socket.display())
}

/// Starts a helper that listens, and waits until QEMU can connect.
fn listening(launch: &Launch, socket: &Path) -> Running {
    let helper = launch.by_socket(socket);
    wait_until("the socket", || socket.exists());
    helper
}

/// Does a little work of several users in the folder `any`, and looks at what the host has of it.
#[track_caller]
fn check_any(export: &Path, guest: guest::Guest) {
    guest.mount_options("access=any,posixacl").run().success();
    let made = export.join("any/made/file").metadata().unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode()), (1000, 1000, 0o104_750));
    let given = export.join("any/d/f").metadata().unwrap();
    assert_eq!((given.uid(), given.gid()), (1234, 567));
}

#[test]
fn a_guest_works_twice_through_one_persistent_helper_by_socket() {
    let scratch = scratch();
    let (export, socket) = (scratch.path().join("export"), scratch.path().join("socket"));
    fs::create_dir(&export).unwrap();
    let mut helper = listening(&Launch::new(&ours(), &export).option("--persistent"), &socket);
    check_work(&export.join("first"), &worker(&by_socket(&socket), WORK, "first").run());
    fs::remove_dir_all(export.join("first")).unwrap();
    wait_until("the socket, made anew", || socket.exists());
    check_any(&export, worker(&by_socket(&socket), ANY, "any"));
    helper.signal(Signal::SIGTERM);
    assert!(helper.wait().success(), "the helper's end: {}", helper.log());
    assert!(!socket.exists(), "the socket stays behind");
}

#[test]
fn a_guest_works_through_a_connected_descriptor() {
    let scratch = scratch();
    let (near, far) = UnixStream::pair().unwrap();
    let mut helper = Launch::new(&ours(), scratch.path()).on_descriptor(far.into());
    check_any(scratch.path(), worker("proxy,sock_fd=5", ANY, "any").descriptor(5, OwnedFd::from(near)));
    assert!(helper.wait().success(), "the helper ends with its client: {}", helper.log());
}

#[test]
fn a_mount_with_access_any_keeps_working_after_its_first_mkdir() {
    let scratch = scratch();
    let (export, socket) = (scratch.path().join("export"), scratch.path().join("socket"));
    fs::create_dir(&export).unwrap();
    let _helper = listening(&Launch::new(&ours(), &export), &socket);
    check_any(&export, worker(&by_socket(&socket), ANY, "any"));
}

#[test]
fn the_reference_fails_where_ours_works() {
    let scratch = scratch();
    let (export, socket) = (scratch.path().join("export"), scratch.path().join("socket"));
    fs::create_dir(&export).unwrap();
    let _helper = listening(&Launch::new(&reference(), &export), &socket);
    let answer = worker(&by_socket(&socket), ANY, "any").mount_options("access=any,posixacl").run();
    let said = String::from_utf8_lossy(&answer.stderr);
    assert_ne!(answer.status, 0);
    assert!(said.contains("chown: d/f: Operation not permitted"), "{said}");
}

/// What share.sh leaves behind, with the ids that the host knows the guest's by.
fn check_share(folder: &Path, host_id: impl Fn(u32) -> u32) {
    for (name, uid, gid, mode) in [
        ("again", 1234, 567, 0o104_755),
        ("mine", 1000, 2000, 0o040_755),
        ("mine/f", 1234, 567, 0o104_755),
        ("mine/file", 1000, 2000, 0o100_644),
        ("mine/link", 1000, 2000, 0o120_777),
        ("mine/fifo", 1000, 2000, 0o010_644),
        ("d", 0, 0, 0o040_755),
    ] {
        let found = folder.join(name).symlink_metadata().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((found.uid(), found.gid()), (host_id(uid), host_id(gid)), "{name}'s owner");
        assert_eq!(found.mode(), mode, "{name}'s mode: {:o}", found.mode());
    }
    assert_eq!(fs::read(folder.join("mine/file")).unwrap(), b"hel");
}

#[test]
fn two_guests_and_two_mounts_use_one_helper_at_once() {
    let scratch = scratch();
    let (export, socket) = (scratch.path().join("export"), scratch.path().join("socket"));
    fs::create_dir(&export).unwrap();
    let mut helper =
        listening(&Launch::new(&ours(), &export).option("--persistent").option("--shared=3"), &socket);
    // Each QEMU removes the socket as it connects: the next one waits for it to be back.
    let start = |guest: Guest| {
        wait_until("the socket, made anew", || socket.exists());
        let guest = guest.start();
        wait_until("the guest's connection", || helper.log().matches("client connected").count() >= 1);
        guest
    };
    let first = start(worker(&by_socket(&socket), &format!("{SHARE}\n{WAIT_FOR_THE_OTHER}"), "first"));
    let second = start(worker(&by_socket(&socket), &format!("{SHARE}\n{WAIT_FOR_THE_OTHER}"), "second"));
    first.wait().success();
    second.wait().success();
    for folder in ["first", "second"] {
        check_share(&export.join(folder), |id| id);
    }
    helper.signal(Signal::SIGTERM);
    assert!(helper.wait().success(), "the helper's end: {}", helper.log());
}

/// Both guests are there at once, and see each other's files.
const WAIT_FOR_THE_OTHER: &str = r#"
: >../here."${FOLDER##*/}"
tries=0
until [ -e ../here.first ] && [ -e ../here.second ]; do
    tries=$((tries + 1))
    [ $tries -lt 15000 ] || { echo "the other guest does not come" >&2; exit 1; }
    usleep 100000
done
"#;

/// The first id of the container's on the host.
const FIRST_ID: u32 = 100_000;

/// As LXD and Incus do it: they listen themselves, and start the helper with the accepted socket as descriptor 3, in the
/// container's user namespace; QEMU runs as an ordinary user.
#[test]
fn a_manager_accepts_for_a_helper_in_a_user_namespace() {
    let scratch = scratch();
    let (export, socket) = (scratch.path().join("export"), scratch.path().join("socket"));
    fs::create_dir(&export).unwrap();
    std::os::unix::fs::chown(&export, Some(FIRST_ID), Some(FIRST_ID)).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::chown(&socket, Some(65534), Some(65534)).unwrap();
    let mut guest = worker(&by_socket(&socket), SHARE, "made").user("nobody").start();
    listener.set_nonblocking(true).unwrap();
    let mut client = None;
    while client.is_none() && guest.is_alive() {
        client = listener.accept().ok();
        std::thread::sleep(Duration::from_millis(5));
    }
    let Some((client, _)) = client else { panic!("QEMU does not connect: {:?}", guest.wait()) };
    let map = format!("0 {FIRST_ID} 65536\n");
    let launch = Launch::new(&ours(), &export);
    let (mut helper, ()) =
        in_user_namespace(launch, &map, |launch| (launch.on_descriptor(client.into()), ()));
    guest.wait().success();
    check_share(&export.join("made"), |id| FIRST_ID + id);
    assert!(helper.wait().success(), "the helper ends with its client: {}", helper.log());
}
