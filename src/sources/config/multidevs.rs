//! What the admin should know of `multidevs` where no option says it.

use std::path::{Path, PathBuf};

use crate::report::finding::{self, Finding};
use crate::share::Place;
use crate::share::local::Multidevs;
use crate::share::rewrite::Rewrite;
use crate::text::escape_path;

/// One finding for each of `exports`. `by_libvirt`: libvirt says it by an attribute.
pub(super) fn findings<'a>(
    exports: impl IntoIterator<Item = &'a PathBuf>,
    how: &Rewrite,
    by_libvirt: bool,
) -> Vec<Finding> {
    if how.local.multidevs.is_some() {
        return Vec::new();
    }
    let mut exports: Vec<_> = exports.into_iter().collect();
    exports.sort();
    exports.dedup();
    let about = |export: &Path| Finding {
        kind: &finding::MULTIDEVS,
        place: Place::default(),
        message: message(export, how.local_for(export).multidevs, by_libvirt),
        remedy: None,
        subject: None,
    };
    exports.into_iter().map(|export| about(export)).collect()
}

fn message(export: &Path, multidevs: Option<Multidevs>, by_libvirt: bool) -> String {
    let export = escape_path(export);
    let libvirt =
        if by_libvirt && multidevs.is_some() { ". libvirt has this attribute since 6.2" } else { "" };
    match multidevs {
        Some(Multidevs::Remap) => format!(
            "{export} holds several file systems (something is mounted in it, or it holds subvolumes): multidevs=remap keeps their inode \
             numbers apart, and the guest sees other numbers than over the proxy{libvirt}"
        ),
        Some(_) => format!(
            "{export} is one file system: with multidevs=warn the guest sees the inode numbers that it saw over the proxy, in every \
             version of QEMU{libvirt}"
        ),
        None => format!(
            "{export} can't be looked at here, and multidevs is not set: QEMU 10.0 and newer change all inode numbers. Pass \
             --multidevs warn if it is one file system, --multidevs remap if others are mounted in it"
        ),
    }
}
