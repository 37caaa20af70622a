//! The shares of a survey, and one row for each of them wherever it was seen.

use crate::report::audit::ShareRow;
use crate::report::rows::{bytes, path, place};
use crate::report::status::{Backend, StatusRow};
use crate::share::Share;
use crate::sources::audit::{Survey, directory_of};

/// Every share over the proxy or the local backend, in each place where it was seen.
pub(super) fn of(survey: &Survey) -> anyhow::Result<Vec<StatusRow>> {
    let mut rows = Vec::new();
    for share in survey.audit.shares.iter() {
        rows.push(proxy(share?));
    }
    rows.extend(survey.local.iter().map(local));
    Ok(rows)
}

fn proxy(share: ShareRow) -> StatusRow {
    StatusRow {
        guest: share.guest,
        mount_tag: share.mount_tag,
        fsdev: share.fsdev,
        export: share.export,
        backend: Some(Backend::Proxy),
        places: share
            .file
            .map(|file| place(Some(&file), share.line))
            .into_iter()
            .chain(share.other_places)
            .collect(),
        pid: share.pid,
        ..StatusRow::default()
    }
}

fn local(share: &Share) -> StatusRow {
    StatusRow {
        guest: share.place.guest.as_deref().map(bytes),
        mount_tag: share.mount_tag.as_deref().map(bytes),
        fsdev: Some(bytes(&share.fsdev)).filter(|fsdev| !fsdev.is_empty()),
        export: directory_of(share).filter(|directory| directory.is_absolute()).map(path),
        backend: Some(Backend::Local),
        security_model: share.model.as_deref().map(bytes),
        places: share
            .place
            .file
            .as_deref()
            .map(|file| place(Some(&path(file)), share.place.line))
            .into_iter()
            .collect(),
        pid: share.place.pid,
        ..StatusRow::default()
    }
}

/// One row for each share. A share that is configured and runs, or is configured in several files, is one as long as all of them
/// say the same.
pub(super) fn merged(rows: Vec<StatusRow>) -> Vec<StatusRow> {
    let mut merged: Vec<StatusRow> = Vec::new();
    // Rows that name their guest come first: the others join these.
    let (named, nameless): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.guest.is_some());
    for row in named.into_iter().chain(nameless) {
        match merged.iter_mut().find(|other| is_same(other, &row)) {
            Some(other) => {
                other.mount_tag = other.mount_tag.take().or(row.mount_tag);
                other.fsdev = other.fsdev.take().or(row.fsdev);
                other.pid = other.pid.or(row.pid);
                other.places.extend(row.places);
            }
            None => merged.push(row),
        }
    }
    for row in &mut merged {
        row.places.sort();
        row.places.dedup();
    }
    merged.sort_by(|one, other| {
        let key =
            |row: &StatusRow| (row.guest.clone(), row.name().to_owned(), row.export.clone(), row.backend);
        key(one).cmp(&key(other))
    });
    merged
}

fn is_same(one: &StatusRow, other: &StatusRow) -> bool {
    let same = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
    let is_one_process = one.pid.is_none() || other.pid.is_none() || one.pid == other.pid;
    one.export.is_some()
        && (&one.export, one.backend, one.phase, &one.problem)
            == (&other.export, other.backend, other.phase, &other.problem)
        && same(&one.guest, &other.guest)
        && same(&one.mount_tag, &other.mount_tag)
        && (one.mount_tag.is_some() && one.mount_tag == other.mount_tag || same(&one.fsdev, &other.fsdev))
        && is_one_process
}
