//! The same requests, played step by step to QEMU's own helper and to ours, on equal trees.
//!
//! Every step says what both must answer; replies and the trees left behind must be the same. What differs on
//! purpose has tests of its own, in `differences` and `defects`.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

mod attributes;
mod creating;
mod defects;
mod differences;
mod mounts;
mod names;
mod opening;
mod precedence;
mod random;
mod reading;
mod removing;
mod stage;
mod xattrs;

#[path = "../support/apart.rs"]
mod apart;
#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/tree.rs"]
mod tree;
#[path = "../support/wire.rs"]
mod wire;
