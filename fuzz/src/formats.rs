//! Configuration files of every format, and option strings.

use std::path::Path;

use virtfs_proxy_helper::internals::share::argv::{self, Arg};
use virtfs_proxy_helper::internals::share::{Rewrite, apply, qemu_opts};
use virtfs_proxy_helper::internals::sources::{Document, FORMATS};

/// Names that the seeds give to shares.
const NAMES: [&[u8]; 6] = [b"fs0", b"fs1", b"t", b"share", b"tag", b"/run/a.sock"];

fn wishes() -> Rewrite {
    Rewrite {
        exports: NAMES.iter().map(|name| (name.to_vec(), "/srv/a,b".into())).collect(),
        ..Rewrite::default()
    }
}

/// Reads and rewrites a file as each format would. A rewritten file must be readable, and hold the fewer proxy shares.
pub fn formats(bytes: &[u8]) {
    let path = Path::new("/etc/seed");
    for format in FORMATS {
        let document = Document { path: Some(path), bytes };
        let _ = format.recognises(&document);
        let Ok(reading) = format.read(&document) else { continue };
        let Ok(edits) = format.rewrite(&document, &wishes()) else { continue };
        let mut end = 0;
        let mut ordered: Vec<_> = edits.edits.iter().collect();
        ordered.sort_by_key(|edit| (edit.span.start, edit.span.end));
        for edit in ordered {
            assert!(edit.span.start <= edit.span.end, "{}: {:?} is no range", format.name(), edit.span);
            assert!(edit.span.start >= end, "{}: {:?} overlaps", format.name(), edit.span);
            assert!(edit.span.end <= bytes.len(), "{}: {:?} is beyond the end", format.name(), edit.span);
            end = edit.span.end;
        }
        let after = apply(bytes, &edits.edits);
        let again = format.read(&Document { path: Some(path), bytes: &after });
        let again = again.unwrap_or_else(|error| panic!("{}: the rewritten file: {error}", format.name()));
        let moved = edits.moved.len();
        assert!(
            again.shares.len() + moved <= reading.shares.len().max(moved),
            "{}: {} shares, {moved} moved, and {} are left",
            format.name(),
            reading.shares.len(),
            again.shares.len()
        );
    }
}

/// An option string, and an argument list of one argument a line.
pub fn options(bytes: &[u8]) {
    for implied in [None, Some(&b"fsdriver"[..])] {
        for opt in qemu_opts::parse(bytes, &[], implied) {
            assert!(opt.range.end <= bytes.len() && opt.value_range.end <= bytes.len());
        }
    }
    let parts = qemu_opts::parse(&[b"k=", &*qemu_opts::escape(bytes)].concat(), &[], None);
    assert!(parts.len() == 1 && parts[0].value == bytes, "escaping is undone by parsing");
    let args: Vec<Arg> = bytes
        .split(|&byte| byte == b'\n')
        .map(|line| Arg { value: line.to_vec(), unknown: Vec::new(), span: 0..0, line: 1 })
        .collect();
    let shares = argv::shares(&args);
    let _ = (argv::guest_name(&args), argv::mount_tags(&args));
    let export = Path::new("/srv/a,b");
    let all: Vec<_> = shares.iter().map(|share| (share, export)).collect();
    let _ = argv::rewrite(&args, &all, &Rewrite::default());
}
