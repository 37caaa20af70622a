//! What each manager of guests is asked and told: a file for each, and a line of [`of`].
//!
//! A manager says by which commands a guest is stopped, started and kept from being started; the engine runs them.

mod commands;
mod incus;
mod libvirt;
mod proxmox;
mod systemd;

pub(super) use systemd::{hold as hold_unit, is_active, release as release_unit};

use super::agent;
use super::document::{Command, Guest, Manager};

/// What stops and starts guests.
pub(super) trait Guests: Sync {
    /// Whether the guest runs.
    fn is_running(&self, guest: &Guest) -> anyhow::Result<bool>;
    /// The commands that ask the guest to shut down; none where nobody said how.
    fn stop(&self, guest: &Guest) -> Vec<Command>;
    /// The commands that end the guest as a power failure does; none where there are none.
    fn force_stop(&self, guest: &Guest) -> Vec<Command>;
    /// The commands that start the guest; none where nobody said how.
    fn start(&self, guest: &Guest) -> Vec<Command>;
    /// The commands that keep the guest from being started with the host, or at all; none where nothing starts it by itself.
    fn hold(&self, guest: &Guest) -> Vec<Command>;
    /// What the guest would be restored from at its next start, as a document of its manager's; nothing where it would boot.
    fn saved(&self, _guest: &Guest) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(None)
    }
    /// The text of the guest's `/proc/self/mounts`, as its agent has it; an error where there is no agent that answers.
    fn mounts(&self, guest: &Guest) -> anyhow::Result<Vec<u8>> {
        agent::read_mounts(&mut agent::Socket::of(guest)?)
    }
    /// The commands that take the hold back.
    fn release(&self, guest: &Guest) -> Vec<Command>;
}

/// The manager of a guest.
pub(super) fn of(manager: Manager) -> &'static dyn Guests {
    match manager {
        Manager::Libvirt => &libvirt::Libvirt,
        Manager::Proxmox => &proxmox::Proxmox,
        Manager::Systemd => &systemd::Systemd,
        Manager::Incus => &incus::Incus,
        Manager::Commands => &commands::Commands,
    }
}

/// The command that the admin named, if any.
fn named(command: Option<&String>) -> Vec<Command> {
    command.map(|text| Command::shell(text)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(commands: &[Command]) -> Vec<String> {
        commands.iter().map(Command::line).collect()
    }

    #[test]
    fn each_manager_has_its_commands() {
        for (manager, name, stop, force, start) in [
            (Manager::Libvirt, "web", "virsh shutdown web", "virsh destroy web", "virsh start web"),
            (Manager::Proxmox, "100", "qm shutdown 100", "qm stop 100", "qm start 100"),
            (
                Manager::Systemd,
                "vm.service",
                "systemctl stop vm.service",
                "systemctl kill --signal=KILL vm.service",
                "systemctl start vm.service",
            ),
        ] {
            let guest = Guest { name: name.to_owned(), manager, ..Guest::default() };
            assert_eq!(lines(&of(manager).stop(&guest)), [stop]);
            assert_eq!(lines(&of(manager).force_stop(&guest)), [force]);
            assert_eq!(lines(&of(manager).start(&guest)), [start]);
        }
        let guest = Guest { stop: Some("a 'b' \\".into()), ..Guest::default() };
        assert_eq!(lines(&of(Manager::Commands).stop(&guest)), ["a 'b' \\"]);
        assert_eq!(lines(&of(Manager::Commands).start(&guest)), [""; 0]);
        assert!(of(Manager::Incus).is_running(&guest).is_err());
    }
}
