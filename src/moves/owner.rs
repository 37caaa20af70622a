//! The user that a guest's QEMU runs as.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

use super::configuration;
use super::document::{Manager, path_of};
use super::found::Found;
use super::manager::{self, Managed};
use super::place::Place;
use super::tool;
use crate::data::owner::Owner;
use crate::report::audit::{Audited, HelperRow};
use crate::text;

/// The owners that the admin names.
#[derive(Debug, Default)]
pub(super) struct Owners {
    all: Option<Owner>,
    of: BTreeMap<String, Owner>,
}

impl Owners {
    pub(super) fn parse(words: &[String], place: &Place) -> anyhow::Result<Self> {
        let mut owners = Self::default();
        for word in words {
            match word.split_once('=') {
                Some((guest, owner)) => {
                    owners.of.insert(guest.to_owned(), place.owner(OsStr::new(owner))?);
                }
                None => owners.all = Some(place.owner(OsStr::new(word))?),
            }
        }
        Ok(owners)
    }

    fn named(&self, guest: &str) -> Option<&Owner> {
        self.of.get(guest).or(self.all.as_ref())
    }
}

/// The user that a guest's QEMU runs as, and who says so.
pub(super) fn of(
    by: &Managed,
    found: &Found,
    audit: &Audited,
    owners: &Owners,
    place: &Place,
) -> anyhow::Result<Option<(Owner, String)>> {
    let said = |user: &str, source: &str| said(user, source, place);
    let user_of = |found: &Found| crate::sources::config::user_of(&files_of(found), place.root());
    if let Some(owner) = owners.named(&by.name) {
        return Ok(Some((owner.clone(), "--owner".to_owned())));
    }
    if let Some(pid) = found.pid
        && let Some(owner) = owner_of_process(pid)
    {
        return Ok(Some((owner, format!("process {pid}"))));
    }
    match by.manager {
        Manager::Libvirt => {
            let label = if place.is_elsewhere() {
                files_of(found).iter().find_map(|file| configuration::dac_label(&place.text(file)))
            } else {
                let xml = tool::run("virsh", ["dumpxml", "--inactive", "--", &by.name])?;
                configuration::dac_label(&xml.text())
            };
            if let Some(label) = label {
                return said(&label, "the domain's seclabel");
            }
            let owner = place.owner_of_libvirt()?;
            return Ok(owner.map(|owner| (owner, "libvirt's configuration".to_owned())));
        }
        Manager::Proxmox => return said("root", "Proxmox VE"),
        Manager::Systemd => {
            if let Some(user) = user_of(found) {
                return said(&user, "the unit's files");
            }
            if !place.is_elsewhere()
                && let Some(values) = manager::properties(&by.name, &["LoadState", "User", "Group"])
                && let [state, user, group] = values.as_slice()
                && state == "loaded"
                && !user.is_empty()
            {
                let word = if group.is_empty() { user.clone() } else { format!("{user}:{group}") };
                return said(&word, "the unit");
            }
        }
        Manager::Incus | Manager::Commands => {
            if let Some(user) = user_of(found) {
                return said(&user, "its configuration");
            }
        }
    }
    Ok(owner_of_helper(found, audit, place))
}

/// A user that this source names.
fn said(user: &str, source: &str, place: &Place) -> anyhow::Result<Option<(Owner, String)>> {
    let owner = place.owner(OsStr::new(user)).with_context(|| {
        format!("its QEMU runs as '{}' by {source}, which is not known here", text::escape(user.as_bytes()))
    })?;
    Ok(Some((owner, source.to_owned())))
}

fn files_of(found: &Found) -> Vec<PathBuf> {
    let files: BTreeSet<_> = found.rows.iter().filter_map(|row| row.file.as_deref()).map(path_of).collect();
    files.into_iter().filter(|file| !file.starts_with("/proc")).collect()
}

fn owner_of_process(pid: i32) -> Option<Owner> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let id = |key| status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().nth(1);
    Owner::parse(OsStr::new(&format!("{}:{}", id("Uid:")?, id("Gid:")?))).ok()
}

/// A helper gives its socket to the user that QEMU runs as.
fn owner_of_helper(found: &Found, audit: &Audited, place: &Place) -> Option<(Owner, String)> {
    let sockets: Vec<_> = found.rows.iter().filter_map(|row| row.socket.as_ref()).collect();
    let serving = |helper: &&HelperRow| helper.socket.as_ref().is_some_and(|own| sockets.contains(&own));
    let mut said: Vec<_> = audit
        .helpers
        .iter()
        .filter(serving)
        .filter_map(|helper| {
            let (uid, gid) = (helper.uid.as_ref()?, helper.gid.as_ref()?);
            place.owner(OsStr::new(&format!("{uid}:{gid}"))).ok()
        })
        .collect();
    said.dedup();
    let [owner] = said.as_slice() else { return None };
    Some((owner.clone(), "the helper's --uid and --gid".to_owned()))
}
