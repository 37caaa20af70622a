//! The audits of many hosts in one: what `migrate report` prints.
//!
//! [`read`] takes the hosts' documents one after the other and keeps of each no more than its rows here; [`compare`] says
//! what became of the shares of an earlier round, [`remarks`] what is doubtful about an audit; [`text`], [`tables`] and [`html`] print.

mod compare;
mod document;
mod html;
mod metrics;
mod next;
pub(crate) mod options;
mod parse;
mod progress;
mod read;
mod remarks;
mod scope;
mod tables;
mod text;

use std::io::{self, Write};
use std::time::SystemTime;

use anyhow::Result;

use super::SCHEMA;
use super::origin::rfc3339;
use crate::exit::Outcome;
use document::{Change, FleetDocument, FleetSummary, HostStatus, Progress, ShareStatus, count};
use options::{By, FleetFormat, ReportArgs};

/// Runs `migrate report`.
pub(crate) fn run(args: &ReportArgs) -> Result<Outcome> {
    if args.schema {
        super::print_schema::<FleetDocument>()?;
        return Ok(Outcome::Clean);
    }
    let inventory = args.inventory.as_deref().map(read::inventory).transpose()?.unwrap_or_default();
    let now = SystemTime::now();
    let mut document = read::fleet(&args.paths, &inventory)?;
    document.expect(&inventory);
    remarks::note(&mut document, now, args.max_age);
    if let Some(since) = &args.since {
        let mut earlier = read::fleet(std::slice::from_ref(since), &inventory)?;
        compare::same_host_if_single(&document, &mut earlier);
        compare::compare(&mut document, earlier);
    }
    document.finish(now);
    super::put(args.output.as_deref(), |out| document.write(args.format, args.by, out))?;
    Ok(super::exit_zero(document.outcome(), args.exit_zero))
}

impl FleetDocument {
    /// Sorts, and fills in the counts.
    fn finish(&mut self, now: SystemTime) {
        self.schema = SCHEMA;
        self.time = rfc3339(now);
        env!("CARGO_PKG_VERSION").clone_into(&mut self.tool_version);
        for share in &mut self.shares {
            share.next = next::command(share);
        }
        self.hosts.sort_by(|a, b| (a.status, &a.host).cmp(&(b.status, &b.host)));
        self.shares.sort_by(|a, b| {
            (&a.host, &a.guest, &a.file, a.line, &a.mount_tag).cmp(&(
                &b.host,
                &b.guest,
                &b.file,
                b.line,
                &b.mount_tag,
            ))
        });
        let hosts = |status| count(self.hosts.iter().filter(|host| host.status == status));
        let shares = |status| count(self.shares.iter().filter(|share| share.status == status));
        let changes = |change| count(self.shares.iter().filter(|share| share.change == Some(change)));
        let compared = self.summary.since.is_some();
        self.progress.sort_by(|a, b| (&a.host, &a.guest, &a.share).cmp(&(&b.host, &b.guest, &b.share)));
        self.summary = FleetSummary {
            hosts: count(self.hosts.iter()),
            proxy: hosts(HostStatus::Proxy),
            unread: hosts(HostStatus::Unread),
            clean: hosts(HostStatus::Clean),
            failed: hosts(HostStatus::Failed),
            doubtful: count(self.hosts.iter().filter(|host| !host.remarks.is_empty())),
            ready: shares(ShareStatus::Ready),
            export_unknown: shares(ShareStatus::ExportUnknown),
            by_hand: shares(ShareStatus::ByHand),
            shares: count(self.shares.iter().filter(|share| share.is_there())),
            status: progress::sum(&self.hosts),
            since: compared.then(|| Progress {
                new: changes(Change::New),
                unchanged: changes(Change::Unchanged),
                gone: changes(Change::Gone),
                unknown: changes(Change::Unknown),
            }),
        };
    }

    /// Writes it in a format.
    fn write(&self, format: FleetFormat, by: By, out: &mut dyn Write) -> io::Result<()> {
        match format {
            FleetFormat::Text => text::write(self, by, out),
            FleetFormat::Json => {
                serde_json::to_writer_pretty(&mut *out, self)?;
                out.write_all(b"\n")
            }
            FleetFormat::Yaml => super::yaml::write(self, out),
            FleetFormat::Csv => tables::csv(self, out),
            FleetFormat::Markdown => tables::markdown(self, by, out),
            FleetFormat::Html => html::write(self, out),
            FleetFormat::Prometheus => metrics::write(self, out),
        }
    }

    /// How the fleet stands: as one host's audit says it, and a host without an audit is as good as unread.
    fn outcome(&self) -> Outcome {
        let status = self.summary.status.unwrap_or_default();
        if self.summary.proxy > 0 || status.problems > 0 || status.done() < status.shares {
            Outcome::Findings
        } else if self.summary.unread + self.summary.failed + status.unread > 0 {
            Outcome::Unread
        } else {
            Outcome::Clean
        }
    }
}
