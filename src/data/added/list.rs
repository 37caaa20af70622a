//! Lists of entries that were added: they are read back from a temporary file where they are long.

use std::io;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::data::entry::{Identity, Kind};
use crate::data::journal::Record;
use crate::report::spool::Rows;

/// An entry to be adopted, or whose owner is to be changed back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Added {
    /// Its path from the export.
    pub path: Vec<u8>,
    /// Which directory it is in.
    pub(super) within: Identity,
    /// What it really is.
    pub record: Record,
}

impl Added {
    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.record.entry.kind() == Some(Kind::Directory)
    }
}

/// Entries, each directory before what is in it, and with that in a row.
#[derive(Debug, Default)]
pub(crate) struct List {
    rows: Rows<Added>,
    /// The path of the first of them in the order of bytes.
    pub(super) first: Option<Vec<u8>>,
    /// How many symbolic links and special files there are.
    pub(super) replaced: usize,
}

impl List {
    pub(super) fn push(&mut self, added: &Added) {
        self.replaced += usize::from(added.record.entry.kind().is_some_and(Kind::is_replaced));
        if self.first.as_ref().is_none_or(|first| added.path < *first) {
            self.first = Some(added.path.clone());
        }
        self.rows.push(added);
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Added>> {
        self.rows.iter().map(unspooled)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A row of a list that is in a temporary file.
pub(crate) fn unspooled<T>(row: io::Result<T>) -> Result<T> {
    row.context("reading back the list of what was added, which is in a temporary file")
}
