//! How many file systems a guest would see below an export: QEMU compares the device number of every file (`st_dev`) with
//! the export's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::mounts::Mounts;
use crate::share::local::Multidevs;

/// More directories than are looked at in a file system of several device numbers.
const MOST_DIRECTORIES: usize = 1_000_000;

/// What lies below an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Devices {
    /// One device number.
    One,
    /// Several: something is mounted in it, or it holds subvolumes.
    Several,
}

/// What lies below `export`; `None` where that can't be told: there is no such directory here, or not all of it can be read.
///
/// A mount inside is known by the list of mounts: nothing that is mounted is looked at, for its server may hang. Only file
/// systems whose files have several device numbers are walked: of Btrfs and bcachefs the directories, of an overlay everything.
pub(crate) fn below(export: &Path) -> Option<Devices> {
    let root = export.canonicalize().ok()?;
    let device = fs::symlink_metadata(&root).ok().filter(fs::Metadata::is_dir)?.dev();
    let mounts = Mounts::own().ok()?;
    let shown = mounts.showing(&root)?;
    if mounts.below(&root).any(|mount| mount.device != shown.device) {
        return Some(Devices::Several);
    }
    match shown.kind.as_slice() {
        b"btrfs" | b"bcachefs" => walk(root, device, false),
        b"overlay" => walk(root, device, true),
        _ => Some(Devices::One),
    }
}

/// What `multidevs` is to be for `export`, so that the guest goes on seeing the inode numbers that it sees over the proxy, and no two
/// files of one number: QEMU's default changes all of them from 10.0 on, and none before.
pub(crate) fn multidevs_of(export: &Path) -> Option<Multidevs> {
    below(export).map(|devices| match devices {
        Devices::One => Multidevs::Warn,
        Devices::Several => Multidevs::Remap,
    })
}

/// Looks for a file below `root` whose device number is not `device`.
fn walk(root: PathBuf, device: u64, files_too: bool) -> Option<Devices> {
    let mut directories = vec![root];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        seen += 1;
        if seen > MOST_DIRECTORIES {
            return None;
        }
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
        for entry in entries {
            let entry = entry.ok()?;
            let is_directory = entry.file_type().ok()?.is_dir();
            if !is_directory && !files_too {
                continue;
            }
            let path = entry.path();
            // The same file system, mounted once more: QEMU sees its device number too, and whoever serves it serves the export.
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.dev() != device => return Some(Devices::Several),
                Ok(meta) if meta.is_dir() => directories.push(path),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => return None,
            }
        }
    }
    Some(Devices::One)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_directory_is_one_file_system_and_the_root_several() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        assert_eq!(below(dir.path()), Some(Devices::One));
        // In a plain chroot nothing tells what the root is mounted from.
        let known = Mounts::own().unwrap().showing(Path::new("/")).is_some();
        let expected = known.then_some(Devices::Several);
        assert_eq!(below(Path::new("/")), expected, "/proc is mounted in it");
        assert_eq!(below(Path::new("/no/such/directory")), None);
        assert_eq!(below(Path::new("/proc/self/status")), None);
    }

    #[test]
    fn a_walk_finds_other_device_numbers() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "").unwrap();
        let device = fs::metadata(dir.path()).unwrap().dev();
        let root = || dir.path().to_path_buf();
        for files_too in [false, true] {
            assert_eq!(walk(root(), device, files_too), Some(Devices::One));
            assert_eq!(walk(root(), device + 1, files_too), Some(Devices::Several));
        }
    }
}
