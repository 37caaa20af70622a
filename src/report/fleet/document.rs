//! The document of `migrate report`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::options::By;
use super::scope::Scope;
use crate::report::finding::Severity;
use crate::report::origin::Origin;
use crate::report::status::{Phase, StatusSummary};

/// The audits of a fleet, merged. Unknown is null. Strings are as in the hosts' own documents.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct FleetDocument {
    /// The version of these fields: grows when a field goes or changes its meaning.
    pub schema: u32,
    /// When this report was made, in UTC: RFC 3339.
    pub time: String,
    /// The version of this program that made it.
    pub tool_version: String,
    /// Every host: those without a report and those without a share too.
    pub hosts: Vec<HostRow>,
    /// Every share over the proxy backend and, with an earlier round to compare with, every one that was.
    pub shares: Vec<FleetShare>,
    /// Every share of the hosts' status documents, and every export with a problem.
    pub progress: Vec<FleetStatus>,
    /// Each kind of finding, and how often there is one.
    pub findings: Vec<FindingCount>,
    /// Counts.
    pub summary: FleetSummary,
}

has_schema!(FleetDocument, "report");

/// One host.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct HostRow {
    /// Its name: that of its report without the ending, or the inventory's.
    pub host: String,
    /// Who looks after it, by the inventory.
    pub owner: Option<String>,
    /// What else the inventory says.
    pub notes: Option<String>,
    /// How it stands.
    pub status: HostStatus,
    /// Why there is no audit of it; null where there is.
    pub reason: Option<String>,
    /// The report's file.
    pub report: Option<String>,
    /// Where and when its audit was made.
    #[serde(flatten)]
    pub origin: Origin,
    /// The same of the earlier round; null where there is none.
    pub before: Option<Origin>,
    /// What is doubtful about its audit, in sentences.
    pub remarks: Vec<String>,
    /// The QEMU version that it was judged against.
    pub target_qemu: Option<String>,
    /// Shares over the proxy backend.
    pub shares: u64,
    /// Invocations of the helper.
    pub helpers: u64,
    /// Findings that must be dealt with.
    pub errors: u64,
    /// Findings that ask for a look.
    pub warnings: u64,
    /// What could not be read there.
    pub unread: u64,
    /// How far it is, by its status; null where there is none.
    pub progress: Option<HostProgress>,
    /// What its audit looked at.
    #[serde(skip)]
    pub(super) scope: Scope,
}

/// How a host stands. In the order in which hosts ask for attention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum HostStatus {
    /// There is no audit of it: it could not be reached, the audit failed, or its report can't be read.
    #[default]
    Failed,
    /// Proxy setups were found.
    Proxy,
    /// None was found, but not all could be read. Unread is not clean.
    Unread,
    /// All was read, and there is none.
    Clean,
}

/// One share of one host.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct FleetShare {
    /// The host.
    pub host: String,
    /// Who looks after the host.
    pub owner: Option<String>,
    /// What is next for it.
    pub status: ShareStatus,
    /// What became of it since the earlier round; null where there is none.
    pub change: Option<Change>,
    /// How much the gravest finding about it matters.
    pub severity: Option<Severity>,
    /// The command that comes next, on its host.
    pub next: Option<String>,
    /// The guest's name.
    pub guest: Option<String>,
    /// What the guest mounts by.
    pub mount_tag: Option<String>,
    /// The fsdev's id.
    pub fsdev: Option<String>,
    /// The exported directory.
    pub export: Option<String>,
    /// The helper's socket.
    pub socket: Option<String>,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Where it stands.
    pub file: Option<String>,
    /// The line there.
    pub line: Option<u64>,
    /// The format there.
    pub kind: String,
    /// The QEMU version that the host was judged against.
    pub target_qemu: Option<String>,
    /// The ids of the findings that are about it.
    pub notes: Vec<String>,
    /// Whether a running process says it, whose file is another at every start.
    #[serde(skip)]
    pub(super) running: bool,
}

/// What is next for a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(super) enum ShareStatus {
    /// `migrate config` does not rewrite it where it stands: a manager's, a running process's, or by hand.
    #[default]
    ByHand,
    /// Its exported directory is not known: `migrate config` wants `--export`.
    ExportUnknown,
    /// `migrate config` rewrites it as it stands.
    Ready,
    /// It was there in the earlier round, and is not any more.
    Gone,
    /// It was there in the earlier round, and no audit looked there now.
    Unknown,
}

/// What became of a share since the earlier round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// It was not there.
    New,
    /// It was, and is.
    Unchanged,
    /// It was, and is not.
    Gone,
    /// It was, and nobody could look now.
    Unknown,
}

/// One kind of finding of one severity.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct FindingCount {
    /// Its id.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// How many there are.
    pub count: u64,
    /// On how many hosts.
    pub hosts: u64,
}

/// Counts.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct FleetSummary {
    /// Hosts.
    pub hosts: u64,
    /// Hosts with proxy setups.
    pub proxy: u64,
    /// Hosts with none, as far as could be read.
    pub unread: u64,
    /// Hosts with none.
    pub clean: u64,
    /// Hosts without an audit.
    pub failed: u64,
    /// Hosts whose audit has remarks.
    pub doubtful: u64,
    /// Shares over the proxy backend.
    pub shares: u64,
    /// Those that `migrate config` rewrites as they stand.
    pub ready: u64,
    /// Those whose exported directory is not known.
    pub export_unknown: u64,
    /// Those that it does not rewrite.
    pub by_hand: u64,
    /// What became of the earlier round's; null where there is none.
    pub since: Option<Progress>,
    /// How far the shares are, by the hosts' status documents; null where there are none.
    pub status: Option<StatusSummary>,
}

/// How far the migration has come since the earlier round.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Progress {
    /// Shares that were not there.
    pub new: u64,
    /// Shares that were and are.
    pub unchanged: u64,
    /// Shares that were and are not.
    pub gone: u64,
    /// Shares that were, where no audit looked now.
    pub unknown: u64,
}

/// How far a host is.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct HostProgress {
    /// The file of its status.
    pub report: String,
    /// When that was made.
    pub time: Option<String>,
    /// Its counts.
    pub summary: StatusSummary,
}

/// A share, or an export with a problem, as a host's status has it.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct FleetStatus {
    /// The host.
    pub host: String,
    /// The guest; null for an export.
    pub guest: Option<String>,
    /// What the guest mounts by, or the fsdev's id.
    pub share: Option<String>,
    /// The exported directory.
    pub export: Option<String>,
    /// How far it is; null for an export.
    pub phase: Option<Phase>,
    /// Since when.
    pub since: Option<String>,
    /// The step that is in progress.
    pub step: Option<String>,
    /// What does not fit.
    pub problem: Option<String>,
    /// What comes next.
    pub next: Option<String>,
}

impl HostStatus {
    /// The word that documents have.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Proxy => "proxy",
            Self::Unread => "unread",
            Self::Clean => "clean",
        }
    }
}

impl ShareStatus {
    /// The word that documents have.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::ByHand => "by-hand",
            Self::ExportUnknown => "export-unknown",
            Self::Ready => "ready",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

impl Change {
    /// The word that documents have.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Unchanged => "unchanged",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

impl FleetDocument {
    /// A host's shares.
    pub(super) fn shares_of<'a>(&'a self, host: &'a HostRow) -> &'a [FleetShare] {
        let first = self.shares.partition_point(|share| share.host < host.host);
        let length = self.shares.iter().skip(first).take_while(|share| share.host == host.host).count();
        self.shares.get(first..first + length).unwrap_or_default()
    }

    /// The shares by what they are put together by.
    pub(super) fn groups(&self, by: By) -> BTreeMap<String, Vec<&FleetShare>> {
        let mut groups: BTreeMap<String, Vec<&FleetShare>> = BTreeMap::new();
        let or_unknown =
            |text: &Option<String>, what: &str| text.clone().unwrap_or_else(|| format!("({what} unknown)"));
        for share in &self.shares {
            let key = match by {
                By::Host => share.host.clone(),
                By::Guest => or_unknown(&share.guest, "guest"),
                By::Share => or_unknown(&share.export, "export"),
                By::Status => share.status.word().to_owned(),
                By::Target => share
                    .target_qemu
                    .as_ref()
                    .map_or_else(|| "QEMU (version unknown)".to_owned(), |version| format!("QEMU {version}")),
                By::Owner => or_unknown(&share.owner, "owner"),
            };
            groups.entry(key).or_default().push(share);
        }
        groups
    }
}

impl FleetShare {
    /// Whether it is still a share over the proxy backend, as far as anybody could see.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self.status, ShareStatus::Gone | ShareStatus::Unknown)
    }

    /// `FILE:LINE`.
    pub(super) fn place(&self) -> String {
        crate::report::rows::place(self.file.as_deref(), self.line)
    }

    /// What the guest calls it, or the fsdev's id where no device does.
    pub(super) fn name(&self) -> &str {
        self.mount_tag.as_deref().or(self.fsdev.as_deref()).unwrap_or("(no mount tag)")
    }
}

/// How many there are.
pub(super) fn count(rows: impl Iterator) -> u64 {
    u64::try_from(rows.count()).unwrap_or(u64::MAX)
}
