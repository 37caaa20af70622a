//! A document's tree → the argument lists and scripts in it.

use std::path::Path;
use std::rc::Rc;

use super::compose::Services;
use super::containers::{container, service};
use super::scalars::chars;
use super::tree::{Node, Value};
use crate::share::backend::Backend;
use crate::share::bounds::spend;
use crate::share::invocation::is_helper;
use crate::sources::chars::{Char, Chars, Command, Embedded, Lexed, Via, Word, offset, through};
use crate::sources::path_of;
use crate::sources::spelling::Spelt;
use crate::sources::templates;

/// Keys whose lists make one command line together, in this order: Compose's and Kubernetes's.
const PARTS: &[&str] = &["entrypoint", "command", "args"];

/// Keys whose text is for people.
const PROSE: &[&str] =
    &["description", "comment", "comments", "message", "msg", "notes", "help", "summary", "title", "doc"];

/// Keys that say where a text beside them goes.
const NAMES: &[&str] = &["path", "dest", "destination", "filename"];

/// More words than any command line has: aliases can multiply them without end.
const MAX_WORDS: usize = 10_000;

/// The longest placeholder, in bytes.
const LONGEST: usize = 512;

/// Takes what is in `node` and below it. `folder`: where the document lies.
pub fn collect(file: &str, folder: Option<&Path>, node: &Rc<Node>, lexed: &mut Lexed) {
    let services = Services::of(node);
    let mut waiting = vec![(Rc::clone(node), None, None)];
    while let Some((node, name, pod)) = waiting.pop() {
        match &node.value {
            Value::Scalar(..) => script(file, &node, name, lexed),
            Value::Sequence(items) => {
                let words = words(file, &node, None);
                lists(words, lexed);
                // An option with its value in one string is no script.
                let option = |item: &&Rc<Node>| item.text().is_some_and(|text| text.starts_with('-'));
                waiting.extend(
                    items
                        .iter()
                        .rev()
                        .filter(|i| !option(i))
                        .map(|item| (Rc::clone(item), None, pod.clone())),
                );
            }
            Value::Mapping(pairs) => {
                if services.has(&node) {
                    let whole = services.whole(&node);
                    together(file, &whole, lexed);
                    // Without any of these, nothing says that it is a container's at all.
                    let told =
                        ["image", "build", "extends", "volumes"].iter().any(|key| whole.get(key).is_some());
                    if told {
                        lexed.containers.push(service(file, services.name(&node), &whole, &node, folder));
                    }
                } else {
                    together(file, &node, lexed);
                    lexed.containers.extend(container(file, &node, pod.as_deref(), folder));
                }
                let is_pod = ["containers", "initContainers"].iter().any(|key| node.get(key).is_some());
                let pod = if is_pod { Some(Rc::clone(&node)) } else { pod };
                let beside = NAMES.iter().find_map(|key| node.get(key)?.text()).map(str::to_owned);
                for (key, value) in pairs.iter().rev() {
                    let key = key.text().unwrap_or_default();
                    if PROSE.contains(&key) {
                        continue;
                    }
                    let own = Some(key.to_owned()).filter(|key| key.contains('.'));
                    waiting.push((Rc::clone(value), own.or_else(|| beside.clone()), pod.clone()));
                }
            }
            Value::Alias(_) => {}
        }
    }
}

/// A container's command line, from the lists that make it.
fn together(file: &str, node: &Node, lexed: &mut Lexed) {
    let mut parts: Vec<_> = PARTS.iter().filter_map(|key| node.get(key)).collect();
    // LXD and Incus keep the program's path and its arguments in its pid file.
    if let [args] = parts.as_slice()
        && let Some(program) = node.get("name").filter(|name| name.text().is_some_and(is_helper_path))
    {
        parts = vec![program, *args];
    }
    if parts.len() < 2 && node.get("env").is_none() {
        return;
    }
    let words: Vec<Word> = parts.into_iter().flat_map(|part| words(file, part, Some(node))).collect();
    lists(words, lexed);
}

fn is_helper_path(text: &str) -> bool {
    text.starts_with('/') && is_helper(text.as_bytes())
}

/// Notes a list of arguments; one whose items are options with their values in one string, too.
fn lists(words: Vec<Word>, lexed: &mut Lexed) {
    if !words.iter().any(|word| word.contains(Backend::sought().name()))
        || !spend(words.iter().map(held).sum())
    {
        return;
    }
    let telling = |word: &Word| word.has_blank() && word.bytes().starts_with(b"-");
    if words.iter().any(telling) {
        let split =
            words.iter().flat_map(|word| if telling(word) { split(word) } else { vec![word.clone()] });
        lexed.commands.push(Command { words: split.collect(), guest: None });
    } else {
        lexed.commands.push(Command { words, guest: None });
    }
}

/// What it costs to hold a word, in bytes.
fn held(word: &Word) -> usize {
    word.chars.len() * size_of::<Char>()
}

fn split(word: &Word) -> Vec<Word> {
    let is_blank = |c: &Char| c.known && c.byte.is_ascii_whitespace();
    word.chars
        .split(is_blank)
        .filter(|part| !part.is_empty())
        .map(|part| Word::plain(part.iter().map(|c| Char { splits: true, ..*c }).collect()))
        .collect()
}

/// The scalars of a list, and of lists in it; a text alone is its blank-separated words.
pub fn words(file: &str, node: &Rc<Node>, around: Option<&Node>) -> Vec<Word> {
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
pub fn known(chars: &[Char], file: &str, around: Option<&Node>) -> Chars {
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
            let via = Via {
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
    let fixed = chars.iter().any(|c| c.spelt == Spelt::Fixed || c.byte == b'$');
    (!fixed).then_some(chars)
}

/// A text that may be a script, or another document.
fn script(file: &str, node: &Node, name: Option<String>, lexed: &mut Lexed) {
    let Some(text) = node.text().filter(|text| Backend::sought().is_in(text.as_bytes())) else { return };
    if !text.contains(|c: char| c.is_ascii_whitespace()) {
        return;
    }
    let name = name.map(|name| path_of(name.as_bytes()));
    let mut chars = chars(file, node, false);
    // Compose takes one of two dollars away.
    for pair in 1..chars.len() {
        if let Some([first, second]) = chars.get_mut(pair - 1..=pair)
            && first.byte == b'$'
            && second.byte == b'$'
        {
            (first.known, second.known) = (false, false);
        }
    }
    lexed.embedded.push(Embedded { name, ..Embedded::script(&chars) });
}
