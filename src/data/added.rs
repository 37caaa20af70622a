//! What other programs of the host have put into a converted export since: entries that are not as a mapped model keeps them.
//!
//! | entry | what becomes of it |
//! |---|---|
//! | a file or directory of QEMU's user with mapped attributes | nothing: it is the guest's |
//! | one of QEMU's user without mapped attributes | nothing, it is counted: the guest can use it, and sees QEMU's user as its owner |
//! | one of another user that the journal does not know | it is adopted: by its attributes, where it has mapped ones, else by its real state |
//! | one of another user that was converted or adopted before | its owner is changed back: the guest sees what its attributes say |
//! | a real symbolic link or special file, whoever owns it | it is adopted: no guest makes such |
//! | one that is still being written, and a new directory around it | nothing yet |

mod known;
mod list;
mod look;
mod places;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

use self::known::Found;
use self::look::{Candidate, Eye, Looker, Said, Seen};
use super::entry::{CAPABILITY, Kind};
use super::filesystem::Filesystem;
use super::form::Model;
use super::goal::ConversionTarget;
use super::identity::Key;
use super::journal::{self, Journal, Record};
use super::staging::Staging;
use super::survey::Group;
use super::tree::Tree;
use super::{mapped_xattr, walk};
use crate::report::finding::{self, Finding};
use crate::report::spool::Sorted;
use crate::share::Place;
use crate::text::counted;

pub(crate) use self::list::{Added, List, unspooled};
pub(crate) use self::places::Places;

/// How many entries that are left are named one by one.
const NAMED: usize = 1000;

/// Everything that was added.
#[derive(Debug, Default)]
pub(crate) struct Additions {
    /// What is to be adopted.
    pub new: List,
    /// What was converted or adopted before and has another owner now.
    pub returned: List,
    /// Why entries are left as they are: the first of them.
    pub left: Vec<Finding>,
    /// How many entries are left as they are.
    pub left_count: u64,
    /// Entries of an adoption that has not got to its end.
    pub pending: u64,
    /// Entries of QEMU's user that have no mapped attributes.
    pub unmapped: Group,
}

impl Additions {
    /// How many entries the guest can't use as a mapped model keeps them.
    pub(crate) fn count(&self) -> u64 {
        (self.new.len() + self.returned.len()) as u64 + self.left_count + self.pending
    }

    /// How many symbolic links and special files are to be replaced.
    pub(crate) fn replaced(&self) -> usize {
        self.new.replaced
    }

    /// What is to be said of them where they are only counted; nothing where there are none.
    pub(crate) fn finding(&self, export: &Path) -> Option<Finding> {
        if self.count() == 0 {
            return None;
        }
        let first = self.new.first.iter().chain(&self.returned.first).min();
        let named = first.map_or_else(String::new, |path| format!(" ('{}')", crate::text::escape(path)));
        let message = format!(
            "{} {} added on the host since the conversion{named}, or given another owner: run `migrate convert --adopt`",
            counted(self.count(), "entry"),
            if self.count() == 1 { "was" } else { "were" }
        );
        let place = Place { file: Some(export.to_path_buf()), ..Place::default() };
        Some(Finding { kind: &finding::ADDED_ON_HOST, place, message, remedy: None, subject: None })
    }

    fn leave(&mut self, finding: Finding) {
        self.left_count += 1;
        if self.left.len() < NAMED {
            self.left.push(finding);
        }
    }
}

/// What was added to a converted export, to be counted alone.
pub(crate) fn of(export: &Path, tree: &Tree, journal: &Journal, jobs: usize) -> Result<Additions> {
    Search { export, tree, journal, covers: &|_| true, settle: Duration::ZERO, jobs }.run()
}

/// How additions are looked for.
pub(crate) struct Search<'s> {
    /// The export, free of symbolic links.
    pub export: &'s Path,
    /// Its files.
    pub tree: &'s Tree,
    /// Its conversion's journal.
    pub journal: &'s Journal,
    /// Whether a finding does not stand in the way of an adoption.
    pub covers: &'s (dyn Fn(&Finding) -> bool + Sync),
    /// What changed less long ago is taken to be written still.
    pub settle: Duration,
    /// How many threads look.
    pub jobs: usize,
}

impl Search<'_> {
    /// Finds everything that was added.
    pub(crate) fn run(&self) -> Result<Additions> {
        let goal = ConversionTarget::of_journal(self.journal)?;
        let root = self.tree.root().open()?;
        let filesystem = Filesystem::of(&root, self.export)?;
        let looker = Looker {
            export: self.export,
            tree: self.tree,
            settle: self.settle,
            goal,
            filesystem: &filesystem,
            staging: Staging::new(&self.journal.begin().staging),
            now: journal::now(),
            seen: Mutex::default(),
        };
        walk::parallel(self.tree, self.jobs, || Eye(&looker))?;
        let Seen { candidates, busy, unmapped } =
            looker.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut additions = Additions { unmapped, ..Additions::default() };
        if !candidates.is_empty() {
            let found = known::join(&candidates, self.journal)?;
            drop(candidates);
            self.judge(&goal, &found, &busy, &mut additions)?;
        }
        Ok(additions)
    }

    /// Decides what becomes of each candidate.
    fn judge(
        &self,
        goal: &ConversionTarget,
        found: &Sorted<Found>,
        busy: &Sorted<look::Path>,
        to: &mut Additions,
    ) -> Result<()> {
        let mut busy = Busy::of(busy.iter());
        // The outermost of the directories around the last candidate that is left.
        let mut closed: Option<look::Path> = None;
        let mut left_names: HashSet<Key> = HashSet::new();
        for found in found.iter() {
            let Found { mut candidate, known, names } = unspooled(found)?;
            let is_directory = candidate.inode.kind() == Some(Kind::Directory);
            let holds_busy = is_directory && known.is_none() && busy.is_below(&candidate.path)?;
            if known.as_ref().is_some_and(|known| known.is_open) {
                to.pending += 1;
                continue;
            }
            // Where only numbers tell inodes apart, that of a link which was replaced may have been given to another.
            let known = known.filter(|_| !candidate.inode.kind().is_some_and(Kind::is_replaced));
            let is_below_left = closed.as_ref().is_some_and(|closed| candidate.path.is_below(closed));
            if is_below_left && !candidate.is_busy {
                // The directory was named.
                to.left_count += 1;
                left_names.extend(candidate.inode.is_linked().then(|| candidate.inode.id.key()));
                continue;
            }
            let found = if candidate.is_busy || holds_busy {
                Some(self.busy(is_directory))
            } else if let Some(known) = &known {
                stays(goal, &candidate, &known.record).map(|why| self.left(why))
            } else {
                self.obstacle(&mut candidate, names)
            };
            if let Some(finding) = found {
                left_names.extend(candidate.inode.is_linked().then(|| candidate.inode.id.key()));
                let place = Place { file: Some(self.path(&candidate.path.0)), ..Place::default() };
                if is_directory && known.is_none() && !is_below_left {
                    closed = Some(candidate.path);
                }
                to.leave(Finding { place, ..finding });
                continue;
            }
            let Candidate { path, within, record, .. } = candidate;
            let list = if known.is_some() { &mut to.returned } else { &mut to.new };
            list.push(&Added { path: path.0, within, record });
        }
        self.leave_other_names(&left_names, to)
    }

    /// Leaves what has another name that is left: a link or a special file would be parted from that.
    fn leave_other_names(&self, left: &HashSet<Key>, to: &mut Additions) -> Result<()> {
        const WHY: &str = "another of its names is left as it is, and what that shows changes with it";
        if left.is_empty() {
            return Ok(());
        }
        for added in std::mem::take(&mut to.new).iter() {
            let added = added?;
            if added.record.entry.links > 1 && left.contains(&added.record.id.key()) {
                let place = Place { file: Some(self.path(&added.path)), ..Place::default() };
                let finding = Finding { place, ..self.finding(&finding::LINKS_OUTSIDE, WHY) };
                if !(self.covers)(&finding) {
                    to.leave(finding);
                    continue;
                }
            }
            to.new.push(&added);
        }
        Ok(())
    }

    /// What stands in the way of the adoption of an entry that the journal does not know.
    /// `names` says how many names of its inode are to be adopted.
    fn obstacle(&self, candidate: &mut Candidate, names: u64) -> Option<Finding> {
        if candidate.said == Said::Other {
            let why = "its metadata file (in .virtfs_metadata) was put there with it or changed since: the guest sees what that \
                       says. Give both to QEMU's user (chown)";
            return Some(self.left(why));
        }
        if candidate.said == Said::Attributes && candidate.inode.uid != 0 {
            // Over the proxy its owner could not give the guest a program of root's.
            let why = "its mapped attributes are its owner's, who is not root, to set: if the guest is to see what they say, give it to \
                       QEMU's user (chown); if not, remove them (setfattr -x)";
            return Some(self.left(why));
        }
        let inode = &candidate.inode;
        if inode.is_linked() && names < inode.links {
            let message =
                "it has names outside the export, or of QEMU's user, and what they show changes with it";
            candidate.findings.push(self.finding(&finding::LINKS_OUTSIDE, message));
        }
        candidate.findings.drain(..).find(|finding| !(self.covers)(finding))
    }

    fn busy(&self, is_directory: bool) -> Finding {
        let what =
            if is_directory { "something in it is still being written" } else { "it is still being written" };
        self.finding(&finding::ADDED_BEING_WRITTEN, what)
    }

    fn left(&self, why: &str) -> Finding {
        self.finding(&finding::ADDED_LEFT, why)
    }

    fn finding(&self, kind: &'static finding::Kind, message: &str) -> Finding {
        let place = Place { file: Some(self.export.to_path_buf()), ..Place::default() };
        Finding { kind, place, message: message.into(), remedy: None, subject: None }
    }

    fn path(&self, entry: &[u8]) -> std::path::PathBuf {
        self.export.join(OsStr::from_bytes(entry))
    }
}

/// Why an entry that was converted or adopted, and has another owner now, stays so; `None` where it does not.
fn stays(goal: &ConversionTarget, candidate: &Candidate, was: &Record) -> Option<&'static str> {
    let (now, was) = (&candidate.record.entry, &was.entry);
    let seen = mapped_xattr::adopted(now).unwrap_or_else(|| now.clone());
    let recorded = goal.shown(was);
    let view = |entry: &super::entry::Entry| {
        (entry.mode, entry.uid, entry.gid, entry.rdev, entry.access_acl.clone(), entry.default_acl.clone())
    };
    if candidate.said == Said::Attributes && candidate.inode.uid != 0 && view(&seen) != view(&recorded) {
        return Some(
            "its mapped attributes are not those that it was recorded with, and its owner, who is not root, could set them: if the guest \
             is to see what they say, give it to QEMU's user (chown)",
        );
    }
    let capability = |entry: &super::entry::Entry| entry.xattrs.iter().any(|(name, _)| name == CAPABILITY);
    if candidate.said == Said::Nothing {
        return Some(
            "it was converted or adopted, and what the guest saw of it is lost: its mapped attributes are gone",
        );
    }
    if capability(now) && !capability(was) {
        return Some("it was converted or adopted, and has file capabilities now that would be lost");
    }
    let has_acl = |now: &Option<Vec<u8>>, was: &Option<Vec<u8>>| now.is_some() && now != was;
    let is_exposed = has_acl(&now.access_acl, &was.access_acl) || has_acl(&now.default_acl, &was.default_acl);
    if goal.model == Model::MappedXattr && is_exposed {
        return Some(
            "it was converted or adopted, and has an ACL now that the guest is not shown: remove that (setfacl -b)",
        );
    }
    None
}

/// The paths of what is still being written, in their order.
struct Busy<I: Iterator<Item = io::Result<look::Path>>>(std::iter::Peekable<I>);

impl<I: Iterator<Item = io::Result<look::Path>>> Busy<I> {
    fn of(paths: I) -> Self {
        Self(paths.peekable())
    }

    /// Whether something below the directory at `path` is being written. Asked for one path after the other, in their order.
    fn is_below(&mut self, path: &look::Path) -> Result<bool> {
        while self.0.next_if(|busy| busy.as_ref().is_ok_and(|busy| busy <= path)).is_some() {}
        match self.0.peek() {
            None => Ok(false),
            Some(Ok(busy)) => Ok(busy.is_below(path)),
            Some(Err(_)) => self.0.next().map_or(Ok(false), |failed| unspooled(failed).map(|_| false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_written_is_found_below_its_directories_alone() {
        let path = |path: &str| look::Path(path.as_bytes().to_vec());
        let mut busy = Busy::of(["a/b/c", "d", "e"].map(|busy| Ok(path(busy))).into_iter());
        let asked = ["a", "a/b", "a/b/d", "a b", "d", "da", "e"];
        let below: Vec<_> = asked.iter().filter(|asked| busy.is_below(&path(asked)).unwrap()).collect();
        assert_eq!(below, [&"a", &"a/b"]);
    }
}
