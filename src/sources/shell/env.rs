//! A script's variables, as far as they are statically known.

use std::collections::{HashMap, HashSet};

use crate::share::backend::Backend;
use crate::share::bounds::spend;
use crate::sources::chars::{Char, Chars, Command, Word, bytes, verbatim};
use crate::sources::quote_style::QuoteStyle;

/// A variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A string. Parts of it may be unknown.
    Scalar(Chars),
    /// `( … )`.
    Array(Vec<Word>),
    /// Set in a way that this program does not follow.
    Unknown,
}

/// More than any variable of a launcher holds, in bytes.
const MAX_VALUE: usize = 64 << 10;

impl Value {
    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Scalar(chars) => chars.len(),
            Self::Array(words) => words.iter().map(|word| word.chars.len() + 1).sum(),
            Self::Unknown => 0,
        }
    }
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    /// Its value.
    pub value: Value,
    /// Whether another branch of the script may have given it another one. Its words then are still worth a look
    /// where it is used as a list, but the value is not known.
    pub maybe: bool,
}

/// What a block of the script is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// `if … fi`.
    If,
    /// `for`, `while`, `until`, `select` … `done`.
    Loop,
    /// `case … esac`.
    Case,
    /// `{ … }`.
    Group,
    /// A function's body.
    Function,
    /// `( … )`.
    Subshell,
}

/// An open block.
#[derive(Debug)]
struct Frame {
    block: Block,
    /// Variables as they were before this branch, of those that it changed.
    before: HashMap<Vec<u8>, Option<Variable>>,
    /// Variables that any branch of the block changed.
    touched: HashSet<Vec<u8>>,
    /// Variables that are the function's own.
    local: HashSet<Vec<u8>>,
}

/// The variables at one place of the script.
#[derive(Debug, Default)]
pub(super) struct Env {
    now: HashMap<Vec<u8>, Variable>,
    frames: Vec<Frame>,
    /// How often each variable is set, and whether the last time was at the top.
    counts: HashMap<Vec<u8>, (usize, bool)>,
    /// What an earlier pass knows to be set once and for all.
    constants: HashMap<Vec<u8>, Variable>,
    /// Values that were replaced by others: their words may still be of interest.
    replaced: Vec<Value>,
}

impl Env {
    /// An environment that knows the variables which `first`, of an earlier pass, set exactly once and at the top.
    pub(super) fn with_constants_of(first: Env) -> Self {
        let Self { now, counts, .. } = first;
        let once = |name: &Vec<u8>| counts.get(name) == Some(&(1, true));
        let constants = now.into_iter().filter(|(name, _)| once(name));
        Self { constants: constants.collect(), ..Self::default() }
    }

    /// The variable's state here.
    pub(super) fn get(&self, name: &[u8]) -> Option<Variable> {
        let size = |variable: &Variable| variable.value.len();
        if !spend(self.now.get(name).map_or(0, size) + self.constants.get(name).map_or(0, size)) {
            return None;
        }
        if self.in_function() && !self.set_in_function(name) {
            // A function runs later: what the script set before it may have changed meanwhile.
            return self
                .constants
                .get(name)
                .cloned()
                .or_else(|| self.now.get(name).map(|now| Variable { maybe: true, ..now.clone() }));
        }
        self.now.get(name).cloned()
    }

    /// Sets a variable.
    pub(super) fn set(&mut self, name: &[u8], value: Value, local: bool) {
        let value = if value.len() > MAX_VALUE { Value::Unknown } else { value };
        self.count(name, &value);
        self.remember(name, local);
        let new = Variable { value, maybe: false };
        if let Some(old) = self.now.insert(name.to_vec(), new) {
            self.keep(old.value);
        }
    }

    /// Keeps a value that a variable no longer has, if it could hold a share.
    pub(super) fn keep(&mut self, value: Value) {
        let telling = |chars: &Chars| Backend::sought().is_in(&bytes(chars));
        let wanted = match &value {
            Value::Scalar(chars) => telling(chars),
            Value::Array(words) => words.iter().any(|word| telling(&word.chars)),
            Value::Unknown => false,
        };
        if wanted {
            self.replaced.push(value);
        }
    }

    /// Sets a variable that other branches of the script may not set: after `&&`, say.
    pub(super) fn set_maybe(&mut self, name: &[u8], value: Value) {
        self.set(name, value, false);
        if let Some(variable) = self.now.get_mut(name) {
            variable.maybe = true;
        }
    }

    /// Adds to a variable.
    pub(super) fn append(&mut self, name: &[u8], value: Value, maybe: bool) {
        self.count(name, &Value::Unknown);
        self.remember(name, false);
        let old = self.now.remove(name);
        let was_maybe = old.as_ref().is_some_and(|old| old.maybe);
        let value = match (old.map(|old| old.value), value) {
            (Some(Value::Scalar(mut old)), Value::Scalar(new)) => {
                old.extend(new);
                Value::Scalar(old)
            }
            (Some(Value::Array(mut old)), Value::Array(new)) => {
                old.extend(new);
                Value::Array(old)
            }
            (Some(Value::Scalar(old)), Value::Array(new)) => {
                let mut words = vec![Word::plain(old)];
                words.extend(new);
                Value::Array(words)
            }
            (_, new) => new,
        };
        let value = if value.len() > MAX_VALUE { Value::Unknown } else { value };
        self.now.insert(name.to_vec(), Variable { value, maybe: was_maybe || maybe });
    }

    /// Forgets a variable.
    pub(super) fn unset(&mut self, name: &[u8]) {
        self.count(name, &Value::Unknown);
        self.remember(name, false);
        if let Some(old) = self.now.remove(name) {
            self.keep(old.value);
        }
    }

    /// Takes what another file set. Its text has no place in this one but the word that names the file.
    pub(super) fn take_from(&mut self, other: Env, named: &Word) {
        let here = |c: &Char| Char::new(c.byte, named.span.clone(), QuoteStyle::Fixed);
        let moved =
            |chars: &Chars| chars.iter().map(|c| Char { known: c.known, ..here(c) }).collect::<Chars>();
        for (name, variable) in other.now {
            let value = match variable.value {
                Value::Scalar(chars) if !variable.maybe => Value::Scalar(moved(&chars)),
                Value::Array(words) if !variable.maybe => {
                    Value::Array(words.iter().map(|word| Word::plain(moved(&word.chars))).collect())
                }
                _ => Value::Unknown,
            };
            self.set(&name, value, false);
        }
    }

    /// A file of settings was read in: strings may have changed.
    pub(super) fn doubt_all(&mut self) {
        if !spend(self.now.len() + self.counts.len()) {
            return;
        }
        for variable in self.now.values_mut() {
            variable.maybe = true;
        }
        for (times, _) in self.counts.values_mut() {
            *times += 1;
        }
    }

    /// How many blocks are open.
    pub(super) fn depth(&self) -> usize {
        self.frames.len()
    }

    /// Leaves blocks until `depth` are open.
    pub(super) fn close_down_to(&mut self, depth: usize) {
        while self.depth() > depth {
            let Some(block) = self.block() else { return };
            self.close(block);
        }
    }

    /// Enters a block.
    pub(super) fn open(&mut self, block: Block) {
        self.frames.push(Frame {
            block,
            before: HashMap::new(),
            touched: HashSet::new(),
            local: HashSet::new(),
        });
    }

    /// The innermost open block.
    pub(super) fn block(&self) -> Option<Block> {
        self.frames.last().map(|frame| frame.block)
    }

    /// Enters the next branch of the block: `else`, `;;`.
    pub(super) fn branch(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        let before = std::mem::take(&mut frame.before);
        frame.touched.extend(before.keys().cloned());
        for (name, old) in before {
            // Lists keep what every branch adds to them.
            let list = matches!(self.now.get(&name), Some(Variable { value: Value::Array(_), .. }));
            if !list {
                self.restore(name, old);
            }
        }
    }

    /// Leaves the block.
    pub(super) fn close(&mut self, block: Block) {
        if self.block() != Some(block) {
            return;
        }
        let Some(mut frame) = self.frames.pop() else { return };
        let names: HashSet<_> = frame.touched.iter().chain(frame.before.keys()).cloned().collect();
        for name in names {
            let old = frame.before.remove(&name).flatten();
            if frame.local.contains(&name) || block == Block::Subshell {
                self.restore(name, old);
                continue;
            }
            if block != Block::Group
                && let Some(variable) = self.now.get_mut(&name)
            {
                variable.maybe = true;
            }
            // The block around it has changed it, too.
            if let Some(outer) = self.frames.last_mut() {
                outer.before.entry(name).or_insert(old);
            }
        }
    }

    /// The lists of words that the variables hold at the end, and that they held before.
    pub(super) fn leftovers(self) -> Vec<Command> {
        let now = self.now.into_values().map(|variable| variable.value);
        now.chain(self.replaced)
            .filter_map(|value| {
                let words = match value {
                    Value::Scalar(chars) => as_list(&chars),
                    Value::Array(words) => words,
                    Value::Unknown => return None,
                };
                Some(Command { words, guest: None })
            })
            .collect()
    }

    fn restore(&mut self, name: Vec<u8>, old: Option<Variable>) {
        let gone = match old {
            Some(old) => self.now.insert(name, old),
            None => self.now.remove(&name),
        };
        if let Some(gone) = gone {
            self.keep(gone.value);
        }
    }

    fn count(&mut self, name: &[u8], value: &Value) {
        let top = self.frames.iter().all(|frame| frame.block == Block::Group);
        let entry = self.counts.entry(name.to_vec()).or_default();
        entry.0 += 1;
        entry.1 = top && *value != Value::Unknown;
    }

    fn remember(&mut self, name: &[u8], local: bool) {
        if let Some(frame) = self.frames.last_mut().filter(|frame| !frame.before.contains_key(name)) {
            let old = self.now.get(name).filter(|old| spend(old.value.len())).cloned();
            frame.before.insert(name.to_vec(), old);
        }
        if local && let Some(function) = self.frames.iter_mut().rfind(|f| f.block == Block::Function) {
            function.local.insert(name.to_vec());
        }
    }

    fn in_function(&self) -> bool {
        self.frames.iter().any(|frame| frame.block == Block::Function)
    }

    fn set_in_function(&self, name: &[u8]) -> bool {
        let function = self.frames.iter().rposition(|frame| frame.block == Block::Function).unwrap_or(0);
        self.frames
            .iter()
            .skip(function)
            .any(|frame| frame.before.contains_key(name) || frame.touched.contains(name))
    }
}

/// A variable's text as a list of arguments. One that is a whole fsdev by itself is an option's value.
fn as_list(chars: &Chars) -> Vec<Word> {
    let words = split(chars);
    match words.as_slice() {
        [word]
            if word
                .bytes()
                .strip_prefix(Backend::sought().name())
                .is_some_and(|rest| rest.starts_with(b",")) =>
        {
            let option = verbatim(b"-fsdev", 0..6, QuoteStyle::Fixed);
            vec![Word { chars: option, span: 0..0 }, word.clone()]
        }
        _ => words,
    }
}

/// Splits a string into words at its blanks.
pub(crate) fn split(chars: &Chars) -> Vec<Word> {
    chars
        .split(|c| c.known && c.byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| Word::plain(word.to_vec()))
        .collect()
}
