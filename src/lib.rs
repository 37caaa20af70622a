//! QEMU's 9p proxy helper, and the way off the proxy backend.
//!
//! # What lives where
//!
//! | room | what it is | what it may know |
//! |---|---|---|
//! | [`helper`] | the daemon: a privileged helper that QEMU ≤ 9.1 speaks to over a unix socket | itself |
//! | [`share`] | what a share is, QEMU's option strings, and a share's `local` equivalent | `report` |
//! | [`sources`] | where shares hide: one reader for each configuration format, and who serves what | `share`, `report`; of `data`, who owns an export, how it is labelled, what is mounted where, and what its journal says |
//! | [`data`] | the export's files: their two on-disk forms and the way from one to the other | `report`, `share` |
//! | [`report`] | what people should know: findings, documents, text | itself |
//! | `moves` | plans of whole guests, and how far they are: it asks the other verbs and the managers of guests | `report`; of `data`, who owns an export, what its journal says and how its first entries are; of `sources`, whom a file names and what an audit finds |
//! | [`cli`] | the command line, declarations only | the choices that `share` names |
//! | `say` | lines on standard output and standard error, which never panic | nothing |
//! | `kernel` | system calls that more than one room wants | nothing |
//! | [`exit`] | outcome → exit status | nothing |
//! | `yaml` | reading YAML | nothing |
//! | [`text`] | bytes of any origin → text that is safe on a terminal | nothing |
//!
//! The way of the data: bytes → request → reply → bytes (`helper`); text → share → local equivalent → text
//! (`sources`, `share`); tree → entry → journal → tree (`data`). No arrow goes back.

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
