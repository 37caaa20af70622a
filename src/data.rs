//! The export's files: their two on-disk forms, and the way from one to the other.

pub mod filesystem;
pub mod live;
pub mod mounts;

use crate::cli::{CheckArgs, ConvertArgs, ManifestArgs, RollbackArgs, VerifyArgs};
use crate::exit::Outcome;

/// `migrate check`.
pub fn check(_args: &CheckArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("not built yet")
}

/// `migrate convert`.
pub fn convert(_args: &ConvertArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("not built yet")
}

/// `migrate verify`.
pub fn verify(_args: &VerifyArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("not built yet")
}

/// `migrate rollback`.
pub fn rollback(_args: &RollbackArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("not built yet")
}

/// `migrate manifest`.
pub fn manifest(_args: &ManifestArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("not built yet")
}
