//! Proxmox VE, by qm.

use anyhow::ensure;

use super::interface::Guests;
use crate::moves::document::{Command, Guest};
use crate::moves::{agent, tool};

/// Proxmox VE.
pub(super) struct Proxmox;

fn qm(word: &str, guest: &Guest) -> Vec<Command> {
    vec![Command::of(["qm", word, &guest.name])]
}

impl Guests for Proxmox {
    fn is_running(&self, guest: &Guest) -> anyhow::Result<bool> {
        let said = tool::run("qm", ["status", &guest.name])?;
        ensure!(said.status == Some(0), "qm status {}: {}", guest.name, said.reason());
        Ok(said.text().trim() != "status: stopped")
    }

    fn stop(&self, guest: &Guest) -> Vec<Command> {
        qm("shutdown", guest)
    }

    fn force_stop(&self, guest: &Guest) -> Vec<Command> {
        qm("stop", guest)
    }

    fn start(&self, guest: &Guest) -> Vec<Command> {
        qm("start", guest)
    }

    fn mounts(&self, guest: &Guest) -> anyhow::Result<Vec<u8>> {
        agent::mounts_by_qm(&guest.name)
    }

    fn hold(&self, guest: &Guest) -> Vec<Command> {
        let said = tool::run("qm", ["config", &guest.name]);
        let is_on = said.is_ok_and(|said| said.text().lines().any(|line| line.trim() == "onboot: 1"));
        if is_on { vec![Command::of(["qm", "set", &guest.name, "--onboot", "0"])] } else { Vec::new() }
    }

    fn release(&self, guest: &Guest) -> Vec<Command> {
        vec![Command::of(["qm", "set", &guest.name, "--onboot", "1"])]
    }
}
