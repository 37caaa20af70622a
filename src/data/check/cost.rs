//! What a conversion takes, as far as can be told beforehand.

use std::time::Duration;

use super::facts::Facts;
use crate::data::entry::Kind;
use crate::data::filesystem::Attributes;
use crate::data::form::Model;
use crate::report::check::CostRow;

/// Bytes that the journal takes for an entry; what it says of itself, rounded up for names and attributes.
const JOURNAL_BYTES: u64 = 50;
/// How long an inode takes where it could not be tried.
const SLOW: Duration = Duration::from_micros(100);
/// What a conversion does to an inode, in terms of what was measured on a new one: it also finds it, reads it, records
/// it and gives it its times.
const WORK: u32 = 2;
/// How many inodes of ext4 share a block of equal attributes.
const SHARING: u64 = 1024;

/// The cost of converting to `model`.
pub(crate) fn of(facts: &Facts, model: Model) -> CostRow {
    let survey = &facts.survey;
    let entries = survey.entries();
    let block = facts.filesystem.block;
    let targets = survey.of(Kind::Symlink).saturating_mul(block);
    let (copied_bytes, copied) = (survey.lower_bytes, survey.lower);
    let (bytes, inodes) = match model {
        Model::MappedXattr => (targets.saturating_add(attribute_bytes(facts)), 0),
        // A text file for every entry, in a directory for every directory.
        Model::MappedFile => {
            let files = entries.saturating_add(survey.of(Kind::Directory));
            (targets.saturating_add(files.saturating_mul(block)), files)
        }
    };
    let per_inode = facts.per_inode.unwrap_or(SLOW).saturating_mul(WORK);
    let work = per_inode.saturating_mul(u32::try_from(entries).unwrap_or(u32::MAX));
    let seconds = facts.walk.saturating_add(work).as_secs() + 1;
    let (bytes, inodes) = (bytes.saturating_add(copied_bytes), inodes.saturating_add(copied));
    let (rollback_bytes, rollback_inodes) = of_rollback(facts);
    CostRow {
        seconds,
        bytes,
        inodes,
        rollback_bytes,
        rollback_inodes,
        journal_bytes: entries.saturating_mul(JOURNAL_BYTES),
    }
}

/// What a rollback takes besides, before it gives room back: an entry that was replaced is made anew before what replaces it is
/// removed, and where it has several names that is kept to the end; a real ACL may need a block of its own; a file system that
/// never writes in place writes all it touches to another place first.
fn of_rollback(facts: &Facts) -> (u64, u64) {
    let survey = &facts.survey;
    let (block, kind) = (facts.filesystem.block, facts.filesystem.kind.as_slice());
    rollback_room(survey.entries(), survey.replaced(), survey.acls, block, kind)
}

/// [`of_rollback`] for so many entries, of which `replaced` are replaced and `acls` have ACLs, on a file system of this type with
/// blocks of so many bytes: bytes, and inodes.
pub(crate) fn rollback_room(entries: u64, replaced: u64, acls: u64, block: u64, kind: &[u8]) -> (u64, u64) {
    const LEAST: u64 = 1 << 20;
    const COPIED: u64 = 512;
    let blocks = acls.saturating_add(replaced);
    let copies = [&b"btrfs"[..], b"zfs", b"bcachefs"].contains(&kind);
    let copied = if copies { entries.saturating_mul(COPIED) } else { 0 };
    let bytes = blocks.saturating_mul(block).saturating_add(copied).saturating_add(LEAST);
    (bytes, replaced.saturating_add(1))
}

/// Bytes of blocks that the attributes take.
fn attribute_bytes(facts: &Facts) -> u64 {
    let survey = &facts.survey;
    let entries = survey.entries();
    let Attributes::Tried { bytes, .. } = facts.filesystem.attributes else { return 0 };
    let most = entries.saturating_mul(bytes);
    if !facts.filesystem.kind.starts_with(b"ext") {
        return most;
    }
    // Equal sets share blocks; an ACL makes a set of its own.
    let sets = u64::try_from(survey.sets.len()).unwrap_or(u64::MAX);
    let blocks = sets.saturating_add(survey.acls).saturating_add(entries / SHARING);
    blocks.saturating_mul(bytes).min(most)
}
