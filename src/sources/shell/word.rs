//! One shell word → the fields that it makes: quotes, escapes, expansions.

use std::ops::Range;

use super::env::{Value, Variable, split};
use super::lexer::{Lexer, unreadable};
use crate::share::backend::Backend;
use crate::sources::chars::{Char, Chars, Embedded, Word, offset, through, unknown, verbatim};
use crate::sources::expansions::Expansion;
use crate::sources::format::Unreadable;
use crate::sources::quote_style::QuoteStyle;

/// More than any word of a script has, in bytes.
const MAX_WORD: usize = 1 << 20;

/// The longest expansion that is looked for the end of, in bytes.
pub(super) const LONGEST_EXPANSION: usize = 512;

/// What a word makes: one field as a rule, several or none by expansions.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// The fields.
    pub words: Vec<Word>,
}

/// A word that is being read.
struct Builder {
    words: Vec<Word>,
    chars: Chars,
    /// There is a field even if it has no bytes: `""`.
    some: bool,
    start: usize,
    /// Whether blanks that come through variables end fields.
    splits: bool,
}

/// Reads the word at the lexer's place.
pub(super) fn read(lexer: &mut Lexer) -> Result<Fields, Unreadable> {
    read_as(lexer, true)
}

/// Reads the word at the lexer's place as the value of an assignment: one field, whatever is in it.
pub(super) fn read_value(lexer: &mut Lexer) -> Result<Fields, Unreadable> {
    read_as(lexer, false)
}

fn read_as(lexer: &mut Lexer, splits: bool) -> Result<Fields, Unreadable> {
    let mut builder = Builder { words: Vec::new(), chars: Vec::new(), some: false, start: lexer.at, splits };
    while let Some(byte) = lexer.peek(0) {
        let at = lexer.at;
        if at - builder.start > MAX_WORD {
            return Err(unreadable(lexer.file, builder.start, "a word is longer than 1 MiB"));
        }
        match byte {
            b'<' | b'>' if lexer.peek(1) == Some(b'(') => {
                lexer.at += 2;
                lexer.substitution()?;
                builder.push_all(unknown(lexer.file, at..lexer.at, QuoteStyle::ShellBare));
            }
            b' ' | b'\t' | b'\r' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>' => break,
            b'/' if ends_element(lexer, &builder) => {
                lexer.at += 1;
                builder.leave_attribute();
                return Ok(builder.finish(at));
            }
            b'\\' => escaped(lexer, &mut builder),
            b'\'' => single(lexer, &mut builder)?,
            b'"' => double(lexer, &mut builder)?,
            b'$' => dollar(lexer, &mut builder, false)?,
            b'`' => backticks(lexer, &mut builder, QuoteStyle::ShellBare)?,
            b'{' if template(lexer).is_some() => {
                lexer.at = template(lexer).unwrap_or(at + 1);
                builder.push_all(unknown(lexer.file, at..lexer.at, QuoteStyle::ShellBare));
            }
            _ => {
                lexer.at += 1;
                builder.push_all(verbatim(lexer.file, at..at + 1, QuoteStyle::ShellBare));
            }
        }
    }
    Ok(builder.finish(lexer.at))
}

/// Whether the `/>` of an XML element stands here, behind an attribute: scripts put XML together, too.
fn ends_element(lexer: &Lexer, builder: &Builder) -> bool {
    let before = lexer.at.checked_sub(1).and_then(|at| lexer.file.get(at));
    lexer.next_is(b"/>") && matches!(before, Some(b'"' | b'\'')) && !builder.chars.is_empty()
}

impl Builder {
    /// Leaves the value of an XML attribute alone.
    fn leave_attribute(&mut self) {
        const NAME: &[u8] = b"value=";
        let named = self.chars.iter().take(NAME.len()).map(|c| c.byte).eq(NAME.iter().copied());
        if named && self.words.is_empty() {
            self.chars.drain(..NAME.len());
            self.start += NAME.len();
        }
    }

    fn push_all(&mut self, chars: Chars) {
        self.some = true;
        self.chars.extend(chars);
    }

    /// Adds a scalar's value that came through an expansion without quotes.
    fn push_split(&mut self, chars: Chars) {
        if !self.splits {
            self.push_all(chars);
            return;
        }
        let blank = |c: &Char| c.known && c.byte.is_ascii_whitespace();
        let several = split(&chars).len() > 1;
        let starts_blank = chars.first().is_some_and(blank);
        let ends_blank = chars.last().is_some_and(blank);
        let mut fields = split(&chars).into_iter().peekable();
        if starts_blank {
            self.end_field();
        }
        while let Some(mut field) = fields.next() {
            for c in &mut field.chars {
                c.splits = true;
                if several {
                    *c = c.with_via(|via| Expansion { several: true, ..via });
                }
            }
            self.push_all(field.chars);
            if fields.peek().is_some() || ends_blank {
                self.end_field();
            }
        }
    }

    fn end_field(&mut self) {
        if std::mem::take(&mut self.some) {
            self.words.push(Word::plain(std::mem::take(&mut self.chars)));
        }
    }

    fn finish(mut self, end: usize) -> Fields {
        // A field that the file spells in one piece has the quotes in its span.
        let mut ways = self.chars.chunk_by(|one, next| one.expansions == next.expansions);
        let is_one = |way: &[Char]| way.first().and_then(Char::via).is_none_or(|via| !via.several);
        let whole = self.words.is_empty() && ways.all(is_one);
        if self.some && whole {
            self.words.push(Word { chars: self.chars, span: self.start..end });
        } else {
            self.end_field();
        }
        Fields { words: self.words }
    }
}

/// `\x`, outside quotes.
fn escaped(lexer: &mut Lexer, builder: &mut Builder) {
    let at = lexer.at;
    match (lexer.peek(1), lexer.peek(2)) {
        (Some(b'\n'), _) => lexer.at += 2,
        (Some(b'\r'), Some(b'\n')) => lexer.at += 3,
        (Some(byte), _) => {
            lexer.at += 2;
            builder.push_all(vec![Char::new(byte, at..at + 2, QuoteStyle::ShellBare)]);
        }
        (None, _) => lexer.at += 1,
    }
}

/// `'…'`.
fn single(lexer: &mut Lexer, builder: &mut Builder) -> Result<(), Unreadable> {
    let open = lexer.at;
    let rest = lexer.file.get(open + 1..lexer.end).unwrap_or_default();
    let Some(length) = memchr::memchr(b'\'', rest) else {
        return Err(unreadable(lexer.file, open, "the quote that opens here is not closed"));
    };
    builder.push_all(verbatim(lexer.file, open + 1..open + 1 + length, QuoteStyle::ShellSingle));
    lexer.at = open + length + 2;
    Ok(())
}

/// `"…"`.
fn double(lexer: &mut Lexer, builder: &mut Builder) -> Result<(), Unreadable> {
    let open = lexer.at;
    lexer.at += 1;
    builder.some = true;
    // `"${empty[@]}"` makes no field at all.
    let alone = builder.chars.is_empty() && builder.words.is_empty();
    let mut only_lists = alone;
    loop {
        let at = lexer.at;
        match lexer.peek(0) {
            None => return Err(unreadable(lexer.file, open, "the quote that opens here is not closed")),
            Some(b'"') => break,
            Some(b'\\') => match lexer.peek(1) {
                Some(b'\n') => lexer.at += 2,
                Some(byte @ (b'$' | b'`' | b'"' | b'\\')) => {
                    lexer.at += 2;
                    builder.push_all(vec![Char::new(byte, at..at + 2, QuoteStyle::ShellDouble)]);
                }
                _ => {
                    lexer.at += 1;
                    builder.push_all(verbatim(lexer.file, at..at + 1, QuoteStyle::ShellDouble));
                }
            },
            Some(b'$') => {
                let words = builder.words.len();
                dollar(lexer, builder, true)?;
                if builder.words.len() > words {
                    continue;
                }
            }
            Some(b'`') => backticks(lexer, builder, QuoteStyle::ShellDouble)?,
            Some(_) => {
                lexer.at += 1;
                builder.push_all(verbatim(lexer.file, at..at + 1, QuoteStyle::ShellDouble));
            }
        }
        only_lists = false;
    }
    lexer.at += 1;
    if only_lists && !builder.words.is_empty() && builder.chars.is_empty() {
        builder.some = false;
    }
    Ok(())
}

/// `` `…` ``: not known.
fn backticks(lexer: &mut Lexer, builder: &mut Builder, spelt: QuoteStyle) -> Result<(), Unreadable> {
    let open = lexer.at;
    let mut at = open + 1;
    while at < lexer.end {
        match lexer.file.get(at) {
            Some(b'`') => {
                lexer.at = at + 1;
                builder.push_all(unknown(lexer.file, open..lexer.at, spelt));
                return Ok(());
            }
            Some(b'\\') => at += 2,
            _ => at += 1,
        }
    }
    Err(unreadable(lexer.file, open, "the backtick that opens here is not closed"))
}

/// The end of a `{{ … }}` that another program fills in (Jinja, Go templates), if one starts here.
fn template(lexer: &Lexer) -> Option<usize> {
    if !lexer.next_is(b"{{") {
        return None;
    }
    let rest = lexer.file.get(lexer.at..lexer.end.min(lexer.at + LONGEST_EXPANSION))?;
    let line = rest.split(|byte| *byte == b'\n').next()?;
    Some(lexer.at + memchr::memmem::find(line, b"}}")? + 2)
}

/// `$…`.
fn dollar(lexer: &mut Lexer, builder: &mut Builder, quoted: bool) -> Result<(), Unreadable> {
    let at = lexer.at;
    let spelt = if quoted { QuoteStyle::ShellDouble } else { QuoteStyle::ShellBare };
    match lexer.peek(1) {
        Some(b'{') => return braces(lexer, builder, quoted),
        Some(b'(') => {
            let rest = lexer.file.get(at..lexer.end).unwrap_or_default();
            let arithmetic =
                rest.starts_with(b"$((").then(|| memchr::memmem::find(start(rest), b"))")).flatten();
            if let Some(length) = arithmetic {
                lexer.at += length + 2;
            } else {
                lexer.at += 2;
                lexer.substitution()?;
            }
            builder.push_all(unknown(lexer.file, at..lexer.at, spelt));
        }
        Some(b'\'') if !quoted => return ansi(lexer, builder),
        Some(b'"') if !quoted => lexer.at += 1,
        Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {
            let rest = lexer.file.get(at + 1..lexer.end).unwrap_or_default();
            let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
            let name = rest.get(..length).unwrap_or_default().to_vec();
            lexer.at += 1 + length;
            expand(lexer, builder, &name, at, quoted, false);
        }
        Some(b'@' | b'*') => {
            lexer.at += 2;
            expand(lexer, builder, b"@", at, quoted, true);
        }
        Some(byte) if byte.is_ascii_digit() || b"#?-$!".contains(&byte) => {
            lexer.at += 2;
            builder.push_all(unknown(lexer.file, at..lexer.at, spelt));
        }
        _ => {
            lexer.at += 1;
            builder.push_all(verbatim(lexer.file, at..at + 1, spelt));
        }
    }
    Ok(())
}

/// `$'…'`.
fn ansi(lexer: &mut Lexer, builder: &mut Builder) -> Result<(), Unreadable> {
    let open = lexer.at;
    lexer.at += 2;
    builder.some = true;
    loop {
        let at = lexer.at;
        let (byte, width) = match (lexer.peek(0), lexer.peek(1)) {
            (None, _) => {
                return Err(unreadable(lexer.file, open, "the quote that opens here is not closed"));
            }
            (Some(b'\''), _) => break,
            (Some(b'\\'), Some(escape)) => match escape {
                b'n' => (b'\n', 2),
                b't' => (b'\t', 2),
                b'r' => (b'\r', 2),
                b'a' => (7, 2),
                b'b' => (8, 2),
                b'e' | b'E' => (0x1b, 2),
                b'x' => digits(lexer, 2, 16, 2),
                b'0'..=b'7' => digits(lexer, 1, 8, 3),
                other => (other, 2),
            },
            (Some(byte), _) => (byte, 1),
        };
        lexer.at += width;
        builder.push_all(vec![Char::new(byte, at..at + width, QuoteStyle::ShellAnsi)]);
    }
    lexer.at += 1;
    Ok(())
}

/// The number that starts `skip` bytes ahead, and how wide the whole escape is.
fn digits(lexer: &Lexer, skip: usize, radix: u32, most: usize) -> (u8, usize) {
    let mut value = 0_u32;
    let mut width = skip;
    while width < skip + most {
        let Some(digit) = lexer.peek(width).and_then(|byte| char::from(byte).to_digit(radix)) else { break };
        value = value * radix + digit;
        width += 1;
    }
    (u8::try_from(value & 0xff).unwrap_or(0), width)
}

/// `${…}`.
fn braces(lexer: &mut Lexer, builder: &mut Builder, quoted: bool) -> Result<(), Unreadable> {
    let at = lexer.at;
    let spelt = if quoted { QuoteStyle::ShellDouble } else { QuoteStyle::ShellBare };
    let Some(close) = closing_brace(lexer.file, at + 2, lexer.end) else {
        return Err(unreadable(lexer.file, at, "the expansion that opens here is not closed"));
    };
    let inside = lexer.file.get(at + 2..close).unwrap_or_default();
    let length = inside.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let length = if length == 0 && matches!(inside.first(), Some(b'@' | b'*')) { 1 } else { length };
    let (name, mut rest) = inside.split_at(length);
    let name = if matches!(name, b"@" | b"*") { b"@".to_vec() } else { name.to_vec() };
    let mut list = name == b"@";
    if rest.starts_with(b"[@]") || rest.starts_with(b"[*]") {
        list = true;
        rest = rest.get(3..).unwrap_or_default();
    }
    lexer.at = close + 1;
    let operator = rest.iter().take_while(|byte| b":-+=?".contains(byte)).count().min(2);
    let (operator, operand) = rest.split_at(operator);
    let operand_at = close - operand.len();
    match operator {
        _ if name.is_empty() => builder.push_all(unknown(lexer.file, at..close + 1, spelt)),
        b"" if rest.is_empty() => expand(lexer, builder, &name, at, quoted, list),
        b":-" | b"-" | b":=" | b"=" | b":?" | b"?" if known(lexer, &name) => {
            expand(lexer, builder, &name, at, quoted, list);
        }
        b":+" | b"+" => {
            lexer.enter()?;
            let (after, end) = (lexer.at, lexer.end);
            (lexer.at, lexer.end) = (operand_at, close);
            while lexer.at < close {
                let start = lexer.at;
                builder.words.extend(read(lexer)?.words);
                lexer.at = lexer.at.max(start + 1);
            }
            (lexer.at, lexer.end) = (after, end);
            lexer.depth -= 1;
        }
        _ => {
            if Backend::sought().is_in(operand) {
                let chars = verbatim(lexer.file, operand_at..close, spelt);
                lexer.embed(Embedded { chars, name: None, guest: None });
            }
            builder.push_all(unknown(lexer.file, at..close + 1, spelt));
        }
    }
    Ok(())
}

/// Where the brace that was opened before `at` is closed.
fn closing_brace(file: &[u8], mut at: usize, end: usize) -> Option<usize> {
    let mut depth = 0_usize;
    while at < end {
        match file.get(at)? {
            b'\\' => at += 1,
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

/// Whether the variable has a value that is known for certain.
fn known(lexer: &Lexer, name: &[u8]) -> bool {
    match lexer.env.get(name) {
        Some(Variable { value: Value::Scalar(chars), maybe: false }) => {
            !chars.is_empty() && chars.iter().all(|c| c.known)
        }
        Some(Variable { value: Value::Array(_), .. }) => true,
        _ => false,
    }
}

/// Puts a variable's value in for the expansion that started at `at` and ends at the lexer's place.
fn expand(lexer: &mut Lexer, builder: &mut Builder, name: &[u8], at: usize, quoted: bool, list: bool) {
    let spelt = if quoted { QuoteStyle::ShellDouble } else { QuoteStyle::ShellBare };
    let via = Expansion { start: offset(at), end: offset(lexer.at), spelt, several: false };
    let next = lexer.peek(0);
    let ends = next.is_none_or(|byte| b" \t\r\n;&|()<>".contains(&byte));
    let alone = builder.chars.is_empty() && ends && !quoted;
    let variable = lexer.env.get(name).filter(|variable| lexer.afford(variable));
    match variable {
        Some(Variable { value: Value::Array(words), .. }) if list || !quoted => {
            builder.end_field();
            // An element's own place is where the list says it.
            builder.words.extend(words);
            builder.some = false;
        }
        Some(Variable { value: Value::Scalar(chars), maybe }) if !maybe || (alone && is_list(&chars)) => {
            let chars = through(chars, via);
            if quoted { builder.push_all(chars) } else { builder.push_split(chars) }
        }
        _ => builder.push_all(unknown(lexer.file, at..lexer.at, spelt)),
    }
}

/// Whether a variable holds options, not a value: what it holds is worth a look even where it isn't certain.
fn is_list(chars: &[Char]) -> bool {
    let first = chars.iter().find(|c| !c.byte.is_ascii_whitespace());
    first.is_some_and(|c| c.byte == b'-') || chars.iter().any(|c| c.byte == b' ')
}

impl Lexer<'_> {
    /// Whether a variable's text still fits into what may come through variables.
    fn afford(&mut self, variable: &Variable) -> bool {
        let left = self.budget.checked_sub(variable.value.len());
        self.budget = left.unwrap_or(self.budget);
        left.is_some()
    }
}

/// A line of a heredoc in which the shell expands.
pub(super) fn expand_heredoc(lexer: &mut Lexer, range: Range<usize>) -> Chars {
    let mut chars = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let rest = lexer.file.get(at..range.end).unwrap_or_default();
        match rest {
            [b'\\', byte @ (b'$' | b'`' | b'\\'), ..] => {
                chars.push(Char::new(*byte, at..at + 2, QuoteStyle::Heredoc));
                at += 2;
            }
            [b'$', ..] => {
                let end = at + expansion_length(rest);
                let name: Vec<u8> = rest
                    .get(1..end - at)
                    .unwrap_or_default()
                    .iter()
                    .copied()
                    .filter(|byte| !matches!(byte, b'{' | b'}'))
                    .collect();
                let via = Expansion {
                    start: offset(at),
                    end: offset(end),
                    spelt: QuoteStyle::Heredoc,
                    several: false,
                };
                let variable = lexer.env.get(&name).filter(|variable| lexer.afford(variable));
                match variable {
                    Some(Variable { value: Value::Scalar(value), maybe: false }) => {
                        chars.extend(through(value, via));
                    }
                    _ if end - at == 1 => chars.extend(verbatim(lexer.file, at..end, QuoteStyle::Heredoc)),
                    _ => chars.extend(unknown(lexer.file, at..end, QuoteStyle::Heredoc)),
                }
                at = end;
            }
            _ => {
                chars.extend(verbatim(lexer.file, at..at + 1, QuoteStyle::Heredoc));
                at += 1;
            }
        }
    }
    chars
}

/// As much of `text` as an expansion may have.
fn start(text: &[u8]) -> &[u8] {
    text.get(..text.len().min(LONGEST_EXPANSION)).unwrap_or_default()
}

/// How long the expansion is that `text` starts with.
fn expansion_length(text: &[u8]) -> usize {
    match text.get(1) {
        Some(b'{') => start(text).iter().position(|byte| *byte == b'}').map_or(1, |at| at + 1),
        Some(b'(') => start(text).iter().rposition(|byte| *byte == b')').map_or(1, |at| at + 1),
        Some(byte) if byte.is_ascii_digit() || b"@*#?".contains(byte) => 2,
        _ => {
            let rest = text.get(1..).unwrap_or_default();
            1 + rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count()
        }
    }
}
