//! Where shares hide: one file a format.

use crate::cli::{AuditArgs, ConfigArgs};
use crate::exit::Outcome;

/// `migrate audit`.
pub fn audit(_args: &AuditArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("not built yet")
}

/// `migrate config`.
pub fn config(_args: &ConfigArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("not built yet")
}
