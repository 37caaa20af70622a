//! `migrate audit` as its users run it: its documents and exit statuses, hostile input, other hosts' file systems, and
//! live QEMUs with their helpers.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

#[path = "../support/program.rs"]
mod program;
#[path = "../support/tools.rs"]
mod tools;
#[path = "../support/wire.rs"]
mod wire;

mod advice;
mod cases;
mod copies;
mod formats;
mod hostile;
mod joining;
mod kept;
mod live;
mod newer_qemu;
mod output;
mod run;
mod shipped;
mod status;
mod statuses;
mod whole_host;
mod yaml;
