//! `migrate plan`, `apply`, `undo` and `status` on real QEMUs and helpers: from start to end, killed before and after every step, and
//! taken back by themselves.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

#[path = "../support/process.rs"]
mod process;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/snapshot.rs"]
mod snapshot;
#[path = "../support/wire.rs"]
mod wire;

mod by_hand;
mod elsewhere;
mod host;
mod killed;
mod two;
