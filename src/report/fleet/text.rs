//! A fleet's report for a terminal.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::document::{FleetDocument, FleetShare, HostRow, HostStatus, count};
use crate::report::fleet::options::By;
use crate::text::counted;

/// How many hosts a line names at most.
const MOST_NAMES: usize = 20;

/// Writes it: the shares by what they are put together by, the hosts that want a look, the counts.
pub(super) fn write(fleet: &FleetDocument, by: By, out: &mut dyn Write) -> io::Result<()> {
    let hosts: BTreeMap<&str, &HostRow> = fleet.hosts.iter().map(|host| (host.host.as_str(), host)).collect();
    for (key, shares) in fleet.groups(by) {
        let about = match by {
            By::Host => hosts.get(key.as_str()).copied().map(about).unwrap_or_default(),
            _ => String::new(),
        };
        writeln!(out, "{key}{about}: {}", counted(count(shares.iter()), "share"))?;
        for share in shares {
            writeln!(out, "    {}", line(share, by))?;
        }
    }
    let without_shares = |host: &&HostRow| host.shares == 0 && host.status != HostStatus::Clean;
    for host in fleet.hosts.iter().filter(without_shares) {
        write!(out, "{}{}: {}", host.host, about(host), host.status.word())?;
        match (&host.reason, host.status) {
            (Some(reason), _) => writeln!(out, ": {reason}")?,
            (None, HostStatus::Proxy) => writeln!(out, ": {}, no share", counted(host.helpers, "helper"))?,
            (None, _) if host.unread == 0 => writeln!(out, ": nothing was looked at")?,
            (None, _) => writeln!(out, ": {} not read", counted(host.unread, "file"))?,
        }
    }
    super::progress::text(fleet, out)?;
    remarks(fleet, out)?;
    counts(fleet, out)?;
    match &fleet.summary.status {
        Some(status) => writeln!(out, "status: {}", super::progress::total(status)),
        None => Ok(()),
    }
}

/// What is doubtful about audits, and about how many.
fn remarks(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let mut hosts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for host in &fleet.hosts {
        for remark in &host.remarks {
            hosts.entry(remark).or_default().push(&host.host);
        }
    }
    for (remark, hosts) in hosts {
        let shown = hosts.iter().take(MOST_NAMES).copied().collect::<Vec<_>>().join(", ");
        let more = match hosts.len().checked_sub(MOST_NAMES) {
            Some(more @ 1..) => format!(" and {more} more"),
            _ => String::new(),
        };
        writeln!(out, "note: {remark}: {shown}{more}")?;
    }
    Ok(())
}

/// ` (owner; notes)`, where the inventory says so.
fn about(host: &HostRow) -> String {
    let said: Vec<_> = [&host.owner, &host.notes].into_iter().flatten().map(String::as_str).collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) }
}

fn line(share: &FleetShare, by: By) -> String {
    let change = share.change.map_or(String::new(), |change| format!("[{}] ", change.word()));
    let host = if by == By::Host { String::new() } else { format!("{}: ", share.host) };
    let guest = match &share.guest {
        Some(guest) if by != By::Guest => format!("guest {guest}, "),
        _ => String::new(),
    };
    let export = share.export.as_deref().unwrap_or("export unknown");
    let (name, place, status) = (share.name(), share.place(), share.status.word());
    format!("{change}{host}{guest}share '{name}', {export} ({place}; {status})")
}

fn counts(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let all = &fleet.summary;
    if all.hosts > 0 {
        writeln!(out)?;
    }
    if let Some(since) = all.since {
        writeln!(
            out,
            "since then: {} new, {} unchanged, {} gone, {} unknown",
            since.new, since.unchanged, since.gone, since.unknown
        )?;
    }
    writeln!(
        out,
        "{}: {} ready, {} with an unknown export, {} by hand",
        counted(all.shares, "proxy share"),
        all.ready,
        all.export_unknown,
        all.by_hand
    )?;
    writeln!(
        out,
        "{}: {} with proxy setups, {} not fully read, {} failed, {} clean",
        counted(all.hosts, "host"),
        all.proxy,
        all.unread,
        all.failed,
        all.clean
    )
}
