//! Outcome → exit status, in one place.

use std::process::ExitCode;

/// How a run of the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All went well, and there is nothing left for the admin to do.
    Clean,
    /// The work could not be done.
    Failure,
    /// The command line is wrong.
    Usage,
    /// `migrate`: something was found that needs the admin.
    Findings,
    /// `migrate audit`: nothing was found, but not all could be read. Unread is not clean.
    Unread,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(match outcome {
            Outcome::Clean => 0,
            Outcome::Failure => 1,
            Outcome::Usage => 2,
            Outcome::Findings => 3,
            Outcome::Unread => 4,
        })
    }
}
