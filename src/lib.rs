//! QEMU's 9p proxy helper, and the way off the proxy backend.
//!
//! # What lives where
//!
//! | room | what it is | imports |
//! |---|---|---|
//! | [`cli`] | the command line: the program's commands, and what `--help` ends with | `data`, `helper`, `moves`, `report`, `sources` |
//! | `migrate` | one arm for each verb of `migrate` | `cli`, `data`, `exit`, `moves`, `report`, `sources` |
//! | `moves` | `plan`, `apply`, `undo` and `status`: whole guests, and how far they are | `data`, `exit`, `kernel`, `report`, `share`, `sources`, `text`, `yaml` |
//! | [`sources`] | `audit` and `config`: one reader for each configuration format, and who serves what | `data`, `exit`, `report`, `share`, `text`, `yaml` |
//! | [`data`] | `check`, `convert`, `verify`, `rollback`, `unmap`, `manifest`: the export's files and their journal | `exit`, `kernel`, `report`, `share`, `text` |
//! | [`share`] | what a share is, QEMU's option strings, and a share's equivalents | `report`, `text` |
//! | [`report`] | findings, documents and their formats, and `report`, which merges audits | `exit`, `kernel`, `text`, `yaml` |
//! | [`helper`] | the daemon: a privileged helper that QEMU 9.1 and older speaks to over a unix socket | `exit`, `kernel`, `text` |
//! | [`exit`] | outcomes and exit statuses | |
//! | `kernel` | system calls that more than one room needs | |
//! | `say` | lines on standard output and standard error, which never panic | |
//! | [`text`] | bytes of any origin as text that is safe on a terminal | |
//! | `yaml` | reading YAML | |
//!
//! A room imports only rooms below it, as the last column says. `tests/structure` holds the files to this table.
//!
//! The way of the data: bytes, request, reply, bytes (`helper`); text, share, local equivalent, text (`sources`, `share`);
//! tree, entry, journal, tree (`data`).

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[macro_use]
mod say;
#[macro_use]
pub mod report;

pub mod cli;
pub mod data;
pub mod exit;
pub mod helper;
mod kernel;
mod migrate;
mod moves;
pub mod share;
pub mod sources;
pub mod text;
mod yaml;

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
