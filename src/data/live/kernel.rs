//! What the kernel does with an export's files by itself: loop devices, swap, NFS exports, overlays.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::scene::Scene;
use super::user::Unseen;
use crate::data::mounts::{Mount, Mounts, unescape};
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
        /// A process of the mount namespace, where that is not ours.
        namespace_of: Option<i32>,
        /// Whether its option names the directory; a relative one may be another's.
        is_certain: bool,
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
            Self::Overlay { point, part, namespace_of, is_certain } => {
                let is = if *is_certain { "is" } else { "has a relative layer and may be" };
                write!(out, "the overlay filesystem at {} {is} made of {}", path(point), path(part))?;
                match namespace_of {
                    Some(pid) => write!(out, ", in the mount namespace of process {pid}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Everything that the kernel does with the export's files. What can't be read does not exist here: a kernel without
/// NFS has no such list.
pub(super) fn uses(scene: &Scene, foreign: &[(i32, &Mounts)], unseen: &mut Unseen) -> Vec<KernelUse> {
    let mut found = loops(scene);
    let swaps = first_fields("/proc/swaps", 1);
    found.extend(swaps.into_iter().filter(|file| scene.holds_path(file)).map(KernelUse::Swap));
    let exports = first_fields("/proc/fs/nfsd/exports", 0);
    let overlaps = |part: &PathBuf| scene.holds_path(part) || scene.path.starts_with(part);
    found.extend(exports.into_iter().filter(overlaps).map(KernelUse::Nfs));
    let mut known = HashSet::new();
    let own = [(None, &scene.own)].into_iter();
    for (pid, mounts) in own.chain(foreign.iter().map(|(pid, mounts)| (Some(*pid), *mounts))) {
        // The same overlay is often seen in several namespaces.
        for mount in mounts.iter().filter(|mount| mount.kind == b"overlay") {
            if known.insert(mount.device.clone()) {
                unseen.layers += overlay(scene, mounts, mount, pid, &mut found);
            }
        }
    }
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

/// Adds the layers of an overlay that are in the export or around it. How many there are of which that is not known.
fn overlay(
    scene: &Scene,
    mounts: &Mounts,
    mount: &Mount,
    namespace_of: Option<i32>,
    found: &mut Vec<KernelUse>,
) -> u64 {
    let layers = mount.filesystem_options.split(|&byte| byte == b',').filter_map(|option| {
        let at = option.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (option.get(..at)?, option.get(at + 1..)?);
        matches!(name, b"lowerdir" | b"upperdir" | b"workdir" | b"lowerdir+" | b"datadir+").then_some(value)
    });
    let layers: Vec<_> = layers
        .flat_map(|list| list.split(|&byte| byte == b':'))
        .filter(|layer| !layer.is_empty())
        .map(|layer| PathBuf::from(OsStr::from_bytes(&unescape(layer))))
        .collect();
    let mut unknown = 0;
    for layer in &layers {
        let part = if layer.is_absolute() {
            scene.touches(mounts, layer).then(|| layer.clone())
        } else {
            // It is relative to where whoever mounted it was: below a directory of the export's way, or beside another layer.
            let candidate = |base: &Path| Some(base.join(layer)).filter(|path| path.is_dir());
            let ours = scene.path.ancestors().filter_map(candidate).find(|path| scene.touches(mounts, path));
            let others = || layers.iter().filter(|other| other.is_absolute());
            let is_beside = || others().any(|other| other.ancestors().any(|base| candidate(base).is_some()));
            if ours.is_none() && !is_beside() {
                unknown += 1;
            }
            ours
        };
        found.extend(part.map(|part| KernelUse::Overlay {
            point: mount.point.clone(),
            part,
            namespace_of,
            is_certain: layer.is_absolute(),
        }));
    }
    unknown
}

impl Scene {
    /// Whether a path, as we or those see it who have these mounts, leads into the export or to a directory around it.
    fn touches(&self, theirs: &Mounts, path: &Path) -> bool {
        [&self.own, theirs].into_iter().any(|mounts| {
            let location = mounts.showing(path).and_then(|mount| mount.locate(path));
            location.is_some_and(|location| {
                self.location.way_to(&location).is_some() || location.way_to(&self.location).is_some()
            })
        })
    }
}
