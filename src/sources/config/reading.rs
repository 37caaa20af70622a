//! What a file holds, told as `migrate audit` tells it: a file that is unread there is an error here, and no file "without a share".

#![forbid(unsafe_code)]

use std::path::Path;

use crate::share::bounds::bounded;
use crate::sources::audit::{BEGINNING, MAX_FILE, Packed, unknown_form, unpack};
use crate::sources::format::{Beside, Document, Format, Reading, Unreadable};
use crate::sources::mention::{can_hold, first_unread, why_unread};
use crate::sources::registry::recognise_named;

/// What a document holds.
pub(super) enum Held {
    /// Nothing that could be a proxy share; the format, if one is known.
    Nothing(Option<&'static dyn Format>),
    /// Shares, in this format.
    Shares(&'static dyn Format, Reading),
}

/// Reads a document; an error where it can't be read, or not to its end, and could hold a share there.
pub(super) fn read(document: &Document, beside: Option<&dyn Beside>) -> Result<Held, Unreadable> {
    match unpack(document.bytes) {
        Packed::Not => text(document, beside),
        Packed::Text(bytes) => compressed(document.path, &bytes),
        Packed::Unread(reason) => Err(Unreadable { line: None, reason }),
    }
}

/// A compressed text is not rewritten.
fn compressed(path: Option<&Path>, bytes: &[u8]) -> Result<Held, Unreadable> {
    // start-vm.sh.gz holds start-vm.sh.
    let inner = path.map(|path| path.with_extension(""));
    match text(&Document { path: inner.as_deref(), bytes }, None)? {
        Held::Nothing(_) => Ok(Held::Nothing(None)),
        Held::Shares(_, reading) => Err(Unreadable {
            line: reading.shares.first().and_then(|share| share.place.line),
            reason: "the file is compressed, and holds a proxy share: unpack it, and rewrite the result"
                .to_owned(),
        }),
    }
}

fn text(document: &Document, beside: Option<&dyn Beside>) -> Result<Held, Unreadable> {
    let Some(format) = recognise_named(document) else {
        return if can_hold(document.bytes) {
            Err(Unreadable { line: None, reason: unknown_form(document.bytes).to_owned() })
        } else {
            Ok(Held::Nothing(None))
        };
    };
    let (reading, cut) = bounded(|| format.read_beside(document, beside));
    let reading = match reading {
        Ok(reading) => reading,
        // What can hold nothing is not unread, whatever else is wrong with it.
        Err(_) if !can_hold(document.bytes) => return Ok(Held::Nothing(Some(format))),
        Err(unreadable) => return Err(unreadable),
    };
    if let Some(why) = cut {
        return Err(Unreadable { line: None, reason: why.to_owned() });
    }
    if let Some(part) = reading.unread.first() {
        return Err(part.clone());
    }
    if !reading.shares.is_empty() {
        return Ok(Held::Shares(format, reading));
    }
    // Behind the configuration of a large saved image is its guest's memory.
    let is_image = document.bytes.len() as u64 > MAX_FILE;
    let length = if is_image { BEGINNING } else { document.bytes.len() };
    let looked_at = document.bytes.get(..length).unwrap_or_default();
    match first_unread(looked_at, &[]) {
        Some(line) => Err(Unreadable { line: Some(line), reason: why_unread(looked_at).to_owned() }),
        None => Ok(Held::Nothing(Some(format))),
    }
}
