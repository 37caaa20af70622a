//! `migrate convert` and `migrate rollback`: exact, reversible, and safe whatever happens on the way.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/injector.rs"]
mod injector;
#[path = "../support/knot.rs"]
mod knot;
#[path = "../support/snapshot.rs"]
mod snapshot;

mod adopt;
mod adopt_errors;
mod adopt_many;
mod copies;
mod crash;
mod errors;
mod hidden;
mod identity;
mod journal;
mod late;
mod lost;
mod mutations;
mod power;
mod racing;
mod refusals;
mod roundtrip;
mod stage;
mod unmap;
mod volumes;
