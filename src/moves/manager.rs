//! Who stops and starts a guest: what tells it from others, and the commands that it takes.

use std::fs;
use std::path::Path;

use super::document::Manager;
use super::tool;

/// Where libvirt's system daemon keeps domains, saved images and snapshots.
const LIBVIRT: &[&str] = &["/etc/libvirt/qemu/", "/var/lib/libvirt/qemu/", "/run/libvirt/qemu/"];
/// Where LXD and Incus keep what they write for QEMU.
const INCUS: &[&str] = &[
    "/run/lxd/",
    "/run/incus/",
    "/var/log/lxd/",
    "/var/log/incus/",
    "/var/lib/lxd/",
    "/var/lib/incus/",
    "/var/snap/lxd/",
];
/// Where Proxmox VE keeps the guests' files.
pub(super) const PROXMOX: &str = "/etc/pve/";

/// A guest's manager, and the name by which that knows the guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Managed {
    pub manager: Manager,
    pub name: String,
}

impl Managed {
    fn new(manager: Manager, name: impl Into<String>) -> Self {
        Self { manager, name: name.into() }
    }

    /// Whoever manages the guest of a share that stands in `file`, a file of the format `kind`; `guest` is the name that it
    /// gives the guest.
    pub(super) fn of_file(file: &Path, kind: &str, guest: Option<&str>) -> Self {
        let text = file.to_string_lossy();
        let stem = || file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let below = |folders: &[&str]| folders.iter().any(|folder| text.starts_with(folder));
        if kind == "libvirt" && below(LIBVIRT) {
            return Self::new(Manager::Libvirt, guest.map_or_else(stem, str::to_owned));
        }
        if below(INCUS) {
            return Self::new(Manager::Incus, guest.map_or_else(stem, str::to_owned));
        }
        if kind == "proxmox" && text.starts_with(PROXMOX) {
            return Self::new(Manager::Proxmox, stem());
        }
        if let Some(unit) = unit_of(file).filter(|_| kind == "systemd") {
            return Self::new(Manager::Systemd, unit);
        }
        Self::new(Manager::Commands, guest.unwrap_or(&text))
    }

    /// Whoever manages a running QEMU.
    pub(super) fn of_process(pid: i32, guest: Option<&str>) -> Self {
        let named = |file: String| fs::read_to_string(file).is_ok_and(|text| text.trim() == pid.to_string());
        if let Some(guest) = guest.filter(|guest| !guest.contains('/'))
            && named(format!("/run/libvirt/qemu/{guest}.pid"))
        {
            return Self::new(Manager::Libvirt, guest);
        }
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let path = cgroup.lines().next_back().and_then(|line| line.rsplit(':').next()).unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        if let Some(id) = last.strip_suffix(".scope").filter(|_| path.contains("/qemu.slice/")) {
            return Self::new(Manager::Proxmox, id);
        }
        // What a user's session runs is that user's, not a unit of the system's.
        if last.ends_with(".service") && path.starts_with("/system.slice/") {
            return Self::new(Manager::Systemd, last);
        }
        Self::new(Manager::Commands, guest.map_or_else(|| process_name(pid), str::to_owned))
    }
}

/// What a running QEMU without a name is called.
pub(super) fn process_name(pid: i32) -> String {
    format!("process {pid}")
}

/// The unit that a file, or a drop-in's file, belongs to.
pub(super) fn unit_of(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    if name.ends_with(".service") {
        return Some(name.to_owned());
    }
    let folder = file.parent()?.file_name()?.to_str()?;
    folder.strip_suffix(".d").filter(|unit| unit.ends_with(".service")).map(str::to_owned)
}

/// What systemd says of a unit's properties, in the order asked for; nothing where systemd does not answer.
pub(super) fn properties(unit: &str, names: &[&str]) -> Option<Vec<String>> {
    let property = format!("--property={}", names.join(","));
    let output = tool::run("systemctl", ["show", &property, "--", unit]).ok()?;
    if output.status != Some(0) {
        return None;
    }
    let text = output.text();
    let value = |name: &&str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    Some(names.iter().map(value).collect())
}

/// Whether a unit is started with the system.
pub(super) fn is_enabled(unit: &str) -> bool {
    tool::run("systemctl", ["is-enabled", "--", unit]).is_ok_and(|output| output.text().trim() == "enabled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_the_manager() {
        for (file, kind, guest, manager, name) in [
            ("/etc/libvirt/qemu/web.xml", "libvirt", Some("web"), Manager::Libvirt, "web"),
            ("/var/lib/libvirt/qemu/save/web.save", "libvirt", None, Manager::Libvirt, "web"),
            ("/root/web.xml", "libvirt", Some("web"), Manager::Commands, "web"),
            ("/etc/pve/qemu-server/100.conf", "proxmox", Some("web"), Manager::Proxmox, "100"),
            ("/etc/systemd/system/vm.service", "systemd", None, Manager::Systemd, "vm.service"),
            ("/etc/systemd/system/vm.service.d/10.conf", "systemd", None, Manager::Systemd, "vm.service"),
            ("/run/incus/web/qemu.conf", "readconfig", None, Manager::Incus, "qemu"),
            ("/usr/local/bin/start-vm", "shell", None, Manager::Commands, "/usr/local/bin/start-vm"),
            ("/usr/local/bin/start-vm", "shell", Some("vm"), Manager::Commands, "vm"),
        ] {
            let expected = Managed::new(manager, name);
            assert_eq!(Managed::of_file(Path::new(file), kind, guest), expected, "{file}");
        }
    }
}
