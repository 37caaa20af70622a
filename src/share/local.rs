//! The `local`, mapped equivalent of a share: the one place that decides what it looks like.

#![forbid(unsafe_code)]

mod libvirt;
mod readconfig;

pub use libvirt::{Address, Filesystem, Unsayable, bus_number, libvirt_filesystem, pci_slot};
pub use readconfig::{quotable, readconfig};

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::qemu_opts::escape;
use super::{Device, Share};

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
pub fn model_pairs(options: &Options) -> Vec<(&'static str, String)> {
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
pub(super) fn model_options(options: &Options) -> Vec<u8> {
    model_pairs(options).iter().flat_map(|(key, value)| format!(",{key}={value}").into_bytes()).collect()
}

/// A path's bytes.
pub fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A `local` fsdev's option string, from nothing.
pub fn fsdev_option(share: &Share, path: &Path, options: &Options) -> Vec<u8> {
    let mut out = b"local,id=".to_vec();
    out.extend(escape(&share.fsdev));
    out.extend_from_slice(b",path=");
    out.extend(escape(path_bytes(path)));
    out.extend(model_options(options));
    if share.readonly {
        out.extend_from_slice(b",readonly=on");
    }
    if share.writeout {
        out.extend_from_slice(b",writeout=immediate");
    }
    out
}

/// A share's `-device` option string, from nothing.
fn device_option(share: &Share, device: &Device) -> Vec<u8> {
    let mut out = escape(&device.driver);
    let fixed =
        [("id", device.id.as_ref()), ("fsdev", Some(&share.fsdev)), ("mount_tag", share.mount_tag.as_ref())];
    let place = [("bus", device.bus.as_ref()), ("addr", device.addr.as_ref())];
    for (key, value) in fixed.into_iter().chain(place) {
        if let Some(value) = value {
            push_option(&mut out, key.as_bytes(), value);
        }
    }
    for (key, value) in &device.properties {
        push_option(&mut out, key, value);
    }
    out
}

/// Adds `,KEY=VALUE` to an option string.
pub(super) fn push_option(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.push(b',');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend(escape(value));
}

/// The QEMU arguments of a share's `local` equivalent: `-fsdev`, its value, and `-device` and its value where there
/// is a device. Values as QEMU gets them: a shell wants them quoted.
pub fn qemu_args(share: &Share, path: &Path, options: &Options) -> Vec<Vec<u8>> {
    let mut args = vec![b"-fsdev".to_vec(), fsdev_option(share, path, options)];
    if let Some(device) = &share.device {
        args.extend([b"-device".to_vec(), device_option(share, device)]);
    }
    args
}
