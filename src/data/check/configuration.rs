//! The share's configuration after a conversion, written by the same writers as `migrate config`'s.

use std::path::Path;

use super::facts::Facts;
use crate::data::devices::multidevs_of;
use crate::data::form::Model;
use crate::data::outside::{self, Outside};
use crate::report::check::ConfigurationRow;
use crate::share::local::{Multidevs, Options, SecurityModel, libvirt_filesystem, qemu_args};
use crate::share::{Device, ExportPath, Place, Share, Transport};
use crate::text;

/// The longest mount tag that QEMU takes.
const LONGEST_TAG: usize = 31;

/// The configuration of an export in `model`.
pub(super) fn of(facts: &Facts, model: Model) -> ConfigurationRow {
    let options = Options {
        security_model: match model {
            Model::MappedXattr => SecurityModel::MappedXattr,
            Model::MappedFile => SecurityModel::MappedFile,
        },
        multidevs: if facts.survey.mounts.count + facts.survey.subvolumes.count > 0 {
            Some(Multidevs::Remap)
        } else {
            multidevs_of(&facts.export)
        },
        ..Options::default()
    };
    let (path, path_is_of_container) = match outside::of(&facts.export) {
        Outside::Same => (facts.export.clone(), false),
        Outside::Path(path) => (path, false),
        Outside::Unknown => (facts.export.clone(), true),
    };
    let share = share(&path);
    let args = qemu_args(&share, &path, &options);
    let (libvirt, libvirt_unsayable) = match libvirt_filesystem(&share, &path, &options) {
        Ok(element) => (Some(element), None),
        Err(unsayable) => (None, Some(unsayable.0)),
    };
    let qemu = args.iter().map(|arg| quoted(arg)).collect();
    ConfigurationRow { qemu, libvirt, libvirt_unsayable, path_is_of_container }
}

/// A share of the export, named after it.
fn share(export: &Path) -> Share {
    let name = export.file_name().unwrap_or_default().to_string_lossy();
    let mut tag: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .take(LONGEST_TAG)
        .collect();
    // An id begins with a letter, and is what the tag is where that can be.
    if !tag.starts_with(|c: char| c.is_ascii_alphabetic()) {
        tag = "share".into();
    }
    Share {
        fsdev: tag.clone().into_bytes(),
        mount_tag: Some(tag.into_bytes()),
        transport: Transport::Unknown(Vec::new()),
        socket_on_host: None,
        model: None,
        readonly: false,
        writeout: false,
        device: Some(Device { driver: b"virtio-9p-pci".to_vec(), ..Device::default() }),
        place: Place::default(),
        export: ExportPath::Unknown,
        memory: crate::share::memory::Memory::default(),
        notes: Vec::new(),
    }
}

/// An argument as a shell takes it, safe to print.
fn quoted(arg: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./,=:+@%".contains(byte);
    if !arg.is_empty() && arg.iter().all(plain) {
        return text::escape(arg).into_owned();
    }
    let shown = text::escape(arg);
    if shown.as_bytes() == arg {
        return format!("'{}'", shown.replace('\'', r"'\''"));
    }
    // What can't be printed can be spelt: $'…' of bash and of POSIX since 2024.
    format!("$'{}'", shown.replace('\'', r"\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_can_be_pasted_into_a_shell() {
        for (arg, text) in [
            (&b"-fsdev"[..], "-fsdev"),
            (b"local,path=/srv/a", "local,path=/srv/a"),
            (b"", "''"),
            (b"path=/a b", "'path=/a b'"),
            (b"it's", r"'it'\''s'"),
            (b"a\nb\\'", r"$'a\x0ab\\\''"),
            (b"\xff", r"$'\xff'"),
        ] {
            assert_eq!(quoted(arg), text);
        }
    }
}
