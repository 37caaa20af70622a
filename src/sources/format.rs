//! What every format reads and yields.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::report::finding::Finding;
use crate::share::Share;
use crate::share::helper::Helper;
use crate::share::rewrite::{Edits, Refusal, Rewrite};

/// A configuration file, in memory.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// As on the audited host; `None` for standard input.
    pub path: Option<&'a Path>,
    /// Its content.
    pub bytes: &'a [u8],
}

/// What a document holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Proxy shares.
    pub shares: Vec<Share>,
    /// Invocations of the helper.
    pub helpers: Vec<Helper>,
    /// Sockets that systemd listens on for a service.
    pub listeners: Vec<Listener>,
    /// What else people should know.
    pub findings: Vec<Finding>,
    /// The parts of it that can't be read, where others can.
    #[serde(skip)]
    pub unread: Vec<Unreadable>,
}

impl Reading {
    /// Whether nothing is in it that an audit tells.
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
            && self.helpers.is_empty()
            && self.findings.is_empty()
            && self.listeners.is_empty()
    }
}

/// A socket that systemd listens on for a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The socket.
    #[serde(with = "crate::text::packed::path")]
    pub socket: PathBuf,
    /// The name of the service's unit, without `.service` and without its instance.
    pub service: String,
}

/// The other files of the host that a document is of.
pub trait Beside {
    /// A small file's content; `Ok(None)` where there is none, `Err` where it can't be read.
    fn file(&self, path: &Path) -> Result<Option<Vec<u8>>, Unreadable>;

    /// The entries of a folder, by name; none where there is no such folder. They may be those of a moment ago.
    fn files(&self, folder: &Path) -> Arc<[PathBuf]>;
}

/// Why a document can't be read. Unread is not clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The line at which reading ended.
    pub line: Option<u64>,
    /// Why, in one sentence without a full stop.
    pub reason: String,
}

/// A configuration format.
pub trait Format: Sync {
    /// The documents' `kind` in reports.
    fn name(&self) -> &'static str;

    /// Whether a document is of this format, by its name and a cheap look at its first bytes.
    fn recognises(&self, document: &Document) -> bool;

    /// The shares and helpers of a document; `beside`: the files around it, where these can be looked at: a unit's
    /// drop-ins, say.
    fn read_beside(&self, document: &Document, beside: Option<&dyn Beside>) -> Result<Reading, Unreadable>;

    /// The edits by which every proxy share of a document becomes a `local` one.
    fn rewrite_beside(
        &self,
        _document: &Document,
        _how: &Rewrite,
        _beside: Option<&dyn Beside>,
    ) -> Result<Edits, Refusal> {
        Err(Refusal::at(
            None,
            format!("files of the kind {} are read only", self.name()),
            "print the equivalent with --to and change the file by hand",
        ))
    }

    /// [`Format::read_beside`] of a document by itself.
    fn read(&self, document: &Document) -> Result<Reading, Unreadable> {
        self.read_beside(document, None)
    }

    /// [`Format::rewrite_beside`] of a document by itself.
    fn rewrite(&self, document: &Document, how: &Rewrite) -> Result<Edits, Refusal> {
        self.rewrite_beside(document, how, None)
    }
}

/// Bytes as a path.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

impl Unreadable {
    /// A file that can't be read can't be rewritten.
    pub fn refusal(self) -> Refusal {
        Refusal::at(self.line, self.reason, "correct the file first")
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for Unreadable {}
