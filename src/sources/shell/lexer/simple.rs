//! Simple commands: their assignments, and what they do to variables.

use super::{Lexer, unreadable};
use crate::share::backend::Backend;
use crate::share::bounds::spend;
use std::path::PathBuf;

use crate::sources::chars::{Char, Command, Embedded, Word};
use crate::sources::commands;
use crate::sources::containers;
use crate::sources::format::{Unreadable, path_of};
use crate::sources::shell::env::{self, Env, Value};
use crate::sources::shell::word::{self, Fields};

/// What it costs to read one more file, in bytes.
const SOURCED: usize = 64 << 10;

/// The command that is being read.
#[derive(Default)]
pub(super) struct Simple {
    pub(super) words: Vec<Word>,
    pub(super) assignments: Vec<(Vec<u8>, Value, bool)>,
    /// Where its standard output goes.
    pub(super) target: Option<Vec<u8>>,
    /// The first of the heredocs that are its own.
    pub(super) heredocs: usize,
    /// After `&&` or `||`.
    pub(super) conditional: bool,
}

impl Lexer<'_> {
    /// `NAME=`, `NAME+=`, `NAME[…]=` at this place: the name and whether it adds.
    pub(super) fn assignment(&mut self) -> Option<(Vec<u8>, bool)> {
        let rest = self.file.get(self.at..self.end)?;
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let length = rest.iter().take_while(|byte| is_name(byte)).count();
        let name = rest.get(..length)?;
        if name.is_empty() || name.first()?.is_ascii_digit() {
            return None;
        }
        let mut after = rest.get(length..)?;
        let mut indexed = false;
        if after.first() == Some(&b'[') {
            let close = after.iter().take(64).position(|byte| *byte == b']')?;
            after = after.get(close + 1..)?;
            indexed = true;
        }
        let (append, skip) = match after {
            [b'+', b'=', ..] => (true, 2),
            [b'=', ..] => (false, 1),
            _ => return None,
        };
        let name = name.to_vec();
        self.at += rest.len() - after.len() + skip;
        Some((name, append || indexed))
    }

    /// The value of an assignment: a word or `( … )`.
    pub(super) fn value(&mut self) -> Result<Value, Unreadable> {
        if self.peek(0) == Some(b'(') {
            return Ok(Value::Array(self.array()?));
        }
        let fields = word::read_value(self)?;
        Ok(fields.value())
    }

    pub(super) fn array(&mut self) -> Result<Vec<Word>, Unreadable> {
        let start = self.at;
        self.at += 1;
        let mut words = Vec::new();
        loop {
            self.skip_blanks();
            match self.peek(0) {
                None => return Err(unreadable(self.file, start, "the array that opens here is not closed")),
                Some(b')') => break,
                Some(b'\n') => self.at += 1,
                Some(b'#') => self.skip_comment(),
                Some(_) => {
                    let before = self.at;
                    words.extend(word::read(self)?.words);
                    self.at = self.at.max(before + 1);
                }
            }
        }
        self.at += 1;
        Ok(words)
    }

    pub(super) fn assign(&mut self, name: &[u8], value: Value, append: bool, conditional: bool, local: bool) {
        match (append, conditional) {
            (true, _) => self.env.append(name, value, conditional),
            (false, true) => self.env.set_maybe(name, value),
            (false, false) => self.env.set(name, value, local),
        }
    }

    /// Takes a command that is complete.
    pub(super) fn finish(&mut self, simple: Simple, piped: bool) {
        let Simple { words, assignments, target, heredocs, conditional } = simple;
        let tee = words.iter().position(|word| word.is(b"tee"));
        let tee = tee.and_then(|at| words.get(at + 1..)?.iter().find(|word| !word.bytes().starts_with(b"-")));
        let name = target.clone().filter(|target| !target.is_empty()).or_else(|| tee.map(Word::bytes));
        let printed = words.first().is_none_or(|word| word.is_any(&["cat", ":", "echo"]));
        let ignored = words.first().is_none_or(|word| word.is(b":"));
        for heredoc in self.heredocs.iter_mut().skip(heredocs) {
            heredoc.name.clone_from(&name);
            heredoc.idle = ignored || (printed && target.is_none() && !piped);
        }
        for (name, value, append) in assignments {
            // systemd's files of settings need no quotes: `OPTS=-fsdev … -device …`.
            if let Value::Scalar(chars) = &value
                && chars.first().is_some_and(|c| c.byte == b'-')
                && words.iter().any(|word| word.contains(Backend::sought().name()))
            {
                let option = env::split(chars).into_iter();
                self.out
                    .commands
                    .push(Command { words: option.chain(words.iter().cloned()).collect(), guest: None });
            }
            if words.is_empty() {
                self.assign(&name, value, append, conditional, false);
            } else {
                self.env.keep(value);
            }
        }
        let Some(first) = words.first() else { return };
        self.builtin(first, &words);
        if first.is_any(&[
            "echo", "printf", "grep", "egrep", "fgrep", "logger", "log", "die", "warn", "pgrep", "pkill",
        ]) && target.is_none()
        {
            return;
        }
        if !words.iter().any(|word| word.contains(Backend::sought().name())) {
            if containers::may_make(&words) && spend(words.iter().map(|word| word.chars.len()).sum()) {
                self.out.engines.push(Command { words, guest: None });
            }
            return;
        }
        for word in words.iter().filter(|word| word.has_blank()) {
            self.out.embedded.push(Embedded::script(&word.chars));
        }
        let passed = passed_on(&words);
        if !passed.is_empty() {
            self.out.commands.push(Command { words: passed, guest: None });
        }
        self.out.commands.push(Command { words, guest: None });
    }

    /// Commands that change variables.
    pub(super) fn builtin(&mut self, first: &Word, words: &[Word]) {
        let names = words.iter().skip(1).filter(|word| !word.bytes().starts_with(b"-")).map(Word::bytes);
        if first.is_any(&["read", "mapfile", "readarray", "getopts"]) {
            for name in names {
                self.env.set(&name, Value::Unknown, false);
            }
        } else if first.is(b"unset") {
            for name in names {
                self.env.unset(&name);
            }
        } else if first.is(b"set") && words.get(1).is_some_and(|word| word.is(b"--")) {
            self.env.set(b"@", Value::Array(words.iter().skip(2).cloned().collect()), false);
        } else if first.is_any(&[".", "source"])
            && let Some(file) = words.get(1)
        {
            self.source(file);
        }
    }

    /// Takes the variables of a file of settings.
    pub(super) fn source(&mut self, file: &Word) {
        let path = self.sourced(file);
        let is_absolute = file.bytes().starts_with(b"/");
        let read = path.zip(self.beside).map(|(path, beside)| beside.file(&path));
        match read {
            // Reading it costs as much again each time.
            Some(Ok(Some(text))) if !commands::is_long(&text) && spend(SOURCED + 4 * text.len()) => {
                match Lexer::new(&text, Env::default(), None).run() {
                    Ok(other) => self.env.take_from(other.env, file),
                    Err(_) if overrides(file) => self.env.doubt_all(),
                    Err(_) => {}
                }
            }
            Some(Ok(None)) if is_absolute => {}
            _ if overrides(file) => self.env.doubt_all(),
            _ => {}
        }
    }

    /// Where a sourced file is: a relative path is taken from the script's own folder, where such scripts are mostly started, and
    /// so is a path behind an expression for that folder.
    fn sourced(&self, file: &Word) -> Option<PathBuf> {
        let text = file.bytes();
        if file.chars.iter().all(|c| c.known) {
            let path = path_of(&text);
            return if path.is_absolute() { Some(path) } else { self.folder.map(|folder| folder.join(path)) };
        }
        let known = file.chars.iter().rposition(|c| !c.known)? + 1;
        let (expression, rest) = (text.get(..known)?, text.get(known..)?);
        let rest = rest.strip_prefix(b"/").filter(|rest| !rest.is_empty() && is_own_folder(expression))?;
        Some(self.folder?.join(path_of(rest)))
    }
}

/// What an OpenRC service runs: two variables say it.
pub(super) fn service(env: &Env) -> Option<Command> {
    let words = |name: &[u8]| match env.get(name)?.value {
        Value::Scalar(chars) => Some(env::split(&chars)),
        _ => None,
    };
    let arguments = words(b"command_args").or_else(|| words(b"command_args_foreground"))?;
    let words = [words(b"command")?, arguments].concat();
    Some(Command { words, guest: None })
}

/// The arguments that virt-install hands over to QEMU, one or several to an option.
pub(super) fn passed_on(words: &[Word]) -> Vec<Word> {
    const OPTION: &[u8] = b"--qemu-commandline";
    let mut passed = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let value = match word.bytes().strip_prefix(OPTION) {
            Some(b"") => rest.next().map(|word| word.chars.clone()),
            Some([b'=', ..]) => word.chars.get(OPTION.len() + 1..).map(<[Char]>::to_vec),
            _ => None,
        };
        passed.extend(value.iter().flat_map(env::split));
    }
    passed
}

/// Whether an expression is the folder of the script that holds it: `$(dirname "$0")`, `${BASH_SOURCE[0]%/*}`, `$(cd "$(dirname
/// "$0")" && pwd)`.
fn is_own_folder(expression: &[u8]) -> bool {
    let bare: Vec<u8> = expression.iter().copied().filter(|byte| !b" \t\"{}".contains(byte)).collect();
    let has = |text: &[u8]| memchr::memmem::find(&bare, text).is_some();
    let own = has(b"$0") || has(b"$BASH_SOURCE");
    let outer = bare.strip_prefix(b"$(cd").and_then(|rest| rest.strip_suffix(b"&&pwd)"));
    let folder = outer.or_else(|| bare.strip_prefix(b"$(cd")?.strip_suffix(b"&&pwd-P)")).unwrap_or(&bare);
    let is_dirname = [&b"$(dirname"[..], b"`dirname"].iter().any(|start| folder.starts_with(start));
    own && (is_dirname && matches!(folder.last(), Some(b')' | b'`')) || folder.ends_with(b"%/*"))
}

/// Whether a sourced file is there to set what the script holds defaults for: not a library of functions.
pub(super) fn overrides(file: &Word) -> bool {
    let bytes = file.bytes();
    let name = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let library = name.ends_with(b".sh") || memchr::memmem::find(name, b"functions").is_some();
    !library
}

impl Fields {
    /// As an assignment takes it: one string.
    fn value(self) -> Value {
        let mut words = self.words;
        match words.len() {
            0 => Value::Scalar(Vec::new()),
            1 => Value::Scalar(words.remove(0).chars),
            _ => Value::Array(words),
        }
    }
}
