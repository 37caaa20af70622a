//! What makes an audit doubtful: its age, its clock, its name, the version that made it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::document::{FleetDocument, HostRow, HostStatus};
use crate::text::counted;

/// How far clocks of two machines may be apart.
const SKEW: Duration = Duration::from_secs(5 * 60);
/// How many places a remark names.
const MOST_PLACES: usize = 3;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Notes what is doubtful about each audit. `max_age` is in days.
pub(super) fn note(fleet: &mut FleetDocument, now: SystemTime, max_age: u64) {
    let names = names(fleet);
    for host in &mut fleet.hosts {
        if host.status == HostStatus::Failed {
            continue;
        }
        let remarks = [time(host, now, max_age), version(host), name(host, &names), coverage(host)];
        host.remarks.extend(remarks.into_iter().flatten());
    }
}

/// The hosts whose audits name each host name; and the reports' own names.
fn names(fleet: &FleetDocument) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for host in &fleet.hosts {
        if let Some(name) = &host.origin.host_name {
            names.entry(name.to_lowercase()).or_default().push(host.host.clone());
        }
        names.entry(format!("={}", host.host.to_lowercase())).or_default();
    }
    names
}

fn time(host: &HostRow, now: SystemTime, max_age: u64) -> Option<String> {
    let Some(text) = &host.origin.time else {
        return Some("the audit has no time: an older version of this program made it".to_owned());
    };
    let Some(time) = host.origin.instant() else {
        return Some(format!("the audit's time '{text}' is not a time in RFC 3339"));
    };
    match now.duration_since(time) {
        Err(ahead) if ahead.duration() > SKEW => {
            Some(format!("the audit's time {text} is in the future: a clock is wrong"))
        }
        Ok(age) if age.as_secs() / DAY.as_secs() >= max_age.max(1) => {
            Some(format!("the audit is {} old", counted(age.as_secs() / DAY.as_secs(), "day")))
        }
        _ => None,
    }
}

fn version(host: &HostRow) -> Option<String> {
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = host.origin.tool_version.as_ref().filter(|version| *version != ours)?;
    Some(format!("version {theirs} of this program made the audit, and this is {ours}"))
}

/// An audit that looked at a part of its host.
fn coverage(host: &HostRow) -> Option<String> {
    let scope = &host.scope;
    if scope.looked_at == Some(0) {
        return Some("the audit looked at nothing: no file and no process was read".to_owned());
    }
    if scope.processes != Some(0) {
        return scope
            .unprivileged
            .then(|| "the audit did not see every process: it did not run as root".to_owned());
    }
    let places: Vec<_> = scope.looked_in.iter().take(MOST_PLACES).map(|place| format!("'{place}'")).collect();
    let more = if scope.looked_in.len() > MOST_PLACES { " and more" } else { "" };
    Some(format!("the audit looked at no process; it looked in {}{more}", places.join(", ")))
}

/// An audit of another host than the one that its file names.
fn name(host: &HostRow, names: &BTreeMap<String, Vec<String>>) -> Option<String> {
    let name = host.origin.host_name.as_ref()?;
    let lower = name.to_lowercase();
    if lower == host.host.to_lowercase() || lower == "localhost" || lower.starts_with("localhost.") {
        return None;
    }
    if names.contains_key(&format!("={lower}")) {
        return Some(format!(
            "the audit is of the host '{name}', by its own word, which is another host here"
        ));
    }
    let others = names.get(&lower)?.iter().filter(|other| **other != host.host);
    let others: Vec<_> = others.take(3).map(|other| format!("'{other}'")).collect();
    (!others.is_empty()).then(|| {
        format!("the audits of {} name the host '{name}', too: one host may be here twice", others.join(", "))
    })
}
