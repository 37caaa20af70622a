//! The files that a helper makes: gone with it however early it ends, and never somebody else's.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::process;
use crate::program::{self, Launch, Running, wait_until};
use crate::start::{Place, finish, text, words};
use crate::wire::{Client, ask};

/// Each way to serve from a socket.
const WAYS: [&[&str]; 4] = [&[], &["--persistent"], &["--shared=2"], &["--sandbox=chroot", "--persistent"]];

/// Where a start is held for a moment: after the system call that made the socket, the one that opened it to clients, and the one
/// that gave the pid file its name.
const HELD: [&str; 4] = [
    "inject=bind:delay_exit=400000",
    "inject=listen:delay_exit=400000",
    "inject=rename,renameat,renameat2:delay_exit=400000",
    "inject=capset:delay_enter=100000",
];

fn pid_file(place: &Place) -> String {
    format!("--pid-file={}", place.pid_file().display())
}

fn left(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "export")
        .collect()
}

#[test]
fn a_signal_at_any_moment_of_the_start_leaves_no_file_behind() {
    for options in WAYS {
        for held in HELD {
            let place = Place::new();
            let mut all = words(["-f", "-qqq", "-o", "/dev/null", "-e", held]);
            all.push(program::ours().into());
            all.push("-n".into());
            all.extend(place.listening());
            all.push(pid_file(&place).into());
            all.extend(words(options));
            let mut strace = Running::spawn(Command::new("strace").args(all).stdin(Stdio::null()));
            wait_until("the socket", || place.socket().symlink_metadata().is_ok());
            for pid in process::children(strace.pid()) {
                kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).unwrap();
            }
            let status = strace.wait();
            assert_eq!(status.code(), Some(0), "{options:?} {held}: {status} {}", strace.log());
            assert!(left(&place).is_empty(), "{options:?} {held}: {:?}", left(&place));
        }
    }
}

#[test]
fn a_signal_soon_after_the_start_leaves_no_file_behind() {
    for options in WAYS {
        for delay in 0..12 {
            let place = Place::new();
            let mut launch = Launch::new(&program::ours(), &place.export()).option(pid_file(&place));
            for option in options {
                launch = launch.option(option);
            }
            let mut helper = launch.by_socket(&place.socket());
            std::thread::sleep(std::time::Duration::from_millis(delay * 4));
            helper.signal(Signal::SIGTERM);
            // One that has not come to handling signals is killed by it.
            helper.wait();
            assert!(left(&place).is_empty(), "{options:?} {delay}: {:?}", left(&place));
        }
    }
}

#[test]
fn a_failed_start_leaves_no_file_behind() {
    let place = Place::new();
    for options in WAYS {
        let mut args = words(["-n"]);
        args.extend(place.listening());
        args.extend(words(options));
        args.push("--pid-file=nowhere/pid".into());
        let output = finish(&program::ours(), args, place.path());
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("cannot write the pid file"), "{}", text(&output.stderr));
        assert!(left(&place).is_empty(), "{options:?}: {:?}", left(&place));
    }
}

#[test]
fn the_pid_file_is_a_file_of_its_own_whatever_was_there_and_whatever_the_umask_is() {
    for options in WAYS {
        for umask in ["0", "077"] {
            let place = Place::new();
            let other = place.path().join("other");
            fs::write(&other, "another file").unwrap();
            fs::hard_link(&other, place.pid_file()).unwrap();
            let mut all = words(["-c", &format!("umask {umask} && exec \"$@\""), "sh"]);
            all.push(program::ours().into());
            all.push("-n".into());
            all.extend(place.listening());
            all.push(pid_file(&place).into());
            all.extend(words(options));
            let mut helper = Running::spawn(Command::new("sh").args(all).stdin(Stdio::null()));
            Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/file")).ok();
            if !options.contains(&"--persistent") {
                helper.wait();
                assert_eq!(left(&place), ["other"], "{options:?}");
                continue;
            }
            let meta = place.pid_file().symlink_metadata().unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o644, 1), "{options:?} {umask}");
            assert_eq!(fs::read_to_string(place.pid_file()).unwrap(), format!("{}\n", helper.pid()));
            assert_eq!(fs::read_to_string(&other).unwrap(), "another file");
            helper.signal(Signal::SIGTERM);
            assert!(helper.wait().success());
            assert_eq!(left(&place), ["other"], "{options:?}");
        }
    }
}

#[test]
fn what_is_no_regular_file_is_refused_as_pid_file_and_stays_as_it_is() {
    let link_to_file = |place: &Place| std::os::unix::fs::symlink("target", place.pid_file()).unwrap();
    let link_to_nothing = |place: &Place| std::os::unix::fs::symlink("nothing", place.pid_file()).unwrap();
    let fifo = |place: &Place| mkfifo(&place.pid_file(), Mode::from_bits_truncate(0o666)).unwrap();
    let directory = |place: &Place| fs::create_dir(place.pid_file()).unwrap();
    let plants: [&dyn Fn(&Place); 4] = [&link_to_file, &link_to_nothing, &fifo, &directory];
    for options in WAYS {
        for plant in plants {
            let place = Place::new();
            let target = place.path().join("target");
            fs::write(&target, "somebody else's").unwrap();
            plant(&place);
            let before = place.pid_file().symlink_metadata().unwrap();
            for foreground in ["-n", "--log-level=info"] {
                let mut args = words([foreground]);
                args.extend(place.listening());
                args.push(pid_file(&place).into());
                args.extend(words(options));
                let output = finish(&program::ours(), args, place.path());
                assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
                assert!(text(&output.stderr).contains("is not a regular file"), "{}", text(&output.stderr));
            }
            assert_eq!(place.pid_file().symlink_metadata().unwrap().ino(), before.ino());
            assert_eq!(fs::read_to_string(&target).unwrap(), "somebody else's");
            let mut names = left(&place);
            names.sort();
            assert_eq!(names, ["pid", "target"], "{options:?}");
        }
    }
}

/// Puts something else in the place of a running helper's pid file: its end waits for nothing and removes nothing of others.
#[test]
fn what_took_the_pid_files_place_is_not_waited_for_or_removed() {
    for options in WAYS {
        for fifo in [false, true] {
            let place = Place::new();
            let mut launch = Launch::new(&program::ours(), &place.export()).option(pid_file(&place));
            for option in options {
                launch = launch.option(option);
            }
            let mut helper = launch.by_socket(&place.socket());
            let mut client = Client::connect_soon(&place.socket());
            client.ask(&ask::lstat(b"/file")).ok();
            let text = fs::read_to_string(place.pid_file()).unwrap();
            fs::remove_file(place.pid_file()).unwrap();
            if fifo {
                mkfifo(&place.pid_file(), Mode::from_bits_truncate(0o666)).unwrap();
            } else {
                let target = place.path().join("target");
                fs::write(&target, &text).unwrap();
                std::os::unix::fs::symlink(&target, place.pid_file()).unwrap();
            }
            helper.signal(Signal::SIGTERM);
            assert!(helper.wait().success(), "{options:?}: {}", helper.log());
            let kind = place.pid_file().symlink_metadata().unwrap().file_type();
            assert!(if fifo { kind.is_fifo() } else { kind.is_symlink() }, "{options:?}");
            assert!(!place.socket().exists());
        }
    }
}
