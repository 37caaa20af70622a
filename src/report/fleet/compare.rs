//! Two rounds of audits: what is new, gone, unchanged.

use std::collections::BTreeMap;

use super::document::{Change, FleetDocument, FleetShare, HostRow, HostStatus, Progress, ShareStatus};

/// Lets two single audits be compared whatever their files are called: before.json, after.json.
pub(super) fn same_host_if_single(now: &FleetDocument, earlier: &mut FleetDocument) {
    let ([now], [then]) = (now.hosts.as_slice(), earlier.hosts.as_mut_slice()) else { return };
    then.host.clone_from(&now.host);
    for share in &mut earlier.shares {
        share.host.clone_from(&now.host);
        share.owner.clone_from(&now.owner);
    }
}

/// Says of each share what became of it, and adds those that are gone.
pub(super) fn compare(now: &mut FleetDocument, earlier: FleetDocument) {
    now.summary.since = Some(Progress::default());
    let mut before: BTreeMap<Identity, Vec<FleetShare>> = BTreeMap::new();
    for share in earlier.shares {
        before.entry(Identity::of(&share)).or_default().push(share);
    }
    for share in &mut now.shares {
        let was_there = before.get_mut(&Identity::of(share)).and_then(Vec::pop).is_some();
        share.change = Some(if was_there { Change::Unchanged } else { Change::New });
    }
    let mut rounds: BTreeMap<String, Rounds> = BTreeMap::new();
    for (index, host) in now.hosts.iter().enumerate() {
        rounds.insert(host.host.clone(), Rounds { now: index, in_order: true });
    }
    for host in earlier.hosts {
        match rounds.get_mut(&host.host) {
            Some(rounds) => {
                if let Some(row) = now.hosts.get_mut(rounds.now) {
                    rounds.in_order = note(row, host);
                }
            }
            // A host that nobody asked this time must not look like one that is done.
            None => now.hosts.push(HostRow {
                host: host.host,
                owner: host.owner,
                notes: host.notes,
                before: Some(host.origin),
                reason: Some("no report this time, though there was one before".to_owned()),
                ..HostRow::default()
            }),
        }
    }
    for share in before.into_values().flatten() {
        let rounds = rounds.get(&share.host).filter(|rounds| rounds.in_order);
        let host = rounds.and_then(|rounds| now.hosts.get(rounds.now));
        let looked = host.is_some_and(|host| {
            host.status != HostStatus::Failed && host.scope.covers(share.file.as_deref(), share.running)
        });
        let (status, change) =
            if looked { (ShareStatus::Gone, Change::Gone) } else { (ShareStatus::Unknown, Change::Unknown) };
        now.shares.push(FleetShare { status, change: Some(change), ..share });
    }
}

/// A host in both rounds.
struct Rounds {
    /// Where its row is.
    now: usize,
    /// Its earlier audit is not the later one.
    in_order: bool,
}

/// Notes the earlier audit in a host's row. Whether it is the earlier one, as far as their times say.
fn note(row: &mut HostRow, earlier: HostRow) -> bool {
    if row.status == HostStatus::Failed || earlier.status == HostStatus::Failed {
        row.before = (earlier.status != HostStatus::Failed).then_some(earlier.origin);
        return true;
    }
    let in_order =
        !matches!((row.origin.instant(), earlier.origin.instant()), (Some(now), Some(then)) if now < then);
    if !in_order {
        row.remarks.push("the audit is older than the one that --since names for this host".to_owned());
    }
    if let (Some(name), Some(old)) = (&row.origin.host_name, &earlier.origin.host_name)
        && name != old
    {
        row.remarks.push(format!("the host's name is '{name}', and was '{old}' in the earlier audit"));
    }
    row.before = Some(earlier.origin);
    in_order
}

/// What makes a share the same one in two rounds. Its line may move, and a running process's file is its id's.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    host: String,
    kind: String,
    file: Option<String>,
    guest: Option<String>,
    fsdev: Option<String>,
    mount_tag: Option<String>,
}

impl Identity {
    fn of(share: &FleetShare) -> Self {
        Self {
            host: share.host.clone(),
            kind: share.kind.clone(),
            file: share.file.clone().filter(|_| !share.running),
            guest: share.guest.clone(),
            fsdev: share.fsdev.clone(),
            mount_tag: share.mount_tag.clone(),
        }
    }
}
