//! Reading the hosts' audits, and the inventory.
//!
//! They come from other machines: bounded in size, of regular files only, and never believed to be complete or clean.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::document::{FindingCount, FleetDocument, FleetShare, HostRow, HostStatus, ShareStatus, count};
use super::parse::{clean, known, parse};
use super::progress;
use super::scope::Scope;
use crate::report::finding::{NOT_SEEN, PROXY_SHARE, Severity};
use crate::report::origin::Origin;
use crate::report::rows::Counts;
use crate::report::status::StatusDocument;
use crate::text::{escape_os, escape_path, printable};

/// A document of more bytes than this is refused.
const MOST: u64 = 64 << 20;
/// The endings of a report's name.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// What the admin knows of the hosts.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Inventory {
    /// The hosts that there should be.
    hosts: BTreeMap<String, Option<Known>>,
}

/// What the admin knows of one host.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    /// Who looks after it.
    owner: Option<String>,
    /// Anything else.
    #[serde(alias = "note")]
    notes: Option<String>,
    /// The name of its report's file, where that is not the host's.
    report: Option<String>,
}

/// One host's document, as far as it is of interest here. What is missing is unknown, so that other tools' documents will
/// do too. Its summary comes last and is always there: without it the document was cut short.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Audit {
    schema: Option<u32>,
    /// Why there is no audit: what a collector writes in place of one.
    error: Option<String>,
    // Flattened, they would have all else kept in memory.
    time: Option<String>,
    host_name: Option<String>,
    tool_version: Option<String>,
    kernel: Option<String>,
    target_qemu: Option<String>,
    shares: Vec<Share>,
    helpers: Vec<IgnoredAny>,
    findings: Vec<Finding>,
    unread: Vec<Unread>,
    looked_in: Vec<String>,
    followed: Vec<String>,
    left_out: Vec<String>,
    summary: Option<Summary>,
}

/// How many rows the document's lists have.
#[derive(Debug, Deserialize)]
struct Summary {
    unread: u64,
    shares: u64,
    helpers: u64,
    findings: Counts,
    looked_at: Option<u64>,
    processes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Unread {
    file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Share {
    file: Option<String>,
    line: Option<u64>,
    kind: Option<String>,
    guest: Option<String>,
    fsdev: Option<String>,
    mount_tag: Option<String>,
    socket: Option<String>,
    readonly: Option<bool>,
    export: Option<String>,
    resolved: Option<bool>,
    rewritable: Option<bool>,
    notes: Vec<String>,
    pid: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    id: String,
    severity: Severity,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    line: Option<u64>,
}

/// Reads an inventory.
pub(super) fn inventory(path: &Path) -> Result<Inventory> {
    let shown = escape_path(path);
    let bytes = contents(path).with_context(|| format!("cannot read the inventory '{shown}'"))?;
    let read: Inventory = crate::yaml::from_slice(&bytes).with_context(|| {
        format!("'{shown}' is no inventory; it reads hosts: {{NAME: {{owner: …, notes: …, report: FILE}}}}")
    })?;
    Ok(read)
}

/// Reads and merges the documents at `paths`. A document that can't be read is a failed host; a path that isn't there is an
/// error.
pub(super) fn fleet(paths: &[PathBuf], inventory: &Inventory) -> Result<FleetDocument> {
    let renamed: BTreeMap<&str, &str> = inventory
        .hosts
        .iter()
        .filter_map(|(host, known)| Some((known.as_ref()?.report.as_deref()?, host.as_str())))
        .collect();
    let mut fleet = Merging::default();
    for file in documents(paths)? {
        let name = file.file_name().map(escape_os).unwrap_or_default().into_owned();
        let host =
            renamed.get(name.as_str()).map_or_else(|| host_of(&file), |host| printable(host).into_owned());
        fleet.add(host, &file, inventory)?;
    }
    Ok(fleet.into_document())
}

impl FleetDocument {
    /// Adds the inventory's hosts of which there is no report.
    pub(super) fn expect(&mut self, inventory: &Inventory) {
        let there: BTreeSet<_> = self.hosts.iter().map(|host| host.host.clone()).collect();
        for (host, known) in &inventory.hosts {
            let host = printable(host).into_owned();
            if !there.contains(&host) {
                let reason = Some("there is no report of it".to_owned());
                self.hosts.push(HostRow { reason, ..named(host, known.as_ref()) });
            }
        }
    }
}

/// The files that the paths name: themselves, or the reports in a directory, in order.
fn documents(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let shown = escape_path(path);
        let meta = fs::metadata(path).with_context(|| format!("cannot read '{shown}'"))?;
        if !meta.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).with_context(|| format!("cannot read the directory '{shown}'"))?;
        let mut inside = Vec::new();
        for entry in entries {
            let file = entry.with_context(|| format!("cannot read the directory '{shown}'"))?.path();
            if file
                .extension()
                .and_then(|ending| ending.to_str())
                .is_some_and(|ending| ENDINGS.contains(&ending))
            {
                inside.push(file);
            }
        }
        if inside.is_empty() {
            bail!("'{shown}' holds no report: none of its files ends in .json, .yaml or .yml");
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// The host that a report's name says.
fn host_of(file: &Path) -> String {
    let known = file.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
    let name = if known { file.file_stem() } else { file.file_name() };
    name.map(|name| escape_os(name).into_owned()).unwrap_or_default()
}

/// A file's bytes; regular files of a bounded size alone.
fn contents(path: &Path) -> Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        bail!("it is not a regular file");
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(MOST)).unwrap_or(0));
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        bail!("it is larger than {} MiB", MOST >> 20);
    }
    Ok(bytes)
}

fn audit(bytes: &[u8]) -> Result<Audit> {
    let audit: Audit = parse(bytes)?;
    match (audit.schema, &audit.error) {
        (_, Some(error)) => bail!("{error}"),
        (Some(schema), None) => known(schema).and_then(|()| whole(&audit)).map(|()| audit),
        (None, None) => bail!("it is no audit: it says no 'schema'"),
    }
}

/// Stops at a document that was cut short: what is missing of it may be shares.
fn whole(audit: &Audit) -> Result<()> {
    const AGAIN: &str = "audit the host again, and transfer the whole file";
    let Some(summary) = &audit.summary else { bail!("it was cut short: it has no 'summary'; {AGAIN}") };
    let findings = [summary.findings.errors, summary.findings.warnings, summary.findings.infos]
        .into_iter()
        .fold(0, u64::saturating_add);
    for (name, counted, there) in [
        ("shares", summary.shares, count(audit.shares.iter())),
        ("helpers", summary.helpers, count(audit.helpers.iter())),
        ("unread", summary.unread, count(audit.unread.iter())),
        ("findings", findings, count(audit.findings.iter())),
    ] {
        if counted != there {
            bail!("it is not whole: its summary counts {counted} {name}, and it lists {there}; {AGAIN}");
        }
    }
    Ok(())
}

/// The fleet so far.
#[derive(Default)]
struct Merging {
    document: FleetDocument,
    names: BTreeMap<String, PathBuf>,
    /// How often there is each, and on how many hosts.
    findings: BTreeMap<(String, Severity), (u64, u64)>,
    /// The status documents: they are added when all audits are there.
    statuses: BTreeMap<String, (PathBuf, Result<StatusDocument>)>,
}

impl Merging {
    /// Adds one host's report.
    fn add(&mut self, host: String, file: &Path, inventory: &Inventory) -> Result<()> {
        let read = contents(file);
        if let Some(document) = read.as_ref().ok().filter(|bytes| progress::is_one(bytes)) {
            return self.status(progress::host_of(&host), file, document);
        }
        if let Some(other) = self.names.insert(host.clone(), file.to_owned()) {
            return Err(two_reports(&host, &other, file));
        }
        let known = inventory.hosts.get(&host).and_then(Option::as_ref);
        let row = HostRow { report: Some(escape_path(file).into_owned()), ..named(host, known) };
        match read.and_then(|bytes| audit(&bytes)) {
            Ok(audit) => self.audited(row, audit),
            Err(error) => {
                let reason = printable(&format!("{error:#}")).into_owned();
                self.document.hosts.push(HostRow { reason: Some(reason), ..row });
            }
        }
        Ok(())
    }

    /// Keeps one host's status.
    fn status(&mut self, host: &str, file: &Path, bytes: &[u8]) -> Result<()> {
        match self.statuses.insert(host.to_owned(), (file.to_owned(), progress::read(bytes))) {
            Some((other, _)) => Err(two_reports(host, &other, file)),
            None => Ok(()),
        }
    }

    fn audited(&mut self, row: HostRow, audit: Audit) {
        let target_qemu = audit.target_qemu.map(clean);
        let severity = |wanted| count(audit.findings.iter().filter(|finding| finding.severity == wanted));
        let nothing = audit.summary.as_ref().is_some_and(|summary| summary.looked_at == Some(0));
        let status = if !audit.shares.is_empty() || !audit.helpers.is_empty() {
            HostStatus::Proxy
        } else if !audit.unread.is_empty() || nothing {
            HostStatus::Unread
        } else {
            HostStatus::Clean
        };
        let row = HostRow {
            status,
            shares: count(audit.shares.iter()),
            helpers: count(audit.helpers.iter()),
            errors: severity(Severity::Error),
            warnings: severity(Severity::Warning),
            unread: count(audit.unread.iter()),
            target_qemu,
            origin: Origin {
                time: audit.time.map(clean),
                host_name: audit.host_name.map(clean),
                tool_version: audit.tool_version.map(clean),
                kernel: audit.kernel.map(clean),
            },
            scope: Scope {
                looked_in: audit.looked_in.into_iter().map(clean).collect(),
                followed: audit.followed.into_iter().map(clean).collect(),
                left_out: audit.left_out.into_iter().map(clean).collect(),
                unread: audit.unread.into_iter().map(|row| row.file.map(clean)).collect(),
                looked_at: audit.summary.as_ref().and_then(|summary| summary.looked_at),
                processes: audit.summary.and_then(|summary| summary.processes),
                unprivileged: audit.findings.iter().any(|finding| finding.id == NOT_SEEN.id),
            },
            ..row
        };
        let severities = Severities::of(&audit.findings);
        let shares = audit
            .shares
            .into_iter()
            .map(|share| FleetShare { severity: severities.about(&share), ..share.of(&row) });
        self.document.shares.extend(shares);
        self.count_findings(audit.findings);
        self.document.hosts.push(row);
    }

    fn count_findings(&mut self, findings: Vec<Finding>) {
        let mut here = BTreeSet::new();
        for finding in findings {
            let key = (clean(finding.id), finding.severity);
            let entry = self.findings.entry(key.clone()).or_default();
            entry.0 += 1;
            entry.1 += u64::from(here.insert(key));
        }
    }

    fn into_document(self) -> FleetDocument {
        let mut findings: Vec<_> = self
            .findings
            .into_iter()
            .map(|((id, severity), (count, hosts))| FindingCount { id, severity, count, hosts })
            .collect();
        findings
            .sort_by(|a, b| (b.severity, b.count).cmp(&(a.severity, a.count)).then_with(|| a.id.cmp(&b.id)));
        let mut document = FleetDocument { findings, ..self.document };
        for (host, (file, status)) in self.statuses {
            match status {
                Ok(status) => progress::add(&mut document, &host, &file, status),
                Err(error) => progress::fail(&mut document, host, &file, &error),
            }
        }
        document
    }
}

fn two_reports(host: &str, one: &Path, other: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "two reports for the host '{host}': '{}' and '{}'; give one a name of its own, or leave it out",
        escape_path(one),
        escape_path(other)
    )
}

/// The findings by what they are about.
struct Severities<'a>(BTreeMap<(Option<&'a str>, Option<u64>, &'a str), Severity>);

impl<'a> Severities<'a> {
    fn of(findings: &'a [Finding]) -> Self {
        let mut gravest = BTreeMap::new();
        for finding in findings {
            let key = (finding.file.as_deref(), finding.line, finding.id.as_str());
            let severity = gravest.entry(key).or_insert(finding.severity);
            *severity = finding.severity.max(*severity);
        }
        Self(gravest)
    }

    /// How much the gravest finding about a share matters.
    fn about(&self, share: &Share) -> Option<Severity> {
        let ids = share.notes.iter().map(String::as_str).chain([PROXY_SHARE.id]);
        ids.filter_map(|id| self.0.get(&(share.file.as_deref(), share.line, id)).copied()).max()
    }
}

/// A host with what the inventory knows of it.
fn named(host: String, known: Option<&Known>) -> HostRow {
    let text = |field: fn(&Known) -> &Option<String>| known.and_then(|known| field(known).clone()).map(clean);
    HostRow {
        owner: text(|known| &known.owner),
        notes: text(|known| &known.notes),
        host,
        ..HostRow::default()
    }
}

impl Share {
    fn of(self, host: &HostRow) -> FleetShare {
        let resolved = self.resolved.unwrap_or(self.export.is_some());
        let status = match (self.rewritable.unwrap_or(false), resolved) {
            (false, _) => ShareStatus::ByHand,
            (true, false) => ShareStatus::ExportUnknown,
            (true, true) => ShareStatus::Ready,
        };
        FleetShare {
            host: host.host.clone(),
            owner: host.owner.clone(),
            status,
            change: None,
            severity: None,
            next: None,
            guest: self.guest.map(clean),
            mount_tag: self.mount_tag.map(clean),
            fsdev: self.fsdev.map(clean),
            export: self.export.map(clean),
            socket: self.socket.map(clean),
            readonly: self.readonly.unwrap_or(false),
            running: self.pid.is_some()
                || self.file.as_deref().is_some_and(|file| file.starts_with("/proc/")),
            file: self.file.map(clean),
            line: self.line,
            kind: self.kind.map(clean).unwrap_or_default(),
            target_qemu: host.target_qemu.clone(),
            notes: self.notes.into_iter().map(clean).collect(),
        }
    }
}
