//! `migrate check`, `convert`, `verify`, `rollback` and `manifest`.

use clap::Args;

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
pub struct ManifestArgs {}
