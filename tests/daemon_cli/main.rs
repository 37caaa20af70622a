//! The command line as people and programs use it: usage, start-up, sockets, readiness, logging.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

mod completions;
mod daemon;
mod documents;
mod files;
mod health;
mod logging;
mod options;
mod sockets;
mod stalled;
mod start;
mod systemd;
mod unread;
mod usage;
mod variables;

#[path = "../support/apart.rs"]
mod apart;
#[path = "../support/disk.rs"]
mod disk;
#[path = "../../examples/manual/pages.rs"]
mod pages;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/tree.rs"]
mod tree;
#[path = "../support/wire.rs"]
mod wire;
