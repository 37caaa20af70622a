//! Where an audit of a whole machine looks, and what it leaves out there.

use std::path::{Path, PathBuf};

use super::host::{Host, Kind};
use crate::sources::format::path_of;

/// Folders that are read as a whole. What does not exist is passed over.
const PLACES: &[&str] = &[
    "/etc",
    "/root",
    "/home",
    "/opt",
    "/srv",
    "/usr/local",
    "/var/lib",
    "/run",
    "/var/run",
    // Units, timers, quadlets, udev's rules, desktop entries, and programs that are scripts.
    "/usr/lib/systemd",
    "/lib/systemd",
    "/usr/lib/udev",
    "/lib/udev",
    "/usr/share/containers",
    "/usr/share/applications",
    "/usr/share/xsessions",
    "/usr/lib/NetworkManager",
    "/usr/lib/qemu",
    "/usr/libexec",
    "/usr/bin",
    "/usr/sbin",
    "/bin",
    "/sbin",
    "/usr/games",
    "/boot",
    // Services of daemontools and runit.
    "/service",
    "/var/service",
    "/var/backups",
    // The clock's, and jobs for later.
    "/var/spool/cron",
    "/var/spool/at",
    "/var/spool/anacron",
    "/var/cron",
    // Working directories of daemons.
    "/var/opt",
    "/var/local",
    "/var/www",
    // LXD and Incus keep QEMU's configuration beside its log.
    "/var/log/lxd",
    "/var/log/incus",
    "/var/snap",
];

/// Container images, caches and object stores, by their paths.
const LEFT_OUT: &[&str] = &[
    // The state of moves holds configurations as they were before.
    "/var/lib/virtfs-proxy-helper/moves",
    "/var/lib/docker/overlay2",
    "/var/lib/docker/image",
    "/var/lib/docker/aufs",
    "/var/lib/docker/btrfs",
    "/var/lib/docker/vfs",
    "/var/lib/docker/zfs",
    "/var/lib/docker/devicemapper",
    "/var/lib/docker/buildkit",
    "/var/lib/containers/storage/overlay",
    "/var/lib/containers/storage/overlay-images",
    "/var/lib/containers/storage/overlay-layers",
    "/var/lib/containers/storage/vfs",
    "/var/lib/containers/storage/btrfs",
    "/var/lib/containers/cache",
    "/var/lib/containerd",
    "/var/lib/rancher/k3s/agent/containerd",
    "/var/lib/machines",
    "/var/lib/portables",
    "/var/lib/lxd/images",
    "/var/lib/lxd/storage-pools",
    "/var/snap/lxd/common/lxd/images",
    "/var/snap/lxd/common/lxd/storage-pools",
    "/var/snap/docker/common/var-lib-docker",
    "/var/lib/incus/images",
    "/var/lib/incus/storage-pools",
    "/var/lib/lxcfs",
    "/var/lib/flatpak",
    "/var/lib/snapd/cache",
    "/var/lib/snapd/snaps",
    "/var/lib/apt/lists",
    "/run/containerd",
    "/run/docker/containerd",
];

/// The system's folders of which parts are read: the other parts are named.
const IN_PARTS: &[&str] = &["/", "/usr", "/var"];

/// Folders that hold no files of anybody's: the kernel's, and what `fsck` found.
const NO_FILES: &[&str] = &["/proc", "/sys", "/dev", "/lost+found"];

/// A folder in memory, to which everybody can write.
const SHARED_MEMORY: &str = "/dev/shm";

/// Caches and object stores, by the last parts of their paths, wherever they are.
const LEFT_OUT_ANYWHERE: &[&[&str]] = &[
    &[".git", "objects"],
    &[".git", "lfs"],
    &[".ostree", "repo"],
    &["ostree", "repo"],
    &[".cargo", "registry"],
    &[".rustup", "toolchains"],
    &["go", "pkg", "mod"],
    &[".npm", "_cacache"],
    &[".m2", "repository"],
    &[".gradle", "caches"],
    &[".local", "share", "Trash"],
    &[".local", "share", "flatpak"],
    &[".local", "share", "containers", "storage", "overlay"],
    &[".local", "share", "containers", "storage", "overlay-images"],
    &[".local", "share", "containers", "storage", "overlay-layers"],
    &[".local", "share", "containers", "storage", "vfs"],
    &[".local", "share", "containers", "cache"],
    &[".local", "share", "docker"],
];

/// The folder of a user's caches, and what of it is read all the same: a session's libvirt has its state there.
const CACHE: &str = ".cache";
const CACHE_OF_LIBVIRT: &str = "libvirt";

/// File systems that only their own user can see, below /run/user/UID.
const OF_ONE_USER: &[&str] = &["gvfs", "doc"];

/// Every place on `host` that an audit of all of it looks at, those that exist.
pub(super) fn usual(host: &Host) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = PLACES.iter().map(PathBuf::from).collect();
    let users = host.read_small(Path::new("/etc/passwd")).unwrap_or_default();
    for line in users.split(|byte| *byte == b'\n') {
        places.extend(home_of(line));
    }
    let mut known: Vec<PathBuf> = Vec::new();
    for place in places {
        // A link to another place is no second one.
        let real = host.canonical(&place).unwrap_or_else(|_| place.clone());
        let is_new = !known.iter().any(|other| real.starts_with(other));
        if is_new && host.kind(&place, true).is_ok() {
            known.push(real);
        }
    }
    known.extend(loose_files(host));
    known
}

/// The files that lie directly in `/`.
fn loose_files(host: &Host) -> Vec<PathBuf> {
    entries_of(host, "/", Kind::File)
}

/// What a folder has of one kind.
fn entries_of(host: &Host, folder: &str, wanted: Kind) -> Vec<PathBuf> {
    let all = host.list(Path::new(folder)).ok().flatten().unwrap_or_default();
    let is_wanted = |path: &PathBuf, kind: Option<Kind>| {
        // Not every file system says the kind.
        kind.or_else(|| host.kind(path, false).ok()) == Some(wanted)
    };
    all.into_iter().filter(|(path, kind)| is_wanted(path, *kind)).map(|(path, _)| path).collect()
}

/// The folders of `/`, `/usr` and `/var` that an audit of a whole machine does not read, or in part: disks and other machines' files
/// (`/data`, `/mnt`), what packages installed (`/usr/share`), what everybody can write to (`/tmp`). A guest's start may be there.
pub(super) fn not_read(host: &Host, roots: &[PathBuf]) -> Vec<PathBuf> {
    let inside = IN_PARTS.iter().flat_map(|folder| entries_of(host, folder, Kind::Folder));
    let mut folders: Vec<PathBuf> = inside.chain([SHARED_MEMORY.into()]).collect();
    folders.retain(|folder| {
        let is_known = |known: &[&str]| known.iter().any(|known| folder == Path::new(known));
        let is_read = roots.iter().any(|root| folder.starts_with(root));
        // What can't be listed may hold anything.
        let is_empty = || host.list(folder).is_ok_and(|files| files.is_some_and(|files| files.is_empty()));
        !is_known(IN_PARTS) && !is_known(NO_FILES) && !is_read && !is_empty()
    });
    folders.retain(|folder| host.kind(folder, false).is_ok());
    folders
}

/// The home that a line of the user database says; daemons have a folder of the system's there.
fn home_of(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|byte| *byte == b':');
    let number: u32 = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
    let home = path_of(fields.nth(2)?);
    let is_person = number == 0 || (1000..65534).contains(&number);
    (is_person && home.is_absolute() && home != Path::new("/")).then_some(home)
}

/// Whether the walk of a whole machine leaves out a folder.
pub(super) fn is_left_out(folder: &Path) -> bool {
    let parts: Vec<&str> = folder.iter().rev().map(|part| part.to_str().unwrap_or_default()).collect();
    let ends_with = |ends: &[&str]| {
        parts.len() > ends.len() && ends.iter().rev().zip(&parts).all(|(end, part)| end == part)
    };
    let of_one_user = || folder.starts_with("/run/user") && parts.len() == 5;
    match parts.as_slice() {
        [last, parent, ..] if *parent == CACHE => *last != CACHE_OF_LIBVIRT,
        [last, ..] if OF_ONE_USER.contains(last) && of_one_user() => true,
        _ => {
            LEFT_OUT.iter().any(|left_out| folder == Path::new(left_out))
                || LEFT_OUT_ANYWHERE.iter().any(|ends| ends_with(ends))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_caches_and_object_stores_are_left_out() {
        for (folder, expected) in [
            ("/var/lib/docker/overlay2", true),
            ("/var/lib/virtfs-proxy-helper/moves", true),
            ("/var/lib/virtfs-proxy-helper", false),
            ("/var/lib/docker/volumes", false),
            ("/home/joe/vm/.git/objects", true),
            ("/home/joe/vm/.git/hooks", false),
            ("/home/joe/.cache/pip", true),
            ("/home/joe/.cache/libvirt", false),
            ("/home/joe/.cache", false),
            ("/home/joe/.local/share/containers/storage/overlay", true),
            ("/home/joe/overlay", false),
            ("/run/user/1000/doc", true),
            ("/run/user/1000/libvirt", false),
            ("/srv/doc", false),
        ] {
            assert_eq!(is_left_out(Path::new(folder)), expected, "{folder}");
        }
    }

    #[test]
    fn people_have_homes_and_daemons_have_none() {
        for (line, home) in [
            ("root:x:0:0:root:/root:/bin/bash", Some("/root")),
            ("joe:x:1000:1000::/export/joe:/bin/sh", Some("/export/joe")),
            ("daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin", None),
            ("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin", None),
            ("x:x:1000:1000::/:/bin/sh", None),
            ("", None),
        ] {
            assert_eq!(home_of(line.as_bytes()).as_deref(), home.map(Path::new), "{line}");
        }
    }
}
