//! Several YAML documents in one file, one of which is broken: the others are read.

use std::ops::Range;

use crate::share::bounds::spend;
use crate::sources::format::{Document, Unreadable};
use crate::sources::lexed::Lexed;
use crate::sources::mention::can_hold;

/// More documents than a broken file is taken apart into.
const MOST: usize = 64;

/// Reads each document of a file by itself with `lex`; `None` where there is but one, or none can be read. What is broken and could
/// hold a share comes back with the rest.
pub(super) fn lex_parts(
    document: &Document,
    lex: impl Fn(&Document) -> Result<Lexed, Unreadable>,
) -> Option<(Lexed, Vec<Unreadable>)> {
    let parts = parts(document.bytes);
    let mut all = Lexed::default();
    let mut unread = Vec::new();
    let mut read = 0;
    if parts.len() < 2 || !spend(parts.len().saturating_mul(document.bytes.len())) {
        return None;
    }
    for part in parts {
        let alone = only(document.bytes, part.clone());
        match lex(&Document { bytes: &alone, ..*document }) {
            Ok(lexed) => {
                read += 1;
                all.take(lexed);
            }
            Err(error) if can_hold(document.bytes.get(part).unwrap_or_default()) => unread.push(error),
            Err(_) => {}
        }
    }
    (read > 0).then_some((all, unread))
}

/// Where each document is. A line that begins with `---` begins one, in every place of YAML.
fn parts(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let is_mark =
            line.strip_prefix(b"---").is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace));
        if is_mark && at > start && parts.len() + 1 < MOST {
            parts.push(start..at);
            start = at;
        }
        at += line.len();
    }
    parts.push(start..bytes.len());
    parts
}

/// The text with nothing but blanks outside of `part`: every place and line stays.
fn only(bytes: &[u8], part: Range<usize>) -> Vec<u8> {
    let blank = |(at, byte): (usize, &u8)| if part.contains(&at) || *byte == b'\n' { *byte } else { b' ' };
    bytes.iter().enumerate().map(blank).collect()
}

impl Lexed {
    fn take(&mut self, other: Self) {
        self.commands.extend(other.commands);
        self.engines.extend(other.engines);
        self.embedded.extend(other.embedded);
        self.containers.extend(other.containers);
        self.required.extend(other.required);
    }
}
