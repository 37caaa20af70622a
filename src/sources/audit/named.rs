//! A file that the admin names, or standard input: nothing about it is a reason to pass over it.

use std::path::Path;

use super::host::{Content, Host, MAX_FILE, why};
use super::scan::Scan;
use super::unpack::{self, Packed};
use crate::sources::format::Document;
use crate::sources::libvirt::is_saved_image;
use crate::sources::mention::can_hold;
use crate::sources::registry::{recognise, recognise_named};

/// Why an empty input tells nothing.
pub(crate) const EMPTY: &str = "it is empty: check the command or the file that it comes from";

/// Reads a file that was named.
pub(super) fn file(scan: &mut Scan, host: &Host, path: &Path) {
    match host.read(path, false) {
        Ok(Content::Whole(bytes)) => content(scan, host, Some(path), &bytes),
        Ok(Content::TooLong(start)) if is_saved_image(&start) => content(scan, host, Some(path), &start),
        Ok(Content::TooLong(start)) => long(scan, host, path, &start),
        Ok(Content::Special) => scan.not_read(Some(path), "not a regular file any more"),
        Err(error) => scan.not_read(Some(path), why(&error)),
    }
}

/// Reads all of a file that was named, or of standard input.
pub(super) fn content(scan: &mut Scan, host: &Host, path: Option<&Path>, bytes: &[u8]) {
    match unpack::unpack(bytes) {
        // A command that failed leaves nothing, which says nothing about its guest.
        Packed::Not if bytes.trim_ascii().is_empty() => scan.not_read(path, EMPTY),
        Packed::Not => text(scan, host, path, bytes),
        Packed::Text(text_of_it) => {
            // start-vm.sh.gz holds start-vm.sh.
            let inner = path.map(|path| path.with_extension(""));
            let mut unpacked = Scan::default();
            text(&mut unpacked, host, inner.as_deref(), &text_of_it);
            if let Err(error) = scan.add_inside(unpacked, path) {
                scan.not_read(path, why(&error));
            }
        }
        Packed::Unread(reason) => scan.not_read(path, reason),
    }
}

fn text(scan: &mut Scan, host: &Host, path: Option<&Path>, bytes: &[u8]) {
    let document = Document { path, bytes };
    let format = if path.is_some() { recognise_named(&document) } else { recognise(&document) };
    match format {
        Some(_) => scan.read(host, &document, format),
        None if can_hold(bytes) => scan.not_read(path, unknown_form(bytes)),
        None => scan.looked_at += 1,
    }
}

/// Why a file of no known format is unread.
pub(crate) fn unknown_form(bytes: &[u8]) -> &'static str {
    if bytes.contains(&0) {
        "it is a binary file or an archive, and could hold a proxy share: take the configuration out of it"
    } else {
        "it could hold a proxy share in a form that is not known: look at it yourself"
    }
}

/// Whether a file that is longer than readers take can hold a share. The error says why the file itself does not tell.
pub(crate) fn can_hold_all(host: &Host, path: &Path, start: &[u8]) -> Result<bool, String> {
    if let Packed::Unread(reason) = unpack::unpack(start) {
        return Err(reason);
    }
    if let Some(reason) = unpack::long_archive(start) {
        return Err(reason);
    }
    super::sift::Sieve::default().sift_all(host, path).map_err(|error| why(&error))
}

/// A file that is longer than readers take is looked through.
fn long(scan: &mut Scan, host: &Host, path: &Path, start: &[u8]) {
    match can_hold_all(host, path, start) {
        Ok(true) => scan.not_read(
            Some(path),
            format!("it is longer than {} MiB, and could hold a proxy share", MAX_FILE >> 20),
        ),
        Ok(false) => scan.looked_at += 1,
        Err(reason) => scan.not_read(Some(path), reason),
    }
}
