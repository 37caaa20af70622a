//! What a serving process may do, can reach and survives.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

mod clients;
mod companions;
mod documents;
mod escapes;
mod identity;
mod leases;
mod missing;
mod mounts;
mod standing;
mod strict;

#[path = "../support/apart.rs"]
mod apart;
#[path = "../support/calls.rs"]
mod calls;
#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/namespace.rs"]
mod namespace;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/refuse.rs"]
mod refuse;
#[path = "../support/tree.rs"]
mod tree;
#[path = "../support/wire.rs"]
mod wire;

/// Every kind of sandbox.
const SANDBOXES: [&str; 3] = ["namespace", "chroot", "none"];

/// Ours, on `root`, behind the walls given.
fn ours(root: &std::path::Path, sandbox: &str) -> program::Launch {
    program::Launch::new(&program::ours(), root).option(format!("--sandbox={sandbox}"))
}
