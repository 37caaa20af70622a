//! A change of a file's bytes.

#![forbid(unsafe_code)]

use std::ops::Range;

/// Some bytes of a file that become others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// These bytes of the file…
    pub span: Range<usize>,
    /// …become these.
    pub with: Vec<u8>,
}
