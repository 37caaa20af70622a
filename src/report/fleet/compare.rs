//! Two rounds of audits: what is new, gone, unchanged.

use std::collections::BTreeMap;

use super::{Change, FleetDocument, FleetShare, HostStatus, Progress, ShareStatus};

/// Lets two single audits be compared whatever their files are called: before.json, after.json.
pub fn same_host_if_single(now: &FleetDocument, earlier: &mut FleetDocument) {
    let ([now], [then]) = (now.hosts.as_slice(), earlier.hosts.as_mut_slice()) else { return };
    then.host.clone_from(&now.host);
    for share in &mut earlier.shares {
        share.host.clone_from(&now.host);
    }
}

/// Says of each share what became of it, and adds those that are gone.
pub fn compare(now: &mut FleetDocument, earlier: FleetDocument) {
    now.summary.since = Some(Progress::default());
    let mut before: BTreeMap<Identity, Vec<FleetShare>> = BTreeMap::new();
    for share in earlier.shares {
        before.entry(Identity::of(&share)).or_default().push(share);
    }
    for share in &mut now.shares {
        let was_there = before.get_mut(&Identity::of(share)).and_then(Vec::pop).is_some();
        share.change = Some(if was_there { Change::Unchanged } else { Change::New });
    }
    let audited =
        |name: &str| now.hosts.iter().any(|host| host.host == name && host.status != HostStatus::Failed);
    let mut rest = Vec::new();
    for share in before.into_values().flatten() {
        let (status, change) = if audited(&share.host) {
            (ShareStatus::Gone, Change::Gone)
        } else {
            (ShareStatus::Unknown, Change::Unknown)
        };
        rest.push(FleetShare { status, change: Some(change), ..share });
    }
    for host in earlier.hosts {
        // A host that nobody asked this time must not look like one that is done.
        if !now.hosts.iter().any(|other| other.host == host.host) {
            now.hosts.push(super::HostRow {
                host: host.host,
                owner: host.owner,
                notes: host.notes,
                reason: Some("no report this time, though there was one before".to_owned()),
                ..super::HostRow::default()
            });
        }
    }
    now.shares.extend(rest);
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
