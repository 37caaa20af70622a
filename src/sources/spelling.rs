//! The way back: new text into a file, with the escapes that its place there needs.

use std::ops::Range;

use super::chars::{Char, Word};
use crate::share::argv::Splice;
use crate::share::rewrite::Edit;

/// How a file spells the text around a byte: what a new byte there must look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Spelt {
    /// As it is, the text itself.
    #[default]
    Verbatim,
    /// A shell's word without quotes.
    ShellBare,
    /// A shell's `'…'`.
    ShellSingle,
    /// A shell's `"…"`.
    ShellDouble,
    /// A shell's `$'…'`.
    ShellAnsi,
    /// A heredoc in which the shell expands.
    Heredoc,
    /// A unit's command line without quotes.
    UnitBare,
    /// A unit's `'…'`.
    UnitSingle,
    /// A unit's `"…"`.
    UnitDouble,
    /// YAML's plain style.
    YamlPlain,
    /// YAML's plain style inside `[…]` or `{…}`.
    YamlFlow,
    /// YAML's `'…'`.
    YamlSingle,
    /// YAML's `"…"`, and JSON.
    YamlDouble,
    /// YAML's `|` and `>`.
    YamlBlock,
    /// A string literal of some programming language: only what means itself in all of them.
    Literal,
    /// Something that this program can't spell.
    Fixed,
}

impl Spelt {
    /// What opens and closes it.
    fn quotes(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::ShellBare | Self::UnitBare => Some(("", "")),
            Self::ShellSingle | Self::UnitSingle => Some(("'", "'")),
            Self::ShellDouble | Self::UnitDouble => Some(("\"", "\"")),
            Self::ShellAnsi => Some(("$'", "'")),
            _ => None,
        }
    }

    /// Spells `text` here; why it can't be otherwise.
    pub fn spell(self, text: &[u8]) -> Result<Vec<u8>, String> {
        if let Some(bad) = text.iter().find(|byte| !self.takes(**byte)) {
            return Err(format!("{:?} can't be spelt here", char::from(*bad)));
        }
        let yaml = matches!(self, Self::YamlPlain | Self::YamlFlow | Self::YamlSingle | Self::YamlDouble);
        if yaml && std::str::from_utf8(text).is_err() {
            return Err("bytes that are not UTF-8 can't be spelt here".to_owned());
        }
        if matches!(self, Self::YamlPlain | Self::YamlFlow)
            && [&b": "[..], b" #"].iter().any(|mark| memchr::memmem::find(text, mark).is_some())
        {
            return Err("the new text needs quotes around the value".to_owned());
        }
        let mut out = Vec::with_capacity(text.len());
        for &byte in text {
            self.push(byte, &mut out);
        }
        Ok(out)
    }

    /// Whether `byte` can stand here at all.
    fn takes(self, byte: u8) -> bool {
        match self {
            Self::Fixed => false,
            Self::Literal => is_plain_in_shell(byte) && byte != b'%' || byte == b' ',
            Self::YamlDouble | Self::Verbatim | Self::Heredoc => byte != 0,
            Self::YamlFlow => byte >= b' ' && byte != 0x7f && !b",[]{}".contains(&byte),
            Self::ShellSingle | Self::ShellDouble | Self::YamlBlock => byte != 0 && byte != b'\r',
            _ => byte >= b' ' && byte != 0x7f,
        }
    }

    fn push(self, byte: u8, out: &mut Vec<u8>) {
        match (self, byte) {
            (Self::ShellBare, _) if !is_plain_in_shell(byte) => out.extend([b'\\', byte]),
            (Self::ShellSingle, b'\'') => out.extend(br"'\''"),
            (Self::ShellDouble | Self::Heredoc, b'\\' | b'$' | b'`')
            | (Self::ShellDouble | Self::UnitDouble | Self::YamlDouble, b'"')
            | (Self::ShellAnsi | Self::UnitSingle, b'\'')
            | (
                Self::ShellAnsi | Self::UnitBare | Self::UnitSingle | Self::UnitDouble | Self::YamlDouble,
                b'\\',
            ) => {
                out.extend([b'\\', byte]);
            }
            (Self::UnitBare, b' ' | b'"' | b'\'' | b';') => out.extend(format!("\\x{byte:02x}").bytes()),
            (Self::UnitBare | Self::UnitSingle | Self::UnitDouble, b'%' | b'$') => out.extend([byte, byte]),
            (Self::YamlSingle, b'\'') => out.extend(b"''"),
            (Self::YamlDouble, 0..b' ' | 0x7f) => out.extend(format!("\\u{byte:04x}").bytes()),
            _ => out.push(byte),
        }
    }
}

/// Whether a shell takes `byte` for itself in an unquoted word.
fn is_plain_in_shell(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"_/.,:=+@%^-".contains(&byte)
}

/// The edits of `file` by which `word`'s value changes as `splices` say. All else keeps its spelling.
pub fn respell(file: &[u8], word: &Word, splices: &[Splice]) -> Result<Vec<Edit>, String> {
    splices.iter().map(|splice| respell_one(file, word, splice)).collect()
}

fn respell_one(file: &[u8], word: &Word, splice: &Splice) -> Result<Edit, String> {
    let Range { start, end } = splice.range.clone();
    let Some(old) = word.chars.get(start..end) else {
        return Err("it changed meanwhile".to_owned());
    };
    let (Some(first), Some(last)) = (old.first(), old.last()) else {
        return insert(word, start, &splice.with);
    };
    let depth = depth(&word.chars, start..end)?;
    // In a variable's own assignment no escape keeps a blank in its word.
    if depth > 0 && old.iter().any(|c| c.splits) && splice.with.iter().any(|byte| b" \t\n*?[".contains(byte))
    {
        return Err("the shell would split the new text, for the variable stands without quotes".to_owned());
    }
    let (from, from_spelt, _) = first.place(depth);
    let (to, to_spelt, _) = last.place(depth);
    let at = |c: &Char| c.place(depth).0;
    let out_of_order = |pair: &[Char]| matches!(pair, [a, b] if at(a).end > at(b).start && at(a) != at(b));
    if old.windows(2).any(out_of_order) {
        return Err("its parts stand in another order in the file".to_owned());
    }
    // Several bytes with one place are one to the file: all of them change, or none.
    let before = start.checked_sub(1).and_then(|at| word.chars.get(at));
    if before.is_some_and(|c| at(c) == from) || word.chars.get(end).is_some_and(|c| at(c) == to) {
        return Err("the file spells only a part of it here".to_owned());
    }
    let mut with = newline_as_file(file, old, from_spelt.spell(&splice.with)?, from_spelt);
    let mut span = from.start..to.end;
    if from_spelt != to_spelt {
        let (Some((_, close)), Some((open, closes))) = (from_spelt.quotes(), to_spelt.quotes()) else {
            return Err("its quotes are beyond this program".to_owned());
        };
        with.extend(close.bytes());
        let gap = file.get(span.end..).unwrap_or_default();
        let quote_ends = word.chars.get(end).is_none_or(|c| c.place(depth).1 != to_spelt);
        if !closes.is_empty() && quote_ends && gap.starts_with(closes.as_bytes()) {
            span.end += closes.len();
        } else {
            with.extend(open.bytes());
        }
    }
    Ok(Edit { span, with })
}

/// How many expansions back from the command the text stands that spells `range` as a whole: 0 in the command itself,
/// 1 in the assignment of the variable that it uses, and so on.
fn depth(chars: &[Char], range: Range<usize>) -> Result<usize, String> {
    let inside = chars.get(range.clone()).unwrap_or_default();
    for depth in 0..=inside.first().map_or(0, |c| c.via.len()) {
        let whole = inside.iter().all(|c| {
            let Some(via) = c.via.get(depth).copied().flatten() else { return true };
            let parts =
                chars.iter().enumerate().filter(|(_, other)| other.via.get(..=depth) == c.via.get(..=depth));
            !via.several && parts.into_iter().all(|(at, _)| range.contains(&at))
        });
        if whole {
            return Ok(depth);
        }
        let first = inside.first().and_then(|c| c.via.get(..=depth));
        if inside.iter().any(|c| c.via.get(..=depth) != first) {
            break;
        }
    }
    Err("a variable holds only a part of it".to_owned())
}

/// New text before the byte `at` of `word`.
fn insert(word: &Word, at: usize, with: &[u8]) -> Result<Edit, String> {
    let before = at.checked_sub(1).and_then(|at| word.chars.get(at));
    let after = word.chars.get(at);
    let Some(c) = before.or(after) else { return Err("it is empty".to_owned()) };
    // Inside an expansion it is the variable's own text that grows.
    let inside = |depth: usize| match c.via.get(depth).copied().flatten() {
        Some(via) => {
            let goes_on =
                before.is_some() && after.is_some_and(|d| d.via.get(..=depth) == c.via.get(..=depth));
            via.several || goes_on || before.is_none()
        }
        None => false,
    };
    let depth = (0..c.via.len()).find(|depth| !inside(*depth)).unwrap_or(c.via.len());
    let (range, spelt, _) = c.place(depth);
    let at = if before.is_some() { range.end } else { range.start };
    Ok(Edit { span: at..at, with: spelt.spell(with)? })
}

/// Gives the new lines of a block the indentation of the old ones.
fn newline_as_file(file: &[u8], old: &[Char], with: Vec<u8>, spelt: Spelt) -> Vec<u8> {
    let newline = old.iter().find(|c| c.byte == b'\n' && c.end - c.start > 1);
    match newline.and_then(|c| file.get(c.range())) {
        Some(indented)
            if spelt == Spelt::YamlBlock || spelt == Spelt::Verbatim || spelt == Spelt::Heredoc =>
        {
            with.iter()
                .flat_map(|byte| if *byte == b'\n' { indented } else { std::slice::from_ref(byte) })
                .copied()
                .collect()
        }
        _ => with,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::chars::{Via, verbatim};

    #[test]
    fn each_place_has_its_escapes() {
        for (spelt, text, spelling) in [
            (Spelt::ShellBare, "/my srv", r"/my\ srv"),
            (Spelt::ShellSingle, "it's", r"it'\''s"),
            (Spelt::ShellDouble, "a$b\"c", r#"a\$b\"c"#),
            (Spelt::UnitBare, "50% of $x y", r"50%%\x20of\x20$$x\x20y"),
            (Spelt::YamlSingle, "it's", "it''s"),
            (Spelt::YamlDouble, "a\"\t", r#"a\"\u0009"#),
        ] {
            assert_eq!(spelt.spell(text.as_bytes()).unwrap(), spelling.as_bytes(), "{spelt:?}");
        }
        assert!(Spelt::YamlFlow.spell(b"a,b").is_err());
        assert!(Spelt::YamlPlain.spell(b"a: b").is_err());
        assert!(Spelt::ShellBare.spell(b"a\nb").is_err());
    }

    #[test]
    fn a_quote_that_ends_with_the_text_goes_with_it() {
        let file = br#"socket="/a",ro"#;
        let mut chars = verbatim(file, 0..7, Spelt::ShellBare);
        chars.extend(verbatim(file, 8..10, Spelt::ShellDouble));
        chars.extend(verbatim(file, 11..14, Spelt::ShellBare));
        let word = Word { chars, span: 0..14 };
        let splice = Splice { range: 0..9, with: b"path=/b".to_vec() };
        let edit = respell_one(file, &word, &splice).unwrap();
        assert_eq!((edit.span, edit.with), (0..11, b"path=/b".to_vec()));
    }

    #[test]
    fn a_whole_expansion_is_replaced_where_it_is_used() {
        let file = b"S=/a;socket=$S";
        let splits = |c: Char| Char { splits: true, ..c };
        let via = Via { start: 12, end: 14, spelt: Spelt::ShellBare, several: false };
        let mut chars = verbatim(file, 5..12, Spelt::ShellBare);
        chars.extend(verbatim(file, 2..4, Spelt::ShellBare).into_iter().map(|c| splits(c.through(via))));
        let word = Word { chars, span: 5..14 };
        let edit = respell_one(file, &word, &Splice { range: 0..9, with: b"path=/b c".to_vec() }).unwrap();
        assert_eq!((edit.span, edit.with), (5..14, br"path=/b\ c".to_vec()));
    }
}
