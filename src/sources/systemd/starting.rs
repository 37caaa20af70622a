//! The unit that starts QEMU: what it and its drop-ins let QEMU see, and which helper it requires.

use std::path::{Path, PathBuf};

use super::drop_ins;
use super::lines::{Entry, entries};
use super::sandbox;
use super::setting::Setting;
use super::words::Unit;
use crate::report::finding::{self, Finding};
use crate::share::Place;
use crate::share::rewrite::{Edit, Edits};
use crate::share::view::{Addition, By, Gap, View};
use crate::sources::chars::{Lines, bytes, span};
use crate::sources::containers::Container;
use crate::sources::format::{Beside, Document, path_of};
use crate::sources::mention::says_word;
use crate::text::escape;

/// Settings by which a unit is not started without another.
const REQUIRING: &[&[u8]] = &[b"Requires", b"Requisite", b"BindsTo", b"RequiresOverridable", b"BindTo"];

/// The settings of one file of a unit's.
fn settings(unit: &Unit, file: Option<&Path>, text: &[u8], entries: &[Entry]) -> Vec<Setting> {
    let lines = Lines::new(text);
    let setting = |entry: &Entry| {
        // What systemd can't take apart it passes over.
        let words = unit.words(text, &entry.value).ok()?;
        let at = span(&entry.value);
        Some(Setting {
            section: entry.section.clone(),
            key: entry.key.clone(),
            words: words
                .iter()
                .map(|word| unit.resolved_in_part(&word.bytes()))
                .filter(|w| !w.is_empty())
                .collect(),
            place: Place {
                file: file.map(Into::into),
                line: Some(lines.line(at.start)),
                span: Some(at),
                ..Place::default()
            },
        })
    };
    entries.iter().filter_map(setting).collect()
}

/// The settings of the unit that a document is a file of, in the order in which systemd reads them.
fn all_settings(document: &Document, own: &[Entry], beside: Option<&dyn Beside>) -> Vec<Setting> {
    let unit = Unit::new(document.path);
    let mut parts =
        beside.zip(document.path).map(|(beside, path)| drop_ins::ordered(path, beside)).unwrap_or_default();
    if parts.is_empty() {
        parts.extend(document.path.map(Path::to_owned));
    }
    let mut all = Vec::new();
    let mut seen = false;
    for part in parts {
        if Some(part.as_path()) == document.path {
            seen = true;
            all.extend(settings(&unit, document.path, document.bytes, own));
        } else if let Some(Ok(Some(text))) = beside.map(|beside| beside.file(&part)) {
            all.extend(settings(&unit, Some(&part), &text, &entries(&text)));
        }
    }
    if !seen {
        all.extend(settings(&unit, document.path, document.bytes, own));
    }
    all
}

/// What a service's processes see; `None` for what is no service, or runs its commands outside of its sandbox.
pub(super) fn view(document: &Document, own: &[Entry], beside: Option<&dyn Beside>) -> Option<View> {
    if own.iter().any(|entry| entry.key == b"Image") {
        return None;
    }
    let starts: Vec<_> = own.iter().filter(|entry| entry.key == b"ExecStart").collect();
    // `+` in front of the program: outside of all that is modelled here.
    let is_free = |entry: &&Entry| {
        let value = bytes(&entry.value);
        let prefix = value.trim_ascii_start().iter().take_while(|byte| b"@-:+!|".contains(byte));
        prefix.copied().any(|byte| byte == b'+')
    };
    if !starts.is_empty() && starts.iter().all(is_free) {
        return None;
    }
    let lines = Lines::new(document.bytes);
    let start = starts.last().map(|entry| span(&entry.value).start);
    let place = Place {
        file: document.path.map(Into::into),
        line: start.map(|start| lines.line(start)),
        ..Place::default()
    };
    let mut settings = all_settings(document, own, beside);
    settings.retain(|setting| setting.section == b"Service");
    let mut view = sandbox::view(By::Unit, &settings, place);
    view.gap = start.map(|start| line_before(document.bytes, start));
    Some(view)
}

/// The place for a line in front of the one at `at`.
pub(super) fn line_before(text: &[u8], at: usize) -> Gap {
    let before = text.get(..at).unwrap_or_default();
    let start = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
    let ends = before.get(..start).is_some_and(|before| before.ends_with(b"\r\n"));
    Gap { at: start, before: Vec::new(), after: if ends { b"\r\n".to_vec() } else { b"\n".to_vec() } }
}

/// What a service sees that names `file`, a script that it starts or a file with its variables.
pub(crate) fn view_of_starter(file: &Path, beside: &dyn Beside) -> Option<View> {
    use std::os::unix::ffi::OsStrExt as _;
    let name = file.as_os_str().as_bytes();
    let mut folders: Vec<PathBuf> = drop_ins::FOLDERS.iter().map(PathBuf::from).collect();
    folders.extend(file.parent().map(Path::to_owned));
    let units = folders.iter().flat_map(|folder| beside.files(folder).to_vec());
    let mut units: Vec<_> = units.filter(|path| path.extension().is_some_and(|it| it == "service")).collect();
    let drop_ins = folders.iter().flat_map(|folder| {
        units.iter().filter_map(|unit| unit.file_name()).flat_map(|unit| {
            let mut name = unit.to_owned();
            name.push(".d");
            drop_ins::below(folder, name, beside).to_vec()
        })
    });
    let drop_ins: Vec<_> = drop_ins.filter(|path| path.extension().is_some_and(|it| it == "conf")).collect();
    units.extend(drop_ins);
    units.sort();
    units.dedup();
    let view_of = |unit: PathBuf| {
        let text = beside.file(&unit).ok()??;
        memchr::memmem::find(&text, name)?;
        let own = entries(&text);
        let names_it = |entry: &Entry| {
            let value = bytes(&entry.value);
            let is_end = |at: usize| {
                value.get(at).is_none_or(|byte| byte.is_ascii_whitespace() || b"\"';".contains(byte))
            };
            (entry.key.starts_with(b"Exec") || entry.key == b"EnvironmentFile")
                && memchr::memmem::find_iter(&value, name).any(|at| is_end(at + name.len()))
        };
        if !own.iter().any(names_it) {
            return None;
        }
        let mut view = view(&Document { path: Some(&unit), bytes: &text }, &own, Some(beside))?;
        // The line to add belongs into another file than the rewritten one.
        view.gap = None;
        Some(view)
    };
    units.into_iter().find_map(view_of)
}

/// What the processes see that a service of this name starts; `None`: there is no such unit.
pub(crate) fn view_of_daemon(name: &str, beside: &dyn Beside) -> Option<View> {
    let units = drop_ins::FOLDERS.iter().rev().map(|folder| Path::new(folder).join(name));
    let (path, text) = units.into_iter().find_map(|path| {
        let text = beside.file(&path).ok()??;
        Some((path, text))
    })?;
    let document = Document { path: Some(&path), bytes: &text };
    let mut view = view(&document, &entries(&text), Some(beside))?;
    view.by = By::Daemon;
    // The line to add belongs into a drop-in of that unit; and whom QEMU runs as, the daemon decides.
    (view.gap, view.user) = (None, None);
    Some(view)
}

/// Settings of a quadlet that decide what QEMU sees and whom it runs as.
const OF_VIEW: &[&[u8]] = &[
    b"Volume",
    b"Mount",
    b"Tmpfs",
    b"User",
    b"UserNS",
    b"PodmanArgs",
    b"UIDMap",
    b"RemapUsers",
    b"SubUIDMap",
];

/// What the files around a quadlet, and its place, say of its container.
pub(super) fn about_quadlet(path: &Path, beside: Option<&dyn Beside>, container: &mut Container) {
    let at = container.place.clone();
    let is_users = path.to_string_lossy().contains("/.config/containers/systemd/")
        || path.starts_with("/etc/containers/systemd/users");
    if is_users && container.user_namespace.is_none() {
        container.remarks.push((
            at.clone(),
            "a user's quadlet runs in that user's namespace: root in the container is the user, and other users are others on the host"
                .to_owned(),
            "give the files the host's id of the container's user: `podman top NAME huser hgroup` prints it".to_owned(),
        ));
    }
    let Some(beside) = beside else { return };
    for part in drop_ins::ordered(path, beside).into_iter().filter(|part| part != path) {
        let Ok(Some(text)) = beside.file(&part) else { continue };
        let said = entries(&text).into_iter().find(|entry| OF_VIEW.contains(&entry.key.as_slice()));
        if let Some(entry) = said {
            let line = [entry.key.as_slice(), b"=", bytes(&entry.value).trim_ascii()].concat();
            container.remarks.push((
                at.clone(),
                format!(
                    "the drop-in {} says {}, which is not read here",
                    crate::text::escape_path(&part),
                    escape(&line)
                ),
                "see that it leaves the export visible and writable for QEMU's user".to_owned(),
            ));
        }
    }
}

/// Takes the helpers' units out of what the unit requires.
pub(super) fn requirements(document: &Document, own: &[Entry], beside: Option<&dyn Beside>, all: &mut Edits) {
    if let Some((path, beside)) = document.path.zip(beside) {
        linked(path, beside, all);
    }
    let unit = Unit::new(document.path);
    for setting in all_settings(document, own, beside) {
        if !REQUIRING.contains(&setting.key.as_slice()) {
            continue;
        }
        let helpers: Vec<_> =
            setting.words.iter().filter(|word| is_helper(word, document.path, beside)).collect();
        let Some(first) = helpers.first() else { continue };
        let here = setting.place.file.as_deref() == document.path;
        let what = escape(&[setting.key.as_slice(), b"=", first].concat()).into_owned();
        all.findings.push(Finding {
            kind: &finding::HELPER_REQUIRED,
            place: setting.place.clone(),
            message: format!("{what}: the unit is not started once the helper is disabled or removed"),
            remedy: Some(format!("remove {} from {}=", escape(first), escape(&setting.key))),
            subject: None,
        });
        let entry = own.iter().find(|entry| here && Some(span(&entry.value)) == setting.place.span);
        let edits = entry.map(|entry| without(document.bytes, &unit, entry, &helpers)).unwrap_or_default();
        all.additions
            .extend(edits.into_iter().map(|edit| Addition { edit, what: format!("removes {what}") }));
    }
}

/// Takes a helper's unit that is linked into the unit's folder of requirements, `vm.service.requires`: an `[Install]` section with
/// RequiredBy= makes it.
fn linked(path: &Path, beside: &dyn Beside, all: &mut Edits) {
    for link in drop_ins::required_links(path, beside) {
        use std::os::unix::ffi::OsStrExt as _;
        let name = link.file_name().unwrap_or_default().as_bytes();
        if !is_helper(name, Some(path), Some(beside)) {
            continue;
        }
        let shown = crate::text::escape_path(&link).into_owned();
        all.findings.push(Finding {
            kind: &finding::HELPER_REQUIRED,
            place: Place { file: Some(link.clone()), ..Place::default() },
            message: format!(
                "{shown} makes the unit require the helper: it is not started once the helper is removed"
            ),
            remedy: Some(format!(
                "disable the helper's unit, or remove {shown}, and run `systemctl daemon-reload`"
            )),
            subject: None,
        });
    }
}

/// The edit by which an entry loses words; the whole line, where it has no others.
fn without(text: &[u8], unit: &Unit, entry: &Entry, gone: &[&Vec<u8>]) -> Vec<Edit> {
    let words = unit.words(text, &entry.value).unwrap_or_default();
    let goes = |word: &Vec<u8>| gone.contains(&&unit.resolved_in_part(word));
    if words.iter().all(|word| goes(&word.bytes())) {
        let at = span(&entry.value);
        let start = memchr::memrchr(b'\n', text.get(..at.start).unwrap_or_default()).map_or(0, |end| end + 1);
        let rest = text.get(at.end..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest).map_or(text.len(), |end| at.end + end + 1);
        return vec![Edit { span: start..end, with: Vec::new() }];
    }
    let gone = words.iter().filter(|word| goes(&word.bytes()));
    gone.map(|word| {
        let blank = text.get(..word.span.start).is_some_and(|before| before.ends_with(b" "));
        Edit { span: word.span.start - usize::from(blank)..word.span.end, with: Vec::new() }
    })
    .collect()
}

/// Whether a unit runs the helper: its own file says so, its service's, or, where no file is found, its name.
fn is_helper(name: &[u8], path: Option<&Path>, beside: Option<&dyn Beside>) -> bool {
    let Some((beside, path)) = beside.zip(path) else { return says_word(name) && is_named_so(name) };
    let around = path.parent().filter(|folder| folder.extension().is_none_or(|it| it != "d"));
    let around = around.or_else(|| path.parent()?.parent());
    let mut found = false;
    let mut folders: Vec<PathBuf> = drop_ins::FOLDERS.iter().map(PathBuf::from).collect();
    folders.extend(around.map(Path::to_owned));
    for candidate in files_of(name) {
        for folder in &folders {
            if let Ok(Some(text)) = beside.file(&folder.join(path_of(&candidate))) {
                found = true;
                let runs = |entry: &Entry| {
                    let value = bytes(&entry.value);
                    matches!(entry.key.as_slice(), b"ExecStart" | b"Image" | b"Exec")
                        && memchr::memmem::find(&value, b"virtfs-proxy-helper").is_some()
                };
                if entries(&text).iter().any(runs) {
                    return true;
                }
            }
        }
    }
    !found && is_named_so(name)
}

fn is_named_so(name: &[u8]) -> bool {
    [&b"virtfs-proxy"[..], b"proxy-helper"].iter().any(|part| memchr::memmem::find(name, part).is_some())
}

/// The files in which a unit of this name is described: itself, its template, its service, its quadlet.
fn files_of(name: &[u8]) -> Vec<Vec<u8>> {
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.') else { return vec![name.to_vec()] };
    let (stem, suffix) = name.split_at(dot);
    let mut stems = vec![stem.to_vec()];
    if let Some(at) = stem.iter().position(|byte| *byte == b'@') {
        stems.push(stem.get(..=at).unwrap_or_default().to_vec());
    }
    let suffixes: Vec<&[u8]> = match suffix {
        b".socket" => vec![b".socket", b".service", b".container"],
        b".service" => vec![b".service", b".container"],
        other => vec![other],
    };
    let mut files = Vec::new();
    for stem in &stems {
        files.extend(suffixes.iter().map(|suffix| [stem.as_slice(), suffix].concat()));
        // A socket for each connection starts a template.
        files.push([stem.as_slice(), b"@.service"].concat());
    }
    files
}
