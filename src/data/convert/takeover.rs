//! `migrate convert --adopt`: what other programs of the host have put into a converted export since becomes what the guest sees
//! of it.
//!
//! In this order: what an interrupted run has begun is brought to its end; what was added is looked for; its original state is
//! recorded in the conversion's journal, and put on stable storage; then one entry after the other is converted, as in a
//! conversion. A guest may be running: a file or a directory stays the inode that it is, and a symbolic link or a special file is
//! replaced in one step.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{AtFlags, Gid, Mode, Uid};

use super::converter::Converter;
use crate::data::added::{Added, Additions, Places, Search};
use crate::data::consent::{Consent, ensure_root, wrong_usage};
use crate::data::entry::Kind;
use crate::data::error_summary::ErrorSummary;
use crate::data::filesystem;
use crate::data::flags::FlagGuard;
use crate::data::form::Model;
use crate::data::goal::{ConversionTarget, EntryError};
use crate::data::idmap;
use crate::data::journal::{self, Format, Journal, Stage, Writer};
use crate::data::lock::lock;
use crate::data::moved_inodes::MovedInodes;
use crate::data::options::ConvertArgs;
use crate::data::pin;
use crate::data::progress::Progress;
use crate::data::staging::{self, Links, Staging};
use crate::data::tree::{Directory, Tree};
use crate::data::walk;
use crate::exit::Outcome;
use crate::report::{FindingRow, print_with, write_findings};
use crate::text;
use crate::text::counted;

mod batch;

/// What the admin asked for.
struct Order<'a> {
    args: &'a ConvertArgs,
    consent: Consent,
    export: PathBuf,
    journal: PathBuf,
    tree: Tree,
    /// The export's open root.
    root: File,
}

/// `migrate convert EXPORT --adopt`.
pub(super) fn run(args: &ConvertArgs) -> Result<Outcome> {
    let shown = text::escape_path(&args.export);
    let export = args.export.canonicalize().with_context(|| format!("cannot find the export '{shown}'"))?;
    let consent = match Consent::of(args, &export) {
        Ok(consent) => consent,
        Err(message) => return Ok(wrong_usage(&message)),
    };
    // The journal is root's to read, and what others have added may be theirs alone.
    ensure_root("adopt what was added to an export")?;
    let journal = args.journal.clone().unwrap_or_else(|| journal::default_path(&export));
    let journal = std::path::absolute(journal)?;
    ensure!(
        journal.exists(),
        "there is no journal at {}: name the conversion's by --journal. An export that is not converted yet is converted without \
         --adopt",
        text::escape_path(&journal)
    );
    let root = if args.apply {
        lock(&export)?
    } else {
        File::open(&export).with_context(|| format!("cannot open the export '{shown}'"))?
    };
    let tree = Tree::open(&export).with_context(|| format!("cannot open the export '{shown}'"))?;
    let order = Order { args, consent, export, journal, tree, root };
    let journal = order.open()?;
    filesystem::refuse_read_only(&order.export)?;
    idmap::refuse(&order.export, &journal)?;
    if args.apply { order.apply(journal) } else { order.show(&journal) }
}

impl Order<'_> {
    /// The journal of the export, which must be converted.
    fn open(&self) -> Result<Journal> {
        let shown = text::escape_path(&self.export);
        let journal = Journal::of_export(&self.journal, self.root.as_fd())?;
        if let Some(journal) = &journal {
            journal.ensure_no_other(self.root.as_fd())?;
            idmap::ensure_same_ids(&self.export, journal)?;
        }
        let stage = journal.as_ref().map_or(Stage::Recording, Journal::stage);
        let advice = match stage {
            Stage::Recording => "is not converted: convert it without --adopt",
            Stage::Converting => "is converted in part: go on by migrate convert --apply without --adopt",
            Stage::RollingBack => "is being rolled back: finish that by migrate rollback --apply",
            Stage::RolledBack => "is rolled back: convert it again without --adopt",
            Stage::Converted => "",
        };
        let Some(journal) = journal.filter(|_| stage == Stage::Converted) else {
            bail!("'{shown}' {advice}")
        };
        let begin = journal.begin();
        ensure!(
            !begin.unmaps,
            "{} is the journal of an unmapping, not of a conversion",
            text::escape_path(&self.journal)
        );
        ensure!(
            journal.format() > Format::One,
            "{} is a journal of format 1, which can't tell new files from old ones for certain: take the conversion back by migrate \
             rollback, and convert anew",
            text::escape_path(&self.journal)
        );
        let uid = self.tree.inode().uid;
        ensure!(
            uid == begin.uid,
            "'{shown}' itself belongs to the user {uid}, and was converted for {}: if QEMU runs as {uid} now, take the conversion \
             back by migrate rollback and convert anew; otherwise give the directory back to {} (chown)",
            begin.uid,
            begin.uid
        );
        Ok(journal)
    }

    fn search(&self, journal: &Journal) -> Result<Additions> {
        let covers = |finding: &_| self.consent.covers(finding);
        let search = Search {
            export: &self.export,
            tree: &self.tree,
            journal,
            covers: &covers,
            settle: Duration::from_secs(self.args.settle),
            jobs: self.args.work.jobs(),
        };
        search.run()
    }

    /// Tells what would be done.
    fn show(&self, journal: &Journal) -> Result<Outcome> {
        let additions = self.search(journal)?;
        let shown = text::escape_path(&self.export);
        print_with(|out| {
            write_findings(&rows(&additions), out)?;
            writeln!(
                out,
                "'{shown}': {} added on the host would be adopted, {} of them links and special files that regular files would \
                 replace; {} would get QEMU's user as the owner again.",
                counted(additions.new.len() as u64, "entry"),
                additions.replaced(),
                counted(additions.returned.len() as u64, "entry")
            )?;
            if additions.pending > 0 {
                let pending = counted(additions.pending, "entry");
                writeln!(out, "An adoption was interrupted: {pending} of it would be adopted first.")?;
            }
            write_counts(&additions, out)?;
            writeln!(out, "Dry run: nothing was changed. Run the same command with --apply to adopt.")
        })?;
        Ok(if additions.left_count > 0 { Outcome::Findings } else { Outcome::Clean })
    }

    /// Adopts.
    fn apply(&self, mut journal: Journal) -> Result<Outcome> {
        let mut writer = journal.append_marking(self.root.as_fd())?;
        // A run that was killed may not have got to this.
        writer.mark(Stage::Converted).context("marking the export")?;
        let error_summary = ErrorSummary::default();
        let begun = journal.adopting();
        let mut is_over = true;
        if let Some(from) = begun {
            (writer, is_over) = self.convert(&journal, writer, from, true, &error_summary)?;
            journal = Journal::open(&self.journal)?;
        }
        let additions = self.search(&journal)?;
        let full = |error| journal::not_written(error, &self.journal);
        if !additions.new.is_empty() {
            let from = writer.len();
            let goal = adopting_goal(&journal)?;
            batch::record(&self.tree, &journal, goal, &additions.new, &mut writer)?;
            writer.reserve().map_err(full)?;
            writer.adopting().map_err(full)?;
            let converted = self.convert(&journal, writer, from, false, &error_summary)?;
            (writer, is_over) = (converted.0, is_over && converted.1);
        }
        let goal = ConversionTarget::of_journal(&journal)?;
        let mut places = Places::of(&self.tree);
        for added in additions.returned.iter() {
            let added = added?;
            let (directory, name) = places.find(&added);
            if let Err(obstacle) = give_back(&added, &directory, &name, &goal) {
                error_summary.add(added.path, obstacle);
            }
        }
        if begun.is_some() && error_summary.failures() == 0 {
            self.remove_leftovers(&Staging::new(&journal.begin().staging))?;
        }
        // Whether anybody hears it changes nothing of what was done.
        let _ = error_summary.write(&mut std::io::stderr().lock());
        let shown = text::escape_path(&self.export);
        if error_summary.failures() > 0 || !is_over {
            write_findings(&rows(&additions), &mut std::io::stderr().lock())?;
            complain!(
                "virtfs-proxy-helper: not all of what was added to '{shown}' is adopted. Nothing is lost: deal with the above and \
                 run the same command again to go on."
            );
            return Ok(Outcome::Failure);
        }
        rustix::fs::syncfs(self.tree.root().open()?.as_fd())
            .context("putting the export on stable storage")?;
        if begun.is_some() || !additions.new.is_empty() {
            writer.converted().map_err(full)?;
        }
        self.tell(&additions, begun.is_some(), error_summary.is_empty())
    }

    /// Says what was done.
    fn tell(&self, additions: &Additions, resumed: bool, is_quiet: bool) -> Result<Outcome> {
        let shown = text::escape_path(&self.export);
        write_findings(&rows(additions), &mut std::io::stderr().lock())?;
        print_with(|out| {
            if resumed {
                writeln!(out, "'{shown}': the adoption that was interrupted is at its end.")?;
            }
            writeln!(
                out,
                "'{shown}': {} added on the host adopted, {} given back to QEMU's user.",
                counted(additions.new.len() as u64, "entry"),
                counted(additions.returned.len() as u64, "entry")
            )?;
            write_counts(additions, out)
        })?;
        Ok(if is_quiet && additions.left_count == 0 { Outcome::Clean } else { Outcome::Findings })
    }

    /// Converts what the listings of the journal from an offset on tell of. `resumed` says that an earlier run has begun to.
    fn convert(
        &self,
        journal: &Journal,
        writer: Writer,
        from: u64,
        resumed: bool,
        error_summary: &ErrorSummary,
    ) -> Result<(Writer, bool)> {
        let goal = adopting_goal(journal)?;
        let progress = Progress::start(self.args.work.progress, "adopting", 0);
        let converter = Converter {
            tree: &self.tree,
            goal,
            journal: &self.journal,
            writer: Mutex::new(writer),
            jobs: self.args.work.jobs(),
            resumed,
            adopting: true,
            before: Mutex::default(),
            unfinished: Mutex::default(),
            staging: Staging::new(&journal.begin().staging),
            links: Links::default(),
            metadata: Links::default(),
            moved_inodes: MovedInodes::new(&self.journal, goal, true),
            error_summary,
            progress: &progress,
        };
        let is_over = converter.convert_added(from)?;
        let Converter { writer, .. } = converter;
        Ok((writer.into_inner().unwrap_or_else(PoisonError::into_inner), is_over))
    }

    /// Removes what an interrupted run has left on the way.
    fn remove_leftovers(&self, staging: &Staging) -> Result<()> {
        let mut found = Vec::new();
        let mut directories = vec![Arc::clone(self.tree.root())];
        while let Some(directory) = directories.pop() {
            let Ok(names) = walk::names(&directory) else { continue };
            for (name, kind) in names {
                if staging.made(&name) {
                    found.push((Arc::clone(&directory), name));
                } else if kind.is_none_or(|kind| kind == Kind::Directory) {
                    directories.push(directory.child(&name));
                }
            }
        }
        for (directory, name) in found {
            let fd = directory.open()?;
            let before = pin::stat(fd.as_fd())?;
            let lifted = FlagGuard::of(fd.as_fd(), before.immutable, before.append_only)?;
            rustix::fs::unlinkat(&fd, &*name, AtFlags::empty())
                .with_context(|| format!("removing '{}'", text::escape(&directory.path_of(&name))))?;
            staging::restore_times(fd.as_fd(), before.accessed, before.modified)?;
            lifted.map_or(Ok(()), FlagGuard::restore)?;
        }
        Ok(())
    }
}

/// What is adopted that has mapped attributes is kept as they say.
fn adopting_goal(journal: &Journal) -> Result<ConversionTarget> {
    Ok(ConversionTarget { adopts: true, ..ConversionTarget::of_journal(journal)? })
}

fn rows(additions: &Additions) -> Vec<FindingRow> {
    additions.left.iter().map(FindingRow::from).collect()
}

fn write_counts(additions: &Additions, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    if additions.left_count > 0 {
        let left = counted(additions.left_count, "entry");
        writeln!(
            out,
            "{left} left as they are: the guest can't use them. The messages about them, or about a directory around them, say why."
        )?;
    }
    let Some(first) = &additions.unmapped.first else { return Ok(()) };
    writeln!(
        out,
        "{} of QEMU's user without mapped attributes (the first is '{}') left as they are: the guest can use them, and sees QEMU's \
         user as their owner.",
        counted(additions.unmapped.count, "entry"),
        text::escape(first)
    )
}

/// Gives a file or directory that was converted or adopted before, and that another program has given another owner, back to QEMU's
/// user. Its owner changes last: killed before, the same is done again.
fn give_back(
    added: &Added,
    directory: &Arc<Directory>,
    name: &CStr,
    goal: &ConversionTarget,
) -> Result<(), EntryError> {
    let entry = &added.record.entry;
    let pin = if added.is_directory() {
        directory.child(name).pin()?
    } else {
        let kind = entry.kind().filter(|kind| *kind == Kind::File);
        directory.entry_at(directory.open()?.as_fd(), name, kind)?
    };
    let inode = pin.inode();
    if !added.record.is(inode) || inode.uid != added.record.entry.uid {
        return Err(EntryError::Changed);
    }
    let lifted = FlagGuard::of(pin.as_fd(), inode.immutable, inode.append_only)?;
    if goal.model == Model::MappedXattr {
        for (name, acl) in [
            (c"system.posix_acl_access", &entry.access_acl),
            (c"system.posix_acl_default", &entry.default_acl),
        ] {
            if acl.is_some() {
                pin.remove_xattr(name)?;
            }
        }
    }
    rustix::fs::fchmod(&pin, Mode::from_raw_mode(goal.permissions(entry)))?;
    rustix::fs::fchown(&pin, Some(Uid::from_raw(goal.uid)), Some(Gid::from_raw(goal.gid)))?;
    Ok(lifted.map_or(Ok(()), FlagGuard::restore)?)
}
