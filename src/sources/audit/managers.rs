//! LXD's and Incus's own configuration: the true source of a share whose QEMU configuration they generate.

use std::path::{Path, PathBuf};

use crate::yaml::Value;

use super::host::Host;
use crate::report::finding::{self, Finding};
use crate::share::{ExportFrom, ExportPath, Place, Share};
use crate::sources::managed::{Managed, Manager};
use crate::sources::path_of;
use crate::text::escape_path;

/// Where the managers keep what they have.
const LXD: &[&str] = &["/var/snap/lxd/common/lxd", "/var/lib/lxd"];
const INCUS: &[&str] = &["/var/lib/incus"];

/// Looks up the source of a manager's share, and whether its ids are mapped.
pub fn look_up(host: &Host, share: &mut Share) -> Vec<Finding> {
    let Some(managed) = Managed::of(&share.fsdev, share.place.file.as_deref()) else { return Vec::new() };
    let bases = match managed.manager {
        Manager::Lxd => LXD,
        Manager::Incus => INCUS,
    };
    let Some(instance) = &managed.instance else { return Vec::new() };
    let project = managed.project.clone().filter(|project| project != b"default");
    let mut folder = project.clone().map(|project| [&project[..], b"_"].concat()).unwrap_or_default();
    folder.extend(instance);
    share.place.guest.get_or_insert_with(|| instance.clone());
    for base in bases {
        let file = Path::new(base).join("virtual-machines").join(path_of(&folder)).join("backup.yaml");
        let Some(text) = host.read_small(&file) else { continue };
        let Ok(backup) = crate::yaml::from_slice::<Value>(&text) else { continue };
        let Some(instance) = backup.get("instance").or_else(|| backup.get("container")) else { continue };
        return found(Path::new(base), &file, instance, &managed, project.as_deref(), share);
    }
    Vec::new()
}

fn found(
    base: &Path,
    file: &Path,
    instance: &Value,
    managed: &Managed,
    project: Option<&[u8]>,
    share: &mut Share,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let place = Place { file: Some(file.to_owned()), ..Place::default() };
    let within = |table: &str, key: &str| instance.get(table)?.get(key).cloned();
    let named = |table: &str| {
        let devices = instance.get(table)?.as_mapping()?;
        let is_it = |key: &Value| key.as_str().is_some_and(|name| managed.is_device(name.as_bytes()));
        devices.iter().find(|(key, _)| is_it(key)).map(|(_, device)| device.clone())
    };
    let device = named("expanded_devices").or_else(|| named("devices"));
    if let Some(path) = device.as_ref().and_then(|device| source(base, device, project)) {
        findings.push(Finding {
            kind: &finding::GENERATED_FILE,
            place: share.place.clone(),
            message: format!(
                "the true source of the device is {}, says {}",
                escape_path(&path),
                escape_path(file)
            ),
            remedy: Some(managed.remedy()),
            subject: None,
        });
        share.export = ExportPath::Known { path, from: ExportFrom::Manager(place.clone()) };
    }
    let map = within("expanded_config", "raw.idmap").or_else(|| within("config", "raw.idmap"));
    if map.is_some() {
        findings.push(Finding {
            kind: &finding::ID_MAP,
            place: share.place.clone(),
            message: format!("raw.idmap of the instance maps the ids of the share {}", share.title()),
            remedy: None,
            subject: None,
        });
    }
    findings
}

/// The source of a disk device: a path of the host's, or a custom volume of a pool.
fn source(base: &Path, device: &Value, project: Option<&[u8]>) -> Option<PathBuf> {
    let source = device.get("source")?.as_str()?;
    let pool = device.get("pool").and_then(Value::as_str);
    match pool {
        None => source.starts_with('/').then(|| source.into()),
        Some(pool) => {
            let project = String::from_utf8_lossy(project.unwrap_or(b"default")).into_owned();
            Some(base.join("storage-pools").join(pool).join("custom").join(format!("{project}_{source}")))
        }
    }
}
