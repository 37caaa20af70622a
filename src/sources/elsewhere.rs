//! Shares whose text is in another file than the command that has them: a script sources it, or `EnvironmentFile=` or
//! another file of the unit sets it.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Beside, Document, Unreadable};
use super::mention::spells_word;
use super::registry::recognise_named;
use crate::share::backend::Backend;
use crate::share::bounds::bounded;
use crate::share::rewrite::Refusal;
use crate::share::{Place, Share, Transport};
use crate::text::{escape_path, shell_word};

/// The other files of a host, with a list of those that a reader took.
pub(super) struct Recorder<'a> {
    beside: &'a dyn Beside,
    taken: RefCell<Vec<PathBuf>>,
}

impl<'a> Recorder<'a> {
    /// Records what is taken of `beside`.
    pub(super) fn new(beside: &'a dyn Beside) -> Self {
        Self { beside, taken: RefCell::default() }
    }

    /// Where the text of each share of a document is, where that is another file which its reader took.
    pub(super) fn texts(&self, document: &Document, shares: &[Share]) -> Vec<Option<Place>> {
        let taken = self.taken.borrow();
        let elsewhere = |share: &Share| {
            if taken.is_empty() || is_own(document, share) {
                return None;
            }
            let others = taken.iter().filter(|file| document.path.is_none_or(|own| own != file.as_path()));
            others.into_iter().find_map(|file| text_in(file, share, self.beside))
        };
        shares.iter().map(elsewhere).collect()
    }

    /// Why a document is not rewritten that has shares whose text is in another file.
    pub(super) fn refusal(&self, document: &Document, shares: &[Share]) -> Option<Refusal> {
        let texts = self.texts(document, shares);
        shares.iter().zip(texts).find_map(|(share, text)| refusal(share, &text?))
    }
}

impl Beside for Recorder<'_> {
    fn file(&self, path: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
        let read = self.beside.file(path);
        let mut taken = self.taken.borrow_mut();
        if matches!(read, Ok(Some(_))) && !taken.iter().any(|other| other == path) {
            taken.push(path.to_owned());
        }
        read
    }

    fn files(&self, folder: &Path) -> Arc<[PathBuf]> {
        self.beside.files(folder)
    }
}

/// Whether the document itself has the share's text.
fn is_own(document: &Document, share: &Share) -> bool {
    let span = share.place.span.clone();
    let text = span.and_then(|span| document.bytes.get(span));
    text.is_none_or(|text| Backend::Proxy.is_in(text) || spells_word(text))
}

/// Where a file has the text of a share.
fn text_in(file: &Path, share: &Share, beside: &dyn Beside) -> Option<Place> {
    let bytes = beside.file(file).ok()??;
    let file: PathBuf = file.components().collect();
    let document = Document { path: Some(&file), bytes: &bytes };
    let format = recognise_named(&document)?;
    let (reading, _) = bounded(|| format.read_beside(&document, Some(beside)));
    reading.ok()?.shares.into_iter().find(|other| is_same(other, share)).map(|other| other.place)
}

/// Whether `text` is what `share` is made of. A file of settings need not know what all of it means.
pub(super) fn is_same(text: &Share, share: &Share) -> bool {
    let same_way = text.transport == share.transport || matches!(text.transport, Transport::Unknown(_));
    text.fsdev == share.fsdev && same_way && text.readonly <= share.readonly
}

/// Why a share is not rewritten whose text is at `place`.
pub(super) fn refusal(share: &Share, place: &Place) -> Option<Refusal> {
    let file = place.file.as_deref()?;
    let message = format!("the text of the share {} is in {}", share.title(), told(place)?);
    let word = shell_word(file.as_os_str().as_encoded_bytes());
    Some(Refusal::at(
        share.place.line,
        message,
        format!("rewrite that file: `migrate config {}`", crate::text::escape(&word)),
    ))
}

/// `FILE:LINE`, safe to print.
pub(super) fn told(place: &Place) -> Option<String> {
    Some(crate::report::rows::place(Some(&escape_path(place.file.as_deref()?)), place.line))
}
