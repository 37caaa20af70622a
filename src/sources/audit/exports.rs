//! Where the directory that a running helper serves is on the host. The helper may have made it its root, and in a
//! container it goes by another name: what counts is which directory it is, not what it is called.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::host::{Content, Host};
use super::proc::proc;
use crate::data::mounts::Mounts;

/// The directory on the host that the process `pid` calls `spelt`; `None` where it has no name there, or can't be seen.
pub(super) fn on_host(host: &Host, pid: i32, spelt: &Path) -> Option<PathBuf> {
    let absolute = spelt.is_absolute().then(|| spelt.to_owned());
    let Ok(root) = host.read_link(&proc(pid, "root")) else { return absolute };
    if root == Path::new("/") && sees_the_host(host, pid) {
        return absolute.or_else(|| Some(host.read_link(&proc(pid, "cwd")).ok()?.join(spelt)));
    }
    let Ok(inside) = host.open_folder(&proc(pid, "root")) else { return absolute };
    // A process that went into its export and made it its root has nothing else to see.
    let below = absolute.as_deref().filter(|_| root == Path::new("/"));
    let below = below.and_then(|path| Some((Host::open_below(&inside, path).ok()?, path.to_owned())));
    let (folder, seen) = below.unwrap_or_else(|| (inside, PathBuf::from("/")));
    let metadata = folder.metadata().ok()?;
    let identity = (metadata.dev(), metadata.ino());
    let is_it = |path: &PathBuf| host.identity(path).is_ok_and(|found| found == identity);
    let named = [absolute.clone(), Some(root).filter(|root| root != Path::new("/"))];
    if let Some(path) = named.into_iter().flatten().find(is_it) {
        return Some(path);
    }
    // Removed while it was served.
    if metadata.nlink() == 0 {
        return absolute;
    }
    through_mounts(host, pid, &seen).into_iter().find(is_it)
}

/// Whether the process has the mounts of the host, not its own.
pub(super) fn sees_the_host(host: &Host, pid: i32) -> bool {
    let of = |path: &Path| host.read_link(path).ok();
    let own = if host.is_elsewhere() {
        of(Path::new("/proc/1/ns/mnt"))
    } else {
        std::fs::read_link("/proc/self/ns/mnt").ok()
    };
    own.is_some() && own == of(&proc(pid, "ns/mnt"))
}

/// Names that the host may have for what the process sees at `seen`: where its file system is mounted there.
fn through_mounts(host: &Host, pid: i32, seen: &Path) -> Vec<PathBuf> {
    let mounts = |path: &Path| match host.read(path, true) {
        Ok(Content::Whole(text)) => Mounts::parse(&text),
        _ => Mounts::default(),
    };
    let theirs = mounts(&proc(pid, "mountinfo"));
    let Some(location) = theirs.showing(seen).and_then(|mount| mount.locate(seen)) else { return Vec::new() };
    let ours =
        mounts(Path::new(if host.is_elsewhere() { "/proc/1/mountinfo" } else { "/proc/self/mountinfo" }));
    let names = ours.iter().filter_map(|mount| {
        let way = mount.locate(&mount.point)?.way_to(&location)?.to_owned();
        // Joining an empty path would add a slash.
        Some(if way.as_os_str() == OsStr::new("") { mount.point.clone() } else { mount.point.join(way) })
    });
    names.collect()
}
