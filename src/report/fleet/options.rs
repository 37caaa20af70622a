//! `migrate report`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `migrate report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Audits of hosts, JSON or YAML, each named after its host (HOST.json), or directories of them
    #[arg(value_name = "FILE|DIR", required_unless_present = "schema")]
    pub paths: Vec<PathBuf>,
    /// Compare with earlier audits, a file or a directory: what is new, gone, unchanged
    #[arg(long, value_name = "FILE|DIR")]
    pub since: Option<PathBuf>,
    /// The hosts that there should be, with owners and notes: hosts: {NAME: {owner: …, notes: …, report: FILE}}
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Mark audits that are this old or older, in days
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_age: u64,
    /// How the report is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: FleetFormat,
    /// Write it to this file instead of standard output (-). A regular file is replaced in one step; a device, a FIFO
    /// and what a link leads to are written into
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What shares are put together by, in text and markdown
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub by: By,
    /// Exit with 0 whatever the audits found
    #[arg(long)]
    pub exit_zero: bool,
    /// Print the JSON Schema of the document, and do nothing else
    #[arg(long, exclusive = true)]
    pub schema: bool,
}

/// How a fleet's report is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum FleetFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// One YAML document: the same fields.
    Yaml,
    /// One line a share, and one for each host without any.
    Csv,
    /// Tables, for an issue or a wiki.
    Markdown,
    /// One page that needs nothing else, to sort and filter.
    Html,
    /// Counts for Prometheus, by node_exporter's textfile collector.
    Prometheus,
}

/// What shares are put together by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// The host.
    #[default]
    Host,
    /// The guest, on whichever host.
    Guest,
    /// The exported directory.
    Share,
    /// What is next for the share.
    Status,
    /// The QEMU version that the host was judged against.
    Target,
    /// Who looks after the host.
    Owner,
}
