//! An audit as JUnit XML, the format of test reports: what Jenkins' schema (junit-10.xsd) takes.

use std::io::{self, Write};

use super::audit::AuditDocument;
use super::finding::{self, Severity};
use super::rows::FindingRow;
use crate::text::markup;

/// Writes it: one test a finding. What could not be read is an error, and what keeps the audit from ending with 0 a failure.
/// Without any finding there is one test, which passes: readers take a report without tests for a mistake.
pub(super) fn write(document: &AuditDocument, out: &mut dyn Write) -> io::Result<()> {
    let (mut failures, mut errors) = (0_u64, 0_u64);
    for finding in document.findings.iter() {
        match verdict(&finding?) {
            Verdict::Pass => {}
            Verdict::Failure => failures += 1,
            Verdict::Error => errors += 1,
        }
    }
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(out, "<testsuites name=\"virtfs-proxy-helper\">")?;
    writeln!(
        out,
        "  <testsuite name=\"migrate audit\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"0\" time=\"0\"{}>",
        document.findings.len().max(1),
        origin(document)
    )?;
    let target = document.target_qemu.as_deref().unwrap_or("unknown");
    writeln!(out, "    <properties>")?;
    writeln!(out, "      <property name=\"target_qemu\" value=\"{}\"/>", markup(target))?;
    writeln!(out, "      <property name=\"looked_at\" value=\"{}\"/>", document.summary.looked_at)?;
    writeln!(out, "    </properties>")?;
    for finding in document.findings.iter() {
        case(&finding?, out)?;
    }
    if document.findings.is_empty() {
        writeln!(out, "    <testcase classname=\"audit\" name=\"no proxy share\" time=\"0\"/>")?;
    }
    writeln!(out, "  </testsuite>")?;
    writeln!(out, "</testsuites>")
}

/// The attributes of a suite that say where and when it ran. The format's times have no zone.
fn origin(document: &AuditDocument) -> String {
    let time = document.origin.time.as_deref().map(|time| time.trim_end_matches('Z'));
    let attribute = |name, value: Option<&str>| {
        value.map_or(String::new(), |value| format!(" {name}=\"{}\"", markup(value)))
    };
    attribute("timestamp", time) + &attribute("hostname", document.origin.host_name.as_deref())
}

/// What becomes of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Good to know.
    Pass,
    /// It asks for a decision, or is a proxy setup, which ends the audit with 3 whatever it matters to the target.
    Failure,
    /// It could not be read.
    Error,
}

fn verdict(finding: &FindingRow) -> Verdict {
    let is = |kind: &finding::Kind| finding.id == kind.id;
    if is(&finding::UNREAD) {
        Verdict::Error
    } else if finding.severity > Severity::Info || is(&finding::PROXY_SHARE) || is(&finding::PROXY_HELPER) {
        Verdict::Failure
    } else {
        Verdict::Pass
    }
}

fn case(finding: &FindingRow, out: &mut dyn Write) -> io::Result<()> {
    let file =
        finding.file.as_deref().unwrap_or(if finding.line.is_some() { "standard input" } else { "host" });
    let name = match finding.line {
        Some(line) => format!("{}: line {line}", finding.id),
        None => finding.id.clone(),
    };
    let (file, name, message) = (markup(file), markup(&name), markup(&finding.message));
    write!(out, "    <testcase classname=\"{file}\" name=\"{name}\" time=\"0\">")?;
    let element = match verdict(finding) {
        Verdict::Pass => return writeln!(out, "<system-out>{message}</system-out></testcase>"),
        Verdict::Failure => "failure",
        Verdict::Error => "error",
    };
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    };
    let remedy = markup(&finding.remedy);
    writeln!(out, "\n      <{element} type=\"{severity}\" message=\"{message}\">{remedy}</{element}>")?;
    writeln!(out, "    </testcase>")
}
