//! Files on which a program of the host holds a lease (`fcntl(2)`, `F_SETLEASE`).

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use libc::{O_NONBLOCK, O_RDWR, O_WRONLY};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::program::{self, wait_until};
use crate::tree::Owned;
use crate::wire::{Client, ask};
use crate::{SANDBOXES, ours};

/// Sets this process's lease on a file.
#[track_caller]
fn set_lease(file: &File, kind: i32) {
    const F_SETLEASE: i32 = 1024;
    // The kernel refuses it as long as the helper has the file open, for a moment after its reply.
    wait_until("the lease", || {
        // SAFETY: plain integers; the descriptor is borrowed for the call.
        unsafe { libc::fcntl(file.as_raw_fd(), F_SETLEASE, kind) == 0 }
    });
}

#[test]
fn an_open_waits_for_a_lease_while_the_helper_answers_and_stops() {
    // The kernel tells the holder so that the lease is wanted.
    // SAFETY: it is ignored.
    unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) }.unwrap();
    let waits = "a request waits for another program that holds a lease";
    for sandbox in SANDBOXES {
        let dir = program::scratch();
        let export = dir.path().join("export");
        std::fs::create_dir(&export).unwrap();
        Owned::below(&export).file("file", b"content", 0o644, 0, 0);
        let socket = dir.path().join("socket");
        let mut helper = ours(&export, sandbox).by_socket(&socket);
        let mut client = Client::connect_soon(&socket);
        let file = File::options().write(true).read(true).open(export.join("file")).unwrap();
        for (round, request) in [ask::open(b"/file", O_WRONLY), ask::version(b"/file")].iter().enumerate() {
            set_lease(&file, libc::F_WRLCK);
            client.ask(&ask::lstat(b"/file")).ok();
            client.ask(&ask::open(b"/file", O_RDWR | O_NONBLOCK)).fails(Errno::EAGAIN);
            assert!(client.send(&request.encode()));
            wait_until("the open to wait", || helper.log().matches(waits).count() == round + 1);
            let mut health = Command::new(program::ours());
            let health = health.args(["healthcheck", "--timeout=60", "--socket"]).arg(&socket).output();
            assert!(health.unwrap().status.success(), "{sandbox}: {}", helper.log());
            assert!(client.is_quiet(), "{sandbox}");
            set_lease(&file, libc::F_UNLCK);
            client.reply(request.form()).ok();
        }
        // Asked to stop, it does not wait for the lease.
        set_lease(&file, libc::F_WRLCK);
        assert!(client.send(&ask::open(b"/file", O_WRONLY).encode()));
        wait_until("the open to wait", || helper.log().matches(waits).count() == 3);
        helper.signal(Signal::SIGTERM);
        assert_eq!(helper.wait().code(), Some(0), "{sandbox}: {}", helper.log());
    }
}
