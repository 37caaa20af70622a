//! What stands when something goes wrong: the walls behind a worker that was taken over, the share beside a hostile
//! neighbour, the daemon when the system fails it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

#[cfg(feature = "break-in")]
mod break_in;
mod faults;
mod neighbour;
mod soak;

#[path = "../support/apart.rs"]
mod apart;
#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/tree.rs"]
mod tree;
#[path = "../support/wire.rs"]
mod wire;
