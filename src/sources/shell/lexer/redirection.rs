//! Where a command reads and writes, heredocs among it.

use std::ops::Range;

use super::Lexer;
use super::simple::Simple;
use crate::sources::chars::{Char, Embedded, Word, verbatim};
use crate::sources::format::Unreadable;
use crate::sources::quote_style::QuoteStyle;
use crate::sources::shell::word;

/// A heredoc whose body starts on the next line.
pub(super) struct Heredoc {
    pub(super) delimiter: Vec<u8>,
    pub(super) strip_tabs: bool,
    pub(super) quoted: bool,
    /// The file that it becomes.
    pub(super) name: Option<Vec<u8>>,
    /// Whether it is only printed or thrown away.
    pub(super) idle: bool,
}

impl Lexer<'_> {
    /// `>`, `<`, `<<`, … with what follows.
    pub(super) fn redirection(&mut self, simple: &mut Simple) -> Result<(), Unreadable> {
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

    pub(super) fn heredoc(&mut self) -> Result<(), Unreadable> {
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

    pub(super) fn heredoc_bodies(&mut self) {
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
                    chars.push(Char::new(b'\n', newline..from, QuoteStyle::Verbatim));
                }
                chars.extend(self.heredoc_line(from..from + line.len(), heredoc.quoted));
                gap = Some(from + line.len());
            }
            if let Some(newline) = gap {
                chars.push(Char::new(b'\n', newline..(newline + 1).min(self.end), QuoteStyle::Verbatim));
            }
            if !heredoc.idle {
                self.out.embedded.push(Embedded {
                    chars,
                    name: heredoc.name.map(|name| crate::sources::format::path_of(&name)),
                    guest: None,
                });
            }
        }
    }

    pub(super) fn heredoc_line(&mut self, range: Range<usize>, quoted: bool) -> Vec<Char> {
        if quoted {
            return verbatim(self.file, range, QuoteStyle::Verbatim);
        }
        word::expand_heredoc(self, range)
    }
}
