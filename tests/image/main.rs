//! The image: what is in it, and the helper working from it as a sidecar, in a pod, in user namespaces.
//!
//! Real engines run it: the image is built once by scripts/build-image from what is committed, each test loads it into
//! a storage of its own.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

mod contents;
mod fleet;
mod kubernetes;
mod manifests;
mod migrate;
mod pod;
mod sidecar;
mod users;

#[path = "../support/container.rs"]
mod container;
#[path = "../support/guest.rs"]
mod guest;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/snapshot.rs"]
mod snapshot;
#[path = "../support/wire.rs"]
mod wire;
#[path = "../support/work.rs"]
mod work;
