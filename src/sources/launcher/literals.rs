//! String literals of programming languages, in the order in which they stand: an argument list, as a rule.

use std::collections::HashSet;
use std::ops::Range;

use crate::share::backend::Backend;
use crate::share::bounds::spend;
use crate::sources::chars::{Char, Chars, Command, Embedded, Lexed, Word, unknown, verbatim};
use crate::sources::shell::split;
use crate::sources::spelling::Spelt;
use crate::sources::templates::{balanced, dollar};

/// The longest expression in or behind a literal that is looked at, in bytes.
const LONGEST: usize = 512;

/// Takes the literals of a program. Those inside the same brackets make one list.
pub fn lex(file: &[u8]) -> Lexed {
    let mut lexed = Lexed::default();
    let mut words: Vec<Word> = Vec::new();
    let mut depth = 0_usize;
    // What no line closes from here on, none closes further down.
    let mut open: HashSet<&[u8]> = HashSet::new();
    let mut at = 0;
    while let Some(byte) = file.get(at) {
        match byte {
            b'#' if !matches!(file.get(at + 1), Some(b'{')) => at = line_end(file, at),
            b'/' if file.get(at + 1) == Some(&b'/') => at = line_end(file, at),
            b'%' if matches!(file.get(at + 1..at + 3), Some(b"w(" | b"w[" | b"w{")) => {
                let rest = file.get(at + 3..).unwrap_or_default();
                let length = rest.iter().position(|byte| b")]}".contains(byte)).unwrap_or(rest.len());
                words.extend(bare_words(file, at + 3..at + 3 + length));
                at += 3 + length + 1;
            }
            b'<' => {
                at += 1;
                let Some(name) = heredoc_name(file, at - 1).filter(|name| !open.contains(name)) else {
                    continue;
                };
                if let Some((body, end)) = heredoc(file, at, name) {
                    let chars = verbatim(file, body, Spelt::Verbatim);
                    lexed.embedded.push(Embedded { chars, name: None, guest: None });
                    at = end;
                } else {
                    open.insert(name);
                }
            }
            b'[' | b'(' => {
                depth += 1;
                at += 1;
            }
            b']' | b')' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    finish(&mut words, &mut lexed);
                }
                at += 1;
            }
            b'\n' => {
                if depth == 0 {
                    finish(&mut words, &mut lexed);
                }
                at += 1;
            }
            b'"' | b'\'' => {
                let (chars, span, end) = literal(file, at);
                at = end;
                let Some(chars) = chars else { continue };
                let word = Word { chars, span };
                if word.has_blank()
                    && word.contains(Backend::sought().name())
                    && !word.bytes().starts_with(b"-")
                {
                    let chars = word.chars.clone();
                    lexed.embedded.push(Embedded { chars, name: None, guest: None });
                }
                words.push(word);
            }
            _ => {
                let length = name(file, at);
                if length > 0 && depth > 0 {
                    words.push(Word::plain(unknown(file, at..at + length, Spelt::Fixed)));
                }
                at += length.max(1);
            }
        }
    }
    finish(&mut words, &mut lexed);
    // A list that is made in pieces: what belongs together stands apart.
    let mut all: Vec<Word> = Vec::new();
    let mut pieces = lexed.commands.iter().map(|command| &command.words).peekable();
    let starts = |words: &[Word]| words.first().is_some_and(|word| word.bytes().starts_with(b"-"));
    while let Some(words) = pieces.next() {
        // An option without its value would take the next option for it.
        let dangling = words.len() == 1 && starts(words) && pieces.peek().is_some_and(|next| starts(next));
        if !dangling {
            all.extend(words.iter().cloned());
        }
    }
    lexed.commands.push(Command { words: all, guest: None });
    lexed
}

/// The literals in a part of a file: one list.
pub fn words(file: &[u8], range: Range<usize>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at = range.start;
    while at < range.end {
        if !matches!(file.get(at), Some(b'"' | b'\'')) {
            at += 1;
            continue;
        }
        let (chars, span, end) = literal(file, at);
        at = end;
        words.extend(chars.map(|chars| Word { chars, span }));
    }
    options_apart(&words)
}

/// How long the name is that stands at `at` as an element by itself: a variable, whose value is not known.
fn name(file: &[u8], at: usize) -> usize {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let near = file.get(at.saturating_sub(LONGEST)..at).unwrap_or_default();
    let before = near.iter().rev().find(|byte| !byte.is_ascii_whitespace());
    if !matches!(before, Some(b'[' | b'(' | b',')) {
        return 0;
    }
    let rest = file.get(at..).unwrap_or_default();
    let length = rest.iter().take_while(|byte| is_name(byte)).count();
    let behind = rest.get(length..).unwrap_or_default().trim_ascii_start().first();
    if matches!(behind, Some(b',' | b']' | b')')) { length } else { 0 }
}

fn finish(words: &mut Vec<Word>, lexed: &mut Lexed) {
    let words = std::mem::take(words);
    if !words.is_empty() {
        lexed.commands.push(Command { words: options_apart(&words), guest: None });
    }
}

/// The words of a list, in which an option may stand with its value in one literal: `"-fsdev proxy,…"`.
fn options_apart(words: &[Word]) -> Vec<Word> {
    let joined = |word: &Word| word.has_blank() && word.bytes().starts_with(b"-");
    words.iter().flat_map(|word| if joined(word) { split(&word.chars) } else { vec![word.clone()] }).collect()
}

/// The words of Ruby's `%w( … )`.
fn bare_words(file: &[u8], range: Range<usize>) -> Vec<Word> {
    verbatim(file, range, Spelt::Literal)
        .split(|c| c.byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| Word::plain(word.to_vec()))
        .collect()
}

fn line_end(file: &[u8], at: usize) -> usize {
    let rest = file.get(at..).unwrap_or_default();
    at + memchr::memchr(b'\n', rest).unwrap_or(rest.len())
}

/// The name of Ruby's, Perl's or HCL's `<<NAME`, if one starts at `at`.
fn heredoc_name(file: &[u8], at: usize) -> Option<&[u8]> {
    let rest = file.get(at..)?.strip_prefix(b"<<")?;
    let rest = rest.strip_prefix(b"-").or_else(|| rest.strip_prefix(b"~")).unwrap_or(rest);
    let rest = rest.strip_prefix(b"'").or_else(|| rest.strip_prefix(b"\"")).unwrap_or(rest);
    let length = rest.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'_').count();
    rest.get(..length).filter(|name| !name.is_empty())
}

/// The text of the heredoc that is announced at `at`, and where it ends.
fn heredoc(file: &[u8], at: usize, name: &[u8]) -> Option<(Range<usize>, usize)> {
    let start = line_end(file, at) + 1;
    let mut line = start;
    while line < file.len() {
        let end = line_end(file, line);
        if file.get(line..end)?.trim_ascii() == name {
            return Some((start..line, end));
        }
        line = end + 1;
    }
    None
}

/// The literal that opens at `open`: its text, its place, and where the program goes on. An apostrophe that closes
/// nothing is no literal.
fn literal(file: &[u8], open: usize) -> (Option<Chars>, Range<usize>, usize) {
    let quote = file.get(open).copied().unwrap_or_default();
    let triple = file.get(open..open + 3).is_some_and(|three| three == [quote; 3]);
    // Nix's ''…'' has two.
    let nix =
        !triple && quote == b'\'' && file.get(open + 1) == Some(&b'\'') && file.get(open + 2) == Some(&b'\n');
    let width = if triple { 3 } else { 1 + usize::from(nix) };
    let closing = vec![quote; width];
    let formatted = open.checked_sub(1).and_then(|at| file.get(at)).is_some_and(|byte| b"fF".contains(byte));
    let mut chars = Vec::new();
    let mut at = open + width;
    loop {
        let rest = file.get(at..).unwrap_or_default();
        if rest.starts_with(&closing) {
            let end = at + width;
            chars.extend(tail(file, end));
            return (Some(chars), open..end, end);
        }
        match rest {
            [] => return (None, open..open, open + 1),
            [b'\n', ..] if width == 1 => return (None, open..open, open + 1),
            [b'\\', b'\n', ..] => at += 2,
            [b'\\', escaped, ..] => {
                let byte = match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    other => *other,
                };
                chars.push(Char::new(byte, at..at + 2, Spelt::Literal));
                at += 2;
            }
            _ => {
                let length = interpolation(rest, formatted);
                if length > 0 {
                    chars.extend(unknown(file, at..at + length, Spelt::Literal));
                } else {
                    chars.extend(verbatim(file, at..at + 1, Spelt::Literal));
                }
                at += length.max(1);
            }
        }
    }
}

/// How long the interpolation is that `text` starts with.
fn interpolation(text: &[u8], formatted: bool) -> usize {
    match text {
        [b'$' | b'#', b'{', ..] => balanced(text, 1).unwrap_or(0),
        [b'{', b'{', ..] => balanced(text, 0).unwrap_or(0),
        [b'{', ..] if formatted => balanced(text, 0).unwrap_or(0),
        [b'{', ..] => named(text),
        [b'%', b's' | b'd', ..] => 2,
        [b'$', ..] => variable(text),
        _ => 0,
    }
}

/// `{}`, `{0}`, `{name}`: how long it is.
fn named(text: &[u8]) -> usize {
    let name = text.iter().skip(1).take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    if text.get(1 + name) == Some(&b'}') { name + 2 } else { 0 }
}

/// Perl's and PHP's `$name`, `$name{key}`, `$name->[0]`: how long it is.
fn variable(text: &[u8]) -> usize {
    let mut length = dollar(text);
    while length > 0 {
        let rest = text.get(length..).unwrap_or_default();
        let arrow = if rest.starts_with(b"->") { 2 } else { 0 };
        match rest.get(arrow) {
            Some(b'{' | b'[') => match balanced(rest, arrow) {
                Some(end) => length += end,
                None => break,
            },
            _ => break,
        }
    }
    length
}

/// What is added to a literal behind it: `+ socket`, up to the end of the argument. It is not known.
fn tail(file: &[u8], at: usize) -> Chars {
    let rest = file.get(at..).unwrap_or_default();
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let behind = rest.get(blanks..).unwrap_or_default();
    if !(behind.starts_with(b"+") || behind.starts_with(b"..") || behind.starts_with(b"% ")) {
        return Vec::new();
    }
    let length = behind.iter().take(LONGEST).position(|byte| b",])\n".contains(byte));
    let length = length.unwrap_or(behind.len().min(LONGEST));
    if !spend(length * size_of::<Char>()) {
        return Vec::new();
    }
    unknown(file, at + blanks..at + blanks + length, Spelt::Fixed)
}
