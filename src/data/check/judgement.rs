//! From facts to findings: what the admin should know before a conversion, and what stands against it.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::document::owner_rows;
use super::earlier;
use super::entries::{Entries, entry_findings};
use super::facts::Facts;
use crate::data::filesystem::Attributes;
use crate::data::form::Model;
use crate::data::live::Live;
use crate::data::survey::{RECENT_DAYS, Survey};
use crate::report::check::{CostRow, OwnerRow, bytes};
use crate::report::finding::{self, Finding, Kind};
use crate::share::Place;
use crate::text;
use crate::text::counted;

/// Everything that stands against a conversion to `model` or should be known before it, by kind. `asked` says whether
/// the admin asked for this model.
pub(crate) fn findings(facts: &Facts, model: Model, asked: bool, cost: &CostRow) -> Vec<Finding> {
    let mut judge = Judge { facts, found: Vec::new() };
    judge.system();
    judge.users();
    judge.filesystem(model, asked, cost);
    judge.owners();
    judge.found.extend(entry_findings(&facts.export, &facts.survey, !facts.filesystem.read_only, model));
    judge.found.extend(earlier::around(&facts.export));
    judge.found.extend(earlier::inside(&facts.export, &facts.survey.journals));
    judge.blind_spots();
    judge.found
}

/// The findings about who uses an export.
pub(crate) fn live(export: &Path, live: &Live) -> Vec<Finding> {
    let users = live.users.iter().map(|user| {
        let kind = if user.is_busy() { &finding::LIVE_EXPORT } else { &finding::EXPORT_IN_USE };
        (kind, user.to_string())
    });
    let kernel = live.kernel.iter().map(|used| (&finding::LIVE_EXPORT, used.to_string()));
    let mounts = live.mounts.iter().map(|mount| (&finding::EXPORT_IN_USE, mount.to_string()));
    let place = Place { file: Some(export.to_path_buf()), ..Place::default() };
    users
        .chain(kernel)
        .chain(mounts)
        .map(|(kind, message)| Finding { kind, place: place.clone(), message, remedy: None, subject: None })
        .collect()
}

/// The finding about an export that is the system's or an account's, for these reasons.
pub(crate) fn system(export: &Path, reasons: &[String]) -> Option<Finding> {
    let place = Place { file: Some(export.to_path_buf()), ..Place::default() };
    let message = reasons.join("; ");
    (!reasons.is_empty()).then_some(Finding {
        kind: &finding::SYSTEM_DIRECTORY,
        place,
        message,
        remedy: None,
        subject: None,
    })
}

/// What helps where others than the guest use an export.
const NEIGHBOURS: &str = "after a conversion only QEMU's user can use these files: let a group in by --owner=USER:GROUP --fmode=0640 --dmode=0750, or \
                          move the guest to virtiofs, which needs no conversion; agree with --accept=export-in-use";

/// The owners, each user once, whatever groups the files are of; the one with the most entries first.
fn accounts(survey: &Survey) -> Vec<OwnerRow> {
    let mut accounts: Vec<OwnerRow> = Vec::new();
    for row in owner_rows(survey) {
        match accounts.iter_mut().find(|known| known.uid == row.uid) {
            Some(known) => known.entries = known.entries.saturating_add(row.entries),
            None => accounts.push(row),
        }
    }
    accounts.sort_by_key(|row| (std::cmp::Reverse(row.entries), row.uid));
    accounts
}

struct Judge<'f> {
    facts: &'f Facts,
    found: Vec<Finding>,
}

impl Judge<'_> {
    fn add(&mut self, kind: &'static Kind, place: PathBuf, message: String, remedy: Option<String>) {
        let place = Place { file: Some(place), ..Place::default() };
        self.found.push(Finding { kind, place, message, remedy, subject: None });
    }

    /// A finding about the whole export.
    fn whole(&mut self, kind: &'static Kind, message: String) {
        self.add(kind, self.facts.export.clone(), message, None);
    }

    fn system(&mut self) {
        self.found.extend(system(&self.facts.export, &self.facts.system));
    }

    fn users(&mut self) {
        self.found.extend(live(&self.facts.export, &self.facts.live));
        for mention in &self.facts.mentions {
            let place =
                Place { file: Some(mention.file.clone()), line: Some(mention.line), ..Place::default() };
            let message = format!("{} uses '{}'", mention.what, text::escape_path(&mention.path));
            let remedy = Some(NEIGHBOURS.to_owned());
            self.found.push(Finding { kind: &finding::EXPORT_IN_USE, place, message, remedy, subject: None });
        }
    }

    fn filesystem(&mut self, model: Model, asked: bool, cost: &CostRow) {
        let filesystem = &self.facts.filesystem;
        let kind = text::escape(&filesystem.kind);
        if filesystem.read_only {
            self.whole(
                &finding::READ_ONLY_FILESYSTEM,
                format!("the export's filesystem ({kind}) is mounted read-only"),
            );
        }
        if model == Model::MappedXattr || !asked {
            self.attributes(&kind);
        }
        if let Some(free) = filesystem.free_bytes.filter(|free| cost.bytes > *free) {
            let (needs, free) = (bytes(cost.bytes), bytes(free));
            self.whole(
                &finding::NOT_ENOUGH_SPACE,
                format!("a conversion takes about {needs}, {free} are free"),
            );
        }
        if let Some(free) = filesystem.free_inodes.filter(|free| cost.inodes > *free) {
            let message = format!("a conversion takes {} inodes, {free} are free", cost.inodes);
            self.whole(&finding::NOT_ENOUGH_SPACE, message);
        }
        if filesystem.quota {
            let message =
                format!("{kind} is mounted with quotas: all of the export will count as QEMU's user's");
            self.whole(&finding::QUOTA, message);
        }
    }

    fn attributes(&mut self, kind: &str) {
        match self.facts.filesystem.attributes {
            Attributes::Tried { .. } => {}
            Attributes::Refused(why) => {
                let message = format!("{kind} does not keep user xattrs: {}", said(why));
                self.whole(&finding::NO_USER_XATTRS, message);
            }
            Attributes::Unlikely(why) => {
                let message = format!(
                    "{kind} answers that it keeps no user xattrs; no temporary file could be made to try: {}",
                    said(why)
                );
                self.whole(&finding::NO_USER_XATTRS, message);
            }
            Attributes::Likely(why) => {
                let message = format!(
                    "user xattrs were not tried, for no temporary file could be made ({}); {kind} answers as if it \
                     kept them, what room there is for them is unknown",
                    said(why)
                );
                self.whole(&finding::XATTRS_NOT_TRIED, message);
            }
        }
    }

    fn owners(&mut self) {
        let facts = self.facts;
        let owner = facts.owner.as_ref();
        if let Some((uid, gid)) = facts.lacking {
            let whose = if (uid, gid) == (0, 0) { "root's files" } else { "files of QEMU's user" };
            let message = format!("its mount can't have {whose} ({uid}:{gid}): they are not in its id map");
            self.whole(&finding::IDS_NOT_MAPPED, message);
        }
        if let (Some(owner), Some((directory, errno))) = (owner, &facts.barrier) {
            let message =
                format!("{owner} can't enter this directory on the way to the export: {}", errno.desc());
            self.add(&finding::OWNER_KEPT_OUT, directory.clone(), message, None);
        }
        let accounts: Vec<_> = accounts(&facts.survey)
            .into_iter()
            .filter(|row| row.uid != 0 && owner.is_none_or(|owner| owner.uid != row.uid))
            .filter_map(|row| {
                let recent = match facts.survey.recent.get(&row.uid) {
                    Some(count) => format!(", {count} changed in the last {RECENT_DAYS} days"),
                    None => String::new(),
                };
                Some(format!("{} ({}{recent})", row.user?, row.entries))
            })
            .collect();
        if !accounts.is_empty() {
            let message = format!("files belong to accounts of this host: {}", accounts.join(", "));
            self.whole(&finding::HOST_ACCOUNTS, message);
        }
    }

    fn blind_spots(&mut self) {
        let facts = self.facts;
        let mut entries = Entries { export: &facts.export, found: Vec::new() };
        for (errno, group) in &facts.survey.unread {
            let errno = Errno::from_raw_os_error(*errno);
            let what = format!("it could not be looked at: {}", said(errno));
            if errno == Errno::OVERFLOW {
                // The kernel says so of file capabilities of a user namespace's root.
                let what = format!(
                    "{what}: an id in its file capabilities is not in the id map of the mount, or of the user namespace"
                );
                entries.some(&finding::IDS_NOT_MAPPED, group, &what);
                continue;
            }
            entries.some(&finding::UNREADABLE_ENTRY, group, &what);
        }
        let changed = "it went away or was replaced while it was looked at";
        entries.some(&finding::CHANGED_MEANWHILE, &facts.survey.changed, changed);
        self.found.append(&mut entries.found);
        if let Some(sentence) = facts.live.unseen.sentence() {
            self.whole(&finding::PROCESSES_UNSEEN, sentence);
        }
        if !facts.privileged {
            let message = if nix::unistd::geteuid().is_root() {
                "without CAP_SYS_ADMIN on the host, trusted.* attributes are not seen; links and special files lose theirs by a conversion"
            } else {
                "without root, trusted.* attributes and the way of QEMU's user to the export are not seen"
            };
            self.whole(&finding::NOT_PRIVILEGED, message.into());
        }
        if facts.survey.other_owners > 0 {
            let message = format!(
                "{} of still other owners are not told apart",
                counted(facts.survey.other_owners, "entry")
            );
            self.whole(&finding::MANY_OWNERS, message);
        }
    }
}

fn said(errno: Errno) -> String {
    nix::errno::Errno::from_raw(errno.raw_os_error()).desc().into()
}

impl std::fmt::Display for crate::data::live::Mounted {
    /// One sentence without its full stop.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.part.as_os_str().is_empty() {
            out.write_str("the export")?;
        } else {
            write!(out, "its part '{}'", text::escape_path(&self.part))?;
        }
        write!(out, " is also mounted at '{}'", text::escape_path(&self.point))?;
        match self.namespace_of {
            Some(pid) => write!(out, ", in the mount namespace of process {pid}"),
            None => Ok(()),
        }
    }
}
