//! The rows that documents are made of: findings, shares and helpers, with every byte safe to print.
//!
//! Text of other people's (names, paths, tags) goes through [`crate::text::escape`]: what is not UTF-8, and every
//! control character, stands as `\\xNN`, a backslash is doubled, and `crate::text::unescape` takes it back.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::finding::{Finding, Severity};
use crate::exit::Outcome;
use crate::text::{escape, escape_path};

/// One thing that people should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FindingRow {
    /// Which kind it is. Stable.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// The file, as on the audited host; null for standard input and for what stands in no file.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u64>,
    /// What is wrong here.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl From<&Finding> for FindingRow {
    fn from(finding: &Finding) -> Self {
        Self {
            id: finding.kind.id.to_owned(),
            severity: finding.kind.severity,
            file: finding.place.file.as_deref().map(path),
            line: finding.place.line,
            message: finding.message.clone(),
            remedy: finding.remedy().to_owned(),
        }
    }
}

/// How many findings there are of each severity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Counts {
    /// Errors.
    pub errors: u64,
    /// Warnings.
    pub warnings: u64,
    /// Infos.
    pub infos: u64,
}

impl Counts {
    /// Counts `findings`.
    pub(crate) fn of<'a>(findings: impl IntoIterator<Item = &'a FindingRow>) -> Self {
        let mut counts = Self::default();
        findings.into_iter().for_each(|finding| counts.add(finding.severity));
        counts
    }

    /// Counts one more.
    pub(crate) fn add(&mut self, severity: Severity) {
        match severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
            Severity::Info => self.infos += 1,
        }
    }

    /// How a verb ends whose findings alone decide: anything above info asks for the admin.
    pub(crate) fn outcome(self) -> Outcome {
        if self.errors + self.warnings > 0 { Outcome::Findings } else { Outcome::Clean }
    }
}

/// `FILE:LINE`, or as much of it as is known; empty where neither is.
pub(crate) fn place(file: Option<&str>, line: Option<u64>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        (Some(file), None) => file.to_owned(),
        (None, Some(line)) => format!("standard input:{line}"),
        (None, None) => String::new(),
    }
}

/// A path as a document holds it.
pub(crate) fn path(path: &Path) -> String {
    escape_path(path).into_owned()
}

/// Other people's bytes as a document holds them.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    escape(bytes).into_owned()
}
