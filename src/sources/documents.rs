//! YAML and JSON documents that carry argument lists: Compose, Kubernetes, Ansible, packer, and the like.
//!
//! serde_yaml says whether a document is well-formed and refuses what multiplies without end; saphyr's events say
//! where each scalar stands.

mod commands;
mod compose;
mod containers;
mod depth;
mod dialects;
mod required;
mod scalars;
mod stream;
mod tree;
mod words;

use std::os::unix::ffi::OsStrExt;

use serde::Deserialize;

use self::depth::refuse_deep;
use self::tree::{Node, Value};
use super::format::{Beside, Document, Format, Reading, Unreadable};
use super::launcher::is_prose;
use super::naming::tells_format;
use crate::share::rewrite::{Edits, Refusal, Rewrite};
use crate::share::view::By;
use crate::sources::commands::{is_candidate, read, rewrite};
use crate::sources::containers::UserMap;
use crate::sources::lexed::Lexed;
use crate::sources::templates::Masked;
use crate::text::escape;

/// YAML and JSON.
pub(super) struct Documents;

/// Keys at the start of a line by which a document without a telling name is told.
const KEYS: &[&[u8]] =
    &[b"apiVersion:", b"services:", b"kind:", b"version:", b"hosts:", b"- hosts:", b"- name:"];

/// More than any configuration has, in bytes: a tree takes many times as much.
const MAX_DOCUMENT: usize = 1 << 20;

/// The longest text without a telling name that is tried as YAML, in bytes.
const MAX_UNNAMED: usize = 64 << 10;

/// More lines and commas than any configuration has: each value takes hundreds of bytes.
const MAX_VALUES: usize = 20_000;

impl Format for Documents {
    fn name(&self) -> &'static str {
        "yaml"
    }

    fn recognises(&self, document: &Document) -> bool {
        let path = document.telling_path().unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match name.rsplit_once('.') {
            Some((_, "yaml" | "yml" | "sls" | "eyaml" | "json" | "jsonc" | "pid")) => true,
            _ if tells_format(&name) => false,
            _ if is_prose(document) => false,
            _ => looks_like_one(document.bytes) || is_nested(document.bytes),
        }
    }

    fn read_beside(&self, document: &Document, beside: Option<&dyn Beside>) -> Result<Reading, Unreadable> {
        if !is_candidate(document.bytes) {
            return Ok(Reading::default());
        }
        let (mut lexed, unread) = match lex_document(document) {
            Ok(lexed) => (lexed, Vec::new()),
            Err(error) => stream::lex_parts(document, lex_document).ok_or(error)?,
        };
        if let Some(beside) = beside {
            note_changes(document, beside, &mut lexed);
        }
        Ok(Reading { unread, ..read(document, &lexed) })
    }

    fn rewrite_beside(
        &self,
        document: &Document,
        how: &Rewrite,
        beside: Option<&dyn Beside>,
    ) -> Result<Edits, Refusal> {
        if !is_candidate(document.bytes) {
            return Ok(Edits::default());
        }
        let mut lexed = lex_document(document).map_err(Unreadable::refusal)?;
        if let Some(beside) = beside {
            look_beside(document, beside, &mut lexed);
        }
        rewrite(document, &lexed, how)
    }
}

/// Notes which of a Compose file's services other Compose files change.
fn note_changes(document: &Document, beside: &dyn Beside, lexed: &mut Lexed) {
    if !lexed.containers.iter().any(|container| container.service.is_some()) {
        return;
    }
    let Some((path, folder)) = document.path.and_then(|path| Some((path, path.parent()?))) else { return };
    let changed = compose::changed(path, folder, beside);
    for container in &mut lexed.containers {
        let by = changed.iter().find(|(service, _)| container.service.as_ref() == Some(service));
        container.changed_in = by.map(|(_, file)| file.clone());
    }
}

/// Takes what the files around a document say of its containers.
fn look_beside(document: &Document, beside: &dyn Beside, lexed: &mut Lexed) {
    lexed.user_map = UserMap::of_docker(document.bytes, beside);
    let Some((name, folder)) =
        document.path.and_then(|path| Some((path.file_name()?.to_str()?, path.parent()?)))
    else {
        return;
    };
    note_changes(document, beside, lexed);
    let files = beside.files(folder);
    let names = files.iter().filter_map(|file| file.file_name()?.to_str());
    let together = compose::override_of(name, names);
    for container in lexed.containers.iter_mut().filter(|container| container.by == Some(By::Compose)) {
        let changed = container.changed_in.as_ref().and_then(|file| file.file_name());
        let Some(other) = changed.map(|name| escape(name.as_bytes())).or(together.map(Into::into)) else {
            continue;
        };
        container.remarks.push((
            container.place.clone(),
            if changed.is_none() || together.is_some_and(|name| name == other) {
                format!("Compose takes {other} together with this file, and it is not read here")
            } else {
                format!("{other} changes this service if Compose takes it together with this file, and it is not read here")
            },
            "see that it leaves the export visible and writable for QEMU's user".to_owned(),
        ));
    }
}

fn looks_like_one(text: &[u8]) -> bool {
    let start = text.get(..text.len().min(4096)).unwrap_or_default();
    if start.starts_with(b"#!") {
        return false;
    }
    let trimmed = start.trim_ascii_start();
    if matches!(trimmed.first(), Some(b'{')) {
        return trimmed
            .get(1..)
            .is_some_and(|rest| matches!(rest.trim_ascii_start().first(), Some(b'"' | b'}')));
    }
    let mut lines = start.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let first = lines.clone().find(|line| !line.is_empty() && !line.starts_with(b"#"));
    first == Some(b"---") || lines.any(|line| KEYS.iter().any(|key| line.starts_with(key)))
}

/// Whether a text without a telling name is YAML with keys and, below them, lists or keys again: a shell would take its quotes
/// for other ones.
fn is_nested(text: &[u8]) -> bool {
    if text.len() > MAX_UNNAMED || text.starts_with(b"#!") || !is_candidate(text) {
        return false;
    }
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let nests = |node: &Node| match &node.value {
        Value::Mapping(pairs) => {
            pairs.iter().any(|(key, value)| key.text().is_some() && value.text().is_none())
        }
        Value::Sequence(items) => items.iter().any(|item| matches!(item.value, Value::Mapping(_))),
        _ => false,
    };
    refuse_deep(text.as_bytes()).is_ok()
        && tree::nodes(text).is_ok_and(|nodes| nodes.iter().any(|node| nests(node)))
}

/// The commands of a document that a template may be.
fn lex_document(document: &Document) -> Result<Lexed, Unreadable> {
    let masked = Masked::of_yaml(document);
    Ok(masked.restore(lex(&Document { bytes: masked.bytes(), ..*document })?))
}

/// The commands of a document.
fn lex(document: &Document) -> Result<Lexed, Unreadable> {
    let bytes = document.bytes;
    let folder = document.path.and_then(|path| path.parent());
    let has_many_values = memchr::memchr2_iter(b'\n', b',', bytes).count() > MAX_VALUES;
    if (has_many_values || bytes.len() > MAX_DOCUMENT) && super::commands::lacks_word(bytes) {
        return Ok(Lexed::default());
    }
    if bytes.len() > MAX_DOCUMENT {
        return Err(Unreadable {
            line: None,
            reason: "it is a document of more than 1 MiB: split it".to_owned(),
        });
    }
    if has_many_values {
        return Err(Unreadable { line: None, reason: "it has too many values: split it".to_owned() });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| Unreadable {
        line: Some(super::chars::Lines::new(bytes).line(error.valid_up_to())),
        reason: "it is not UTF-8".to_owned(),
    })?;
    let lexed = |text: &str| {
        check(text)?;
        let mut lexed = Lexed::default();
        for node in tree::nodes(text)? {
            commands::collect(text, folder, &node, &mut lexed);
            lexed.required.extend(required::required(text, &node, folder));
        }
        Ok(lexed)
    };
    refuse_deep(bytes)?;
    // A comment is text to YAML, and may spoil a list without a word.
    if let Some(plain) = dialects::without_comments(text)
        && let Ok(lexed) = lexed(&plain)
    {
        return Ok(lexed);
    }
    lexed(text).or_else(|error: Unreadable| {
        // Not well-formed as it is: it may be so once another program has filled it in.
        let plain = dialects::without_templates(text).ok_or_else(|| error.clone())?;
        let mut lexed = lexed(&plain).map_err(|_| error)?;
        dialects::restore(bytes, &mut lexed);
        Ok(lexed)
    })
}

/// Whether the document is well-formed, by serde_yaml.
fn check(text: &str) -> Result<(), Unreadable> {
    for document in crate::yaml::documents(text) {
        // Values of any shape are taken; only what is no YAML at all, or multiplies without end, is an error.
        serde::de::IgnoredAny::deserialize(document).map_err(|error| Unreadable {
            line: error.location().map(|location| location.line() as u64),
            reason: error.to_string(),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
