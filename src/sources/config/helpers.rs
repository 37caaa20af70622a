//! The helper's own line in a script or unit whose shares are rewritten: it is in nobody's service any more, and with QEMU 9.2
//! and newer, which bring no helper, it fails and ends a script under `set -e`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;

use super::super::format::{Document, Reading};
use super::super::join::plain;
use crate::report::finding::{self, Finding};
use crate::share::helper::Helper;
use crate::share::rewrite::{Edit, Edits};
use crate::share::view::Addition;
use crate::share::{Place, Transport, same_text};

/// What a line that is commented out begins with.
const REASON: &str = "# QEMU opens the directory itself from now on, so that the helper is not started:";

/// What comes before a helper's name without making another command of it.
const PREFIXES: &[&str] = &["sudo", "exec", "nohup", "setsid", "env", "command", "doas", "-n", "-E"];

/// Settings of a unit that run a command beside the main one.
const SETTINGS: &[&str] = &["ExecStartPre", "ExecStartPost", "ExecStart"];

/// Words that open a list of commands, and words that close one.
const OPENERS: &[&str] = &["then", "do", "else", "{", "("];
const CLOSERS: &[&str] = &["fi", "done", "else", "elif", "}", ")", ";;", "esac"];

/// Comments the helpers' lines out where they stand alone, and names the others, and what waits for their sockets.
pub(super) fn settle(document: &Document, format: &str, reading: &Reading, edits: &mut Edits) {
    if edits.moved.is_empty() {
        return;
    }
    let text = document.bytes;
    let mut gone = BTreeSet::new();
    for helper in &reading.helpers {
        let Some(span) = helper.place.span.clone().filter(|span| span.end <= text.len()) else { continue };
        if helper.pid.is_some() || !serves_moved(helper, edits) || runs_elsewhere(text, &span) {
            continue;
        }
        let lines = logical_line(text, span.start);
        if !gone.insert((lines.start, lines.end)) {
            continue;
        }
        let edit = match format {
            "shell" => commented(text, &lines, false),
            "systemd" => commented(text, &lines, true),
            _ => None,
        };
        edits.findings.push(Finding {
            kind: &finding::HELPER_STARTED,
            place: helper.place.clone(),
            message: "this line starts the share's helper, which QEMU 9.2 and newer do not bring: without it the line fails"
                .to_owned(),
            remedy: Some("comment the line out".to_owned()),
            subject: None,
        });
        let additions = edit.map(|edit| Addition { edit, what: "comments the helper's line out".to_owned() });
        edits.additions.extend(additions);
    }
    if matches!(format, "shell" | "systemd") {
        name_waiting(document, format == "systemd", &gone, edits);
    }
}

/// Whether a helper serves a share that is moved.
fn serves_moved(helper: &Helper, edits: &Edits) -> bool {
    let Some(own) = &helper.socket else { return helper.fd.is_none() };
    edits.moved.iter().any(|moved| {
        let on_host = moved.share.socket_on_host.as_ref();
        match &moved.share.transport {
            Transport::Socket(socket) => plain(on_host.unwrap_or(socket)) == plain(own),
            Transport::Unknown(text) => same_text(text, own.as_os_str().as_bytes()),
            Transport::Fd(_) => false,
        }
    })
}

/// Whether the words before the helper's name make its line another program's: `systemctl stop …`, `pkill …`.
fn runs_elsewhere(text: &[u8], span: &Range<usize>) -> bool {
    let line = logical_line(text, span.start);
    let before = String::from_utf8_lossy(text.get(line.start..span.start).unwrap_or_default()).into_owned();
    before.trim_start().starts_with('#')
}

/// The line at an offset, with those that continue it.
fn logical_line(text: &[u8], at: usize) -> Range<usize> {
    let mut start = line_start(text, at);
    while start > 0
        && text
            .get(..start - 1)
            .is_some_and(|before| before.strip_suffix(b"\r").unwrap_or(before).ends_with(b"\\"))
    {
        start = line_start(text, start - 1);
    }
    let mut end = line_end(text, at);
    while text.get(..end).is_some_and(|line| line.strip_suffix(b"\r").unwrap_or(line).ends_with(b"\\"))
        && end < text.len()
    {
        end = line_end(text, end + 1);
    }
    start..end
}

fn line_start(text: &[u8], at: usize) -> usize {
    memchr::memrchr(b'\n', text.get(..at).unwrap_or_default()).map_or(0, |end| end + 1)
}

fn line_end(text: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', text.get(at..).unwrap_or_default()).map_or(text.len(), |end| at + end)
}

/// The edit that comments a line out; `None` where more than the helper is on it.
fn commented(text: &[u8], lines: &Range<usize>, unit: bool) -> Option<Edit> {
    let line = text.get(lines.clone())?;
    let all = std::str::from_utf8(line).ok()?;
    let joined = all.replace("\\\r\n", " ").replace("\\\n", " ");
    if !stands_alone(&joined, unit) {
        return None;
    }
    // What the script does with the process's number would find another one's.
    if !unit && joined.trim_end().ends_with('&') && memchr::memmem::find(text, b"$!").is_some() {
        return None;
    }
    let indent: String = all.chars().take_while(|c| matches!(c, ' ' | '\t')).collect();
    let mut with = format!("{indent}{REASON}");
    for line in all.split('\n') {
        with.push('\n');
        // Writing to a String does not fail.
        let _ = write!(with, "{indent}# {}", line.strip_prefix(indent.as_str()).unwrap_or(line));
    }
    if !unit && is_only_command(text, lines) {
        let _ = write!(with, "\n{indent}:");
    }
    Some(Edit { span: lines.clone(), with: with.into_bytes() })
}

/// Whether a line is one command, the helper's.
fn stands_alone(line: &str, unit: bool) -> bool {
    let mut rest = line.trim();
    if unit {
        let Some((key, value)) = rest.split_once('=') else { return false };
        if !SETTINGS.contains(&key.trim()) {
            return false;
        }
        rest = value.trim().trim_start_matches(['@', '-', ':', '+', '!', '|']);
        return is_helpers(rest.split_whitespace().next().unwrap_or_default()) && !rest.contains(" ; ");
    }
    rest = rest.strip_suffix('&').unwrap_or(rest).trim_end();
    let plain =
        rest.replace("2>&1", "").replace(">&2", "").replace("&>", ">").replace("<&-", "").replace(">&-", "");
    if plain.contains(['`', ';', '|', '&', '(', ')', '#']) || plain.contains("<<") {
        return false;
    }
    // A quote that is not closed goes on in the next line.
    if ['"', '\''].iter().any(|quote| plain.matches(*quote).count() % 2 == 1) {
        return false;
    }
    let is_assignment = |word: &str| {
        let name = word.split_once('=').map(|(name, _)| name).unwrap_or_default();
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let first = plain.split_whitespace().find(|word| !PREFIXES.contains(word) && !is_assignment(word));
    first.is_some_and(is_helpers)
}

fn is_helpers(word: &str) -> bool {
    let word = word.trim_matches(['"', '\'']);
    word.rsplit('/').next().is_some_and(|name| name.starts_with("virtfs-proxy-helper"))
}

/// Whether a list of commands would be empty without this one, which a shell does not take.
fn is_only_command(text: &[u8], lines: &Range<usize>) -> bool {
    let said = |line: &&[u8]| !line.trim_ascii().is_empty() && !line.trim_ascii().starts_with(b"#");
    let before = text.get(..lines.start).unwrap_or_default();
    let before = before.split(|byte| *byte == b'\n').rev().find(said);
    let before = String::from_utf8_lossy(before.unwrap_or_default().trim_ascii()).into_owned();
    let opens = OPENERS.iter().any(|word| before.split_whitespace().next_back() == Some(word))
        || before.ends_with(')');
    let after = text.get(lines.end..).unwrap_or_default();
    let after = after.split(|byte| *byte == b'\n').find(said);
    let after = String::from_utf8_lossy(after.unwrap_or_default().trim_ascii()).into_owned();
    let first = after
        .split(|c: char| c.is_whitespace() || (c == ';' && !after.starts_with(";;")))
        .next()
        .unwrap_or_default();
    opens && CLOSERS.contains(&first)
}

/// Names the lines that use the helper's socket: what waits for it waits for ever.
fn name_waiting(document: &Document, unit: bool, gone: &BTreeSet<(usize, usize)>, edits: &mut Edits) {
    let text = document.bytes;
    let mut names: BTreeSet<Vec<u8>> = BTreeSet::new();
    for moved in &edits.moved {
        match &moved.share.transport {
            Transport::Socket(path) => drop(names.insert(path.as_os_str().as_bytes().to_vec())),
            Transport::Unknown(text) if text.starts_with(b"$") => drop(names.insert(text.clone())),
            _ => {}
        }
    }
    names.retain(|name| name.len() > 2);
    let mut at = 0;
    let mut number = 0;
    // A variable that is set to the socket stands for it.
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            let (name, value) = line.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            let value: Vec<u8> = value.iter().copied().filter(|byte| !matches!(byte, b'"' | b'\'')).collect();
            let is_name =
                !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
            if is_name && names.contains(&value) {
                names.insert([b"$", name].concat());
                names.insert([b"${", name, b"}"].concat());
            }
        }
    }
    for line in text.split(|byte| *byte == b'\n') {
        number += 1;
        let range = at..at + line.len();
        at = range.end + 1;
        let is_other = |span: &Range<usize>| span.end <= range.start || span.start > range.end;
        let is_free = gone.iter().all(|(start, end)| is_other(&(*start..*end)))
            && edits.edits.iter().all(|edit| is_other(&edit.span))
            && edits.additions.iter().all(|addition| is_other(&addition.edit.span));
        let plain = line.trim_ascii();
        let assigns = names.iter().any(|name| {
            plain.ends_with(name.as_slice())
                && plain.iter().position(|byte| *byte == b'=') == Some(plain.len() - name.len() - 1)
        });
        let assigns = if unit { plain.starts_with(b"Environment") } else { assigns };
        if !is_free || plain.starts_with(b"#") || assigns || is_removal(plain) {
            continue;
        }
        if names.iter().any(|name| uses(plain, name)) {
            edits.findings.push(Finding {
                kind: &finding::HELPER_STARTED,
                place: Place { file: document.path.map(Into::into), line: Some(number), ..Place::default() },
                message: "this line uses the helper's socket, which is not made any more".to_owned(),
                remedy: Some("remove the line: what waits for the socket does not end".to_owned()),
                subject: None,
            });
        }
    }
}

/// Whether a line does nothing but remove files, and succeeds where there are none: what the helper leaves is taken away before its start.
fn is_removal(line: &[u8]) -> bool {
    if line.iter().any(|byte| b";|&`()<>".contains(byte)) {
        return false;
    }
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    let first = first.strip_prefix(b"ExecStartPre=").unwrap_or(first);
    let may_fail = first.starts_with(b"-");
    let program = first.rsplit(|byte| matches!(byte, b'/' | b'-')).next();
    let is_forced = |word: &[u8]| {
        word == b"--force" || word.starts_with(b"-") && !word.starts_with(b"--") && word.contains(&b'f')
    };
    program == Some(b"rm") && (may_fail || words.any(is_forced))
}

/// Whether `name` stands in a line as a whole word or path.
fn uses(line: &[u8], name: &[u8]) -> bool {
    memchr::memmem::find_iter(line, name).any(|at| {
        let next = line.get(at + name.len());
        next.is_none_or(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/')))
    })
}
