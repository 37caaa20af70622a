//! What a proxy share can move to. Each target is one module that says a share in its own words; this is the one place
//! that chooses between them.

#![forbid(unsafe_code)]

use std::path::Path;

use super::local::{self, Options, Unrepresentable};
use super::{Share, virtiofs};

/// What a share moves to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// QEMU's local backend, mapped: the guest mounts as before, the export's files are converted
    #[default]
    Local,
    /// virtiofsd: the files stay as they are, the guest mounts another file system
    Virtiofs,
}

/// libvirt's `<filesystem>` element of a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// Over the local backend.
    Local(local::Filesystem),
    /// Over virtiofsd.
    Virtiofs(virtiofs::Filesystem),
}

impl Target {
    /// The value of `--backend`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Virtiofs => "virtiofs",
        }
    }

    /// libvirt's element, or why there is none.
    pub fn element(self, share: &Share, path: &Path, options: &Options) -> Result<Element, Unrepresentable> {
        match self {
            Self::Local => local::Filesystem::of(share, path, options).map(Element::Local),
            Self::Virtiofs => virtiofs::Filesystem::of(share, path).map(Element::Virtiofs),
        }
    }

    /// QEMU's arguments of the share alone, option words included.
    pub fn qemu_args(
        self,
        share: &Share,
        path: &Path,
        options: &Options,
    ) -> Result<Vec<Vec<u8>>, Unrepresentable> {
        match self {
            Self::Local => Ok(local::qemu_args(share, path, options)),
            Self::Virtiofs => virtiofs::qemu_args(share),
        }
    }
}

impl Element {
    /// The element, each line behind `indent` and ended by `newline`, what is inside one `unit` further in.
    pub fn print(&self, indent: &str, unit: &str, newline: &str) -> String {
        match self {
            Self::Local(element) => element.print(indent, unit, newline),
            Self::Virtiofs(element) => element.print(indent, unit, newline),
        }
    }

    /// Sets `<alias name=…>`, which must start with `ua-`.
    pub fn set_alias(&mut self, name: String) {
        match self {
            Self::Local(element) => element.alias = Some(name),
            Self::Virtiofs(element) => element.set_alias(name),
        }
    }
}
