//! The `local`, mapped equivalent of a share: the one place that decides what it looks like.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
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

/// `,security_model=…` and what else a `local` fsdev gets beside its path, with a comma before each.
pub(super) fn model_options(options: &Options) -> Vec<u8> {
    let mut out = format!(",security_model={}", options.security_model.name());
    for (key, mode) in [("fmode", options.fmode), ("dmode", options.dmode)] {
        if let Some(mode) = mode {
            // Writing to a String does not fail.
            let _ = write!(out, ",{key}={mode:04o}");
        }
    }
    if let Some(multidevs) = options.multidevs {
        let _ = write!(out, ",multidevs={}", multidevs.name());
    }
    out.into_bytes()
}

/// A path's bytes.
pub(super) fn path_bytes(path: &Path) -> &[u8] {
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

fn push_option(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
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
