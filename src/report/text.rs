//! Findings as people read them.

use std::io::{self, Write};

use super::finding::Severity;
use super::rows::{FindingRow, place};

/// Writes each finding; errors first, and in the order found among equals.
pub(crate) fn write_findings(findings: &[FindingRow], out: &mut dyn Write) -> io::Result<()> {
    for severity in [Severity::Error, Severity::Warning, Severity::Info] {
        for finding in findings.iter().filter(|finding| finding.severity == severity) {
            write_finding(finding, out)?;
        }
    }
    Ok(())
}

/// Writes one finding: `PLACE: severity: message [id]`, and the remedy below it.
pub(crate) fn write_finding(finding: &FindingRow, out: &mut dyn Write) -> io::Result<()> {
    let mut place = place(finding.file.as_deref(), finding.line);
    if !place.is_empty() {
        place.push_str(": ");
    }
    let severity = severity_name(finding.severity);
    writeln!(out, "{place}{severity}: {} [{}]", finding.message, finding.id)?;
    if !finding.remedy.is_empty() {
        writeln!(out, "    {}", finding.remedy)?;
    }
    Ok(())
}

/// How the text calls a severity.
pub(super) fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}
