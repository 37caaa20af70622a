//! The document of `migrate audit`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::finding::{self, Kind, Severity};
use super::origin::Origin;
use super::rows::{Counts, FindingRow};
use super::spool::Rows;
use super::text::severity_name;
use super::{SCHEMA, Text, write_finding, yaml};
use crate::exit::Outcome;
use crate::text::counted;

/// How many names of files or folders a line of the text holds at most.
const MOST_NAMES: usize = 40;

/// What `migrate audit` found. Unknown is null; paths are as on the audited host; bytes that are not UTF-8 and
/// control characters stand as `\\xNN`, a backslash is doubled.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct AuditDocument {
    /// The version of these fields: grows when a field goes or changes its meaning.
    pub schema: u32,
    /// Where and when it was made.
    #[serde(flatten)]
    pub origin: Origin,
    /// The QEMU version that everything was judged against: `--qemu`, else the newest one installed.
    pub target_qemu: Option<String>,
    /// The QEMU programs that are installed on the audited host.
    pub installed_qemu: Vec<QemuRow>,
    /// Every share over the proxy backend.
    pub shares: Rows<ShareRow>,
    /// Every invocation of the helper.
    pub helpers: Rows<HelperRow>,
    /// What people should know.
    pub findings: Rows<FindingRow>,
    /// What could not be read or parsed. Unread is not clean.
    pub unread: Rows<UnreadRow>,
    /// The files and folders that were looked in, with everything below them; `-` is standard input.
    #[serde(default)]
    pub looked_in: Vec<String>,
    /// Files elsewhere that were read because units, timers, cron, scripts or running processes start them.
    #[serde(default)]
    pub followed: Vec<String>,
    /// What was left out: container images, caches and object stores there, and folders around what was looked in.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Counts.
    pub summary: Summary,
    /// The findings about QEMU's versions as the text shows them.
    #[serde(skip)]
    pub advisories: Vec<AdvisoryBlock>,
}

has_schema!(AuditDocument, "audit");

/// What an audit says of a host, as other verbs read it back.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Audited {
    /// Every share over the proxy backend.
    pub shares: Vec<ShareRow>,
    /// Every invocation of the helper.
    pub helpers: Vec<HelperRow>,
    /// What could not be read or parsed.
    pub unread: Vec<UnreadRow>,
}

/// What one QEMU means for the shares, as the text shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AdvisoryBlock {
    /// Which QEMU, where, and what holds for all rows.
    pub heading: String,
    /// A line each, the most severe first.
    pub rows: Vec<(Severity, String)>,
}

/// The kinds of findings that the blocks show.
const ADVISORIES: &[&Kind] = &[&finding::QEMU_VULNERABILITY, &finding::QEMU_FAULT, &finding::QEMU_DIFFERENCE];

/// One installed QEMU program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct QemuRow {
    /// The program.
    pub file: String,
    /// Its version.
    pub version: Option<String>,
    /// Whether it has the proxy backend.
    pub proxy_backend: bool,
}

/// One share over the proxy backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ShareRow {
    /// Where it stands; `/proc/PID/cmdline` for a running process, null for standard input.
    pub file: Option<String>,
    /// The line, from 1; null for a running process.
    pub line: Option<u64>,
    /// The format: the reader's name.
    pub kind: String,
    /// The guest's name.
    pub guest: Option<String>,
    /// The fsdev's id.
    pub fsdev: Option<String>,
    /// What the guest mounts by; null when no device names the fsdev.
    pub mount_tag: Option<String>,
    /// `socket=`, where it is statically known.
    pub socket: Option<String>,
    /// `sock_fd=`, where it is statically known.
    pub sock_fd: Option<i32>,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether it has `writeout=immediate`.
    pub writeout: bool,
    /// The guest's device.
    pub device: Option<DeviceRow>,
    /// The exported directory.
    pub export: Option<String>,
    /// Who says so: `argument`, `helper` (a configured one), `process` (a running one) or `manager`.
    pub export_from: Option<String>,
    /// Where that stands: `FILE:LINE`, or `/proc/PID`.
    pub export_place: Option<String>,
    /// Whether the exported directory is known.
    pub resolved: bool,
    /// Whether `migrate config` can rewrite it where it stands.
    pub rewritable: bool,
    /// The ids of the findings that are about it.
    pub notes: Vec<String>,
    /// The running process that has it.
    pub pid: Option<i32>,
    /// Where else it is, as `FILE:LINE`: the commands of other files that use its text, or the file that its text is in.
    #[serde(default)]
    pub other_places: Vec<String>,
}

/// The guest's device of a share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DeviceRow {
    /// `virtio-9p-pci`, ….
    pub driver: String,
    /// The bus it is plugged into.
    pub bus: Option<String>,
    /// Its address there, as it is spelt.
    pub addr: Option<String>,
    /// Its own id.
    pub id: Option<String>,
    /// Everything else but `fsdev` and `mount_tag`.
    pub properties: BTreeMap<String, String>,
}

/// One invocation of the helper.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct HelperRow {
    /// Where it stands; `/proc/PID/cmdline` for a running process.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u64>,
    /// The exported directory.
    pub export: Option<String>,
    /// The socket it listens on.
    pub socket: Option<String>,
    /// The connected socket it is handed.
    pub fd: Option<i32>,
    /// The socket's owner, as it is spelt.
    pub uid: Option<String>,
    /// The socket's group, as it is spelt.
    pub gid: Option<String>,
    /// The running process.
    pub pid: Option<i32>,
}

/// Something that could not be read or parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct UnreadRow {
    /// What.
    pub file: Option<String>,
    /// Why.
    pub reason: String,
}

/// Counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Summary {
    /// Files and processes that were read.
    pub looked_at: u64,
    /// Files that no format claims: programs, pictures, documentation and the like.
    pub skipped: u64,
    /// Entries of `unread`.
    pub unread: u64,
    /// Running processes among those looked at.
    pub processes: u64,
    /// Shares over the proxy backend.
    pub shares: u64,
    /// Those whose exported directory is known.
    pub resolved: u64,
    /// Those that `migrate config` can rewrite.
    pub rewritable: u64,
    /// Those of these whose exported directory is known.
    #[serde(skip)]
    pub ready: u64,
    /// Invocations of the helper.
    pub helpers: u64,
    /// Findings of each severity.
    pub findings: Counts,
}

impl AuditDocument {
    /// A document of which nothing is known yet.
    pub(crate) fn new() -> Self {
        Self { schema: SCHEMA, ..Self::default() }
    }

    /// Adds a share.
    pub(crate) fn add_share(&mut self, row: &ShareRow) {
        self.summary.shares += 1;
        self.summary.resolved += u64::from(row.resolved);
        self.summary.rewritable += u64::from(row.rewritable);
        self.summary.ready += u64::from(row.rewritable && row.resolved);
        self.shares.push(row);
    }

    /// Adds an invocation of the helper.
    pub(crate) fn add_helper(&mut self, row: &HelperRow) {
        self.summary.helpers += 1;
        self.helpers.push(row);
    }

    /// Adds a finding.
    pub(crate) fn add_finding(&mut self, row: &FindingRow) {
        self.summary.findings.add(row.severity);
        self.findings.push(row);
    }

    /// Adds something that could not be read.
    pub(crate) fn add_unread(&mut self, row: &UnreadRow) {
        self.summary.unread += 1;
        self.unread.push(row);
    }

    /// How the audit ended: proxy setups, else something unread, else clean.
    pub(crate) fn outcome(&self) -> Outcome {
        if !self.shares.is_empty() || !self.helpers.is_empty() {
            Outcome::Findings
        } else if !self.unread.is_empty() {
            Outcome::Unread
        } else {
            Outcome::Clean
        }
    }
}

impl Text for AuditDocument {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        // A document that was read from JSON has no blocks: its findings are shown one by one.
        let is_shown =
            |row: &FindingRow| self.advisories.is_empty() || ADVISORIES.iter().all(|kind| kind.id != row.id);
        for severity in [Severity::Error, Severity::Warning, Severity::Info] {
            for row in self.findings.iter() {
                let row = row?;
                if row.severity == severity && is_shown(&row) {
                    write_finding(&row, out)?;
                }
            }
        }
        for block in &self.advisories {
            writeln!(out, "{}:", block.heading)?;
            for (severity, row) in &block.rows {
                writeln!(out, "    {}: {row}", severity_name(*severity))?;
            }
        }
        if !self.findings.is_empty() {
            writeln!(out)?;
        }
        for qemu in &self.installed_qemu {
            let version = qemu.version.as_deref().unwrap_or("unknown");
            let backend = if qemu.proxy_backend { "has" } else { "does not have" };
            writeln!(out, "{}: QEMU {version}, {backend} the proxy backend", qemu.file)?;
        }
        if let Some(target) = &self.target_qemu {
            writeln!(out, "judged against QEMU {target}")?;
        }
        self.origin.text(out)?;
        self.places(out)?;
        self.summary.text(out)
    }
}

impl AuditDocument {
    /// Writes it as YAML, a row after the other.
    pub(super) fn yaml(&self, out: &mut dyn Write) -> io::Result<()> {
        let without_rows = Self {
            schema: self.schema,
            origin: self.origin.clone(),
            target_qemu: self.target_qemu.clone(),
            installed_qemu: self.installed_qemu.clone(),
            looked_in: self.looked_in.clone(),
            followed: self.followed.clone(),
            left_out: self.left_out.clone(),
            summary: self.summary,
            ..Self::default()
        };
        yaml::write_with_lists(&without_rows, out, &mut |list, out| match list {
            "shares" => yaml::write_list(list, self.shares.iter(), out),
            "helpers" => yaml::write_list(list, self.helpers.iter(), out),
            "findings" => yaml::write_list(list, self.findings.iter(), out),
            "unread" => yaml::write_list(list, self.unread.iter(), out),
            _ => Ok(false),
        })
    }

    /// Where the audit looked: only that is clean where nothing was found.
    fn places(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.looked_in.is_empty() {
            writeln!(out, "looked in: {}", some_of(&self.looked_in))?;
        }
        if !self.followed.is_empty() {
            let all = counted(self.followed.len() as u64, "file");
            writeln!(out, "and in {all} elsewhere that are started from there: {}", some_of(&self.followed))?;
        }
        if !self.left_out.is_empty() {
            writeln!(
                out,
                "left out, but for what is named above (images, caches, object stores, other folders): {}",
                some_of(&self.left_out)
            )?;
        }
        Ok(())
    }
}

/// As many names as a terminal's reader takes in; JSON and YAML have all.
fn some_of(names: &[String]) -> String {
    let text = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MOST_NAMES) {
        Some(more @ 1..) => format!("{text} and {more} more"),
        _ => text,
    }
}

impl Text for Summary {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self {
            looked_at,
            skipped,
            unread,
            processes,
            shares,
            resolved,
            rewritable,
            ready: _,
            helpers,
            findings,
        } = self;
        writeln!(
            out,
            "{} ({resolved} with a known export, {rewritable} rewritable), {}",
            counted(*shares, "proxy share"),
            counted(*helpers, "helper")
        )?;
        writeln!(
            out,
            "{}, {}, {}",
            counted(findings.errors, "error"),
            counted(findings.warnings, "warning"),
            counted(findings.infos, "info")
        )?;
        writeln!(
            out,
            "{looked_at} looked at ({processes} of them processes), {skipped} skipped, {unread} unread"
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An audit with one share and one unread file.
    pub(crate) fn document() -> AuditDocument {
        let mut document = AuditDocument { target_qemu: Some("9.2".to_owned()), ..AuditDocument::new() };
        document.add_share(&ShareRow {
            file: Some("/srv/a.sh".to_owned()),
            line: Some(3),
            kind: "shell".to_owned(),
            ..ShareRow::default()
        });
        document.add_unread(&UnreadRow { file: None, reason: "line 1: not closed".to_owned() });
        document
    }

    #[test]
    fn unread_is_not_clean() {
        let mut document = document();
        assert_eq!(document.outcome(), Outcome::Findings);
        document.shares = Rows::default();
        assert_eq!(document.outcome(), Outcome::Unread);
        document.unread = Rows::default();
        assert_eq!(document.outcome(), Outcome::Clean);
    }

    #[test]
    fn text_ends_with_the_counts() {
        let mut out = Vec::new();
        document().text(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("0 looked at (0 of them processes), 0 skipped, 1 unread\n"), "{text}");
    }
}
