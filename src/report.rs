//! What people should know: findings, documents, and the three ways to print them.
//!
//! A verb fills a document (a serializable struct, made of [`rows`]), says in [`Text`] how it reads on a terminal,
//! and hands it to [`print()`]. Its exit status is [`Counts::outcome`] or its own, the same in every format.

#[macro_use]
pub(crate) mod schema;

pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod finding;
pub(crate) mod fleet;
pub(crate) mod formats;
pub(crate) mod journal;
mod junit;
pub(crate) mod origin;
mod output;
mod prometheus;
pub(crate) mod rows;
mod sarif;
pub(crate) mod spool;
pub(crate) mod status;
mod text;
pub(crate) mod verify;
mod yaml;

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::exit::Outcome;
pub(crate) use output::{print_with, put};
pub(crate) use rows::{Counts, FindingRow};
pub(crate) use schema::print_schema;
pub(crate) use text::{write_finding, write_findings};

/// The version of every document's fields. It grows when a field goes or changes its meaning; new fields
/// come without.
pub(crate) const SCHEMA: u32 = 1;

/// How a document is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// One YAML document: the same fields.
    Yaml,
}

/// A document that people can read.
pub(crate) trait Text {
    /// Writes it for people: findings first, counts last. Whatever comes from outside goes through
    /// [`crate::text::escape`].
    fn text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Prints `document` to standard output. A reader that went away (`| head`) is no error.
pub(crate) fn print<D: Serialize + Text>(document: &D, format: Format) -> anyhow::Result<()> {
    print_with(|out| write(document, format, out))
}

/// Writes `document` to `out`.
pub(crate) fn write<D: Serialize + Text>(
    document: &D,
    format: Format,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Text => document.text(out),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, document)?;
            out.write_all(b"\n")
        }
        Format::Yaml => yaml::write(document, out),
    }
}

/// [`Outcome::Clean`] in place of [`Outcome::Findings`] and [`Outcome::Unread`], for `--exit-zero`.
pub(crate) fn exit_zero(outcome: Outcome, asked: bool) -> Outcome {
    match outcome {
        Outcome::Findings | Outcome::Unread if asked => Outcome::Clean,
        other => other,
    }
}
