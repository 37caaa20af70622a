//! Folders → the files in them: sorted, each once, and without end in no case.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::host::{Host, Kind, Listing, MOST_ENTRIES, why};
use super::places::is_left_out;

/// How many links wait at once.
const MOST_LINKS: usize = 16 << 10;

/// How many of the files and folders are known that links led to.
const MOST_TARGETS: usize = 20_000;

/// What the walk meets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// A regular file. `listed`: a folder's listing says so, the file itself wasn't asked.
    File {
        /// Where.
        path: PathBuf,
        /// Whether a listing said that it is a regular file.
        listed: bool,
        /// Whether the admin named this very file.
        named: bool,
    },
    /// Something that no configuration is: a FIFO, a device, another view of what is looked at anyway.
    Skipped(PathBuf),
    /// A folder of images, caches or objects, which the walk of a whole machine leaves out.
    LeftOut(PathBuf),
    /// Something that can't be looked at.
    Unread(PathBuf, String),
}

/// Walks down from each of `roots`, in order. `named`: the admin named them, so that one which is missing is told, and
/// nothing below them is left out.
pub(super) fn walk(host: &Host, roots: &[PathBuf], named: bool, met: &mut dyn FnMut(Met)) {
    let mut walk = Walk {
        host,
        open: Vec::new(),
        trees: BTreeSet::new(),
        files: BTreeSet::new(),
        links: Vec::new(),
        all: named,
        met,
    };
    for root in roots {
        match host.kind(root, true) {
            Ok(Kind::File) => (walk.met)(Met::File { path: root.clone(), listed: false, named }),
            Ok(Kind::Folder) => {
                let canonical = host.canonical(root).unwrap_or_else(|_| root.clone());
                if !walk.covers(&canonical) {
                    walk.trees.insert(canonical);
                    walk.folder(root.clone());
                }
            }
            Ok(_) if named => {
                let reason = "not a regular file: a FIFO, socket or device is not opened";
                (walk.met)(Met::Unread(root.clone(), reason.to_owned()));
            }
            Ok(_) => (walk.met)(Met::Skipped(root.clone())),
            Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => (walk.met)(Met::Unread(root.clone(), why(&error))),
        }
        walk.run();
    }
}

/// A folder on the way down.
struct Open {
    path: PathBuf,
    /// What is still to be read of it.
    listing: Option<Listing>,
    /// Folders in it that were met: the next one is the last.
    folders: Vec<OsString>,
}

struct Walk<'a> {
    host: &'a Host,
    /// The folders around the one that is looked at, and those that links led to.
    open: Vec<Open>,
    /// The folders whose every file is met, by their real paths.
    trees: BTreeSet<PathBuf>,
    /// Files that links led to.
    files: BTreeSet<PathBuf>,
    /// Links met on the way. What they lead to is looked at last, unless it was met anyway.
    links: Vec<PathBuf>,
    /// Whether nothing is left out.
    all: bool,
    met: &'a mut dyn FnMut(Met),
}

impl Walk<'_> {
    fn covers(&self, path: &Path) -> bool {
        path.ancestors().any(|folder| self.trees.contains(folder))
    }

    /// Whether something below `path` is walked.
    fn is_around(&self, path: &Path) -> bool {
        // Paths are ordered by their components: what is below a folder comes right behind it.
        self.trees.range(path.to_owned()..).next().is_some_and(|tree| tree.starts_with(path))
    }

    /// Meets everything in the folders that are open, and then what links lead to. No stack grows with the depth.
    fn run(&mut self) {
        loop {
            // Links in great numbers do not wait.
            let link = if self.links.len() > MOST_LINKS { self.links.pop() } else { None };
            if let Some(link) = link {
                self.follow(link);
            } else if !self.step() {
                match self.links.pop() {
                    Some(link) => self.follow(link),
                    None => return,
                }
            }
        }
    }

    /// Goes on where the walk is. `false`: no folder is open any more.
    fn step(&mut self) -> bool {
        let Some(open) = self.open.last_mut() else { return false };
        // A folder of very many folders stays open while these are walked.
        if let Some(listing) = open.listing.as_mut().filter(|_| open.folders.len() < MOST_ENTRIES) {
            match listing.next() {
                Ok(names) => {
                    if listing.is_at_end() {
                        open.listing = None;
                    }
                    self.entries(names);
                }
                Err(error) => {
                    open.listing = None;
                    let path = open.path.clone();
                    (self.met)(Met::Unread(path, why(&error)));
                }
            }
            return true;
        }
        match open.folders.pop() {
            Some(name) => {
                let folder = open.path.join(name);
                self.folder(folder);
            }
            None => drop(self.open.pop()),
        }
        true
    }

    /// Opens a folder.
    fn folder(&mut self, path: PathBuf) {
        if !self.all && is_left_out(&path) {
            return (self.met)(Met::LeftOut(path));
        }
        match self.host.listing(&path) {
            Ok(None) => {}
            Ok(listing) => self.open.push(Open { path, listing, folders: Vec::new() }),
            Err(error) => (self.met)(Met::Unread(path, why(&error))),
        }
    }

    /// Meets entries of the folder that was opened last.
    fn entries(&mut self, names: Vec<(OsString, Option<Kind>)>) {
        let Some(open) = self.open.last_mut() else { return };
        let mut folders = Vec::new();
        for (name, kind) in names {
            let path = open.path.join(&name);
            let kind = match kind {
                Some(kind) => Ok(kind),
                None => self.host.kind(&path, false),
            };
            match kind {
                Ok(Kind::File) => (self.met)(Met::File { path, listed: true, named: false }),
                Ok(Kind::Folder) => folders.push(name),
                Ok(Kind::Link) => self.links.push(path),
                Ok(Kind::Special) => (self.met)(Met::Skipped(path)),
                Err(error) => (self.met)(Met::Unread(path, why(&error))),
            }
        }
        folders.reverse();
        // Those that wait come first.
        folders.append(&mut open.folders);
        open.folders = folders;
    }

    /// Looks at what a link leads to.
    fn follow(&mut self, link: PathBuf) {
        let target = self.host.canonical(&link).and_then(|target| Ok((self.host.kind(&link, true)?, target)));
        match target {
            Ok((_, target)) if self.covers(&target) => (self.met)(Met::Skipped(link)),
            Ok((Kind::File, target)) => {
                if self.files.contains(&target) {
                    return (self.met)(Met::Skipped(link));
                }
                // A file that links lead to in greater numbers may be read more than once.
                if self.files.len() < MOST_TARGETS {
                    self.files.insert(target);
                }
                (self.met)(Met::File { path: link, listed: false, named: false });
            }
            Ok((Kind::Folder, target)) if !self.all && is_left_out(&target) => {
                (self.met)(Met::LeftOut(target));
            }
            // A link to a folder around this one would show all of the machine.
            Ok((Kind::Folder, target)) if self.is_around(&target) => (self.met)(Met::Skipped(link)),
            Ok((Kind::Folder, _)) if self.trees.len() > MOST_TARGETS => {
                let reason =
                    format!("more than {MOST_TARGETS} folders are reached by links: name it to read it");
                (self.met)(Met::Unread(link, reason));
            }
            Ok((Kind::Folder, target)) => {
                self.trees.insert(target);
                self.folder(link);
            }
            Ok((Kind::Link | Kind::Special, _)) => (self.met)(Met::Skipped(link)),
            // A link that leads nowhere, or in a circle, holds nothing.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(nix::libc::ELOOP) =>
            {
                (self.met)(Met::Skipped(link));
            }
            Err(error) => (self.met)(Met::Unread(link, why(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn names(roots: &[PathBuf], root: &Path) -> Vec<String> {
        let host = Host::new(None).unwrap();
        let mut names = Vec::new();
        walk(&host, roots, true, &mut |met| {
            let (mark, path) = match met {
                Met::File { path, .. } => ("", path),
                Met::Skipped(path) | Met::LeftOut(path) => ("-", path),
                Met::Unread(path, _) => ("!", path),
            };
            names.push(format!("{mark}{}", path.strip_prefix(root).unwrap_or(&path).display()));
        });
        names
    }

    #[test]
    fn each_file_once_and_no_loop() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        fs::write(outside.path().join("far"), "").unwrap();
        symlink("..", root.join("a/b/up")).unwrap();
        symlink("self", root.join("self")).unwrap();
        symlink("a/b/file", root.join("alias")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        symlink("/", root.join("all")).unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        symlink(outside.path(), root.join("again")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let mut met = names(std::slice::from_ref(&root), &root);
        met.sort();
        let out = "out/far";
        assert_eq!(
            met,
            ["-a/b/up", "-again", "-alias", "-all", "-dangling", "-fifo", "-self", "a/b/file", out]
        );
        assert_eq!(names(&[root.join("fifo")], &root), ["!fifo"]);
        assert_eq!(names(&[root.join("gone")], &root), ["!gone"]);
    }
}
