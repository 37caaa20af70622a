//! Expressions that another program fills in before a file is used: Jinja's `{{ … }}`, ERB's `<%= … %>`, HCL's `${…}`.
//!
//! Lexers know their own format's expansions. All others are opaque to them: [`Masked`] hides each behind characters
//! that mean nothing in any format, so that a blank, a quote or a comma in an expression ends no word, and gives the
//! text back afterwards as a part that is not statically known.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

use super::chars::Char;
use super::containers::Container;
use super::format::Document;
use super::lexed::Lexed;
use crate::share::backend::Backend;
use crate::share::rewrite::{Edit, Refusal};

/// The longest expression that is looked for the end of, in bytes.
const LONGEST: usize = 4096;

/// What hides an expression. It ends no word, starts no comment, and is no part of a variable's name.
const FILLER: u8 = b'.';

/// Languages in which `{{` is no template: nested initialisers, and braces in format strings.
const NESTED_BRACES: &[&str] = &[
    "go", "rs", "java", "c", "h", "cc", "cpp", "hpp", "cxx", "cs", "kt", "scala", "js", "mjs", "ts", "jsx",
    "tsx", "lua", "php", "pl", "pm", "swift", "zig",
];

/// An expression of a template language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    /// Its bytes, delimiters included.
    pub range: Range<usize>,
    /// Whether it steers what is around it (`{% if … %}`) and stands for no text of its own.
    pub directive: bool,
}

/// The expressions of a document that are foreign to every format here, in order and apart.
pub(super) fn expressions(document: &Document) -> Vec<Expression> {
    let path = document.telling_path().unwrap_or_default();
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let braces = document.is_named_as_template() || !NESTED_BRACES.contains(&extension);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = next_mark(document.bytes, at) {
        at = next + 1;
        if let Some(expression) = foreign(document.bytes, next, braces) {
            at = expression.range.end;
            found.push(expression);
        }
    }
    found
}

/// The expressions of a text that no shell and no format expands, `$NAME`, `${…}` and `$(…)` included.
pub(super) fn all_expressions(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        let dollar = dollar(rest);
        let end = match foreign(bytes, at, true) {
            Some(expression) => expression.range.end,
            None if dollar > 0 => at + dollar,
            None => {
                at += if rest.first() == Some(&b'\\') { 2 } else { 1 };
                continue;
            }
        };
        found.push(at..end);
        at = end;
    }
    found
}

/// How long the expansion is that `text` starts with: `${…}`, `$(…)`, `$NAME`; 0 where there is none.
pub(super) fn dollar(text: &[u8]) -> usize {
    match text {
        [b'$', b'{' | b'(', ..] => balanced(text, 1).unwrap_or(0),
        [b'$', first, ..] if first.is_ascii_alphabetic() || *first == b'_' => {
            let name = text.iter().skip(1).take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_');
            1 + name.count()
        }
        _ => 0,
    }
}

/// Where the bracket is closed that stands at `open`, brackets and quotes inside it considered.
pub(super) fn balanced(text: &[u8], open: usize) -> Option<usize> {
    let text = text.get(..text.len().min(LONGEST)).unwrap_or_default();
    let closing = match text.get(open)? {
        b'{' => b'}',
        b'(' => b')',
        b'[' => b']',
        _ => return None,
    };
    nested(text, open).or_else(|| {
        let line = text.get(open..)?.split(|byte| *byte == b'\n').next()?;
        Some(open + memchr::memchr(closing, line)? + 1)
    })
}

/// Where the bracket that stands at `open` is closed, if all brackets between are balanced.
fn nested(text: &[u8], open: usize) -> Option<usize> {
    // An apostrophe may be no quote.
    nested_end(text, open, true).or_else(|| nested_end(text, open, false))
}

fn nested_end(text: &[u8], open: usize, quotes: bool) -> Option<usize> {
    let mut stack = Vec::new();
    let mut quote = None;
    let mut at = open;
    while let Some(&byte) = text.get(at) {
        match (byte, quote) {
            (b'\\', _) => at += 1,
            (_, Some(open)) => quote = quote.filter(|_| byte != open),
            (b'"' | b'\'', None) if quotes => quote = Some(byte),
            (b'{', None) => stack.push(b'}'),
            (b'(', None) => stack.push(b')'),
            (b'[', None) => stack.push(b']'),
            (b'}' | b')' | b']', None) => {
                if stack.pop() != Some(byte) {
                    return None;
                }
                if stack.is_empty() {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The next byte that could start an expression.
fn next_mark(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let first = memchr::memchr3(b'{', b'<', b'%', rest);
    let second = memchr::memchr3(b'@', b'#', b'$', rest.get(..first.unwrap_or(rest.len()))?);
    second.or(first).map(|found| at + found)
}

/// The foreign expression that starts at `at`.
fn foreign(bytes: &[u8], at: usize, braces: bool) -> Option<Expression> {
    let rest = bytes.get(at..)?;
    let rest = rest.get(..rest.len().min(LONGEST))?;
    let before = at.checked_sub(1).and_then(|at| bytes.get(at)).copied();
    let spaced = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'-' | b'+' | b'~');
    let until =
        |from: usize, end: &[u8]| Some(from + memchr::memmem::find(rest.get(from..)?, end)? + end.len());
    let (length, directive) = match rest {
        // GitHub's `${{ … }}` is one expression.
        [b'$', b'{', b'{', ..] if braces => {
            let (length, directive) = double_braces(rest.get(1..)?)?;
            (length + 1, directive)
        }
        [b'{', b'{', ..] if braces && before != Some(b'$') => double_braces(rest)?,
        [b'{', b'%', next, ..] if spaced(next) => (until(3, b"%}")?, true),
        [b'{', b'#', next, ..] if spaced(next) && before != Some(b'$') => (until(3, b"#}")?, true),
        [b'<', b'%', b'=' | b'-', ..] => (until(3, b"%>")?, false),
        [b'<', b'%', next, ..] if spaced(next) || *next == b'#' => (until(3, b"%>")?, true),
        [b'<', b'?', b'=', ..] => (until(3, b"?>")?, false),
        [b'<', b'?', b'p', b'h', b'p', ..] => (until(5, b"?>")?, true),
        [b'%', b'{', ..] => {
            let length = nested(rest, 1)?;
            let inside = rest.get(2..length - 1)?.trim_ascii_start();
            let word = inside.strip_prefix(b"~").unwrap_or(inside).trim_ascii_start();
            (
                length,
                [&b"if "[..], b"else", b"endif", b"for ", b"endfor"].iter().any(|it| word.starts_with(it)),
            )
        }
        [b'%', b'(', ..] => (named_format(rest)?, false),
        [b'#', b'{', ..] if before.is_some_and(|byte| !byte.is_ascii_whitespace() && byte != b'$') => {
            (nested(rest, 1)?, false)
        }
        [b'@', first, ..] if first.is_ascii_uppercase() => (substitution(rest)?, false),
        _ => return None,
    };
    Some(Expression { range: at..at + length, directive })
}

/// `%(name)s`.
fn named_format(text: &[u8]) -> Option<usize> {
    let close = memchr::memchr(b')', text)?;
    let name = text.get(2..close)?;
    let is_name = !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    (is_name && matches!(text.get(close + 1), Some(b's' | b'd'))).then_some(close + 2)
}

/// `@NAME@`.
fn substitution(text: &[u8]) -> Option<usize> {
    let is_name = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    let length = 1 + text.iter().skip(1).take_while(|byte| is_name(byte)).count();
    (length > 2 && text.get(length) == Some(&b'@')).then_some(length + 1)
}

/// `{{ … }}`: how long it is, and whether it steers what is around it.
fn double_braces(text: &[u8]) -> Option<(usize, bool)> {
    // The two inner braces must be the ones that close it.
    let length = nested(text, 0).filter(|length| text.get(length - 2) == Some(&b'}')).or_else(|| {
        let line = text.split(|byte| *byte == b'\n').next()?;
        Some(memchr::memmem::find(line, b"}}")? + 2)
    })?;
    let inside = text.get(2..length - 2)?;
    let inside = inside.strip_prefix(b"-").or_else(|| inside.strip_prefix(b"~")).unwrap_or(inside);
    let inside = inside.trim_ascii();
    let first = inside.split(|byte| byte.is_ascii_whitespace() || *byte == b'-').next()?;
    let steers = [&b"if"[..], b"else", b"end", b"range", b"with", b"block", b"define", b"/*"];
    let directive = steers.contains(&first) || matches!(inside.first(), Some(b'#' | b'/' | b'^' | b'!'));
    Some((length, directive))
}

/// Whether a text that is not statically known holds something that steers what is around it: taking out half of
/// `{% if … %}…{% endif %}` would spoil the other half.
pub(super) fn steers(text: &[u8]) -> bool {
    expressions(&Document { path: None, bytes: text }).iter().any(|expression| expression.directive)
}

/// Whether a text that is not statically known counts among the arguments of a formatting function: `%s`, `{}`.
pub(super) fn is_positional(text: &[u8]) -> bool {
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return !text.is_empty(),
            [b'%', letter, rest @ ..] if letter.is_ascii_alphabetic() => rest,
            [b'{', b'}', rest @ ..] => rest,
            [b'{', number, b'}', rest @ ..] if number.is_ascii_digit() => rest,
            _ => return false,
        };
    }
}

/// Whether a text holds an expression, or begins one that what stands behind it could end.
pub(super) fn may_open(text: &[u8]) -> bool {
    const ENDS: [&[u8]; 6] = [b"", b"}}", b" %}", b" #}", b" %>", b"}"];
    ENDS.iter().any(|end| !expressions(&Document { path: None, bytes: &[text, end].concat() }).is_empty())
}

/// Whether an expression is more than a value: it says a share itself, and hiding it would hide the share.
fn holds_share(text: &[u8]) -> bool {
    const MARKS: [&[u8]; 6] =
        [b"socket=", b"sock_fd=", b"path=", b"-fsdev", b"-virtfs", b"virtfs-proxy-helper -"];
    Backend::sought().is_in(text) && MARKS.iter().any(|mark| memchr::memmem::find(text, mark).is_some())
}

thread_local! {
    static OPAQUE: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
}

/// Reads a document whose parts `opaque` are not statically known, whatever they look like: the text around it says so.
pub(super) fn with_opaque<T>(opaque: Vec<Range<usize>>, work: impl FnOnce() -> T) -> T {
    let before = OPAQUE.replace(opaque);
    let done = work();
    OPAQUE.set(before);
    done
}

/// A document with its foreign expressions hidden.
#[derive(Debug)]
pub(super) struct Masked<'a> {
    text: Cow<'a, [u8]>,
    hidden: Vec<Range<usize>>,
    original: &'a [u8],
}

impl<'a> Masked<'a> {
    /// Hides what is foreign to a document's format.
    pub(super) fn of(document: &Document<'a>) -> Self {
        Self::new(document, false)
    }

    /// The same for YAML, to which an expression on a line of its own is no value.
    pub(super) fn of_yaml(document: &Document<'a>) -> Self {
        Self::new(document, true)
    }

    fn new(document: &Document<'a>, yaml: bool) -> Self {
        let opaque = OPAQUE.take();
        let mut masked = Self::hiding(document.bytes, Vec::new());
        for Expression { range, directive } in expressions(document) {
            let text = document.bytes.get(range.clone()).unwrap_or_default();
            if holds_share(text) {
                continue;
            }
            let alone = (directive || yaml) && is_alone(document.bytes, &range);
            masked.hide(range, if alone { b' ' } else { FILLER });
        }
        for range in opaque {
            masked.hide(range, FILLER);
        }
        masked
    }

    /// The same for a format that knows no `$(…)`, and of `${…}` at most `${NAME}`: others fill in the rest.
    pub(super) fn of_bracketed(document: &Document<'a>, names: bool) -> Self {
        let mut masked = Self::new(document, false);
        let bytes = document.bytes;
        let mut at = 0;
        while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(b'$', rest)) {
            let start = at + found;
            let rest = bytes.get(start..).unwrap_or_default();
            let length = if matches!(rest.get(1), Some(b'{' | b'(')) { dollar(rest) } else { 0 };
            let text = rest.get(..length).unwrap_or_default();
            let name = text.strip_prefix(b"${").and_then(|text| text.strip_suffix(b"}"));
            let is_name = |name: &[u8]| name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
            if length > 0 && !holds_share(text) && !(names && name.is_some_and(is_name)) {
                masked.hide(start..start + length, FILLER);
            }
            at = start + length.max(1);
        }
        masked
    }

    /// Hides parts of a text.
    pub(super) fn hiding(text: &'a [u8], parts: Vec<Range<usize>>) -> Self {
        let mut masked = Self { text: Cow::Borrowed(text), hidden: Vec::new(), original: text };
        for range in parts {
            masked.hide(range, FILLER);
        }
        masked
    }

    fn hide(&mut self, range: Range<usize>, with: u8) {
        let Some(bytes) = self.text.to_mut().get_mut(range.clone()) else { return };
        let multiline = with == b' ';
        for byte in bytes.iter_mut().filter(|byte| !(multiline && matches!(byte, b'\n' | b'\r'))) {
            *byte = with;
        }
        self.hidden.push(range);
    }

    /// The text for the lexer. Every byte that is not hidden is where it was.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// Gives what was hidden its own text again, as a part that is not statically known.
    pub(super) fn restore(&self, mut lexed: Lexed) -> Lexed {
        if self.hidden.is_empty() {
            return lexed;
        }
        let mut hidden = self.hidden.clone();
        hidden.sort_by_key(|range| range.start);
        let is_hidden = |at: usize| {
            let index = hidden.partition_point(|range| range.start <= at);
            index.checked_sub(1).and_then(|index| hidden.get(index)).is_some_and(|range| range.contains(&at))
        };
        let commands = lexed.commands.iter_mut().chain(&mut lexed.engines);
        let words = commands.flat_map(|command| &mut command.words).map(|word| &mut word.chars);
        let texts = lexed.embedded.iter_mut().map(|embedded| &mut embedded.chars);
        let containers = lexed.containers.iter_mut().flat_map(Container::texts);
        for c in words.chain(texts).chain(containers).flatten().filter(|c| is_hidden(c.start as usize)) {
            let byte = self.original.get(c.start as usize).copied().unwrap_or(c.byte);
            *c = Char { byte, known: false, ..*c };
        }
        lexed
    }
}

/// Whether nothing but blanks stands beside `range` on its lines.
fn is_alone(bytes: &[u8], range: &Range<usize>) -> bool {
    let before = bytes.get(..range.start).unwrap_or_default().rsplit(|byte| *byte == b'\n').next();
    let after = bytes.get(range.end..).unwrap_or_default().split(|byte| *byte == b'\n').next();
    before.unwrap_or_default().trim_ascii().is_empty() && after.unwrap_or_default().trim_ascii().is_empty()
}

/// Stops at an edit that begins or ends inside an expression, or takes out one that steers what is around it.
pub(super) fn refuse_cut(document: &Document, edits: &[Edit]) -> Result<(), Refusal> {
    for expression in expressions(document) {
        let Range { start, end } = expression.range;
        let torn = |edit: &&Edit| {
            let touches = edit.span.start < end && edit.span.end > start;
            let inside = edit.span.is_empty() && edit.span.start > start && edit.span.start < end;
            let whole = edit.span.start <= start && edit.span.end >= end;
            inside || touches && (!whole || expression.directive)
        };
        if edits.iter().any(|edit| torn(&edit)) {
            let text = document.bytes.get(start..end.min(start + 80)).unwrap_or_default();
            return Err(Refusal::at(
                Some(super::chars::Lines::new(document.bytes).line(start)),
                format!(
                    "the template expression {} stands in the way of the rewrite",
                    crate::text::escape(text)
                ),
                "change this share by hand; `--to qemu-args` prints what it should say",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_found_whole() {
        for (text, expected) in [
            ("a {{ b }} c", vec!["{{ b }}"]),
            ("{{ {'a': {'b': 1}}['a'] }}x", vec!["{{ {'a': {'b': 1}}['a'] }}"]),
            ("{{ \"}}\" }}x", vec!["{{ \"}}\" }}"]),
            ("{{ it's }} {{ b }}", vec!["{{ it's }}", "{{ b }}"]),
            ("${{ secrets.A }}", vec!["${{ secrets.A }}"]),
            ("{{{ raw }}}", vec!["{{{ raw }}}"]),
            ("{% if a %}b{% endif %}", vec!["{% if a %}", "{% endif %}"]),
            ("<%= @a %>,<%- b -%><% if c %>", vec!["<%= @a %>", "<%- b -%>", "<% if c %>"]),
            ("x=@A_B@ a@b.c", vec!["@A_B@"]),
            ("%(sock)s %{ if a }x%{ endif }", vec!["%(sock)s", "%{ if a }", "%{ endif }"]),
            ("s=#{f('}')} # {x}", vec!["#{f('}')}"]),
            ("${#a[@]} printf '<%s>' {a} ${b}", vec![]),
            ("{{ never closed", vec![]),
        ] {
            let found = expressions(&Document { path: None, bytes: text.as_bytes() });
            let found: Vec<_> = found.into_iter().map(|one| text[one.range].to_owned()).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn expansions_have_balanced_brackets() {
        for (text, length) in [
            ("${a}b", 4),
            ("${a:-${b}}c", 10),
            ("${join(\"/\", [a, \"}\"])}x", 22),
            ("$(cat \")\")x", 10),
            ("$a-b", 2),
            ("$1", 0),
            ("${a", 0),
        ] {
            assert_eq!(dollar(text.as_bytes()), length, "{text}");
        }
    }

    #[test]
    fn conditions_are_told_from_values() {
        for (text, expected) in [
            ("{{ a }}", false),
            ("{{ endpoint }}", false),
            ("{{- if .a }}", true),
            ("{{ end }}", true),
            ("{{#if a}}", true),
            ("{% if a %}", true),
            ("<%= a %>", false),
            ("<% end %>", true),
            ("%{ if a }", true),
        ] {
            assert_eq!(steers(text.as_bytes()), expected, "{text}");
        }
    }
}
