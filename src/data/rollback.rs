//! `migrate rollback`: the export's files become again what they were before the conversion.
//!
//! What the guest sees of an entry becomes what it really is. For an entry that nobody has changed since, this is what
//! the journal recorded; what only the journal knows (file capabilities, attributes of replaced inodes, inode
//! flags, a directory's times) comes from there.
//!
//! First the entries that the journal tells of, at their places; then, by a walk, those that the guest made or moved.
//! Killed at any point, the same command goes on: an entry that is restored already is found so.

mod journaled;
mod kept;
mod lost;
mod rest;
mod restore;
mod restorer;
mod room;
mod seen;
mod times;

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};

use self::kept::Kept;
use self::lost::Lost;
use self::restorer::{Counts, Restorer};
use self::room::Room;
use super::consent::{ensure_root, refuses_live};
use super::form::Form;
use super::goal::ConversionTarget;

use super::error_summary::ErrorSummary;
use super::journal::{self, Journal, Stage};
use super::lock::lock;
use super::moved_inodes::MovedInodes;
use super::progress::Progress;
use super::staging::{Links, Staging};
use super::tree::Tree;
use super::{filesystem, hidden, idmap};
use crate::data::options::{RollbackArgs, WorkArgs};
use crate::exit::Outcome;
use crate::report::finding;
use crate::text;

/// `migrate rollback`.
pub(super) fn run(args: &RollbackArgs) -> Result<Outcome> {
    let shown = text::escape_path(&args.export);
    let export = args.export.canonicalize().with_context(|| format!("cannot find the export '{shown}'"))?;
    let path = args.journal.clone().unwrap_or_else(|| journal::default_path(&export));
    journal::mark::ensure_exists(&path)?;
    // The journal is root's to read.
    ensure_root("roll a conversion back")?;
    let guard = if args.apply { Some(lock(&export)?) } else { None };
    let root = File::open(&export).with_context(|| format!("cannot open the export '{shown}'"))?;
    let journal = if args.by_path {
        Some(Journal::of_copy(&path, root.as_fd())?)
    } else {
        Journal::of_export(&path, root.as_fd())?
    };
    let Some(journal) = journal else {
        say!("'{shown}': the conversion was interrupted before it began; there is nothing to do.")?;
        return Ok(Outcome::Clean);
    };
    journal.ensure_of_conversion()?;
    if args.by_path {
        journal.ensure_of_mapped_copy(root.as_fd())?;
    } else {
        journal.ensure_no_other(root.as_fd())?;
    }
    match journal.stage() {
        Stage::Recording => {
            say!(
                "'{shown}': the conversion was interrupted before it changed anything; there is nothing to do."
            )?;
            Ok(Outcome::Clean)
        }
        Stage::RolledBack => {
            if guard.is_some() {
                // A run that was killed may not have got to this.
                journal
                    .append_marking(root.as_fd())?
                    .mark(Stage::RolledBack)
                    .context("removing the export's mark")?;
            }
            say!("'{shown}' is rolled back; there is nothing to do.")?;
            Ok(Outcome::Clean)
        }
        _ if refuses_live(&export, args.in_use)? => Ok(Outcome::Findings),
        _ if guard.is_none() => {
            refuse_views(&export, &journal)?;
            show(&export, &journal)?;
            Ok(Outcome::Clean)
        }
        stage => apply(&args.work, &export, &journal, stage, &WORDS),
    }
}

/// Tells what would be done.
fn show(export: &Path, journal: &Journal) -> Result<()> {
    let entries = journal.totals().map_or(0, |totals| totals.entries);
    let state = match journal.stage() {
        Stage::Converted => "is converted",
        Stage::RollingBack => "is being rolled back, and was interrupted",
        _ => "is converted in part",
    };
    say!(
        "'{}' ({entries} entries recorded) {state}. Every entry would get the owner, the mode and the type \
         that the guest sees, as before the conversion; entries that the guest has made or changed since keep what it gave them.",
        text::escape_path(export)
    )?;
    say!("Dry run: nothing was changed. Run the same command with --apply to roll back.")
}

/// Refuses an export that is seen through mounts by which not all of it can be restored.
fn refuse_views(export: &Path, journal: &Journal) -> Result<()> {
    filesystem::refuse_read_only(export)?;
    idmap::refuse(export, journal)?;
    hidden::refuse(export, Some(journal).filter(|journal| !journal.begin().unmaps))
}

/// From where on a journal tells of an adoption that was interrupted, and the ids of the directories that it tells of.
fn open_adoption(journal: &Journal) -> Result<Option<(u64, HashSet<u64>)>> {
    let Some(from) = journal.adopting() else { return Ok(None) };
    let mut directories = HashSet::new();
    for listing in journal.listings()? {
        let (at, listing) = listing?;
        if at >= from {
            directories.insert(listing.id);
        }
    }
    Ok(Some((from, directories)))
}

/// How one speaks of what is done.
pub(super) struct Words {
    /// "rolling back"
    pub(super) doing: &'static str,
    /// "rolled back"
    pub(super) done: &'static str,
    /// Whether a conversion is taken back, of which the journal tells.
    pub(super) is_rollback: bool,
}

const WORDS: Words = Words { doing: "rolling back", done: "rolled back", is_rollback: true };

/// Makes every entry really what it was, or what the guest sees of it.
pub(super) fn apply(
    work: &WorkArgs,
    export: &Path,
    journal: &Journal,
    stage: Stage,
    words: &Words,
) -> Result<Outcome> {
    refuse_views(export, journal)?;
    let begin = journal.begin();
    let tree = Tree::open(export)?;
    let mut writer = journal.append_marking(tree.root().open()?.as_fd())?;
    if stage == Stage::RollingBack {
        // A run that was killed may not have got to this.
        writer.mark(Stage::RollingBack).context("marking the export")?;
    } else {
        writer.rollback_begun().map_err(|error| journal::not_written(error, journal.path()))?;
    }
    let goal = ConversionTarget::of_journal(journal)?;
    let had_mapped =
        journal.has_adopted() || begin.accepted.iter().any(|id| id == finding::ALREADY_MAPPED.id);
    let totals = journal.totals().unwrap_or_default();
    let progress = Progress::start(work.progress, words.doing, totals.entries);
    let (staging, carriers) = (Staging::new(&begin.staging), Links::default());
    let (complete, errors) = (journal.was_converted(), ErrorSummary::default());
    let kept = Kept::open(&tree, &staging, &carriers, work.jobs()).unwrap_or_else(|obstacle| {
        errors.add(staging.kept().into_bytes(), obstacle);
        Kept::default()
    });
    let restorer = Restorer {
        tree: &tree,
        goal,
        form: Form::Mapped(goal.model),
        journal,
        jobs: work.jobs(),
        complete,
        open: open_adoption(journal)?,
        since: journal.rollback_since(),
        staging,
        linked: Mutex::default(),
        originals: Links::default(),
        carriers,
        kept,
        parted: Mutex::default(),
        moved_inodes: MovedInodes::new(journal.path(), goal, !complete).by_path(journal.is_by_path()),
        mapped_before: had_mapped.then(Mutex::default),
        counts: Counts::default(),
        lost: Lost::default(),
        room: Room::new(File::open(export)?),
        errors,
        progress: &progress,
    };
    if restorer.errors.is_empty() {
        restorer.journaled()?;
    }
    // Otherwise the walk would restore, without what only the journal knows, what it could not.
    if restorer.errors.is_empty() {
        restorer.rest()?;
    }
    let Restorer { errors, counts, lost, kept, staging, .. } = restorer;
    if errors.is_empty()
        && let Err(obstacle) = kept.close()
    {
        errors.add(staging.kept().into_bytes(), obstacle);
    }
    drop(progress);
    // Whether anybody hears it changes nothing of what was done.
    let _ = errors.write(&mut std::io::stderr().lock());
    let shown = text::escape_path(export);
    if errors.lacks_room() {
        room::complain(export, journal, work.jobs(), words.doing)?;
    }
    if !errors.is_empty() {
        complain!(
            "virtfs-proxy-helper: '{shown}' is not wholly {}. Nothing is lost: deal with the above and run the same command \
             again to go on.",
            words.done
        );
        return Ok(Outcome::Failure);
    }
    rustix::fs::syncfs(tree.root().open()?.as_fd()).context("putting the export on stable storage")?;
    writer.rolled_back().map_err(|error| journal::not_written(error, journal.path()))?;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    if count(&counts.untold) > 0 {
        complain!(
            "virtfs-proxy-helper: the guest moved {} links or special files of which several looked alike and had different \
             attributes (security.*, trusted.*): none was given back to them",
            count(&counts.untold)
        );
    }
    let is_all = lost.complain(goal.model);
    if !words.is_rollback {
        let all = [&counts.as_recorded, &counts.as_changed, &counts.unrecorded].map(count);
        say!(
            "'{shown}' is unmapped: {} entries have the owner, the mode and the type that the guest saw. To take it back: migrate convert --apply \
             --security-model={} --owner={}:{}",
            all.iter().sum::<u64>(),
            begin.security_model,
            begin.uid,
            begin.gid
        )?;
        return Ok(Outcome::Clean);
    }
    say!(
        "'{shown}' is rolled back: {} entries are as the journal has them, {} as the guest changed them after the conversion, \
         and {} as the guest made or moved them. Next: change the configuration back, then start the helper and the guest.",
        count(&counts.as_recorded),
        count(&counts.as_changed),
        count(&counts.unrecorded)
    )?;
    Ok(if is_all { Outcome::Clean } else { Outcome::Findings })
}
