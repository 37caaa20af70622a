//! What QEMU sees of the host's files: the mounts that a service manager, a container engine or another program makes around
//! it → where an export is for QEMU, and what hides it or makes it read-only.
//!
//! Over the proxy, QEMU needed a socket alone; over `local` it opens the directory itself.

mod advice;

use std::path::{Path, PathBuf};

use super::Place;
use super::edit::Edit;
use crate::report::finding::{self, Finding};

/// Who makes the mounts, which decides how one more is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A systemd unit.
    Unit,
    /// The unit of a daemon that starts QEMU: libvirt's.
    Daemon,
    /// `systemd-run -p`.
    SystemdRun,
    /// A service of a Compose file, or what is written like one.
    Compose,
    /// A quadlet.
    Quadlet,
    /// A Kubernetes pod.
    Pod,
    /// `podman run`, `docker run`.
    Engine,
    /// bubblewrap.
    Bwrap,
    /// `systemd-nspawn`.
    Nspawn,
    /// firejail.
    Firejail,
    /// `chroot`.
    Chroot,
    /// `unshare`, which changes users alone.
    Unshare,
}

/// What one setting does at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Shows a directory of the host; `None`: one that is not statically known.
    Bind(Option<PathBuf>, Access),
    /// Shows an empty directory.
    Empty,
    /// Nobody can look into it, or at anything below, whatever else is mounted there.
    Hidden,
    /// Changes how it can be used, not what it shows.
    Access(Access),
}

/// Whether something can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    Writable,
    /// No.
    ReadOnly,
}

/// A setting at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The path as QEMU sees it.
    pub target: PathBuf,
    /// What is done to it.
    pub effect: Effect,
    /// Where the setting stands.
    pub place: Place,
    /// The setting, safe to print: `ProtectSystem=strict`.
    pub said: String,
}

/// Something else about the surroundings that the admin must see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Where the setting stands.
    pub place: Place,
    /// What it means.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Remark {
    /// As a finding.
    pub fn finding(&self) -> Finding {
        Finding {
            kind: &finding::QEMU_CONFINED,
            place: self.place.clone(),
            message: self.message.clone(),
            remedy: Some(self.remedy.clone()),
            subject: None,
        }
    }

    /// QEMU has no /proc. `said`: what takes it away; `remedy`: what brings it back.
    pub fn no_proc(place: Place, said: &str, remedy: &str) -> Self {
        let message = format!(
            "{said} leaves QEMU without /proc: for mapped shares it reads and sets attributes by /proc/self/fd, and every access fails"
        );
        Self { place, message, remedy: remedy.to_owned() }
    }
}

/// Where a line or an option can be added to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The offset.
    pub at: usize,
    /// What comes before the added text.
    pub before: Vec<u8>,
    /// What comes after it.
    pub after: Vec<u8>,
}

/// What QEMU sees of the host's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Who makes it.
    pub by: By,
    /// Whether everything of the host's is there that no layer covers.
    pub host: bool,
    /// Whether what it shows is taken from the mounts of the program that makes it: not of a daemon that is asked to.
    pub inherits: bool,
    /// The settings, in any order.
    pub layers: Vec<Layer>,
    /// What else there is to say.
    pub remarks: Vec<Remark>,
    /// Where the unit, the container or the command is described.
    pub place: Place,
    /// The user that QEMU runs as, where it is said.
    pub user: Option<String>,
    /// Where one more setting can stand.
    pub gap: Option<Gap>,
    /// What may show more of the host, and is not known here, safe to print: `--volumes-from data`.
    pub unknown: Option<String>,
    /// What there is to say about an export at or below a path of QEMU's, or above it.
    pub remarks_at: Vec<(PathBuf, Remark)>,
}

/// What stands against an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble<'a> {
    /// This layer covers it.
    Hidden(&'a Layer),
    /// No layer shows it.
    Absent,
    /// This layer makes it read-only.
    ReadOnly(&'a Layer),
    /// This layer covers a part of it.
    PartHidden(&'a Layer),
    /// This layer makes a part of it read-only.
    PartReadOnly(&'a Layer),
}

/// An export as QEMU sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Its path for QEMU.
    pub inside: PathBuf,
    /// What stands against it.
    pub troubles: Vec<Trouble<'a>>,
}

/// What a look at a share's surroundings gives.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    /// The export's path for QEMU, where that is another than the host's.
    pub inside: Option<PathBuf>,
    /// What the admin must know.
    pub findings: Vec<Finding>,
    /// The lines that make it work.
    pub additions: Vec<Addition>,
}

/// A change beside the share, for which the admin must ask by `--in-place`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// The change.
    pub edit: Edit,
    /// What it does, safe to print: "adds ReadWritePaths=/srv".
    pub what: String,
}

impl View {
    /// A view without any setting yet.
    pub fn new(by: By, host: bool, place: Place) -> Self {
        let inherits = matches!(by, By::Bwrap | By::Nspawn | By::Firejail | By::Chroot | By::Unshare);
        Self {
            by,
            host,
            inherits,
            layers: Vec::new(),
            remarks: Vec::new(),
            place,
            user: None,
            gap: None,
            unknown: None,
            remarks_at: Vec::new(),
        }
    }

    /// Where `export` is, and what stands against it.
    pub fn see(&self, export: &Path, readonly: bool) -> Seen<'_> {
        let own = self.host.then(|| export.to_owned());
        let bound = self.layers.iter().filter_map(|layer| match &layer.effect {
            Effect::Bind(Some(source), _) => Some(join(&layer.target, export.strip_prefix(source).ok()?)),
            _ => None,
        });
        let shown: Vec<PathBuf> =
            own.into_iter().chain(bound).filter(|path| self.shows(path).as_deref() == Some(export)).collect();
        let writable = |path: &&PathBuf| self.locked(path).is_none();
        let best = shown.iter().find(writable).or_else(|| shown.first());
        let Some(inside) = best else {
            let cover = self.content(export).filter(|_| self.host);
            let cover = cover.or_else(|| self.hidden(export));
            let trouble = cover.map_or(Trouble::Absent, Trouble::Hidden);
            return Seen { inside: export.to_owned(), troubles: vec![trouble] };
        };
        let mut troubles = Vec::new();
        troubles.extend(self.locked(inside).filter(|_| !readonly).map(Trouble::ReadOnly));
        let below =
            self.layers.iter().filter(|layer| layer.target != *inside && layer.target.starts_with(inside));
        for layer in below {
            match &layer.effect {
                Effect::Empty | Effect::Hidden => troubles.push(Trouble::PartHidden(layer)),
                Effect::Access(Access::ReadOnly)
                    if !readonly && self.locked(&layer.target) == Some(layer) =>
                {
                    troubles.push(Trouble::PartReadOnly(layer));
                }
                _ => {}
            }
        }
        Seen { inside: inside.clone(), troubles }
    }

    /// Whether the host's /proc is seen, or another file system is mounted there.
    pub fn has_proc(&self) -> bool {
        let proc = Path::new("/proc");
        self.shows(proc).is_some_and(|shown| shown == proc)
    }

    /// The layers at `path` and above.
    fn over(&self, path: &Path) -> impl Iterator<Item = &Layer> {
        let over: Vec<_> = self.layers.iter().filter(|layer| path.starts_with(&layer.target)).collect();
        over.into_iter()
    }

    fn hidden(&self, path: &Path) -> Option<&Layer> {
        self.over(path).find(|layer| layer.effect == Effect::Hidden)
    }

    /// The layer that decides what is at `path`.
    fn content(&self, path: &Path) -> Option<&Layer> {
        let is_content = |layer: &&Layer| !matches!(layer.effect, Effect::Access(_));
        self.hidden(path)
            .or_else(|| self.over(path).filter(is_content).max_by_key(|layer| depth(&layer.target)))
    }

    /// The host's path that is seen at `path`.
    fn shows(&self, path: &Path) -> Option<PathBuf> {
        match self.content(path) {
            None => self.host.then(|| path.to_owned()),
            Some(Layer { effect: Effect::Bind(Some(source), _), target, .. }) => {
                Some(join(source, path.strip_prefix(target).ok()?))
            }
            Some(_) => None,
        }
    }

    /// The layer that makes `path` read-only. The deepest decides; of several at one path, the read-only one.
    fn locked(&self, path: &Path) -> Option<&Layer> {
        let access = |layer: &Layer| match layer.effect {
            Effect::Bind(_, access) | Effect::Access(access) => Some(access),
            _ => None,
        };
        let settings = self.over(path).filter_map(|layer| Some((layer, access(layer)?)));
        let (layer, access) =
            settings.max_by_key(|(layer, access)| (depth(&layer.target), *access == Access::ReadOnly))?;
        (access == Access::ReadOnly).then_some(layer)
    }
}

fn depth(path: &Path) -> usize {
    path.components().count()
}

/// Joins without the slash that an empty path would add.
fn join(path: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { path.to_owned() } else { path.join(below) }
}

#[cfg(test)]
mod tests;
