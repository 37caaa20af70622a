//! The words in a document's tree, as a command line has them.

use std::rc::Rc;

use super::scalars::chars;
use super::tree::{Node, Value};
use crate::share::bounds::spend;
use crate::sources::chars::{Char, Chars, Word, offset, through};
use crate::sources::expansions::Expansion;
use crate::sources::quote_style::QuoteStyle;
use crate::sources::templates;

/// More words than any command line has: aliases can multiply them without end.
const MAX_WORDS: usize = 10_000;

/// The longest placeholder, in bytes.
const LONGEST: usize = 512;

/// What it costs to hold a word, in bytes.
pub(super) fn held(word: &Word) -> usize {
    word.chars.len() * size_of::<Char>()
}

pub(super) fn split(word: &Word) -> Vec<Word> {
    let is_blank = |c: &Char| c.known && c.byte.is_ascii_whitespace();
    word.chars
        .split(is_blank)
        .filter(|part| !part.is_empty())
        .map(|part| Word::plain(part.iter().map(|c| Char { splits: true, ..*c }).collect()))
        .collect()
}

/// The scalars of a list, and of lists in it; a text alone is its blank-separated words.
pub(super) fn words(file: &str, node: &Rc<Node>, around: Option<&Node>) -> Vec<Word> {
    let mut out = Vec::new();
    let mut waiting = vec![(Rc::clone(node), false)];
    let alone = matches!(node.value, Value::Scalar(..));
    while let Some((node, flow)) = waiting.pop() {
        if waiting.len() > MAX_WORDS || !spend(1) {
            return Vec::new();
        }
        match &node.value {
            Value::Scalar(..) => {
                if !spend(node.text().map_or(0, str::len)) {
                    return Vec::new();
                }
                let chars = known(&chars(file, &node, flow), file, around);
                let word = Word { chars, span: node.span.clone() };
                if alone { out.extend(split(&word)) } else { out.push(word) }
            }
            Value::Sequence(items) => {
                let flow = file.as_bytes().get(node.span.start) == Some(&b'[');
                waiting.extend(items.iter().rev().map(|item| (Rc::clone(item), flow)));
            }
            Value::Alias(Some(target)) if out.len() < MAX_WORDS => {
                // What holds a comma does not stand in a list of the flow style without quotes.
                let flow = flow && target.text().is_none_or(|text| !text.contains(','));
                waiting.push((Rc::clone(target), flow));
            }
            // A map in a list is no argument; what is in it is looked at by itself.
            Value::Mapping(_) | Value::Alias(_) => {}
        }
    }
    out
}

/// Marks what other programs fill in, and puts in what the container's own environment says.
pub(super) fn known(chars: &[Char], file: &str, around: Option<&Node>) -> Chars {
    let mut out: Chars = Vec::with_capacity(chars.len());
    let bytes: Vec<u8> = chars.iter().map(|c| c.byte).collect();
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        let rest = bytes.get(at..).unwrap_or_default();
        let length = placeholder(rest);
        let spelling = chars.get(at..at + length.max(1)).unwrap_or_default();
        if length == 0 {
            out.push(*c);
        } else if let Some(value) = variable(rest.get(..length).unwrap_or_default(), file, around) {
            let (first, last) = (spelling.first(), spelling.last());
            let Some((first, last)) = first.zip(last) else { break };
            let via = Expansion {
                start: offset(first.start as usize),
                end: offset(last.end as usize),
                spelt: first.spelt,
                several: false,
            };
            out.extend(through(value, via));
        } else {
            out.extend(spelling.iter().map(|c| Char { known: false, ..*c }));
        }
        at += length.max(1);
    }
    out
}

/// How long the placeholder is that `text` starts with: `${…}`, `$(…)`, `$NAME`, `{{ … }}`. Compose takes one of two dollars
/// away, and so does Kubernetes in front of a parenthesis; other programs don't.
fn placeholder(text: &[u8]) -> usize {
    let start = text.get(..text.len().min(LONGEST)).unwrap_or_default();
    let until = |end: &[u8]| memchr::memmem::find(start, end).map_or(0, |at| at + end.len());
    match text {
        [b'{', b'{', ..] => until(b"}}"),
        [b'$', b'$', ..] => 2,
        _ => templates::dollar(text),
    }
}

/// The value of Kubernetes's `$(NAME)`, where the container's `env` says it.
fn variable(placeholder: &[u8], file: &str, around: Option<&Node>) -> Option<Chars> {
    let name = placeholder.strip_prefix(b"$(")?.strip_suffix(b")")?;
    let Value::Sequence(items) = &around?.get("env")?.value else { return None };
    let item = items.iter().rfind(|item| {
        item.get("name").and_then(|node| node.text()).is_some_and(|text| text.as_bytes() == name)
    })?;
    let value = item.get("value")?;
    let chars = chars(file, value, false);
    let fixed = chars.iter().any(|c| c.spelt == QuoteStyle::Fixed || c.byte == b'$');
    (!fixed).then_some(chars)
}
