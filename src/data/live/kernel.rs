//! What the kernel does with an export's files by itself: loop devices, swap, NFS exports, overlays.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Scene;
use crate::data::mounts::{Mounts, unescape};
use crate::text;

/// Something that the kernel does with a file or directory of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelUse {
    /// A loop device is backed by a file.
    Loop {
        /// Its name, such as `loop0`.
        device: Vec<u8>,
        /// The file.
        file: PathBuf,
    },
    /// It swaps to a file.
    Swap(PathBuf),
    /// It serves a directory over NFS.
    Nfs(PathBuf),
    /// An overlay filesystem is made of a directory.
    Overlay {
        /// Where the overlay is mounted.
        point: PathBuf,
        /// The directory.
        part: PathBuf,
    },
}

impl fmt::Display for KernelUse {
    /// One sentence without its full stop.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |path: &Path| format!("'{}'", text::escape_path(path));
        match self {
            Self::Loop { device, file } => {
                write!(out, "the loop device {} is backed by {}", text::escape(device), path(file))
            }
            Self::Swap(file) => write!(out, "the kernel swaps to {}", path(file)),
            Self::Nfs(part) => write!(out, "the kernel serves {} over NFS", path(part)),
            Self::Overlay { point, part } => {
                write!(out, "the overlay filesystem at {} is made of {}", path(point), path(part))
            }
        }
    }
}

/// Everything that the kernel does with the export's files. What can't be read does not exist here: a kernel without
/// NFS has no such list.
pub(super) fn uses(scene: &Scene) -> Vec<KernelUse> {
    let mut found = loops(scene);
    let swaps = first_fields("/proc/swaps", 1);
    found.extend(swaps.into_iter().filter(|file| scene.holds_path(file)).map(KernelUse::Swap));
    let exports = first_fields("/proc/fs/nfsd/exports", 0);
    let overlaps = |part: &PathBuf| scene.holds_path(part) || scene.path.starts_with(part);
    found.extend(exports.into_iter().filter(overlaps).map(KernelUse::Nfs));
    found.extend(overlays(scene, &scene.own));
    found
}

impl Scene {
    /// Whether a path, as we see it, leads into the export.
    fn holds_path(&self, path: &Path) -> bool {
        let location = self.own.showing(path).and_then(|mount| mount.locate(path));
        location.is_some_and(|location| self.location.way_to(&location).is_some())
    }
}

fn loops(scene: &Scene) -> Vec<KernelUse> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let backed = |entry: fs::DirEntry| {
        let text = fs::read(entry.path().join("loop/backing_file")).ok()?;
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        let file = PathBuf::from(OsStr::from_bytes(text.strip_suffix(b" (deleted)").unwrap_or(text)));
        let device = entry.file_name().as_bytes().to_vec();
        scene.holds_path(&file).then_some(KernelUse::Loop { device, file })
    };
    entries.filter_map(|entry| backed(entry.ok()?)).collect()
}

/// The first field of every line, as the path that it is, after so many lines of heading.
fn first_fields(list: &str, heading: usize) -> Vec<PathBuf> {
    let text = fs::read(list).unwrap_or_default();
    text.split(|&byte| byte == b'\n')
        .skip(heading)
        .filter(|line| line.starts_with(b"/"))
        .map(|line| {
            let field = line.split(|&byte| byte == b' ' || byte == b'\t').next().unwrap_or_default();
            PathBuf::from(OsStr::from_bytes(&unescape(field)))
        })
        .collect()
}

fn overlays(scene: &Scene, mounts: &Mounts) -> Vec<KernelUse> {
    let mut found = Vec::new();
    for mount in mounts.iter().filter(|mount| mount.kind == b"overlay") {
        let layers = mount.filesystem_options.split(|&byte| byte == b',').filter_map(|option| {
            let at = option.iter().position(|&byte| byte == b'=')?;
            let (name, value) = (option.get(..at)?, option.get(at + 1..)?);
            matches!(name, b"lowerdir" | b"upperdir" | b"workdir" | b"lowerdir+" | b"datadir+")
                .then_some(value)
        });
        for layer in layers.flat_map(|list| list.split(|&byte| byte == b':')) {
            let part = PathBuf::from(OsStr::from_bytes(&unescape(layer)));
            if scene.holds_path(&part) {
                found.push(KernelUse::Overlay { point: mount.point.clone(), part });
            }
        }
    }
    found
}
