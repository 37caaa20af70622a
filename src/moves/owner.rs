//! The user that a guest's QEMU runs as.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use super::configuration;
use super::document::Manager;
use super::manager::{self, Managed};
use super::plan::{Found, path_of};
use super::tool;
use crate::data::owner::Owner;
use crate::report::audit::{Audited, HelperRow};

/// The owners that the admin names.
#[derive(Debug, Default)]
pub struct Owners {
    all: Option<Owner>,
    of: BTreeMap<String, Owner>,
}

impl Owners {
    pub fn parse(words: &[String]) -> anyhow::Result<Self> {
        let mut owners = Self::default();
        for word in words {
            match word.split_once('=') {
                Some((guest, owner)) => {
                    owners.of.insert(guest.to_owned(), Owner::parse(OsStr::new(owner))?);
                }
                None => owners.all = Some(Owner::parse(OsStr::new(word))?),
            }
        }
        Ok(owners)
    }

    fn named(&self, guest: &str) -> Option<&Owner> {
        self.of.get(guest).or(self.all.as_ref())
    }
}

/// The user that a guest's QEMU runs as, and who says so.
pub fn of(
    by: &Managed,
    found: &Found,
    audit: &Audited,
    owners: &Owners,
) -> anyhow::Result<Option<(Owner, String)>> {
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
            let xml = tool::run("virsh", ["dumpxml", "--inactive", "--", &by.name])?;
            if let Some(label) = configuration::dac_label(&xml.text()) {
                return Ok(Some((Owner::parse(OsStr::new(&label))?, "the domain's seclabel".to_owned())));
            }
            let owner = Owner::of_libvirt()?;
            return Ok(owner.map(|owner| (owner, "libvirt's configuration".to_owned())));
        }
        Manager::Proxmox => return Ok(Some((Owner::parse(OsStr::new("root"))?, "Proxmox VE".to_owned()))),
        Manager::Systemd => {
            if let Some(user) = crate::sources::user_of(&files_of(found)) {
                return Ok(Some((Owner::parse(OsStr::new(&user))?, "the unit's files".to_owned())));
            }
            if let Some(said) = manager::properties(&by.name, &["LoadState", "User", "Group"])
                && let [state, user, group] = said.as_slice()
                && state == "loaded"
                && !user.is_empty()
            {
                let word = if group.is_empty() { user.clone() } else { format!("{user}:{group}") };
                return Ok(Some((Owner::parse(OsStr::new(&word))?, "the unit".to_owned())));
            }
        }
        Manager::Incus | Manager::Commands => {
            if let Some(user) = crate::sources::user_of(&files_of(found)) {
                return Ok(Some((Owner::parse(OsStr::new(&user))?, "its configuration".to_owned())));
            }
        }
    }
    Ok(owner_of_helper(found, audit))
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
fn owner_of_helper(found: &Found, audit: &Audited) -> Option<(Owner, String)> {
    let sockets: Vec<_> = found.rows.iter().filter_map(|row| row.socket.as_ref()).collect();
    let serving = |helper: &&HelperRow| helper.socket.as_ref().is_some_and(|own| sockets.contains(&own));
    let mut said: Vec<_> = audit
        .helpers
        .iter()
        .filter(serving)
        .filter_map(|helper| {
            let (uid, gid) = (helper.uid.as_ref()?, helper.gid.as_ref()?);
            Owner::parse(OsStr::new(&format!("{uid}:{gid}"))).ok()
        })
        .collect();
    said.dedup();
    let [owner] = said.as_slice() else { return None };
    Some((owner.clone(), "the helper's --uid and --gid".to_owned()))
}
