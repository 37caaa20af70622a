//! Every format, and which one a document is of.

use super::format::{Document, Format};

/// Every format there is, in the order in which they are asked: the first that recognises a document reads it.
pub static FORMATS: &[&dyn Format] = &[
    &super::libvirt::Libvirt,
    &super::readconfig::Readconfig,
    &super::proxmox::Proxmox,
    &super::systemd::Systemd,
    &super::documents::Documents,
    &super::shell::Shell,
    &super::cmdline::Cmdline,
    &super::launcher::Launcher,
];

/// The format of a document.
pub(crate) fn recognise(document: &Document) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|format| format.recognises(document))
}

/// The format of a document that somebody asks about: notes and the like, which are passed over otherwise, are taken
/// by their content.
pub(crate) fn recognise_named(document: &Document) -> Option<&'static dyn Format> {
    recognise(document).or_else(|| recognise(&Document { path: None, ..*document }))
}
