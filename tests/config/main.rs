//! `migrate config`, as people run it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/tools.rs"]
mod tools;

mod agree;
mod cases;
mod confined;
mod golden;
mod helper_line;
mod in_place;
mod multidevs;
mod printed;
mod qemu;
mod unread;
mod usage;
mod virtiofs;
mod yaml;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs `migrate config` with something on standard input.
fn config(args: impl IntoIterator<Item = impl AsRef<OsStr>>, input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
    command.args(["migrate", "config"]).args(args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    // It may end before it has read all.
    let _ = child.stdin.take().expect("its input").write_all(input);
    child.wait_with_output().expect("its output")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The golden cases' folder.
fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config")
}
