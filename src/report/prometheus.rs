//! Counts in Prometheus' text format, for node_exporter's textfile collector.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::audit::AuditDocument;
use super::finding::Severity;

/// Labels and a value.
pub(super) type Sample<'a> = (Vec<(&'a str, &'a str)>, u64);

/// Writes one gauge with its samples.
pub(super) fn gauge(name: &str, help: &str, samples: &[Sample], out: &mut dyn Write) -> io::Result<()> {
    if samples.is_empty() {
        return Ok(());
    }
    writeln!(out, "# HELP {name} {help}")?;
    writeln!(out, "# TYPE {name} gauge")?;
    for (labels, value) in samples {
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        if labels.is_empty() {
            writeln!(out, "{name} {value}")?;
        } else {
            writeln!(out, "{name}{{{}}} {value}", labels.join(","))?;
        }
    }
    Ok(())
}

/// The word for a severity, as documents have it.
pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

/// Writes an audit's counts.
pub(super) fn write(document: &AuditDocument, out: &mut dyn Write) -> io::Result<()> {
    let plain = |value: u64| vec![(Vec::new(), value)];
    let all = &document.summary;
    let by_status = [
        ("ready", all.ready),
        ("export-unknown", all.rewritable - all.ready),
        ("by-hand", all.shares - all.rewritable),
    ]
    .map(|(status, count)| (vec![("status", status)], count));
    gauge("virtfs_proxy_shares", "Shares over QEMU's proxy backend.", &by_status, out)?;
    gauge("virtfs_proxy_helpers", "Invocations of the proxy helper.", &plain(document.summary.helpers), out)?;
    gauge("virtfs_proxy_unread", "What the audit could not read.", &plain(document.summary.unread), out)?;
    gauge(
        "virtfs_proxy_looked_at",
        "Files and processes that were read.",
        &plain(document.summary.looked_at),
        out,
    )?;
    let mut findings: BTreeMap<(String, Severity), u64> = BTreeMap::new();
    for finding in document.findings.iter() {
        let finding = finding?;
        *findings.entry((finding.id, finding.severity)).or_default() += 1;
    }
    let samples: Vec<_> = findings
        .iter()
        .map(|((id, how), count)| (vec![("id", id.as_str()), ("severity", severity(*how))], *count))
        .collect();
    gauge("virtfs_proxy_findings", "Findings of the audit.", &samples, out)?;
    let programs: Vec<_> = document
        .installed_qemu
        .iter()
        .map(|qemu| {
            let version = qemu.version.as_deref().unwrap_or("unknown");
            (vec![("file", qemu.file.as_str()), ("version", version)], u64::from(qemu.proxy_backend))
        })
        .collect();
    gauge("virtfs_proxy_qemu_backend", "Whether an installed QEMU has the proxy backend.", &programs, out)?;
    let status = plain(u64::from(document.outcome().code()));
    gauge(
        "virtfs_proxy_audit_status",
        "The audit's exit status: 0 clean, 3 proxy setups, 4 not all read.",
        &status,
        out,
    )
}

/// A label's value between its quotes.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}
