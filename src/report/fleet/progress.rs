//! How far hosts are: what `migrate status` says of each, merged.

use std::io::{self, Write};
use std::path::Path;

use super::document::{FleetDocument, FleetStatus, HostProgress, HostRow, HostStatus};
use super::parse;
use crate::report::origin::Origin;
use crate::report::status::{self, ExportRow, Phase, StatusDocument, StatusRow, StatusSummary};
use crate::text::counted;
use crate::text::{escape_path, markup};

/// How the names of status documents end that are beside audits: `HOST.status.json`.
const ENDING: &str = ".status";

/// The host that a status document's name says.
pub(super) fn host_of(name: &str) -> &str {
    name.strip_suffix(ENDING).filter(|host| !host.is_empty()).unwrap_or(name)
}

/// Whether a document says that it is a status.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Kind {
        document: Option<String>,
    }
    memchr::memmem::find(bytes, b"document").is_some()
        && parse::parse::<Kind>(bytes).is_ok_and(|kind| kind.document.as_deref() == Some(status::NAME))
}

/// Reads a status document, and refuses one that was cut short.
pub(super) fn read(bytes: &[u8]) -> anyhow::Result<StatusDocument> {
    let document: StatusDocument = parse::parse(bytes)?;
    parse::known(document.schema)?;
    let recounted = StatusDocument::new(
        document.origin.clone(),
        document.shares.clone(),
        document.exports.clone(),
        document.unread.clone(),
    );
    anyhow::ensure!(
        recounted.summary == document.summary,
        "it is not whole: its summary counts other rows than it lists; get the status of the host again, and transfer the whole file"
    );
    Ok(document)
}

/// Adds a host's status.
pub(super) fn add(fleet: &mut FleetDocument, host: &str, file: &Path, document: StatusDocument) {
    let rows = document.shares.into_iter().map(|row| of_share(host, row));
    let problems = document.exports.into_iter().filter(|row| row.problem.is_some());
    fleet.progress.extend(rows.chain(problems.map(|row| of_export(host, row))));
    let progress = HostProgress {
        report: escape_path(file).into_owned(),
        time: document.origin.time.clone().map(parse::clean),
        summary: document.summary,
    };
    if let Some(row) = fleet.hosts.iter_mut().find(|row| row.host == host) {
        row.progress = Some(progress);
        return;
    }
    // No audit was given: the status has looked at the same.
    let summary = &document.summary;
    let status = if summary.done() < summary.shares {
        HostStatus::Proxy
    } else if summary.unread > 0 {
        HostStatus::Unread
    } else {
        HostStatus::Clean
    };
    let origin = document.origin;
    fleet.hosts.push(HostRow {
        host: host.to_owned(),
        status,
        unread: summary.unread,
        report: Some(progress.report.clone()),
        origin: Origin {
            time: origin.time.map(parse::clean),
            host_name: origin.host_name.map(parse::clean),
            tool_version: origin.tool_version.map(parse::clean),
            kernel: origin.kernel.map(parse::clean),
        },
        progress: Some(progress),
        ..HostRow::default()
    });
}

/// Notes that a host's status can't be read. It must not look like one with nothing to do.
pub(super) fn fail(fleet: &mut FleetDocument, host: String, file: &Path, error: &anyhow::Error) {
    let reason = parse::clean(format!("its status can't be read: {error:#}"));
    if let Some(row) = fleet.hosts.iter_mut().find(|row| row.host == host) {
        if row.status == HostStatus::Clean {
            row.status = HostStatus::Unread;
        }
        row.remarks.push(reason);
    } else {
        let report = Some(escape_path(file).into_owned());
        fleet.hosts.push(HostRow { host, reason: Some(reason), report, ..HostRow::default() });
    }
}

fn of_share(host: &str, row: StatusRow) -> FleetStatus {
    FleetStatus {
        host: host.to_owned(),
        share: Some(parse::clean(row.name().to_owned())),
        guest: row.guest.map(parse::clean),
        export: row.export.map(parse::clean),
        phase: Some(row.phase),
        since: row.since.map(parse::clean),
        step: row.step.map(parse::clean),
        problem: row.problem.map(parse::clean),
        next: row.next.map(parse::clean),
    }
}

fn of_export(host: &str, row: ExportRow) -> FleetStatus {
    FleetStatus {
        host: host.to_owned(),
        export: Some(parse::clean(row.export)),
        problem: row.problem.map(parse::clean),
        next: row.next.map(parse::clean),
        ..FleetStatus::default()
    }
}

/// The counts of all hosts; `None` where there is no status of any.
pub(super) fn sum(hosts: &[HostRow]) -> Option<StatusSummary> {
    let all = hosts.iter().filter_map(|host| host.progress.as_ref());
    all.fold(None, |sum, progress| {
        let (sum, more) = (sum.unwrap_or_default(), &progress.summary);
        let add = u64::saturating_add;
        Some(StatusSummary {
            shares: add(sum.shares, more.shares),
            proxy: add(sum.proxy, more.proxy),
            planned: add(sum.planned, more.planned),
            in_progress: add(sum.in_progress, more.in_progress),
            converted: add(sum.converted, more.converted),
            verified: add(sum.verified, more.verified),
            undone: add(sum.undone, more.undone),
            local: add(sum.local, more.local),
            problems: add(sum.problems, more.problems),
            unread: add(sum.unread, more.unread),
        })
    })
}

/// Writes for a terminal how far each host is, with what does not fit.
pub(super) fn text(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    for host in &fleet.hosts {
        let Some(progress) = &host.progress else { continue };
        let problems = counted(progress.summary.problems, "problem");
        writeln!(out, "status of {}: {}; {problems}", host.host, phases(&progress.summary))?;
        let told = |row: &&FleetStatus| {
            row.host == host.host && (row.problem.is_some() || row.phase == Some(Phase::InProgress))
        };
        for row in fleet.progress.iter().filter(told) {
            let what = row.problem.as_ref().or(row.step.as_ref()).map(|what| format!(": {what}"));
            writeln!(out, "    {}{}", row.title(), what.unwrap_or_default())?;
        }
    }
    Ok(())
}

/// One line with the counts of all hosts.
pub(super) fn total(summary: &StatusSummary) -> String {
    format!(
        "{}: {}; {}, {} unread",
        counted(summary.shares, "share"),
        phases(summary),
        counted(summary.problems, "problem"),
        summary.unread
    )
}

fn phases(summary: &StatusSummary) -> String {
    if summary.shares == 0 { "no share".to_owned() } else { summary.phases() }
}

impl FleetStatus {
    fn title(&self) -> String {
        let export = self.export.as_deref().unwrap_or("an unknown directory");
        let Some(phase) = self.phase else { return format!("export {export}") };
        let guest = self.guest.as_deref().unwrap_or("without a name");
        let share = self.share.as_deref().unwrap_or_default();
        format!("guest {guest}, share '{share}', {export}: {}", phase.name())
    }
}

/// Writes a section of the page; none where there is no status of any host.
pub(super) fn html(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let Some(summary) = &fleet.summary.status else { return Ok(()) };
    writeln!(out, "<section aria-labelledby=\"progress-title\">\n<h2 id=\"progress-title\">Progress</h2>")?;
    writeln!(out, "<p>{}</p>", markup(&total(summary)))?;
    writeln!(out, "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-labelledby=\"progress-title\">")?;
    write!(out, "<table id=\"progress\">\n<thead><tr>")?;
    for title in ["Host", "Guest", "Share", "Export", "Status", "Since", "Problem", "Next"] {
        write!(out, "<th scope=\"col\">{title}</th>")?;
    }
    writeln!(out, "</tr></thead>\n<tbody>")?;
    for row in &fleet.progress {
        write!(out, "<tr><td>{}</td>", markup(&row.host))?;
        let phase = row.phase.map(|phase| phase.name().to_owned());
        let step = row.step.as_ref().map(|step| format!(": {step}")).unwrap_or_default();
        let phase = phase.map(|phase| phase + &step);
        for text in [&row.guest, &row.share, &row.export, &phase, &row.since, &row.problem, &row.next] {
            write!(out, "<td>{}</td>", markup(text.as_deref().unwrap_or_default()))?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody></table></div>\n</section>")
}
