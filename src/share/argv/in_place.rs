//! An fsdev's argument → the same argument over the `local` backend, in place.

use std::path::Path;

use super::arg::{ArgEdit, Splice};
use super::model::Fsdev;
use crate::share::local::{Options, model_options, path_bytes};
use crate::share::qemu_opts::{Form, Opt, escape};

/// The edits by which `fsdev`, whose argument is `raw`, becomes a `local` share of `path`. `readonly`: what the share is
/// to be; `None` leaves what it says.
pub(super) fn edits(
    fsdev: &Fsdev,
    raw: &[u8],
    path: &Path,
    options: &Options,
    readonly: Option<bool>,
) -> Vec<ArgEdit> {
    let set_path = fsdev.sets.iter().any(|set| is_transport(&set.key));
    let counting = fsdev.opts.iter().rposition(|opt| is_transport(&opt.key)).filter(|_| !set_path);
    let mut splices = Vec::new();
    let says = readonly.map(|readonly| if readonly { &b"readonly=on"[..] } else { b"readonly=off" });
    let added = says.filter(|_| readonly == Some(true) && fsdev.all(b"readonly").is_empty());
    for (index, opt) in fsdev.opts.iter().enumerate() {
        if Some(index) == counting {
            let mut with = b"path=".to_vec();
            with.extend(escape(path_bytes(path)));
            with.extend(model_options(options));
            splices.push(Splice { range: opt.range.clone(), with });
        } else if is_transport(&opt.key) {
            splices.push(removal(raw, opt));
        } else if opt.key == b"fsdriver" && opt.form != Form::Flag && opt.value != b"local" {
            splices.push(Splice { range: opt.value_range.clone(), with: b"local".to_vec() });
        } else if let Some(says) = says.filter(|_| opt.key == b"readonly") {
            splices.push(Splice { range: opt.range.clone(), with: says.to_vec() });
        }
    }
    if counting.is_none() {
        let with = model_options(options);
        // A trailing comma is there already.
        let ends_open =
            raw.last() == Some(&b',') && fsdev.opts.last().is_some_and(|opt| opt.range.end < raw.len());
        let with = if ends_open { with.get(1..).unwrap_or_default().to_vec() } else { with };
        splices.push(Splice { range: raw.len()..raw.len(), with });
    }
    if let Some(says) = added {
        match splices.last_mut() {
            Some(last) if last.range.end == raw.len() => last.with.extend([b",", says].concat()),
            _ => splices.push(Splice { range: raw.len()..raw.len(), with: [b",", says].concat() }),
        }
    }
    let mut edits = Vec::new();
    if !splices.is_empty() {
        edits.push(ArgEdit { arg: fsdev.word.value, splices });
    }
    edits.extend(set_edits(fsdev, path, readonly));
    edits
}

/// The edits of the `-set`s that speak of the fsdev. Their values are not comma-doubled.
fn set_edits(fsdev: &Fsdev, path: &Path, readonly: Option<bool>) -> Vec<ArgEdit> {
    let edit = |word: super::scan::Word, splices| ArgEdit { arg: word.value, splices };
    let mut edits = Vec::new();
    for set in &fsdev.sets {
        let value = |with: &[u8]| Splice { range: set.value_range.clone(), with: with.to_vec() };
        if is_transport(&set.key) {
            let key = Splice { range: set.key_range.clone(), with: b"path".to_vec() };
            edits.push(edit(set.word, vec![key, value(path_bytes(path))]));
        } else if set.key == b"fsdriver" && set.value.bytes != b"local" {
            edits.push(edit(set.word, vec![value(b"local")]));
        } else if let Some(readonly) = readonly.filter(|_| set.key == b"readonly") {
            edits.push(edit(set.word, vec![value(if readonly { b"on" } else { b"off" })]));
        }
    }
    edits
}

fn is_transport(key: &[u8]) -> bool {
    key == b"socket" || key == b"sock_fd"
}

/// Takes an option out, with the comma before it, or the one behind it at the string's start.
fn removal(raw: &[u8], opt: &Opt) -> Splice {
    let range = if opt.range.start > 0 {
        opt.range.start - 1..opt.range.end
    } else {
        0..(opt.range.end + 1).min(raw.len())
    };
    Splice { range, with: Vec::new() }
}
