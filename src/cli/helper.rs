//! The helper's own options.

use clap::Args;

/// The helper's own options: the original's, and long ones beyond it.
#[derive(Debug, Args)]
pub struct HelperArgs {}
