//! A shell script → the commands in it, with variables put in as far as they are known.
//!
//! It follows the grammar of POSIX shells and bash as far as words go: quotes, continuations, heredocs, arrays,
//! assignments, blocks, functions. It runs nothing.

mod compound;
mod redirection;
mod simple;

use std::path::Path;

use redirection::Heredoc;
use simple::{Simple, service};

use super::env::{Block, Env};
use super::word;
use crate::sources::chars::{Embedded, Lines};
use crate::sources::commands;
use crate::sources::format::{Beside, Unreadable};
use crate::sources::lexed::Lexed;

/// How deep substitutions may nest.
const MAX_DEPTH: usize = 32;

/// How deep blocks may nest.
const MAX_BLOCKS: usize = 256;

/// How many bytes may come through variables in one script.
const MAX_EXPANDED: usize = 256 << 10;

/// The state of a pass over a script.
pub(super) struct Lexer<'a> {
    /// The script.
    pub file: &'a [u8],
    /// Where the pass is.
    pub at: usize,
    /// Where it ends.
    pub end: usize,
    /// The variables.
    pub env: Env,
    beside: Option<&'a dyn Beside>,
    /// The script's own folder.
    folder: Option<&'a Path>,
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

/// Lexes a script in `folder`. What it sources is read from `beside`, where that is at hand; else it may say anything.
pub(super) fn lex(
    file: &[u8],
    beside: Option<&dyn Beside>,
    folder: Option<&Path>,
) -> Result<Lexed, Unreadable> {
    commands::refuse_long(file)?;
    if commands::is_long(file) {
        return Ok(Lexed::default());
    }
    let new = |env| Lexer { folder, ..Lexer::new(file, env, beside) };
    let first = new(Env::default()).run()?;
    let mut lexer = new(Env::with_constants_of(first.env)).run()?;
    lexer.out.commands.extend(service(&lexer.env));
    lexer.out.commands.append(&mut lexer.env.leftovers());
    Ok(lexer.out)
}

/// Why a script can't be read.
pub(super) fn unreadable(file: &[u8], at: usize, reason: &str) -> Unreadable {
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
            folder: None,
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
    pub(super) fn peek(&self, ahead: usize) -> Option<u8> {
        let at = self.at + ahead;
        if at < self.end { self.file.get(at).copied() } else { None }
    }

    /// Whether `text` is next.
    pub(super) fn next_is(&self, text: &[u8]) -> bool {
        self.file.get(self.at..self.end).unwrap_or_default().starts_with(text)
    }

    /// Goes one level deeper.
    pub(super) fn enter(&mut self) -> Result<(), Unreadable> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(unreadable(self.file, self.at, "substitutions nest too deep"));
        }
        Ok(())
    }

    /// Reads the commands of a substitution, from its inside to its closing `)`.
    pub(super) fn substitution(&mut self) -> Result<(), Unreadable> {
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
    pub(super) fn embed(&mut self, embedded: Embedded) {
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
        if simple.words.len() > commands::MAX_WORDS {
            return Err(unreadable(self.file, start, commands::TOO_MANY_WORDS));
        }
        Ok(false)
    }
}
