//! The journal of a conversion: the original state of every inode, on stable storage before the first one is
//! touched.
//!
#![doc = include_str!("journal/format.md")]

mod codec;
mod export;
mod gaps;
pub mod mark;
mod reader;
mod records;
mod superseded;
mod writer;

pub use codec::Damaged;
pub use gaps::Gaps;
pub use mark::Mark;
pub use reader::{Journal, Listings};
pub use records::{
    Begin, FileSystem, Format, Listing, MAGIC, NameSum, Record, SUFFIX, Stage, Totals, default_path,
    not_recorded, not_written, now,
};
pub use superseded::Superseded;
pub use writer::{Part, Writer};
