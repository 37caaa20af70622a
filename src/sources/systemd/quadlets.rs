//! What the quadlets beside a container's say of its volumes: its pod, and the volumes that have a file of their own.
//!
//! Source: podman-systemd.unit(5).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::drop_ins;
use super::lines::entries;
use super::words::Unit;
use crate::sources::chars::{Char, Word};
use crate::sources::containers::{Container, Other, Volume};
use crate::sources::format::Beside;

/// The file of a quadlet that another one names.
fn beside_of(path: &Path, name: &[u8]) -> Option<PathBuf> {
    let parent = path.parent()?;
    // A drop-in lies in a folder beside its quadlet.
    let is_drop_in = parent.extension().is_some_and(|extension| extension == "d");
    let folder = if is_drop_in { parent.parent()? } else { parent };
    (!name.contains(&b'/')).then(|| folder.join(OsStr::from_bytes(name)))
}

/// The settings of a quadlet with its drop-ins, and whether it is there at all.
fn settings(path: &Path, beside: &dyn Beside) -> Option<Vec<(Vec<u8>, Word)>> {
    beside.file(path).ok().flatten()?;
    let unit = Unit::new(Some(path));
    let mut all = Vec::new();
    for part in drop_ins::ordered(path, beside) {
        let text = beside.file(&part).ok().flatten()?;
        for entry in entries(&text) {
            let words = unit.words(&text, &entry.value).ok()?;
            if words.is_empty() {
                // An empty setting takes back what was said before.
                all.retain(|(key, _)| *key != entry.key);
            }
            all.extend(words.into_iter().map(|word| (entry.key.clone(), word)));
        }
    }
    Some(all)
}

/// A word of another file, which this file has in the place of `own`.
fn moved(word: &Word, own: &Word) -> Word {
    let Some(at) = own.chars.first() else { return own.clone() };
    let here = |c: &Char| Char { known: c.known, ..Char::new(c.byte, own.span.clone(), at.spelt) };
    Word { chars: word.chars.iter().map(here).collect(), span: own.span.clone() }
}

/// Takes the volumes and the users of the pod that the container is in.
pub(super) fn take_pod(
    path: &Path,
    pod: Option<Word>,
    beside: Option<&dyn Beside>,
    container: &mut Container,
) {
    let Some(pod) = pod else { return };
    let file = beside_of(path, &pod.bytes());
    let settings = beside.zip(file).and_then(|(beside, file)| settings(&file, beside));
    let Some(settings) = settings else {
        let said = [b"Pod=".to_vec(), pod.bytes()].concat();
        container.others.push(Other { said, ..Other::default() });
        return;
    };
    let mut described = Container::default();
    let mut more = Vec::new();
    for (key, word) in settings {
        let word = moved(&word, &pod);
        match key.as_slice() {
            b"Volume" => described.volumes.extend(Volume::parse(&word)),
            b"PodmanArgs" => more.push(word),
            b"UserNS" | b"UIDMap" | b"GIDMap" | b"SubUIDMap" | b"SubGIDMap" => {
                described.user_namespace = Some(word);
            }
            _ => {}
        }
    }
    described.options(&more);
    if container.user_namespace.is_none() {
        container.user_namespace = described.user_namespace.take();
    }
    container.take_volumes(described, false);
}

/// Resolves the volumes that have a quadlet of their own.
pub(super) fn take_volumes(path: &Path, beside: Option<&dyn Beside>, container: &mut Container) {
    let Some(beside) = beside else { return };
    for volume in &mut container.volumes {
        let name = volume.source.bytes();
        let file = beside_of(path, &name).filter(|_| name.ends_with(b".volume"));
        let Some(settings) = file.and_then(|file| settings(&file, beside)) else { continue };
        let last = |key: &[u8]| settings.iter().rfind(|(own, _)| own == key).map(|(_, word)| word);
        let options = last(b"Options").map(Word::bytes).unwrap_or_default();
        let has = |names: &[&[u8]]| options.split(|byte| *byte == b',').any(|option| names.contains(&option));
        let binds = has(&[b"bind", b"rbind"]) || last(b"Type").is_some_and(|kind| kind.is(b"bind"));
        match last(b"Device") {
            Some(device) if binds => {
                volume.readonly |= has(&[b"ro"]);
                volume.source = moved(device, &volume.source);
            }
            Some(_) => {}
            None => {
                let others: [&[u8]; 4] = [b"Driver", b"PodmanArgs", b"VolumeName", b"Type"];
                volume.engines = others.iter().all(|key| last(key).is_none());
            }
        }
    }
}
