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

impl Outcome {
    /// The exit status.
    pub fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Findings => 3,
            Self::Unread => 4,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(outcome.code())
    }
}
