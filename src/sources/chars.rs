//! Text that remembers where each of its bytes stands in the file.
//!
//! Every lexer here unquotes, joins continuation lines and puts variables' values in; what comes out must still
//! know its place, so that a share has a line and a rewriter has bytes to replace. [`Char`] carries that.

use std::ops::Range;

/// How the file spells the text around a byte: what a rewriter must escape there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quote {
    /// No quotes.
    Bare,
    /// `'…'`.
    Single,
    /// `"…"`.
    Double,
    /// Some other escape; a rewriter leaves it alone.
    Other,
}

/// One byte of text, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Char {
    /// The byte.
    pub byte: u8,
    /// How many bytes of the file spell it.
    pub width: u8,
    /// The quotes around it.
    pub quote: Quote,
    /// Whether its value is known. An expansion that isn't stands there as the file spells it, unknown.
    pub known: bool,
    /// Whether it came through a variable: its place is the variable's assignment.
    pub indirect: bool,
    /// Where it stands in the file.
    pub at: u32,
}

/// Text with its place.
pub type Chars = Vec<Char>;

/// A file's bytes as they stand. Files are read in bounded sizes, far below 4 GiB.
pub fn from_file(bytes: &[u8]) -> Chars {
    bytes
        .iter()
        .enumerate()
        .map(|(at, &byte)| Char {
            byte,
            width: 1,
            quote: Quote::Bare,
            known: true,
            indirect: false,
            at: u32::try_from(at).unwrap_or(u32::MAX),
        })
        .collect()
}

/// The bytes alone.
pub fn bytes(chars: &[Char]) -> Vec<u8> {
    chars.iter().map(|c| c.byte).collect()
}

/// The bytes of the file that spell `chars`, from the first to the last.
pub fn span(chars: &[Char]) -> Range<usize> {
    let start = chars.iter().map(|c| c.at as usize).min().unwrap_or(0);
    let end = chars.iter().map(|c| c.at as usize + usize::from(c.width)).max().unwrap_or(0);
    start..end
}

/// Whether every byte's value is known.
pub fn known(chars: &[Char]) -> bool {
    chars.iter().all(|c| c.known)
}

/// Where `needle` first is in `chars`.
pub fn find(chars: &[Char], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    chars.windows(needle.len()).position(|window| window.iter().map(|c| &c.byte).eq(needle))
}

/// Where each line of a file starts, for offsets → line numbers.
#[derive(Debug, Clone)]
pub struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    /// The lines of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut starts = vec![0];
        starts.extend(bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1));
        Self { starts }
    }

    /// The line, from 1, that the byte at `offset` is on.
    pub fn line(&self, offset: usize) -> u64 {
        self.starts.partition_point(|start| *start <= offset) as u64
    }
}

/// One argument of a command, as a lexer found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Its value.
    pub chars: Chars,
    /// The bytes of the file that spell it, quotes included.
    pub span: Range<usize>,
}

impl Word {
    /// A word spelled by its own characters alone.
    pub fn plain(chars: Chars) -> Self {
        let span = span(&chars);
        Self { chars, span }
    }

    /// Its value.
    pub fn bytes(&self) -> Vec<u8> {
        bytes(&self.chars)
    }

    /// Whether its value is `text`.
    pub fn is(&self, text: &str) -> bool {
        self.chars.iter().map(|c| c.byte).eq(text.bytes())
    }
}

/// An argument list: one command, one array, one list of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The arguments, the command's own name first where there is one.
    pub words: Vec<Word>,
    /// Why what stands here can't be rewritten in place: a finding's id.
    pub dynamic: Option<&'static str>,
    /// The guest's name, where the surroundings say it.
    pub guest: Option<Vec<u8>>,
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
    fn a_needle_is_found_in_place() {
        assert_eq!(find(&from_file(b"say proxy"), b"proxy"), Some(4));
        assert_eq!(find(&from_file(b"x"), b""), None);
    }
}
