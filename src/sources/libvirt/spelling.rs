//! An argument's value ↔ its spelling in an attribute.

use crate::share::argv::{Arg, Spelling, Splice};
use crate::share::rewrite::{Edit, Refusal};
use crate::text::escape;
use crate::text::markup;

/// How XML spells the value of an attribute.
pub(super) struct AttributeValue;

impl Spelling for AttributeValue {
    fn respell(&self, file: &[u8], arg: &Arg, splices: &[Splice]) -> Result<Vec<Edit>, Refusal> {
        let raw =
            file.get(arg.span.clone()).and_then(|raw| std::str::from_utf8(raw).ok()).unwrap_or_default();
        let pieces = pieces(raw);
        if pieces.iter().map(|piece| piece.length).sum::<usize>() != arg.value.len() {
            return Err(Refusal::at(
                Some(arg.line),
                format!("the argument {} is spelt in an unusual way", escape(&arg.value)),
                "change it by hand: --to qemu-args prints what to put there",
            ));
        }
        splices.iter().map(|splice| edit(arg, &pieces, splice)).collect()
    }
}

fn edit(arg: &Arg, pieces: &[Piece], splice: &Splice) -> Result<Edit, Refusal> {
    let with = std::str::from_utf8(&splice.with).ok().filter(|text| {
        text.chars().all(|c| c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}') || "\t\n\r".contains(c))
    });
    let with = with.ok_or_else(|| {
        Refusal::at(
            Some(arg.line),
            format!("XML can't hold {}", escape(&splice.with)),
            "give the directory another name, or a bind mount with one",
        )
    })?;
    let start = arg.span.start + source(pieces, splice.range.start);
    let end = arg.span.start + source(pieces, splice.range.end);
    Ok(Edit { span: start..end, with: markup(with).into_bytes() })
}

/// Where in the raw text the value's byte `at` begins.
fn source(pieces: &[Piece], at: usize) -> usize {
    let mut value = 0;
    let mut raw = 0;
    for piece in pieces {
        if value >= at {
            break;
        }
        value += piece.length;
        raw += piece.raw;
    }
    raw
}

/// A character of the value, and how many bytes it has in the value and in the file.
struct Piece {
    length: usize,
    raw: usize,
}

/// The characters and references of an attribute's raw text.
fn pieces(raw: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        let (length, taken) = match c {
            '&' => reference(rest).unwrap_or((1, 1)),
            // A line's end is one blank.
            '\r' if rest.starts_with("\r\n") => (1, 2),
            _ => (c.len_utf8(), c.len_utf8()),
        };
        pieces.push(Piece { length, raw: taken });
        rest = rest.get(taken..).unwrap_or_default();
    }
    pieces
}

/// The reference that a text begins with: its character's bytes in UTF-8, and its own.
fn reference(text: &str) -> Option<(usize, usize)> {
    let end = text.find(';')?;
    let name = text.get(1..end)?;
    let length = match name.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)?.len_utf8()
        }
        None => 1,
    };
    Some((length, end + 1))
}
