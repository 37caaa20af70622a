//! `migrate check` and `migrate verify`, and what they look at.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

#[path = "../support/program.rs"]
mod program;
#[path = "../support/wire.rs"]
mod wire;

mod check;
mod layers;
mod live;
mod manifest;
mod system;
mod trial;
mod verify;
