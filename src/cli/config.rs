//! `migrate config`.

use clap::Args;

/// `migrate config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {}
