//! Whether the export holds what the journal says, and nothing else: names are compared, directory by directory.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::converter::Converter;
use crate::data::entry::Time;
use crate::data::flags::FlagGuard;
use crate::data::form::Model;
use crate::data::goal::EntryError;
use crate::data::journal::{Gaps, Journal, Listing, NameSum, Superseded, each_listing, each_of};
use crate::data::staging::{self, Place};
use crate::data::tree::Directory;
use crate::data::{mapped_file, pin, walk};

/// A directory whose names have to be looked at one by one.
#[derive(Debug, Default)]
struct Odd {
    /// One of its listings, without entries.
    listing: Option<Listing>,
    /// The names that the journal knows in it.
    known: HashSet<CString>,
}

impl Converter<'_> {
    /// Looks for names that are in no listing: leftovers of a crash, which are removed, and entries that appeared since,
    /// which are recorded, as are directories that the journal names and does not tell of.
    pub(super) fn sweep(&self) -> Result<()> {
        let journal = Journal::open(self.journal)?;
        let superseded = journal.superseded()?;
        let mut gaps = Gaps::default();
        let odd = self.odd(&journal, &superseded, &mut gaps)?;
        for (id, odd) in look_up(odd, &journal, &superseded)? {
            let Odd { listing: Some(listing), known } = odd else { continue };
            let directory = journal.directory(self.tree, &listing)?;
            let is_known = |name: &CString| known.contains(name) && !gaps.is_unlisted(id, name);
            if let Err(obstacle) = self.sweep_directory(&directory, &listing, is_known) {
                self.error_summary.add(directory.path(), obstacle);
            }
            for name in gaps.unlisted(id) {
                self.sweep_unlisted(&directory, &listing, name);
            }
        }
        Ok(())
    }

    /// The ids of directories whose names are others than they were, or of which a single listing does not tell all.
    fn odd(&self, journal: &Journal, superseded: &Superseded, gaps: &mut Gaps) -> Result<HashMap<u64, Odd>> {
        let odd = Mutex::new(HashMap::new());
        let note = |id| {
            odd.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default();
        };
        // In their order, whoever works on them.
        let seen = journal.listings()?.inspect(|listing| {
            if let Ok((at, listing)) = listing {
                gaps.see(*at, listing, superseded);
            }
        });
        each_of(seen, self.jobs, |_, listing| {
            if superseded.is_over(&listing) {
                return Ok(());
            }
            if superseded.has(&listing) {
                note(listing.id);
            } else if let Some(names) = listing.names {
                let directory = journal.directory(self.tree, &listing)?;
                // What is gone was told when its entries were to be converted.
                if self.names(&directory).is_ok_and(|now| now != names) {
                    note(listing.id);
                }
            }
            Ok(())
        })?;
        gaps.ids().for_each(note);
        Ok(odd.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// All names in a directory that the guest sees, in short.
    fn names(&self, directory: &Directory) -> rustix::io::Result<NameSum> {
        let mut sum = NameSum::default();
        walk::each_name(directory, |name, _| {
            if !self.is_own(directory, name) {
                sum.add(name.to_bytes());
            }
        })?;
        Ok(sum)
    }

    /// Whether a name is QEMU's own, under this model.
    fn is_own(&self, directory: &Directory, name: &CStr) -> bool {
        self.goal.model == Model::MappedFile && mapped_file::is_reserved(directory, name)
    }

    fn sweep_directory(
        &self,
        directory: &Arc<Directory>,
        listing: &Listing,
        is_known: impl Fn(&CString) -> bool,
    ) -> Result<(), EntryError> {
        let fd = directory.open()?;
        if !listing.own.is_inode(&pin::stat(fd.as_fd())?) {
            return Err(EntryError::Changed);
        }
        for (name, _) in walk::names(directory)? {
            let place = Place { directory, fd: fd.as_fd(), name: &name };
            if self.is_own(directory, &name) || is_known(&name) {
                continue;
            }
            if self.staging.made(&name) {
                let own = &listing.own;
                let lifted = FlagGuard::of(fd.as_fd(), own.immutable, own.append_only)?;
                rustix::fs::unlinkat(&fd, &*name, AtFlags::empty())?;
                staging::restore_times(fd.as_fd(), own.entry.accessed, own.entry.modified)?;
                lifted.map_or(Ok(()), FlagGuard::restore)?;
            } else if !is_mount(place) {
                self.error_summary.add(place.path(), EntryError::Appeared);
                self.adopt(place, listing);
            }
        }
        Ok(())
    }

    /// Records that a directory is not there that was there when its name was read, and not when it was its turn.
    fn sweep_unlisted(&self, directory: &Arc<Directory>, listing: &Listing, name: &CString) {
        let Ok(fd) = directory.open() else { return };
        let place = Place { directory, fd: fd.as_fd(), name };
        if matches!(directory.entry_at(place.fd, name, None), Err(Errno::NOENT)) {
            self.error_summary.add(place.path(), EntryError::Vanished);
            self.adopt(place, listing);
        }
    }

    /// Whether a name was put into or taken out of any directory since `began`, or one of them is not where it was.
    ///
    /// What is carried past a walk from one directory into another is seen by neither's turn; but the kernel stamps both.
    pub(super) fn has_changed(&self, began: Time) -> Result<bool> {
        let journal = Journal::open(self.journal)?;
        let superseded = journal.superseded()?;
        let has_changed = AtomicBool::new(false);
        each_listing(&journal, self.jobs, |at, listing| {
            if !listing.is_first(at) || superseded.is_over(&listing) || has_changed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let is_still = journal.directory(self.tree, &listing)?.pin().is_ok_and(|pin| {
                let inode = pin.inode();
                // Its flags were lifted and set again. Before, nobody could change it.
                let is_fixed = inode.immutable || inode.append_only;
                listing.own.is_inode(inode) && (inode.changed < began || is_fixed)
            });
            has_changed.fetch_or(!is_still, Ordering::Relaxed);
            Ok(())
        })?;
        Ok(has_changed.into_inner())
    }
}

/// What the journal knows of these directories.
fn look_up(
    mut odd: HashMap<u64, Odd>,
    journal: &Journal,
    superseded: &Superseded,
) -> Result<HashMap<u64, Odd>> {
    if odd.is_empty() {
        return Ok(odd);
    }
    for listing in journal.listings()? {
        let (at, mut listing) = listing?;
        let Some(odd) = odd.get_mut(&listing.id) else { continue };
        superseded.prune(at, &mut listing);
        odd.known.extend(listing.entries.drain(..).map(|(name, _)| name));
        odd.listing.get_or_insert(listing);
    }
    Ok(odd)
}

/// Whether something is mounted at a place: it is no part of the export.
fn is_mount(place: Place<'_>) -> bool {
    matches!(place.directory.entry_at(place.fd, place.name, None), Err(Errno::XDEV))
}
