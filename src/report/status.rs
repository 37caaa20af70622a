//! The document of `migrate status`.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::audit::UnreadRow;
use super::origin::Origin;
use super::{SCHEMA, Text};
use crate::exit::Outcome;
use crate::text::counted;

/// The value of [`StatusDocument::document`].
pub(crate) const NAME: &str = "status";

/// How far the guests and exports of a host are. Unknown is null; paths are as on that host; bytes that are not UTF-8 and control
/// characters stand as `\\xNN`, a backslash is doubled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct StatusDocument {
    /// The version of these fields: grows when a field goes or changes its meaning.
    pub schema: u32,
    /// `status`, which tells this document from an audit's.
    pub document: String,
    /// Where and when it was made.
    #[serde(flatten)]
    pub origin: Origin,
    /// Every share over the proxy backend, and every share over the local backend with a mapped security model.
    pub shares: Vec<StatusRow>,
    /// The exports with a journal of a conversion, or with a problem of their own.
    pub exports: Vec<ExportRow>,
    /// What could not be read. Unread is not consistent.
    pub unread: Vec<UnreadRow>,
    /// Counts.
    pub summary: StatusSummary,
}

has_schema!(StatusDocument, "status");

/// One share of one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct StatusRow {
    /// The guest's name.
    pub guest: Option<String>,
    /// What the guest mounts by.
    pub mount_tag: Option<String>,
    /// The fsdev's id.
    pub fsdev: Option<String>,
    /// The exported directory, free of symbolic links.
    pub export: Option<String>,
    /// The backend that the share uses; null where only the state of a move names the share.
    pub backend: Option<Backend>,
    /// `security_model` of a share over the local backend.
    pub security_model: Option<String>,
    /// How far it is.
    pub phase: Phase,
    /// Since when, in UTC: RFC 3339.
    pub since: Option<String>,
    /// The step of a move that is in progress.
    pub step: Option<String>,
    /// What does not fit: the share and its export, or a conversion that is not finished.
    pub problem: Option<String>,
    /// What comes next.
    pub next: Option<String>,
    /// Where it is configured: `FILE:LINE`; `/proc/PID/cmdline` for a running QEMU.
    pub places: Vec<String>,
    /// The running QEMU that has it.
    pub pid: Option<i32>,
}

/// A backend of QEMU's 9p server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// `proxy`.
    Proxy,
    /// `local`.
    Local,
}

/// How far a share is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// It uses the proxy backend.
    #[default]
    Proxy,
    /// It uses the proxy backend, and `migrate apply` has taken its plan.
    Planned,
    /// A move, a conversion or a rollback has begun and is not finished.
    InProgress,
    /// It uses the local backend, and the journal beside its export says that the export is converted. No verification since is
    /// known.
    Converted,
    /// The same, and `migrate apply` has verified the conversion.
    Verified,
    /// It uses the proxy backend again: its move or its conversion was taken back.
    Undone,
    /// It uses the local backend, and no journal of a conversion stands for its export.
    Local,
}

impl Phase {
    /// Every phase, in order.
    pub(crate) const ALL: [Self; 7] = [
        Self::Proxy,
        Self::Planned,
        Self::InProgress,
        Self::Converted,
        Self::Verified,
        Self::Undone,
        Self::Local,
    ];

    /// As people read it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Proxy => "on the proxy",
            Self::Planned => "planned",
            Self::InProgress => "in progress",
            Self::Converted => "converted, not verified here",
            Self::Verified => "verified",
            Self::Undone => "undone",
            Self::Local => "over local",
        }
    }

    /// Whether nothing is left to do for a share without a problem.
    fn is_done(self) -> bool {
        matches!(self, Self::Converted | Self::Verified | Self::Local)
    }
}

/// An export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ExportRow {
    /// The directory, free of symbolic links.
    pub export: String,
    /// The journal of its conversion.
    pub journal: Option<String>,
    /// How far that says the conversion is: `recording`, `converting`, `converted`, `rolling-back` or `rolled-back`.
    pub stage: Option<String>,
    /// The security model that it is converted to.
    pub security_model: Option<String>,
    /// The user that it is converted for: `UID:GID`.
    pub owner: Option<String>,
    /// When the conversion began, in UTC: RFC 3339.
    pub begun: Option<String>,
    /// When all was converted.
    pub converted: Option<String>,
    /// How many of the shares above use it.
    pub shares: u64,
    /// The running helpers that serve it.
    pub helpers: Vec<i32>,
    /// What does not fit, beside what the shares say.
    pub problem: Option<String>,
    /// What comes next.
    pub next: Option<String>,
}

/// Counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct StatusSummary {
    /// Shares.
    pub shares: u64,
    /// Those in each phase.
    pub proxy: u64,
    /// Likewise.
    pub planned: u64,
    /// Likewise.
    pub in_progress: u64,
    /// Likewise.
    pub converted: u64,
    /// Likewise.
    pub verified: u64,
    /// Likewise.
    pub undone: u64,
    /// Likewise.
    pub local: u64,
    /// Shares and exports with a problem.
    pub problems: u64,
    /// Entries of `unread`.
    pub unread: u64,
}

impl StatusSummary {
    /// How many shares are in a phase.
    pub(crate) fn of(&self, phase: Phase) -> u64 {
        match phase {
            Phase::Proxy => self.proxy,
            Phase::Planned => self.planned,
            Phase::InProgress => self.in_progress,
            Phase::Converted => self.converted,
            Phase::Verified => self.verified,
            Phase::Undone => self.undone,
            Phase::Local => self.local,
        }
    }

    /// How many shares are in phases after which nothing is left to do.
    pub(crate) fn done(&self) -> u64 {
        Phase::ALL
            .into_iter()
            .filter(|phase| phase.is_done())
            .map(|phase| self.of(phase))
            .fold(0, u64::saturating_add)
    }

    /// The phases that shares are in, as people read it: `2 on the proxy, 1 verified`.
    pub(crate) fn phases(&self) -> String {
        let some = Phase::ALL.into_iter().filter(|phase| self.of(*phase) > 0);
        some.map(|phase| format!("{} {}", self.of(phase), phase.name())).collect::<Vec<_>>().join("; ")
    }
}

impl StatusDocument {
    /// A document with its counts.
    pub(crate) fn new(
        origin: Origin,
        shares: Vec<StatusRow>,
        exports: Vec<ExportRow>,
        unread: Vec<UnreadRow>,
    ) -> Self {
        let count = |wanted: Phase| shares.iter().filter(|row| row.phase == wanted).count() as u64;
        let problems = shares.iter().filter(|row| row.problem.is_some()).count()
            + exports.iter().filter(|row| row.problem.is_some()).count();
        let summary = StatusSummary {
            shares: shares.len() as u64,
            proxy: count(Phase::Proxy),
            planned: count(Phase::Planned),
            in_progress: count(Phase::InProgress),
            converted: count(Phase::Converted),
            verified: count(Phase::Verified),
            undone: count(Phase::Undone),
            local: count(Phase::Local),
            problems: problems as u64,
            unread: unread.len() as u64,
        };
        Self { schema: SCHEMA, document: NAME.to_owned(), origin, shares, exports, unread, summary }
    }

    /// How the host stands: something to do, else something unread, else all consistent.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.summary.problems > 0 || self.summary.done() < self.summary.shares {
            Outcome::Findings
        } else if self.summary.unread > 0 {
            Outcome::Unread
        } else {
            Outcome::Clean
        }
    }
}

impl StatusRow {
    /// What the guest calls the share, or its fsdev's id where no device does.
    pub(crate) fn name(&self) -> &str {
        self.mount_tag.as_deref().or(self.fsdev.as_deref()).unwrap_or("without a tag")
    }
}

impl Text for StatusDocument {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.shares.iter().try_for_each(|row| row.text(out))?;
        self.exports.iter().filter(|row| row.problem.is_some()).try_for_each(|row| row.text(out))?;
        for row in &self.unread {
            writeln!(out, "not read: {}: {}", row.file.as_deref().unwrap_or("standard input"), row.reason)?;
        }
        self.origin.text(out)?;
        let summary = &self.summary;
        if summary.shares == 0 {
            writeln!(
                out,
                "no share over the proxy backend, and none over local with a mapped security model, was found"
            )?;
        } else {
            writeln!(out, "{}: {}", counted(summary.shares, "share"), summary.phases())?;
        }
        writeln!(out, "{}, {} unread", counted(summary.problems, "problem"), summary.unread)
    }
}

impl Text for StatusRow {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let guest = self.guest.as_deref().unwrap_or("without a name");
        let export = self.export.as_deref().unwrap_or("an unknown directory");
        let since = self.since.as_ref().map(|since| format!(" (since {since})")).unwrap_or_default();
        writeln!(out, "guest {guest}, share '{}', {export}: {}{since}", self.name(), self.phase.name())?;
        if let Some(step) = &self.step {
            writeln!(out, "    step: {step}")?;
        }
        if let Some(problem) = &self.problem {
            writeln!(out, "    problem: {problem}")?;
        }
        if let Some(next) = &self.next {
            writeln!(out, "    next: {next}")?;
        }
        match self.places.as_slice() {
            [] => Ok(()),
            places => writeln!(out, "    in {}", places.join(", ")),
        }
    }
}

impl Text for ExportRow {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "export {}: {}", self.export, self.problem.as_deref().unwrap_or("no problem"))?;
        match &self.next {
            Some(next) => writeln!(out, "    next: {next}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(rows: &[(Phase, bool)], unread: bool) -> Outcome {
        let rows = rows.iter().map(|&(phase, has_problem)| StatusRow {
            phase,
            problem: has_problem.then(|| "it does not fit".to_owned()),
            ..StatusRow::default()
        });
        let unread = unread.then(|| UnreadRow { file: None, reason: "no".to_owned() });
        let document =
            StatusDocument::new(Origin::default(), rows.collect(), Vec::new(), unread.into_iter().collect());
        document.outcome()
    }

    #[test]
    fn only_a_host_with_nothing_to_do_and_nothing_unread_is_clean() {
        for (rows, unread, expected) in [
            (&[][..], false, Outcome::Clean),
            (
                &[(Phase::Verified, false), (Phase::Converted, false), (Phase::Local, false)],
                false,
                Outcome::Clean,
            ),
            (&[(Phase::Verified, false)], true, Outcome::Unread),
            (&[(Phase::Verified, true)], true, Outcome::Findings),
            (&[(Phase::Proxy, false)], true, Outcome::Findings),
            (&[(Phase::Planned, false)], false, Outcome::Findings),
            (&[(Phase::InProgress, false), (Phase::Verified, false)], false, Outcome::Findings),
            (&[(Phase::Undone, false)], false, Outcome::Findings),
            (&[(Phase::Local, true)], false, Outcome::Findings),
        ] {
            assert_eq!(outcome(rows, unread), expected, "{rows:?}, unread: {unread}");
        }
    }
}
