//! A service's settings → what its processes see of the host's files.
//!
//! Source: systemd.exec(5), as of systemd 257, "Paths" and "Sandboxing"; systemd.service(5) for `+` in front of a command. What
//! that leaves open was asked of systemd itself: tests/golden/systemd-sandbox.tsv.

mod syscalls;

use std::path::{Path, PathBuf};

use super::setting::Setting;
use crate::share::Place;
use crate::share::view::{Access, By, Effect, Layer, Remark, View};
use crate::sources::format::path_of;
use crate::text::escape;

/// What a setting with a fixed set of values does, at which paths.
struct Preset {
    key: &'static str,
    values: &'static [&'static str],
    effect: Effect,
    paths: &'static [&'static str],
}

/// How systemd spells booleans, in letters of any case. Other values are of one case.
const YES: &[&str] = &["yes", "y", "true", "t", "on", "1"];
const NO: &[&str] = &["no", "n", "false", "f", "off", "0"];
const READ_ONLY: Effect = Effect::Access(Access::ReadOnly);
const WRITABLE: Effect = Effect::Access(Access::Writable);

/// Settings that choose among sets of paths.
const PRESETS: &[Preset] = &[
    Preset { key: "ProtectSystem", values: YES, effect: READ_ONLY, paths: &["/usr", "/boot", "/efi"] },
    Preset {
        key: "ProtectSystem",
        values: &["full"],
        effect: READ_ONLY,
        paths: &["/usr", "/boot", "/efi", "/etc"],
    },
    Preset { key: "ProtectSystem", values: &["strict"], effect: READ_ONLY, paths: &["/"] },
    // The homes are left to ProtectHome=.
    Preset {
        key: "ProtectSystem",
        values: &["strict"],
        effect: WRITABLE,
        paths: &["/dev", "/proc", "/sys", "/home", "/root", "/run/user"],
    },
    Preset { key: "ProtectHome", values: YES, effect: Effect::Hidden, paths: HOMES },
    Preset { key: "ProtectHome", values: &["read-only"], effect: READ_ONLY, paths: HOMES },
    Preset { key: "ProtectHome", values: &["tmpfs"], effect: Effect::Empty, paths: HOMES },
    Preset { key: "ProtectHome", values: &["tmpfs"], effect: READ_ONLY, paths: HOMES },
    Preset { key: "PrivateTmp", values: YES, effect: Effect::Empty, paths: &["/tmp", "/var/tmp"] },
    Preset {
        key: "PrivateTmp",
        values: &["disconnected"],
        effect: Effect::Empty,
        paths: &["/tmp", "/var/tmp"],
    },
    Preset { key: "ProtectKernelTunables", values: YES, effect: READ_ONLY, paths: &["/proc/sys", "/sys"] },
    Preset { key: "ProtectControlGroups", values: YES, effect: READ_ONLY, paths: &["/sys/fs/cgroup"] },
];

const HOMES: &[&str] = &["/home", "/root", "/run/user"];

/// What `DynamicUser=yes` implies, where the unit says nothing stricter.
const DYNAMIC: &[(&str, &str)] =
    &[("ProtectSystem", "strict"), ("ProtectHome", "read-only"), ("PrivateTmp", "yes")];

/// Settings that hold lists of paths, under their names of today and of old.
const LISTS: &[(&str, Effect)] = &[
    ("ReadWritePaths", WRITABLE),
    ("ReadWriteDirectories", WRITABLE),
    ("ReadOnlyPaths", READ_ONLY),
    ("ReadOnlyDirectories", READ_ONLY),
    ("InaccessiblePaths", Effect::Hidden),
    ("InaccessibleDirectories", Effect::Hidden),
    ("TemporaryFileSystem", Effect::Empty),
    ("BindPaths", Effect::Bind(None, Access::Writable)),
    ("BindReadOnlyPaths", Effect::Bind(None, Access::ReadOnly)),
    ("MountImages", Effect::Empty),
];

/// Settings for which systemd makes writable folders, and below what.
const FOLDERS: &[(&str, &str)] = &[
    ("RuntimeDirectory", "/run"),
    ("StateDirectory", "/var/lib"),
    ("CacheDirectory", "/var/cache"),
    ("LogsDirectory", "/var/log"),
    ("ConfigurationDirectory", "/etc"),
];

/// Settings that may forbid the use of an export, which files alone do not tell.
const REMARKS: &[(&str, &str, &str)] = &[
    (
        "AppArmorProfile",
        "confines QEMU by an AppArmor profile",
        "let the profile allow reading and writing the export: `EXPORT/** rwkl,`",
    ),
    (
        "SELinuxContext",
        "runs QEMU in an SELinux context of its own",
        "label the export with a type that this context may manage",
    ),
    (
        "RestrictFileSystems",
        "restricts the file systems that QEMU can open files on",
        "see that the export's file system is allowed",
    ),
    ("RootImage", "runs QEMU in an image's files", "nothing else, once the export is bound into it"),
    ("RootImagePolicy", "", ""),
];

/// Settings of one word, and the words beside booleans that they take. A value that is none of these changes nothing.
const CHOICES: &[(&str, &[&str])] = &[
    ("ProtectSystem", &["full", "strict"]),
    ("ProtectHome", &["read-only", "tmpfs"]),
    ("PrivateTmp", &["disconnected"]),
    ("PrivateDevices", &[]),
    ("DynamicUser", &[]),
    ("MountAPIVFS", &[]),
];

/// What the host has below /dev that `PrivateDevices=` leaves there.
const KEPT_IN_DEV: &[&str] = &["/dev/shm", "/dev/mqueue", "/dev/hugepages", "/dev/pts"];

/// What the processes of a service with these settings see.
pub(crate) fn view(by: By, settings: &[Setting], place: Place) -> View {
    let in_force = in_force(settings);
    let last = |key: &str| in_force.iter().rfind(|setting| setting.key == key.as_bytes());
    let root = last("RootDirectory").and_then(|setting| Some((plain(setting.words.first()?)?, *setting)));
    let root = root.filter(|(path, _)| path != &PathBuf::from("/"));
    let image = last("RootImage").filter(|_| root.is_none());
    let mut view = View::new(by, root.is_none() && image.is_none(), place);
    let dynamic = last("DynamicUser").filter(|setting| says(setting, YES));
    for preset in PRESETS {
        let own = last(preset.key);
        let implied = DYNAMIC.iter().find(|(key, _)| *key == preset.key).zip(dynamic);
        // DynamicUser= makes it stricter, never less strict.
        let own_counts = own.filter(|setting| !says(setting, NO));
        let own_counts = own_counts.filter(|_| preset.key != "ProtectSystem" || implied.is_none());
        match (own_counts, implied) {
            (Some(setting), _) if says(setting, preset.values) => push_all(&mut view, preset, setting),
            (None, Some(((_, value), setting))) if preset.values.contains(value) => {
                push_all(&mut view, preset, setting);
            }
            _ => {}
        }
    }
    if let Some(setting) = last("PrivateDevices").filter(|setting| says(setting, YES)) {
        view.layers.push(layer("/dev".into(), Effect::Empty, setting));
        for path in KEPT_IN_DEV.iter().map(PathBuf::from) {
            let effect = Effect::Bind(Some(path.clone()), Access::Writable);
            view.layers.push(layer(path, effect, setting));
        }
    }
    let of_host = match (&root, image) {
        (Some((root, _)), _) => OfHost::Below(root),
        (None, Some(_)) => OfHost::Nowhere,
        (None, None) => OfHost::Same,
    };
    for setting in &in_force {
        list(&mut view, setting, of_host);
    }
    // What is bound to a path counts for more than an empty file system at that path.
    view.layers.sort_by_key(|layer| matches!(layer.effect, Effect::Bind(..)));
    if let Some((path, setting)) = &root {
        let effect = Effect::Bind(Some(path.clone()), Access::Writable);
        view.place = setting.place.clone();
        view.layers.insert(0, layer("/".into(), effect, setting));
    }
    if let Some(image) = image {
        view.layers.insert(0, layer("/".into(), Effect::Empty, image));
    }
    view.user =
        last("User").and_then(|setting| Some(String::from_utf8_lossy(setting.words.first()?).into_owned()));
    remarks(&mut view, &in_force, dynamic);
    view
}

/// Where the unit has the host's paths that settings name without `+`.
#[derive(Clone, Copy)]
enum OfHost<'a> {
    /// At the same paths.
    Same,
    /// This directory is its root, and others are not there.
    Below(&'a Path),
    /// Not at all.
    Nowhere,
}

/// The settings that count: an empty list takes back those of its name before it, and systemd passes over values that it does
/// not know.
fn in_force(settings: &[Setting]) -> Vec<&Setting> {
    let mut all: Vec<&Setting> = Vec::new();
    for setting in settings {
        let choice = CHOICES.iter().find(|(key, _)| key.as_bytes() == setting.key);
        let is_known =
            choice.is_none_or(|(_, words)| says(setting, YES) || says(setting, NO) || says(setting, words));
        if !is_known {
            continue;
        }
        if setting.words.is_empty() {
            all.retain(|other| list_of(&other.key) != list_of(&setting.key));
        } else {
            all.push(setting);
        }
    }
    all
}

/// The list that settings of several names share.
fn list_of(key: &[u8]) -> &[u8] {
    match key {
        b"BindReadOnlyPaths" => b"BindPaths",
        b"ReadWriteDirectories" => b"ReadWritePaths",
        b"ReadOnlyDirectories" => b"ReadOnlyPaths",
        b"InaccessibleDirectories" => b"InaccessiblePaths",
        other => other,
    }
}

fn says(setting: &Setting, values: &[&str]) -> bool {
    let value = setting.words.join(&b' ');
    let is = |one: &&str| {
        let one = one.as_bytes();
        one == value
            || (YES.iter().chain(NO).any(|it| it.as_bytes() == one) && one.eq_ignore_ascii_case(&value))
    };
    values.iter().any(is)
}

fn layer(target: PathBuf, effect: Effect, setting: &Setting) -> Layer {
    let said = [setting.key.as_slice(), b"=", &setting.words.join(&b' ')].concat();
    Layer { target, effect, place: setting.place.clone(), said: escape(&said).into_owned() }
}

fn push_all(view: &mut View, preset: &Preset, setting: &Setting) {
    for path in preset.paths {
        view.layers.push(layer(path.into(), preset.effect.clone(), setting));
    }
}

/// A setting that holds a list of paths, or names of folders.
fn list(view: &mut View, setting: &Setting, of_host: OfHost) {
    if let Some((_, effect)) = LISTS.iter().find(|(key, _)| key.as_bytes() == setting.key) {
        for word in &setting.words {
            let found = match effect {
                Effect::Bind(_, access) => bound(word, *access),
                Effect::Empty if setting.key == b"MountImages" => {
                    split(word).get(1).and_then(|part| plain(part)).map(|target| (target, Effect::Empty))
                }
                Effect::Empty => {
                    let parts = split(word);
                    let target = parts.first().and_then(|part| plain(part));
                    let is_locked =
                        parts.iter().skip(1).any(|part| part.split(|b| *b == b',').any(|it| it == b"ro"));
                    let locked = target.clone().filter(|_| is_locked);
                    view.layers.extend(locked.map(|target| layer(target, READ_ONLY, setting)));
                    target.map(|target| (target, Effect::Empty))
                }
                other => marked(word, of_host).map(|target| (target, other.clone())),
            };
            view.layers.extend(found.map(|(target, effect)| layer(target, effect, setting)));
        }
    }
    if let Some((_, parent)) = FOLDERS.iter().find(|(key, _)| key.as_bytes() == setting.key) {
        for word in &setting.words {
            let name = split(word).into_iter().next().unwrap_or_default();
            view.layers.push(layer(PathBuf::from(parent).join(path_of(&name)), WRITABLE, setting));
        }
    }
}

/// `[-]SOURCE[:TARGET[:OPTIONS]]`.
fn bound(word: &[u8], access: Access) -> Option<(PathBuf, Effect)> {
    let parts = split(word.strip_prefix(b"-").unwrap_or(word));
    let source = plain(parts.first()?)?;
    let target = match parts.get(1).filter(|part| !part.is_empty()) {
        Some(target) => plain(target)?,
        None => source.clone(),
    };
    Some((target, Effect::Bind(Some(source), access)))
}

/// `[-][+]PATH`, as the unit has it: it may be missing (`-`), and starts at the unit's root (`+`) or at the host's.
fn marked(word: &[u8], of_host: OfHost) -> Option<PathBuf> {
    let word = word.strip_prefix(b"-").unwrap_or(word);
    if let Some(own) = word.strip_prefix(b"+") {
        return plain(own);
    }
    let path = plain(word)?;
    match of_host {
        OfHost::Same => Some(path),
        OfHost::Below(root) => Some(Path::new("/").join(path.strip_prefix(root).ok()?)),
        OfHost::Nowhere => None,
    }
}

fn remarks(view: &mut View, settings: &[&Setting], dynamic: Option<&&Setting>) {
    if let Some(setting) = dynamic {
        view.user = None;
        view.remarks.push(Remark {
            place: setting.place.clone(),
            message: "DynamicUser= gives QEMU a user that only lives while it runs: files can't belong to it for good".to_owned(),
            remedy: "write DynamicUser=no, and User=NAME with a user that stays; convert the files with --owner NAME".to_owned(),
        });
    }
    if let Some((setting, calls)) = syscalls::denied(settings) {
        let said = [setting.key.as_slice(), b"=", &setting.words.join(&b' ')].concat();
        view.remarks.push(Remark {
            place: setting.place.clone(),
            message: format!(
                "{} denies QEMU system calls that a mapped share needs: {}",
                escape(&said),
                calls.join(", ")
            ),
            remedy: "add SystemCallFilter=@file-system behind it".to_owned(),
        });
    }
    let api = settings.iter().rfind(|setting| setting.key == b"MountAPIVFS");
    if let Some(setting) = api.filter(|setting| says(setting, NO) && !view.has_proc()) {
        view.remarks.push(Remark::no_proc(setting.place.clone(), "MountAPIVFS=no", "write MountAPIVFS=yes"));
    }
    for (key, means, remedy) in REMARKS.iter().filter(|(_, means, _)| !means.is_empty()) {
        for setting in settings.iter().filter(|setting| setting.key == key.as_bytes()) {
            let said = [setting.key.as_slice(), b"=", &setting.words.join(&b' ')].concat();
            let message = format!("{} {means}", escape(&said));
            view.remarks.push(Remark { place: setting.place.clone(), message, remedy: (*remedy).to_owned() });
        }
    }
    let private = settings.iter().rfind(|setting| setting.key == b"PrivateUsers");
    if let Some(setting) = private.filter(|setting| !(says(setting, NO) || says(setting, &["identity"]))) {
        if view.user.is_none() && dynamic.is_none() {
            return;
        }
        view.remarks.push(Remark {
            place: setting.place.clone(),
            message:
                "PrivateUsers= shows QEMU only its own files under their owner: all others belong to nobody"
                    .to_owned(),
            remedy: "nothing, if the whole export belongs to the unit's User= after the conversion"
                .to_owned(),
        });
    }
}

/// The parts of a word between colons; `\:` is a colon.
fn split(word: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = word.iter().copied();
    while let Some(byte) = bytes.next() {
        let Some(last) = parts.last_mut() else { break };
        match byte {
            b':' => parts.push(Vec::new()),
            b'\\' => last.extend(bytes.next()),
            _ => last.push(byte),
        }
    }
    parts
}

/// An absolute path, without doubled slashes.
fn plain(word: &[u8]) -> Option<PathBuf> {
    let path: PathBuf = path_of(word).components().collect();
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests;
