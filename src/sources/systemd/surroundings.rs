//! What the files around a unit say of its variables: its drop-ins, the unit that a drop-in belongs to, and
//! `EnvironmentFile=`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::lines::{Entry, entries};
use super::words::Unit;
use crate::share::bounds::spend;
use crate::sources::chars::bytes;
use crate::sources::{Beside, commands, path_of};

/// More instances than one template has on any machine.
const MAX_INSTANCES: usize = 1000;

/// Where units and their drop-ins are, the weightiest last.
const FOLDERS: &[&str] = &[
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
        for other in beside.files(&folder).into_iter().take(MAX_INSTANCES) {
            let whole = other.as_os_str().as_bytes();
            let instance = whole.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            if let Some(instance) = instance.filter(|instance| !instance.is_empty()) {
                units.push(path.with_file_name(path_of(&[prefix, instance, suffix].concat())));
            }
        }
    }
    units
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
    for folder in folders {
        let mut drop_ins = folder.join(&name).into_os_string();
        drop_ins.push(".d");
        parts.extend(beside.files(Path::new(&drop_ins)));
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
