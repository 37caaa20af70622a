//! What `migrate config` makes of domain XML, told by libvirt itself: its schema, its daemon, the arguments that it
//! starts QEMU with, and guests that it runs. Needs root and Debian's libvirt-daemon, libvirt-daemon-driver-qemu,
//! libvirt-clients and libxml2-utils.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

mod guests;
mod instance;
mod journey;
mod moves;
mod plan;
mod proxmox;
mod schema;

#[path = "../support/process.rs"]
mod process;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/wire.rs"]
mod wire;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs `migrate config` on a file.
fn config(file: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"))
        .args([OsStr::new("migrate"), OsStr::new("config"), file.as_os_str()])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program")
}
