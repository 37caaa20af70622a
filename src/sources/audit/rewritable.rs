//! Whether `migrate config` could rewrite a document's shares if the exported directories were known: it is tried.

use std::os::unix::ffi::OsStrExt;

use crate::share::rewrite::{Refusal, Rewrite};
use crate::share::{Share, Transport};
use crate::sources::format::{Beside, Document, Format};
use crate::sources::proved;

/// More shares than this have a file's first refusal in common: each is one more rewrite of the file.
const MANY: usize = 32;

/// For each share, why it can't be rewritten.
pub(super) fn refusals(
    format: &dyn Format,
    document: &Document,
    shares: &[Share],
    beside: &dyn Beside,
) -> Vec<Option<Refusal>> {
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
        names.extend(share.handle());
        how.exports.extend(names.into_iter().map(|name| (name, "/export".into())));
    }
    let refusal =
        |how: &Rewrite| proved::rewrite(format, document, shares, how, Some(beside), &|_| Vec::new()).err();
    let Some(first) = refusal(&how) else { return vec![None; shares.len()] };
    if !(2..=MANY).contains(&shares.len()) {
        return vec![Some(first); shares.len()];
    }
    let alone = |share: &Share| refusal(&Rewrite { only: Some(share.clone()), ..how.clone() });
    shares.iter().map(|share| Some(alone(share).unwrap_or_else(|| in_the_way(&first)))).collect()
}

/// Nothing of a file is rewritten where one of its shares can't be.
fn in_the_way(other: &Refusal) -> Refusal {
    let message =
        format!("all shares of a file are rewritten or none, and another one can't be: {}", other.message);
    Refusal { message, ..other.clone() }
}
