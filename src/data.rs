//! The export's files: their two on-disk forms, and the way from one to the other.
//!
//! | file | what it is |
//! |---|---|
//! | [`entry`] | an entry as the guest sees it; an inode as the kernel tells it |
//! | [`identity`] | which inode, for as long as its file system exists |
//! | [`pin`] | one inode, held by a descriptor |
//! | [`tree`], [`walk`] | a tree's directories, and walks over them that nothing leads outside |
//! | [`form`] | the forms of a tree, and one reader for all |
//! | [`mod@journal`], [`moved_inodes`] | the original state of everything, and its format; of what is elsewhere now |
//! | [`passthrough`], [`mapped_xattr`], [`mapped_file`] | one form each |
//! | [`survey`], [`filesystem`], [`mounts`], [`idmap`], [`id_view`] | what an export holds, and what it lies on |
//! | [`mod@check`] | whether an export can move, and what that takes |
//! | [`mod@verify`] | a conversion proved against its journal |
//! | [`live`], [`neighbours`] | who has an export open, and who else is configured to use it |
//! | [`owner`] | the user that QEMU runs as |
//! | [`mod@manifest`], [`acl`] | a tree as text |

pub mod acl;
pub mod added;
pub mod check;
mod convert;
pub mod devices;
pub mod entry;
pub mod error_summary;
pub mod filesystem;
mod filter;
mod flags;
pub mod form;
pub mod goal;
mod hidden;
pub mod id_view;
pub mod identity;
pub mod idmap;
mod inspect;
pub mod journal;
pub mod labels;
pub mod live;
pub mod manifest;
pub mod mapped_file;
pub mod mapped_xattr;
pub mod mounts;
pub mod moved_inodes;
pub mod neighbours;
pub mod options;
mod outside;
pub mod owner;
pub mod passthrough;
pub mod pin;
pub mod progress;
mod rollback;
pub mod sample;
pub mod staging;
pub mod survey;
mod sys;
mod time;
pub mod tree;
mod unmap;
pub mod verify;
pub mod walk;

use crate::data::options::{
    CheckArgs, ConvertArgs, JournalArgs, ManifestArgs, RollbackArgs, UnmapArgs, VerifyArgs,
};
use crate::exit::Outcome;

/// `migrate check`.
pub fn check(args: &CheckArgs) -> anyhow::Result<Outcome> {
    check::run(args)
}

/// `migrate convert`.
pub fn convert(args: &ConvertArgs) -> anyhow::Result<Outcome> {
    convert::run(args)
}

/// `migrate verify`.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<Outcome> {
    verify::run(args)
}

/// `migrate rollback`.
pub fn rollback(args: &RollbackArgs) -> anyhow::Result<Outcome> {
    rollback::run(args)
}

/// `migrate journal`.
pub fn journal(args: &JournalArgs) -> anyhow::Result<Outcome> {
    inspect::run(args)
}

/// `migrate unmap`.
pub fn unmap(args: &UnmapArgs) -> anyhow::Result<Outcome> {
    unmap::run(args)
}

/// `migrate manifest`.
pub fn manifest(args: &ManifestArgs) -> anyhow::Result<Outcome> {
    manifest::run(args)
}
