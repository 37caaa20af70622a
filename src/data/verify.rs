//! `migrate verify`: proves a conversion against its journal.
//!
//! Everything that the journal recorded is read as the guest will see it and compared; the owner must be able to use it;
//! and what the journal does not know is named. After a rollback the tree itself is compared, attributes of every
//! namespace included.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};

use super::added;
use super::entry::{self, Identity};
use super::form::Form;
use super::goal::ConversionTarget;
use super::identity::Key;
use super::idmap;
use super::journal::each_of;
use super::journal::{self, Gaps, Journal, Listing, NameSum, Record, Stage, Superseded};
use super::owner::Owner;
use super::pin::Pin;
use super::survey::Group;
use super::tree::{Directory, Tree};
use super::walk;
use crate::data::options::VerifyArgs;
use crate::exit::Outcome;
use crate::report::finding::{self, Finding, Kind};
use crate::report::verify::VerifyDocument;
use crate::report::{self, Counts, FindingRow, SCHEMA, rows};
use crate::share::Place;
use crate::text;
use crate::text::counted;

mod compare;

use compare::{Comparison, Problem};

/// What to do about a difference after a rollback.
const AFTER_ROLLBACK: &str = "if somebody has worked in the export since the conversion, this may be their work; else compare it to a backup";

/// How many differences are told one by one.
const TOLD: usize = 10_000;

/// `migrate verify`.
pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<Outcome> {
    if args.look.schema {
        report::print_schema::<VerifyDocument>()?;
        return Ok(Outcome::Clean);
    }
    let export = args.export.as_deref().context("name the export to verify")?;
    let shown = text::escape_path(export);
    let path = export.canonicalize().with_context(|| format!("cannot find the export '{shown}'"))?;
    let journal = args.journal.clone().unwrap_or_else(|| journal::default_path(&path));
    let jobs = args.look.jobs();
    let document = verify(&path, &journal, args.by_path, jobs)?;
    report::print(&document, args.look.format)?;
    Ok(report::exit_zero(document.outcome(), args.look.exit_zero))
}

/// Compares an export (free of symbolic links) to its journal, with `jobs` workers. `by_path` says that it is a copy.
pub(crate) fn verify(
    export: &Path,
    journal: &Path,
    by_path: bool,
    jobs: usize,
) -> anyhow::Result<VerifyDocument> {
    let tree = Tree::open(export)
        .with_context(|| format!("cannot open the export '{}'", text::escape_path(export)))?;
    let root = tree.root().open()?;
    journal::mark::ensure_exists(journal)?;
    let journal = if by_path {
        Journal::of_copy_to_read(journal, root.as_fd()).map(Some)
    } else {
        Journal::of_export_to_read(journal, root.as_fd())
    };
    let journal = journal
        .context("without its journal a conversion can't be verified")?
        .context("nothing of the export was converted yet: there is nothing to verify")?;
    journal.ensure_of_conversion()?;
    idmap::ensure_same_ids(export, &journal)?;
    let form = match journal.stage() {
        Stage::Recording => bail!("nothing of the export was converted yet: there is nothing to verify"),
        Stage::RolledBack => Form::Passthrough,
        Stage::Converting | Stage::Converted | Stage::RollingBack => {
            let model = journal.begin().model();
            Form::Mapped(model.with_context(|| {
                format!(
                    "this version does not know the model {}",
                    text::escape(journal.begin().security_model.as_bytes())
                )
            })?)
        }
    };
    let owner = match form {
        Form::Passthrough => None,
        Form::Mapped(_) => {
            Some(Owner::parse(&OsString::from(format!("{}:{}", journal.begin().uid, journal.begin().gid)))?)
        }
    };
    let verifier = Verifier {
        export,
        tree: &tree,
        journal: &journal,
        superseded: journal.superseded()?,
        form,
        owner: owner.as_ref(),
        goal: if form == Form::Passthrough { None } else { Some(ConversionTarget::of_journal(&journal)?) },
        inodes: Mutex::default(),
        found: Mutex::default(),
    };
    verifier.run(jobs)
}

/// What a verification shares among its workers.
struct Verifier<'v> {
    export: &'v Path,
    tree: &'v Tree,
    journal: &'v Journal,
    superseded: Superseded,
    form: Form,
    owner: Option<&'v Owner>,
    goal: Option<ConversionTarget>,
    /// Inodes of several names: what each was, by the number it had.
    inodes: Mutex<HashMap<Key, Identity>>,
    found: Mutex<Found>,
}

/// What was found until now.
#[derive(Default)]
struct Found {
    differences: Vec<Difference>,
    /// How many there are in all, those not told included.
    count: u64,
    entries: u64,
    /// Entries that were read since, and are not different for that.
    read: Group,
    /// Directories whose names are others than they were, by their ids.
    renamed: HashMap<u64, Arc<Directory>>,
}

/// One difference.
struct Difference {
    /// The entry's path in the export.
    path: Vec<u8>,
    kind: &'static Kind,
    message: String,
}

/// What was found in one listing.
#[derive(Default)]
struct Listed {
    entries: u64,
    /// Paths in the export, what is wrong.
    problems: Vec<(Vec<u8>, Problem)>,
    /// The directory, where its names are others than they were.
    renamed: Option<Arc<Directory>>,
}

impl Listed {
    fn add(&mut self, path: impl Fn() -> Vec<u8>, problems: Vec<Problem>) {
        self.problems.extend(problems.into_iter().map(|problem| (path(), problem)));
    }
}

impl Verifier<'_> {
    fn run(&self, jobs: usize) -> anyhow::Result<VerifyDocument> {
        let gaps = self.compare_all(jobs)?;
        let mut found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        self.name_strangers(&mut found, &gaps)?;
        let added = self.added(&found, jobs)?;
        self.document(found, added.as_ref())
    }

    /// Compares every record; what the journal names and does not tell of is left.
    fn compare_all(&self, jobs: usize) -> anyhow::Result<Gaps> {
        let mut gaps = Gaps::default();
        let seen = self.journal.listings()?.inspect(|listing| {
            if let Ok((at, listing)) = listing {
                gaps.see(*at, listing, &self.superseded);
            }
        });
        each_of(seen, jobs, |offset, mut listing| {
            if self.superseded.is_over(&listing) {
                return Ok(());
            }
            // What was recorded again counts as it was then.
            self.superseded.prune(offset, &mut listing);
            let directory = self.journal.directory(self.tree, &listing)?;
            let mut listed = Listed::default();
            if !listing.is_first(offset) || self.is_there(&directory, &listing, &mut listed) {
                self.compare_entries(&directory, &listing, &mut listed);
            }
            self.add(&listing, listed);
            Ok(())
        })?;
        Ok(gaps)
    }

    /// Compares a directory itself. Whether it is there: else what is in it is missing with it, and is not told.
    fn is_there(&self, directory: &Arc<Directory>, listing: &Listing, listed: &mut Listed) -> bool {
        let read = |pin: Pin| Ok((self.form.read_directory(directory, &pin)?, pin));
        let result = directory.pin().and_then(read);
        let is_there = result.is_ok();
        listed.entries += 1;
        let problems = self.comparison().entry(&listing.own, result);
        listed.add(|| directory.path(), problems);
        is_there
    }

    /// Compares what a listing has of a directory.
    fn compare_entries(&self, directory: &Arc<Directory>, listing: &Listing, listed: &mut Listed) {
        for (name, record) in &listing.entries {
            let Some(record) = record else { continue };
            let read = |pin: Pin| Ok((self.form.read(directory, name, &pin)?, pin));
            let result = pin(directory, name, record).and_then(read);
            listed.entries += 1;
            let problems = self.comparison().entry(record, result);
            listed.add(|| directory.path_of(name), problems);
        }
        let is_renamed = self.superseded.has(listing)
            || listing
                .names
                .is_some_and(|expected| self.names(directory).is_ok_and(|(_, sum)| sum != expected));
        listed.renamed = is_renamed.then(|| Arc::clone(directory));
    }

    fn comparison(&self) -> Comparison<'_> {
        Comparison {
            form: self.form,
            goal: self.goal,
            owner: self.owner,
            is_copy: self.journal.is_by_path(),
            inodes: &self.inodes,
        }
    }

    /// Keeps what was found in one listing.
    fn add(&self, listing: &Listing, listed: Listed) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.entries += listed.entries;
        if let Some(directory) = listed.renamed {
            found.renamed.insert(listing.id, directory);
        }
        for (path, (kind, message)) in listed.problems {
            if *kind == finding::ENTRY_READ {
                found.read.add(|| path);
            } else {
                found.add(Difference { path, kind, message });
            }
        }
    }

    /// The names of a directory that the guest sees, and their sum.
    fn names(&self, directory: &Arc<Directory>) -> rustix::io::Result<(Vec<CString>, NameSum)> {
        let mut names = walk::names(directory)?;
        names.retain(|(name, _)| !self.form.hides(directory, name));
        let mut sum = NameSum::default();
        for (name, _) in &names {
            sum.add(name.to_bytes());
        }
        Ok((names.into_iter().map(|(name, _)| name).collect(), sum))
    }

    /// Finds out which names the journal does not know in the directories whose names are others than they were, and which
    /// directories it names without telling of them.
    fn name_strangers(&self, found: &mut Found, gaps: &Gaps) -> anyhow::Result<()> {
        let mut known: HashMap<u64, HashSet<CString>> = HashMap::new();
        if !found.renamed.is_empty() {
            for listing in self.journal.listings()? {
                let (at, mut listing) = listing?;
                if found.renamed.contains_key(&listing.id) {
                    self.superseded.prune(at, &mut listing);
                    known
                        .entry(listing.id)
                        .or_default()
                        .extend(listing.entries.into_iter().map(|(name, _)| name));
                }
            }
        }
        let mut strangers = Vec::new();
        for (id, directory) in std::mem::take(&mut found.renamed) {
            let known = known.remove(&id).unwrap_or_default();
            let Ok((names, _)) = self.names(&directory) else { continue };
            strangers.extend(
                names
                    .into_iter()
                    .filter(|name| !known.contains(name))
                    .map(|name| (Arc::clone(&directory), name)),
            );
        }
        for id in gaps.ids() {
            let directory = self.journal.directory(self.tree, &self.journal.listing_at(id)?)?;
            // Mounts are no part of the export, and what can't be looked at was accepted.
            let is_there = |name: &&CString| directory.entry(name, None).is_ok();
            strangers.extend(
                gaps.unlisted(id).filter(is_there).map(|name| (Arc::clone(&directory), name.clone())),
            );
        }
        for (directory, name) in strangers {
            self.stranger(found, &directory, &name);
        }
        Ok(())
    }

    /// Names an entry that the journal does not know, and what of it and below it QEMU's user can't use: what the guest makes, it
    /// can; what another program of the host has put there, it may not.
    fn stranger(&self, found: &mut Found, directory: &Arc<Directory>, name: &CStr) {
        let message = "the journal does not know it: it was made since".into();
        found.add(Difference { path: directory.path_of(name), kind: &finding::ENTRY_NEW, message });
        let Some(owner) = self.owner else { return };
        let mut unusable = Unusable { owner, form: self.form, found };
        let Ok(pin) = directory.entry(name, None) else { return };
        if pin.inode().kind() == Some(entry::Kind::Directory) {
            let top = directory.child(name);
            let found = Mutex::new(unusable);
            let Ok(_) = walk::from(&top, 1, || Below(&found));
        } else {
            unusable.look(|| directory.path_of(name), pin.inode());
        }
    }

    /// How much of what is different was added on the host.
    fn added(&self, found: &Found, jobs: usize) -> anyhow::Result<Option<Finding>> {
        let is_over = self.journal.stage() == Stage::Converted && !self.journal.is_by_path();
        if !is_over || found.count == 0 && self.journal.adopting().is_none() {
            return Ok(None);
        }
        Ok(added::of(self.export, self.tree, self.journal, jobs)?.finding(self.export))
    }

    fn document(&self, mut found: Found, added: Option<&Finding>) -> anyhow::Result<VerifyDocument> {
        found.differences.sort_by(|a, b| a.path.cmp(&b.path).then(a.message.cmp(&b.message)));
        let mut findings: Vec<_> = self.about_all()?.iter().chain(added).map(FindingRow::from).collect();
        // There is no conversion any more that could be taken back.
        let remedy = (self.form == Form::Passthrough).then_some(AFTER_ROLLBACK);
        findings.extend(found.differences.iter().map(|difference| {
            let finding = at(difference.kind, self.path(&difference.path), difference.message.clone());
            FindingRow::from(&Finding { remedy: remedy.map(str::to_owned), ..finding })
        }));
        if let Some(first) = &found.read.first {
            let message = match found.read.count {
                1 => "it was read since".into(),
                count => format!("it was read since (and {})", counted(count - 1, "more entry")),
            };
            findings.push(FindingRow::from(&at(&finding::ENTRY_READ, self.path(first), message)));
        }
        Ok(VerifyDocument {
            schema: SCHEMA,
            export: rows::path(self.export),
            journal: rows::path(self.journal.path()),
            form: self.form.name().into(),
            owner: self.owner.map(ToString::to_string),
            entries: found.entries,
            differences: found.count,
            summary: Counts::of(&findings),
            findings,
        })
    }

    /// The whole path of an entry, from its path in the export.
    fn path(&self, entry: &[u8]) -> PathBuf {
        if entry.is_empty() { self.export.to_path_buf() } else { self.export.join(OsStr::from_bytes(entry)) }
    }

    /// What is to be said about the whole export.
    fn about_all(&self) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let unfinished = match self.journal.stage() {
            Stage::Converting => Some("the conversion has not got to its end"),
            Stage::RollingBack => Some("a rollback has begun and has not got to its end"),
            Stage::Converted if self.journal.adopting().is_some() => Some(
                "what was added on the host is adopted in part: `migrate convert --adopt --apply` goes on",
            ),
            Stage::Recording | Stage::Converted | Stage::RolledBack => None,
        };
        findings.extend(
            unfinished.map(|what| at(&finding::CONVERSION_UNFINISHED, self.export.into(), what.into())),
        );
        let parent = self.export.parent();
        if let (Some(owner), Some(parent)) = (self.owner, parent)
            && nix::unistd::geteuid().is_root()
            && let Some((directory, errno)) = owner.barrier_to(parent)?
        {
            let message =
                format!("{owner} can't enter this directory on the way to the export: {}", errno.desc());
            findings.push(at(&finding::OWNER_KEPT_OUT, directory, message));
        }
        Ok(findings)
    }
}

/// What the guest is to use and QEMU's user can't, among what the journal does not know.
struct Unusable<'u> {
    owner: &'u Owner,
    form: Form,
    found: &'u mut Found,
}

impl Unusable<'_> {
    fn look(&mut self, path: impl Fn() -> Vec<u8>, inode: &entry::Inode) {
        if let Some(why) = compare::unusable(self.owner, inode, (inode.immutable, inode.append_only)) {
            let message = format!("it was not converted, for it was made since: {why}");
            self.found.add(Difference { path: path(), kind: &finding::ENTRY_UNUSABLE, message });
        }
    }
}

/// Looks at all that is below a directory.
struct Below<'b, 'u>(&'b Mutex<Unusable<'u>>);

impl Below<'_, '_> {
    fn look(&self, path: impl Fn() -> Vec<u8>, inode: &entry::Inode) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).look(path, inode);
    }
}

impl walk::Visitor for Below<'_, '_> {
    type Error = Infallible;

    fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> Result<(), Infallible> {
        self.look(|| directory.path(), pin.inode());
        Ok(())
    }

    fn entry(&mut self, directory: &Arc<Directory>, name: &CStr, pin: Pin) -> Result<(), Infallible> {
        self.look(|| directory.path_of(name), pin.inode());
        Ok(())
    }

    fn trouble(&mut self, _: &Arc<Directory>, _: &CStr, _: walk::Trouble) -> Result<(), Infallible> {
        // It is named as new, with the directory that it is in.
        Ok(())
    }

    fn hides(&self, directory: &Arc<Directory>, name: &CStr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).form.hides(directory, name)
    }
}

impl Found {
    fn add(&mut self, difference: Difference) {
        self.count += 1;
        if self.differences.len() < TOLD {
            self.differences.push(difference);
        }
    }
}

/// Pins an entry, by the shortest way where it is what it was.
fn pin(directory: &Directory, name: &CStr, record: &Record) -> rustix::io::Result<Pin> {
    let kind = entry::Kind::of(record.entry.mode).filter(|kind| *kind == entry::Kind::File);
    match directory.entry(name, kind) {
        // It may be something else now.
        Err(_) if kind.is_some() => directory.entry(name, None),
        pinned => pinned,
    }
}

fn at(kind: &'static Kind, path: PathBuf, message: String) -> Finding {
    Finding {
        kind,
        place: Place { file: Some(path), ..Place::default() },
        message,
        remedy: None,
        subject: None,
    }
}
