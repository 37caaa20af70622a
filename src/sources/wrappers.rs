//! Programs that start QEMU among other mounts than the host's: `systemd-run -p`, bubblewrap, `systemd-nspawn`, firejail,
//! `chroot` → what QEMU sees.
//!
//! Sources: systemd-run(1), bwrap(1), systemd-nspawn(1), firejail(1), chroot(1).

pub(super) mod users;

use std::ops::Range;
use std::path::PathBuf;

use super::chars::{Lines, Word};
use super::containers::gap_before;
use super::format::{Document, path_of};
use super::systemd::sandbox;
use super::systemd::setting::Setting;
use crate::share::Place;
use crate::share::view::{Access, By, Effect, Layer, Remark, View};
use crate::text::escape;

/// The programs.
const PROGRAMS: &[(&[u8], By)] = &[
    (b"systemd-run", By::SystemdRun),
    (b"bwrap", By::Bwrap),
    (b"systemd-nspawn", By::Nspawn),
    (b"firejail", By::Firejail),
    (b"chroot", By::Chroot),
];

/// What an option of a program does with its values.
enum Does {
    /// Shows the first at the second; at the first, where there is no second.
    Bind(Access),
    /// Empties it.
    Empty,
    /// Hides it.
    Hide,
    /// Changes how it can be used.
    Access(Access),
    /// The new root.
    Root,
}

use Access::{ReadOnly, Writable};

/// Each program's options, how many words of values follow, and what it does.
const OPTIONS: &[(By, &[u8], usize, Does)] = &[
    (By::Bwrap, b"--bind", 2, Does::Bind(Writable)),
    (By::Bwrap, b"--bind-try", 2, Does::Bind(Writable)),
    (By::Bwrap, b"--dev-bind", 2, Does::Bind(Writable)),
    (By::Bwrap, b"--dev-bind-try", 2, Does::Bind(Writable)),
    (By::Bwrap, b"--ro-bind", 2, Does::Bind(ReadOnly)),
    (By::Bwrap, b"--ro-bind-try", 2, Does::Bind(ReadOnly)),
    (By::Bwrap, b"--tmpfs", 1, Does::Empty),
    (By::Bwrap, b"--remount-ro", 1, Does::Access(ReadOnly)),
    (By::Nspawn, b"--bind", 1, Does::Bind(Writable)),
    (By::Nspawn, b"--bind-ro", 1, Does::Bind(ReadOnly)),
    (By::Nspawn, b"--tmpfs", 1, Does::Empty),
    (By::Nspawn, b"--inaccessible", 1, Does::Hide),
    (By::Nspawn, b"--directory", 1, Does::Root),
    (By::Nspawn, b"-D", 1, Does::Root),
    (By::Firejail, b"--blacklist", 1, Does::Hide),
    (By::Firejail, b"--tmpfs", 1, Does::Empty),
    (By::Firejail, b"--read-only", 1, Does::Access(ReadOnly)),
    (By::Firejail, b"--read-write", 1, Does::Access(Writable)),
];

/// What QEMU sees that one of the programs starts by these words; `None`: none of them does.
/// `inner`: a place in the word that is a command line with QEMU in it, `sh -c '…'`.
pub(super) fn view(document: &Document, lines: &Lines, words: &[Word], inner: Option<usize>) -> Option<View> {
    let is_qemu = |word: &Word| base(word).starts_with(b"qemu") || base(word) == b"kvm";
    let holds = |word: &Word| inner.is_some_and(|at| word.span.contains(&at));
    let qemu = words.iter().position(|word| is_qemu(word) || holds(word))?;
    let before = words.get(..qemu)?;
    let called = |word: &Word| PROGRAMS.iter().find(|(name, _)| *name == base(word).as_slice());
    let (at, by) = before.iter().enumerate().find_map(|(at, word)| Some((at, called(word)?.1)))?;
    let place = |span: &Range<usize>| Place {
        file: document.path.map(Into::into),
        line: Some(lines.line(span.start)),
        span: Some(span.clone()),
        ..Place::default()
    };
    let options = before.get(at + 1..)?;
    let here = place(&before.get(at)?.span);
    let mut view = match by {
        By::SystemdRun => return Some(of_systemd_run(options, words.get(at + 1)?, here, &place)),
        By::Chroot => {
            let mut view = View::new(by, false, here.clone());
            let root = options.iter().find(|word| !word.bytes().starts_with(b"-"))?;
            let proc = known(root).map(|root| root.join("proc/self"));
            if !proc.is_some_and(|proc| proc.exists()) {
                let remedy = format!("mount /proc at {}/proc first", escape(&root.bytes()));
                view.remarks.push(Remark::no_proc(here.clone(), "chroot", &remedy));
            }
            view.layers.push(layer(PathBuf::from("/"), Effect::Bind(known(root), Writable), here, root));
            return Some(view);
        }
        _ => View::new(by, by == By::Firejail, here),
    };
    let mut at = 0;
    while let Some(word) = options.get(at) {
        at += 1;
        let text = word.bytes();
        let equals = text.iter().position(|byte| *byte == b'=');
        let name = text.get(..equals.unwrap_or(text.len())).unwrap_or_default();
        let Some((_, _, count, does)) = OPTIONS.iter().find(|(of, option, ..)| *of == by && *option == name)
        else {
            continue;
        };
        let values: Vec<Word> = match equals {
            Some(equals) => vec![Word::plain(word.chars.get(equals + 1..).unwrap_or_default().to_vec())],
            None => options.get(at..at + count)?.to_vec(),
        };
        at += if equals.is_some() { 0 } else { *count };
        let place = place(&word.span);
        let parts: Vec<Word> = if by == By::Bwrap { values } else { values.iter().flat_map(split).collect() };
        let Some(source) = parts.first() else { continue };
        let target = match does {
            Does::Root => PathBuf::from("/"),
            _ => known(parts.get(1).unwrap_or(source)).unwrap_or_default(),
        };
        let effect = match does {
            Does::Bind(access) => Effect::Bind(known(source), *access),
            Does::Root => Effect::Bind(known(source), Writable),
            Does::Empty => Effect::Empty,
            Does::Hide => Effect::Hidden,
            Does::Access(access) => Effect::Access(*access),
        };
        view.layers.push(layer(target, effect, place, word));
    }
    let is_bwrap = by == By::Bwrap && !options.iter().any(|word| word.is(b"--proc"));
    if is_bwrap && !view.has_proc() {
        let place = view.place.clone();
        view.remarks.push(Remark::no_proc(place, "bwrap without --proc", "add --proc /proc"));
    }
    // A later option counts for more than an earlier one.
    let end = options.iter().position(|word| word.is(b"--"));
    view.gap = gap_before(end.and_then(|end| options.get(end)).or(words.get(qemu))?);
    Some(view)
}

/// What QEMU's own `-chroot DIR` or `-run-with chroot=DIR` means for mapped shares.
pub(super) fn own_root(document: &Document, lines: &Lines, words: &[Word]) -> Option<Remark> {
    let (at, root) = words.iter().enumerate().find_map(|(at, word)| {
        let value = words.get(at + 1)?;
        if word.is_any(&["-chroot", "--chroot"]) {
            return Some((at, value.clone()));
        }
        let options = value
            .chars
            .split(|c| c.known && c.byte == b',')
            .filter(|_| word.is_any(&["-run-with", "--run-with"]));
        let mut roots = options.filter(|option| option.iter().map(|c| c.byte).take(7).eq(*b"chroot="));
        Some((at, Word::plain(roots.next()?.get(7..)?.to_vec())))
    })?;
    if known(&root).is_some_and(|root| root.join("proc/self").exists()) {
        return None;
    }
    let span = words.get(at)?.span.clone();
    let place = Place {
        file: document.path.map(Into::into),
        line: Some(lines.line(span.start)),
        span: Some(span),
        ..Place::default()
    };
    let shown = escape(&root.bytes()).into_owned();
    let said = format!("chroot to {shown}");
    Some(Remark::no_proc(place, &said, &format!("mount /proc at {shown}/proc before QEMU starts")))
}

fn layer(target: PathBuf, effect: Effect, place: Place, word: &Word) -> Layer {
    Layer { target, effect, place, said: escape(&word.bytes()).into_owned() }
}

/// A path that is statically known.
fn known(word: &Word) -> Option<PathBuf> {
    let all = word.chars.iter().all(|c| c.known);
    let path: PathBuf = path_of(&word.bytes()).components().collect();
    (all && path.is_absolute()).then_some(path)
}

fn base(word: &Word) -> Vec<u8> {
    word.bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec()
}

/// The parts of a value between colons.
fn split(word: &Word) -> Vec<Word> {
    word.chars.split(|c| c.known && c.byte == b':').map(|part| Word::plain(part.to_vec())).collect()
}

/// What the properties of `systemd-run` make of the service.
fn of_systemd_run(
    options: &[Word],
    first: &Word,
    here: Place,
    place: &dyn Fn(&Range<usize>) -> Place,
) -> View {
    let mut settings = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let text = word.bytes();
        let property = match text.strip_prefix(b"--property=").or_else(|| text.strip_prefix(b"-p")) {
            Some(inline) if !inline.is_empty() => Some(inline.to_vec()),
            _ if matches!(text.as_slice(), b"-p" | b"--property") => words.next().map(Word::bytes),
            _ => text.strip_prefix(b"--uid=").map(|user| [b"User=", user].concat()),
        };
        let Some(property) = property else { continue };
        let Some(equals) = property.iter().position(|byte| *byte == b'=') else { continue };
        let (key, value) = property.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        settings.push(Setting {
            section: b"Service".to_vec(),
            key: key.to_vec(),
            words: value
                .split(u8::is_ascii_whitespace)
                .filter(|w| !w.is_empty())
                .map(<[u8]>::to_vec)
                .collect(),
            place: place(&word.span),
        });
    }
    let mut view = sandbox::view(By::SystemdRun, &settings, here);
    view.gap = gap_before(first);
    view
}
