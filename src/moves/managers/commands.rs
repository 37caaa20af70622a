//! A script, or whoever types the command: the admin names the commands.

use anyhow::bail;

use super::interface::{Guests, named};
use crate::moves::document::{Command, Guest};
use crate::moves::{qemu, tool};

/// Commands that the admin names.
pub(super) struct Commands;

impl Guests for Commands {
    fn is_running(&self, guest: &Guest) -> anyhow::Result<bool> {
        let Some(command) = &guest.running else {
            return Ok(!qemu::of(guest)?.is_empty());
        };
        let said = tool::run("sh", ["-c", command])?;
        match said.status {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => bail!("whether {} runs is not known: {command}: {}", guest.name, said.reason()),
        }
    }

    fn stop(&self, guest: &Guest) -> Vec<Command> {
        named(guest.stop.as_ref())
    }

    fn force_stop(&self, _guest: &Guest) -> Vec<Command> {
        Vec::new()
    }

    fn start(&self, guest: &Guest) -> Vec<Command> {
        named(guest.start.as_ref())
    }

    fn hold(&self, _guest: &Guest) -> Vec<Command> {
        Vec::new()
    }

    fn release(&self, _guest: &Guest) -> Vec<Command> {
        Vec::new()
    }
}
