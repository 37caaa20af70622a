//! Blocks, loops, `case` and arithmetic.

use super::Lexer;
use crate::sources::format::Unreadable;
use crate::sources::shell::env::{Block, Value};
use crate::sources::shell::word;

impl Lexer<'_> {
    /// `(( … ))`, which has no words of ours. Says whether it was one.
    pub(super) fn arithmetic(&mut self) -> bool {
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

    pub(super) fn open_block(&mut self, block: Block) {
        let block = if std::mem::take(&mut self.function_next) { Block::Function } else { block };
        self.env.open(block);
    }

    /// A pattern of `case`, with its `)`; or `esac`.
    pub(super) fn case_pattern(&mut self) -> Result<(), Unreadable> {
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

    /// A keyword at the start of a command. Says whether `text` was one.
    pub(super) fn keyword(&mut self, text: &[u8]) -> Result<bool, Unreadable> {
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
    pub(super) fn loop_head(&mut self) -> Result<(), Unreadable> {
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
    pub(super) fn case_head(&mut self) -> Result<(), Unreadable> {
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
}
