//! `migrate audit`.

use crate::cli::AuditArgs;
use crate::exit::Outcome;

/// Runs it.
pub fn run(_args: &AuditArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("not built yet")
}
