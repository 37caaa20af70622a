//! What the journal knows of the inodes that a search has found: both lists are gone through side by side, in the order of inodes.

use std::io;
use std::iter::Peekable;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::list::unspooled;
use super::look::{Candidate, Path};
use crate::data::filter::Filter;
use crate::data::identity::Key;
use crate::data::journal::{Journal, Record};
use crate::report::spool::{Keyed, Rows, Sorted};

/// What the journal knows of an inode.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) record: Record,
    /// Whether its adoption has not got to its end.
    pub(super) is_open: bool,
}

impl Keyed for Known {
    type Key = Key;

    fn key(&self) -> Key {
        self.record.id.key()
    }
}

/// A candidate with all that is to be known of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) candidate: Candidate,
    /// What the journal has recorded of its inode last.
    pub(super) known: Option<Known>,
    /// How many candidates are names of its inode.
    pub(super) names: u64,
}

impl Keyed for Found {
    type Key = Path;

    fn key(&self) -> Path {
        self.candidate.path.clone()
    }
}

/// Adds to each candidate what the journal knows of its inode.
pub(super) fn join(candidates: &Sorted<Candidate>, journal: &Journal) -> Result<Sorted<Found>> {
    let told = told(candidates, journal)?;
    let mut told = told.iter().peekable();
    let mut found = Sorted::default();
    let mut names = Names::default();
    for candidate in candidates.iter() {
        let candidate = unspooled(candidate)?;
        if names.first.as_ref().is_none_or(|first| first.inode.id.key() != candidate.key()) {
            std::mem::take(&mut names).give(&mut told, &mut found)?;
        }
        names.push(candidate);
    }
    names.give(&mut told, &mut found)?;
    Ok(found)
}

/// All names of one inode. It may have very many.
#[derive(Default)]
struct Names {
    first: Option<Candidate>,
    others: Rows<Candidate>,
}

impl Names {
    fn push(&mut self, candidate: Candidate) {
        if self.first.is_none() {
            self.first = Some(candidate);
        } else {
            self.others.push(&candidate);
        }
    }

    fn give(
        self,
        told: &mut Peekable<impl Iterator<Item = io::Result<Known>>>,
        to: &mut Sorted<Found>,
    ) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        let known = last_of(&first, told)?;
        let names = 1 + self.others.len() as u64;
        let others = self.others.iter().map(unspooled);
        for candidate in std::iter::once(Ok(first)).chain(others) {
            to.push(&Found { candidate: candidate?, known: known.clone(), names });
        }
        Ok(())
    }
}

/// What the journal says last of a candidate's inode. Goes on to that of the next one.
fn last_of(
    candidate: &Candidate,
    told: &mut Peekable<impl Iterator<Item = io::Result<Known>>>,
) -> Result<Option<Known>> {
    let (key, mut last) = (candidate.key(), None);
    while let Some(known) = told.next_if(|known| known.as_ref().map_or(true, |known| known.key() <= key)) {
        let known = unspooled(known)?;
        if known.key() == key && known.record.is(&candidate.inode) {
            last = Some(known);
        }
    }
    Ok(last)
}

/// What the journal tells of the inodes of candidates, and of few others.
fn told(candidates: &Sorted<Candidate>, journal: &Journal) -> Result<Sorted<Known>> {
    let mut filter = Filter::of(candidates.len() as u64);
    for candidate in candidates.iter() {
        filter.add(unspooled(candidate)?.key());
    }
    let mut told = Sorted::default();
    let open = journal.adopting().unwrap_or(u64::MAX);
    for listing in journal.listings()? {
        let (at, listing) = listing?;
        let own = listing.is_first(at).then_some(listing.own);
        let records = listing.entries.into_iter().filter_map(|(_, record)| record);
        for record in own.into_iter().chain(records).filter(|record| filter.may_have(record.id.key())) {
            told.push(&Known { record, is_open: at >= open });
        }
    }
    Ok(told)
}
