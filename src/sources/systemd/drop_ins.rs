//! What the files around a unit say of its variables: its drop-ins, the unit that a drop-in belongs to,
//! `EnvironmentFile=`, and the instances of a template.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lines::{Entry, entries};
use super::words::Unit;
use crate::share::bounds::spend;
use crate::sources::chars::bytes;
use crate::sources::commands;
use crate::sources::format::{Beside, Unreadable, path_of};

/// More instances than one template has on any machine.
const MAX_INSTANCES: usize = 1000;

/// Where units and their drop-ins are, the weightiest last.
pub(crate) const FOLDERS: &[&str] = &[
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/usr/local/lib/systemd/system",
    "/run/systemd/system",
    "/etc/systemd/system",
];

/// Takes the variables of the unit at `path`, whose own text is `text` with the settings `own`, and those that the other files of
/// the unit set, in the order in which systemd reads them.
pub(super) fn look(
    unit: &mut Unit,
    path: &Path,
    text: &[u8],
    own: &[Entry],
    beside: &dyn Beside,
) -> Result<(), Unreadable> {
    let mut files = Vec::new();
    let mut unset = Vec::new();
    for part in with_own(path, beside) {
        let other = if part == path { None } else { Some(beside.file(&part)) };
        let other = match other {
            None => None,
            Some(Ok(Some(text))) if affordable(&text) => Some(text),
            Some(Ok(Some(_))) => {
                unit.doubt_environment();
                continue;
            }
            Some(_) => continue,
        };
        let settings = other.as_ref().map(|text| entries(text));
        let settings = settings.as_deref().unwrap_or(own);
        for entry in settings {
            let value = bytes(&entry.value);
            let value = value.trim_ascii();
            unit.directory(&entry.key, value);
            match (entry.key.as_slice(), &other) {
                (b"Environment", None) => unit.environment(text, &entry.value)?,
                (b"Environment", Some(other)) => unit.foreign_environment(other, &entry.value),
                (b"EnvironmentFile", _) if value.is_empty() => files.clear(),
                (b"EnvironmentFile", _) => files.push(environment_file_of(value)),
                (b"UnsetEnvironment", _) => unset.extend(names(value)),
                _ => {}
            }
        }
    }
    for file in files {
        environment_file(unit, &file, beside);
    }
    for name in unset {
        unit.doubt(name);
    }
    for drop_in in drop_ins_of_instances(path, beside) {
        doubt(unit, &drop_in, beside);
    }
    Ok(())
}

/// All files of the unit that `path` is a file of, that one among them.
fn with_own(path: &Path, beside: &dyn Beside) -> Vec<PathBuf> {
    let mut parts = ordered(path, beside);
    if !parts.iter().any(|part| part == path) {
        parts.push(path.to_owned());
    }
    parts
}

/// The variables that `NAME` and `NAME=VALUE` name.
fn names(value: &[u8]) -> Vec<Vec<u8>> {
    let words = value.split(u8::is_ascii_whitespace).map(|word| {
        let end = word.iter().position(|byte| *byte == b'=').unwrap_or(word.len());
        word.get(..end).unwrap_or_default().iter().copied().filter(|byte| !b"\"'".contains(byte)).collect()
    });
    words.filter(|name: &Vec<u8>| !name.is_empty()).collect()
}

/// The drop-ins of single instances of the template at `path`: `vm@web.service.d/10.conf` of `vm@.service`.
fn drop_ins_of_instances(path: &Path, beside: &dyn Beside) -> Vec<PathBuf> {
    let Some((prefix, suffix)) = template(path) else { return Vec::new() };
    let suffix = [suffix, b".d"].concat();
    let folders: Vec<_> = around(path).iter().flat_map(|folder| beside.files(folder).to_vec()).collect();
    let of_instance = |folder: &&PathBuf| instance_of(folder, &prefix, &suffix).is_some();
    let files = folders.iter().filter(of_instance).take(MAX_INSTANCES);
    files.flat_map(|folder| beside.files(folder).to_vec()).filter(|file| is_conf(file)).collect()
}

/// What a drop-in of one instance sets is not known for the template.
fn doubt(unit: &mut Unit, drop_in: &Path, beside: &dyn Beside) {
    let Ok(Some(text)) = beside.file(drop_in) else { return };
    if !affordable(&text) {
        return unit.doubt_environment();
    }
    for entry in entries(&text) {
        let value = bytes(&entry.value);
        match entry.key.as_slice() {
            b"Environment" if value.trim_ascii().is_empty() => unit.doubt_environment(),
            b"Environment" | b"UnsetEnvironment" => {
                for name in names(value.trim_ascii()) {
                    unit.doubt(name);
                }
            }
            b"EnvironmentFile" => unit.doubt_environment(),
            _ => {}
        }
    }
}

/// The folders in which the files of the unit that `path` is a file of can be, its own last.
fn around(path: &Path) -> Vec<&Path> {
    let parent = path.parent().unwrap_or(path);
    let is_drop_in = parent.extension().is_some_and(|extension| extension == "d");
    let around = if is_drop_in { parent.parent().unwrap_or(parent) } else { parent };
    let mut folders: Vec<&Path> = FOLDERS.iter().map(Path::new).filter(|folder| *folder != around).collect();
    folders.push(around);
    folders
}

/// The name of a template, `vm@.service`, up to and from behind its `@`; `None` for what is none.
fn template(path: &Path) -> Option<(Vec<u8>, &[u8])> {
    let name = path.file_name().map(OsStrExt::as_bytes)?;
    let at = memchr::memmem::find(name, b"@.")?;
    let (prefix, suffix) = name.split_at(at + 1);
    Some((prefix.to_vec(), suffix))
}

/// Whether a file is a template unit's.
pub(super) fn is_template(path: &Path) -> bool {
    template(path).is_some()
}

/// The instance that a file of this name belongs to.
fn instance_of(file: &Path, prefix: &[u8], suffix: &[u8]) -> Option<Vec<u8>> {
    let name = file.file_name().map(OsStrExt::as_bytes)?;
    let instance = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    (!instance.is_empty()).then(|| instance.to_vec())
}

fn is_conf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "conf")
}

/// Whom the unit at `path` runs as: the last `User=` of the unit and its drop-ins. `path` may be one of either.
pub(super) fn user(path: &Path, own: &[u8], beside: &dyn Beside) -> Option<String> {
    let mut user = None;
    for part in with_own(path, beside) {
        let other = if part == path { None } else { beside.file(&part).ok().flatten() };
        let text = if part == path { own } else { other.as_deref().unwrap_or_default() };
        if part != path && !affordable(text) {
            continue;
        }
        for entry in entries(text).iter().filter(|entry| entry.key == b"User") {
            user = String::from_utf8(bytes(&entry.value).trim_ascii().to_vec())
                .ok()
                .filter(|user| !user.is_empty());
        }
    }
    user
}

/// The instances of a template unit that files name: one that is enabled (`multi-user.target.wants/vm@web.service`), one with
/// drop-ins, one with a file of settings of its own, `EnvironmentFile=/etc/virtfs/%i`: what the unit would be called for each.
pub(super) fn instances(path: Option<&Path>, own: &[Entry], beside: &dyn Beside) -> Vec<PathBuf> {
    let Some((path, (prefix, suffix))) = path.and_then(|path| Some((path, template(path)?))) else {
        return Vec::new();
    };
    let mut instances = BTreeSet::new();
    for (file, _) in environment_files(own) {
        let Some(at) = memchr::memmem::find(&file, b"%i") else { continue };
        let (before, after) = (file.get(..at).unwrap_or_default(), file.get(at + 2..).unwrap_or_default());
        let Some(slash) = before.iter().rposition(|byte| *byte == b'/') else { continue };
        let folder = path_of(before.get(..=slash).unwrap_or_default());
        for other in beside.files(&folder).iter().take(MAX_INSTANCES) {
            let whole = other.as_os_str().as_bytes();
            let instance = whole.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            instances.extend(instance.filter(|instance| !instance.is_empty()).map(<[u8]>::to_vec));
        }
    }
    let drop_ins = [suffix, b".d"].concat();
    for entry in around(path).iter().flat_map(|folder| beside.files(folder).to_vec()) {
        instances.extend(instance_of(&entry, &prefix, suffix));
        instances.extend(instance_of(&entry, &prefix, &drop_ins));
        if entry.extension().is_some_and(|extension| extension == "wants" || extension == "requires") {
            let links = beside.files(&entry);
            instances.extend(links.iter().filter_map(|link| instance_of(link, &prefix, suffix)));
        }
    }
    let named =
        |instance: Vec<u8>| path.with_file_name(path_of(&[&prefix, instance.as_slice(), suffix].concat()));
    instances.into_iter().take(MAX_INSTANCES).map(named).collect()
}

/// All files of the unit that `path` is a file of, in the order in which systemd reads them: the weightiest unit file, then
/// the drop-ins by their names, of which the weightiest of each name counts.
pub(super) fn ordered(path: &Path, beside: &dyn Beside) -> Vec<PathBuf> {
    let parent = path.parent().unwrap_or(path);
    let drop_in_of = parent.file_name().and_then(|name| name.to_str()?.strip_suffix(".d"));
    let own = drop_in_of.map(str::to_owned).or_else(|| Some(path.file_name()?.to_str()?.to_owned()));
    let Some(name) = own else { return Vec::new() };
    let folders = around(path);
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
pub(super) fn required_links(path: &Path, beside: &dyn Beside) -> Vec<PathBuf> {
    let parent = path.parent().unwrap_or(path);
    let drop_in_of = parent.file_name().and_then(|name| name.to_str()?.strip_suffix(".d"));
    let own = drop_in_of.map(str::to_owned).or_else(|| Some(path.file_name()?.to_str()?.to_owned()));
    let Some(name) = own else { return Vec::new() };
    let folders = around(path);
    let links = |folder: &&Path| below(folder, format!("{name}.requires"), beside).to_vec();
    folders.iter().flat_map(links).collect()
}

/// The entries of the folder `name` in `folder`. It is not looked for where the listing of `folder` does not have it: most units have
/// no drop-ins.
pub(super) fn below(folder: &Path, name: impl AsRef<OsStr>, beside: &dyn Beside) -> Arc<[PathBuf]> {
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

/// The files that `EnvironmentFile=` names, and whether they may be missing.
fn environment_files(settings: &[Entry]) -> Vec<(Vec<u8>, bool)> {
    let values = settings.iter().filter(|entry| entry.key == b"EnvironmentFile");
    let values = values.map(|entry| bytes(&entry.value).trim_ascii().to_vec());
    values.filter(|value| !value.is_empty()).map(|value| environment_file_of(&value)).collect()
}

/// The file that a value of `EnvironmentFile=` names, and whether it may be missing.
fn environment_file_of(value: &[u8]) -> (Vec<u8>, bool) {
    match value.strip_prefix(b"-") {
        Some(rest) => (rest.to_vec(), true),
        None => (value.to_vec(), false),
    }
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
