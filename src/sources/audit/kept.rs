//! What this program leaves on a host: the documents of `migrate plan`, and the files that `migrate config --in-place` keeps,
//! `NAME.orig` beside `NAME`.
//!
//! A name proves nothing. Such a file is left out of the shares only where the file beside it has each of its shares over
//! `local`, and none over the proxy; and it is told of.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::host::{Content, Host};
use crate::report::finding::{self, Finding};
use crate::share::backend::Backend;
use crate::share::bounds::bounded;
use crate::share::{Place, Share};
use crate::sources::format::{Document, Reading};
use crate::sources::registry::recognise_named;
use crate::text::escape_path;

/// The keys of a document of `migrate plan`. What is in a move is not looked at: no program starts a guest by it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "a text that has these keys and no others is a plan")]
struct Plan {
    schema: u32,
    host: String,
    #[serde(default)]
    root: Option<String>,
    tool: String,
    answers: Answers,
    moves: Vec<Move>,
    unread: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "see Plan")]
struct Answers {
    paths: Vec<String>,
    options: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "see Plan")]
struct Move {
    guests: Vec<IgnoredAny>,
    exports: Vec<IgnoredAny>,
    helpers: Vec<IgnoredAny>,
    questions: Vec<IgnoredAny>,
    steps: Vec<IgnoredAny>,
}

/// Whether a text is a document of `migrate plan`, YAML or JSON: it starts nothing, and tells of the shares of other files. It must
/// be one as a whole: a script that is appended to a plan is a script. Comments may stand before it, but none that names a program.
pub(super) fn is_plan(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let (line, after) = rest.split_at(end + 1);
        if line.starts_with(b"#!") {
            return false;
        }
        if !line.starts_with(b"#") && line.trim_ascii() != b"---" && !line.trim_ascii().is_empty() {
            break;
        }
        rest = after;
    }
    let has = |key: &[u8]| memchr::memmem::find(rest, key).is_some();
    if rest.starts_with(b"{") {
        return has(b"\n  \"answers\": {") && serde_json::from_slice::<Plan>(rest).is_ok();
    }
    rest.starts_with(b"schema: ") && has(b"\nanswers:\n") && crate::yaml::from_slice::<Plan>(rest).is_ok()
}

/// What to say of the file at `path`, in which the shares of `reading` are, where it is such a file.
pub(super) fn told(host: &Host, path: &Path, reading: &Reading) -> Option<Finding> {
    let current = current(path)?;
    if reading.shares.is_empty() {
        return None;
    }
    let Ok(Content::Whole(bytes)) = host.read(&current, true) else { return None };
    let document = Document { path: Some(&current), bytes: &bytes };
    let format = Backend::Local.seek(|| recognise_named(&document))?;
    let (proxy, cut) = bounded(|| format.read_beside(&document, Some(host)));
    if cut.is_some() || !proxy.ok()?.shares.is_empty() {
        return None;
    }
    let (local, cut) = bounded(|| Backend::Local.seek(|| format.read_beside(&document, Some(host))));
    let mut local = local.ok()?.shares;
    // libvirt's own element is in no argument.
    let native = memchr::memmem::find(&bytes, b"<filesystem").is_some();
    for share in &reading.shares {
        match local.iter().position(|other| is_same(share, other)) {
            Some(at) => drop(local.swap_remove(at)),
            None if native && is_native(share, &bytes) => {}
            None => return None,
        }
    }
    cut.is_none().then(|| Finding {
        kind: &finding::KEPT_ORIGINAL,
        place: Place { file: Some(path.to_owned()), ..Place::default() },
        message: format!("it is as {} was before its shares moved to local", escape_path(&current)),
        remedy: None,
        subject: None,
    })
}

/// `NAME` for `NAME.orig` and `NAME.orig.2`.
fn current(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (own, number) = name.rsplit_once(".orig")?;
    let number = number.strip_prefix('.').unwrap_or(number);
    let is_ours =
        !own.is_empty() && (number.is_empty() || number.parse::<u16>().is_ok_and(|number| number > 1));
    is_ours.then(|| path.with_file_name(own))
}

fn is_same(share: &Share, other: &Share) -> bool {
    (&share.fsdev, &share.mount_tag) == (&other.fsdev, &other.mount_tag)
        && (!share.readonly || other.readonly)
}

/// Whether libvirt's element for the share is there.
fn is_native(share: &Share, text: &[u8]) -> bool {
    let Some(tag) = &share.mount_tag else { return false };
    [b'\'', b'"'].iter().any(|quote| {
        let target = [b"<target dir=", &[*quote][..], tag, &[*quote]].concat();
        memchr::memmem::find(text, &target).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "schema: 2\nhost: h\ntool: 1.0.0\nanswers:\n  paths: []\n  options:\n  - --guest=vm\nmoves:\n\
                        - guests: []\n  exports: []\n  helpers: []\n  questions: []\n  steps:\n  - kind: convert\nunread: []\n";

    #[test]
    fn a_plan_is_one_as_a_whole() {
        let json = "{\n  \"schema\": 2,\n  \"host\": \"h\",\n  \"tool\": \"1\",\n  \"answers\": {\"paths\": [], \"options\": []},\n  \
                    \"moves\": [],\n  \"unread\": []\n}\n";
        let script = "qemu-system-x86_64 -fsdev proxy,id=a,socket=/run/a\n";
        for (what, text, expected) in [
            ("YAML", YAML.to_owned(), true),
            ("JSON", json.to_owned(), true),
            ("YAML and a script", format!("{YAML}{script}"), false),
            ("JSON and a script", format!("{json}{script}"), false),
            ("a note and YAML", format!("# for web\n---\n{YAML}"), true),
            ("a note and JSON", format!("# for web\n{json}"), true),
            ("two documents", format!("{YAML}---\n{YAML}"), false),
            ("a further key", format!("{YAML}run: |\n  {script}"), false),
            ("a further key of a move", YAML.replace("  helpers: []", "  helpers: []\n  run: x"), false),
            ("a key is missing", YAML.replace("unread: []\n", ""), false),
            ("a script and YAML", format!("# for web\n#!/bin/sh\n{YAML}"), false),
            ("cut", YAML.get(..YAML.len() - 12).unwrap().to_owned(), false),
        ] {
            assert_eq!(is_plan(text.as_bytes()), expected, "{what}");
        }
    }
}
