//! The `local`, mapped equivalent of a share: the one place that decides what it looks like.

#![forbid(unsafe_code)]

mod libvirt;
mod options;
mod readconfig;

pub(crate) use libvirt::{Address, Filesystem, libvirt_filesystem};
pub use libvirt::{bus_number, pci_slot};
pub(crate) use options::{
    Multidevs, Options, SecurityModel, Unrepresentable, model_options, model_pairs, path_bytes,
};
pub(crate) use readconfig::{quotable, readconfig};

use std::path::Path;

use super::qemu_opts::escape;
use super::{Device, Share};

/// A `local` fsdev's option string, from nothing.
pub(crate) fn fsdev_option(share: &Share, path: &Path, options: &Options) -> Vec<u8> {
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
pub(crate) fn qemu_args(share: &Share, path: &Path, options: &Options) -> Vec<Vec<u8>> {
    let mut args = vec![b"-fsdev".to_vec(), fsdev_option(share, path, options)];
    if let Some(device) = &share.device {
        args.extend([b"-device".to_vec(), device_option(share, device)]);
    }
    args
}
