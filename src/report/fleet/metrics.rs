//! A fleet's counts in Prometheus' text format.

use std::io::{self, Write};
use std::time::SystemTime;

use super::document::{FleetDocument, HostRow};
use crate::report::prometheus::{Sample, gauge, severity};

/// Writes them.
pub(super) fn write(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let all = &fleet.summary;
    let hosts = [("proxy", all.proxy), ("unread", all.unread), ("failed", all.failed), ("clean", all.clean)];
    let hosts = hosts.map(|(status, count)| (vec![("status", status)], count));
    gauge("virtfs_proxy_fleet_hosts", "Hosts, by the status of their audits.", &hosts, out)?;
    let shares = [("ready", all.ready), ("export-unknown", all.export_unknown), ("by-hand", all.by_hand)];
    let shares = shares.map(|(status, count)| (vec![("status", status)], count));
    gauge("virtfs_proxy_fleet_shares", "Shares over QEMU's proxy backend.", &shares, out)?;
    let of_hosts = |count: fn(&HostRow) -> u64| -> Vec<Sample> {
        fleet.hosts.iter().map(|host| (labels(host), count(host))).collect()
    };
    gauge(
        "virtfs_proxy_host_shares",
        "A host's shares over the proxy backend.",
        &of_hosts(|host| host.shares),
        out,
    )?;
    gauge(
        "virtfs_proxy_host_helpers",
        "A host's invocations of the helper.",
        &of_hosts(|host| host.helpers),
        out,
    )?;
    gauge(
        "virtfs_proxy_host_unread",
        "What could not be read on a host.",
        &of_hosts(|host| host.unread),
        out,
    )?;
    let times: Vec<Sample> = fleet
        .hosts
        .iter()
        .filter_map(|host| {
            let since = host.origin.instant()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some((labels(host), since.as_secs()))
        })
        .collect();
    gauge("virtfs_proxy_host_audit_time_seconds", "When a host's audit was made, since 1970.", &times, out)?;
    let findings: Vec<_> = fleet
        .findings
        .iter()
        .map(|row| (vec![("id", row.id.as_str()), ("severity", severity(row.severity))], row.count))
        .collect();
    gauge("virtfs_proxy_fleet_findings", "Findings of the audits.", &findings, out)
}

fn labels(host: &HostRow) -> Vec<(&str, &str)> {
    let owner = host.owner.as_deref().unwrap_or_default();
    vec![("host", host.host.as_str()), ("owner", owner), ("status", host.status.word())]
}
