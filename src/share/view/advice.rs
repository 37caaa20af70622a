//! What stands against an export → findings, and the line to add.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Addition, By, Effect, Layer, Looked, Trouble, View};
use crate::report::finding::{self, Finding, Kind};
use crate::share::rewrite::Edit;
use crate::share::{Place, Share};
use crate::text::{escape, escape_path, shell_word};

impl By {
    /// What it makes, for people.
    fn noun(self) -> &'static str {
        match self {
            Self::Unit => "this unit",
            Self::Daemon => "the unit of libvirt's daemon, whose mounts QEMU has,",
            Self::SystemdRun => "systemd-run",
            Self::Compose | Self::Quadlet | Self::Pod | Self::Engine => "QEMU's container",
            Self::Bwrap => "bwrap",
            Self::Nspawn => "systemd-nspawn",
            Self::Firejail => "firejail",
            Self::Chroot => "chroot",
            Self::Unshare => "unshare",
        }
    }

    /// The setting that shows the host's `source` at `target`.
    fn bind(self, source: &Path, target: &Path, readonly: bool) -> String {
        let same = source == target;
        let (from, to) = (self.word(source), self.word(target));
        let pair = if same && matches!(self, Self::Unit | Self::Daemon | Self::SystemdRun | Self::Nspawn) {
            from.clone()
        } else {
            format!("{from}:{to}")
        };
        let ro = if readonly { ":ro" } else { "" };
        match self {
            Self::Unit | Self::Daemon if readonly => format!("BindReadOnlyPaths={pair}"),
            Self::Unit | Self::Daemon => format!("BindPaths={pair}"),
            Self::SystemdRun if readonly => format!("-p BindReadOnlyPaths={pair}"),
            Self::SystemdRun => format!("-p BindPaths={pair}"),
            Self::Compose => format!("{pair}{ro}"),
            Self::Quadlet => format!("Volume={pair}{ro}"),
            Self::Engine => format!("-v {pair}{ro}"),
            Self::Pod => format!(
                "a volume with hostPath.path {from}, and a volumeMounts entry of it with mountPath {to}"
            ),
            Self::Bwrap if readonly => format!("--ro-bind {from} {to}"),
            Self::Bwrap => format!("--bind {from} {to}"),
            Self::Nspawn if readonly => format!("--bind-ro={pair}"),
            Self::Nspawn => format!("--bind={pair}"),
            Self::Firejail => format!("--whitelist={from}"),
            Self::Chroot | Self::Unshare => format!("`mount --bind` of {from} below the new root"),
        }
    }

    /// The setting that makes `path` writable; `None`: there is none, and one more mount does it.
    /// `rooted`: it is a path below a root of the unit's own.
    fn writable(self, path: &Path, rooted: bool) -> Option<String> {
        let path = self.word(path);
        let path = if rooted { format!("+{path}") } else { path };
        match self {
            Self::Unit | Self::Daemon => Some(format!("ReadWritePaths={path}")),
            Self::SystemdRun => Some(format!("-p ReadWritePaths={path}")),
            Self::Firejail => Some(format!("--read-write={path}")),
            _ => None,
        }
    }

    /// A path as a setting of it spells it.
    fn word(self, path: &Path) -> String {
        let bytes = path.as_os_str().as_bytes();
        if is_plain(path) {
            return escape(bytes).into_owned();
        }
        match self {
            Self::Unit | Self::Daemon => {
                let text = escape(bytes).replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
                format!("\"{text}\"")
            }
            Self::Compose | Self::Quadlet | Self::Pod => escape(bytes).into_owned(),
            _ => escape(&shell_word(bytes)).into_owned(),
        }
    }
}

/// Whether a path is spelt alike everywhere.
fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+".contains(byte))
}

impl View {
    /// What the surroundings of `share` mean for its `export`.
    pub fn look(&self, share: &Share, export: &Path, readonly: bool) -> Looked {
        let seen = self.see(export, readonly);
        let mut looked = Looked {
            inside: Some(seen.inside.clone()).filter(|inside| inside != export),
            ..Looked::default()
        };
        let asked = Asked { share, export, inside: &seen.inside, readonly };
        for trouble in &seen.troubles {
            self.advise(trouble, &asked, &mut looked);
        }
        let remarks = self.remarks.iter().map(super::Remark::finding);
        looked.findings.extend(remarks);
        let is_seen = seen.troubles.iter().all(|trouble| *trouble != Trouble::Absent);
        let about = |path: &Path| seen.inside.starts_with(path) || path.starts_with(&seen.inside);
        let at = self.remarks_at.iter().filter(|(path, _)| is_seen && about(path));
        looked.findings.extend(at.map(|(_, remark)| remark.finding()));
        looked
    }

    fn advise(&self, trouble: &Trouble, asked: &Asked, looked: &mut Looked) {
        let (export, noun) = (escape_path(asked.export), self.by.noun());
        let part = |layer: &Layer| escape_path(&layer.target).into_owned();
        let bind = self.by.bind(asked.export, asked.inside, asked.readonly);
        let (kind, place, message, line): (&'static Kind, &Place, String, Fix) = match trouble {
            Trouble::Hidden(layer) => {
                let fix = match layer.effect {
                    Effect::Hidden => Fix::ByHand(self.unhide(layer, asked)),
                    _ => Fix::Line(bind),
                };
                (
                    &finding::EXPORT_HIDDEN,
                    &layer.place,
                    format!("{} hides {export} from QEMU", layer.said),
                    fix,
                )
            }
            Trouble::Absent => {
                let unknown = self.layers.iter().find(|layer| matches!(layer.effect, Effect::Bind(None, _)));
                match unknown.map(|layer| &layer.said).or(self.unknown.as_ref()) {
                    Some(said) => (
                        &finding::QEMU_CONFINED,
                        &self.place,
                        format!(
                            "whether {noun} shows QEMU {export} is not known here: it may come by {said}"
                        ),
                        Fix::ByHand(format!(
                            "see at which path QEMU has {export}, and write that path; only where it has none, add {bind}"
                        )),
                    ),
                    None => (
                        &finding::EXPORT_HIDDEN,
                        &self.place,
                        format!(
                            "{noun} shows QEMU no directory that is {export}, so that QEMU can't open it"
                        ),
                        Fix::Line(bind),
                    ),
                }
            }
            Trouble::ReadOnly(layer) => {
                let own = layer.target == asked.inside;
                let fix = match self.by.writable(asked.inside, !self.host) {
                    _ if own => Fix::ByHand(self.unlock(layer, asked)),
                    Some(line) => Fix::Line(line),
                    None => Fix::Line(bind),
                };
                let message =
                    format!("{} makes {export} read-only for QEMU, and the share is writable", layer.said);
                (&finding::EXPORT_LOCKED, &layer.place, message, fix)
            }
            Trouble::PartHidden(layer) => {
                let message =
                    format!("{} hides {}, which is part of the export, from QEMU", layer.said, part(layer));
                let fix =
                    Fix::ByHand(format!("take {} out of that setting if the guest needs it", part(layer)));
                (&finding::EXPORT_HIDDEN, &layer.place, message, fix)
            }
            Trouble::PartReadOnly(layer) => {
                let message = format!(
                    "{} makes {}, which is part of the export, read-only for QEMU",
                    layer.said,
                    part(layer)
                );
                let fix = Fix::ByHand(format!(
                    "take {} out of that setting if the guest writes there",
                    part(layer)
                ));
                (&finding::EXPORT_LOCKED, &layer.place, message, fix)
            }
        };
        let remedy = match line {
            Fix::ByHand(remedy) => remedy,
            Fix::Line(line) => {
                let addition = self.addition(&line, asked);
                let where_to = match self.by {
                    By::Compose => " to its volumes",
                    By::Daemon => " by `systemctl edit`, and restart libvirt's daemon",
                    _ => "",
                };
                looked.additions.extend(addition);
                format!("add {line}{where_to}")
            }
        };
        let message = format!("the share {}: {message}", asked.share.title());
        let (place, remedy) = (place.clone(), Some(remedy));
        looked.findings.push(Finding { kind, place, message, remedy, subject: None });
    }

    /// How to let QEMU see what no further mount can show.
    fn unhide(&self, layer: &Layer, asked: &Asked) -> String {
        if layer.said.starts_with("ProtectHome=") {
            return format!(
                "write ProtectHome=tmpfs in its place, and add {}",
                self.by.bind(asked.export, asked.inside, asked.readonly)
            );
        }
        match self.by {
            By::Unit | By::Daemon | By::SystemdRun => {
                format!("take {} out of InaccessiblePaths=", escape_path(&layer.target))
            }
            _ => format!("take {} out of that setting", escape_path(&layer.target)),
        }
    }

    /// How to make writable what a setting about this very path makes read-only.
    fn unlock(&self, layer: &Layer, asked: &Asked) -> String {
        let target = escape_path(&layer.target);
        if layer.said.starts_with("ProtectHome=") {
            return "write ProtectHome=no in its place".to_owned();
        }
        match (&layer.effect, self.by) {
            (Effect::Access(_), By::Unit | By::Daemon | By::SystemdRun) => {
                format!(
                    "take {target} out of that setting, and add {}",
                    self.by.writable(asked.inside, !self.host).unwrap_or_default()
                )
            }
            (Effect::Bind(..), _) => {
                format!("write {} in its place", self.by.bind(asked.export, asked.inside, false))
            }
            _ => format!("take {target} out of that setting"),
        }
    }

    fn addition(&self, line: &str, asked: &Asked) -> Option<Addition> {
        let gap = self.gap.as_ref()?;
        if !is_plain(asked.export) || !is_plain(asked.inside) {
            return None;
        }
        let with = [gap.before.as_slice(), line.as_bytes(), gap.after.as_slice()].concat();
        Some(Addition { edit: Edit { span: gap.at..gap.at, with }, what: format!("adds {line}") })
    }
}

/// What to do.
enum Fix {
    /// Add this.
    Line(String),
    /// This, which no added line does.
    ByHand(String),
}

/// What is asked of a view.
struct Asked<'a> {
    share: &'a Share,
    export: &'a Path,
    inside: &'a Path,
    readonly: bool,
}
