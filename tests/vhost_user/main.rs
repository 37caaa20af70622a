//! The helper as a 9p device over vhost-user, spoken to by a front-end and a guest of our own.

#![cfg(feature = "vhost-user")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "helpers of tests")]

mod files;
mod front_end;
mod guest;
mod hostile;

#[path = "../support/program.rs"]
mod program;
#[path = "../support/wire.rs"]
mod wire;

use std::path::PathBuf;

use program::{Launch, Running, scratch};
use tempfile::TempDir;

/// A device that serves one front-end after the other, and its export.
struct Device {
    folder: TempDir,
    process: Running,
}

impl Device {
    /// Serves a new, empty export.
    fn start(options: &[&str]) -> Self {
        let folder = scratch();
        let export = folder.path().join("export");
        std::fs::create_dir(&export).expect("an export");
        let always = ["--vhost-user", "--tag=work", "--persistent", "--shared=8"];
        let launch =
            always.iter().chain(options).fold(Launch::new(&program::ours(), &export), Launch::option);
        let process = launch.by_socket(&folder.path().join("s"));
        Self { folder, process }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    fn export(&self) -> PathBuf {
        self.folder.path().join("export")
    }
}
