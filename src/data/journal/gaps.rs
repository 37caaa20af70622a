//! What a journal names and does not tell of.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;

use super::records::Listing;
use super::superseded::Superseded;

/// Directories of which a journal does not tell all, as far as its listings were seen.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// Names that were told to be directories, and of which no listing came, by the ids of the directories they are in.
    unlisted: HashMap<u64, HashSet<CString>>,
    /// Directories whose last part did not come.
    open: HashSet<u64>,
}

impl Gaps {
    /// Sees the listing at `at`. All that count have to be shown, in their order.
    pub(crate) fn see(&mut self, at: u64, listing: &Listing, superseded: &Superseded) {
        if superseded.is_over(listing) {
            return;
        }
        if listing.is_first(at)
            && let Some(parent) = listing.parent
        {
            self.close(parent, &listing.name);
        }
        if listing.names.is_some() {
            self.open.remove(&listing.id);
        } else if listing.is_first(at) {
            self.open.insert(at);
        }
        for (name, record) in &listing.entries {
            if record.is_none() {
                self.unlisted.entry(listing.id).or_default().insert(name.clone());
            } else {
                self.close(listing.id, name);
            }
        }
        for name in &listing.gone {
            self.close(listing.id, name);
        }
    }

    fn close(&mut self, id: u64, name: &CString) {
        if let Some(names) = self.unlisted.get_mut(&id) {
            names.remove(name);
            if names.is_empty() {
                self.unlisted.remove(&id);
            }
        }
    }

    /// The ids of all directories with gaps.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.open.iter().chain(self.unlisted.keys()).copied()
    }

    /// Whether `name` in the directory `id` was told to be a directory, and has no listing.
    pub(crate) fn is_unlisted(&self, id: u64, name: &CString) -> bool {
        self.unlisted.get(&id).is_some_and(|names| names.contains(name))
    }

    /// All such names in the directory `id`.
    pub(crate) fn unlisted(&self, id: u64) -> impl Iterator<Item = &CString> {
        self.unlisted.get(&id).into_iter().flatten()
    }
}
