//! Programs that start QEMU in a user namespace: what that means for the owners of an export's files.
//!
//! Sources: unshare(1), podman-unshare(1), systemd-nspawn(1), user_namespaces(7).

use super::base;
use crate::share::Place;
use crate::share::view::Remark;
use crate::sources::chars::{Lines, Word};
use crate::sources::format::Document;
use crate::text::escape;

/// Options of `unshare` that make a user namespace, without their values.
const OF_UNSHARE: &[&[u8]] = &[
    b"--user",
    b"--map-user",
    b"--map-group",
    b"--map-root-user",
    b"--map-current-user",
    b"--map-auto",
    b"--map-users",
    b"--map-groups",
];

/// Those of them that give the namespace more users than one.
const OF_MANY: &[&[u8]] = &[b"--map-auto", b"--map-users", b"--map-groups"];

/// Short options of `unshare`: those that make a user namespace.
const LETTERS: &[u8] = b"Urc";

/// Options of `unshare` with a value that may be a word of its own.
const WITH_VALUE: &[&[u8]] = &[
    b"--map-user",
    b"--map-group",
    b"--map-users",
    b"--map-groups",
    b"--root",
    b"--wd",
    b"--setuid",
    b"--setgid",
    b"--setgroups",
    b"--propagation",
    b"--monotonic",
    b"--boottime",
];

/// Programs with a subcommand `unshare`, whose namespace has the users of /etc/subuid.
const WITH_UNSHARE: &[&[u8]] = &[b"podman", b"buildah"];

/// What is said of the user namespace in which these words start QEMU; `None`: in none.
/// `inner`: a place in the word that is a command line with QEMU in it.
pub(crate) fn remark(
    document: &Document,
    lines: &Lines,
    words: &[Word],
    inner: Option<usize>,
) -> Option<Remark> {
    let is_qemu = |word: &Word| base(word).starts_with(b"qemu") || base(word) == b"kvm";
    let holds = |word: &Word| inner.is_some_and(|at| word.span.contains(&at));
    let qemu = words.iter().position(|word| is_qemu(word) || holds(word))?;
    let before = words.get(..qemu)?;
    before.iter().enumerate().find_map(|(at, program)| {
        let options = before.get(at + 1..).unwrap_or_default();
        let (said, has_many) = match base(program).as_slice() {
            b"unshare" => {
                let engine = at.checked_sub(1).and_then(|at| before.get(at)).map(base);
                match engine.filter(|engine| WITH_UNSHARE.contains(&engine.as_slice())) {
                    Some(engine) => ([engine, b" unshare".to_vec()].concat(), true),
                    None => of_unshare(options)?,
                }
            }
            b"systemd-nspawn" => of_nspawn(options)?,
            _ => return None,
        };
        let said = escape(&said).into_owned();
        let place = Place {
            file: document.path.map(Into::into),
            line: Some(lines.line(program.span.start)),
            span: Some(program.span.clone()),
            ..Place::default()
        };
        Some(if has_many { many(place, &said) } else { one(place, &said) })
    })
}

fn of_unshare(options: &[Word]) -> Option<(Vec<u8>, bool)> {
    let mut found = None;
    let mut many = false;
    let mut words = options.iter().map(Word::bytes);
    while let Some(word) = words.next().filter(|word| word.starts_with(b"-") && word != b"--") {
        let name = word.split(|byte| *byte == b'=').next().unwrap_or_default();
        let is_long = OF_UNSHARE.contains(&name);
        let letters = word.get(1..).filter(|_| !word.starts_with(b"--")).unwrap_or_default();
        let own = letters.iter().position(|letter| b"SGRwl=".contains(letter)).unwrap_or(letters.len());
        let is_short = letters.iter().take(own).any(|letter| LETTERS.contains(letter));
        many |= OF_MANY.contains(&name);
        // The next word is the value of this one.
        if WITH_VALUE.contains(&word.as_slice()) || !letters.is_empty() && own + 1 == letters.len() {
            words.next();
        }
        if is_long || is_short {
            found.get_or_insert_with(|| [b"unshare ", word.as_slice()].concat());
        }
    }
    found.map(|said| (said, many))
}

fn of_nspawn(options: &[Word]) -> Option<(Vec<u8>, bool)> {
    let mut words = options.iter().map(Word::bytes);
    let word = words.find(|word| word == b"-U" || word.starts_with(b"--private-users="))?;
    let value = word.strip_prefix(b"--private-users=").unwrap_or(b"yes");
    let is_none = matches!(value, b"no" | b"false" | b"0" | b"off" | b"identity");
    (!is_none).then(|| ([b"systemd-nspawn ", word.as_slice()].concat(), true))
}

/// A namespace with the users of a range.
fn many(place: Place, said: &str) -> Remark {
    Remark {
        place,
        message: format!("{said} gives QEMU a user namespace: the ids of its users are other ids on the host, and files of all others are nobody's to it"),
        remedy: "give the files the host's id of QEMU's user in it (/proc/PID/uid_map of the running QEMU shows it): `migrate convert \
                 --owner NUMBER`"
            .to_owned(),
    }
}

/// A namespace with one user.
fn one(place: Place, said: &str) -> Remark {
    Remark {
        place,
        message: format!(
            "{said} gives QEMU a user namespace: to the host it is the user that starts it, whoever it is in there, and it can't give \
             files to others"
        ),
        remedy: "give the files to that user: `migrate convert --owner USER`".to_owned(),
    }
}
