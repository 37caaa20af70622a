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

mod look;

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

use self::look::{Candidate, Eye, Looker, Said, Seen};
use super::entry::{CAPABILITY, Kind};
use super::filesystem::Filesystem;
use super::form::Model;
use super::goal::Goal;
use super::identity::Key;
use super::journal::{self, Journal, Record};
use super::staging::Staging;
use super::survey::Group;
use super::tree::{Directory, Tree};
use super::{mapped_xattr, walk};
use crate::report::check::counted;
use crate::report::finding::{self, Finding};
use crate::share::Place;

/// How many entries that are left are named one by one.
const NAMED: usize = 1000;

/// An entry to be adopted, or whose owner is to be changed back.
#[derive(Debug)]
pub struct Added {
    /// The directory that it is in.
    pub directory: Arc<Directory>,
    /// Its name there.
    pub name: CString,
    /// What it really is.
    pub record: Record,
}

impl Added {
    /// Its path from the export.
    pub fn path(&self) -> Vec<u8> {
        self.directory.path_of(&self.name)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.record.entry.kind() == Some(Kind::Directory)
    }
}

/// Everything that was added.
#[derive(Debug, Default)]
pub struct Additions {
    /// What is to be adopted, in the order of paths.
    pub new: Vec<Added>,
    /// What was converted or adopted before and has another owner now.
    pub returned: Vec<Added>,
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
    pub fn count(&self) -> u64 {
        (self.new.len() + self.returned.len()) as u64 + self.left_count + self.pending
    }

    /// How many symbolic links and special files are to be replaced.
    pub fn replaced(&self) -> usize {
        self.new.iter().filter(|added| added.record.entry.kind().is_some_and(Kind::is_replaced)).count()
    }

    /// What is to be said of them where they are only counted; nothing where there are none.
    pub fn finding(&self, export: &Path) -> Option<Finding> {
        if self.count() == 0 {
            return None;
        }
        let first = self.new.iter().chain(&self.returned).map(Added::path).min();
        let named = first.map_or_else(String::new, |path| format!(" ('{}')", crate::text::escape(&path)));
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
pub fn of(export: &Path, tree: &Tree, journal: &Journal, jobs: usize) -> Result<Additions> {
    Search { export, tree, journal, covers: &|_| true, settle: Duration::ZERO, jobs }.run()
}

/// How additions are looked for.
pub struct Search<'s> {
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
    pub fn run(&self) -> Result<Additions> {
        let goal = Goal::of_journal(self.journal)?;
        let root = self.tree.root().open()?;
        let filesystem = Filesystem::of(&root, self.export)?;
        let looker = Looker {
            search: self,
            goal,
            filesystem: &filesystem,
            staging: Staging::new(&self.journal.begin().staging),
            now: journal::now(),
            seen: Mutex::default(),
        };
        walk::parallel(self.tree, self.jobs, || Eye(&looker))?;
        let Seen { candidates, unmapped } = looker.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let known = self.known(&candidates)?;
        let mut additions = Additions { unmapped, ..Additions::default() };
        self.judge(&goal, candidates, &known, &mut additions);
        Ok(additions)
    }

    /// What the journal knows of candidates that it has recorded, by their inodes.
    fn known(&self, candidates: &[Candidate]) -> Result<HashMap<Key, Known>> {
        let mut known = HashMap::new();
        if candidates.is_empty() {
            return Ok(known);
        }
        // There may be very many: their places in the list take the least room.
        let key = |place: usize| candidates.get(place).map(|candidate| candidate.inode.id.key());
        let mut asked: Vec<usize> = (0..candidates.len()).collect();
        asked.sort_unstable_by_key(|&place| key(place));
        let inode = |wanted: Key| {
            let place = asked.binary_search_by_key(&Some(wanted), |&place| key(place)).ok()?;
            asked.get(place).and_then(|&place| candidates.get(place)).map(|candidate| candidate.inode)
        };
        let open = self.journal.adopting().unwrap_or(u64::MAX);
        for listing in self.journal.listings()? {
            let (at, listing) = listing?;
            let own = listing.is_first(at).then_some(&listing.own);
            let records = listing.entries.iter().filter_map(|(_, record)| record.as_ref());
            for record in own.into_iter().chain(records) {
                if inode(record.id.key()).is_some_and(|inode| record.is(&inode)) {
                    known.insert(record.id.key(), Known { record: record.clone(), is_open: at >= open });
                }
            }
        }
        Ok(known)
    }

    /// Decides what becomes of each candidate.
    fn judge(
        &self,
        goal: &Goal,
        mut candidates: Vec<Candidate>,
        known: &HashMap<Key, Known>,
        to: &mut Additions,
    ) {
        candidates.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        let mut names: HashMap<Key, u64> = HashMap::new();
        for candidate in candidates.iter().filter(|candidate| candidate.inode.is_linked()) {
            *names.entry(candidate.inode.id.key()).or_default() += 1;
        }
        let busy = busy_directories(&candidates, known);
        let mut closed: HashSet<Vec<u8>> = HashSet::new();
        let mut left_names: HashSet<Key> = HashSet::new();
        for mut candidate in candidates {
            let known = known.get(&candidate.inode.id.key());
            let is_directory = candidate.inode.kind() == Some(Kind::Directory);
            if known.is_some_and(|known| known.is_open) {
                to.pending += 1;
                continue;
            }
            // Where only numbers tell inodes apart, that of a link which was replaced may have been given to another.
            let known = known.filter(|_| !candidate.inode.kind().is_some_and(Kind::is_replaced));
            let is_below_left = above(&candidate.path).any(|path| closed.contains(path));
            if is_below_left && !candidate.is_busy {
                // The directory was named.
                to.left_count += 1;
                left_names.extend(candidate.inode.is_linked().then(|| candidate.inode.id.key()));
                continue;
            }
            let found = if candidate.is_busy || busy.contains(&candidate.path) {
                Some(self.busy(is_directory))
            } else if let Some(known) = known {
                stays(goal, &candidate, &known.record).map(|why| self.left(why))
            } else {
                self.obstacle(&mut candidate, &names)
            };
            if let Some(finding) = found {
                left_names.extend(candidate.inode.is_linked().then(|| candidate.inode.id.key()));
                if is_directory && known.is_none() {
                    closed.insert(candidate.path.clone());
                }
                let place = Place { file: Some(self.path(&candidate.path)), ..Place::default() };
                to.leave(Finding { place, ..finding });
                continue;
            }
            let Candidate { directory, name, record, .. } = candidate;
            let list = if known.is_some() { &mut to.returned } else { &mut to.new };
            list.push(Added { directory, name, record });
        }
        self.leave_other_names(&left_names, to);
    }

    /// Leaves what has another name that is left: a link or a special file would be parted from that.
    fn leave_other_names(&self, left: &HashSet<Key>, to: &mut Additions) {
        const WHY: &str = "another of its names is left as it is, and what that shows changes with it";
        if left.is_empty() {
            return;
        }
        let is_left = |added: &Added| added.record.entry.links > 1 && left.contains(&added.record.id.key());
        let (others, new) = std::mem::take(&mut to.new).into_iter().partition(is_left);
        to.new = new;
        let others: Vec<Added> = others;
        for added in others {
            let place = Place { file: Some(self.path(&added.path())), ..Place::default() };
            let finding = Finding { place, ..self.finding(&finding::LINKS_OUTSIDE, WHY) };
            if (self.covers)(&finding) { to.new.push(added) } else { to.leave(finding) }
        }
        to.new.sort_by_cached_key(Added::path);
    }

    /// What stands in the way of the adoption of an entry that the journal does not know.
    fn obstacle(&self, candidate: &mut Candidate, names: &HashMap<Key, u64>) -> Option<Finding> {
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
        let is_elsewhere =
            inode.is_linked() && names.get(&inode.id.key()).is_none_or(|count| *count < inode.links);
        if is_elsewhere {
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

/// What the journal knows of an inode.
struct Known {
    record: Record,
    /// Whether its adoption has not got to its end.
    is_open: bool,
}

/// Why an entry that was converted or adopted, and has another owner now, stays so; `None` where it does not.
fn stays(goal: &Goal, candidate: &Candidate, was: &Record) -> Option<&'static str> {
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

/// The paths of the directories around an entry, but for the export.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').filter_map(|(at, _)| path.get(..at))
}

/// The paths of new directories in which something is being written.
fn busy_directories(candidates: &[Candidate], known: &HashMap<Key, Known>) -> HashSet<Vec<u8>> {
    let is_new = |candidate: &&Candidate| {
        candidate.inode.kind() == Some(Kind::Directory) && !known.contains_key(&candidate.inode.id.key())
    };
    let new: HashSet<&[u8]> =
        candidates.iter().filter(is_new).map(|candidate| candidate.path.as_slice()).collect();
    let busy = candidates.iter().filter(|candidate| candidate.is_busy);
    busy.flat_map(|candidate| above(&candidate.path))
        .filter(|path| new.contains(path))
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_above_are_all_but_the_export() {
        let paths = |path: &'static str| above(path.as_bytes()).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(paths("a/bc/d"), [b"a".to_vec(), b"a/bc".to_vec()]);
        assert!(paths("a").is_empty());
    }
}
