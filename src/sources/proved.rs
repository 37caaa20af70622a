//! The rewrite of a document, proved by reading the result. `migrate config` writes it; `migrate audit` asks whether there is
//! one. Both call [`rewrite`], so that they give the same answer.

#![forbid(unsafe_code)]

use super::templates::refuse_cut;
use super::{Beside, Document, Format, Reading, Unreadable};
use crate::share::backend::Backend;
use crate::share::bounds::bounded;
use crate::share::rewrite::{Edit, Edits, Moved, Refusal, Rewrite, apply};
use crate::share::{Device, Share, Transport};

/// What to do where a rewrite is not what it should be.
const BY_HAND: &str = "change it by hand";

/// A rewritten document.
#[derive(Debug)]
pub struct Rewritten {
    /// The changes.
    pub edits: Edits,
    /// All of its text.
    pub text: Vec<u8>,
    /// Whether libvirt's own elements say a share.
    pub native: bool,
}

/// Rewrites the shares of a document, which a reader has found there. A rewrite that leaves one of them on the proxy, or
/// says another thing than it should, is refused. `more`: further changes, by the edits.
pub fn rewrite(
    format: &dyn Format,
    document: &Document,
    shares: &[Share],
    how: &Rewrite,
    beside: Option<&dyn Beside>,
    more: &dyn Fn(&mut Edits) -> Vec<Edit>,
) -> Result<Rewritten, Refusal> {
    if let Some(refusal) = Refusal::too_many(shares.len()) {
        return Err(refusal);
    }
    let mut edits = bounded(|| format.rewrite_beside(document, how, beside)).0?;
    refuse_cut(document, &edits.edits)?;
    let additions = more(&mut edits);
    let mut changes = edits.edits.clone();
    changes.extend(additions);
    let text = apply(document.bytes, &changes);
    // libvirt's own words for a share are in no argument, in a domain inside another file neither.
    let native = memchr::memmem::find(&text, b"<filesystem").is_some();
    let read = |bytes: &[u8]| bounded(|| format.read_beside(&Document { bytes, ..*document }, beside)).0;
    let stay: Vec<_> = shares.iter().filter(|share| !how.wants(share)).collect();
    refuse_left(read(&text), &stay)?;
    Backend::Local.seek(|| compare(read(document.bytes), read(&text), &edits.moved, native))?;
    Ok(Rewritten { edits, text, native })
}

fn unreadable(error: &Unreadable) -> Refusal {
    Refusal::at(None, format!("after the rewrite it could not be read any more: {error}"), BY_HAND)
}

/// What a share says, wherever in the file it says it: its id, its tag, its device, `readonly`, `writeout`, and what it is
/// over.
type Said = (Vec<u8>, Option<Vec<u8>>, Option<Device>, bool, bool, Transport);

fn said(share: &Share, transport: Transport) -> Said {
    let (tag, device) = (share.mount_tag.clone(), share.device.clone());
    (share.fsdev.clone(), tag, device, share.readonly, share.writeout, transport)
}

fn own(share: &Share) -> Said {
    said(share, share.transport.clone())
}

/// Stops at a share that would still go over the proxy, except for those that are to.
fn refuse_left(after: Result<Reading, Unreadable>, stay: &[&Share]) -> Result<(), Refusal> {
    let after = after.map_err(|error| unreadable(&error))?;
    match after.shares.iter().find(|share| !stay.iter().any(|one| own(one) == own(share))) {
        Some(share) => Err(Refusal::at(
            None,
            format!("after the rewrite the share {} would still go over the proxy", share.title()),
            BY_HAND,
        )),
        None => Ok(()),
    }
}

/// The rewritten file must hold, besides the `local` shares that were there, the moved ones as they are to be, and no
/// others. A share that libvirt says in its own words from now on is in no argument any more.
fn compare(
    before: Result<Reading, Unreadable>,
    after: Result<Reading, Unreadable>,
    moved: &[Moved],
    native: bool,
) -> Result<(), Refusal> {
    let after = after.map_err(|error| unreadable(&error))?;
    let wrong = |name: &str, how: &str| {
        Refusal::at(None, format!("after the rewrite the share {name} would {how}"), BY_HAND)
    };
    let before = before.unwrap_or_default().shares;
    let mut expected: Vec<_> = before.iter().map(|share| (own(share), share)).collect();
    expected.extend(
        moved.iter().map(|one| (said(&one.share, Transport::Socket(one.path().to_owned())), &one.share)),
    );
    for share in &after.shares {
        let Some(at) = expected.iter().position(|(one, _)| *one == own(share)) else {
            return Err(wrong(&share.title(), "not be what it should"));
        };
        expected.swap_remove(at);
    }
    // Two lists that share an argument move one share twice.
    let is_gone = |(one, _): &&(_, _)| !after.shares.iter().any(|share| own(share) == *one);
    match expected.iter().find(is_gone) {
        Some((_, share)) if !native => Err(wrong(&share.title(), "be gone")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::shell::Shell;

    fn compared(new: &str) -> Result<(), Refusal> {
        let old = "qemu -virtfs local,path=/b,mount_tag=b,security_model=none \\\n -virtfs \
                   proxy,id=f,mount_tag=t,socket=/a,readonly=on\n";
        let document = |text: &'static str| Document { path: None, bytes: text.as_bytes() };
        let read = |text: &[u8]| Shell.read(&Document { path: None, bytes: text });
        let share = Shell.read(&document(old)).unwrap().shares.remove(0);
        let moved = [Moved { share, export: "/srv".into(), inside: None }];
        Backend::Local.seek(|| compare(read(old.as_bytes()), read(new.as_bytes()), &moved, false))
    }

    #[test]
    fn a_rewrite_that_says_anything_else_is_refused() {
        let good = "qemu -virtfs local,path=/b,mount_tag=b,security_model=none \\\n -virtfs \
                    local,id=f,mount_tag=t,path=/srv,security_model=mapped-xattr,readonly=on\n";
        assert_eq!(compared(good), Ok(()));
        for (from, to) in [
            ("path=/srv", "path=/srv2"),
            ("readonly=on", "readonly=off"),
            ("mount_tag=t", "mount_tag=u"),
            ("id=f", "id=g"),
            ("path=/b", "path=/c"),
            ("-virtfs local,id=f", "# -virtfs local,id=f"),
            ("path=/srv", "path='/srv"),
        ] {
            compared(&good.replace(from, to)).expect_err(to);
        }
    }
}
