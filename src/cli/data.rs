//! `migrate check`, `convert`, `verify`, `rollback` and `manifest`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::report::Format;
use crate::share::local::SecurityModel;

/// `migrate check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The exported directory
    #[arg(value_name = "EXPORT", required_unless_present = "schema")]
    pub export: Option<PathBuf>,
    /// Who QEMU will run as, names or numbers; libvirt's user when it is not given
    #[arg(long, value_name = "USER[:GROUP]")]
    pub owner: Option<OsString>,
    /// Judge for this model instead of the one that fits
    #[arg(long, value_enum, value_name = "MODEL")]
    pub security_model: Option<SecurityModel>,
    /// How the findings are printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: Format,
    /// Look with N workers at once; as many as there are processors when it is not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Exit with 0 whatever was found
    #[arg(long)]
    pub exit_zero: bool,
    /// Print the JSON Schema of the document, and do nothing else
    #[arg(long, exclusive = true)]
    pub schema: bool,
}

/// `migrate convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {}

/// `migrate verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The exported directory
    #[arg(value_name = "EXPORT", required_unless_present = "schema")]
    pub export: Option<PathBuf>,
    /// The conversion's journal; EXPORT.virtfs-journal beside the export when it is not given
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// How the differences are printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: Format,
    /// Look with N workers at once; as many as there are processors when it is not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Exit with 0 whatever was found
    #[arg(long)]
    pub exit_zero: bool,
    /// Print the JSON Schema of the document, and do nothing else
    #[arg(long, exclusive = true)]
    pub schema: bool,
}

/// `migrate rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {}

/// `migrate manifest`.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// The directory to describe
    #[arg(value_name = "TREE")]
    pub tree: PathBuf,
    /// What the tree's files are: plain, as the proxy backend serves them, or in a mapped model of the local backend's
    #[arg(long = "as", value_enum, value_name = "FORM", default_value_t)]
    pub form: TreeForm,
    /// Tell times of last access too
    #[arg(long)]
    pub atime: bool,
}

/// The forms of a tree that `migrate manifest` reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TreeForm {
    /// Every file is what it is
    #[default]
    Passthrough,
    /// security_model=mapped-xattr
    MappedXattr,
    /// security_model=mapped-file
    MappedFile,
}
