//! A unit's text → its settings.

use crate::sources::chars::{Char, Chars, verbatim};
use crate::sources::quote_style::QuoteStyle;

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name.
    pub key: Vec<u8>,
    /// Its value, continuation lines joined.
    pub value: Chars,
    /// The section that it stands in, without brackets; empty before the first.
    pub section: Vec<u8>,
}

/// The settings of a unit, in order.
pub(super) fn entries(file: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut logical: Chars = Vec::new();
    let mut section = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let rest = file.get(at..).unwrap_or_default();
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = rest.get(..length).unwrap_or_default();
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        let start = at;
        at += length + 1;
        let first = text.trim_ascii_start().first();
        // A comment between continued lines is no part of them.
        if matches!(first, Some(b'#' | b';')) {
            continue;
        }
        let continues = text.ends_with(b"\\");
        match text.strip_suffix(b"\\") {
            Some(text) => {
                logical.extend(verbatim(file, start..start + text.len(), QuoteStyle::UnitBare));
                let gap = start + text.len()..at.min(file.len());
                logical.push(Char::new(b' ', gap, QuoteStyle::Fixed));
            }
            None => {
                logical.extend(verbatim(file, start..start + text.len(), QuoteStyle::UnitBare));
            }
        }
        if !continues {
            let line = std::mem::take(&mut logical);
            section = opened(&line).unwrap_or(section);
            entries.extend(entry(&line, &section));
        }
    }
    entries.extend(entry(&logical, &section));
    entries
}

/// The section that a line opens.
fn opened(line: &[Char]) -> Option<Vec<u8>> {
    let text: Vec<u8> = line.iter().map(|c| c.byte).collect();
    Some(text.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?.to_vec())
}

fn entry(line: &[Char], section: &[u8]) -> Option<Entry> {
    let equals = line.iter().position(|c| c.byte == b'=')?;
    let key: Vec<u8> = line.get(..equals)?.iter().map(|c| c.byte).collect();
    let key = key.trim_ascii().to_vec();
    if key.is_empty() || key.starts_with(b"[") {
        return None;
    }
    Some(Entry { key, value: line.get(equals + 1..)?.to_vec(), section: section.to_vec() })
}
