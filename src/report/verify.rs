//! The document of `migrate verify`.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::rows::{Counts, FindingRow};
use super::{Text, write_findings};
use crate::exit::Outcome;
use crate::text::counted;

/// What `migrate verify` found. Bytes that are not UTF-8 and control characters stand as `\\xNN`, a backslash is
/// doubled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct VerifyDocument {
    /// The version of these fields: grows when a field goes or changes its meaning.
    pub schema: u32,
    /// The export, free of symbolic links.
    pub export: String,
    /// The journal that it was compared to.
    pub journal: String,
    /// What the export was read as: `mapped-xattr`, `mapped-file`, or `passthrough` after a rollback.
    pub form: String,
    /// The user that must be able to use every entry; null after a rollback.
    pub owner: Option<String>,
    /// How many names were compared.
    pub entries: u64,
    /// How many differences there are; `findings` holds the first of them.
    pub differences: u64,
    /// The differences, in the order of their paths, and what else should be known.
    pub findings: Vec<FindingRow>,
    /// Findings of each severity.
    pub summary: Counts,
}

has_schema!(VerifyDocument, "verify");

impl VerifyDocument {
    /// How it ended.
    pub(crate) fn outcome(&self) -> Outcome {
        self.summary.outcome()
    }
}

impl Text for VerifyDocument {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write_findings(&self.findings, out)?;
        if !self.findings.is_empty() {
            writeln!(out)?;
        }
        let owner = self.owner.as_ref().map(|owner| format!(", for QEMU as {owner}")).unwrap_or_default();
        writeln!(
            out,
            "{} as {}{owner}: {} compared to {}, {}",
            self.export,
            self.form,
            counted(self.entries, "entry"),
            self.journal,
            counted(self.differences, "difference")
        )?;
        writeln!(out, "the contents of regular files were not read; their sizes and times were compared")
    }
}
