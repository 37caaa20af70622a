//! What a `local` share is to be like.

#![forbid(unsafe_code)]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum SecurityModel {
    /// In extended attributes, user.virtfs.*.
    #[default]
    #[value(alias = "mapped")]
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

/// `security_model` and what else a `local` fsdev gets beside its path.
pub(crate) fn model_pairs(options: &Options) -> Vec<(&'static str, String)> {
    let mode = |mode: u32| format!("{mode:04o}");
    let pairs = [
        ("security_model", Some(options.security_model.name().to_owned())),
        ("fmode", options.fmode.map(mode)),
        ("dmode", options.dmode.map(mode)),
        ("multidevs", options.multidevs.map(|multidevs| multidevs.name().to_owned())),
    ];
    pairs.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The same as a part of an option string, with a comma before each.
pub(crate) fn model_options(options: &Options) -> Vec<u8> {
    model_pairs(options).iter().flat_map(|(key, value)| format!(",{key}={value}").into_bytes()).collect()
}

/// A path's bytes.
pub(crate) fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Why libvirt can't say a share in its own words; in one sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrepresentable(pub String);
