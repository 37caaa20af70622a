//! String literals of programming languages, in the order in which they stand: an argument list, as a rule.

use std::collections::HashSet;
use std::ops::Range;

use super::languages::{Escapes, Language, PYTHON, Quote};
use crate::share::backend::Backend;
use crate::share::bounds::{cut, spend};
use crate::sources::chars::{Char, Chars, Command, Embedded, Word, unknown, verbatim};
use crate::sources::commands::MAX_WORDS;
use crate::sources::lexed::Lexed;
use crate::sources::mention;
use crate::sources::quote_style::QuoteStyle;
use crate::sources::shell::split;
use crate::sources::templates::{balanced, dollar};

/// The longest expression in or behind a literal that is looked at, in bytes.
const LONGEST: usize = 512;

/// Why a program is not read to its end: each literal is kept with the places of its bytes.
const TOO_MANY_LITERALS: &str = "it has more than 20000 texts, and was not read further: split it";

/// Takes the literals of a program. Those inside the same brackets make one list.
pub(super) fn lex(file: &[u8], language: &Language) -> Lexed {
    let mut lexer = Lexer {
        file,
        language,
        lexed: Lexed::default(),
        words: Vec::new(),
        open: Vec::new(),
        joins: false,
        literals: 0,
    };
    // What no line closes from here on, none closes further down.
    let mut unclosed: HashSet<&[u8]> = HashSet::new();
    let mut at = 0;
    while let Some(byte) = file.get(at) {
        if let Some(end) = language.comment(file, at) {
            at = end.max(at + 1);
            continue;
        }
        if let Some(quote) = language.quote(file, at) {
            lexer.literals += 1;
            if lexer.literals > MAX_WORDS {
                cut(TOO_MANY_LITERALS);
                break;
            }
            at = lexer.string(at, quote);
            continue;
        }
        match byte {
            b'<' => {
                at += 1;
                let Some(name) = heredoc_name(file, at - 1).filter(|name| !unclosed.contains(name)) else {
                    continue;
                };
                if let Some((body, end)) = heredoc(file, at, name) {
                    let chars = verbatim(file, body, QuoteStyle::Verbatim);
                    lexer.lexed.embedded.push(Embedded { chars, name: None, guest: None });
                    at = end;
                } else {
                    unclosed.insert(name);
                }
            }
            b'[' | b'(' | b'{' | b']' | b')' | b'}' => {
                lexer.bracket(*byte, at);
                at += 1;
            }
            b'\n' => {
                lexer.finish();
                at += 1;
            }
            _ => {
                let length = name(file, at);
                if length > 0 && lexer.in_list() {
                    lexer.words.push(Word::plain(unknown(file, at..at + length, QuoteStyle::Fixed)));
                }
                at += length.max(1);
            }
        }
    }
    lexer.end()
}

/// The lists of literals of a program.
struct Lexer<'a> {
    file: &'a [u8],
    language: &'a Language,
    lexed: Lexed,
    /// The words of the list that is open.
    words: Vec<Word>,
    /// The brackets that are open, and whether a list is inside.
    open: Vec<bool>,
    /// Whether the next literal goes on with the last one.
    joins: bool,
    /// How many there were.
    literals: usize,
}

impl Lexer<'_> {
    fn in_list(&self) -> bool {
        self.open.contains(&true)
    }

    fn bracket(&mut self, byte: u8, at: usize) {
        self.joins = false;
        match byte {
            b'{' => self.open.push(is_list(self.file, at)),
            b'[' | b'(' => self.open.push(true),
            _ => {
                self.open.pop();
                self.finish();
            }
        }
    }

    /// Ends the list, unless a bracket of one is open.
    fn finish(&mut self) {
        if self.in_list() || self.joins {
            return;
        }
        let words = std::mem::take(&mut self.words);
        if !words.is_empty() {
            self.lexed.commands.push(Command { words: options_apart(words), guest: None });
        }
    }

    /// Takes the string at `at`, and what is added to it; where the program goes on.
    fn string(&mut self, at: usize, quote: Quote) -> usize {
        let joins = std::mem::take(&mut self.joins);
        let (chars, span, end) = literal(self.file, at, quote);
        let Some(mut chars) = chars else { return end };
        if quote.escapes == Escapes::Words {
            self.words.extend(split(&chars));
            return end;
        }
        let gap = Gap::behind(self.file, end, self.language, self.in_list());
        chars.extend(gap.chars);
        self.joins = gap.joins;
        match self.words.last_mut().filter(|_| joins) {
            Some(word) => {
                word.chars.extend(chars);
                word.span.end = span.end;
            }
            None => self.words.push(Word { chars, span }),
        }
        if !self.joins {
            self.embed();
        }
        gap.end
    }

    /// Whether the last word is a script.
    fn embed(&mut self) {
        let Some(word) = self.words.last() else { return };
        if word.has_blank()
            && word.contains(Backend::sought().name())
            && !word.bytes().trim_ascii().starts_with(b"-")
        {
            let chars = word.chars.clone();
            self.lexed.embedded.push(Embedded { chars, name: None, guest: None });
        }
    }

    fn end(mut self) -> Lexed {
        self.open.clear();
        self.joins = false;
        self.finish();
        let mut lexed = self.lexed;
        // A list that is made in pieces: what belongs together stands apart.
        let mut all: Vec<Word> = Vec::new();
        let mut pieces = std::mem::take(&mut lexed.commands).into_iter().peekable();
        let starts = |words: &[Word]| words.first().is_some_and(|word| word.bytes().starts_with(b"-"));
        while let Some(piece) = pieces.next() {
            let words = &piece.words;
            // An option without its value would take the next option for it.
            let dangling =
                words.len() == 1 && starts(words) && pieces.peek().is_some_and(|next| starts(&next.words));
            // A list that says nothing by itself is kept in the whole alone.
            let is_candidate = words.iter().any(|word| word.contains(Backend::sought().name()));
            match (dangling, is_candidate) {
                (false, false) => all.extend(piece.words),
                (false, true) => {
                    all.extend(words.iter().cloned());
                    lexed.commands.push(piece);
                }
                (true, true) => lexed.commands.push(piece),
                (true, false) => {}
            }
        }
        lexed.commands.push(Command { words: all, guest: None });
        lexed
    }
}

/// Whether the brace at `at` opens a list, as in C's `= {`, Go's `[]string{`, Lua's `({`, and no block.
fn is_list(file: &[u8], at: usize) -> bool {
    let near = file.get(at.saturating_sub(LONGEST)..at).unwrap_or_default().trim_ascii_end();
    let is_name = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'_' | b'.' | b'*');
    let name = near.iter().rev().take_while(is_name).count();
    let before = near.get(..near.len() - name).unwrap_or_default().last();
    match before {
        Some(b']') => true,
        Some(b'=' | b',' | b'{' | b'(' | b':') => name == 0,
        _ => false,
    }
}

/// What stands between a literal and what is next in its list.
struct Gap {
    /// What is added to the literal, whose value is not known: `+ socket`.
    chars: Chars,
    /// Where the program goes on.
    end: usize,
    /// Whether the next literal goes on with this one.
    joins: bool,
}

impl Gap {
    fn behind(file: &[u8], at: usize, language: &Language, in_list: bool) -> Self {
        let none = Self { chars: Vec::new(), end: at, joins: false };
        let mut end = at;
        let mut quoted = false;
        while let Some(byte) = file.get(end).filter(|_| end - at < LONGEST) {
            if language.quote(file, end).is_some() {
                quoted = true;
                break;
            }
            let text = file.get(at..end).unwrap_or_default().trim_ascii();
            let goes_on = in_list || language.names.contains(&"c") || ends_with_operator(text);
            match byte {
                b',' | b']' | b')' | b';' | b'}' => break,
                b'\n' if !goes_on && !text.ends_with(b"\\") => break,
                b'[' | b'(' | b'{' if !starts_with_operator(text) => break,
                _ => end += 1,
            }
        }
        let gap = file.get(at..end).unwrap_or_default();
        let text = gap.trim_ascii();
        let text = text.strip_suffix(b"\\").unwrap_or(text).trim_ascii();
        if starts_with_operator(text) {
            let joins = quoted && ends_with_operator(text);
            if is_operator(text) && joins {
                return Self { end, joins, ..none };
            }
            let line = gap.trim_ascii_end().len();
            let start = gap.len() - gap.trim_ascii_start().len();
            if line < start || !spend(line * size_of::<Char>()) {
                return none;
            }
            let chars = unknown(file, at + start..at + line, QuoteStyle::Fixed);
            return Self { chars, end: if joins { end } else { at }, joins };
        }
        if language.adjacent && quoted && text.is_empty() {
            return Self { end, joins: true, ..none };
        }
        // C puts a macro's text between two literals.
        let is_macro = language.names.contains(&"c")
            && text.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        if is_macro && !text.is_empty() {
            let start = at + gap.len() - gap.trim_ascii_start().len();
            let chars = unknown(file, start..start + text.len(), QuoteStyle::Fixed);
            return Self { chars, end: if quoted { end } else { start + text.len() }, joins: quoted };
        }
        none
    }
}

/// What joins two texts, in one language or the other.
const OPERATORS: &[&[u8]] = &[b"++", b"+", b"..", b"<>", b"~", b"&", b".", b"% ", b"^"];

fn is_operator(text: &[u8]) -> bool {
    OPERATORS.iter().any(|operator| text == operator.trim_ascii())
}

fn starts_with_operator(text: &[u8]) -> bool {
    // `"x".to_owned()` calls something.
    let calls = text.starts_with(b".") && text.get(1).is_some_and(u8::is_ascii_alphabetic);
    !calls && OPERATORS.iter().any(|operator| text.starts_with(operator))
}

fn ends_with_operator(text: &[u8]) -> bool {
    OPERATORS.iter().any(|operator| text.ends_with(operator.trim_ascii()))
}

/// The literals in a part of a file: one list.
pub(super) fn words(file: &[u8], range: Range<usize>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let Some(quote) = PYTHON.quote(file, at) else {
            at += 1;
            continue;
        };
        // Another program may fill in such a list.
        let (chars, span, end) = literal(file, at, Quote { nests: true, ..quote });
        at = end;
        words.extend(chars.map(|chars| Word { chars, span }));
    }
    options_apart(words)
}

/// How long the expression is that stands at `at` as an element by itself: a variable, an element of a list, a call. Its
/// value is not known.
fn name(file: &[u8], at: usize) -> usize {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.$@%&*>:-".contains(byte);
    let near = file.get(at.saturating_sub(LONGEST)..at).unwrap_or_default();
    let before = near.iter().rev().find(|byte| !byte.is_ascii_whitespace());
    if !matches!(before, Some(b'[' | b'(' | b',')) {
        return 0;
    }
    let rest = file.get(at..).unwrap_or_default();
    if !rest.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"_$@%&*.".contains(byte)) {
        return 0;
    }
    let mut length = 0;
    while let Some(byte) = rest.get(length) {
        match byte {
            b'{' | b'[' | b'(' => match balanced(rest, length).filter(|end| is_plain(rest.get(length..*end)))
            {
                Some(end) => length = end,
                None => return 0,
            },
            byte if is_name(byte) => length += 1,
            _ => break,
        }
    }
    let behind = rest.get(length..).unwrap_or_default().trim_ascii_start().first();
    if matches!(behind, Some(b',' | b']' | b')')) { length } else { 0 }
}

/// Whether what is in brackets holds no argument of its own.
fn is_plain(text: Option<&[u8]>) -> bool {
    let text = text.unwrap_or_default();
    !text.contains(&b'\n')
        && ![&b"\"-"[..], b"'-", b"proxy", b"local"]
            .iter()
            .any(|mark| memchr::memmem::find(text, mark).is_some())
}

/// The words of a list, in which an option may stand with its value in one literal: `"-fsdev proxy,…"`.
fn options_apart(words: Vec<Word>) -> Vec<Word> {
    let joined = |word: &Word| word.has_blank() && word.bytes().trim_ascii().starts_with(b"-");
    if !words.iter().any(joined) {
        return words;
    }
    words.into_iter().flat_map(|word| if joined(&word) { split(&word.chars) } else { vec![word] }).collect()
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

/// The longest literal of one character, in bytes.
const CHARACTER: usize = 12;

/// The literal that opens at `open`: its text, its place, and where the program goes on. An apostrophe that closes
/// nothing is no literal.
fn literal(file: &[u8], open: usize, quote: Quote) -> (Option<Chars>, Range<usize>, usize) {
    let none = (None, open..open, open + quote.open.len());
    let prefix = prefix(file, open);
    let formatted = prefix.iter().any(|byte| b"fF".contains(byte));
    let is_raw = quote.escapes == Escapes::Backslash && prefix.iter().any(|byte| b"rR".contains(byte));
    let quote = if is_raw { Quote { escapes: Escapes::Raw, ..quote } } else { quote };
    let is_character = quote.escapes == Escapes::Character;
    let mut chars = Vec::new();
    let mut at = open + quote.open.len();
    let mut close = at;
    loop {
        let rest = file.get(at..).unwrap_or_default();
        if rest.is_empty() || rest.starts_with(b"\n") && !quote.lines || is_character && at - open > CHARACTER
        {
            return none;
        }
        if let Some((bytes, length)) = escape(rest, quote) {
            match bytes {
                Meaning::Bytes(bytes) => {
                    chars.extend(
                        bytes.iter().map(|byte| Char::new(*byte, at..at + length, QuoteStyle::Literal)),
                    );
                }
                Meaning::Unknown => chars.extend(unknown(file, at..at + length, QuoteStyle::Literal)),
            }
            at += length;
            continue;
        }
        if rest.starts_with(quote.close) {
            let end = at + quote.close.len();
            return if is_character { (None, open..end, end) } else { (Some(chars), open..end, end) };
        }
        let length = if quote.escapes == Escapes::Raw && !formatted || !may_interpolate(rest) {
            0
        } else if formatted || quote.nests && !rest.starts_with(b"{") {
            interpolation(rest, formatted)
        } else {
            // What opens here and is closed in another literal is text.
            close = if close <= at { closing(file, at, quote) } else { close };
            interpolation(file.get(at..close).unwrap_or_default(), formatted)
        };
        if length > 0 {
            chars.extend(unknown(file, at..at + length, QuoteStyle::Literal));
        } else {
            chars.extend(verbatim(file, at..at + 1, QuoteStyle::Literal));
        }
        at += length.max(1);
    }
}

/// Where the literal is closed that goes on at `at`.
fn closing(file: &[u8], mut at: usize, quote: Quote) -> usize {
    while let Some(rest) = file.get(at..).filter(|rest| !rest.is_empty()) {
        at += match escape(rest, quote) {
            Some((_, length)) => length,
            None if rest.starts_with(quote.close) => break,
            None => 1,
        };
    }
    at
}

/// The letters in front of the quote at `open`, as in Python's `rb"…"`.
fn prefix(file: &[u8], open: usize) -> &[u8] {
    let before = file.get(open.saturating_sub(3)..open).unwrap_or_default();
    let is_name = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
    let letters = before.iter().rev().take_while(is_name).count();
    let prefix = before.get(before.len() - letters..).unwrap_or_default();
    let is_prefix = letters < 3 && prefix.iter().all(|byte| b"rRbBfFuU".contains(byte));
    if is_prefix { prefix } else { &[] }
}

/// What an escape means.
enum Meaning {
    /// These bytes; none for a line that goes on.
    Bytes(Vec<u8>),
    /// One thing in one language, and another in the next.
    Unknown,
}

/// What the escape at the start of `rest` means, and how long it is.
fn escape(rest: &[u8], quote: Quote) -> Option<(Meaning, usize)> {
    let byte = |byte: u8, length| Some((Meaning::Bytes(vec![byte]), length));
    match (quote.escapes, rest) {
        (Escapes::Nix, [b'\'', b'\'', b'$', ..]) => byte(b'$', 3),
        (Escapes::Nix, [b'\'', b'\'', b'\'', ..]) => byte(b'\'', 3),
        (Escapes::Nix, [b'\'', b'\'', b'\\', escaped, ..]) => byte(meaning(*escaped), 4),
        (Escapes::Hcl, [sign @ (b'$' | b'%'), second, b'{', ..]) if sign == second => {
            Some((Meaning::Bytes(vec![*sign, b'{']), 3))
        }
        (Escapes::Doubled, _) => {
            let twice = rest.strip_prefix(quote.close)?.starts_with(quote.close);
            twice.then(|| (Meaning::Bytes(quote.close.to_vec()), 2 * quote.close.len()))
        }
        (Escapes::Itself, [b'\\', escaped, ..]) => {
            let means = *escaped == b'\\' || quote.close.first() == Some(escaped);
            means.then(|| (Meaning::Bytes(vec![*escaped]), 2))
        }
        (Escapes::Raw | Escapes::Words | Escapes::Nix | Escapes::Itself, _) => None,
        (_, [b'\\', b'\n', ..]) => Some((Meaning::Bytes(Vec::new()), 2)),
        (_, [b'\\', b'x' | b'u' | b'U' | b'0' | b'1', ..]) => Some(number(rest)),
        (_, [b'\\', escaped, ..]) => byte(meaning(*escaped), 2),
        _ => None,
    }
}

/// What the escape with a number at the start of `rest` means. Above ASCII, `\x` is a byte in one language and a character in
/// another.
fn number(rest: &[u8]) -> (Meaning, usize) {
    match mention::escape(rest) {
        Some((byte, length)) if byte.is_ascii() => (Meaning::Bytes(vec![byte]), length),
        _ => match character(rest) {
            Some((character, length)) => (Meaning::Bytes(character.to_string().into_bytes()), length),
            None => (Meaning::Unknown, 2),
        },
    }
}

/// The character of `\u00e9`, `\u{e9}` or `\U000000e9` at the start of `rest`, and how long its spelling is.
fn character(rest: &[u8]) -> Option<(char, usize)> {
    let (start, most, closing) = match rest {
        [b'\\', b'u', b'{', ..] => (3, 8, 1),
        [b'\\', b'u', ..] => (2, 4, 0),
        [b'\\', b'U', ..] => (2, 8, 0),
        _ => return None,
    };
    let digits = rest.iter().skip(start).take(most).take_while(|byte| byte.is_ascii_hexdigit()).count();
    let is_whole = if closing == 1 { rest.get(start + digits) == Some(&b'}') } else { digits == most };
    let text = std::str::from_utf8(rest.get(start..start + digits)?).ok()?;
    let number = u32::from_str_radix(text, 16).ok().filter(|_| is_whole)?;
    Some((char::from_u32(number)?, start + digits + closing))
}

/// What a letter behind a backslash means.
fn meaning(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        other => other,
    }
}

/// Whether an interpolation may start here.
fn may_interpolate(text: &[u8]) -> bool {
    matches!(text.first(), Some(b'$' | b'#' | b'{' | b'%'))
}

/// How long the interpolation is that `text` starts with.
fn interpolation(text: &[u8], formatted: bool) -> usize {
    match text {
        [b'$' | b'#', b'{', ..] => balanced(text, 1).unwrap_or(0),
        [b'{', b'{', ..] => balanced(text, 0).unwrap_or(0),
        [b'{', ..] if formatted => balanced(text, 0).unwrap_or(0),
        [b'{', ..] => named(text),
        [b'%', b's' | b'd' | b'v' | b'q' | b'u', ..] => 2,
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
