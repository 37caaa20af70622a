//! avocado-vt's Cartesian configurations: `9p_fs_driver = proxy` and the settings beside it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::share::bounds::spend;
use crate::share::{ExportFrom, ExportPath, Place, Share, Transport};
use crate::sources::format::{Document, path_of};

/// The shares of a configuration.
pub(super) fn shares(document: &Document) -> Vec<Share> {
    let lines = lines(document.bytes);
    let mut shares = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((key, value)) = line.setting else { continue };
        if key.ends_with(b"9p_fs_driver") && value == b"proxy" && spend(document.bytes.len()) {
            shares.push(share(document, &lines, index));
        }
    }
    shares
}

/// A line that says something.
struct Line<'a> {
    /// From 1.
    number: u64,
    /// The blocks around it, as indexes of the lines that open them, outer ones first.
    around: Vec<usize>,
    /// `key = value`.
    setting: Option<(&'a [u8], &'a [u8])>,
    /// Whether it opens one of several variants: `- name:`.
    is_variant: bool,
    /// Whether it sets what other lines add to or replace: `+=`, `?=`, `del`.
    changes: bool,
}

/// The lines with the blocks that their indentation puts them in.
fn lines(file: &[u8]) -> Vec<Line<'_>> {
    let mut all: Vec<Line> = Vec::new();
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (number, text) in (1..).zip(file.split(|byte| *byte == b'\n')) {
        let said = text.trim_ascii();
        if said.is_empty() || said.starts_with(b"#") || said.starts_with(b"//") {
            continue;
        }
        let indent = text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        while open.last().is_some_and(|(deep, _)| *deep >= indent) {
            open.pop();
        }
        let setting = setting(text);
        let around = open.iter().map(|(_, line)| *line).collect();
        let changes = setting.is_some_and(|(key, _)| key.last().is_some_and(|byte| b"+<?~:".contains(byte)))
            || said.starts_with(b"del ");
        if setting.is_none() {
            open.push((indent, all.len()));
        }
        all.push(Line { number, around, setting, is_variant: said.starts_with(b"- "), changes });
    }
    all
}

/// The value that a setting has for the share at `at`: what its own variant says, or what is said for all variants
/// around it. `None` where another block could say otherwise.
fn value(lines: &[Line], at: usize, name: &[u8]) -> Option<Vec<u8>> {
    let own = lines.get(at)?;
    let said = |line: &&Line| line.setting.is_some_and(|(key, _)| bare(key).ends_with(name));
    let mut found: Option<&[u8]> = None;
    for line in lines.iter().filter(said) {
        let (_, value) = line.setting?;
        if line.changes {
            return None;
        }
        if own.around.starts_with(&line.around) {
            found = Some(value);
        }
    }
    let found = found?;
    // Of blocks that are neither around the share nor another variant of theirs, nobody knows whether they apply.
    let differs = |line: &&Line| line.setting.is_some_and(|(_, value)| value != found);
    let doubtful = lines
        .iter()
        .filter(said)
        .filter(differs)
        .any(|line| !own.around.starts_with(&line.around) && !excludes(lines, own, line));
    (!doubtful).then(|| found.to_vec())
}

/// Whether two lines are in different variants of one list: never in force together.
fn excludes(lines: &[Line], a: &Line, b: &Line) -> bool {
    let common = a.around.iter().zip(&b.around).take_while(|(a, b)| a == b).count();
    let is_variant = |line: &Line| {
        line.around.get(common).and_then(|at| lines.get(*at)).is_some_and(|line| line.is_variant)
    };
    is_variant(a) && is_variant(b)
}

/// A setting's name without its operator.
fn bare(key: &[u8]) -> &[u8] {
    let end = key.iter().rposition(|byte| !b"+<?~: ".contains(byte)).map_or(0, |end| end + 1);
    key.get(..end).unwrap_or(key)
}

fn share(document: &Document, lines: &[Line], at: usize) -> Share {
    let get = |name: &[u8]| value(lines, at, name);
    let line = lines.get(at).map(|line| line.number);
    let place = Place { file: document.path.map(Into::into), line, ..Place::default() };
    let known =
        |value: &Vec<u8>| !value.iter().any(|byte| matches!(byte, b'$' | b'%')) && value.starts_with(b"/");
    let export = get(b"9p_export_dir").filter(known);
    Share {
        fsdev: Vec::new(),
        mount_tag: get(b"9p_mount_tag").or_else(|| get(b"9p_tag")),
        transport: match get(b"9p_socket_name") {
            Some(socket) if known(&socket) => Transport::Socket(path_of(&socket)),
            Some(socket) => Transport::Unknown(socket),
            None => Transport::Unknown(Vec::new()),
        },
        socket_on_host: None,
        model: None,
        readonly: get(b"9p_readonly").is_some_and(|value| value == b"yes" || value == b"on"),
        writeout: get(b"9p_immediate_writeout").is_some_and(|value| value == b"yes" || value == b"on"),
        device: None,
        export: export.map_or(ExportPath::Unknown, |path| ExportPath::Known {
            path: OsStr::from_bytes(&path).into(),
            from: ExportFrom::Manager(place.clone()),
        }),
        place,
        memory: crate::share::memory::Memory::default(),
        notes: Vec::new(),
    }
}

fn setting(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let key = line.get(..equals)?.trim_ascii();
    let value = line.get(equals + 1..)?.trim_ascii();
    let quoted = |quote: &[u8]| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let value = quoted(b"\"").or_else(|| quoted(b"'")).unwrap_or(value);
    (!key.starts_with(b"#")).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exports(text: &str) -> Vec<String> {
        let found = shares(&Document { path: None, bytes: text.as_bytes() });
        found
            .into_iter()
            .map(|share| match share.export {
                ExportPath::Known { path, .. } => path.display().to_string(),
                ExportPath::Unknown => "?".to_owned(),
            })
            .collect()
    }

    #[test]
    fn a_share_exports_what_its_own_variant_says() {
        let variant = |name: &str, lines: &str| format!("    - {name}:\n{lines}");
        let proxy =
            |export: &str| format!("        9p_fs_driver = proxy\n        9p_export_dir = {export}\n");
        let local = "        9p_fs_driver = local\n        9p_export_dir = /wrong\n";
        for (text, expected) in [
            (format!("variants:\n{}{}", variant("a", &proxy("/a")), variant("b", local)), vec!["/a"]),
            (format!("variants:\n{}{}", variant("b", local), variant("a", &proxy("/a"))), vec!["/a"]),
            (
                format!("variants:\n{}{}", variant("a", &proxy("/a")), variant("b", &proxy("/b"))),
                vec!["/a", "/b"],
            ),
            // What stands around the variants holds for all of them.
            (
                format!("9p_export_dir = /all\nvariants:\n{}", variant("a", "        9p_fs_driver = proxy\n")),
                vec!["/all"],
            ),
            // Variants below the share's own block say different directories.
            (
                "9p_fs_driver = proxy\nvariants:\n    - a:\n        9p_export_dir = /a\n    - b:\n        9p_export_dir \
                 = /b\n"
                    .to_owned(),
                vec!["?"],
            ),
            (
                "9p_fs_driver = proxy\n9p_export_dir = /x\nvariants:\n    - a:\n        9p_export_dir = /a\n".to_owned(),
                vec!["?"],
            ),
            // A block that applies by a condition.
            (
                format!("variants:\n{}a:\n    9p_export_dir = /c\n", variant("a", &proxy("/a"))),
                vec!["?"],
            ),
            ("9p_fs_driver = proxy\n9p_export_dir = /x\n9p_export_dir += y\n".to_owned(), vec!["?"]),
            ("9p_fs_driver = proxy\n9p_export_dir = /x\n9p_export_dir = /y\n".to_owned(), vec!["/y"]),
            (
                "variants:\n    - a:\n        9p_fs_driver = proxy\n    - b:\n        9p_export_dir = /b\n".to_owned(),
                vec!["?"],
            ),
        ] {
            assert_eq!(exports(&text), expected, "{text}");
        }
    }
}
