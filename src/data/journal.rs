//! The journal of a conversion: the original state of every inode, on stable storage before the first one is
//! touched.
//!
#![doc = include_str!("journal/format.md")]

mod codec;
mod each;
mod export;
mod gaps;
pub(crate) mod mark;
mod reader;
mod records;
mod superseded;
mod writer;

pub(crate) use each::{each_listing, each_of};
pub(crate) use gaps::Gaps;
pub(crate) use mark::Mark;
pub use reader::Journal;
pub(crate) use records::{
    Begin, Listing, NameSum, Record, SUFFIX, Totals, default_path, not_recorded, not_written, now,
};
pub use records::{Format, MAGIC, Stage};
pub(crate) use superseded::Superseded;
pub use writer::{Part, Writer};
