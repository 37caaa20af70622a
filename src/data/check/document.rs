//! What was found out, as rows of the document.

use std::collections::HashMap;

use nix::unistd::{Gid, Group, Uid, User};

use crate::data::entry::Kind;
use crate::data::filesystem::{Attributes, Filesystem};
use crate::data::live::{Live, Role};
use crate::data::survey::Survey;
use crate::report::check::{EntriesRow, FilesystemRow, OwnerRow, UserRow};
use crate::report::rows;
use crate::text;

pub(super) fn filesystem_row(filesystem: &Filesystem) -> FilesystemRow {
    let room = match filesystem.attributes {
        Attributes::Tried { room, .. } => u64::try_from(room).ok(),
        _ => None,
    };
    FilesystemRow {
        kind: rows::bytes(&filesystem.kind),
        read_only: filesystem.read_only,
        quota: filesystem.quota,
        free_bytes: filesystem.free_bytes,
        free_inodes: filesystem.free_inodes,
        user_xattrs: filesystem.attributes.usable(),
        tried: matches!(filesystem.attributes, Attributes::Tried { .. } | Attributes::Refused(_)),
        room,
    }
}

pub(super) fn entries_row(survey: &Survey) -> EntriesRow {
    EntriesRow {
        total: survey.entries(),
        files: survey.of(Kind::File),
        directories: survey.of(Kind::Directory),
        symbolic_links: survey.of(Kind::Symlink),
        fifos: survey.of(Kind::Fifo),
        sockets: survey.of(Kind::Socket),
        character_devices: survey.of(Kind::CharacterDevice),
        block_devices: survey.of(Kind::BlockDevice),
        to_replace: survey.replaced(),
        with_acl: survey.acls,
        with_set_id: survey.set_id,
        bytes: survey.bytes,
    }
}

/// The owners with their names on this host; the one with the most entries first.
pub(super) fn owner_rows(survey: &Survey) -> Vec<OwnerRow> {
    let mut users = HashMap::new();
    let mut groups = HashMap::new();
    let mut rows: Vec<_> = survey
        .owners
        .iter()
        .map(|(&(uid, gid), &entries)| OwnerRow {
            uid,
            gid,
            user: users.entry(uid).or_insert_with(|| user_name(uid)).clone(),
            group: groups.entry(gid).or_insert_with(|| group_name(gid)).clone(),
            entries,
        })
        .collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.entries), row.uid, row.gid));
    rows
}

fn user_name(uid: u32) -> Option<String> {
    let user = User::from_uid(Uid::from_raw(uid)).ok()??;
    Some(text::escape(user.name.as_bytes()).into_owned())
}

fn group_name(gid: u32) -> Option<String> {
    let group = Group::from_gid(Gid::from_raw(gid)).ok()??;
    Some(text::escape(group.name.as_bytes()).into_owned())
}

pub(super) fn user_rows(live: &Live) -> Vec<UserRow> {
    let processes = live.users.iter().map(|user| {
        let kind = match user.role {
            Role::Helper => "helper",
            Role::Qemu => "qemu",
            Role::Other => "process",
        };
        UserRow { pid: Some(user.pid), kind: kind.into(), busy: user.is_busy(), how: user.to_string() }
    });
    let mounts = live.mounts.iter().map(|mount| UserRow {
        pid: mount.namespace_of,
        kind: "mount".into(),
        busy: false,
        how: mount.to_string(),
    });
    let kernel = live.kernel.iter().map(|used| UserRow {
        pid: None,
        kind: "kernel".into(),
        busy: true,
        how: used.to_string(),
    });
    processes.chain(mounts).chain(kernel).collect()
}
