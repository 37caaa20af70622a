//! What a rewrite is: the admin's wishes, the edits of a file, and why there are none.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use super::edit::Edit;
use super::local::{Multidevs, Options};
use super::target::Target;
use super::view::{Addition, View};
use super::{ExportPath, Note, Part, Share, Transport, virtiofs};
use crate::report::finding::{self, Finding};
use crate::text::{escape, escape_path};

/// More shares than any configuration has: what says more is not rewritten, for a rewrite compares them all.
pub(crate) const MAX_SHARES: usize = 1000;

/// What is asked of a look at a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Whether libvirt's own element is to say the shares.
    pub native: bool,
}

/// How to rewrite a configuration.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// `--export NAME=PATH`: what the share exports that has NAME as its tag, its id or its socket's path.
    pub exports: Vec<(Vec<u8>, PathBuf)>,
    /// `--readonly NAME` and `--writable NAME`: what the admin says of shares whose `readonly` is not known.
    pub readonly: Vec<(Vec<u8>, bool)>,
    /// Which directory the helper serves that listens on a socket.
    pub served: Vec<(PathBuf, PathBuf)>,
    /// What the shares move to.
    pub target: Target,
    /// What the `local` shares are to be like; [`Rewrite::local_for`] says it of one export.
    pub local: Options,
    /// What `multidevs` is to be for an export, where `local` does not say it: by what is below it on this machine.
    pub multidevs_of: Option<fn(&Path) -> Option<Multidevs>>,
    /// Leave every share but this one as it is.
    pub only: Option<Share>,
    /// Change libvirt's `<qemu:arg>` itself instead of saying the share in libvirt's own words.
    pub in_place_args: bool,
    /// What QEMU sees of the host's files, where what starts the whole document says it.
    pub view: Option<View>,
    /// What programs around that one show it, the outermost first.
    pub around: Vec<View>,
    /// Make no edit: say what surrounds the shares alone, whatever else stands against a rewrite.
    pub look: Option<Look>,
    /// Paths that QEMU sees, and what each is on the host.
    pub inside: Vec<(PathBuf, PathBuf)>,
}

/// What a rewrite does to one file.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_field_names, reason = "an edit is an element")]
pub struct Edits {
    /// The changes, apart from each other, in any order.
    pub edits: Vec<Edit>,
    /// The shares that they move.
    pub moved: Vec<Moved>,
    /// What the admin should know about them.
    pub findings: Vec<Finding>,
    /// Changes beside the shares, without which the new configuration does not start.
    pub additions: Vec<Addition>,
    /// The users that QEMU runs as, as its surroundings say.
    pub users: Vec<String>,
}

/// A share that is rewritten.
#[derive(Debug, Clone)]
pub struct Moved {
    /// As it was.
    pub share: Share,
    /// What it exports.
    pub export: PathBuf,
    /// The export's path for QEMU, where that is another than the host's.
    pub inside: Option<PathBuf>,
}

impl Moved {
    /// The path in QEMU's arguments.
    pub fn path(&self) -> &Path {
        self.inside.as_deref().unwrap_or(&self.export)
    }
}

impl Edits {
    /// Takes a share that moves, with what its surroundings mean for it.
    pub fn take(&mut self, share: Share, export: PathBuf, view: Option<&View>) -> PathBuf {
        let looked = view.map(|view| view.look(&share, &export, share.readonly)).unwrap_or_default();
        self.findings.extend(looked.findings);
        self.additions.extend(looked.additions);
        self.users.extend(view.and_then(|view| view.user.clone()));
        let moved = Moved { share, export, inside: looked.inside };
        let path = moved.path().to_owned();
        self.moved.push(moved);
        path
    }

    /// Takes what views around the one that QEMU has mean for a share: they must show its export to the program that makes that view.
    pub fn take_around<'a>(
        &mut self,
        share: &Share,
        export: &Path,
        around: impl IntoIterator<Item = &'a View>,
    ) {
        for view in around {
            let looked = view.look(share, export, share.readonly);
            self.findings.extend(looked.findings);
            self.additions.extend(looked.additions);
        }
    }

    /// Takes what the surroundings of a share mean for it, where its export is known.
    pub fn look(&mut self, share: &Share, how: &Rewrite) {
        let (Ok(share), Ok(export)) = (how.answered(share), how.export_of(share)) else { return };
        let view = how.view.as_ref();
        if how.target == Target::Local {
            self.take_around(&share, &export, &how.around);
            self.take(share, export, view);
            return;
        }
        // virtiofsd opens the export. QEMU needs its socket alone.
        let socket = virtiofs::socket(&share);
        let folder = socket.parent().unwrap_or(&socket);
        let looked = view.map(|view| view.look(&share, folder, true)).unwrap_or_default();
        self.findings.extend(looked.findings);
        self.moved.push(Moved { share, export, inside: None });
    }
}

/// Why a file is not rewritten. Nothing of it is, then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The line that it is about.
    pub line: Option<u64>,
    /// What is in the way, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Refusal {
    /// The refusal of a file with more than [`MAX_SHARES`].
    pub fn too_many(shares: usize) -> Option<Self> {
        (shares > MAX_SHARES).then(|| {
            let message =
                format!("it says {shares} proxy shares, and no more than {MAX_SHARES} are rewritten");
            Self::at(None, message, "split the file")
        })
    }

    /// A refusal about a line.
    pub fn at(line: Option<u64>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { line, message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.remedy)
    }
}

impl std::error::Error for Refusal {}

impl Rewrite {
    /// The same for what a program runs that shows it `own`.
    pub fn inside_of(&self, own: Option<View>) -> Self {
        let Some(own) = own else { return self.clone() };
        let around =
            if own.inherits { self.around.iter().chain(&self.view).cloned().collect() } else { Vec::new() };
        Self { view: Some(own), around, ..self.clone() }
    }

    /// Whether `share` is to be rewritten at all.
    pub fn wants(&self, share: &Share) -> bool {
        let same = |only: &Share| {
            (&only.fsdev, &only.mount_tag, &only.transport)
                == (&share.fsdev, &share.mount_tag, &share.transport)
        };
        self.only.as_ref().is_none_or(same)
    }

    /// What the `local` share of `export` is to be like.
    pub fn local_for(&self, export: &Path) -> Options {
        let own = self.inside.iter().find(|(inside, _)| inside == export);
        let host = own.map_or(export, |(_, host)| host.as_path());
        let multidevs = self.local.multidevs.or_else(|| self.multidevs_of?(host));
        Options { multidevs, ..self.local }
    }

    /// What the admin says of a share's `readonly`. A share that says `readonly=on` stays so.
    pub fn readonly_of(&self, share: &Share) -> Result<Option<bool>, Refusal> {
        let Some((_, readonly)) = self.readonly.iter().find(|(name, _)| share.is_called(name)) else {
            return Ok(None);
        };
        if share.readonly && !readonly {
            return Err(Refusal::at(
                share.place.line,
                format!("the share {} is read-only here, and --writable says otherwise", share.title()),
                "take readonly out of this file first if the guest is to write to it",
            ));
        }
        Ok(Some(*readonly))
    }

    /// `share` with what the admin says of its `readonly`.
    pub fn answered(&self, share: &Share) -> Result<Share, Refusal> {
        let mut answered = share.clone();
        if let Some(readonly) = self.readonly_of(share)? {
            answered.readonly = readonly;
            answered.notes.retain(|note| !matches!(note, Note::Unknown(Part::Readonly, _)));
        }
        Ok(answered)
    }

    /// What is lost with a socket of which not all is known, where the admin says nothing of it.
    pub fn doubt(&self, share: &Share) -> Option<Finding> {
        let text = share.unknown(Part::Socket).filter(|_| !share.readonly)?;
        let is_named = |(name, _): &(Vec<u8>, bool)| share.is_called(name);
        let served = matches!(share.export, ExportPath::Known { .. });
        if self.readonly.iter().any(is_named) || share.unknown(Part::Readonly).is_some() || served {
            return None;
        }
        let keep = share.option("--readonly", "").unwrap_or_default();
        Some(Finding {
            kind: &finding::UNKNOWN_SOCKET,
            place: share.place.clone(),
            message: format!(
                "the socket of the share {} is {}, which goes: if that can hold more than the socket's path, \
                 `,readonly=on` for example, the share would become writable",
                share.title(),
                escape(text)
            ),
            remedy: Some(format!("pass {keep} to make the share read-only")),
            subject: None,
        })
    }

    /// What `share` exports: what the admin says, else what its helper does.
    pub fn export_of(&self, share: &Share) -> Result<PathBuf, Refusal> {
        let given = self.exports.iter().find(|(name, _)| share.is_called(name));
        if let Some((name, path)) = given {
            if !path.is_absolute() {
                return Err(Refusal::at(
                    share.place.line,
                    format!("the export of {} is a relative path, {}", escape(name), escape_path(path)),
                    "give the path from the root",
                ));
            }
            return Ok(path.clone());
        }
        if let ExportPath::Known { path, .. } = &share.export {
            return Ok(path.clone());
        }
        if let Transport::Socket(socket) = &share.transport
            && let Some((_, path)) = self.served.iter().find(|(served, _)| served == socket)
        {
            return Ok(path.clone());
        }
        let remedy = match share.option("--export", "=PATH") {
            Some(option) => {
                format!("pass {option} (`migrate audit` finds it where the helper runs or has a unit)")
            }
            None => "change it by hand".to_owned(),
        };
        Err(Refusal::at(
            share.place.line,
            format!("nothing here says which directory the share {} exports", share.title()),
            remedy,
        ))
    }
}

/// `bytes` after `edits`, which must not overlap.
pub fn apply(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut ordered: Vec<_> = edits.iter().collect();
    ordered.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for edit in ordered {
        out.extend_from_slice(bytes.get(at..edit.span.start).unwrap_or_default());
        out.extend_from_slice(&edit.with);
        at = edit.span.end;
    }
    out.extend_from_slice(bytes.get(at..).unwrap_or_default());
    out
}
