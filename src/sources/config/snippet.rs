//! `--to`: the shares of a file in another form.

use super::super::managed::Managed;
use crate::cli::Snippet;
use crate::share::local::{Unsayable, libvirt_filesystem, qemu_args, readconfig};
use crate::share::rewrite::{Refusal, Rewrite};
use crate::share::{Note, Share, argv};
use crate::text::{escape, shell_word};

/// The `local` equivalents of `shares`.
pub(super) fn print(form: Snippet, shares: &[Share], how: &Rewrite) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    for share in shares {
        refuse_unknown(share)?;
        if let Some(managed) = Managed::of(&share.fsdev, share.place.file.as_deref()) {
            return Err(Refusal::at(share.place.line, managed.message(), managed.remedy()));
        }
        let export = how.export_of(share)?;
        let local = how.local_for(&export);
        let unsayable =
            |Unsayable(reason)| Refusal::at(share.place.line, reason, "print it with another --to");
        if form == Snippet::Readconfig && !out.is_empty() {
            out.push(b'\n');
        }
        match form {
            Snippet::Libvirt => {
                out.extend(libvirt_filesystem(share, &export, &local).map_err(unsayable)?.into_bytes());
            }
            Snippet::Readconfig => out.extend(readconfig(share, &export, &local).map_err(unsayable)?),
            Snippet::QemuArgs => {
                for pair in qemu_args(share, &export, &local).chunks(2) {
                    let words: Vec<_> = pair.iter().map(|word| shell_word(word)).collect();
                    out.extend(words.join(&b' '));
                    out.push(b'\n');
                }
            }
        }
    }
    Ok(out)
}

/// A snippet says all of a share, so that all of it must be known.
fn refuse_unknown(share: &Share) -> Result<(), Refusal> {
    argv::refuse_doubtful(share)?;
    let unknown = share.notes.iter().find_map(|note| match note {
        Note::UnknownOfDevice(text) => Some(text),
        _ => None,
    });
    match unknown {
        Some(text) => Err(Refusal::at(
            share.place.line,
            format!("the device holds {}, and what that stands for is not known here", escape(text)),
            "write the value itself first",
        )),
        None => Ok(()),
    }
}
