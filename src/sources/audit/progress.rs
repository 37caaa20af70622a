//! A progress bar, on a terminal only.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How far the audit is.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows nothing where standard error is no terminal.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::no_length();
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
            let style = ProgressStyle::with_template("{spinner} {pos} looked at, {per_sec}, {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(250));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bar }
    }

    /// So many files are done.
    pub(super) fn looked_at(&self, files: u64) {
        // The bar takes a lock; not for every file.
        if files.is_multiple_of(64) {
            self.bar.set_position(files);
        }
    }

    /// What it is doing.
    pub(super) fn doing(&self, what: &'static str) {
        self.bar.set_message(what);
    }

    /// Wipes it.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
