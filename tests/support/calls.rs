//! How many system calls a process makes, counted by strace.

#![allow(dead_code, reason = "each crate uses its own part of this module")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How many system calls a live process and its threads make while `work` goes on. `folder` is for strace's notes.
pub fn during(pid: u32, folder: &Path, work: impl FnOnce()) -> u64 {
    let notes = folder.join("calls");
    let mut strace = Command::new("strace")
        .args(["-f", "-q", "-c", "-U", "calls,name", "-p", &pid.to_string(), "-o"])
        .arg(&notes)
        .stderr(Stdio::null())
        .spawn()
        .expect("strace: install it");
    let tasks = format!("/proc/{pid}/task");
    let is_traced = || {
        fs::read_dir(&tasks).expect("the process's threads").all(|task| {
            let status =
                fs::read_to_string(task.expect("a thread").path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        })
    };
    while !is_traced() {
        assert!(strace.try_wait().expect("strace").is_none(), "strace ended");
        std::thread::sleep(Duration::from_millis(1));
    }
    work();
    kill(Pid::from_raw(i32::try_from(strace.id()).expect("a pid")), Signal::SIGINT).expect("strace's end");
    strace.wait().expect("strace's end");
    total(&fs::read_to_string(&notes).expect("strace's notes"))
}

/// The last number of strace's table.
pub fn total(notes: &str) -> u64 {
    let total = notes.lines().find_map(|line| line.trim().strip_suffix(" total"));
    total.unwrap_or_else(|| panic!("no total: {notes}")).trim().parse().expect("a number of calls")
}
