//! Whether `migrate config` could rewrite a document's shares, were the exported directories known: it is tried.

use std::os::unix::ffi::OsStrExt;

use crate::share::bounds::bounded;
use crate::share::rewrite::{Refusal, Rewrite};
use crate::share::{Share, Transport};
use crate::sources::templates::refuse_cut;
use crate::sources::{Beside, Document, Format};

/// More shares than this have a file's first refusal in common: each is one more rewrite of the file.
const MANY: usize = 32;

/// For each share, why it can't be rewritten.
pub fn refusals(
    format: &dyn Format,
    document: &Document,
    shares: &[Share],
    beside: &dyn Beside,
) -> Vec<Option<Refusal>> {
    if shares.is_empty() {
        return Vec::new();
    }
    if let Some(refusal) = Refusal::too_many(shares.len()) {
        return vec![Some(refusal); shares.len()];
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
    let rewrite = |how: &Rewrite| {
        let edits = bounded(|| format.rewrite_beside(document, how, Some(beside))).0?;
        refuse_cut(document, &edits.edits)
    };
    let refusal = |how: &Rewrite| rewrite(how).err();
    let first = refusal(&how);
    let each = |share: &Share| match &first {
        Some(_) if (2..=MANY).contains(&shares.len()) => {
            refusal(&Rewrite { only: Some(share.clone()), ..how.clone() })
        }
        other => other.clone(),
    };
    shares.iter().map(each).collect()
}
