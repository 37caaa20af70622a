//! QEMU's 9p proxy helper, and the way off the proxy backend.
//!
//! # What lives where
//!
//! | room | what it is | imports |
//! |---|---|---|
//! | `cli` | the command line: the program's commands, and what `--help` ends with | `data`, `helper`, `moves`, `report`, `sources` |
//! | `migrate` | one arm for each verb of `migrate` | `cli`, `data`, `exit`, `moves`, `report`, `sources` |
//! | `moves` | `plan`, `apply`, `undo` and `status`: whole guests, and how far they are | `data`, `exit`, `kernel`, `report`, `share`, `sources`, `text`, `yaml` |
//! | `sources` | `audit` and `config`: one reader for each configuration format, and who serves what | `data`, `exit`, `report`, `share`, `text`, `yaml` |
//! | `data` | `check`, `convert`, `verify`, `rollback`, `unmap`, `manifest`: the export's files and their journal | `exit`, `kernel`, `report`, `share`, `text` |
//! | `share` | what a share is, QEMU's option strings, and a share's equivalents | `report`, `text` |
//! | `report` | findings, documents and their formats, and `report`, which merges audits | `exit`, `kernel`, `text`, `yaml` |
//! | `helper` | the daemon: a privileged helper that QEMU 9.1 and older speaks to over a unix socket | `exit`, `kernel`, `text` |
//! | `exit` | outcomes and exit statuses | |
//! | `kernel` | system calls that more than one room needs | |
//! | `say` | lines on standard output and standard error, which never panic | |
//! | `text` | bytes of any origin as text that is safe on a terminal | |
//! | `yaml` | reading YAML | |
//!
//! Nothing is public but [`run`], and [`internals`] for tests. A room imports only rooms below it, as the last column says. `tests/structure` holds the files to this table.
//!
//! The way of the data: bytes, request, reply, bytes (`helper`); text, share, local equivalent, text (`sources`, `share`);
//! tree, entry, journal, tree (`data`).

#![warn(unreachable_pub)]
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[macro_use]
mod say;
#[macro_use]
mod report;

mod cli;
mod data;
mod exit;
mod helper;
mod kernel;
mod migrate;
mod moves;
mod share;
mod sources;
mod text;
mod yaml;

pub mod internals {
    //! What the benchmarks, the fuzz targets, the examples and the tests use beside [`run`](super::run). Nothing here is
    //! for other crates: any version may change it.

    pub use crate::cli::Cli;

    /// The export's files.
    pub mod data {
        pub use crate::data::journal::{Format, Journal, MAGIC, Part, Stage, Writer};
        pub use crate::data::live::{Live, Role, User, look};
    }

    /// The daemon.
    pub mod helper {
        pub use crate::helper::Settings;
        pub use crate::helper::identity::{IdMaps, Identity};
        pub use crate::helper::isolation::{Access, Sandbox, Seccomp};
        pub use crate::helper::operations::{Answer, Operations, REPLY};
        pub use crate::helper::protocol::{Frame, HEADER, Request};
        pub use crate::helper::sandbox::{Directory, enter};
        pub use crate::helper::sticky::ProtectedRegular;
    }

    /// Findings, and text of any origin.
    pub mod report {
        pub use crate::report::finding::{KINDS, Severity};
        pub use crate::text::unescape;
    }

    /// Shares, and the options by which QEMU takes them.
    pub mod share {
        pub use crate::share::local::{bus_number, pci_slot};
        pub use crate::share::rewrite::{Rewrite, apply};
        pub use crate::share::{Note, Share, Transport};

        /// Argument lists.
        pub mod argv {
            pub use crate::share::argv::{Arg, guest_name, ids, mount_tags, rewrite, shares};
        }

        /// Option strings.
        pub mod qemu_opts {
            pub use crate::share::qemu_opts::{Opt, boolean, escape, id, last, parse};
        }
    }

    /// Configuration formats.
    pub mod sources {
        pub use crate::sources::libvirt::Libvirt;
        pub use crate::sources::{Document, FORMATS, Format};
    }
}

use std::process::ExitCode;

use clap::error::ContextValue;

use exit::Outcome;

/// Runs the program on this process's arguments and says how it ended.
pub fn run() -> ExitCode {
    let cli = match cli::Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let error = escape_values(error);
            // Nobody is left to tell when printing the usage fails.
            let _ = error.print();
            return if error.use_stderr() { Outcome::Usage } else { Outcome::Clean }.into();
        }
    };
    match cli.command {
        Some(cli::Command::Healthcheck(args)) => helper::health::run(args),
        Some(cli::Command::Migrate(command)) => migrate::run(command.verb),
        None => helper::run(cli.helper),
    }
    .into()
}

/// Escapes the control characters of the words that a message repeats: none may start a line of its own or reach a terminal.
fn escape_values(mut error: clap::Error) -> clap::Error {
    let safe = |text: &String| text::escape(text.as_bytes()).into_owned();
    let values: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(value) => Some((kind, ContextValue::String(safe(value)))),
            ContextValue::Strings(values) => {
                Some((kind, ContextValue::Strings(values.iter().map(safe).collect())))
            }
            _ => None,
        })
        .collect();
    for (kind, value) in values {
        error.insert(kind, value);
    }
    error
}
