//! Whether an export is a directory that this machine itself lives from: a conversion would take it from every program
//! and account of the host.
//!
//! Directories are compared by where they lie, not by their names: a bind mount, a symbolic link and a Btrfs file system's
//! top show the same files under other paths.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use crate::data::mounts::{Location, Mounts};
use crate::text;

/// Directories that are the system's with all that is in them: hier(7), and where other distributions keep programs.
const WHOLE: [&str; 19] = [
    "/bin", "/boot", "/dev", "/efi", "/etc", "/gnu", "/lib", "/lib32", "/lib64", "/libx32", "/nix",
    "/ostree", "/proc", "/run", "/sbin", "/snap", "/sys", "/sysroot", "/usr",
];

/// Directories in these that hold what users put there.
const USERS: [&str; 3] = ["/dev/shm", "/run/media", "/run/user"];

/// Directories that are the system's, of which a directory inside may be an export.
const SHARED: [&str; 21] = [
    "/",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/srv",
    "/tmp",
    "/var",
    "/var/backups",
    "/var/cache",
    "/var/lib",
    "/var/local",
    "/var/lock",
    "/var/log",
    "/var/mail",
    "/var/opt",
    "/var/run",
    "/var/spool",
    "/var/tmp",
    "/var/www",
];

/// Databases of packages and of the system's services, with all that is in them.
const STATE: [&str; 8] = [
    "/var/lib/apt",
    "/var/lib/dbus",
    "/var/lib/dpkg",
    "/var/lib/flatpak",
    "/var/lib/pacman",
    "/var/lib/rpm",
    "/var/lib/snapd",
    "/var/lib/systemd",
];

/// Why the directory at `export` (free of symbolic links) is the system's or an account's, one sentence without a full stop
/// each; nothing where it is not.
pub(crate) fn reasons(export: &Path) -> Vec<String> {
    let Ok(mounts) = Mounts::own() else { return Vec::new() };
    let Some(export) = Directory::at(export, &mounts) else { return Vec::new() };
    let mut reasons = Vec::new();
    let users = USERS.iter().filter_map(|path| Directory::at(Path::new(path), &mounts));
    let is_users = users.into_iter().any(|users| users.holds(&export) && !export.holds(&users));
    let whole =
        WHOLE.iter().chain(&STATE).filter_map(|path| Some((*path, Directory::at(Path::new(path), &mounts)?)));
    for (path, directory) in whole {
        if directory.holds(&export) && !export.holds(&directory) && !is_users {
            reasons.push(format!("it is inside {path}, which the running system uses"));
            break;
        }
    }
    for paths in [system(), programs(), homes(&export.path)] {
        reasons.extend(export.holding(&mounts, paths));
    }
    reasons.extend(package(&export.path));
    reasons
}

/// Whether a directory of another host (free of symbolic links) is the system's, or holds one that is, as its name says.
pub(crate) fn is_by_name(export: &Path) -> bool {
    let is_below = |paths: &[&str]| paths.iter().any(|path| export.starts_with(path));
    let mut system = WHOLE.iter().chain(&STATE).chain(&SHARED);
    is_below(&WHOLE) && !USERS.iter().any(|path| export.starts_with(path) && export != Path::new(path))
        || is_below(&STATE)
        || system.any(|path| Path::new(path).starts_with(export))
}

/// A directory (or file), and where it lies.
struct Directory {
    path: PathBuf,
    location: Option<Location>,
    number: (u64, u64),
}

impl Directory {
    fn at(path: &Path, mounts: &Mounts) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let metadata = path.metadata().ok()?;
        let location = mounts.showing(&path).and_then(|mount| mount.locate(&path));
        Some(Self { path, location, number: (metadata.dev(), metadata.ino()) })
    }

    /// Whether `other` is this directory or inside it.
    fn holds(&self, other: &Self) -> bool {
        let by_location = || Some(self.location.as_ref()?.way_to(other.location.as_ref()?).is_some());
        other.path.starts_with(&self.path) || self.number == other.number || by_location().unwrap_or(false)
    }

    /// The first of these paths that is this directory; else the first that is in it. With what it is.
    fn holding(&self, mounts: &Mounts, paths: Vec<(PathBuf, String)>) -> Option<String> {
        let held: Vec<_> = paths
            .into_iter()
            .filter_map(|(path, what)| {
                Some((Self::at(&path, mounts).filter(|other| self.holds(other))?, path, what))
            })
            .collect();
        let said = |verb: &str, (_, path, what): &(Self, PathBuf, String)| {
            format!("it {verb} {what} ({})", text::escape_path(path))
        };
        let is_it = held.iter().find(|(other, ..)| other.holds(self));
        is_it.map(|it| said("is", it)).or_else(|| held.first().map(|it| said("holds", it)))
    }
}

/// The directories of the system; the innermost first.
fn system() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<_> = WHOLE.iter().chain(&STATE).chain(&SHARED).map(PathBuf::from).collect();
    paths.sort_by_key(|path| path.components().count());
    paths.into_iter().map(|path| (path, "a directory of the system".into())).collect()
}

/// This program, its folder, and the first process's program.
fn programs() -> Vec<(PathBuf, String)> {
    let own = std::env::current_exe().ok();
    let first = fs::read_link("/proc/1/exe").ok();
    [(own, "this program"), (first, "the program of process 1")]
        .into_iter()
        .filter_map(|(path, what)| Some((path?, what.into())))
        .collect()
}

/// The homes of all accounts of this machine, and of the owner of the export, whom only a directory service may know.
fn homes(export: &Path) -> Vec<(PathBuf, String)> {
    let mut homes: BTreeMap<PathBuf, String> = fs::read_to_string("/etc/passwd")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((PathBuf::from(fields.nth(4)?), name.to_owned()))
        })
        .collect();
    let owner = export.metadata().ok().and_then(|of| User::from_uid(Uid::from_raw(of.uid())).ok()?);
    homes.extend(owner.map(|user| (user.dir, user.name)));
    homes
        .into_iter()
        // An account without a home of its own names the root directory or one that is not there.
        .filter(|(home, _)| home.is_absolute() && home != Path::new("/"))
        .map(|(home, name)| (home, format!("the home of the account {}", text::escape(name.as_bytes()))))
        .collect()
}

/// The Debian package that the directory belongs to.
fn package(export: &Path) -> Option<String> {
    let wanted = export.to_str()?;
    let lists = fs::read_dir("/var/lib/dpkg/info").ok()?;
    let names_it = |list: &Path| {
        let lines = fs::File::open(list).map(|file| BufReader::new(file).lines());
        lines.is_ok_and(|lines| lines.map_while(Result::ok).any(|line| line == wanted))
    };
    let mut lists: Vec<_> = lists.filter_map(|entry| Some(entry.ok()?.path())).collect();
    lists.retain(|list| list.extension().is_some_and(|extension| extension == "list"));
    let list = lists.iter().find(|list| names_it(list))?;
    let name = list.file_stem()?.to_string_lossy().into_owned();
    Some(format!("it belongs to the package {}", text::escape(name.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_directories_are_known_by_any_name_and_others_are_not() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink("/usr", &link).unwrap();
        let of = |path: &Path| reasons(&path.canonicalize().unwrap());
        assert_eq!(of(scratch.path()), Vec::<String>::new());
        for path in ["/", "/etc", "/usr/bin", "/var", "/var/lib", "/root", "/tmp", link.to_str().unwrap()] {
            assert!(!of(Path::new(path)).is_empty(), "{path}");
        }
        let folder = std::env::current_exe().unwrap();
        assert!(
            of(folder.parent().unwrap())[0].contains("this program"),
            "{:?}",
            of(folder.parent().unwrap())
        );
    }
}
