//! libvirt's system daemon, by virsh.

use anyhow::ensure;

use super::interface::Guests;
use crate::moves::document::{Command, Guest};
use crate::moves::{agent, tool};

/// libvirt.
pub(super) struct Libvirt;

fn virsh(word: &str, guest: &Guest) -> Vec<Command> {
    vec![Command::of(["virsh", word, &guest.name])]
}

impl Guests for Libvirt {
    fn is_running(&self, guest: &Guest) -> anyhow::Result<bool> {
        let said = tool::run("virsh", ["domstate", "--", &guest.name])?;
        ensure!(said.status == Some(0), "virsh domstate {}: {}", guest.name, said.reason());
        Ok(!matches!(said.text().trim(), "shut off" | "crashed"))
    }

    fn stop(&self, guest: &Guest) -> Vec<Command> {
        virsh("shutdown", guest)
    }

    fn force_stop(&self, guest: &Guest) -> Vec<Command> {
        virsh("destroy", guest)
    }

    fn start(&self, guest: &Guest) -> Vec<Command> {
        virsh("start", guest)
    }

    fn saved(&self, guest: &Guest) -> anyhow::Result<Option<Vec<u8>>> {
        let said = tool::run("virsh", ["dominfo", "--", &guest.name])?;
        ensure!(said.status == Some(0), "virsh dominfo {}: {}", guest.name, said.reason());
        let text = said.text();
        let value = text.lines().find_map(|line| line.strip_prefix("Managed save:"));
        if value.is_none_or(|value| value.trim() != "yes") {
            return Ok(None);
        }
        let said = tool::run("virsh", ["managedsave-dumpxml", "--security-info", "--", &guest.name])?;
        ensure!(said.status == Some(0), "virsh managedsave-dumpxml {}: {}", guest.name, said.reason());
        Ok(Some(said.stdout))
    }

    fn mounts(&self, guest: &Guest) -> anyhow::Result<Vec<u8>> {
        agent::read_mounts(&mut agent::Virsh::of(&guest.name))
    }

    fn hold(&self, guest: &Guest) -> Vec<Command> {
        let said = tool::run("virsh", ["dominfo", "--", &guest.name]);
        let is_on = said.is_ok_and(|said| {
            let text = said.text();
            let value = text.lines().find_map(|line| line.strip_prefix("Autostart:"));
            value.is_some_and(|value| value.trim() == "enable")
        });
        if is_on { vec![Command::of(["virsh", "autostart", "--disable", &guest.name])] } else { Vec::new() }
    }

    fn release(&self, guest: &Guest) -> Vec<Command> {
        virsh("autostart", guest)
    }
}
