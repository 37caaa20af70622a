//! Whether `migrate config` could rewrite a document, were the exported directories known: it is tried.

use std::os::unix::ffi::OsStrExt;

use crate::share::rewrite::{Refusal, Rewrite};
use crate::share::{Note, Share, Transport};
use crate::sources::{Document, Format};

/// For each share, why it can't be rewritten.
pub fn refusals(format: &dyn Format, document: &Document, shares: &[Share]) -> Vec<Option<Refusal>> {
    if shares.is_empty() {
        return Vec::new();
    }
    let mut how = Rewrite::default();
    for share in shares {
        let mut names = vec![share.fsdev.clone()];
        names.extend(share.mount_tag.clone());
        if let Transport::Socket(path) = &share.transport {
            names.push(path.as_os_str().as_bytes().to_vec());
        }
        how.exports.extend(names.into_iter().map(|name| (name, "/export".into())));
    }
    let refusal = format.rewrite(document, &how).err();
    shares.iter().map(|share| refusal.clone().or_else(|| doubtful(share))).collect()
}

/// A share that no rewrite would have noticed.
fn doubtful(share: &Share) -> Option<Refusal> {
    share.notes.iter().find_map(|note| match note {
        Note::Unknown(text) => Some(Refusal::at(
            share.place.line,
            format!("{} is not statically known", crate::text::escape(text)),
            "write the value itself",
        )),
        _ => None,
    })
}
