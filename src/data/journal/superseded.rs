//! Entries that the journal tells of more than once.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};

use anyhow::Result;

use super::reader::Journal;
use super::records::{Listing, Record};
use crate::data::filter::Filter;

/// What an entry takes of a journal at least, in bytes.
const ENTRY: u64 = 32;

/// Entries that are told of more than once: the last time counts.
#[derive(Debug, Default)]
pub struct Superseded {
    /// Where names of a directory are told of last, by its id: those that may have been told of before.
    last: HashMap<u64, HashMap<CString, u64>>,
    over: HashSet<u64>,
    /// What directories themselves were found to be last.
    own: HashMap<u64, Record>,
}

impl Journal {
    /// Which entries are told of more than once, and which directories are therefore told of in vain.
    pub fn superseded(&self) -> Result<Superseded> {
        if self.late { Superseded::of(self) } else { Ok(Superseded::default()) }
    }
}

impl Superseded {
    /// What the late listings of a journal supersede.
    fn of(journal: &Journal) -> Result<Self> {
        let mut superseded = Self::default();
        let mut listed = HashMap::new();
        // What is told of once is not kept: there may be very much that was added to directories.
        let mut told = Filter::of(journal.len() / ENTRY);
        for listing in journal.listings()? {
            let (at, listing) = listing?;
            if let Some(parent) = listing.parent.filter(|_| listing.is_first(at)) {
                told.add((parent, &listing.name));
                if listing.late {
                    listed.insert((parent, listing.name.clone()), at);
                }
            }
            let is_more = listing.late && !listing.is_first(at);
            let Listing { id, own, entries, gone, .. } = listing;
            let names = entries.into_iter().map(|(name, _)| name).chain(gone);
            let again: Vec<_> = names.filter(|name| told.add((id, name))).map(|name| (name, at)).collect();
            if is_more {
                superseded.own.insert(id, own);
                superseded.last.entry(id).or_default().extend(again);
            }
        }
        // A directory's listings come before those of what is in it.
        for listing in journal.listings()? {
            let (at, Listing { id, parent, name, .. }) = listing?;
            let Some(parent) = parent else { continue };
            let is_replaced = id == at
                && (superseded.last(parent, &name).is_some_and(|last| last > at)
                    || listed.get(&(parent, name)).is_some_and(|listed| *listed > at));
            if is_replaced || superseded.over.contains(&parent) {
                superseded.over.insert(id);
            }
        }
        Ok(superseded)
    }

    /// Where an entry was told of last, if it was told of again.
    fn last(&self, id: u64, name: &CStr) -> Option<u64> {
        self.last.get(&id)?.get(name).copied()
    }

    /// Whether a listing tells of nothing any more: something else has taken its directory's place, or that of one above.
    pub fn is_over(&self, listing: &Listing) -> bool {
        self.over.contains(&listing.id)
    }

    /// Whether some entries of a directory were told of again.
    pub fn has(&self, listing: &Listing) -> bool {
        self.last.contains_key(&listing.id)
    }

    /// Whether what a listing at `at` says of an entry is told again by a later one.
    pub fn is_stale(&self, at: u64, listing: &Listing, name: &CStr) -> bool {
        self.last(listing.id, name).is_some_and(|last| last > at)
    }

    /// Removes from a listing at `at` what a later one tells of, or tells again.
    pub fn prune(&self, at: u64, listing: &mut Listing) {
        let Some(last) = self.last.get(&listing.id) else { return };
        if let Some(own) = self.own.get(&listing.id) {
            listing.own = own.clone();
        }
        let is_stale = |name: &CString| last.get(name).is_some_and(|last| *last > at);
        listing.gone.retain(|name| !is_stale(name));
        listing.entries.retain(|(name, _)| !is_stale(name));
    }
}
