//! Events → a tree of nodes that know their places.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::sources::format::Unreadable;

/// How deep nodes may nest.
const MAX_DEPTH: usize = 128;

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    /// What it is.
    pub value: Value,
    /// Its bytes of the file.
    pub span: Range<usize>,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Value {
    /// A string, number or the like.
    Scalar(String, ScalarStyle),
    /// A list.
    Sequence(Vec<Rc<Node>>),
    /// Keys and values.
    Mapping(Vec<(Rc<Node>, Rc<Node>)>),
    /// Another mention of a node.
    Alias(Option<Rc<Node>>),
}

impl Node {
    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// The value of a mapping's key, or of the one that it is merged with (`<<: *other`).
    pub(super) fn get(&self, key: &str) -> Option<&Rc<Node>> {
        self.own(key).or_else(|| match &self.own("<<")?.value {
            Value::Alias(Some(other)) => other.own(key),
            _ => None,
        })
    }

    fn own(&self, key: &str) -> Option<&Rc<Node>> {
        match &self.value {
            Value::Mapping(pairs) => {
                pairs.iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

/// A node whose children are still coming.
struct Open {
    is_mapping: bool,
    anchor: usize,
    start: usize,
    children: Vec<Rc<Node>>,
}

/// The documents of a stream.
pub(super) fn nodes(text: &str) -> Result<Vec<Rc<Node>>, Unreadable> {
    let offsets = Offsets::new(text);
    let mut roots = Vec::new();
    let mut stack: Vec<Open> = Vec::new();
    let mut anchors: HashMap<usize, Rc<Node>> = HashMap::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Unreadable {
            line: Some(error.marker().line() as u64),
            reason: error.info().to_owned(),
        })?;
        let range = offsets.range(&span);
        let node = match event {
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                if stack.len() >= MAX_DEPTH {
                    let line = Some(span.start.line() as u64);
                    return Err(Unreadable {
                        line,
                        reason: format!("it nests deeper than {MAX_DEPTH} levels"),
                    });
                }
                let is_mapping = matches!(event, Event::MappingStart(..));
                stack.push(Open { is_mapping, anchor, start: range.start, children: Vec::new() });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = stack.pop() else { continue };
                let anchor = open.anchor;
                let node = Rc::new(open.close(range.end));
                if anchor > 0 {
                    anchors.insert(anchor, Rc::clone(&node));
                }
                node
            }
            Event::Scalar(text, style, anchor, _) => {
                let node = Rc::new(Node { value: Value::Scalar(text.into_owned(), style), span: range });
                if anchor > 0 {
                    anchors.insert(anchor, Rc::clone(&node));
                }
                node
            }
            Event::Alias(anchor) => {
                let value = Value::Alias(anchors.get(&anchor).cloned());
                Rc::new(Node { value, span: range })
            }
            _ => continue,
        };
        match stack.last_mut() {
            Some(open) => open.children.push(node),
            None => roots.push(node),
        }
    }
    Ok(roots)
}

impl Open {
    fn close(self, end: usize) -> Node {
        let span = self.start..end.max(self.start);
        let value = if self.is_mapping {
            let mut pairs = Vec::new();
            let mut children = self.children.into_iter();
            while let (Some(key), Some(value)) = (children.next(), children.next()) {
                pairs.push((key, value));
            }
            Value::Mapping(pairs)
        } else {
            Value::Sequence(self.children)
        };
        Node { value, span }
    }
}

/// Offsets in characters, as saphyr counts, → offsets in bytes.
struct Offsets {
    /// Where every 64th character starts; empty for plain ASCII.
    marks: Vec<usize>,
    text: String,
}

const STRIDE: usize = 64;

impl Offsets {
    fn new(text: &str) -> Self {
        if text.is_ascii() {
            return Self { marks: Vec::new(), text: String::new() };
        }
        let marks = text.char_indices().step_by(STRIDE).map(|(at, _)| at).collect();
        Self { marks, text: text.to_owned() }
    }

    fn range(&self, span: &Span) -> Range<usize> {
        self.byte(span.start.index())..self.byte(span.end.index())
    }

    fn byte(&self, character: usize) -> usize {
        if self.marks.is_empty() {
            return character;
        }
        let Some(mark) = self.marks.get(character / STRIDE) else { return self.text.len() };
        let rest = self.text.get(*mark..).unwrap_or_default();
        let within = rest.char_indices().nth(character % STRIDE).map_or(rest.len(), |(at, _)| at);
        mark + within
    }
}
