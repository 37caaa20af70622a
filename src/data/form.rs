//! The forms in which a tree can hold what the guest sees, and one way to read each.

use std::ffi::CStr;
use std::sync::Arc;

use rustix::io::Result;

use super::entry::Entry;
use super::pin::Pin;
use super::tree::Directory;
use super::{mapped_file, mapped_xattr, passthrough};

/// A mapped security model of QEMU's `local` backend.
pub(crate) use crate::share::local::SecurityModel as Model;

/// What a tree's inodes say about what the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// Everything is what it is: the proxy backend's trees.
    Passthrough,
    /// As this model of the `local` backend keeps it.
    Mapped(Model),
}

impl Form {
    /// Its name in QEMU's options.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Mapped(model) => model.name(),
        }
    }

    /// The entry `name` of `directory` as the guest sees it; `pin` is its inode.
    pub(crate) fn read(self, directory: &Directory, name: &CStr, pin: &Pin) -> Result<Entry> {
        match self {
            Self::Passthrough => passthrough::read(pin),
            Self::Mapped(Model::MappedXattr) => mapped_xattr::read(pin),
            Self::Mapped(Model::MappedFile) => mapped_file::read(directory, name, pin),
        }
    }

    /// The directory itself as the guest sees it; `pin` is its inode.
    pub(crate) fn read_directory(self, directory: &Directory, pin: &Pin) -> Result<Entry> {
        match directory.parent() {
            Some(parent) => self.read(parent, directory.name(), pin),
            None => self.read(directory, c"", pin),
        }
    }

    /// Whether the guest never sees an entry of this name in `directory`.
    pub(crate) fn hides(self, directory: &Arc<Directory>, name: &CStr) -> bool {
        self == Self::Mapped(Model::MappedFile) && mapped_file::is_reserved(directory, name)
    }
}
