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
//! | [`consent`], [`lock`] | what the admin must agree to, and one program at a time |
//! | [`mod@manifest`], [`acl`] | a tree as text |

pub(crate) mod acl;
pub(crate) mod added;
pub(crate) mod check;
mod consent;
mod convert;
pub(crate) mod devices;
pub(crate) mod entry;
pub(crate) mod error_summary;
pub(crate) mod filesystem;
mod filter;
mod flags;
pub(crate) mod form;
pub(crate) mod goal;
mod hidden;
pub(crate) mod id_view;
pub(crate) mod identity;
pub(crate) mod idmap;
mod inspect;
pub(crate) mod journal;
pub(crate) mod labels;
pub(crate) mod live;
mod lock;
pub(crate) mod manifest;
mod mapped_count;
pub(crate) mod mapped_file;
pub(crate) mod mapped_xattr;
pub(crate) mod mounts;
pub(crate) mod moved_inodes;
pub(crate) mod neighbours;
pub(crate) mod options;
mod outside;
pub(crate) mod owner;
pub(crate) mod passthrough;
pub(crate) mod pin;
pub(crate) mod progress;
mod rollback;
pub(crate) mod sample;
pub(crate) mod staging;
pub(crate) mod survey;
mod sys;
mod time;
pub(crate) mod tree;
mod unmap;
pub(crate) mod verify;
pub(crate) mod walk;
mod workers;

use crate::data::options::{
    CheckArgs, ConvertArgs, JournalArgs, ManifestArgs, RollbackArgs, UnmapArgs, VerifyArgs,
};
use crate::exit::Outcome;

/// `migrate check`.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<Outcome> {
    check::run(args)
}

/// `migrate convert`.
pub(crate) fn convert(args: &ConvertArgs) -> anyhow::Result<Outcome> {
    convert::run(args)
}

/// `migrate verify`.
pub(crate) fn verify(args: &VerifyArgs) -> anyhow::Result<Outcome> {
    verify::run(args)
}

/// `migrate rollback`.
pub(crate) fn rollback(args: &RollbackArgs) -> anyhow::Result<Outcome> {
    rollback::run(args)
}

/// `migrate journal`.
pub(crate) fn journal(args: &JournalArgs) -> anyhow::Result<Outcome> {
    inspect::run(args)
}

/// `migrate unmap`.
pub(crate) fn unmap(args: &UnmapArgs) -> anyhow::Result<Outcome> {
    unmap::run(args)
}

/// `migrate manifest`.
pub(crate) fn manifest(args: &ManifestArgs) -> anyhow::Result<Outcome> {
    manifest::run(args)
}
