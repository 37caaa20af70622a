//! What units, the clock's tables, init scripts, hooks and other scripts start: the paths that they name.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::host::{Host, Kind, has_extension};
use super::sift::PROGRAM;
use crate::sources::format::path_of;

/// How many paths are kept of all the files that were read together.
const MOST: usize = 50_000;

/// The longest path that is taken for one, in bytes.
const LONGEST: usize = 4096;

/// How many files of a folder are looked at that is named, and not theirs that start something.
const MOST_OF_A_FOLDER: usize = 1000;

/// Folders whose files start others, whatever they look like.
const STARTERS: &[&str] = &[
    "/etc",
    "/usr/lib/systemd",
    "/lib/systemd",
    "/run/systemd",
    "/usr/local/lib/systemd",
    "/usr/lib/udev",
    "/lib/udev",
    "/var/spool",
    "/var/cron",
    "/usr/share/applications",
    "/usr/share/xsessions",
];

/// Names of files that start others, wherever they are.
const NAMES: &[&str] = &["Makefile", "makefile", "GNUmakefile", "Procfile", "Vagrantfile", "justfile"];

/// Ends of such names.
const ENDS: &[&str] = &[
    ".service",
    ".timer",
    ".path",
    ".container",
    ".desktop",
    ".rules",
    ".mk",
    ".sh",
    "rc",
    "profile",
    "aliases",
];

/// Folders that hold too much, or nothing that people put there, to be listed because somebody names them.
const NO_FOLDERS: &[&str] = &[
    "/usr", "/lib", "/lib64", "/bin", "/sbin", "/dev", "/proc", "/sys", "/boot", "/tmp", "/var/tmp",
    "/var/log",
];

/// Folders in which no file is that somebody could start.
const NOWHERE: &[&str] = &["/dev", "/proc", "/sys"];

/// Paths that were named.
#[derive(Debug, Default)]
pub(super) struct Started(BTreeSet<PathBuf>);

impl Started {
    /// Takes the absolute paths that a file names, if it is one that starts others.
    pub(super) fn take(&mut self, path: &Path, text: &[u8]) {
        if !is_starter(path, text) {
            return;
        }
        let mut end = 0;
        for at in memchr::memchr_iter(b'/', text) {
            if at < end || at.checked_sub(1).and_then(|at| text.get(at)).is_some_and(|byte| is_of_path(*byte))
            {
                continue;
            }
            let rest = text.get(at..).unwrap_or_default();
            let length = rest.iter().take(LONGEST).take_while(|byte| is_of_path(**byte)).count();
            end = at + length;
            // A sentence's full stop is none of the path's.
            let word = rest.get(..length).unwrap_or_default();
            let word = word.strip_suffix(b".").or_else(|| word.strip_suffix(b":")).unwrap_or(word);
            if word.len() > 1 && !word.starts_with(b"//") {
                self.add(&path_of(word));
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes one path.
    pub(super) fn add(&mut self, path: &Path) {
        let path: PathBuf = path.components().collect();
        let is_plain = !path.iter().any(|part| part == "..") && path != Path::new("/");
        if self.0.len() < MOST && path.is_absolute() && is_plain && !is_below(&path, NOWHERE) {
            self.0.insert(path);
        }
    }

    /// Takes what another one has.
    pub(super) fn extend(&mut self, other: Self) {
        other.0.into_iter().for_each(|path| self.add(&path));
    }

    /// The regular files among the paths, and those in folders among them, that are neither in `covered` nor in `seen`,
    /// which they are put into.
    pub(super) fn files(
        self,
        host: &Host,
        covered: &[PathBuf],
        seen: &mut BTreeSet<PathBuf>,
    ) -> Vec<PathBuf> {
        let is_new = |path: &Path| !covered.iter().any(|root| path.starts_with(root));
        let mut files = Vec::new();
        for path in self.0.into_iter().filter(|path| is_new(path)) {
            match host.kind(&path, true) {
                Ok(Kind::File) => files.push(path),
                Ok(Kind::Folder) if !is_below(&path, NO_FOLDERS) => {
                    let entries = host.list(&path).ok().flatten().unwrap_or_default();
                    let listed = entries.into_iter().filter(|(_, kind)| *kind == Some(Kind::File));
                    files.extend(listed.map(|(path, _)| path).take(MOST_OF_A_FOLDER));
                }
                _ => {}
            }
        }
        files.retain(|file| !is_no_configuration(file));
        files.retain(|file| host.canonical(file).is_ok_and(|real| is_new(&real) && seen.insert(real)));
        files.retain(|file| !is_program(host, file));
        files
    }
}

/// Whether a file is a compiled program.
fn is_program(host: &Host, file: &Path) -> bool {
    let Ok(Some(opened)) = host.open(file) else { return false };
    let mut start = Vec::new();
    opened.take(PROGRAM.len() as u64).read_to_end(&mut start).is_ok() && start == PROGRAM
}

fn is_below(path: &Path, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Whether a file starts others: a script, a unit, a hook, a table of the clock's.
fn is_starter(path: &Path, text: &[u8]) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    text.starts_with(b"#!")
        || is_below(path, STARTERS)
        || NAMES.contains(&&*name)
        || ENDS.iter().any(|end| name.ends_with(end))
        || path.iter().any(|part| part == "autostart" || part == "cron" || part == "hooks")
}

fn is_of_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"/._-+@~".contains(&byte)
}

/// Whether a name says that the file is a program, a picture, a disk, documentation, a log: not worth opening.
pub(super) fn is_no_configuration(path: &Path) -> bool {
    has_extension(
        path,
        &[
            "md", "markdown", "rst", "adoc", "html", "htm", "log", "pdf", "tex", "texi", "po", "pot", "png",
            "jpg", "jpeg", "gif", "svg", "ico", "so", "o", "a", "ko", "pyc", "class", "jar", "qcow2", "img",
            "raw", "vmdk", "vdi", "iso", "gz", "xz", "bz2", "zst", "lz4", "zip", "tar", "tgz", "txz", "deb",
            "rpm", "mo", "db", "sqlite", "ttf", "woff", "woff2", "mp3", "mp4", "wav", "css", "patch", "diff",
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_from_what_starts_others() {
        for (path, text, expected) in [
            (
                "/etc/systemd/system/a.service",
                "ExecStart=/data/vm.sh -p /srv/x\n",
                vec!["/data/vm.sh", "/srv/x"],
            ),
            ("/etc/crontab", "@reboot root \"/data/a.sh\";/data/b.sh\n", vec!["/data/a.sh", "/data/b.sh"]),
            ("/home/joe/x", "#!/bin/sh\n. /data/lib.\n", vec!["/bin/sh", "/data/lib"]),
            ("/home/joe/notes", "see /data/x\n", vec![]),
            ("/etc/x", "http://host/y a/b >/dev/null\n", vec![]),
        ] {
            let mut started = Started::default();
            started.take(Path::new(path), text.as_bytes());
            let found: Vec<_> = started.0.iter().map(|path| path.to_str().unwrap()).collect();
            assert_eq!(found, expected, "{path}");
        }
    }
}
