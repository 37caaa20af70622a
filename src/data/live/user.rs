//! Who uses an export.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::text;

/// What a process is to an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A `virtfs-proxy-helper`, the C one or ours.
    Helper,
    /// QEMU.
    Qemu,
    /// Any other process.
    Other,
}

/// A process that has to do with an export. Paths are relative to the export; an empty one is the export itself.
#[derive(Debug)]
pub struct User {
    /// Its number.
    pub pid: i32,
    /// Its name, as the kernel has it: at most 15 bytes.
    pub name: Vec<u8>,
    /// Whom it runs as.
    pub uid: u32,
    /// What it is.
    pub role: Role,
    /// Whether its command line names the export.
    pub named: bool,
    /// Open files and directories.
    pub open: Held,
    /// Mapped files: programs and libraries that run, databases.
    pub mapped: Held,
    /// Sockets at which it listens.
    pub listens: Held,
    /// Its working directory, where that is in the export.
    pub cwd: Option<PathBuf>,
    /// Its root directory, where that is in the export.
    pub root: Option<PathBuf>,
}

/// Files that a process holds.
#[derive(Debug, Default)]
pub struct Held {
    /// How many.
    pub count: u64,
    /// Which, the first of them.
    pub first: Option<PathBuf>,
}

impl Held {
    pub(super) fn add(&mut self, path: PathBuf) {
        self.count += 1;
        self.first.get_or_insert(path);
    }
}

impl User {
    /// Whether the export's files must not change while this process runs.
    pub fn is_busy(&self) -> bool {
        let serves = self.role != Role::Other && self.named;
        let held = [&self.open, &self.mapped, &self.listens];
        serves || held.iter().any(|held| held.count > 0) || self.root.is_some()
    }

    pub(super) fn touches(&self) -> bool {
        self.is_busy() || self.cwd.is_some() || self.named
    }
}

impl fmt::Display for User {
    /// One sentence without its full stop: who, and how.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.role {
            Role::Helper => "the helper ",
            Role::Qemu => "QEMU ",
            Role::Other => "",
        };
        write!(out, "process {} ({what}{}, user {}) ", self.pid, text::escape(&self.name), self.uid)?;
        let mut ways = Vec::new();
        if let Some(root) = &self.root {
            ways.push(format!("has its root directory at {}", shown(root)));
        }
        let held = [(&self.open, "has"), (&self.mapped, "maps"), (&self.listens, "listens at")];
        for (held, verb) in held {
            let state = if verb == "has" { " open" } else { "" };
            match (&held.first, held.count) {
                (None, _) => {}
                (Some(first), 1) => ways.push(format!("{verb} {}{state}", shown(first))),
                (Some(first), count) => {
                    ways.push(format!("{verb} {} and {} more{state}", shown(first), count - 1));
                }
            }
        }
        if let Some(cwd) = &self.cwd {
            ways.push(format!("works in {}", shown(cwd)));
        }
        if self.named {
            ways.push("names the export on its command line".into());
        }
        out.write_str(&ways.join(", "))
    }
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        "the export itself".into()
    } else {
        format!("'{}'", text::escape_path(path))
    }
}

/// Another place that shows an export or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The mount point, as its own processes see it.
    pub point: PathBuf,
    /// Which directory of the export is there; empty for all of it.
    pub part: PathBuf,
    /// A process of the mount namespace, where that is not ours.
    pub namespace_of: Option<i32>,
}

/// What could not be seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// Processes whose files other users may not look at.
    pub denied: u64,
    /// Open files on the export's filesystem that could be in the export or not.
    pub unplaced: u64,
    /// Open files that are on their way between processes: sent, and not received yet.
    pub in_flight: u64,
    /// Relative directories that overlays are made of, which could be in the export or not.
    pub layers: u64,
    /// Mount namespaces without a process, kept by a mount.
    pub namespaces: u64,
    /// We run in a PID namespace of our own (a container) and don't see the host's processes.
    pub contained: bool,
    /// `/proc` is mounted so that it hides other users' processes.
    pub hidden: bool,
}

impl Unseen {
    /// Counts a process whose files we may not look at. The host's init may be hidden by a security module from root, too; it
    /// works in no export.
    pub(super) fn deny(&mut self, pid: i32) {
        if pid != 1 || self.contained || !nix::unistd::geteuid().is_root() {
            self.denied += 1;
        }
    }

    /// What was not seen, as one sentence without its full stop; `None` when everything was.
    pub fn sentence(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.denied > 0 {
            let s = if self.denied == 1 { "" } else { "es" };
            parts.push(format!("the files of {} process{s} of other users", self.denied));
        }
        if self.unplaced > 0 {
            parts.push(format!(
                "the place of {} open file{} reached through mounts of other processes",
                self.unplaced,
                if self.unplaced == 1 { "" } else { "s" }
            ));
        }
        for (count, one, many) in [
            (
                self.in_flight,
                "one open file that is on its way between processes",
                "open files that are on their way between processes",
            ),
            (
                self.layers,
                "where one relative directory of an overlay is",
                "where relative directories of overlays are",
            ),
            (
                self.namespaces,
                "the mounts of one mount namespace without processes",
                "the mounts of mount namespaces without processes",
            ),
        ] {
            match count {
                0 => {}
                1 => parts.push(one.into()),
                count => parts.push(format!("{many} ({count})")),
            }
        }
        if self.contained {
            parts.push("processes outside this PID namespace (are we in a container?)".into());
        }
        if self.hidden {
            parts.push("the processes that /proc hides (hidepid)".into());
        }
        (!parts.is_empty()).then(|| format!("could not see {}", parts.join(", nor ")))
    }
}
