//! `migrate convert`: the export's files become QEMU's user's, and the guest sees no difference.
//!
//! Two halves. First everything's original state is recorded in the journal, and put on stable storage; nothing is
//! changed. Then one inode after the other is converted, as the journal tells them. Killed at any point, the same
//! command goes on: an inode that is converted already is found so.

mod adopt;
mod apply;
mod converter;
mod earlier;
mod passes;
mod record;
mod sweep;
mod takeover;
mod wanted;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use super::check::{self, Facts};
use super::consent::{Consent, decide, ensure_root, refuses_live, wrong_usage};
use super::form::Model;
use super::goal::ConversionTarget;

use super::error_summary::ErrorSummary;
use super::journal::{self, Begin, Journal, Stage, Totals, Writer};
use super::lock::{is_inside, lock};
use super::moved_inodes::MovedInodes;
use super::owner::Owner;
use super::progress::Progress;
use super::staging::{Links, Staging};
use super::survey;
use super::tree::Tree;
use super::walk;
use super::{hidden, idmap};
use crate::data::options::ConvertArgs;
use crate::exit::Outcome;
use crate::report::check::bytes;
use crate::report::{FindingRow, print_with, write_findings};
use crate::text::{self, counted};
use converter::Converter;
use earlier::Earlier;
use passes::Reached;
use record::{Recorder, Recording};
use wanted::Wanted;

/// What the admin asked for.
struct Order<'a> {
    args: &'a ConvertArgs,
    consent: Consent,
    export: PathBuf,
    journal: PathBuf,
    wanted: Wanted,
}

/// `migrate convert`.
pub(super) fn run(args: &ConvertArgs) -> Result<Outcome> {
    if args.adopt {
        return takeover::run(args);
    }
    let shown = text::escape_path(&args.export);
    let export = args.export.canonicalize().with_context(|| format!("cannot find the export '{shown}'"))?;
    let consent = match Consent::of(args, &export) {
        Ok(consent) => consent,
        Err(message) => return Ok(wrong_usage(&message)),
    };
    let journal = args.journal.clone().unwrap_or_else(|| journal::default_path(&export));
    let journal = std::path::absolute(journal)?;
    // Before anything in it is looked at.
    let system = check::system_finding(&export, &check::system_reasons(&export));
    if consent.refuses(system.as_slice())? {
        return Ok(Outcome::Findings);
    }
    if args.apply {
        ensure_root("convert an export")?;
    }
    if is_inside(&export, &journal)? {
        return Ok(wrong_usage(&format!(
            "the journal '{}' would be inside the export: name another place by --journal",
            text::escape_path(&journal)
        )));
    }
    let begun = match Earlier::of(&journal, &idmap::open_export(&export)?)? {
        Earlier::Begun(journal) => journal.is_going_on().then(|| journal.begin().clone()),
        Earlier::Nothing | Earlier::Stillborn => None,
    };
    let wanted = Wanted::of(args, begun.as_ref())?;
    if let Some(taken) = begun.as_ref().and_then(|begin| Wanted::taken(args, begin)) {
        complain!(
            "virtfs-proxy-helper: the conversion of this export was started with these options, which are used again: {taken}"
        );
    }
    if wanted.owner.uid == 0 {
        complain!(
            "virtfs-proxy-helper: with a mapped model QEMU needs no root: where you can choose whom it runs as, name an \
             ordinary user; where it runs as root (Proxmox VE), go on"
        );
    }
    let order = Order { args, consent, export, journal, wanted };
    if args.apply { order.apply() } else { order.show() }
}

impl Order<'_> {
    /// Tells what would be done.
    fn show(&self) -> Result<Outcome> {
        match Earlier::of(&self.journal, &File::open(&self.export)?)? {
            Earlier::Begun(journal) => match journal.stage() {
                Stage::Recording | Stage::RolledBack => {}
                stage => return self.show_begun(&journal, stage),
            },
            Earlier::Nothing | Earlier::Stillborn => {}
        }
        let facts = Facts::gather(&self.export, Some(self.wanted.owner.clone()), self.args.work.jobs())?;
        let cost = check::cost(&facts, self.wanted.model);
        let findings = check::findings(&facts, self.wanted.model, true, &cost);
        let blockers = self.consent.blockers(&findings);
        let survey = &facts.survey;
        print_with(|out| {
            write_findings(&findings.iter().map(FindingRow::from).collect::<Vec<_>>(), out)?;
            writeln!(
                out,
                "{} would become {}'s, with mode {:04o} (directories {:04o}), and what the guest sees of them \
                 kept as security_model={} keeps it.",
                counted(survey.entries(), "entry"),
                self.wanted.owner,
                self.wanted.fmode,
                self.wanted.dmode,
                self.wanted.model.name()
            )?;
            writeln!(
                out,
                "{} symbolic links, devices, FIFOs and sockets would be replaced by regular files.",
                survey.replaced()
            )?;
            writeln!(
                out,
                "Their original state would be kept in {} (about {}), for migrate verify and migrate rollback.",
                text::escape_path(&self.journal),
                bytes(cost.journal_bytes)
            )?;
            if blockers.is_empty() {
                writeln!(out, "Dry run: nothing was changed. Run the same command with --apply to convert.")
            } else {
                writeln!(
                    out,
                    "Nothing was changed, and --apply would change nothing yet: {}",
                    decide(&blockers)
                )
            }
        })?;
        Ok(if blockers.is_empty() { Outcome::Clean } else { Outcome::Findings })
    }

    /// Tells how far a conversion that has begun is, and whether it is the one that is asked for.
    fn show_begun(&self, journal: &Journal, stage: Stage) -> Result<Outcome> {
        let shown = text::escape_path(&self.export);
        let entries = journal.totals().map_or(0, |totals| totals.entries);
        if stage != Stage::RollingBack
            && let Some(differences) = self.wanted.differences(journal.begin())
        {
            let begun = if stage == Stage::Converted { "is converted" } else { "is converted in part" };
            complain!(
                "virtfs-proxy-helper: nothing was changed: '{shown}' ({entries} entries) {begun} with {differences}. \
                 Use the options that it was converted with; or take the conversion back by migrate rollback and convert \
                 anew."
            );
            return Ok(Outcome::Findings);
        }
        let (what, outcome) = match stage {
            Stage::Converted if journal.adopting().is_some() => (
                "is converted, and the adoption of what was added on the host was interrupted: migrate convert --adopt --apply goes on",
                Outcome::Findings,
            ),
            Stage::Converted => (
                "is converted; there is nothing to do. What other programs of the host have added since is adopted by migrate convert \
                 --adopt",
                Outcome::Clean,
            ),
            Stage::RollingBack => (
                "is being rolled back: finish that by migrate rollback --apply, then convert again",
                Outcome::Findings,
            ),
            _ => ("is being converted, and was interrupted: --apply goes on", Outcome::Findings),
        };
        say!("'{shown}' ({entries} entries) {what}.")?;
        Ok(outcome)
    }

    /// Converts.
    fn apply(&self) -> Result<Outcome> {
        let lock = lock(&self.export)?;
        match Earlier::of(&self.journal, &lock)? {
            Earlier::Nothing => {}
            Earlier::Stillborn => std::fs::remove_file(&self.journal)
                .with_context(|| format!("removing {}", text::escape_path(&self.journal)))?,
            Earlier::Begun(journal) => match journal.stage() {
                Stage::Converting => return self.resume(&journal, &lock),
                stage @ Stage::Converted => {
                    // A run that was killed may not have got to this.
                    journal.append_marking(lock.as_fd())?.mark(stage).context("marking the export")?;
                    return self.show_begun(&journal, stage);
                }
                stage @ Stage::RollingBack => return self.show_begun(&journal, stage),
                // Nothing was touched yet.
                Stage::Recording => self.start_over()?,
                Stage::RolledBack => {
                    if refuses_live(&self.export, self.args.in_use)? {
                        return Ok(Outcome::Findings);
                    }
                    // A rollback that was killed may not have got to this.
                    journal::mark::remove(&lock).context("removing the export's mark")?;
                    return self.start_again(&lock);
                }
            },
        }
        if refuses_live(&self.export, self.args.in_use)? {
            return Ok(Outcome::Findings);
        }
        self.start(&lock)
    }

    /// Removes a journal whose recording was interrupted.
    fn start_over(&self) -> Result<()> {
        complain!(
            "virtfs-proxy-helper: {} was left behind by a conversion that had changed nothing yet; starting over",
            text::escape_path(&self.journal)
        );
        Ok(std::fs::remove_file(&self.journal)?)
    }

    /// [`Order::start`], where the journal of an earlier conversion that was rolled back has the name: it is kept under another
    /// one, unless nothing comes of this conversion.
    fn start_again(&self, lock: &File) -> Result<Outcome> {
        let aside = self.move_aside()?;
        let started = self.start(lock);
        if self.journal.exists() {
            complain!(
                "virtfs-proxy-helper: the journal of the earlier conversion, which was rolled back, is now {}",
                text::escape_path(&aside)
            );
        } else {
            std::fs::rename(&aside, &self.journal)
                .with_context(|| format!("renaming {}", text::escape_path(&aside)))?;
        }
        started
    }

    /// Renames the journal. Its new name.
    fn move_aside(&self) -> Result<PathBuf> {
        let name = |number: u64| {
            let mut name = self.journal.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let aside = (1..=u64::from(u32::MAX))
            .map(name)
            .find(|aside| !aside.exists())
            .context("a name for the earlier journal")?;
        std::fs::rename(&self.journal, &aside)
            .with_context(|| format!("renaming {}", text::escape_path(&self.journal)))?;
        Ok(aside)
    }

    /// Records, decides, converts.
    fn start(&self, lock: &File) -> Result<Outcome> {
        let begin = self.begin(lock)?;
        let shown = text::escape_path(&self.journal);
        let writer = Writer::create(&self.journal, &begin, lock.as_fd())
            .map_err(|error| journal::not_recorded(error).context(format!("making the journal {shown}")))?;
        let writer = Mutex::new(writer);
        match self.record(&writer) {
            Ok(Some((tree, totals))) => self.convert(
                &tree,
                &begin,
                writer.into_inner().unwrap_or_else(PoisonError::into_inner),
                totals,
            ),
            stopped => {
                // Nothing was changed, and nothing in it is worth keeping.
                std::fs::remove_file(&self.journal).with_context(|| format!("removing {shown}"))?;
                stopped.map(|_| Outcome::Findings)
            }
        }
    }

    /// What this conversion is, for the journal.
    fn begin(&self, lock: &File) -> Result<Begin> {
        let Wanted { model, fmode, dmode, ref owner } = self.wanted;
        let Owner { uid, gid, .. } = *owner;
        let accepted = &self.args.accept;
        let adopts = model == Model::MappedXattr
            && accepted.iter().any(|id| id == crate::report::finding::ALREADY_MAPPED.id);
        Begin::of(&self.export, lock, &ConversionTarget { model, uid, gid, fmode, dmode, adopts }, accepted)
    }

    /// Records everything; `None` where the admin has to decide first.
    fn record(&self, writer: &Mutex<Writer>) -> Result<Option<(Tree, Totals)>> {
        let progress = Progress::start(self.args.work.progress, "recording", 0);
        let mut recorded = None;
        let facts = Facts::gather_by(&self.export, Some(self.wanted.owner.clone()), |tree, filesystem| {
            let recording = Recording::new(writer, None, &progress);
            let links = survey::Links::default();
            let recorder =
                || Recorder::new(&recording, Some(survey::Surveyor::new(tree, filesystem, &links)));
            let recorders = walk::parallel(tree, self.args.work.jobs(), recorder)?;
            let mut totals = Totals::default();
            for recorder in &recorders {
                totals.entries += recorder.totals.entries;
                totals.directories += recorder.totals.directories;
            }
            recorded = Some((tree.clone(), totals));
            Ok(links.finish(recorders.into_iter().filter_map(|recorder| recorder.surveyor)))
        })?;
        drop(progress);
        let findings =
            check::findings(&facts, self.wanted.model, true, &check::cost(&facts, self.wanted.model));
        if self.consent.refuses(&findings)? {
            return Ok(None);
        }
        Ok(recorded)
    }

    /// The second half, the first time.
    fn convert(&self, tree: &Tree, begin: &Begin, mut writer: Writer, totals: Totals) -> Result<Outcome> {
        let full = |error| journal::not_written(error, &self.journal);
        writer.reserve().map_err(full)?;
        writer.recorded(totals).map_err(full)?;
        self.finish(tree, begin, writer, totals, false)
    }

    /// Goes on where an earlier run was interrupted.
    fn resume(&self, journal: &Journal, lock: &File) -> Result<Outcome> {
        let begin = journal.begin();
        if self.wanted.differences(begin).is_some() {
            return self.show_begun(journal, Stage::Converting);
        }
        if refuses_live(&self.export, self.args.in_use)? {
            return Ok(Outcome::Findings);
        }
        idmap::refuse(&self.export, journal)?;
        hidden::refuse(&self.export, Some(journal))?;
        let tree = Tree::open(&self.export)?;
        let totals = journal.totals().unwrap_or_default();
        let writer = journal.append_marking(lock.as_fd())?;
        // A run that was killed may not have got to this.
        writer.mark(Stage::Converting).context("marking the export")?;
        self.finish(&tree, begin, writer, totals, true)
    }

    /// Converts everything that is recorded.
    fn finish(
        &self,
        tree: &Tree,
        begin: &Begin,
        writer: Writer,
        totals: Totals,
        resumed: bool,
    ) -> Result<Outcome> {
        let progress = Progress::start(self.args.work.progress, "converting", totals.entries);
        let (goal, error_summary) = (ConversionTarget::of(begin)?, ErrorSummary::default());
        let converter = Converter {
            tree,
            goal,
            journal: &self.journal,
            writer: Mutex::new(writer),
            jobs: self.args.work.jobs(),
            resumed,
            adopting: false,
            before: Mutex::default(),
            unfinished: Mutex::default(),
            staging: Staging::new(&begin.staging),
            links: Links::default(),
            metadata: Links::default(),
            moved_inodes: MovedInodes::new(&self.journal, goal, true),
            error_summary: &error_summary,
            progress: &progress,
        };
        let reached = converter.convert_all(self.args.in_use)?;
        let Converter { writer, .. } = converter;
        drop(progress);
        // Whether anybody hears it changes nothing of what was done.
        let _ = error_summary.write(&mut std::io::stderr().lock());
        let shown = text::escape_path(&self.export);
        if reached == Reached::Part {
            complain!(
                "virtfs-proxy-helper: '{shown}' is not wholly converted. Nothing is lost: deal with the above and run the \
                 same command again to go on, or migrate rollback --apply to take it back."
            );
            return Ok(Outcome::Failure);
        }
        // Who works in an export in use changes what is converted already, too: the second run sees that.
        let is_proof = reached == Reached::All && (resumed || !self.args.in_use);
        if !is_proof {
            complain!(
                "virtfs-proxy-helper: somebody changed '{shown}' meanwhile, or may have. What was found is converted; see that nobody \
                 uses it, and run the same command again to convert what else may be there."
            );
            return Ok(Outcome::Failure);
        }
        rustix::fs::syncfs(tree.root().open()?.as_fd()).context("putting the export on stable storage")?;
        let mut writer = writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        writer.converted().map_err(|error| journal::not_written(error, &self.journal))?;
        say!("'{shown}': {} entries are converted.", totals.entries)?;
        Ok(if error_summary.is_empty() { Outcome::Clean } else { Outcome::Failure })
    }
}
