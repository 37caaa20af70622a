//! LXD and Incus write QEMU's configuration themselves: no guest of theirs is moved.

use anyhow::bail;

use super::interface::Guests;
use crate::moves::document::{Command, Guest};

/// LXD or Incus.
pub(super) struct Incus;

impl Guests for Incus {
    fn is_running(&self, guest: &Guest) -> anyhow::Result<bool> {
        bail!(
            "{} is a guest of LXD or Incus, which write QEMU's configuration themselves: it cannot be moved",
            guest.name
        )
    }

    fn stop(&self, _guest: &Guest) -> Vec<Command> {
        Vec::new()
    }

    fn force_stop(&self, _guest: &Guest) -> Vec<Command> {
        Vec::new()
    }

    fn start(&self, _guest: &Guest) -> Vec<Command> {
        Vec::new()
    }

    fn hold(&self, _guest: &Guest) -> Vec<Command> {
        Vec::new()
    }

    fn release(&self, _guest: &Guest) -> Vec<Command> {
        Vec::new()
    }
}
