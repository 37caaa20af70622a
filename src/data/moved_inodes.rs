//! What inodes were before the conversion, for those that are not where the journal tells of them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Result;

use super::entry::{CAPABILITY, Entry, Inode, Kind, Time};
use super::form::Model;
use super::goal::ConversionTarget;
use super::identity::Stamp;
use super::journal::{Journal, Listing, Record};
use super::mapped_xattr::LONGEST_TARGET;
use super::pin::Pin;

/// The original states of inodes, found by what they are. The journal is gone through when the first is asked for.
#[derive(Debug)]
pub(crate) struct MovedInodes {
    journal: PathBuf,
    goal: ConversionTarget,
    /// Whether inodes may be anywhere, with nothing beside them that says what they are: of all of them then, not
    /// only of those of which the journal alone knows something.
    all: bool,
    index: OnceLock<Option<Index>>,
    /// Those that the journal does not tell of yet, or not since the index was made, by what they look like.
    recent: Mutex<HashMap<u64, Record>>,
    /// Links and special files that are not at their recorded places, by what they look like.
    absent: Mutex<HashMap<u64, Vec<Record>>>,
    by_path: bool,
}

/// What is known of a link or a special file at another place than it was recorded at.
#[derive(Debug)]
pub(crate) enum Moved {
    /// It is this one.
    From(Box<Record>),
    /// It may be one of several, of which each had other attributes.
    Ambiguous,
    /// It was not recorded.
    Unknown,
}

/// Where the journal tells of inodes.
#[derive(Debug)]
struct Index {
    journal: Journal,
    /// By what they look like.
    looks: HashMap<u64, u64>,
    /// Further ones that look the same: the number of an inode may be told of twice.
    others: HashMap<u64, Vec<u64>>,
    /// What was looked at last.
    recent: Mutex<Option<(u64, Arc<Listing>)>>,
}

impl MovedInodes {
    /// The origins that a journal tells of. Under mapped-file, `scattered` says that inodes may have lost the metadata
    /// files beside them.
    pub(crate) fn new(journal: &Path, goal: ConversionTarget, scattered: bool) -> Self {
        let all = scattered && goal.model == Model::MappedFile;
        Self {
            journal: journal.into(),
            goal,
            all,
            index: OnceLock::new(),
            recent: Mutex::default(),
            absent: Mutex::default(),
            by_path: false,
        }
    }

    /// Those of a copy of the export, in which inodes are known by their paths alone.
    #[must_use]
    pub(crate) fn by_path(self, by_path: bool) -> Self {
        Self { by_path, ..self }
    }

    /// Notes that a link or a special file is not at its recorded place: it may be elsewhere.
    pub(crate) fn note_absent(&self, record: &Record) {
        if is_replaced(&record.entry) {
            let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
            absent.entry(look(&record.entry)).or_default().push(record.clone());
        }
    }

    /// What was recorded of the link or special file that a guest sees as `shown`, of those that are not at their places.
    pub(crate) fn moved(&self, shown: &Entry) -> Moved {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |record: &&Record| {
            let was = &record.entry;
            (was.kind(), was.rdev, was.modified) == (shown.kind(), shown.rdev, shown.modified)
                && was.target.as_deref().unwrap_or_default() == shown.target.as_deref().unwrap_or_default()
        };
        let candidates: Vec<_> = absent.get(&look(shown)).into_iter().flatten().filter(same).collect();
        let like = |record: &&&Record| {
            let was = &record.entry;
            (was.mode, was.uid, was.gid) == (shown.mode, shown.uid, shown.gid)
        };
        let alike: Vec<_> = candidates.iter().filter(like).collect();
        let chosen = if alike.is_empty() { candidates.iter().collect() } else { alike };
        let Some((first, others)) = chosen.split_first() else { return Moved::Unknown };
        if others.iter().all(|other| other.entry.xattrs == first.entry.xattrs) {
            Moved::From(Box::new((**first).clone()))
        } else {
            Moved::Ambiguous
        }
    }

    /// The links and special files that are not at their places and that a regular file with this content and time of modification
    /// may stand for.
    pub(crate) fn absent(&self, content: &[u8], modified: Time) -> Vec<Record> {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |record: &&Record| {
            let was = &record.entry;
            was.modified == modified && was.target.as_deref().unwrap_or_default() == content
        };
        absent.get(&hash(&(content, modified))).into_iter().flatten().filter(same).cloned().collect()
    }

    /// Whether any link or special file is not at its place.
    pub(crate) fn has_absent(&self) -> bool {
        !self.absent.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn index(&self) -> Option<&Index> {
        // A journal that can't be read is told by everybody else who reads it.
        self.index.get_or_init(|| Index::of(&self.journal, self.all, self.by_path).ok()).as_ref()
    }

    /// Keeps the record of what was just found, in case that it is found elsewhere again.
    pub(crate) fn note(&self, record: &Record) {
        if self.all || is_only_here(record) {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            for look in looks(record) {
                recent.entry(look).or_insert_with(|| record.clone());
            }
        }
    }

    /// The record that the journal, or [`MovedInodes::note`], has for a look.
    fn look_up(&self, key: u64, is_it: impl Fn(&Record) -> bool) -> Option<Record> {
        let index = self.index()?;
        let others = index.others.get(&key).into_iter().flatten();
        let told = index.looks.get(&key).into_iter().chain(others).find_map(|at| index.record(*at, &is_it));
        told.or_else(|| {
            let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.get(&key).filter(|record| is_it(record)).cloned()
        })
    }

    /// The record of the file or directory `inode`, if it may be the one that was recorded.
    pub(crate) fn kept(&self, inode: &Inode) -> Option<Record> {
        self.unchanged(inode)
            .or_else(|| self.look_up(number_look(inode.id.number), |record| is_exactly(record, inode)))
    }

    /// The record of the file `inode`, whose content was not changed since.
    fn unchanged(&self, inode: &Inode) -> Option<Record> {
        let is_it = |record: &Record| {
            is_exactly(record, inode)
                && inode.kind() == Some(Kind::File)
                && (record.entry.modified, record.entry.size) == (inode.modified, inode.size)
        };
        self.look_up(file_look(inode.id.number, inode.modified), is_it)
    }

    /// The record of what a regular file stands for that now has this content: of one that looks like `like`.
    pub(crate) fn replaced(
        &self,
        inode: &Inode,
        content: &[u8],
        like: impl Fn(&Entry) -> bool,
    ) -> Option<Record> {
        let mut shown = Entry::of(inode);
        shown.target = Some(content.to_vec());
        let is_it = |record: &Record| {
            let entry = &record.entry;
            is_replaced(entry)
                && entry.modified == inode.modified
                && entry.target.as_deref().unwrap_or_default() == content
                && like(entry)
        };
        self.look_up(look(&shown), is_it)
    }

    /// What an inode was that belongs to QEMU's user and may have been recorded in another place, under mapped-file.
    pub(crate) fn scattered(&self, pin: &Pin) -> rustix::io::Result<Option<Record>> {
        let inode = pin.inode();
        if !self.all || (inode.uid, inode.gid) != (self.goal.uid, self.goal.gid) {
            return Ok(None);
        }
        let unchanged = self.unchanged(inode);
        if unchanged.is_some() || inode.kind() != Some(Kind::File) || inode.size > LONGEST_TARGET as u64 {
            return Ok(unchanged.or_else(|| self.kept(inode)));
        }
        let content = pin.content(LONGEST_TARGET + 1)?;
        Ok(self.replaced(inode, &content, |_| true).or_else(|| self.kept(inode)))
    }

    /// Adds to what is known of an inode in another place what only the journal knows.
    pub(crate) fn complete(&self, pin: &Pin, now: &mut Record) {
        let entry = &mut now.entry;
        if is_replaced(entry) {
            let content = entry.target.clone().unwrap_or_default();
            let (mode, uid, gid, rdev) = (entry.mode, entry.uid, entry.gid, entry.rdev);
            let like =
                |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.rdev) == (mode, uid, gid, rdev);
            if let Some(origin) = self.replaced(pin.inode(), &content, like) {
                entry.xattrs = origin.entry.xattrs;
            }
        } else if let Some(origin) = self.kept(pin.inode()) {
            (now.immutable, now.append_only) = (origin.immutable, origin.append_only);
            let was = &origin.entry;
            let is_same = (was.size, was.modified, was.uid, was.gid)
                == (entry.size, entry.modified, entry.uid, entry.gid)
                && !entry.xattrs.iter().any(|(name, _)| name == CAPABILITY);
            if let Some((name, value)) = was.xattrs.iter().find(|(name, _)| is_same && name == CAPABILITY) {
                entry.push_xattr(name, value.clone());
            }
        }
    }
}

impl Index {
    fn of(journal: &Path, all: bool, by_path: bool) -> Result<Self> {
        let journal = Journal::open(journal)?;
        let journal = if by_path { journal.by_path() } else { journal };
        let (mut found, mut others) = (HashMap::new(), HashMap::<u64, Vec<u64>>::new());
        for listing in journal.listings()? {
            let (at, listing) = listing?;
            let own = listing.is_first(at).then_some(&listing.own);
            // Of what is told of more than once, the first time tells what it was.
            for record in
                own.into_iter().chain(listing.entries.iter().filter_map(|(_, record)| record.as_ref()))
            {
                if all || is_only_here(record) {
                    for look in looks(record) {
                        if *found.entry(look).or_insert(at) != at && journal.has_adopted() {
                            others.entry(look).or_default().push(at);
                        }
                    }
                }
            }
        }
        Ok(Self { journal, looks: found, others, recent: Mutex::default() })
    }

    fn record(&self, at: u64, is_it: &impl Fn(&Record) -> bool) -> Option<Record> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = match &*recent {
            Some((offset, listing)) if *offset == at => Arc::clone(listing),
            _ => {
                let listing = Arc::new(self.journal.listing_at(at).ok()?);
                *recent = Some((at, Arc::clone(&listing)));
                listing
            }
        };
        drop(recent);
        let records = listing.entries.iter().filter_map(|(_, record)| record.as_ref());
        std::iter::once(&listing.own).chain(records).find(|record| is_it(record)).cloned()
    }
}

/// Whether the journal knows something of an inode that a conversion takes from it.
fn is_only_here(record: &Record) -> bool {
    let xattrs = &record.entry.xattrs;
    record.immutable
        || record.append_only
        || xattrs.iter().any(|(name, _)| name == CAPABILITY)
        || is_replaced(&record.entry) && !xattrs.is_empty()
}

fn is_replaced(entry: &Entry) -> bool {
    entry.kind().is_some_and(Kind::is_replaced)
}

/// Whether a record is of `inode`. In a copy of an export, numbers say nothing.
fn is_exactly(record: &Record, inode: &Inode) -> bool {
    record.id.stamp != Stamp::Any && record.is(inode)
}

/// What a record is found by: a number may have been another file's before, so that one with the same time goes first.
fn looks(record: &Record) -> Vec<u64> {
    let entry = &record.entry;
    match entry.kind() {
        Some(Kind::Directory) => vec![number_look(record.id.number)],
        Some(Kind::File) => vec![file_look(record.id.number, entry.modified), number_look(record.id.number)],
        _ => vec![look(entry)],
    }
}

/// What stays of an entry when a regular file takes its place, in short.
fn look(entry: &Entry) -> u64 {
    hash(&(entry.target.as_deref().unwrap_or_default(), entry.modified))
}

fn file_look(number: u64, modified: Time) -> u64 {
    hash(&(number, modified))
}

fn number_look(number: u64) -> u64 {
    hash(&number)
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
