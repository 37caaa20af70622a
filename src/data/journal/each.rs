//! What is done with all listings of a journal, by several workers.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use super::reader::Journal;
use super::records::Listing;
use crate::data::workers;

/// Does something with each listing of a journal, by several workers. The first error ends it.
pub(crate) fn each_listing(
    journal: &Journal,
    jobs: usize,
    work: impl Fn(u64, Listing) -> Result<()> + Sync,
) -> Result<()> {
    each_of(journal.listings()?, jobs, work)
}

/// [`each_listing`] of these listings, which are taken one after the other.
pub(crate) fn each_of(
    listings: impl Iterator<Item = Result<(u64, Listing)>> + Send,
    jobs: usize,
    work: impl Fn(u64, Listing) -> Result<()> + Sync,
) -> Result<()> {
    let listings = Mutex::new(listings);
    workers::run(jobs, || {
        loop {
            let next = listings.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(listing) = next else { return Ok(()) };
            let (at, listing) = listing?;
            work(at, listing)?;
        }
    })
    .map(drop)
}
