//! Starting helpers as a shell or a service manager does.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;
use crate::program::{self, wait_until};
use crate::tree::Owned;

/// A folder with an export in it and a name for a socket.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = program::scratch();
        Owned::below(dir.path()).dir("export", 0o755, 0, 0).file("export/file", b"content", 0o644, 0, 0);
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn export(&self) -> PathBuf {
        self.dir.path().join("export")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn pid_file(&self) -> PathBuf {
        self.dir.path().join("pid")
    }

    /// `-p EXPORT -s SOCKET -u 0 -g 0`
    pub fn listening(&self) -> Vec<OsString> {
        words([
            "-p".as_ref(),
            self.export().as_os_str(),
            "-s".as_ref(),
            self.socket().as_os_str(),
            "-u".as_ref(),
            "0".as_ref(),
            "-g".as_ref(),
            "0".as_ref(),
        ])
    }
}

pub fn words<S: AsRef<OsStr>>(list: impl IntoIterator<Item = S>) -> Vec<OsString> {
    list.into_iter().map(|word| word.as_ref().to_owned()).collect()
}

/// Runs a program to its end; one that does not end is stopped after five minutes.
pub fn finish<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>, dir: &Path) -> Output {
    let mut command = Command::new("timeout");
    command.arg("300").arg(program).args(args).current_dir(dir).stdin(Stdio::null());
    command.output().expect("a helper's end")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A helper in the background; ended with its owner.
pub struct Daemon {
    pub pid: u32,
}

impl Daemon {
    /// Starts ours without `-n` as `place` has it. The start must go well, and say nothing but what a machine without a
    /// syslog daemon deserves.
    #[track_caller]
    pub fn start(place: &Place, options: &[&str]) -> Self {
        Self::start_with(place, place.listening(), options)
    }

    /// The same with other arguments for export and socket, in the place's folder.
    #[track_caller]
    pub fn start_with(place: &Place, mut args: Vec<OsString>, options: &[&str]) -> Self {
        args.extend(words(options));
        args.extend(words(["--pid-file".as_ref(), place.pid_file().as_os_str()]));
        let output = finish(&program::ours(), args, place.path());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(output.stdout.is_empty() && said.lines().all(|line| line.contains("syslog")), "{said}");
        let pid = fs::read_to_string(place.pid_file()).expect("a pid file").trim().parse().expect("a pid");
        Self { pid }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid.cast_signed()), signal).expect("a signal to the daemon");
    }

    /// Whether the process is there and not only waits to be reaped.
    pub fn is_alive(&self) -> bool {
        let status = fs::read_to_string(process::of(self.pid, "status")).unwrap_or_default();
        status.contains("State:") && !status.contains("State:\tZ")
    }

    #[track_caller]
    pub fn wait(&self) {
        wait_until("the daemon's end", || !self.is_alive());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_alive() {
            self.signal(Signal::SIGTERM);
            for _ in 0..75_000 {
                if !self.is_alive() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            self.signal(Signal::SIGKILL);
        }
    }
}
