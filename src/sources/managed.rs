//! QEMU configurations that LXD and Incus write by themselves.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::text::escape;

/// The longest id that QEMU takes, in bytes.
const LONGEST_ID: usize = 63;

/// The longest name of a 9p mount tag, in bytes, which the earlier versions use as the id.
const LONGEST_TAG: usize = 31;

/// Who writes a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    /// LXD, from a package or a snap.
    Lxd,
    /// Incus.
    Incus,
}

/// A share of a manager's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Managed {
    /// Whose.
    pub manager: Manager,
    /// The instance's project, where it isn't the default one.
    pub project: Option<Vec<u8>>,
    /// The instance; `None` where the file's name doesn't say it.
    pub instance: Option<Vec<u8>>,
    /// The instance's device of type disk. Where its name was too long, the first part of a hash stands in its place:
    /// [`Managed::is_device`] tells.
    pub device: Vec<u8>,
    /// The name as the fsdev's id holds it, and the most bytes that it may have there.
    encoded: (Vec<u8>, usize),
}

impl Manager {
    /// As people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lxd => "LXD",
            Self::Incus => "Incus",
        }
    }

    /// What it calls its fsdevs: the prefix, the device's name and the suffix; and the most bytes of all of it.
    fn forms(self) -> [(&'static [u8], &'static [u8], usize); 2] {
        match self {
            Self::Lxd => [(b"dev-lxd_", b"-9p", LONGEST_ID), (b"lxd_", b"", LONGEST_TAG)],
            Self::Incus => [(b"dev-incus_", b"-9p", LONGEST_ID), (b"incus_", b"", LONGEST_TAG)],
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
    pub(crate) fn of(fsdev: &[u8], file: Option<&Path>) -> Option<Self> {
        let named = [Manager::Lxd, Manager::Incus].into_iter().find_map(|manager| {
            manager.forms().into_iter().find_map(|(prefix, suffix, longest)| {
                let device = fsdev.strip_prefix(prefix)?.strip_suffix(suffix)?;
                Some((manager, device.to_vec(), longest - prefix.len() - suffix.len()))
            })
        });
        let file = file.filter(|file| file.file_name() == Some(OsStr::new("qemu.conf")));
        let folder = file.and_then(Path::parent).and_then(Path::file_name).map(OsStr::as_bytes);
        let placed = file.and_then(manager_of_path).map(|manager| (manager, fsdev.to_vec(), LONGEST_ID));
        let (manager, encoded, longest) = named.or(placed)?;
        let (project, instance) = folder.map_or((None, None), |folder| {
            let (project, instance) = instance_of(folder);
            (project, Some(instance))
        });
        let device = decode(&encoded);
        Some(Self { manager, project, instance, device, encoded: (encoded, longest) })
    }

    /// The manager's device that a file of a running instance belongs to: `DEVICES/[PROJECT_]INSTANCE/DEVICE.sock`, its pid file
    /// `DEVICE.pid`, and what the helper serves, `disk.DEVICE.PATH`.
    pub(crate) fn of_path(file: &Path) -> Option<Self> {
        let manager = manager_of_path(file)?;
        let folder =
            file.parent().filter(|folder| folder.parent().is_some_and(|all| all.ends_with("devices")))?;
        let name = file.file_name()?.as_bytes();
        let own = [&b".sock"[..], b".pid"].iter().find_map(|end| name.strip_suffix(*end));
        let encoded = match own {
            Some(name) if !name.starts_with(b"virtio-fs.") => name,
            Some(_) => return None,
            None => name.strip_prefix(b"disk.")?.split(|byte| *byte == b'.').next()?,
        };
        let (project, instance) = instance_of(folder.file_name()?.as_bytes());
        // Names of files are longer than those of QEMU's ids.
        let (device, encoded) = (decode(encoded), (encoded.to_vec(), usize::MAX));
        Some(Self { manager, project, instance: Some(instance), device, encoded })
    }

    /// Whether two of a manager's files are of the same device.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.manager, &self.project, &self.instance) == (other.manager, &other.project, &other.instance)
            && self.instance.is_some()
            && (self.device == other.device || self.is_device(&other.device) || other.is_device(&self.device))
    }

    /// Whether the instance's device `name` is this one: the manager writes its name with `-` doubled and `/` as `-`, and
    /// a name that is too long as the first part of a hash.
    pub(crate) fn is_device(&self, name: &[u8]) -> bool {
        let (own, longest) = &self.encoded;
        let encoded = encode(name);
        let hashed = || {
            let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&encoded)).into_bytes();
            hash.get(..(*longest).min(hash.len())).unwrap_or_default().to_vec()
        };
        // Earlier versions wrote every name as it is.
        *own == encoded || own == name || encoded.len() > *longest && *own == hashed()
    }

    /// Who writes the file, for which instance and device; in one sentence without a full stop.
    pub(crate) fn message(&self) -> String {
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
    pub(crate) fn remedy(&self) -> String {
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

/// A device's name as the managers write it in ids.
fn encode(name: &[u8]) -> Vec<u8> {
    name.iter()
        .flat_map(|byte| match byte {
            b'/' => b"-".to_vec(),
            b'-' => b"--".to_vec(),
            other => vec![*other],
        })
        .collect()
}

/// The way back from [`encode`].
fn decode(encoded: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut rest = encoded;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail.split_first()) {
            (b'-', Some((b'-', tail))) => {
                rest = tail;
                name.push(b'-');
            }
            (b'-', _) => name.push(b'/'),
            _ => name.push(*byte),
        }
    }
    name
}

/// The project, where it is not the default one, and the instance that a folder is named after. Instance names have no underscore.
fn instance_of(folder: &[u8]) -> (Option<Vec<u8>>, Vec<u8>) {
    let at = folder.iter().rposition(|&byte| byte == b'_');
    let project = at.and_then(|at| folder.get(..at)).map(<[u8]>::to_vec);
    (project, folder.get(at.map_or(0, |at| at + 1)..).unwrap_or_default().to_vec())
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
            ("dev-lxd_pkg--cache-9p", Some("/var/log/lxd/vm1/qemu.conf"), Some("LXD - vm1 pkg-cache")),
            ("dev-lxd_a-b-9p", None, Some("LXD - - a/b")),
            ("dev-incus_d-9p", Some("/run/incus/p_vm1/qemu.conf"), Some("Incus p vm1 d")),
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

    #[test]
    fn a_long_device_is_known_by_its_hash() {
        let long = "a-device-with-a-name-that-no-identifier-of-qemu-takes-as-it-is";
        let encoded = encode(long.as_bytes());
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&encoded));
        for (fsdev, name, expected) in [
            (format!("dev-lxd_{hash}-9p"), long, true),
            (format!("dev-incus_{hash}-9p"), long, true),
            (format!("lxd_{}", &hash[..27]), long, true),
            (format!("incus_{}", &hash[..25]), long, true),
            (format!("dev-lxd_{hash}-9p"), "other", false),
            ("dev-lxd_pkg--cache-9p".to_owned(), "pkg-cache", true),
            ("dev-lxd_pkg--cache-9p".to_owned(), "pkg/cache", false),
            ("lxd_my-disk".to_owned(), "my-disk", true),
        ] {
            let managed = Managed::of(fsdev.as_bytes(), None).unwrap();
            assert_eq!(managed.is_device(name.as_bytes()), expected, "{fsdev} {name}");
        }
    }
}
