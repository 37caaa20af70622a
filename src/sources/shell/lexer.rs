//! A shell script → the commands in it, with variables put in as far as they are known.
//!
//! It follows the grammar of POSIX shells and bash as far as words go: quotes, continuations, heredocs, arrays,
//! assignments, blocks, functions. It runs nothing.

use std::ops::Range;

use super::env::{Block, Env, Value};
use super::word::{self, Fields};
use crate::share::backend::Backend;
use crate::share::bounds::spend;
use crate::sources::chars::{Char, Command, Embedded, Lexed, Lines, Word, verbatim};
use crate::sources::spelling::Spelt;
use crate::sources::{Beside, Unreadable, commands, path_of};

/// How deep substitutions may nest.
const MAX_DEPTH: usize = 32;

/// How deep blocks may nest.
const MAX_BLOCKS: usize = 256;

/// How many bytes may come through variables in one script.
const MAX_EXPANDED: usize = 256 << 10;

/// What it costs to read one more file, in bytes.
const SOURCED: usize = 64 << 10;

/// The state of a pass over a script.
pub struct Lexer<'a> {
    /// The script.
    pub file: &'a [u8],
    /// Where the pass is.
    pub at: usize,
    /// Where it ends.
    pub end: usize,
    /// The variables.
    pub env: Env,
    beside: Option<&'a dyn Beside>,
    /// How deep in substitutions it is.
    pub depth: usize,
    /// How many more bytes may come through variables: a script can multiply them without end.
    pub budget: usize,
    /// How many blocks were open where the substitution began.
    base: usize,
    out: Lexed,
    heredocs: Vec<Heredoc>,
    /// The next block is the body of a function.
    function_next: bool,
    /// At a place of a `case` where a pattern stands.
    pattern: bool,
}

/// A heredoc whose body starts on the next line.
struct Heredoc {
    delimiter: Vec<u8>,
    strip_tabs: bool,
    quoted: bool,
    /// The file that it becomes.
    name: Option<Vec<u8>>,
    /// Whether it is only printed or thrown away.
    idle: bool,
}

/// The command that is being read.
#[derive(Default)]
struct Simple {
    words: Vec<Word>,
    assignments: Vec<(Vec<u8>, Value, bool)>,
    /// Where its standard output goes.
    target: Option<Vec<u8>>,
    /// The first of the heredocs that are its own.
    heredocs: usize,
    /// After `&&` or `||`.
    conditional: bool,
}

/// Lexes a script. What it sources is read from `beside`, where that is at hand; else it may say anything.
pub fn lex(file: &[u8], beside: Option<&dyn Beside>) -> Result<Lexed, Unreadable> {
    commands::refuse_long(file)?;
    if commands::is_long(file) {
        return Ok(Lexed::default());
    }
    let first = Lexer::new(file, Env::default(), beside).run()?;
    let mut lexer = Lexer::new(file, Env::with_constants_of(first.env), beside).run()?;
    lexer.out.commands.extend(service(&lexer.env));
    lexer.out.commands.append(&mut lexer.env.leftovers());
    Ok(lexer.out)
}

/// What an OpenRC service runs: two variables say it.
fn service(env: &Env) -> Option<Command> {
    let words = |name: &[u8]| match env.get(name)?.value {
        Value::Scalar(chars) => Some(super::env::split(&chars)),
        _ => None,
    };
    let arguments = words(b"command_args").or_else(|| words(b"command_args_foreground"))?;
    let words = [words(b"command")?, arguments].concat();
    Some(Command { words, guest: None })
}

/// Why a script can't be read.
pub fn unreadable(file: &[u8], at: usize, reason: &str) -> Unreadable {
    Unreadable { line: Some(Lines::new(file).line(at)), reason: reason.to_owned() }
}

impl<'a> Lexer<'a> {
    fn new(file: &'a [u8], env: Env, beside: Option<&'a dyn Beside>) -> Self {
        Self {
            file,
            at: 0,
            end: file.len(),
            env,
            beside,
            depth: 0,
            budget: MAX_EXPANDED,
            base: 0,
            out: Lexed::default(),
            heredocs: Vec::new(),
            function_next: false,
            pattern: false,
        }
    }

    fn run(mut self) -> Result<Self, Unreadable> {
        while self.at < self.end {
            self.command()?;
        }
        Ok(self)
    }

    /// The byte at `at + ahead`.
    pub fn peek(&self, ahead: usize) -> Option<u8> {
        let at = self.at + ahead;
        if at < self.end { self.file.get(at).copied() } else { None }
    }

    /// Whether `text` is next.
    pub fn next_is(&self, text: &[u8]) -> bool {
        self.file.get(self.at..self.end).unwrap_or_default().starts_with(text)
    }

    /// Goes one level deeper.
    pub fn enter(&mut self) -> Result<(), Unreadable> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(unreadable(self.file, self.at, "substitutions nest too deep"));
        }
        Ok(())
    }

    /// Reads the commands of a substitution, from its inside to its closing `)`.
    pub fn substitution(&mut self) -> Result<(), Unreadable> {
        self.enter()?;
        let start = self.at;
        let before = (self.pattern, self.function_next, self.base);
        (self.pattern, self.function_next) = (false, false);
        self.env.open(Block::Subshell);
        self.base = self.env.depth();
        loop {
            if self.at >= self.end {
                return Err(unreadable(self.file, start, "the substitution that opens here is not closed"));
            }
            if self.peek(0) == Some(b')') && !self.in_pattern() && !self.in_inner_subshell() {
                break;
            }
            self.command()?;
        }
        self.at += 1;
        self.env.close_down_to(self.base - 1);
        (self.pattern, self.function_next, self.base) = before;
        self.depth -= 1;
        Ok(())
    }

    /// Notes a document in the document.
    pub fn embed(&mut self, embedded: Embedded) {
        self.out.embedded.push(embedded);
    }

    /// Whether a `)` here closes a `(` of this script's, or of this substitution's own text.
    fn in_inner_subshell(&self) -> bool {
        self.env.block() == Some(Block::Subshell) && self.env.depth() > self.base
    }

    fn in_pattern(&self) -> bool {
        self.pattern && self.env.block() == Some(Block::Case)
    }

    /// Reads one command with the operator behind it. A `)` without its `(` ends it.
    fn command(&mut self) -> Result<(), Unreadable> {
        if self.env.depth() > MAX_BLOCKS {
            return Err(unreadable(self.file, self.at, "blocks nest too deep"));
        }
        let mut simple = Simple { heredocs: self.heredocs.len(), ..Simple::default() };
        loop {
            self.skip_blanks();
            if self.in_pattern() && simple.words.is_empty() && simple.assignments.is_empty() {
                self.case_pattern()?;
                continue;
            }
            let Some(byte) = self.peek(0) else {
                self.finish(simple, false);
                return Ok(());
            };
            match byte {
                b'#' => self.skip_comment(),
                b'\n' => {
                    self.finish(simple, false);
                    self.at += 1;
                    self.heredoc_bodies();
                    return Ok(());
                }
                b';' | b'&' | b'|' if !self.next_is(b"&>") => {
                    let conditional = self.operator(simple);
                    self.skip_blanks();
                    if !conditional {
                        return Ok(());
                    }
                    simple = Simple { heredocs: self.heredocs.len(), conditional, ..Simple::default() };
                }
                b'(' if simple.words.is_empty() && simple.assignments.is_empty() => {
                    if self.next_is(b"((") && self.arithmetic() {
                        continue;
                    }
                    self.at += 1;
                    self.open_block(Block::Subshell);
                    return Ok(());
                }
                b'(' => {
                    // `name ( )`: a function.
                    self.at += 1;
                    self.skip_blanks();
                    if self.peek(0) == Some(b')') {
                        self.at += 1;
                        self.function_next = true;
                        return Ok(());
                    }
                }
                b')' => {
                    self.finish(simple, false);
                    if self.in_inner_subshell() {
                        self.env.close(Block::Subshell);
                        self.at += 1;
                    } else if self.base == 0 {
                        self.at += 1;
                    }
                    return Ok(());
                }
                b'<' | b'>' if !matches!(self.peek(1), Some(b'(')) => self.redirection(&mut simple)?,
                b'&' => self.redirection(&mut simple)?,
                _ => {
                    if self.word(&mut simple)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn skip_blanks(&mut self) {
        loop {
            match self.peek(0) {
                Some(b' ' | b'\t' | b'\r') => self.at += 1,
                Some(b'\\') if self.peek(1) == Some(b'\n') => self.at += 2,
                Some(b'\\') if self.peek(1) == Some(b'\r') && self.peek(2) == Some(b'\n') => self.at += 3,
                _ => return,
            }
        }
    }

    fn skip_comment(&mut self) {
        let rest = self.file.get(self.at..self.end).unwrap_or_default();
        self.at += memchr::memchr(b'\n', rest).unwrap_or(rest.len());
    }

    /// `;`, `;;`, `&`, `&&`, `|`, `||`. Says whether what follows depends on what came before.
    fn operator(&mut self, simple: Simple) -> bool {
        let both = self.next_is(b"&&") || self.next_is(b"||");
        let pipe = self.peek(0) == Some(b'|') && !both;
        self.finish(simple, pipe);
        if self.next_is(b";;") || self.next_is(b";&") {
            while matches!(self.peek(0), Some(b';' | b'&')) {
                self.at += 1;
            }
            self.env.branch();
            self.pattern = self.env.block() == Some(Block::Case);
            return false;
        }
        self.at += if both || self.next_is(b"|&") { 2 } else { 1 };
        if both {
            self.skip_blanks();
            while self.peek(0) == Some(b'\n') {
                self.at += 1;
                self.heredoc_bodies();
                self.skip_blanks();
            }
        }
        both
    }

    /// `(( … ))`, which has no words of ours. Says whether it was one.
    fn arithmetic(&mut self) -> bool {
        let rest = self.file.get(self.at..self.end).unwrap_or_default();
        let line = rest.get(..rest.len().min(word::LONGEST_EXPANSION)).unwrap_or_default();
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        match memchr::memmem::find(line, b"))") {
            Some(end) => {
                self.at += end + 2;
                true
            }
            None => false,
        }
    }

    fn open_block(&mut self, block: Block) {
        let block = if std::mem::take(&mut self.function_next) { Block::Function } else { block };
        self.env.open(block);
    }

    /// A pattern of `case`, with its `)`; or `esac`.
    fn case_pattern(&mut self) -> Result<(), Unreadable> {
        while matches!(self.peek(0), Some(b'\n' | b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
        if self.peek(0) == Some(b'#') {
            self.skip_comment();
            return Ok(());
        }
        if self.next_is(b"esac") && !self.peek(4).is_some_and(|byte| byte.is_ascii_alphanumeric()) {
            self.at += 4;
            self.pattern = false;
            self.env.close(Block::Case);
            self.pattern = false;
            return Ok(());
        }
        if self.peek(0) == Some(b'(') {
            self.at += 1;
        }
        loop {
            match self.peek(0) {
                None => break,
                Some(b')') => {
                    self.at += 1;
                    break;
                }
                Some(b'|' | b' ' | b'\t' | b'\n' | b'\r' | b'(' | b';' | b'&' | b'<' | b'>') => self.at += 1,
                Some(_) => {
                    word::read(self)?;
                }
            }
        }
        self.pattern = false;
        Ok(())
    }

    /// Reads one word of a command. Says whether the command ended with it: a keyword.
    fn word(&mut self, simple: &mut Simple) -> Result<bool, Unreadable> {
        let declares = simple
            .words
            .first()
            .is_some_and(|word| word.is_any(&["local", "declare", "typeset", "export", "readonly"]));
        if (simple.words.is_empty() || declares)
            && let Some((name, append)) = self.assignment()
        {
            let value = self.value()?;
            if declares {
                let local = simple.words.first().is_some_and(|word| !word.is_any(&["export", "readonly"]));
                self.assign(&name, value, append, simple.conditional, local);
            } else {
                simple.assignments.push((name, value, append));
            }
            return Ok(false);
        }
        let start = self.at;
        let fields = word::read(self)?;
        if self.at == start {
            // Nothing that a word may start with: a stray operator.
            self.at += 1;
            return Ok(false);
        }
        let bare = self.file.get(start..self.at).unwrap_or_default();
        if simple.words.is_empty() && simple.assignments.is_empty() && self.keyword(bare)? {
            return Ok(true);
        }
        simple.words.extend(fields.words);
        Ok(false)
    }

    /// A keyword at the start of a command. Says whether `text` was one.
    fn keyword(&mut self, text: &[u8]) -> Result<bool, Unreadable> {
        match text {
            b"if" => self.open_block(Block::If),
            b"while" | b"until" => self.open_block(Block::Loop),
            b"for" | b"select" => self.loop_head()?,
            b"case" => self.case_head()?,
            b"else" | b"elif" => self.env.branch(),
            b"fi" => self.env.close(Block::If),
            b"done" => self.env.close(Block::Loop),
            b"esac" => {
                self.env.close(Block::Case);
                self.pattern = false;
            }
            b"{" => self.open_block(Block::Group),
            b"}" => {
                if self.env.block() == Some(Block::Function) {
                    self.env.close(Block::Function);
                } else {
                    self.env.close(Block::Group);
                }
            }
            b"then" | b"do" | b"!" | b"time" | b"coproc" => {}
            b"function" => {
                self.skip_blanks();
                word::read(self)?;
                self.skip_blanks();
                if self.next_is(b"()") {
                    self.at += 2;
                }
                self.function_next = true;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `for NAME [in …]`: the variable changes from turn to turn.
    fn loop_head(&mut self) -> Result<(), Unreadable> {
        self.open_block(Block::Loop);
        self.skip_blanks();
        if self.next_is(b"((") {
            self.arithmetic();
            return Ok(());
        }
        let start = self.at;
        word::read(self)?;
        let name = self.file.get(start..self.at).unwrap_or_default().to_vec();
        self.env.set(&name, Value::Unknown, false);
        loop {
            self.skip_blanks();
            match self.peek(0) {
                None | Some(b'\n' | b';') => return Ok(()),
                Some(_) => {
                    let start = self.at;
                    word::read(self)?;
                    self.at = self.at.max(start + 1);
                }
            }
        }
    }

    /// `case WORD in`.
    fn case_head(&mut self) -> Result<(), Unreadable> {
        self.skip_blanks();
        word::read(self)?;
        loop {
            self.skip_blanks();
            match self.peek(0) {
                Some(b'\n') => self.at += 1,
                _ => break,
            }
        }
        if self.next_is(b"in") {
            self.at += 2;
        }
        self.open_block(Block::Case);
        self.pattern = true;
        Ok(())
    }

    /// `NAME=`, `NAME+=`, `NAME[…]=` at this place: the name and whether it adds.
    fn assignment(&mut self) -> Option<(Vec<u8>, bool)> {
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
    fn value(&mut self) -> Result<Value, Unreadable> {
        if self.peek(0) == Some(b'(') {
            return Ok(Value::Array(self.array()?));
        }
        let fields = word::read_value(self)?;
        Ok(fields.value())
    }

    fn array(&mut self) -> Result<Vec<Word>, Unreadable> {
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

    fn assign(&mut self, name: &[u8], value: Value, append: bool, conditional: bool, local: bool) {
        match (append, conditional) {
            (true, _) => self.env.append(name, value, conditional),
            (false, true) => self.env.set_maybe(name, value),
            (false, false) => self.env.set(name, value, local),
        }
    }

    /// `>`, `<`, `<<`, … with what follows.
    fn redirection(&mut self, simple: &mut Simple) -> Result<(), Unreadable> {
        // A descriptor's number before it was read as a word.
        let operator_at = self.at;
        let is_digit =
            |word: &Word| !word.chars.is_empty() && word.chars.iter().all(|c| c.byte.is_ascii_digit());
        let touches = |word: &Word| word.span.end == operator_at;
        let mut descriptor = 1;
        if simple.words.last().is_some_and(|word| is_digit(word) && touches(word)) {
            descriptor = simple.words.pop().map_or(1, |word| i32::from(word.is(b"1")));
        }
        if self.next_is(b"<<<") {
            self.at += 3;
        } else if self.next_is(b"<<") {
            self.at += 2;
            return self.heredoc();
        } else {
            while matches!(self.peek(0), Some(b'<' | b'>' | b'&' | b'|')) {
                self.at += 1;
            }
        }
        let output = self.file.get(operator_at).is_some_and(|byte| *byte != b'<');
        self.skip_blanks();
        let fields = word::read(self)?;
        if output && descriptor == 1 {
            simple.target = fields.words.first().map(Word::bytes).or(Some(Vec::new()));
        }
        Ok(())
    }

    fn heredoc(&mut self) -> Result<(), Unreadable> {
        let strip_tabs = self.peek(0) == Some(b'-');
        if strip_tabs {
            self.at += 1;
        }
        self.skip_blanks();
        let start = self.at;
        let delimiter = word::read(self)?.words.first().map(Word::bytes).unwrap_or_default();
        let raw = self.file.get(start..self.at).unwrap_or_default();
        let quoted = raw.iter().any(|byte| matches!(byte, b'\'' | b'"' | b'\\'));
        self.heredocs.push(Heredoc { delimiter, strip_tabs, quoted, name: None, idle: false });
        Ok(())
    }

    fn heredoc_bodies(&mut self) {
        for heredoc in std::mem::take(&mut self.heredocs) {
            let mut chars = Vec::new();
            let mut gap: Option<usize> = None;
            while self.at < self.end {
                let rest = self.file.get(self.at..self.end).unwrap_or_default();
                let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                let tabs =
                    if heredoc.strip_tabs { rest.iter().take_while(|b| **b == b'\t').count() } else { 0 };
                let line = rest.get(tabs..length).unwrap_or_default();
                let from = self.at + tabs;
                self.at = (self.at + length + 1).min(self.end);
                if line.strip_suffix(b"\r").unwrap_or(line) == heredoc.delimiter {
                    break;
                }
                if let Some(newline) = gap.take() {
                    chars.push(Char::new(b'\n', newline..from, Spelt::Verbatim));
                }
                chars.extend(self.heredoc_line(from..from + line.len(), heredoc.quoted));
                gap = Some(from + line.len());
            }
            if let Some(newline) = gap {
                chars.push(Char::new(b'\n', newline..(newline + 1).min(self.end), Spelt::Verbatim));
            }
            if !heredoc.idle {
                self.out.embedded.push(Embedded {
                    chars,
                    name: heredoc.name.map(|name| crate::sources::path_of(&name)),
                    guest: None,
                });
            }
        }
    }

    fn heredoc_line(&mut self, range: Range<usize>, quoted: bool) -> Vec<Char> {
        if quoted {
            return verbatim(self.file, range, Spelt::Verbatim);
        }
        word::expand_heredoc(self, range)
    }

    /// Takes a command that is complete.
    fn finish(&mut self, simple: Simple, piped: bool) {
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
                let option = super::env::split(chars).into_iter();
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
    fn builtin(&mut self, first: &Word, words: &[Word]) {
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
            && overrides(file)
        {
            self.source(file);
        }
    }

    /// Takes the variables of a file of settings.
    fn source(&mut self, file: &Word) {
        let name =
            Some(file.bytes()).filter(|name| name.starts_with(b"/") && file.chars.iter().all(|c| c.known));
        let read = name.zip(self.beside).map(|(name, beside)| beside.file(&path_of(&name)));
        match read {
            // Reading it costs as much again each time.
            Some(Ok(Some(text))) if !commands::is_long(&text) && spend(SOURCED + 4 * text.len()) => {
                match Lexer::new(&text, Env::default(), None).run() {
                    Ok(other) => self.env.take_from(other.env, file),
                    Err(_) => self.env.doubt_all(),
                }
            }
            Some(Ok(None)) => {}
            _ => self.env.doubt_all(),
        }
    }
}

/// The arguments that virt-install hands over to QEMU, one or several to an option.
fn passed_on(words: &[Word]) -> Vec<Word> {
    const OPTION: &[u8] = b"--qemu-commandline";
    let mut passed = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let value = match word.bytes().strip_prefix(OPTION) {
            Some(b"") => rest.next().map(|word| word.chars.clone()),
            Some([b'=', ..]) => word.chars.get(OPTION.len() + 1..).map(<[Char]>::to_vec),
            _ => None,
        };
        passed.extend(value.iter().flat_map(super::env::split));
    }
    passed
}

/// Whether a sourced file is there to set what the script holds defaults for: not a library of functions.
fn overrides(file: &Word) -> bool {
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
