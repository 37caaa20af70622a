//! A real Linux guest works in a share that our helper serves; then the host looks at what it left.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::program::{Launch, Running, ours, reference, scratch, wait_until};
use crate::work::{WORK, check_work, worker};

#[path = "../support/guest.rs"]
mod guest;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/wire.rs"]
mod wire;
#[path = "../support/work.rs"]
mod work;

const ANY: &str = include_str!("../guest/any.sh");

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

#[test]
fn a_guest_works_twice_through_one_persistent_helper_by_socket() {
    let scratch = scratch();
    let (export, socket) = (scratch.path().join("export"), scratch.path().join("socket"));
    fs::create_dir(&export).unwrap();
    let mut helper = listening(&Launch::new(&ours(), &export).option("--persistent"), &socket);
    for folder in ["first", "second"] {
        wait_until("the socket, made anew", || socket.exists());
        check_work(&export.join(folder), &worker(&by_socket(&socket), WORK, folder).run());
        fs::remove_dir_all(export.join(folder)).unwrap();
    }
    helper.signal(Signal::SIGTERM);
    assert!(helper.wait().success(), "the helper's end: {}", helper.log());
    assert!(!socket.exists(), "the socket stays behind");
}

#[test]
fn a_guest_works_through_a_connected_descriptor() {
    let scratch = scratch();
    let (near, far) = UnixStream::pair().unwrap();
    let mut helper = Launch::new(&ours(), scratch.path()).on_descriptor(far.into());
    let guest = worker("proxy,sock_fd=5", WORK, "only").descriptor(5, OwnedFd::from(near));
    check_work(&scratch.path().join("only"), &guest.run());
    assert!(helper.wait().success(), "the helper ends with its client: {}", helper.log());
}

#[test]
fn a_mount_with_access_any_keeps_working_after_its_first_mkdir() {
    let scratch = scratch();
    let (export, socket) = (scratch.path().join("export"), scratch.path().join("socket"));
    fs::create_dir(&export).unwrap();
    let _helper = listening(&Launch::new(&ours(), &export), &socket);
    worker(&by_socket(&socket), ANY, "any").mount_options("access=any,posixacl").run().success();
    let made = export.join("any/made/file").metadata().unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode()), (1000, 1000, 0o104_750));
    let given = export.join("any/d/f").metadata().unwrap();
    assert_eq!((given.uid(), given.gid()), (1234, 567));
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
