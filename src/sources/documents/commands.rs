//! A document's tree → the argument lists and scripts in it.

use std::path::Path;
use std::rc::Rc;

use super::compose::Services;
use super::containers::{container, service};
use super::scalars::chars;
use super::tree::{Node, Value};
use super::words::{held, split, words};
use crate::share::backend::Backend;
use crate::share::bounds::spend;
use crate::share::invocation::is_helper;
use crate::sources::chars::{Command, Embedded, Word};
use crate::sources::format::path_of;
use crate::sources::lexed::Lexed;

/// Keys whose lists make one command line together, in this order: Compose's and Kubernetes's.
const PARTS: &[&str] = &["entrypoint", "command", "args"];

/// Keys whose text is for people.
const PROSE: &[&str] =
    &["description", "comment", "comments", "message", "msg", "notes", "help", "summary", "title", "doc"];

/// Keys that say where a text beside them goes.
const NAMES: &[&str] = &["path", "dest", "destination", "filename"];

/// Takes what is in `node` and below it. `folder`: where the document lies.
pub(super) fn collect(file: &str, folder: Option<&Path>, node: &Rc<Node>, lexed: &mut Lexed) {
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
                        lexed.containers.push(service(
                            file,
                            services.name(&node),
                            &whole,
                            &node,
                            folder,
                            &services,
                        ));
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
