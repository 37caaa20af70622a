//! A scalar's value, byte by byte, with the place of each byte in the file.

use std::ops::Range;

use saphyr_parser::ScalarStyle;

use super::tree::{Node, Value};
use crate::sources::chars::{Char, Chars};
use crate::sources::quote_style::QuoteStyle;

/// The text of a scalar with its places. One whose spelling can't be followed has a place as a whole, and can't be
/// rewritten.
pub(super) fn chars(file: &str, node: &Node, flow: bool) -> Chars {
    let Value::Scalar(value, style) = &node.value else { return Vec::new() };
    let aligned = match style {
        ScalarStyle::Plain => align(file, value, bare(file, &node.span), Style::Plain(flow)),
        ScalarStyle::SingleQuoted => align(file, value, inside(file, &node.span, b'\''), Style::Single),
        ScalarStyle::DoubleQuoted => align(file, value, inside(file, &node.span, b'"'), Style::Double),
        ScalarStyle::Literal => align(file, value, block(file, &node.span), Style::Literal),
        ScalarStyle::Folded => align(file, value, block(file, &node.span), Style::Folded),
    };
    aligned.unwrap_or_else(|| {
        value.bytes().map(|byte| Char::new(byte, node.span.clone(), QuoteStyle::Fixed)).collect()
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain(bool),
    Single,
    Double,
    Literal,
    Folded,
}

impl Style {
    fn spelt(self) -> QuoteStyle {
        match self {
            Self::Plain(false) => QuoteStyle::YamlPlain,
            Self::Plain(true) => QuoteStyle::YamlFlow,
            Self::Single => QuoteStyle::YamlSingle,
            Self::Double => QuoteStyle::YamlDouble,
            Self::Literal | Self::Folded => QuoteStyle::YamlBlock,
        }
    }
}

/// What stands behind an anchor or a tag: `&name`, `!type`.
fn bare(file: &str, span: &Range<usize>) -> Range<usize> {
    let bytes = file.as_bytes();
    let mut start = span.start;
    while matches!(bytes.get(start), Some(b'&' | b'!')) {
        let rest = bytes.get(start..span.end).unwrap_or_default();
        let name = rest.iter().take_while(|byte| !byte.is_ascii_whitespace()).count();
        let blank = rest.iter().skip(name).take_while(|byte| byte.is_ascii_whitespace()).count();
        start += name + blank;
    }
    start..span.end.max(start)
}

/// The text of a block, behind its header where that has an anchor or a tag.
fn block(file: &str, span: &Range<usize>) -> Range<usize> {
    let bytes = file.as_bytes();
    let mut start = span.start;
    if matches!(bytes.get(start), Some(b'&' | b'!')) {
        let rest = bytes.get(start..).unwrap_or_default();
        start += memchr::memchr(b'\n', rest).map_or(rest.len(), |newline| newline + 1);
        start += bytes.get(start..).unwrap_or_default().iter().take_while(|byte| **byte == b' ').count();
    }
    start..file.len()
}

/// What stands between the quotes.
fn inside(file: &str, span: &Range<usize>, quote: u8) -> Range<usize> {
    let bytes = file.as_bytes();
    let start =
        (span.start..span.end).find(|at| bytes.get(*at) == Some(&quote)).map_or(span.start, |at| at + 1);
    start..span.end.max(start)
}

/// Walks along the value and its spelling.
fn align(file: &str, value: &str, range: Range<usize>, style: Style) -> Option<Chars> {
    let bytes = file.as_bytes();
    let block = matches!(style, Style::Literal | Style::Folded);
    let indent = if block { indentation(bytes, range.start) } else { 0 };
    let mut chars = Vec::with_capacity(value.len());
    let mut at = range.start;
    let mut in_break = false;
    for (index, character) in value.char_indices() {
        let mut buffer = [0; 4];
        let text = character.encode_utf8(&mut buffer).as_bytes();
        // The parser ends the last line of a block, where the file does not.
        let is_added = block && character == '\n' && at == bytes.len();
        let mut end = if is_added { at } else { step(bytes, at, text, style, indent)? };
        if style == Style::Folded && character == '\n' && !in_break {
            // Folding takes one of several line breaks away, unless a line around them is indented further.
            let kept = value.get(index..).unwrap_or_default().bytes().take_while(|b| *b == b'\n').count();
            if breaks(bytes, at, indent) > kept {
                end = step(bytes, end, text, style, indent)?;
            }
        }
        in_break = character == '\n';
        if end > range.end {
            return None;
        }
        for byte in text {
            chars.push(Char::new(*byte, at..end, style.spelt()));
        }
        // Each byte of a character stands for itself where the file spells it so.
        if end - at == text.len() && text.len() > 1 {
            let first = chars.len() - text.len();
            for (index, c) in chars.iter_mut().skip(first).enumerate() {
                *c = Char::new(c.byte, at + index..at + index + 1, style.spelt());
            }
        }
        at = end;
    }
    Some(chars)
}

/// Where the spelling of one character that starts at `at` ends.
fn step(bytes: &[u8], at: usize, text: &[u8], style: Style, indent: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    // A line's end, with blanks around it, is folded to a blank or kept as a line's end.
    if (text == b" " || text == b"\n")
        && let Some(end) = fold(bytes, at, style, indent, text == b"\n")
    {
        return Some(end);
    }
    match style {
        Style::Single if text == b"'" => rest.starts_with(b"''").then_some(at + 2),
        Style::Double if rest.first() == Some(&b'\\') => escape(bytes, at, text),
        _ => rest.starts_with(text).then_some(at + text.len()),
    }
}

/// The end of a line break at `at`, with the blanks before it and the indentation behind it.
fn fold(bytes: &[u8], at: usize, style: Style, indent: usize, newline: bool) -> Option<usize> {
    let mut end = at;
    let block = matches!(style, Style::Literal | Style::Folded);
    if !block {
        end += blanks(bytes, end);
    }
    if bytes.get(end) == Some(&b'\r') {
        end += 1;
    }
    if bytes.get(end) != Some(&b'\n') {
        return None;
    }
    end += 1;
    if block {
        end += indent.min(blanks(bytes, end));
        return Some(end);
    }
    end += blanks(bytes, end);
    // An empty line between is a line's end; the first break is part of it.
    if newline && bytes.get(end) == Some(&b'\n') {
        end += 1;
        end += blanks(bytes, end);
    }
    Some(end)
}

fn blanks(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..).unwrap_or_default().iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

/// The indentation of the block whose text starts at `at`.
fn indentation(bytes: &[u8], at: usize) -> usize {
    bytes.get(..at).unwrap_or_default().iter().rev().take_while(|byte| **byte == b' ').count()
}

/// How many line breaks follow each other from `at` on.
fn breaks(bytes: &[u8], mut at: usize, indent: usize) -> usize {
    let mut count = 0;
    while let Some(end) = fold(bytes, at, Style::Folded, indent, false) {
        count += 1;
        at = end;
    }
    count
}

/// An escape of the double-quoted style that stands for `text`.
fn escape(bytes: &[u8], at: usize, text: &[u8]) -> Option<usize> {
    let width = match bytes.get(at + 1)? {
        b'x' => 4,
        b'u' => 6,
        b'U' => 10,
        // A line break that is escaped stands for nothing: what follows it stands for the character.
        b'\n' => {
            let next = at + 2 + blanks(bytes, at + 2);
            return step(bytes, next, text, Style::Double, 0);
        }
        _ => 2,
    };
    Some(at + width).filter(|end| *end <= bytes.len())
}
