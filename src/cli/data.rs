//! `migrate check`, `convert`, `verify`, `rollback` and `manifest`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `migrate check`.
#[derive(Debug, Args)]
pub struct CheckArgs {}

/// `migrate convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {}

/// `migrate verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {}

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
