//! `migrate unmap`: a mapped tree's files become really what its guest sees, without the journal of a conversion.
//!
//! It is a rollback by a journal that tells of the root alone: whatever a journal does not know becomes what the guest sees of
//! it. Killed at any point, the same command goes on.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::consent::{ensure_root, refuses_live};
use super::entry::Time;
use super::form::Form;
use super::goal::ConversionTarget;
use super::journal::{Begin, Format, Journal, Part, Record, Stage, Totals, Writer};
use super::lock::{is_inside, lock};
use super::mapped_count::{Counts, count};
use super::rollback::{self, Words};
use super::tree::Tree;
use super::{filesystem, hidden, idmap};
use crate::data::options::UnmapArgs;
use crate::exit::Outcome;
use crate::text;

/// How a rollback speaks of it.
const WORDS: Words = Words { doing: "unmapping", done: "unmapped", is_rollback: false };

/// `migrate unmap`.
pub(super) fn run(args: &UnmapArgs) -> Result<Outcome> {
    let shown = text::escape_path(&args.tree);
    let tree = args.tree.canonicalize().with_context(|| format!("cannot find the tree '{shown}'"))?;
    ensure_root("unmap a tree")?;
    let journal = match &args.journal {
        Some(journal) => std::path::absolute(journal)?,
        None => default_path(&tree),
    };
    if is_inside(&tree, &journal)? {
        complain!(
            "virtfs-proxy-helper: the journal '{}' would be inside the tree: name another place by --journal",
            text::escape_path(&journal)
        );
        return Ok(Outcome::Usage);
    }
    let guard = if args.apply { Some(lock(&tree)?) } else { None };
    let begun = begun(&journal, &tree)?;
    if refuses_live(&tree, args.in_use)? {
        return Ok(Outcome::Findings);
    }
    filesystem::refuse_read_only(&tree)?;
    hidden::refuse(&tree, None)?;
    idmap::refuse_unless_it_has(&tree, || Ok(count(&tree, args.from, args.work.jobs())?.owners))?;
    let Some(guard) = guard else { return show(args, &tree, &journal, begun.is_some()) };
    let journal = match begun {
        Some(journal) => journal,
        None => begin(args, &tree, &guard, &journal)?,
    };
    rollback::apply(&args.work, &tree, &journal, journal.stage(), &WORDS)
}

/// Beside the tree, under another name than that of a conversion.
fn default_path(tree: &Path) -> std::path::PathBuf {
    let mut name = tree.file_name().map_or_else(|| "root".into(), std::ffi::OsStr::to_os_string);
    name.push(".virtfs-unmap-journal");
    tree.parent().unwrap_or(tree).join(name)
}

/// The journal of an earlier run that has begun to change the tree.
fn begun(path: &Path, tree: &Path) -> Result<Option<Journal>> {
    let shown = text::escape_path(path);
    if !path.exists() {
        return Ok(None);
    }
    if let Ok(journal) = Journal::open(path) {
        ensure!(
            journal.begin().unmaps,
            "{shown} is the journal of a conversion: take that back by `migrate rollback`, or name another file by --journal"
        );
        match journal.stage() {
            // Nothing was touched yet: not even the mark of a conversion whose journal is lost may have been replaced.
            Stage::Recording | Stage::Converting | Stage::Converted => return Ok(None),
            Stage::RolledBack => bail!(
                "{shown} says that the tree is unmapped. To unmap what was mapped since, remove it or name another file by \
                 --journal"
            ),
            Stage::RollingBack => {}
        }
    }
    let root = File::open(tree)?;
    if Journal::is_unbegun_unmapping(path, root.as_fd())? {
        Ok(None)
    } else {
        Journal::of_export(path, root.as_fd())
    }
}

/// Tells what would be done. `goes_on` says that an earlier run has begun: what is left may be none of it mapped.
fn show(args: &UnmapArgs, tree: &Path, journal: &Path, goes_on: bool) -> Result<Outcome> {
    let counts = count(tree, args.from, args.work.jobs())?;
    if !goes_on {
        ensure_mapped(&counts, args, tree)?;
    }
    say!(
        "'{}': {} of {} entries are mapped by security_model={}. They would get the owner, the mode and the type that the guest \
         sees; {} regular files would be replaced by the symbolic links, devices, FIFOs and sockets that they stand for. What the guest \
         does not see (file capabilities, inode flags) does not come back: a rollback by the conversion's journal brings it back.",
        text::escape_path(tree),
        counts.mapped,
        counts.entries,
        args.from.name(),
        counts.replaced
    )?;
    say!(
        "Dry run: nothing was changed. Run the same command with --apply to unmap; how far it got is kept in {}. `migrate convert` \
         with the same owner and model takes it back.",
        text::escape_path(journal)
    )?;
    Ok(Outcome::Clean)
}

/// Refuses a tree in which nothing is mapped.
fn ensure_mapped(counts: &Counts, args: &UnmapArgs, tree: &Path) -> Result<()> {
    ensure!(
        counts.mapped > 0,
        "nothing in '{}' is mapped by security_model={}: the files are what they were made, or it is mapped by another model (--from), or it \
         was copied by a tool that leaves user.* attributes or .virtfs_metadata behind. Nothing was changed",
        text::escape_path(tree),
        args.from.name()
    );
    Ok(())
}

/// Begins: a journal that tells of the root alone.
fn begin(args: &UnmapArgs, tree: &Path, root: &File, path: &Path) -> Result<Journal> {
    ensure_mapped(&count(tree, args.from, args.work.jobs())?, args, tree)?;
    if path.exists() {
        std::fs::remove_file(path).with_context(|| format!("removing {}", text::escape_path(path)))?;
    }
    let opened = Tree::open(tree)?;
    let inode = *opened.inode();
    let (uid, gid) = (inode.uid, inode.gid);
    let goal = ConversionTarget {
        model: args.from,
        uid,
        gid,
        fmode: 0o600,
        dmode: inode.permissions() & 0o777,
        adopts: false,
    };
    let begin = Begin { unmaps: true, ..Begin::of(tree, root, &goal, &[])? };
    let pin = opened.root().pin()?;
    let entry = Form::Mapped(args.from).read_directory(opened.root(), &pin)?;
    // Its attributes are its own; no time of change is recorded, for it is not as it is to be.
    let entry = super::entry::Entry { xattrs: Vec::new(), ..entry };
    let own = Record { changed: Time::default(), ..Record::new(&inode, entry) };
    let mut writer = Writer::create(path, &begin, root.as_fd())
        .with_context(|| format!("making the journal {}", text::escape_path(path)))?;
    let mut part = Part::new(Format::Two, None, b"", own, false);
    part.end();
    writer.listing(&mut part).context("writing the journal")?;
    writer
        .recorded(Totals { entries: 1, directories: 1, ..Totals::default() })
        .context("writing the journal")?;
    writer.converted().context("writing the journal")?;
    drop(writer);
    Journal::of_export(path, root.as_fd())?.context("the journal that was just made is gone")
}
