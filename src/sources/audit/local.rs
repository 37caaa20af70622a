//! Shares over QEMU's local backend, and the journals of conversions in the folders that an audit reads: what `migrate status`
//! compares with each other.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::host::{Host, MAX_FILE};
use super::kept;
use super::sift::{PROGRAM, is_binary};
use super::started::is_no_configuration;
use super::walk::{Met, walk};
use crate::data::journal::SUFFIX;
use crate::share::backend::Backend;
use crate::share::bounds::bounded;
use crate::share::{Share, Transport};
use crate::sources::format::{Document, path_of};
use crate::sources::libvirt::{self, is_saved_image};
use crate::sources::registry::recognise;

/// How much of a file is read at first, in bytes.
const FIRST: u64 = 64 << 10;

/// How much of a saved guest is read: its configuration comes first.
const SAVED: u64 = 1 << 20;

/// What a text that holds such a share has beside the backend's name.
const MARKS: [&[u8]; 3] = [b"fsdev", b"virtfs", b"fs_driver"];

/// What is in the files below some folders.
#[derive(Debug, Default)]
pub(super) struct Local {
    /// The shares. A directory stands where a proxy share's socket does; the place names the file.
    pub shares: Vec<Share>,
    /// Files whose names are those of journals of conversions.
    pub journals: Vec<PathBuf>,
    /// What seems to hold such a share and can't be read, and why.
    pub unread: Vec<(PathBuf, String)>,
}

/// Reads every file at and below `roots`. What can't be opened is not told: the audit of the same folders does.
pub(super) fn look(host: &Host, roots: &[PathBuf], named: bool) -> Local {
    let mut found = Local::default();
    let mut files = Vec::new();
    walk(host, roots, named, &mut |met| {
        if let Met::File { path, listed, named } = met {
            if path.as_os_str().as_bytes().ends_with(SUFFIX) {
                found.journals.push(path);
            } else if named || !is_no_configuration(&path) {
                files.push((path, listed));
            }
        }
    });
    for (path, listed) in files {
        if let Ok(Some(bytes)) = candidate(host, &path, listed) {
            found.document(host, &path, &bytes);
        }
    }
    found.journals.sort();
    found
}

/// The text of a file that may hold such a share.
fn candidate(host: &Host, path: &Path, listed: bool) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = host.open_listed(path, listed)? else { return Ok(None) };
    let mut bytes = Vec::new();
    (&file).take(FIRST).read_to_end(&mut bytes)?;
    let is_long = bytes.len() as u64 == FIRST;
    if is_saved_image(&bytes) {
        (&file).take(SAVED - FIRST).read_to_end(&mut bytes)?;
    } else if bytes.starts_with(PROGRAM)
        || is_long && is_binary(&bytes)
        || is_long && file.metadata()?.len() > MAX_FILE
    {
        return Ok(None);
    } else if is_long {
        (&file).take(MAX_FILE - FIRST).read_to_end(&mut bytes)?;
    }
    Ok(may_hold(&bytes).then_some(bytes))
}

fn may_hold(text: &[u8]) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(text, word).is_some();
    has(b"<filesystem") || Backend::Local.is_in(text) && MARKS.iter().any(|mark| has(mark))
}

/// Whether a text names such a share in QEMU's or libvirt's words, which no other text has.
fn names_share(text: &[u8]) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(text, word).is_some();
    if has(b"<filesystem") && has(b"accessmode") {
        return true;
    }
    memchr::memmem::find_iter(text, b"local,").any(|at| {
        let rest = text.get(at..).unwrap_or_default();
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        memchr::memmem::find(line, b"security_model=").is_some()
    })
}

impl Local {
    fn document(&mut self, host: &Host, path: &Path, bytes: &[u8]) {
        if kept::is_plan(bytes) {
            return;
        }
        let document = Document { path: Some(path), bytes };
        let Some(format) = Backend::Local.seek(|| recognise(&document)) else { return };
        let (read, _) = bounded(|| Backend::Local.seek(|| format.read_beside(&document, Some(host))));
        match read {
            Ok(reading) => self.shares.extend(reading.shares),
            Err(error) if names_share(bytes) => self.unread.push((path.to_owned(), error.to_string())),
            Err(_) => return,
        }
        if format.name() == "libvirt" {
            match libvirt::filesystems(&document) {
                Ok(shares) => self.shares.extend(shares),
                Err(error) => self.unread.push((path.to_owned(), error.to_string())),
            }
        }
    }
}

/// The directory of a share over the local backend; `None` where it is not known.
pub(super) fn directory(share: &Share) -> Option<&Path> {
    match &share.transport {
        Transport::Socket(path) => Some(path),
        _ => None,
    }
}

/// The export that a journal beside it is of, by the journal's name.
pub(super) fn export_of(journal: &Path) -> Option<PathBuf> {
    let name = journal.file_name()?.as_bytes().strip_suffix(SUFFIX)?;
    let folder = journal.parent()?;
    Some(if name == b"root" && folder == Path::new("/") {
        folder.to_owned()
    } else {
        folder.join(path_of(name))
    })
}
