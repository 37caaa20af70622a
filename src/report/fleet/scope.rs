//! What an audit covered: only a share that it would have found is gone when it is not there.

use std::path::Path;

/// What one audit looked at. Paths are as in its document.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// The files and folders, with everything below them. Empty in an audit of a version that did not list them.
    pub looked_in: Vec<String>,
    /// The files elsewhere.
    pub followed: Vec<String>,
    /// The folders in there and around them that were left out.
    pub left_out: Vec<String>,
    /// What could not be read; `None` is standard input.
    pub unread: Vec<Option<String>>,
    /// Files and processes that were read; `None` in an audit that did not count them.
    pub looked_at: Option<u64>,
    /// The processes; `None` in an audit that did not count them.
    pub processes: Option<u64>,
    /// It could not see all processes.
    pub unprivileged: bool,
}

impl Scope {
    /// Whether the audit looked where a share was, and could read it: in `file`, or in a running process.
    pub(super) fn covers(&self, file: Option<&str>, running: bool) -> bool {
        if running {
            let is_process = |file: &Option<String>| file.as_deref().is_some_and(|file| below(file, "/proc"));
            return self.processes != Some(0) && !self.unprivileged && !self.unread.iter().any(is_process);
        }
        let Some(file) = file else {
            return (self.looked_in.is_empty() || self.looked_in.iter().any(|place| place == "-"))
                && !self.unread.contains(&None);
        };
        let unread = self.unread.iter().flatten().any(|unread| below(file, unread));
        let looked_in = if self.looked_in.is_empty() {
            Some(0)
        } else {
            nearest(file, &self.looked_in).max(nearest(file, &self.followed))
        };
        // In a folder that was left out, another one may have been looked in.
        looked_in.is_some() && looked_in > nearest(file, &self.left_out) && !unread
    }
}

/// How many parts the path of the innermost of `folders` has that `path` is in.
fn nearest(path: &str, folders: &[String]) -> Option<usize> {
    let around = folders.iter().filter(|folder| below(path, folder));
    around.map(|folder| Path::new(folder).components().count()).max()
}

/// Whether a path is another one, or in a folder there.
fn below(path: &str, folder: &str) -> bool {
    Path::new(path).starts_with(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_place_that_was_read_is_covered() {
        let list = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>();
        let scope = Scope {
            looked_in: list(&["/etc", "/srv/", "/usr/share/applications"]),
            followed: list(&["/opt/a.sh", "/tmp/a.sh"]),
            left_out: list(&["/srv/images", "/usr/share", "/tmp"]),
            unread: vec![Some("/etc/secret".to_owned()), Some("/srv/b.sh".to_owned())],
            ..Scope::default()
        };
        let everything = Scope::default();
        for (file, covered) in [
            ("/etc/libvirt/a.xml", true),
            ("/etcetera/a.xml", false),
            ("/opt/a.sh", true),
            ("/opt/b.sh", false),
            ("/srv/images/a.xml", false),
            ("/usr/share/a.sh", false),
            ("/usr/share/applications/a.desktop", true),
            ("/tmp/a.sh", true),
            ("/tmp/b.sh", false),
            ("/srv/b.sh", false),
            ("/etc/secret/a.sh", false),
        ] {
            assert_eq!(scope.covers(Some(file), false), covered, "{file}");
            assert!(everything.covers(Some(file), false), "{file}");
        }
        assert!(!scope.covers(None, false), "standard input");
        for (scope, covered) in [
            (Scope::default(), true),
            (Scope { processes: Some(0), ..Scope::default() }, false),
            (Scope { processes: Some(9), ..Scope::default() }, true),
            (Scope { unprivileged: true, ..Scope::default() }, false),
            (Scope { unread: vec![Some("/proc/7".to_owned())], ..Scope::default() }, false),
        ] {
            assert_eq!(scope.covers(None, true), covered, "{scope:?}");
        }
    }
}
