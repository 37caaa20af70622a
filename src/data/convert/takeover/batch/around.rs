//! What the journal tells of the directories around what was added. Of each one, only numbers stay in memory.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::line::{Line, What, names};
use crate::data::journal::{Journal, Listing, Record, Superseded};
use crate::data::tree::Directory;
use crate::report::spool::Sorted;
use crate::text;

/// The directories around what was added: hashes of their paths, which are keyed at random.
#[derive(Default)]
pub(super) struct Hashes {
    wanted: HashSet<u64>,
    hasher: RandomState,
    last: Option<Arc<Directory>>,
}

impl Hashes {
    /// The hash of the directory `name` in one with the hash `above`.
    fn child(&self, above: u64, name: &[u8]) -> u64 {
        self.hasher.hash_one((above, name))
    }

    /// The hash of a directory's path.
    fn path(&self, names: &[Vec<u8>]) -> u64 {
        names.iter().fold(0, |above, name| self.child(above, name))
    }

    /// Adds a directory, and all around it.
    pub(super) fn want(&mut self, directory: &Arc<Directory>) {
        if self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, directory)) {
            return;
        }
        self.last = Some(Arc::clone(directory));
        let mut hash = 0;
        self.wanted.insert(hash);
        for name in names(directory) {
            hash = self.child(hash, &name);
            self.wanted.insert(hash);
        }
    }
}

/// What the journal tells of these directories, and those around the last entry.
pub(super) struct Around<'j> {
    journal: &'j Journal,
    superseded: Superseded,
    hashes: Hashes,
    /// Which listings tell of directories, by the hashes of their paths.
    ids: HashMap<u64, u64>,
    /// The directories around the last entry, the outermost first, and whether the journal tells of them.
    entered: Vec<(Vec<u8>, bool)>,
}

impl<'j> Around<'j> {
    /// Finds out what the journal tells.
    pub(super) fn of(journal: &'j Journal, hashes: Hashes) -> Result<Self> {
        let superseded = journal.superseded()?;
        let (mut ids, mut paths) = (HashMap::new(), HashMap::new());
        for listing in journal.listings()? {
            let (at, listing) = listing?;
            if superseded.is_over(&listing) {
                continue;
            }
            if listing.is_first(at) {
                let path = match listing.parent {
                    None => Some(0),
                    Some(parent) => {
                        paths.get(&parent).map(|&above| hashes.child(above, listing.name.to_bytes()))
                    }
                };
                let Some(path) = path.filter(|path| hashes.wanted.contains(path)) else { continue };
                paths.insert(listing.id, path);
            }
            if let Some(path) = paths.get(&listing.id) {
                ids.insert(*path, listing.id);
            }
        }
        Ok(Self { journal, superseded, hashes, ids, entered: Vec::new() })
    }

    /// Adds the lines of a directory and of those around it, unless they were entered for the last entry. `added` says what it really
    /// is where it was added itself.
    pub(super) fn enter(
        &mut self,
        directory: &Arc<Directory>,
        added: Option<Record>,
        lines: &mut Sorted<Line>,
    ) -> Result<()> {
        let path = names(directory);
        // The export itself is the first.
        let is_common = |(place, (name, _)): &(usize, &(Vec<u8>, bool))| {
            place.checked_sub(1).is_none_or(|place| path.get(place) == Some(name))
        };
        let common = self.entered.iter().enumerate().take_while(is_common).count();
        self.entered.truncate(common);
        let mut added = added;
        let chain: Vec<_> = std::iter::successors(Some(directory), |directory| directory.parent()).collect();
        for (depth, directory) in chain.into_iter().rev().enumerate().skip(common) {
            let is_itself = depth == path.len();
            let around = path.get(..depth).unwrap_or_default();
            let id = self.known(around, directory)?;
            // A directory that the journal does not tell of is named in the one that it is in.
            if let (None, Some((name, above))) = (id, around.split_last()) {
                let what = What::Entry(name.clone(), None);
                lines.push(&Line { directory: above.to_vec(), what });
            }
            let added = if is_itself { added.take() } else { None };
            let what = What::Itself { id, identity: directory.identity(), added };
            lines.push(&Line { directory: around.to_vec(), what });
            self.entered.push((around.last().cloned().unwrap_or_default(), id.is_some()));
        }
        Ok(())
    }

    /// Where the journal tells of a directory, if it is still that one, and those around it are.
    fn known(&self, path: &[Vec<u8>], directory: &Directory) -> Result<Option<u64>> {
        let is_around_known = self.entered.last().is_none_or(|(_, is_known)| *is_known);
        let id = self.ids.get(&self.hashes.path(path)).copied();
        let Some(id) = id.filter(|_| is_around_known) else { return Ok(None) };
        let pin =
            directory.pin().with_context(|| format!("opening '{}'", text::escape(&directory.path())))?;
        let listing = listing(self.journal, &self.superseded, id)?;
        Ok((listing.own.is_inode(pin.inode()) && *listing.name == *directory.name()).then_some(id))
    }
}

/// What the journal says last of a directory itself.
pub(super) fn listing(journal: &Journal, superseded: &Superseded, id: u64) -> Result<Listing> {
    let mut listing = journal.listing_at(id)?;
    ensure!(listing.id == id, "byte {id} of the journal does not start a directory");
    superseded.prune(id, &mut listing);
    Ok(listing)
}
