//! What the files around a unit say of its variables: its drop-ins, the unit that a drop-in belongs to, and
//! `EnvironmentFile=`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lines::{Entry, entries};
use super::words::Unit;
use crate::share::bounds::spend;
use crate::sources::chars::bytes;
use crate::sources::{Beside, commands, path_of};

/// More instances than one template has on any machine.
const MAX_INSTANCES: usize = 1000;

/// Where units and their drop-ins are, the weightiest last.
pub const FOLDERS: &[&str] = &[
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/usr/local/lib/systemd/system",
    "/run/systemd/system",
    "/etc/systemd/system",
];

/// Takes the variables that other files set for the unit at `path`, whose own settings are `own`.
pub fn look(unit: &mut Unit, path: &Path, own: &[Entry], beside: &dyn Beside) {
    let mut files = Vec::new();
    for other in parts(path, beside) {
        let Ok(Some(text)) = beside.file(&other) else { continue };
        if !affordable(&text) {
            unit.doubt_environment();
            continue;
        }
        let settings = entries(&text);
        for entry in settings.iter().filter(|entry| entry.key == b"Environment") {
            unit.foreign_environment(&text, &entry.value);
        }
        files.extend(environment_files(&settings));
    }
    files.extend(environment_files(own));
    for file in files {
        environment_file(unit, &file, beside);
    }
}

/// Whom the unit at `path` runs as: the last `User=` of the unit and its drop-ins. `path` may be one of either.
pub fn user(path: &Path, own: &[u8], beside: &dyn Beside) -> Option<String> {
    let is_drop_in = |path: &Path| path.extension().is_some_and(|it| it == "conf");
    let read = |path: &PathBuf| beside.file(path).ok().flatten().filter(|text| affordable(text));
    let mut parts: Vec<_> = parts(path, beside).into_iter().map(|part| (read(&part), part)).collect();
    parts.push((Some(own.to_vec()), path.to_owned()));
    // Drop-ins come behind the unit, in the order of their names.
    parts.sort_by_key(|(_, part)| {
        (is_drop_in(part), part.file_name().filter(|_| is_drop_in(part)).map(OsStr::to_owned))
    });
    let mut user = None;
    for (text, _) in parts {
        for entry in entries(&text.unwrap_or_default()).iter().filter(|entry| entry.key == b"User") {
            user = String::from_utf8(bytes(&entry.value).trim_ascii().to_vec())
                .ok()
                .filter(|user| !user.is_empty());
        }
    }
    user
}

/// The instances of a template unit that have a file of settings of their own, `EnvironmentFile=/etc/virtfs/%i`: what
/// the unit would be called for each.
pub fn instances(path: Option<&Path>, own: &[Entry], beside: &dyn Beside) -> Vec<PathBuf> {
    let Some(path) = path else { return Vec::new() };
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let Some(at) = memchr::memmem::find(name, b"@.") else { return Vec::new() };
    let (prefix, suffix) = name.split_at(at + 1);
    let mut units = Vec::new();
    for (file, _) in environment_files(own) {
        let Some(at) = memchr::memmem::find(&file, b"%i") else { continue };
        let (before, after) = (file.get(..at).unwrap_or_default(), file.get(at + 2..).unwrap_or_default());
        let Some(slash) = before.iter().rposition(|byte| *byte == b'/') else { continue };
        let folder = path_of(before.get(..=slash).unwrap_or_default());
        for other in beside.files(&folder).iter().take(MAX_INSTANCES) {
            let whole = other.as_os_str().as_bytes();
            let instance = whole.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            if let Some(instance) = instance.filter(|instance| !instance.is_empty()) {
                units.push(path.with_file_name(path_of(&[prefix, instance, suffix].concat())));
            }
        }
    }
    units
}

/// All files of the unit that `path` is a file of, in the order in which systemd reads them: the weightiest unit file, then
/// the drop-ins by their names, of which the weightiest of each name counts.
pub fn ordered(path: &Path, beside: &dyn Beside) -> Vec<PathBuf> {
    let parent = path.parent().unwrap_or(path);
    let drop_in_of = parent.file_name().and_then(|name| name.to_str()?.strip_suffix(".d"));
    let own = drop_in_of.map(str::to_owned).or_else(|| Some(path.file_name()?.to_str()?.to_owned()));
    let Some(name) = own else { return Vec::new() };
    let around = if drop_in_of.is_some() { parent.parent().unwrap_or(parent) } else { parent };
    let mut folders: Vec<&Path> = FOLDERS.iter().map(Path::new).filter(|folder| *folder != around).collect();
    folders.push(around);
    let names = aliases(&name);
    let mut parts = Vec::new();
    let files: Vec<_> = folders.iter().map(|folder| (folder, beside.files(folder))).collect();
    let of_unit = names.iter().find_map(|name| {
        files.iter().rev().find_map(|(folder, files)| {
            let unit = folder.join(name);
            (unit == path || files.binary_search(&unit).is_ok()).then_some(unit)
        })
    });
    parts.extend(of_unit.filter(|_| names.iter().any(|name| name.contains('.'))));
    let mut drop_ins: Vec<PathBuf> = Vec::new();
    for name in names.iter().rev() {
        for folder in &folders {
            for file in below(folder, format!("{name}.d"), beside).iter() {
                if file.extension().is_some_and(|extension| extension == "conf") {
                    drop_ins.retain(|other| other.file_name() != file.file_name());
                    drop_ins.push(file.clone());
                }
            }
        }
    }
    drop_ins.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    parts.extend(drop_ins);
    parts
}

/// What is linked into the folders of requirements of the unit that `path` is a file of.
pub fn required_links(path: &Path, beside: &dyn Beside) -> Vec<PathBuf> {
    let parent = path.parent().unwrap_or(path);
    let drop_in_of = parent.file_name().and_then(|name| name.to_str()?.strip_suffix(".d"));
    let own = drop_in_of.map(str::to_owned).or_else(|| Some(path.file_name()?.to_str()?.to_owned()));
    let Some(name) = own else { return Vec::new() };
    let around = if drop_in_of.is_some() { parent.parent().unwrap_or(parent) } else { parent };
    let mut folders: Vec<&Path> = FOLDERS.iter().map(Path::new).filter(|folder| *folder != around).collect();
    folders.push(around);
    let links = |folder: &&Path| below(folder, format!("{name}.requires"), beside).to_vec();
    folders.iter().flat_map(links).collect()
}

/// The entries of the folder `name` in `folder`. It is not looked for where the listing of `folder` does not have it: most units have
/// no drop-ins.
pub fn below(folder: &Path, name: impl AsRef<OsStr>, beside: &dyn Beside) -> Arc<[PathBuf]> {
    let inner = folder.join(name.as_ref());
    match beside.files(folder).binary_search(&inner) {
        Ok(_) => beside.files(&inner),
        Err(_) => Arc::default(),
    }
}

/// The names under which a unit's files and drop-ins are looked for, its own first: `a-b@c.service`, `a-b@.service`,
/// `a-.service`, `service`.
fn aliases(name: &str) -> Vec<String> {
    let Some((stem, suffix)) = name.rsplit_once('.') else { return vec![name.to_owned()] };
    let mut names = vec![name.to_owned()];
    let prefix = match stem.split_once('@') {
        Some((prefix, instance)) => {
            if !instance.is_empty() {
                names.push(format!("{prefix}@.{suffix}"));
            }
            prefix
        }
        None => stem,
    };
    let dashes: Vec<_> = prefix.match_indices('-').map(|(at, _)| at).collect();
    for at in dashes.into_iter().rev().filter(|at| at + 1 < prefix.len() && *at > 0) {
        names.push(format!("{}-.{suffix}", prefix.get(..at).unwrap_or_default()));
    }
    names.push(suffix.to_owned());
    names
}

/// The other files of the unit.
fn parts(path: &Path, beside: &dyn Beside) -> Vec<PathBuf> {
    let parent = path.parent().unwrap_or(path);
    let drop_in_of = parent.file_name().and_then(|name| name.to_str()?.strip_suffix(".d"));
    let name = drop_in_of.map(PathBuf::from).or_else(|| path.file_name().map(PathBuf::from));
    let Some(name) = name else { return Vec::new() };
    let around = if drop_in_of.is_some() { parent.parent().unwrap_or(parent) } else { parent };
    let mut folders: Vec<&Path> = FOLDERS.iter().map(Path::new).filter(|folder| *folder != around).collect();
    folders.push(around);
    let mut parts: Vec<_> = folders.iter().map(|folder| folder.join(&name)).collect();
    let mut drop_ins = name.into_os_string();
    drop_ins.push(".d");
    for folder in folders {
        parts.extend(below(folder, &drop_ins, beside).iter().cloned());
    }
    parts.retain(|part| part != path);
    parts
}

/// The files that `EnvironmentFile=` names, and whether they may be missing.
fn environment_files(settings: &[Entry]) -> Vec<(Vec<u8>, bool)> {
    let values = settings.iter().filter(|entry| entry.key == b"EnvironmentFile");
    values
        .map(|entry| bytes(&entry.value).trim_ascii().to_vec())
        .filter(|value| !value.is_empty())
        .map(|value| match value.strip_prefix(b"-") {
            Some(rest) => (rest.to_vec(), true),
            None => (value, false),
        })
        .collect()
}

fn environment_file(unit: &mut Unit, (name, optional): &(Vec<u8>, bool), beside: &dyn Beside) {
    let Some(name) = unit.resolved(name) else { return unit.doubt_environment() };
    match beside.file(&path_of(&name)) {
        Ok(Some(text)) if affordable(&text) => {
            for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
                if let Some((name, value)) = assignment(line) {
                    unit.foreign(name, value);
                }
            }
        }
        Ok(None) if *optional => {}
        _ => unit.doubt_environment(),
    }
}

/// Whether another file can be looked at. Opening it is what costs most where it is small.
fn affordable(text: &[u8]) -> bool {
    !commands::is_long(text) && spend(text.len().saturating_add(4096))
}

/// `NAME=value`, in quotes or not.
fn assignment(line: &[u8]) -> Option<(&[u8], &[u8])> {
    if matches!(line.first(), None | Some(b'#' | b';')) {
        return None;
    }
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (line.get(..equals)?.trim_ascii(), line.get(equals + 1..)?.trim_ascii());
    let quoted = |quote: &[u8]| value.strip_prefix(quote)?.strip_suffix(quote);
    Some((name, quoted(b"\"").or_else(|| quoted(b"'")).unwrap_or(value)))
}
