//! What an export is called outside of the container that this process is in: QEMU's configuration needs that path.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::mounts::{Location, Mounts, mount_id};
use crate::kernel;

/// An export's path where the host's first process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outside {
    /// The one here: this process is in no container.
    Same,
    /// Another one.
    Path(PathBuf),
    /// It is not known: the host's processes or their mounts are not seen from the container.
    Unknown,
}

/// The PID namespace that the machine starts with: its first process is the host's. The kernel's `PROC_PID_INIT_INO`.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Where this program is in its image.
const IN_IMAGE: &str = "/virtfs-proxy-helper";

/// What `export`, a path without symbolic links, is called there.
pub(super) fn of(export: &Path) -> Outside {
    let sees_host =
        fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name == Path::new(FIRST_PID_NAMESPACE));
    if sees_host && let (Ok(own), Ok(first)) = (Mounts::own(), Mounts::of(1)) {
        if own == first {
            return Outside::Same;
        }
        return look(export, &own, &first).map_or(Outside::Unknown, Outside::Path);
    }
    // A container that is a whole system has QEMU inside, perhaps; the image has not.
    if fs::read_link("/proc/self/exe").is_ok_and(|program| program == Path::new(IN_IMAGE)) {
        Outside::Unknown
    } else {
        Outside::Same
    }
}

/// The path among the first process's mounts that leads to the same directory.
fn look(export: &Path, own: &Mounts, first: &Mounts) -> Option<PathBuf> {
    let pin = kernel::open_path(export, OFlags::DIRECTORY).ok()?;
    let wanted = pin.metadata().ok()?;
    let location = own.by_id(mount_id(&pin).ok()?)?.locate(export)?;
    let path = names(first, &location).next()?;
    // Looking there takes more privileges than reading the list of mounts: where it may not, the list is believed.
    let within = path.strip_prefix("/").unwrap_or(&path);
    match fs::metadata(Path::new("/proc/1/root").join(within)) {
        Ok(found) if (found.dev(), found.ino()) != (wanted.dev(), wanted.ino()) => None,
        _ => Some(path),
    }
}

/// Every path by which these mounts show a file: no other mount covers it.
fn names<'a>(mounts: &'a Mounts, location: &'a Location) -> impl Iterator<Item = PathBuf> + 'a {
    mounts.iter().filter_map(|mount| {
        let root = Location { device: mount.device.clone(), path: mount.root.clone() };
        let way = root.way_to(location)?;
        // Joining an empty path would add a slash.
        let path = if way.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(way) };
        mounts.showing(&path).is_some_and(|shown| shown.id == mount.id).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_a_name_below_each_mount_that_shows_it() {
        let mounts = Mounts::parse(
            b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
              2 1 8:2 / /srv rw - ext4 /dev/sda2 rw\n\
              3 1 8:2 /guests/one /mnt rw - ext4 /dev/sda2 rw\n\
              4 1 8:2 /other /opt rw - ext4 /dev/sda2 rw\n\
              5 2 8:3 / /srv/covered rw - ext4 /dev/sda3 rw\n",
        );
        let at = |path: &str| Location { device: b"8:2".to_vec(), path: path.into() };
        let found = |path: &str| -> Vec<_> { names(&mounts, &at(path)).collect() };
        assert_eq!(found("/guests/one/x"), [Path::new("/srv/guests/one/x"), Path::new("/mnt/x")]);
        assert_eq!(found("/guests/one"), [Path::new("/srv/guests/one"), Path::new("/mnt")]);
        assert_eq!(found("/guests"), [Path::new("/srv/guests")]);
        assert_eq!(found("/covered/x"), Vec::<PathBuf>::new());
    }
}
