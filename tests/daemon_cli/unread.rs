//! Logs and notify sockets that nobody reads: they delay no start, no client and no end, and lost lines are counted.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{self, Launch, wait_until};
use crate::start::{Daemon, Place, words};
use crate::wire::{Client, PATIENCE, ask};

/// Each way to serve from a socket.
const WAYS: [&[&str]; 4] =
    [&[], &["--persistent"], &["--shared=2", "--persistent"], &["--sandbox=chroot", "--persistent"]];

/// Ours in the foreground with a standard error of the test's; killed with its owner.
struct Foreground(Child);

impl Foreground {
    fn start(place: &Place, options: &[&str], stderr: OwnedFd) -> Self {
        let mut command = Command::new(program::ours());
        command.arg("-n").args(place.listening()).args(options);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().expect("a helper"))
    }

    /// Asks it to end, and waits for that.
    #[track_caller]
    fn ends_well(&mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).expect("a signal");
        let mut ended = None;
        wait_until("the helper's end", || {
            ended = self.0.try_wait().expect("the helper's state");
            ended.is_some()
        });
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes to `fd` until it takes no more, without changing how others write to it.
fn fill(fd: impl AsFd) {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).unwrap());
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    for size in [65_536, 4096, 64, 1] {
        while nix::unistd::write(&fd, &vec![b'\n'; size]).is_ok() {}
    }
    fcntl(&fd, FcntlArg::F_SETFL(flags)).unwrap();
}

/// A pipe and a stream socket, both full: where to write, where to read.
fn full() -> [(OwnedFd, OwnedFd); 2] {
    let (read, write) = nix::unistd::pipe().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    fill(&write);
    fill(&far);
    [(write, read), (far.into(), near.into())]
}

#[test]
fn a_log_that_nobody_reads_delays_no_start_no_client_and_no_end() {
    for options in WAYS {
        for (write, _read) in full() {
            let place = Place::new();
            let mut helper = Foreground::start(&place, options, write);
            for _ in 0..if options.is_empty() { 1 } else { 3 } {
                Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/file")).ok();
            }
            if options.is_empty() {
                wait_until("its end with its client", || helper.0.try_wait().unwrap().is_some());
            } else {
                helper.ends_well();
            }
            assert!(!place.socket().exists(), "{options:?}");
        }
    }
}

#[test]
fn a_daemon_that_nobody_listens_to_starts_all_the_same() {
    for (write, _read) in full() {
        let place = Place::new();
        let mut command = Command::new("timeout");
        command.arg("300").arg(program::ours()).args(place.listening()).arg("--persistent");
        command.args(words(["--pid-file".as_ref(), place.pid_file().as_os_str()]));
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(write).status().unwrap();
        assert!(status.success(), "{status}");
        let pid = std::fs::read_to_string(place.pid_file()).unwrap().trim().parse().unwrap();
        let daemon = Daemon { pid };
        Client::connect(&place.socket()).unwrap().ask(&ask::lstat(b"/file")).ok();
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
    }
}

#[test]
fn lost_lines_are_counted_and_the_number_is_logged() {
    for (write, read) in full() {
        let place = Place::new();
        let mut helper = Foreground::start(&place, &["--persistent", "--log-level=trace"], write);
        for _ in 0..5 {
            let mut client = Client::connect_soon(&place.socket());
            client.ask(&ask::lstat(b"/file")).ok();
        }
        let mut log = std::fs::File::from(read);
        // A log that says nothing is a failure, and not a wait without end.
        let flags = OFlag::from_bits_retain(fcntl(&log, FcntlArg::F_GETFL).unwrap());
        fcntl(&log, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
        let mut text = String::new();
        // Each client's lines: connected, one request, left.
        wait_until("the number of lost lines", || {
            let mut bytes = vec![0; 65_536];
            let Ok(count) = log.read(&mut bytes) else { return false };
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            let lost: u64 = text
                .lines()
                .filter_map(|line| {
                    line.strip_prefix("virtfs-proxy-helper: warning: ")?.split_once(" log line")
                })
                .map(|(count, _)| count.parse::<u64>().unwrap())
                .sum();
            lost >= 10
        });
        drop(log);
        helper.ends_well();
    }
}

#[test]
fn each_line_is_one_write() {
    let place = Place::new();
    let types = (nix::sys::socket::AddressFamily::Unix, nix::sys::socket::SockType::SeqPacket);
    let (near, far) =
        nix::sys::socket::socketpair(types.0, types.1, None, nix::sys::socket::SockFlag::empty())
            .expect("a pair that keeps writes apart");
    let mut helper = Foreground::start(&place, &["--persistent", "--shared=3", "--log-level=trace"], far);
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect_soon(&place.socket())).collect();
    for client in &mut clients {
        client.ask(&ask::lstat(b"/file")).ok();
        assert!(client.send(&[0xff; 8]));
        client.wait_closed().closed();
    }
    helper.ends_well();
    let mut lines = 0;
    let mut bytes = [0; 8192];
    while let Ok(count @ 1..) =
        nix::sys::socket::recv(near.as_raw_fd(), &mut bytes, nix::sys::socket::MsgFlags::MSG_DONTWAIT)
    {
        let line = std::str::from_utf8(&bytes[..count]).unwrap();
        assert!(line.starts_with("virtfs-proxy-helper: ") && line.ends_with('\n'), "{line:?}");
        assert_eq!(line.lines().count(), 1, "{line:?}");
        lines += 1;
    }
    assert!(lines > 9, "{lines}");
}

/// A manager whose socket is full.
fn deaf_manager(place: &Place) -> UnixDatagram {
    let path = place.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    fill_queue(&path);
    manager
}

fn fill_queue(path: &Path) {
    // The kernel also bounds what one sender has on its way (net.core.wmem_default): until even a new one can send nothing.
    let mut sent = true;
    while sent {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sent = false;
        while sender.send_to(b"FULL=1", path).is_ok() {
            sent = true;
        }
    }
}

#[test]
fn a_manager_that_does_not_read_delays_nothing_and_is_told_later() {
    for options in WAYS {
        let place = Place::new();
        let manager = deaf_manager(&place);
        let mut launch = Launch::new(&program::ours(), &place.export());
        for option in options {
            launch = launch.option(option);
        }
        let mut helper =
            launch.variable("NOTIFY_SOCKET", place.path().join("notify")).by_socket(&place.socket());
        helper.wait_for_log("does not read NOTIFY_SOCKET");
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 64];
        loop {
            let count = manager.recv(&mut buffer).expect("READY=1");
            match &buffer[..count] {
                b"READY=1" => break,
                other => assert_eq!(other, b"FULL=1"),
            }
        }
        fill_queue(&place.path().join("notify"));
        let mut client = Client::connect_soon(&place.socket());
        client.ask(&ask::lstat(b"/file")).ok();
        helper.signal(Signal::SIGTERM);
        assert!(helper.wait().success(), "{options:?}: {}", helper.log());
    }
}
