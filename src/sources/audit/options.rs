//! `migrate audit`.

use std::path::PathBuf;

use clap::Args;

use crate::report::formats::AuditFormat;
use crate::share::version::Version;

/// `migrate audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Files and folders to look at, `-` for standard input; this machine when none is given
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Audit a host whose file system is mounted at DIR: PATHs and everything printed are as on that host
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// How the findings are printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: AuditFormat,
    /// Write it to this file instead of standard output (-). A regular file is replaced in one step; a device, a FIFO
    /// and what a link leads to are written into
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Judge against this QEMU version instead of the installed one
    #[arg(long, value_name = "VERSION")]
    pub qemu: Option<Version>,
    /// Exit with 0 whatever was found or left unread
    #[arg(long)]
    pub exit_zero: bool,
    /// Print the JSON Schema of the document, and do nothing else
    #[arg(long, exclusive = true)]
    pub schema: bool,
}
