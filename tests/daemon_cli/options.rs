//! The options beyond the original's.

use libc::{O_APPEND, O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use nix::errno::Errno::EROFS;

use crate::process;
use crate::program::{self, Launch};
use crate::start::{Daemon, Place};
use crate::tree::Owned;
use crate::wire::{Client, ask};

#[test]
fn readonly_answers_erofs_to_every_change() {
    let dir = program::scratch();
    Owned::below(dir.path())
        .dir("d", 0o755, 0, 0)
        .file("file", b"content", 0o644, 0, 0)
        .xattr("file", "user.a", b"1")
        .link("link", b"file");
    let before = std::fs::metadata(dir.path().join("file")).unwrap();
    let (_running, mut client) = Launch::new(&program::ours(), dir.path()).option("--readonly").by_fd();
    for request in [
        ask::open(b"/file", O_WRONLY),
        ask::open(b"/file", O_RDWR),
        ask::open(b"/file", O_RDONLY | O_TRUNC),
        ask::open(b"/file", O_WRONLY | O_APPEND),
        ask::create(b"/new", O_CREAT | O_RDWR, 0o644, 0, 0),
        ask::create(b"/file", O_CREAT | O_RDONLY, 0o644, 0, 0),
        ask::mknod(b"/new", libc::S_IFIFO | 0o644, 0, 0, 0),
        ask::mkdir(b"/new", 0o755, 0, 0),
        ask::symlink(b"x", b"/new", 0, 0),
        ask::link(b"/file", b"/new"),
        ask::chmod(b"/file", 0o600),
        ask::chown(b"/file", 1, 1),
        ask::truncate(b"/file", 0),
        ask::utime(b"/file", (0, 0), (0, 0)),
        ask::rename(b"/file", b"/new"),
        ask::remove(b"/file"),
        ask::remove(b"/d"),
        ask::setxattr(b"/file", b"user.a", b"2", 0),
        ask::removexattr(b"/file", b"user.a"),
    ] {
        client.ask(&request).fails(EROFS);
    }
    for request in [
        ask::open(b"/file", O_RDONLY),
        ask::open(b"/", libc::O_DIRECTORY),
        ask::lstat(b"/file"),
        ask::readlink(b"/link", 100),
        ask::statfs(b"/"),
        ask::getxattr(b"/file", b"user.a", 10),
        ask::listxattr(b"/file", 100),
        ask::version(b"/file"),
    ] {
        client.ask(&request).ok();
    }
    let after = std::fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!((before.modified().unwrap(), before.len()), (after.modified().unwrap(), after.len()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn the_limit_of_open_files_is_as_asked() {
    let limit = |pid: u32| {
        let text = std::fs::read_to_string(process::of(pid, "limits")).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        line.split_ascii_whitespace().nth(3).unwrap().to_owned()
    };
    let place = Place::new();
    let (running, mut client) =
        Launch::new(&program::ours(), &place.export()).option("--rlimit-nofile=123").by_fd();
    client.ask(&ask::lstat(b"/")).ok();
    assert_eq!(limit(running.pid()), "123");
    let daemon = Daemon::start(&place, &["--persistent", "--rlimit-nofile", "456"]);
    let mut client = Client::connect(&place.socket()).unwrap();
    client.ask(&ask::lstat(b"/")).ok();
    let workers = process::children(daemon.pid);
    assert_eq!(workers.iter().map(|&pid| limit(pid)).collect::<Vec<_>>(), ["456"]);
}

#[test]
fn the_pid_file_holds_the_process_that_a_signal_ends() {
    let place = Place::new();
    for options in [&[][..], &["--persistent"]] {
        // One that an earlier run left behind is replaced.
        std::fs::write(place.pid_file(), "1\n").unwrap();
        let daemon = Daemon::start(&place, options);
        assert!(daemon.pid > 1 && process::status(daemon.pid, "Name").starts_with("virtfs-proxy"));
        // What another process has written since is not ours to remove.
        std::fs::write(place.pid_file(), "1\n").unwrap();
        daemon.signal(nix::sys::signal::Signal::SIGINT);
        daemon.wait();
        crate::program::wait_until("the socket's end", || !place.socket().exists());
        assert_eq!(std::fs::read_to_string(place.pid_file()).unwrap(), "1\n");
    }
}
