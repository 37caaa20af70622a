//! Folders → the files in them: sorted, each once, and without end in no case.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::host::{Host, Kind, why};
use super::places::is_left_out;

/// What the walk meets.
#[derive(Debug, PartialEq, Eq)]
pub enum Met {
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
pub fn walk(host: &Host, roots: &[PathBuf], named: bool, met: &mut dyn FnMut(Met)) {
    let files = HashSet::new();
    let mut walk = Walk { host, trees: Vec::new(), files, links: Vec::new(), all: named, met };
    for root in roots {
        match host.kind(root, true) {
            Ok(Kind::File) => (walk.met)(Met::File { path: root.clone(), listed: false, named }),
            Ok(Kind::Folder) => {
                let canonical = host.canonical(root).unwrap_or_else(|_| root.clone());
                if !walk.covers(&canonical) {
                    walk.trees.push(canonical);
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
        walk.follow_links();
    }
}

struct Walk<'a> {
    host: &'a Host,
    /// The folders whose every file is met, by their real paths.
    trees: Vec<PathBuf>,
    /// Files that links led to.
    files: HashSet<PathBuf>,
    /// Links met on the way. What they lead to is looked at last, unless it was met anyway.
    links: Vec<PathBuf>,
    /// Whether nothing is left out.
    all: bool,
    met: &'a mut dyn FnMut(Met),
}

impl Walk<'_> {
    fn covers(&self, path: &Path) -> bool {
        self.trees.iter().any(|tree| path.starts_with(tree))
    }

    /// One folder after the other: depth is bounded by nothing, and no stack grows with it.
    fn folder(&mut self, root: PathBuf) {
        let mut waiting = vec![root];
        while let Some(folder) = waiting.pop() {
            if !self.all && is_left_out(&folder) {
                (self.met)(Met::LeftOut(folder));
                continue;
            }
            let entries = match self.host.list(&folder) {
                Ok(Some(entries)) => entries,
                Ok(None) => continue,
                Err(error) => {
                    (self.met)(Met::Unread(folder, why(&error)));
                    continue;
                }
            };
            let mut folders = Vec::new();
            for (path, kind) in entries {
                let kind = match kind {
                    Some(kind) => Ok(kind),
                    None => self.host.kind(&path, false),
                };
                match kind {
                    Ok(Kind::File) => (self.met)(Met::File { path, listed: true, named: false }),
                    Ok(Kind::Folder) => folders.push(path),
                    Ok(Kind::Link) => self.links.push(path),
                    Ok(Kind::Special) => (self.met)(Met::Skipped(path)),
                    Err(error) => (self.met)(Met::Unread(path, why(&error))),
                }
            }
            waiting.extend(folders.into_iter().rev());
        }
    }

    fn follow_links(&mut self) {
        while let Some(link) = self.links.pop() {
            let target =
                self.host.canonical(&link).and_then(|target| Ok((self.host.kind(&link, true)?, target)));
            match target {
                Ok((_, target)) if self.covers(&target) => (self.met)(Met::Skipped(link)),
                Ok((Kind::File, target)) => {
                    if self.files.insert(target) {
                        (self.met)(Met::File { path: link, listed: false, named: false });
                    } else {
                        (self.met)(Met::Skipped(link));
                    }
                }
                Ok((Kind::Folder, target)) if !self.all && is_left_out(&target) => {
                    (self.met)(Met::LeftOut(target));
                }
                // A link to a folder around this one would show all of the machine.
                Ok((Kind::Folder, target)) if self.trees.iter().any(|tree| tree.starts_with(&target)) => {
                    (self.met)(Met::Skipped(link));
                }
                Ok((Kind::Folder, target)) => {
                    self.trees.push(target);
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
