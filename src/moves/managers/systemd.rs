//! systemd, by systemctl: a unit runs QEMU, or the helper.

use anyhow::bail;

use super::interface::{Guests, named};
use crate::moves::document::{Command, Guest};
use crate::moves::manager::properties;

/// systemd.
pub(super) struct Systemd;

fn systemctl(word: &str, guest: &Guest) -> Vec<Command> {
    vec![Command::of(["systemctl", word, &guest.name])]
}

impl Guests for Systemd {
    fn is_running(&self, guest: &Guest) -> anyhow::Result<bool> {
        is_active(&guest.name)
    }

    /// What ends the unit's QEMU by a signal does not shut the guest down: the plan asks for a command then.
    fn stop(&self, guest: &Guest) -> Vec<Command> {
        let mut commands = named(guest.stop.as_ref());
        if commands.is_empty() {
            commands = systemctl("stop", guest);
        }
        commands
    }

    fn force_stop(&self, guest: &Guest) -> Vec<Command> {
        vec![Command::of(["systemctl", "kill", "--signal=KILL", &guest.name])]
    }

    fn start(&self, guest: &Guest) -> Vec<Command> {
        systemctl("start", guest)
    }

    fn hold(&self, guest: &Guest) -> Vec<Command> {
        hold(&guest.name)
    }

    fn release(&self, guest: &Guest) -> Vec<Command> {
        release(&guest.name)
    }
}

/// Whether a unit runs, or is about to.
pub(crate) fn is_active(unit: &str) -> anyhow::Result<bool> {
    let Some(state) = properties(unit, &["ActiveState"]).and_then(|said| said.into_iter().next()) else {
        bail!("systemd does not say whether {unit} is active");
    };
    Ok(!matches!(state.as_str(), "inactive" | "failed" | ""))
}

/// The drop-in that keeps a unit from being started, after a reboot too.
fn drop_in(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}.d/90-virtfs-proxy-helper-move.conf")
}

/// The commands that keep a unit from being started: its start fails as long as the drop-in itself is there.
pub(crate) fn hold(unit: &str) -> Vec<Command> {
    let file = drop_in(unit);
    // The document's words are escaped, so that printf gets a newline of its own format.
    let format = format!("[Unit]\\\\nAssertPathExists=!{file}\\\\n");
    vec![
        Command::of(["mkdir", "-p", &format!("/etc/systemd/system/{unit}.d")]),
        Command { output: Some(file), ..Command::of(["printf", &format]) },
        Command::of(["systemctl", "daemon-reload"]),
    ]
}

/// The commands that let it be started again.
pub(crate) fn release(unit: &str) -> Vec<Command> {
    let folder = format!("/etc/systemd/system/{unit}.d");
    vec![
        Command::of(["rm", "-f", &drop_in(unit)]),
        Command::of(["rmdir", "--ignore-fail-on-non-empty", &folder]),
        Command::of(["systemctl", "daemon-reload"]),
    ]
}
