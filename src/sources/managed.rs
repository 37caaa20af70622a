//! QEMU configurations that LXD and Incus write by themselves.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::text::escape;

/// Who writes a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// LXD, from a package or a snap.
    Lxd,
    /// Incus.
    Incus,
}

/// A share of a manager's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// Whose.
    pub manager: Manager,
    /// The instance's project, where it isn't the default one.
    pub project: Option<Vec<u8>>,
    /// The instance; `None` where the file's name doesn't say it.
    pub instance: Option<Vec<u8>>,
    /// The instance's device of type disk.
    pub device: Vec<u8>,
}

impl Manager {
    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lxd => "LXD",
            Self::Incus => "Incus",
        }
    }

    /// What it calls its fsdevs: this, and the device's name.
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Lxd => b"lxd_",
            Self::Incus => b"incus_",
        }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Lxd => "lxc",
            Self::Incus => "incus",
        }
    }
}

impl Managed {
    /// The manager's share that an fsdev is, by its id and by where its file is: LXD's
    /// `/var/log/lxd/[PROJECT_]INSTANCE/qemu.conf` (a snap's below `/var/snap/lxd/common/lxd/logs`), Incus's
    /// `/run/incus/[PROJECT_]INSTANCE/qemu.conf`.
    pub fn of(fsdev: &[u8], file: Option<&Path>) -> Option<Self> {
        let named = [Manager::Lxd, Manager::Incus].into_iter().find_map(|manager| {
            let device = fsdev.strip_prefix(manager.prefix())?;
            Some((manager, device.to_vec()))
        });
        let file = file.filter(|file| file.file_name() == Some(OsStr::new("qemu.conf")));
        let folder = file.and_then(Path::parent).and_then(Path::file_name).map(OsStr::as_bytes);
        let placed = file.and_then(manager_of_path).map(|manager| (manager, fsdev.to_vec()));
        let (manager, device) = named.or(placed)?;
        // Instance names have no underscore.
        let (project, instance) = match folder {
            Some(folder) => match folder.iter().rposition(|&byte| byte == b'_') {
                Some(at) => (folder.get(..at).map(<[u8]>::to_vec), folder.get(at + 1..).map(<[u8]>::to_vec)),
                None => (None, Some(folder.to_vec())),
            },
            None => (None, None),
        };
        Some(Self { manager, project, instance, device })
    }

    /// Who writes the file, for which instance and device; in one sentence without a full stop.
    pub fn message(&self) -> String {
        let project = self
            .project
            .as_ref()
            .map(|project| format!(" of the project {}", escape(project)))
            .unwrap_or_default();
        format!(
            "{} writes this file itself for the instance {}{project}, device {}",
            self.manager.name(),
            self.instance_name(),
            escape(&self.device)
        )
    }

    /// What to do instead of an edit.
    pub fn remedy(&self) -> String {
        let way_out = match self.manager {
            Manager::Lxd => "upgrade LXD (6.7 and later use virtiofs alone)",
            Manager::Incus => {
                "upgrade Incus (6.9, 6.0.4 and later don't use the proxy), or move the device to virtiofs \
                 (io.bus=virtiofs)"
            }
        };
        let project = self.project.as_ref().map(|project| format!("--project {} ", escape(project)));
        format!(
            "{way_out}; `{} {}config device show {}` tells its source",
            self.manager.command(),
            project.unwrap_or_default(),
            self.instance_name(),
        )
    }

    fn instance_name(&self) -> String {
        self.instance.as_ref().map_or_else(|| "INSTANCE".to_owned(), |instance| escape(instance).into_owned())
    }
}

fn manager_of_path(file: &Path) -> Option<Manager> {
    let is_below = |folders: &[&str]| folders.iter().any(|folder| file.starts_with(folder));
    if is_below(&["/var/log/lxd", "/var/snap/lxd", "/run/lxd", "/var/lib/lxd"]) {
        return Some(Manager::Lxd);
    }
    is_below(&["/run/incus", "/var/run/incus", "/var/log/incus", "/var/lib/incus"]).then_some(Manager::Incus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_managers_share_is_known_by_its_name_or_its_place() {
        for (fsdev, file, expected) in [
            ("lxd_data", Some("/var/log/lxd/vm1/qemu.conf"), Some("LXD - vm1 data")),
            ("lxd_data", Some("/var/snap/lxd/common/lxd/logs/web_vm-1/qemu.conf"), Some("LXD web vm-1 data")),
            ("incus_my_disk", Some("/run/incus/vm1/qemu.conf"), Some("Incus - vm1 my_disk")),
            ("incus_d", None, Some("Incus - - d")),
            ("fs0", Some("/run/incus/vm1/qemu.conf"), Some("Incus - vm1 fs0")),
            ("fs0", Some("/etc/qemu.conf"), None),
            ("fs0", None, None),
        ] {
            let found = Managed::of(fsdev.as_bytes(), file.map(Path::new)).map(|managed| {
                let text =
                    |bytes: Option<Vec<u8>>| bytes.map_or("-".into(), |it| String::from_utf8(it).unwrap());
                format!(
                    "{} {} {} {}",
                    managed.manager.name(),
                    text(managed.project),
                    text(managed.instance),
                    text(Some(managed.device))
                )
            });
            assert_eq!(found.as_deref(), expected, "{fsdev} {file:?}");
        }
    }
}
