//! Text that remembers where each of its bytes stands in the file.
//!
//! Every lexer here unquotes, joins continuation lines and puts variables' values in; what comes out must still
//! know its place, so that a share has a line and a rewriter has bytes to replace. [`Char`] carries that.

use std::ops::Range;
use std::path::PathBuf;

use super::expansions::{Expansion, Expansions};
use super::quote_style::QuoteStyle;
use crate::share::argv::Arg;

/// One byte of text, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Char {
    /// The byte.
    pub byte: u8,
    /// Whether its value is known. An expansion that isn't stands there as the file spells it, unknown.
    pub known: bool,
    /// Whether a blank here would end the word: it came through a variable without quotes.
    pub splits: bool,
    /// What escapes a new byte needs here.
    pub spelt: QuoteStyle,
    /// The bytes of the file that spell it, from…
    pub start: u32,
    /// …to.
    pub end: u32,
    /// The expansions that it came through, outer ones first: a variable may be made of others. Its own place is then the
    /// assignment of the innermost one.
    pub expansions: Expansions,
}

/// How many levels of expansions a [`Char`] knows, its own place included.
pub(super) const LEVELS: usize = 5;

/// Text with its place.
pub(super) type Chars = Vec<Char>;

/// An offset as a [`Char`] holds it: files are read in bounded sizes, far below 4 GiB.
pub(super) fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl Char {
    /// A known byte that the file spells at `range`.
    pub(crate) fn new(byte: u8, range: Range<usize>, spelt: QuoteStyle) -> Self {
        let (start, end) = (offset(range.start), offset(range.end));
        Self { byte, known: true, splits: false, spelt, start, end, expansions: Expansions::default() }
    }

    /// The outermost expansion that it came through.
    pub(crate) fn via(&self) -> Option<Expansion> {
        self.expansions.first().map(|(via, _)| via)
    }

    /// Whether it came through an expansion inside another one.
    pub(crate) fn is_nested(&self) -> bool {
        self.expansions.first().is_some_and(|(_, inner)| inner != Expansions::default())
    }

    /// The same byte with another outermost expansion, if it has any.
    pub(crate) fn with_via(self, change: impl FnOnce(Expansion) -> Expansion) -> Self {
        match self.expansions.first() {
            Some((via, inner)) => Self { expansions: inner.behind(change(via)), ..self },
            None => self,
        }
    }

    /// Where it stands and how it is spelt there: at level 0 at its outermost expansion, at each further level one
    /// deeper, and once there is none, in the file's own text.
    pub(crate) fn place(&self, level: usize) -> (Range<usize>, QuoteStyle) {
        match self.expansion(level) {
            Some(via) => (via.start as usize..via.end as usize, via.spelt),
            None => (self.range(), self.spelt),
        }
    }

    /// Its expansion at a level.
    pub(crate) fn expansion(&self, level: usize) -> Option<Expansion> {
        let mut way = self.expansions;
        for _ in 0..level {
            (_, way) = way.first()?;
        }
        way.first().map(|(via, _)| via)
    }

    /// The bytes of the file that spell it.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The bytes `range` of `file` as they stand there.
pub(super) fn verbatim(file: &[u8], range: Range<usize>, spelt: QuoteStyle) -> Chars {
    let text = file.get(range.clone()).unwrap_or_default();
    text.iter().zip(range).map(|(&byte, at)| Char::new(byte, at..at + 1, spelt)).collect()
}

/// The bytes `range` of `file` as they stand there, with no known value.
pub(super) fn unknown(file: &[u8], range: Range<usize>, spelt: QuoteStyle) -> Chars {
    let mut chars = verbatim(file, range, spelt);
    for char in &mut chars {
        char.known = false;
    }
    chars
}

/// Text that came through one more expansion.
pub(super) fn through(chars: impl IntoIterator<Item = Char>, via: Expansion) -> Chars {
    // Bytes beside each other mostly came the same way: it is looked up once.
    let mut last: Option<(Expansions, Expansions)> = None;
    let way = |char: Char| {
        let behind = match last {
            Some((before, behind)) if before == char.expansions => behind,
            _ => char.expansions.behind(via),
        };
        last = Some((char.expansions, behind));
        Char { expansions: behind, ..char }
    };
    chars.into_iter().map(way).collect()
}

/// The bytes alone.
pub(super) fn bytes(chars: &[Char]) -> Vec<u8> {
    chars.iter().map(|c| c.byte).collect()
}

/// The parts of `chars` that are not statically known, as indexes.
pub(super) fn unknown_parts(chars: &[Char]) -> Vec<Range<usize>> {
    let mut unknown: Vec<Range<usize>> = Vec::new();
    for (at, _) in chars.iter().enumerate().filter(|(_, c)| !c.known) {
        match unknown.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => unknown.push(at..at + 1),
        }
    }
    unknown
}

/// The bytes of the file that spell `chars`, from the first to the last; where they are used, for those that came
/// through a variable together with others that did not.
pub(super) fn span(chars: &[Char]) -> Range<usize> {
    let direct = chars.iter().any(|c| c.expansions == Expansions::default());
    let place = |c: &Char| if direct { c.place(0).0 } else { c.range() };
    let start = chars.iter().map(|c| place(c).start).min().unwrap_or(0);
    let end = chars.iter().map(|c| place(c).end).max().unwrap_or(0);
    start..end
}

/// Where each line of a file starts, for offsets → line numbers.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    starts: Vec<u32>,
}

impl Lines {
    /// The lines of `bytes`.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut starts = vec![0];
        starts.extend(memchr::memchr_iter(b'\n', bytes).map(|at| self::offset(at + 1)));
        Self { starts }
    }

    /// The line, from 1, that the byte at `offset` is on.
    pub(crate) fn line(&self, offset: usize) -> u64 {
        self.starts.partition_point(|start| *start as usize <= offset) as u64
    }
}

/// One argument of a command, as a lexer found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Word {
    /// Its value.
    pub chars: Chars,
    /// The bytes of the file that spell it, quotes included.
    pub span: Range<usize>,
}

impl Word {
    /// A word spelled by its own characters alone.
    pub(crate) fn plain(chars: Chars) -> Self {
        let span = span(&chars);
        Self { chars, span }
    }

    /// Its value.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        bytes(&self.chars)
    }

    /// Whether its value is `text`.
    pub(crate) fn is(&self, text: &[u8]) -> bool {
        self.chars.len() == text.len() && self.chars.iter().zip(text).all(|(c, byte)| c.byte == *byte)
    }

    /// Whether it is one of `texts`.
    pub(crate) fn is_any(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.is(text.as_bytes()))
    }

    /// Whether `needle` is in it.
    pub(crate) fn contains(&self, needle: &[u8]) -> bool {
        memchr::memmem::find(&self.bytes(), needle).is_some()
    }

    /// Whether there is a blank in it.
    pub(crate) fn has_blank(&self) -> bool {
        self.chars.iter().any(|c| c.byte.is_ascii_whitespace())
    }

    /// The model's form of it.
    pub(crate) fn arg(&self, lines: &Lines) -> Arg {
        let unknown = unknown_parts(&self.chars);
        let line = lines.line(self.span.start);
        Arg { value: self.bytes(), unknown, span: self.span.clone(), line }
    }
}

/// An argument list: one command, one array, one list of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// The arguments, the command's own name first where there is one.
    pub words: Vec<Word>,
    /// The guest's name, where the surroundings say it.
    pub guest: Option<Vec<u8>>,
}

/// A document inside a document: a script in a string, a file that a heredoc writes. What no format recognises is a
/// shell's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Embedded {
    /// Its text.
    pub chars: Chars,
    /// The name of the file that it becomes, where that is known.
    pub name: Option<PathBuf>,
    /// The guest's name, where the surroundings say it.
    pub guest: Option<Vec<u8>>,
}

impl Embedded {
    /// A text that may be a script, or options behind a name: `NAME=-fsdev …`, `--qemu-commandline=-fsdev …`.
    pub(super) fn script(chars: &[Char]) -> Self {
        let is_name = |c: &&Char| c.byte.is_ascii_alphanumeric() || matches!(c.byte, b'_' | b'-' | b'.');
        let length = chars.iter().take_while(is_name).count();
        let behind: Vec<u8> = chars.iter().skip(length).take(2).map(|c| c.byte).collect();
        let start = if behind == b"=-" { length + 1 } else { 0 };
        Self { chars: chars.get(start..).unwrap_or_default().to_vec(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_from_one() {
        let lines = Lines::new(b"a\nbc\n\nd");
        for (offset, line) in [(0, 1), (1, 1), (2, 2), (4, 2), (5, 3), (6, 4)] {
            assert_eq!(lines.line(offset), line, "{offset}");
        }
    }

    #[test]
    fn unknown_parts_become_ranges() {
        let mut word = Word::plain(verbatim(b"a$x$yb", 0..6, QuoteStyle::ShellBare));
        for at in 1..5 {
            word.chars[at].known = false;
        }
        assert_eq!(word.arg(&Lines::new(b"a$x$yb")).unknown, vec![1..5]);
    }
}
