//! Clients that send descriptors, take none, say nothing or are not the socket's: none costs another its service.

use std::fs;
use std::io::{IoSlice, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use nix::unistd::Pid;

use crate::process;
use crate::program::{self, Launch, Running};
use crate::start::{Place, words};
use crate::wire::{Answer, Client, Form, PATIENCE, ask};

/// A socket whose last close waits for ten minutes: it lingers for data that its other side does not take.
fn lingering() -> (TcpStream, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    while (&stream).write(&vec![0; 65_536]).is_ok() {}
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 600 }).unwrap();
    (stream, listener)
}

/// Sends `bytes` and a descriptor beside them.
fn send_with(client: &UnixStream, bytes: &[u8], fd: i32) -> Result<usize, Errno> {
    let control = [ControlMessage::ScmRights(&[fd])];
    sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), None)
}

/// As on a kernel that has no way to refuse descriptors.
const OLD_KERNEL: [&str; 8] =
    ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", "inject=setsockopt:error=ENOPROTOOPT", "--"];

#[test]
fn a_descriptor_that_a_client_sends_keeps_nobody_waiting() {
    for old_kernel in [false, true] {
        for (options, asks) in [
            (&["--persistent"][..], false),
            (&["--persistent", "--sandbox=chroot"], false),
            (&["--persistent"], true),
            (&[], true),
        ] {
            let place = Place::new();
            let mut launch = Launch::new(&program::ours(), &place.export());
            if old_kernel {
                // strace skips a call by giving it a number that no filter allows.
                launch = launch.under(OLD_KERNEL).option("--seccomp=none");
            }
            for option in options {
                launch = launch.option(option);
            }
            let mut helper = launch.by_socket(&place.socket());
            let socket = place.path().join(if asks { "socket.health" } else { "socket" });
            let mut client = Client::connect_soon(&socket);
            if !asks {
                client.ask(&ask::lstat(b"/file")).ok();
            }
            let itself = if old_kernel { process::children(helper.pid())[0] } else { helper.pid() };
            let all: Vec<u32> = process::children(itself).into_iter().chain([itself]).collect();
            let signal_all = |signal| {
                for &pid in &all {
                    // A process that made a health check may be gone.
                    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
                }
            };
            if asks {
                // What is sent to who answers at once would be too late.
                signal_all(Signal::SIGSTOP);
                client = Client::connect_soon(&socket);
            }
            // One that is received, where this is a client, and one that is still in the queue when it leaves.
            for bytes in [&[8_u8][..], &[0]] {
                // The helper is to have the last one, and not this test, which would wait for its close.
                signal_all(Signal::SIGSTOP);
                let (stream, listener) = lingering();
                match send_with(client.stream(), bytes, stream.as_raw_fd()) {
                    Ok(_) => std::mem::forget(listener),
                    // Linux 6.16 and later.
                    Err(errno) => {
                        assert!(errno == Errno::EPERM && !old_kernel, "{errno}");
                        // This test must not wait either.
                        let off = libc::linger { l_onoff: 0, l_linger: 0 };
                        setsockopt(&stream, sockopt::Linger, &off).unwrap();
                    }
                }
                drop(stream);
                if !asks {
                    signal_all(Signal::SIGCONT);
                }
            }
            drop(client);
            signal_all(Signal::SIGCONT);
            if asks {
                // The next one to ask is answered: the first one's connection is closed.
                let mut answer = String::new();
                let mut next = UnixStream::connect(&socket).unwrap();
                next.set_read_timeout(Some(PATIENCE)).unwrap();
                next.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{options:?}: {error}"));
                assert!(answer.starts_with("virtfs-proxy-helper ok"), "{options:?}: {answer}");
            }
            let mut next = Client::connect_soon(&place.socket());
            let answer = next.ask(&ask::lstat(b"/file"));
            let when = format!("{options:?}, asks: {asks}, old kernel: {old_kernel}");
            assert!(answer.is_success(), "{when}: {answer:?}: {}", helper.log());
            kill(Pid::from_raw(itself.cast_signed()), Signal::SIGTERM).unwrap();
            assert!(helper.wait().success(), "{options:?}: {}", helper.log());
        }
    }
}

#[test]
fn clients_that_take_no_descriptor_cost_the_others_none() {
    let place = Place::new();
    let launch = Launch::new(&program::ours(), &place.export()).option("--persistent").option("--shared=41");
    let _helper = launch.by_socket(&place.socket());
    let mut hoarders: Vec<Client> = (0..40).map(|_| Client::connect_soon(&place.socket())).collect();
    let request = ask::open(b"/file", libc::O_RDONLY).encode().repeat(300);
    for hoarder in &mut hoarders {
        hoarder.stream().set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let _ = hoarder.stream().write(&request);
    }
    let mut other = Client::connect_soon(&place.socket());
    for _ in 0..200 {
        other.ask(&ask::open(b"/file", libc::O_RDONLY)).ok();
    }
    // Those that begin to read have all their replies, the first of them descriptors.
    for hoarder in &mut hoarders {
        hoarder.reply(Form::Fd).ok();
    }
}

#[test]
fn a_client_that_waits_for_its_turn_is_logged_once() {
    let place = Place::new();
    let launch = Launch::new(&program::ours(), &place.export()).option("--persistent");
    let helper = launch.by_socket(&place.socket());
    for round in 1..3 {
        // A client that finds the last one's worker leaving waits, too.
        program::wait_until("no worker", || process::children(helper.pid()).is_empty());
        let mut first = Client::connect_soon(&place.socket());
        first.ask(&ask::lstat(b"/file")).ok();
        let mut second = Client::connect(&place.socket()).unwrap();
        assert!(second.send(&ask::lstat(b"/file").encode()));
        program::wait_until("a line about the client that waits", || {
            helper.log().matches("a client waits").count() == round
        });
        first.ask(&ask::lstat(b"/file")).ok();
        drop(first);
        second.reply(Form::Response).ok();
    }
    assert_eq!(helper.log().matches("a client waits").count(), 2, "{}", helper.log());
}

#[test]
fn with_an_idle_timeout_a_silent_client_gives_its_place_up() {
    for options in [&[][..], &["--persistent"]] {
        for floods in [false, true] {
            let place = Place::new();
            let mut launch = Launch::new(&program::ours(), &place.export()).option("--idle-timeout=1");
            for option in options {
                launch = launch.option(option);
            }
            let helper = launch.by_socket(&place.socket());
            let mut silent = Client::connect_soon(&place.socket());
            if floods {
                // It sends as long as the helper takes requests, and reads no reply.
                silent.stream().set_write_timeout(Some(Duration::from_millis(100))).unwrap();
                let requests = ask::lstat(b"/file").encode().repeat(1000);
                while silent.stream().write_all(&requests).is_ok() {}
            } else {
                silent.ask(&ask::lstat(b"/file")).ok();
            }
            helper.wait_for_log("client was idle");
            if !options.is_empty() {
                Client::connect(&place.socket()).unwrap().ask(&ask::lstat(b"/file")).ok();
            }
        }
    }
}

/// What a process of this user, group and supplementary groups gets when it connects and asks.
fn ask_as(path: &Path, uid: u32, gid: u32, groups: &[u32]) -> Answer {
    let (path, groups): (PathBuf, Vec<u32>) = (path.into(), groups.into());
    let asking = std::thread::spawn(move || {
        // SAFETY: plain integers and a list that is only read. The system calls themselves change this thread alone.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), 0);
            assert_eq!(libc::syscall(libc::SYS_setresgid, -1, gid, -1), 0);
            assert_eq!(libc::syscall(libc::SYS_setresuid, -1, uid, -1), 0);
        }
        Client::connect_soon(&path).ask(&ask::lstat(b"/file"))
    });
    asking.join().expect("a client")
}

/// `LISTEN_FDS` as systemd passes them; the socket is standard input.
const ACTIVATE: &str =
    r#"LISTEN_PID=$$ LISTEN_FDS=1 && export LISTEN_PID LISTEN_FDS && exec "$@" 3<&0 0</dev/null"#;

#[test]
fn only_the_sockets_user_and_group_are_served_whatever_its_mode_lets_in() {
    for passed in [false, true] {
        for options in [&["--persistent"][..], &["--shared=2"], &[]] {
            let place = Place::new();
            let mut all = words(["-n", "-u", "1234", "-g", "567"]);
            all.extend(words(options));
            all.extend(["-p".into(), place.export().into()]);
            let helper = if passed {
                let listener = UnixListener::bind(place.socket()).unwrap();
                let mut command = Command::new("sh");
                command.args(["-c", ACTIVATE, "sh"]).arg(program::ours()).args(all);
                Running::spawn(command.stdin(std::os::fd::OwnedFd::from(listener)))
            } else {
                all.extend(["-s".into(), place.socket().into()]);
                Running::spawn(Command::new(program::ours()).args(all).stdin(Stdio::null()))
            };
            program::wait_until("a helper that listens", || {
                UnixStream::connect(place.path().join("socket.health")).is_ok()
            });
            fs::set_permissions(place.socket(), fs::Permissions::from_mode(0o666)).unwrap();
            for (uid, gid, groups) in [(9, 9, &[][..]), (9, 9, &[1, 2])] {
                let answer = ask_as(&place.socket(), uid, gid, groups);
                assert!(
                    matches!(answer, Answer::Closed),
                    "{passed} {options:?}: {uid}:{gid} {groups:?}: {answer:?}"
                );
            }
            helper.wait_for_log("refused a client");
            let admitted: &[(u32, u32, &[u32])] =
                &[(1234, 9, &[]), (9, 567, &[]), (9, 9, &[1, 567]), (0, 0, &[])];
            // One that is served is the end of a helper that is not persistent.
            let rounds = if options.contains(&"--persistent") { admitted.len() } else { 1 };
            for &(uid, gid, groups) in &admitted[..rounds] {
                ask_as(&place.socket(), uid, gid, groups).ok();
            }
        }
    }
}
