//! LXD's and Incus's own configuration: the true source of a share whose QEMU configuration they generate.

use std::path::{Path, PathBuf};

use crate::yaml::Value;

use super::host::Host;
use crate::report::finding::{self, Finding};
use crate::share::helper::Helper;
use crate::share::{ExportFrom, ExportPath, Place, Share, Transport};
use crate::sources::format::path_of;
use crate::sources::managed::{Managed, Manager};
use crate::text::{escape, escape_path};

/// Where the managers keep what they have.
const LXD: &[&str] = &["/var/snap/lxd/common/lxd", "/var/lib/lxd"];
const INCUS: &[&str] = &["/var/lib/incus"];

/// Looks up the source of a manager's share, and whether its ids are mapped.
pub(super) fn look_up(host: &Host, share: &mut Share) -> Vec<Finding> {
    let Some(managed) = managed(share) else { return Vec::new() };
    let Some(instance) = managed.instance.clone() else { return Vec::new() };
    share.place.guest.get_or_insert(instance);
    match backup(host, &managed) {
        Some((file, instance, base)) => found(base, &file, &instance, &managed, share),
        None => Vec::new(),
    }
}

/// The file in which a manager keeps what it knows of a device's instance, what that says of the instance, and the folder of all
/// that the manager has.
fn backup(host: &Host, managed: &Managed) -> Option<(PathBuf, Value, &'static Path)> {
    let bases = match managed.manager {
        Manager::Lxd => LXD,
        Manager::Incus => INCUS,
    };
    let mut folder = project(managed).map(|project| [project, b"_"].concat()).unwrap_or_default();
    folder.extend(managed.instance.as_ref()?);
    bases.iter().find_map(|base| {
        let file = Path::new(base).join("virtual-machines").join(path_of(&folder)).join("backup.yaml");
        let backup = crate::yaml::from_slice::<Value>(&host.read_small(&file)?).ok()?;
        let instance = backup.get("instance").or_else(|| backup.get("container"))?;
        Some((file, instance.clone(), Path::new(*base)))
    })
}

/// The project, where it is not the default one.
fn project(managed: &Managed) -> Option<&[u8]> {
    managed.project.as_deref().filter(|project| *project != b"default")
}

/// What an instance's configuration says of a device.
fn device(instance: &Value, managed: &Managed) -> Option<Value> {
    let named = |table: &str| {
        let devices = instance.get(table)?.as_mapping()?;
        let is_it = |key: &Value| key.as_str().is_some_and(|name| managed.is_device(name.as_bytes()));
        devices.iter().find(|(key, _)| is_it(key)).map(|(_, device)| device.clone())
    };
    named("expanded_devices").or_else(|| named("devices"))
}

/// The manager's device that a share is: by its id and its file, and by its socket.
fn managed(share: &Share) -> Option<Managed> {
    let own = Managed::of(&share.fsdev, share.place.file.as_deref());
    let by_socket = || match &share.transport {
        Transport::Socket(socket) => Managed::of_path(socket),
        _ => None,
    };
    match own {
        Some(own) if own.instance.is_some() => Some(own),
        own => by_socket().or(own),
    }
}

/// Whether a manager started a helper.
pub(super) fn has_started(helper: &Helper) -> bool {
    let paths = [helper.export.as_deref(), helper.place.file.as_deref()];
    paths.into_iter().flatten().any(|path| Managed::of_path(path).is_some())
}

/// Tells the shares whose export nothing else says what the manager's own helper of the same device serves.
pub(super) fn join(share: &mut Share, helpers: &[Helper]) {
    if !matches!(share.export, ExportPath::Unknown) {
        return;
    }
    let Some(managed) = managed(share) else { return };
    let of_helper = |helper: &Helper| {
        let paths = [helper.export.as_deref(), helper.place.file.as_deref()];
        paths.into_iter().flatten().filter_map(Managed::of_path).any(|other| other.is_same(&managed))
    };
    // One that runs counts before one of which only a file tells.
    let found = helpers.iter().filter(|helper| of_helper(helper)).max_by_key(|helper| helper.pid.is_some());
    if let Some((helper, path)) = found.and_then(|helper| Some((helper, helper.export.clone()?))) {
        let from = helper.pid.map_or_else(|| ExportFrom::Helper(helper.place.clone()), ExportFrom::Process);
        share.export = ExportPath::Known { path, from };
    }
}

/// What a helper that a manager started serves: the source of its device.
pub(super) fn explain(host: &Host, helper: &Helper) -> Option<Finding> {
    let managed = helper.export.as_deref().and_then(Managed::of_path)?;
    let (file, instance, base) = backup(host, &managed)?;
    let path = source(base, &device(&instance, &managed)?, project(&managed))?;
    Some(Finding {
        kind: &finding::GENERATED_FILE,
        place: helper.place.clone(),
        message: format!(
            "{} started this helper for the instance {}, device {}: the true source is {}, says {}",
            managed.manager.name(),
            escape(managed.instance.as_deref().unwrap_or_default()),
            escape(&managed.device),
            escape_path(&path),
            escape_path(&file)
        ),
        remedy: Some(managed.remedy()),
        subject: None,
    })
}

fn found(base: &Path, file: &Path, instance: &Value, managed: &Managed, share: &mut Share) -> Vec<Finding> {
    let mut findings = Vec::new();
    let place = Place { file: Some(file.to_owned()), ..Place::default() };
    let within = |table: &str, key: &str| instance.get(table)?.get(key).cloned();
    if let Some(path) = device(instance, managed).and_then(|device| source(base, &device, project(managed))) {
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
