//! What this program leaves on a host: the documents of `migrate plan`, and the files that `migrate config --in-place` keeps,
//! `NAME.orig` beside `NAME`.
//!
//! A name proves nothing. Such a file is left out of the shares only where the file beside it has each of its shares over
//! `local`, and none over the proxy; and it is told of.

use std::path::{Path, PathBuf};

use super::host::{Content, Host};
use crate::report::finding::{self, Finding};
use crate::share::backend::Backend;
use crate::share::bounds::bounded;
use crate::share::{Place, Share};
use crate::sources::{Document, Reading, recognise_named};
use crate::text::escape_path;

/// Whether a text is a document of `migrate plan`, YAML or JSON: it starts nothing, and tells of the shares of other files. All of its
/// keys must be there, in its first line or at the depth at which they are written.
pub fn is_plan(text: &[u8]) -> bool {
    let has = |key: &[u8]| memchr::memmem::find(text, key).is_some();
    let after_comments = text
        .split_inclusive(|byte| *byte == b'\n')
        .find(|line| !line.starts_with(b"#") && line.trim_ascii() != b"---" && !line.trim_ascii().is_empty());
    match after_comments.map(<[u8]>::trim_ascii) {
        Some(line) if line.starts_with(b"schema: ") => {
            [&b"\ntool: "[..], b"\nanswers:\n", b"\nmoves:"].into_iter().all(has)
        }
        Some(b"{") => {
            [&b"\n  \"schema\": "[..], b"\n  \"tool\": ", b"\n  \"answers\": {", b"\n  \"moves\": ["]
                .into_iter()
                .all(has)
        }
        _ => false,
    }
}

/// What to say of the file at `path`, in which the shares of `reading` are, where it is such a file.
pub fn told(host: &Host, path: &Path, reading: &Reading) -> Option<Finding> {
    let current = current(path)?;
    if reading.shares.is_empty() {
        return None;
    }
    let Ok(Content::Whole(bytes)) = host.read(&current, true) else { return None };
    let document = Document { path: Some(&current), bytes: &bytes };
    let format = Backend::Local.seek(|| recognise_named(&document))?;
    let (proxy, cut) = bounded(|| format.read_beside(&document, Some(host)));
    if cut.is_some() || !proxy.ok()?.shares.is_empty() {
        return None;
    }
    let (local, cut) = bounded(|| Backend::Local.seek(|| format.read_beside(&document, Some(host))));
    let mut local = local.ok()?.shares;
    // libvirt's own element is in no argument.
    let native = memchr::memmem::find(&bytes, b"<filesystem").is_some();
    for share in &reading.shares {
        match local.iter().position(|other| is_same(share, other)) {
            Some(at) => drop(local.swap_remove(at)),
            None if native && is_native(share, &bytes) => {}
            None => return None,
        }
    }
    cut.is_none().then(|| Finding {
        kind: &finding::KEPT_ORIGINAL,
        place: Place { file: Some(path.to_owned()), ..Place::default() },
        message: format!("it is as {} was before its shares moved to local", escape_path(&current)),
        remedy: None,
        subject: None,
    })
}

/// `NAME` for `NAME.orig` and `NAME.orig.2`.
fn current(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (own, number) = name.rsplit_once(".orig")?;
    let number = number.strip_prefix('.').unwrap_or(number);
    let is_ours =
        !own.is_empty() && (number.is_empty() || number.parse::<u16>().is_ok_and(|number| number > 1));
    is_ours.then(|| path.with_file_name(own))
}

fn is_same(share: &Share, other: &Share) -> bool {
    (&share.fsdev, &share.mount_tag) == (&other.fsdev, &other.mount_tag)
        && (!share.readonly || other.readonly)
}

/// Whether libvirt's element for the share is there.
fn is_native(share: &Share, text: &[u8]) -> bool {
    let Some(tag) = &share.mount_tag else { return false };
    [b'\'', b'"'].iter().any(|quote| {
        let target = [b"<target dir=", &[*quote][..], tag, &[*quote]].concat();
        memchr::memmem::find(text, &target).is_some()
    })
}
