//! A share over virtiofs in libvirt's own words. libvirt starts virtiofsd itself.

use std::path::Path;

use super::tag::tag;
use crate::share::Share;
use crate::share::local::{self, Address, Options, Unrepresentable};
use crate::text::markup;

/// What a domain needs beside the element, where it says nothing of its memory: two lines for `<memoryBacking>`.
pub(crate) const MEMORY_BACKING: [&str; 2] = ["<source type='memfd'/>", "<access mode='shared'/>"];

/// A `<filesystem>` element with `<driver type='virtiofs'/>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// The same share over local, whose source, target and address it has.
    place: local::Filesystem,
}

impl Filesystem {
    /// The element that says `share`, or why there is none.
    pub fn of(share: &Share, path: &Path) -> Result<Self, Unrepresentable> {
        tag(share)?;
        let place = local::Filesystem::of(share, path, &Options::default())?;
        if let Some((key, value)) = place.driver.first() {
            return Err(Unrepresentable(format!("virtiofsd does not support the device's {key}={value}")));
        }
        if place.address == Some(Address::VirtioMmio) {
            return Err(Unrepresentable("libvirt has no virtiofs device on virtio-mmio".into()));
        }
        Ok(Self { place })
    }

    /// Sets `<alias name=…>`.
    pub fn set_alias(&mut self, name: String) {
        self.place.alias = Some(name);
    }

    /// The element, each line behind `indent` and ended by `newline`, what is inside one `unit` further in.
    pub fn print(&self, indent: &str, unit: &str, newline: &str) -> String {
        let place = &self.place;
        // The proxy passes extended attributes; virtiofsd does so where it is told to.
        let inner = [
            Some("<driver type='virtiofs'/>".to_owned()),
            Some("<binary xattr='on'/>".to_owned()),
            Some(format!("<source dir='{}'/>", markup(&place.source))),
            Some(format!("<target dir='{}'/>", markup(&place.tag))),
            place.readonly.then(|| "<readonly/>".to_owned()),
            place.alias.as_ref().map(|alias| format!("<alias name='{}'/>", markup(alias))),
            place.address.map(Address::tag),
        ];
        let mut lines = vec!["<filesystem type='mount' accessmode='passthrough'>".to_owned()];
        lines.extend(inner.into_iter().flatten().map(|tag| format!("{unit}{tag}")));
        lines.push("</filesystem>".to_owned());
        lines.iter().fold(String::new(), |text, line| text + indent + line + newline)
    }
}
