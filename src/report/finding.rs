//! Findings: stable ids, severities and remedies, in one table.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::share::Place;
use crate::text;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know. Asks for nothing.
    Info,
    /// Asks for a look.
    Warning,
    /// Must be dealt with before the migration, or before QEMU 9.2.
    Error,
}

/// One thing that people should know.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Which kind it is: a row of [`KINDS`].
    pub kind: &'static Kind,
    /// Where.
    pub place: Place,
    /// What is wrong here, in one sentence.
    pub message: String,
    /// What to do about it here; the kind's own remedy otherwise.
    pub remedy: Option<String>,
}

/// A kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Stable: scripts match on it, and `--accept` takes it.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What to do about it in general.
    pub remedy: &'static str,
}

/// One row a kind: `NAME: "id", Severity, "remedy"`.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $id:literal, $severity:ident, $remedy:literal;)*) => {
        $($(#[$doc])* pub static $name: Kind =
            Kind { id: $id, severity: Severity::$severity, remedy: $remedy };)*
        /// Every kind of finding there is.
        pub static KINDS: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    /// A share that goes over the proxy backend.
    PROXY_SHARE: "proxy-share", Error,
        "move it to the local backend: `migrate config` rewrites this file, `migrate convert` the export's files";
}

impl Finding {
    /// The remedy that is shown.
    pub fn remedy(&self) -> &str {
        self.remedy.as_deref().unwrap_or(self.kind.remedy)
    }

    /// `file:line`, safe to print; empty where there is neither.
    pub fn location(&self) -> String {
        match (&self.place.file, self.place.line) {
            (Some(file), Some(line)) => format!("{}:{line}", text::escape_path(file)),
            (Some(file), None) => text::escape_path(file).into_owned(),
            (None, Some(line)) => format!("standard input:{line}"),
            (None, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_spelt_alike() {
        let ids: BTreeSet<_> = KINDS.iter().map(|kind| kind.id).collect();
        assert_eq!(ids.len(), KINDS.len());
        for id in ids {
            assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{id}");
        }
    }
}
