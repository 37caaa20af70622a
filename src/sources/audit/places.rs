//! Where an audit of a whole machine looks.

use std::path::{Path, PathBuf};

use super::host::Host;

/// libvirt's, Proxmox's, LXD's and Incus's places, systemd's units, and where launchers and helpers are started from.
/// What does not exist is passed over.
pub const PLACES: &[&str] = &[
    // libvirt: definitions, running guests, saved states' metadata, hooks.
    "/etc/libvirt",
    "/run/libvirt/qemu",
    "/var/run/libvirt/qemu",
    "/var/lib/libvirt/qemu",
    // Proxmox.
    "/etc/pve",
    // LXD and Incus.
    "/var/log/lxd",
    "/var/snap/lxd/common/lxd/logs",
    "/run/incus",
    "/var/log/incus",
    // systemd and quadlet.
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/etc/containers/systemd",
    "/usr/share/containers/systemd",
    // Scripts and settings that are run at boot, by hand or by the clock.
    "/etc/init.d",
    "/etc/rc.d",
    "/etc/rc.local",
    "/etc/local.d",
    "/etc/conf.d",
    "/etc/default",
    "/etc/sysconfig",
    "/etc/crontab",
    "/etc/cron.d",
    "/var/spool/cron",
    "/etc/qemu",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/local/etc",
    "/etc/kubernetes/manifests",
];

/// Places below each user's home.
pub const HOME_PLACES: &[&str] =
    &[".config/libvirt", ".config/systemd/user", ".config/containers/systemd", ".cache/libvirt", "bin"];

/// Every place on `host` that an audit of all of it looks at.
pub fn usual(host: &Host) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = PLACES.iter().map(PathBuf::from).collect();
    let homes = host.list(Path::new("/home")).ok().flatten().unwrap_or_default();
    let homes = homes.into_iter().map(|(path, _)| path).chain([PathBuf::from("/root")]);
    for home in homes {
        places.extend(HOME_PLACES.iter().map(|place| home.join(place)));
    }
    places
}
