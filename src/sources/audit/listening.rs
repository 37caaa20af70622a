//! Where the socket of a running helper is on the host. Its command line has the path as its starter saw it; once it serves, its root
//! and its current directory are the export.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::exports;
use super::host::{Content, Host};
use super::proc::{parent, proc, sockets_of};
use super::sockets;
use crate::sources::format::path_of;

/// The lowest bits of an inode number.
const LOW: u64 = 0xffff_ffff;

/// The files that unix sockets are bound to: the low 32 bits of their inode numbers, by the sockets' inode numbers.
#[derive(Debug, Default)]
pub(super) struct Bound {
    known: RefCell<HashMap<PathBuf, HashMap<u64, u32>>>,
}

impl Bound {
    /// The path on the host of the socket that the process `pid`, which serves `export`, calls `spelt`. Where no such file can be told to be the socket that the
    /// process has, the path that is left to believe.
    pub(super) fn on_host(&self, host: &Host, pid: i32, spelt: &Path, export: Option<&Path>) -> PathBuf {
        let seen = as_seen_by(host, pid, spelt, export);
        let from = |folder: Option<PathBuf>| Some(folder?.join(spelt)).filter(|path| path.is_absolute());
        let started_in = from(working_directory(host, pid));
        let candidates = [
            seen.clone(),
            spelt.is_absolute().then(|| spelt.to_owned()),
            started_in.clone(),
            from(parent(host, pid).and_then(|parent| host.read_link(&proc(parent, "cwd")).ok())),
        ];
        let files = self.files_of(host, pid);
        let mut candidates = candidates.into_iter().flatten();
        let is_its = |path: &PathBuf| {
            // The kernel tells no more of the number.
            let own = host.identity_of_socket(path).and_then(|(_, inode)| u32::try_from(inode & LOW).ok());
            own.is_some_and(|own| files.contains(&own))
        };
        // QEMU's own helper removes its socket when its client has connected.
        candidates.find(is_its).or(seen).or(started_in).unwrap_or_else(|| spelt.to_owned())
    }

    /// The files that the sockets of a process are bound to.
    fn files_of(&self, host: &Host, pid: i32) -> HashSet<u32> {
        let sockets = sockets_of(host, pid).unwrap_or_default();
        let mut files = HashSet::new();
        // A helper may have left the network namespace that it made its socket in.
        for namespace in ["/proc/self/ns/net".into(), proc(pid, "ns/net"), "/proc/1/ns/net".into()] {
            let mut known = self.known.borrow_mut();
            let all = known.entry(namespace.clone()).or_insert_with(|| all(host, &namespace));
            files.extend(sockets.values().filter_map(|socket| all.get(socket)));
            if !files.is_empty() {
                break;
            }
        }
        files
    }
}

/// The files of all sockets in a network namespace; none where they can't be seen.
fn all(host: &Host, namespace: &Path) -> HashMap<u64, u32> {
    if namespace == Path::new("/proc/self/ns/net") {
        return sockets::files().unwrap_or_default();
    }
    let namespace = host.open_namespace(namespace);
    namespace.and_then(|namespace| sockets::files_in(&namespace)).unwrap_or_default()
}

/// The path on the host of what the process calls `spelt` in its root directory. A helper
/// that serves has its export as its root directory, and its socket's path is of its starter's.
fn as_seen_by(host: &Host, pid: i32, spelt: &Path, export: Option<&Path>) -> Option<PathBuf> {
    let root = proc(pid, "root");
    let is_elsewhere = host.read_link(&root).is_ok_and(|root| root != Path::new("/"));
    let is_export = || Some((host.identity(export?).ok()?, host.open_folder(&root).ok()?.metadata().ok()?));
    let is_export = is_export().is_some_and(|(export, root)| export == (root.dev(), root.ino()));
    if is_elsewhere || is_export {
        return spelt.is_absolute().then(|| spelt.to_owned());
    }
    let (parent, name) = spelt.parent().zip(spelt.file_name())?;
    if parent.as_os_str().is_empty() && exports::sees_the_host(host, pid) {
        return Some(host.read_link(&proc(pid, "cwd")).ok()?.join(name));
    }
    let folder = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let is_there = exports::sees_the_host(host, pid)
        || host
            .open_folder(&root)
            .is_ok_and(|root| !folder.is_absolute() || Host::open_below(&root, folder).is_ok());
    if !is_there {
        return spelt.is_absolute().then(|| spelt.to_owned());
    }
    Some(exports::on_host(host, pid, folder)?.join(name))
}

/// The current directory that a process was started in, if its starter was a shell.
fn working_directory(host: &Host, pid: i32) -> Option<PathBuf> {
    let Ok(Content::Whole(text)) = host.read(&proc(pid, "environ"), true) else { return None };
    let value = text.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"PWD="))?;
    Some(path_of(value)).filter(|path| path.as_os_str().as_bytes().starts_with(b"/"))
}
