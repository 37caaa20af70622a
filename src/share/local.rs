//! The `local`, mapped equivalent of a share: the one place that decides what it looks like.

/// What a `local` share is to be like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Where the guest's owners, modes and special files go.
    pub security_model: SecurityModel,
    /// The host's mode of the files that the guest makes, in place of 0600.
    pub fmode: Option<u32>,
    /// The host's mode of the directories that the guest makes, in place of 0700.
    pub dmode: Option<u32>,
    /// What QEMU does about several file systems below the export.
    pub multidevs: Option<Multidevs>,
}

/// QEMU's mapped security models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SecurityModel {
    /// In extended attributes, user.virtfs.*.
    #[default]
    MappedXattr,
    /// In files below .virtfs_metadata.
    MappedFile,
}

/// What QEMU does about several file systems below one export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Multidevs {
    /// Gives every file an inode number that is unique in the guest.
    Remap,
    /// Hides what lies on another file system.
    Forbid,
    /// Warns once.
    Warn,
}

impl SecurityModel {
    /// As QEMU spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MappedXattr => "mapped-xattr",
            Self::MappedFile => "mapped-file",
        }
    }
}

impl Multidevs {
    /// As QEMU and libvirt spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remap => "remap",
            Self::Forbid => "forbid",
            Self::Warn => "warn",
        }
    }
}
