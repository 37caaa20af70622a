//! The arguments of a command line, the shares in them, and what changes in them.

#![forbid(unsafe_code)]

use std::ops::Range;

use crate::share::Share;
use crate::share::edit::Edit;
use crate::share::rewrite::Refusal;

/// One argument of a command line, as some file spells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arg {
    /// What QEMU gets. Parts that are not statically known (a shell variable, a template) stand here as their
    /// source text…
    pub value: Vec<u8>,
    /// …and these ranges of `value`, in order and apart, say which parts those are.
    pub unknown: Vec<Range<usize>>,
    /// The bytes of the file that spell it, quotes included; `0..0` for a running process.
    pub span: Range<usize>,
    /// Its line, from 1.
    pub line: u64,
}

/// A proxy share of an argument list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgvShare {
    /// The share. Its place has a line and a span only; the reader adds the file.
    pub share: Share,
    /// The argument that holds the fsdev: the value of `-fsdev` or `-virtfs`.
    pub fsdev: usize,
    /// Whether that is a `-virtfs`.
    pub virtfs: bool,
    /// The value of the share's `-device`.
    pub device: Option<usize>,
    /// Every argument that makes this share and nothing else, option words included, in order: what goes when
    /// the share is said in another way.
    pub args: Vec<usize>,
}

/// A change of one argument's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgEdit {
    /// Which argument.
    pub arg: usize,
    /// What changes in its value, in order and apart.
    pub splices: Vec<Splice>,
}

/// A change of some bytes of an argument's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// These bytes of [`Arg::value`]…
    pub range: Range<usize>,
    /// …become these. They are all statically known.
    pub with: Vec<u8>,
}

/// How a format spells the arguments that it holds.
pub(crate) trait Spelling {
    /// The edits of `file` by which `arg`'s value changes as `splices` say. All that the splices don't cover
    /// keeps its spelling, variables and quotes included.
    fn respell(&self, file: &[u8], arg: &Arg, splices: &[Splice]) -> Result<Vec<Edit>, Refusal>;
}

impl ArgEdit {
    /// The value after the change.
    pub fn applied(&self, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(value.len());
        let mut at = 0;
        for splice in &self.splices {
            out.extend_from_slice(value.get(at..splice.range.start).unwrap_or_default());
            out.extend_from_slice(&splice.with);
            at = splice.range.end;
        }
        out.extend_from_slice(value.get(at..).unwrap_or_default());
        out
    }
}
