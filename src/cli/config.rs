//! `migrate audit` and `migrate config`.

use clap::Args;

/// `migrate audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {}

/// `migrate config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {}
