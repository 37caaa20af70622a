//! systemd units, their drop-ins, and podman's quadlets.

mod drop_ins;
mod lines;
mod quadlets;
pub(super) mod sandbox;
pub(super) mod setting;
mod starting;
mod words;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::chars::{Chars, Command, Embedded, Word, bytes, span};
use super::commands;
use super::containers::{Container, UserMap, Volume, variable};
use super::format::{Beside, Document, Format, Listener, Reading, Unreadable, path_of};
use super::lexed::Lexed;
use super::templates::Masked;
use super::unit_names::unit_of;
use crate::share::bounds::spend;
use crate::share::helper::Helper;
use crate::share::rewrite::{Edits, Refusal, Rewrite};
use crate::share::view::By;
use crate::share::{Note, Share, Transport};
pub(super) use drop_ins::FOLDERS;
use lines::Entry;
pub(super) use starting::{view_of_daemon, view_of_starter};
use words::Unit;

/// Units, drop-ins and quadlets.
pub(super) struct Systemd;

/// What units and quadlets are called.
const SUFFIXES: &[&str] = &[".service", ".socket", ".container", ".kube", ".pod"];

/// The settings that hold command lines.
const COMMANDS: &[&str] = &[
    "ExecStart",
    "ExecStartPre",
    "ExecStartPost",
    "ExecReload",
    "ExecStop",
    "ExecStopPost",
    "ExecCondition",
    "Exec",
    "Entrypoint",
    "PodmanArgs",
    "GlobalArgs",
];

/// Whom a unit runs as, where the unit or one of its drop-ins says it; `None` for what is no unit.
pub(super) fn user(path: &Path, own: &[u8], beside: &dyn Beside) -> Option<String> {
    Systemd
        .recognises(&Document { path: Some(path), bytes: own })
        .then(|| drop_ins::user(path, own, beside))?
}

/// More lines than any unit has.
const MAX_LINES: usize = 20_000;

/// Stops at a unit with more settings than any has, if it could hold something of ours.
fn refuse_many_lines(document: &Document, beside: Option<&dyn Beside>) -> Result<(), Unreadable> {
    let lines = memchr::memchr_iter(b'\n', document.bytes).count();
    if lines <= MAX_LINES || !is_candidate(document, beside) {
        return Ok(());
    }
    Err(Unreadable { line: None, reason: format!("it has more than {MAX_LINES} lines: split it") })
}

impl Format for Systemd {
    fn name(&self) -> &'static str {
        "systemd"
    }

    fn recognises(&self, document: &Document) -> bool {
        let path = document.telling_path().unwrap_or_default();
        let path = path.to_string_lossy();
        let parent = path.rsplit('/').nth(1).unwrap_or_default();
        let drop_in = parent.strip_suffix(".d").is_some_and(|unit| is_unit(unit) || unit == "service");
        is_unit(&path) || (drop_in && path.ends_with(".conf")) || has_sections(document.bytes)
    }

    fn read_beside(&self, document: &Document, beside: Option<&dyn Beside>) -> Result<Reading, Unreadable> {
        commands::refuse_long(document.bytes)?;
        if commands::is_long(document.bytes) {
            return Ok(Reading::default());
        }
        refuse_many_lines(document, beside)?;
        let masked = Masked::of_bracketed(document, true);
        let entries = lines::entries(masked.bytes());
        let lex = |unit: &Document| {
            let plain = Document { bytes: masked.bytes(), ..*unit };
            Ok::<_, Unreadable>(masked.restore(lex(&plain, &entries, beside)?))
        };
        let mut reading = Reading::default();
        if is_candidate(document, beside) {
            reading = commands::read(document, &lex(document)?);
            let instances = beside.map(|beside| drop_ins::instances(document.path, &entries, beside));
            // Each instance is the whole unit once more.
            let pays = |_: &PathBuf| spend(document.bytes.len().saturating_mul(4));
            let mut helpers = Vec::new();
            for unit in instances.unwrap_or_default().into_iter().take_while(pays) {
                let instance = Document { path: Some(&unit), ..*document };
                let Ok(read) = lex(&instance).map(|lexed| commands::read(document, &lexed)) else { continue };
                helpers.extend(read.helpers.into_iter().filter(|helper| helper.export.is_some()));
                note_instance(&mut reading.shares, &unit, &read.shares);
            }
            // What the template says of every instance counts for those that no file names, too.
            let tells_all = |helper: &Helper| {
                helper.template.as_ref().is_some_and(|(_, directory)| !directory.contains(&b'$'))
            };
            if !helpers.is_empty() && !reading.helpers.iter().any(tells_all) {
                reading.helpers = helpers;
            }
        }
        reading.listeners = listeners(document, &entries);
        Ok(reading)
    }

    fn rewrite_beside(
        &self,
        document: &Document,
        how: &Rewrite,
        beside: Option<&dyn Beside>,
    ) -> Result<Edits, Refusal> {
        commands::refuse_long(document.bytes).map_err(Unreadable::refusal)?;
        if !is_candidate(document, beside) || commands::is_long(document.bytes) {
            return Ok(Edits::default());
        }
        refuse_many_lines(document, beside).map_err(Unreadable::refusal)?;
        self.refuse_instances(document, how, beside)?;
        let masked = Masked::of_bracketed(document, true);
        let plain = Document { bytes: masked.bytes(), ..*document };
        let entries = lines::entries(plain.bytes);
        let mut lexed = lex(&plain, &entries, beside).map_err(Unreadable::refusal)?;
        lexed.user_map = beside.and_then(|beside| UserMap::of_docker(document.bytes, beside));
        let view = starting::view(&plain, &entries, beside);
        let how = &Rewrite { view: view.or_else(|| how.view.clone()), ..how.clone() };
        let mut edits = commands::rewrite(document, &masked.restore(lexed), how)?;
        if !edits.moved.is_empty() {
            starting::requirements(&plain, &entries, beside, &mut edits);
        }
        Ok(edits)
    }
}

impl Systemd {
    /// Stops at a template unit whose instances have other sockets, and so other directories: one path would be all instances'.
    fn refuse_instances(
        &self,
        document: &Document,
        how: &Rewrite,
        beside: Option<&dyn Beside>,
    ) -> Result<(), Refusal> {
        if how.look.is_some() || !document.path.is_some_and(drop_ins::is_template) {
            return Ok(());
        }
        let reading = self.read_beside(document, beside).map_err(Unreadable::refusal)?;
        for share in reading.shares.iter().filter(|share| how.wants(share)) {
            let sockets: BTreeSet<_> = share.notes.iter().filter_map(Note::socket_of_instance).collect();
            if sockets.len() > 1 {
                return Err(Refusal::at(
                    share.place.line,
                    format!(
                        "the share {} has another socket in each instance of this template unit, and so may the directory",
                        share.title()
                    ),
                    "write it by hand with what tells the instances apart (path=/srv/%i, or a variable of the instance's file), or one \
                     path if all have one directory; `--to qemu-args` prints the rest",
                ));
            }
        }
        Ok(())
    }
}

/// Notes the sockets that an instance of a template has in the place of those that the template does not tell.
fn note_instance(shares: &mut [Share], unit: &Path, of_instance: &[Share]) {
    let stem = unit.file_stem().map(OsStrExt::as_bytes).unwrap_or_default();
    let name = stem.splitn(2, |byte| *byte == b'@').nth(1).unwrap_or_default();
    for share in shares.iter_mut().filter(|share| matches!(share.transport, Transport::Unknown(_))) {
        let mut same = of_instance.iter().filter(|other| other.place.line == share.place.line);
        let own = same.find(|other| {
            let alike = |own: &[u8], other: &[u8]| own.is_empty() || own == other;
            let tag = |share: &Share| share.mount_tag.clone().unwrap_or_default();
            alike(&share.fsdev, &other.fsdev) && alike(&tag(share), &tag(other))
        });
        if let Some(Transport::Socket(socket)) = own.map(|own| &own.transport) {
            share.notes.push(Note::OfInstance(name.to_vec(), socket.clone()));
        }
    }
}

/// Whether a unit can hold anything of ours: itself, or in a file of variables that it starts QEMU with.
fn is_candidate(document: &Document, beside: Option<&dyn Beside>) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(document.bytes, word).is_some();
    let by_variables = || (has(b"qemu") || has(b"kvm")) && has(b"$");
    commands::is_candidate(document.bytes) || beside.is_some() && by_variables()
}

fn is_unit(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Whether the text is a unit's, whatever it is called.
fn has_sections(text: &[u8]) -> bool {
    let start = text.get(..text.len().min(4096)).unwrap_or_default();
    let mut lines = start.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let said = |line: &&[u8]| !line.is_empty() && !matches!(line.first(), Some(b'#' | b';'));
    lines.clone().find(said).is_some_and(|line| line.starts_with(b"["))
        && lines.any(|line| matches!(line, b"[Service]" | b"[Container]" | b"[Socket]"))
}

/// The commands of a unit.
fn lex(document: &Document, entries: &[Entry], beside: Option<&dyn Beside>) -> Result<Lexed, Unreadable> {
    let path = document.telling_path();
    let mut unit = Unit::new(path.as_deref());
    if let Some((beside, path)) = beside.zip(path.as_deref()) {
        drop_ins::look(&mut unit, path, document.bytes, entries, beside)?;
    } else {
        for entry in entries {
            unit.directory(&entry.key, bytes(&entry.value).trim_ascii());
        }
        for entry in entries.iter().filter(|entry| entry.key == b"Environment") {
            unit.environment(document.bytes, &entry.value)?;
        }
        if entries.iter().any(|entry| entry.key == b"EnvironmentFile") {
            unit.doubt_environment();
        }
    }
    let mut all: Vec<(&[u8], Vec<Word>)> = Vec::new();
    for entry in entries.iter().filter(|entry| COMMANDS.iter().any(|name| name.as_bytes() == entry.key)) {
        if entry.value.iter().all(|c| c.byte.is_ascii_whitespace()) {
            // An empty setting takes back what was said before.
            all.retain(|(key, _)| *key != entry.key);
            continue;
        }
        let words = unit.command_words(document.bytes, &entry.key, &entry.value)?;
        for words in words.split(|word| word.is(b";")) {
            all.push((&entry.key, words.to_vec()));
        }
    }
    let mut lexed = Lexed::default();
    // A quadlet's arguments to podman and to the container are one command line's.
    for (_, words) in all {
        for word in words.iter().filter(|word| word.has_blank()) {
            lexed.embedded.push(embedded(word.chars.clone()));
        }
        lexed.commands.push(Command { words, guest: None });
    }
    lexed.containers.extend(quadlet(document, &unit, entries, beside));
    lexed.commands.extend(unit.leftovers().into_iter().map(|words| Command { words, guest: None }));
    Ok(lexed)
}

/// The container of a quadlet: podman-systemd.unit(5).
fn quadlet(
    document: &Document,
    unit: &Unit,
    entries: &[Entry],
    beside: Option<&dyn Beside>,
) -> Option<Container> {
    let place = |entry: &Entry| span(&entry.value);
    let words = |entry: &Entry| unit.words(document.bytes, &entry.value).unwrap_or_default();
    let folder = document.path.and_then(|path| path.parent()).map(Path::to_owned);
    let mut container = Container { folder, span: 0..document.bytes.len(), ..Container::default() };
    container.by = Some(By::Quadlet);
    let mut pod = None;
    for entry in entries {
        // An empty setting takes back what was said before.
        let empty = entry.value.iter().all(|c| c.byte.is_ascii_whitespace());
        match entry.key.as_slice() {
            b"Pod" => pod = words(entry).into_iter().next(),
            b"Image" => {
                container.image = words(entry).into_iter().next();
                container.place = place(entry);
                container.gap = Some(starting::line_before(document.bytes, container.place.start));
            }
            b"Exec" => container.arguments = words(entry),
            b"Entrypoint" => container.entrypoint = words(entry),
            b"Environment" if empty => container.environment.clear(),
            b"Environment" => container.environment.extend(words(entry).iter().filter_map(variable)),
            b"User" => container.user = words(entry).into_iter().next(),
            // An empty map does not take back another setting.
            b"UIDMap" | b"GIDMap" | b"SubUIDMap" | b"SubGIDMap" if empty => {}
            b"UserNS" | b"UIDMap" | b"GIDMap" | b"SubUIDMap" | b"SubGIDMap" => {
                container.user_namespace = words(entry).into_iter().next();
            }
            b"Tmpfs" if empty => container.tmpfs.clear(),
            b"Tmpfs" => container.tmpfs.extend(words(entry)),
            b"Mount" | b"Volume" if empty => container.volumes.clear(),
            b"Mount" => words(entry).iter().take(1).for_each(|word| container.mount(word)),
            b"PodmanArgs" => container.options(&words(entry)),
            b"Volume" => container.volumes.extend(words(entry).first().and_then(Volume::parse)),
            _ => {}
        }
    }
    if let Some(path) = document.path.filter(|_| container.image.is_some()) {
        quadlets::take_pod(path, pod, beside, &mut container);
        quadlets::take_volumes(path, beside, &mut container);
        starting::about_quadlet(path, beside, &mut container);
    }
    container.image.is_some().then_some(container)
}

fn embedded(chars: Chars) -> Embedded {
    Embedded { chars, name: None, guest: None }
}

/// The sockets that a socket unit listens on.
fn listeners(document: &Document, entries: &[Entry]) -> Vec<Listener> {
    let unit = Unit::new(document.path);
    let value = |entry: &Entry| unit.resolved_in_part(bytes(&entry.value).trim_ascii());
    let Some(path) = document.path else { return Vec::new() };
    let own = unit_of(path).unwrap_or_default();
    let named = entries.iter().rfind(|entry| entry.key == b"Service").map(value);
    let named = named.map(|name| String::from_utf8_lossy(&name).into_owned());
    let service = named.and_then(|name| unit_of(name.as_ref())).unwrap_or(own);
    entries
        .iter()
        .filter(|entry| entry.key == b"ListenStream")
        .map(value)
        .filter(|socket| socket.starts_with(b"/"))
        .map(|socket| Listener { socket: path_of(&socket), service: service.clone() })
        .collect()
}

#[cfg(test)]
mod tests;
