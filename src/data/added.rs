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

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::entry::{CAPABILITY, Inode, Kind};
use super::filesystem::Filesystem;
use super::form::{Form, Model};
use super::goal::Goal;
use super::identity::Key;
use super::journal::{self, Journal, Record};
use super::pin::Pin;
use super::staging::Staging;
use super::survey::{self, Group};
use super::tree::{Directory, Tree};
use super::walk::{self, Trouble, Visitor};
use super::{check, mapped_file, mapped_xattr, passthrough, sys};
use crate::report::check::counted;
use crate::report::finding::{self, Finding};
use crate::share::Place;
use anyhow::{Context as _, Result};

/// For how long a file with a name of rsync's temporary files is taken for one.
const TEMPORARY: u64 = 3600;

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
        let mut asked: HashMap<Key, Inode> = HashMap::new();
        for candidate in candidates {
            asked.insert(candidate.inode.id.key(), candidate.inode);
        }
        let mut known = HashMap::new();
        if asked.is_empty() {
            return Ok(known);
        }
        let open = self.journal.adopting().unwrap_or(u64::MAX);
        for listing in self.journal.listings()? {
            let (at, listing) = listing?;
            let own = listing.is_first(at).then_some(&listing.own);
            let records = listing.entries.iter().filter_map(|(_, record)| record.as_ref());
            for record in own.into_iter().chain(records) {
                if asked.get(&record.id.key()).is_some_and(|inode| record.is(inode)) {
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
        candidates.sort_by_cached_key(|candidate| candidate.path.clone());
        let mut names: HashMap<Key, u64> = HashMap::new();
        for candidate in &candidates {
            *names.entry(candidate.inode.id.key()).or_default() += 1;
        }
        let busy = busy_directories(&candidates, known);
        let mut closed: HashSet<Vec<u8>> = HashSet::new();
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

/// What says that the guest sees an entry otherwise than it really is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Nothing, or a metadata file that another inode of this name had.
    Nothing,
    /// Mapped attributes.
    Attributes,
    /// A metadata file that may be this inode's.
    Other,
}

/// An entry that is not as a mapped model keeps it.
struct Candidate {
    directory: Arc<Directory>,
    name: CString,
    path: Vec<u8>,
    inode: Inode,
    record: Record,
    said: Said,
    is_busy: bool,
    findings: Vec<Finding>,
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

/// Whether a name is one of those under which rsync writes a file: `.NAME.` and six letters or digits.
fn is_temporary(name: &CStr) -> bool {
    let Some((name, ending)) = name.to_bytes().split_last_chunk::<7>() else { return false };
    let Some((b'.', letters)) = ending.split_first() else { return false };
    name.len() > 1 && name.starts_with(b".") && letters.iter().all(u8::is_ascii_alphanumeric)
}

#[derive(Default)]
struct Seen {
    candidates: Vec<Candidate>,
    unmapped: Group,
}

/// What all workers of a walk share.
struct Looker<'l> {
    search: &'l Search<'l>,
    goal: Goal,
    filesystem: &'l Filesystem,
    staging: Staging,
    /// Seconds since 1970.
    now: u64,
    seen: Mutex<Seen>,
}

impl Looker<'_> {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at an entry of `directory`; `itself` is the entry where it is a directory.
    fn look(
        &self,
        directory: &Arc<Directory>,
        name: &CStr,
        itself: Option<&Arc<Directory>>,
        pin: &Pin,
    ) -> rustix::io::Result<()> {
        let inode = *pin.inode();
        if !inode.kind().is_some_and(Kind::is_replaced) && inode.uid == self.goal.uid {
            if !self.is_mapped(directory, name, pin)? {
                self.seen().unmapped.add(|| directory.path_of(name));
            }
            return Ok(());
        }
        let survey =
            survey::of_entry(self.search.tree, self.filesystem, itself.unwrap_or(directory), name, pin);
        let mut findings = check::entry_findings(self.search.export, &survey, true, self.goal.model);
        // It is adopted by what they say.
        findings.retain(|finding| *finding.kind != finding::ALREADY_MAPPED);
        let candidate = Candidate {
            directory: Arc::clone(directory),
            name: name.to_owned(),
            path: directory.path_of(name),
            inode,
            record: Record::new(&inode, passthrough::read(pin)?),
            said: self.said(directory, name, pin)?,
            is_busy: self.is_busy(name, pin),
            findings,
        };
        self.seen().candidates.push(candidate);
        Ok(())
    }

    fn is_mapped(&self, directory: &Directory, name: &CStr, pin: &Pin) -> rustix::io::Result<bool> {
        match self.goal.model {
            Model::MappedXattr => mapped_xattr::is_carried(pin),
            Model::MappedFile => Ok(mapped_file::stat_metadata(directory, name)?.is_some()),
        }
    }

    /// What there is that says what the guest sees of an entry of another user.
    fn said(&self, directory: &Directory, name: &CStr, pin: &Pin) -> rustix::io::Result<Said> {
        let inode = pin.inode();
        if inode.kind().is_some_and(Kind::is_replaced) {
            return Ok(Said::Nothing);
        }
        if self.goal.model == Model::MappedXattr {
            return Ok(if mapped_xattr::is_carried(pin)? { Said::Attributes } else { Said::Nothing });
        }
        // A metadata file is the name's: that of a file which was replaced by another is of no use.
        let is_there = mapped_file::stat_metadata(directory, name)?.is_some();
        let is_its = is_there && !mapped_file::is_anothers(directory, name, inode, self.goal.uid)?;
        Ok(if is_its { Said::Other } else { Said::Nothing })
    }

    /// Whether an entry is still being written, as far as that can be seen.
    fn is_busy(&self, name: &CStr, pin: &Pin) -> bool {
        let inode = pin.inode();
        let changed = u64::try_from(inode.changed.seconds).unwrap_or(0);
        let is_younger = |seconds: u64| changed.saturating_add(seconds) > self.now;
        if is_younger(self.search.settle.as_secs()) {
            return true;
        }
        inode.kind() == Some(Kind::File)
            && (is_temporary(name) && is_younger(TEMPORARY) || sys::is_written(pin.as_fd()))
    }
}

/// One worker of the walk.
struct Eye<'e>(&'e Looker<'e>);

impl Eye<'_> {
    fn note(directory: &Directory, name: &CStr, looked: rustix::io::Result<()>) -> Result<()> {
        match looked.map_err(Trouble::of) {
            // It is gone, or no part of the export.
            Ok(()) | Err(Trouble::Mount | Trouble::Changed) => Ok(()),
            Err(Trouble::Failed(error)) => Err(error)
                .with_context(|| format!("looking at '{}'", crate::text::escape(&directory.path_of(name)))),
        }
    }
}

impl Visitor for Eye<'_> {
    type Error = anyhow::Error;

    fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> Result<()> {
        let Some(parent) = directory.parent() else { return Ok(()) };
        let looked = self.0.look(parent, directory.name(), Some(directory), pin);
        Self::note(directory, c"", looked)
    }

    fn entry(&mut self, directory: &Arc<Directory>, name: &CStr, pin: Pin) -> Result<()> {
        let looked = self.0.look(directory, name, None, &pin);
        Self::note(directory, name, looked)
    }

    fn trouble(&mut self, directory: &Arc<Directory>, name: &CStr, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Mount | Trouble::Changed => Ok(()),
            Trouble::Failed(error) => Self::note(directory, name, Err(error)),
        }
    }

    fn hides(&self, directory: &Arc<Directory>, name: &CStr) -> bool {
        self.0.staging.made(name) || Form::Mapped(self.0.goal.model).hides(directory, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rsyncs_temporary_files_are_known() {
        for (name, is) in [
            (c".file.aB3xYz", true),
            (c".a.b.c.000000", true),
            (c"file.aB3xYz", false),
            (c".file.aB3xY", false),
            (c".file.aB3xY-", false),
            (c"..aB3xYz", false),
            (c".aB3xYz", false),
            (c".bashrc", false),
            (c"", false),
        ] {
            assert_eq!(is_temporary(name), is, "{name:?}");
        }
    }

    #[test]
    fn the_directories_above_are_all_but_the_export() {
        let paths = |path: &'static str| above(path.as_bytes()).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(paths("a/bc/d"), [b"a".to_vec(), b"a/bc".to_vec()]);
        assert!(paths("a").is_empty());
    }
}
