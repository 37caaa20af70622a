//! What each manager of guests is asked and told: a file for each, and a line of [`of`].
//!
//! A manager says by which commands a guest is stopped, started and kept from being started; the engine runs them.

mod commands;
mod incus;
mod interface;
mod libvirt;
mod proxmox;
mod systemd;

pub(super) use systemd::{hold as hold_unit, is_active, release as release_unit};

use super::document::Manager;
use interface::Guests;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::document::{Command, Guest};

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
