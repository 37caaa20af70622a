//! What was added, into the journal: each entry in a listing of the directory that it is in.
//!
//! A directory's entries come in one row, however many there are below its subdirectories: they are sorted once more. What stays in
//! memory are a few numbers of each directory around what was added.

mod around;
mod line;

use std::ffi::CString;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use self::around::{Around, Hashes};
use self::line::{Line, What, names};
use crate::data::added::{List, Places, unspooled};
use crate::data::convert::record::Rescan;
use crate::data::goal::ConversionTarget;
use crate::data::journal::{self, Journal, Listing, Part, Record, Writer};
use crate::data::moved_inodes::MovedInodes;
use crate::data::staging::Staging;
use crate::data::tree::{Directory, Tree};
use crate::report::spool::Sorted;
use crate::text;

/// Records what was added. None of it is touched, and nothing of it is on stable storage yet.
pub(super) fn record(
    tree: &Tree,
    journal: &Journal,
    goal: ConversionTarget,
    added: &List,
    writer: &mut Writer,
) -> Result<()> {
    let lines = lines(tree, journal, added)?;
    let (staging, moved_inodes) =
        (Staging::new(&journal.begin().staging), MovedInodes::new(journal.path(), goal, true));
    let late = Rescan { goal, moved_inodes: &moved_inodes, staging: &staging };
    let mut scribe = Scribe { journal, late, writer, root: tree.root(), open: Vec::new(), entry: None };
    let superseded = journal.superseded()?;
    for line in lines.iter() {
        let Line { directory, what } = unspooled(line)?;
        match what {
            What::Itself { id, identity, added } => {
                scribe.finish()?;
                let known = id.map(|id| around::listing(journal, &superseded, id)).transpose()?;
                let directory = scribe.enter(&directory)?;
                if let Some(identity) = identity {
                    directory.expect(identity);
                }
                scribe.begin(directory, known, added.as_ref())?;
            }
            What::Entry(name, record) => scribe.entry(name, record)?,
        }
    }
    scribe.finish()
}

/// What is to be written, in its order.
fn lines(tree: &Tree, journal: &Journal, added: &List) -> Result<Sorted<Line>> {
    let mut places = Places::of(tree);
    let mut wanted = Hashes::default();
    for entry in added.iter() {
        let entry = entry?;
        let (directory, name) = places.find(&entry);
        wanted.want(&directory);
        if entry.is_directory() {
            wanted.want(&directory.child(&name));
        }
    }
    let mut around = Around::of(journal, wanted)?;
    let mut lines = Sorted::default();
    let mut places = Places::of(tree);
    for entry in added.iter() {
        let entry = entry?;
        let (directory, name) = places.find(&entry);
        around.enter(&directory, None, &mut lines)?;
        let is_directory = entry.is_directory();
        let record = Some(entry.record);
        if is_directory {
            let what = What::Entry(name.to_bytes().to_vec(), None);
            lines.push(&Line { directory: names(&directory), what });
            around.enter(&directory.child(&name), record, &mut lines)?;
        } else {
            let what = What::Entry(name.to_bytes().to_vec(), record);
            lines.push(&Line { directory: names(&directory), what });
        }
    }
    Ok(lines)
}

/// A directory that is being written, or around that.
struct Open {
    directory: Arc<Directory>,
    part: Part,
    /// Whether the journal told of it before.
    is_known: bool,
    /// Whether all of it that came is written.
    is_written: bool,
}

/// Writes lines.
struct Scribe<'s> {
    journal: &'s Journal,
    late: Rescan<'s>,
    writer: &'s mut Writer,
    root: &'s Arc<Directory>,
    /// The directories around the last one, the outermost first, and that.
    open: Vec<Open>,
    /// The entry that came last, which may come again.
    entry: Option<(Vec<u8>, Option<Record>)>,
}

impl Scribe<'_> {
    /// The next directory: those around it have begun before.
    fn enter(&mut self, names: &[Vec<u8>]) -> Result<Arc<Directory>> {
        self.open.truncate(names.len());
        Ok(match (self.open.last(), names.last()) {
            (Some(above), Some(name)) => above.directory.child(&CString::new(name.as_slice())?),
            _ => Arc::clone(self.root),
        })
    }

    /// Begins with a directory. `known` is what the journal tells of it.
    fn begin(
        &mut self,
        directory: Arc<Directory>,
        known: Option<Listing>,
        added: Option<&Record>,
    ) -> Result<()> {
        let (format, name) = (self.journal.format(), directory.name().to_bytes());
        let is_known = known.is_some();
        let part = if let Some(Listing { id, parent, own, .. }) = known {
            let own = with_times_of(&own, &directory)?;
            Part::new(format, parent, name, own, true).more(id)
        } else {
            let parent = self.open.last().and_then(|above| above.part.id());
            let parent = parent.context("the export's root, of which the journal does not tell")?;
            Part::new(format, Some(parent), name, own(&self.late, &directory, added)?, true)
        };
        self.open.push(Open { directory, part, is_known, is_written: is_known });
        Ok(())
    }

    /// An entry of the directory that has begun last.
    fn entry(&mut self, name: Vec<u8>, record: Option<Record>) -> Result<()> {
        match &mut self.entry {
            // A directory is named where it was added, and where the journal does not tell of it.
            Some(last) if last.0 == name => last.1 = record,
            _ => {
                self.write_entry()?;
                self.entry = Some((name, record));
            }
        }
        Ok(())
    }

    fn write_entry(&mut self) -> Result<()> {
        let (Some((name, record)), Some(open)) = (self.entry.take(), self.open.last_mut()) else {
            return Ok(());
        };
        open.part.push(&name, record.as_ref());
        open.is_written = open.part.is_full();
        if open.is_written { self.write() } else { Ok(()) }
    }

    /// Ends the directory that has begun last, if any has.
    fn finish(&mut self) -> Result<()> {
        self.write_entry()?;
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        if !open.is_known {
            open.part.end();
        } else if open.is_written {
            return Ok(());
        }
        self.write()
    }

    /// Writes what there is of the directory that has begun last.
    fn write(&mut self) -> Result<()> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        self.writer
            .listing(&mut open.part)
            .map_err(|error| journal::not_written(error, self.journal.path()))
            .with_context(|| format!("recording '{}'", text::escape(&open.directory.path())))
    }
}

/// The record of a directory with the times that it has now: what was added in it has changed them.
fn with_times_of(own: &Record, directory: &Directory) -> Result<Record> {
    let mut own = own.clone();
    let pin = directory.pin()?;
    (own.entry.accessed, own.entry.modified) = (pin.inode().accessed, pin.inode().modified);
    Ok(own)
}

/// The record of a directory that the journal does not tell of: what it really is where it was added on the host, what the guest
/// sees of it where the guest has made it.
fn own(late: &Rescan<'_>, directory: &Arc<Directory>, added: Option<&Record>) -> Result<Record> {
    if let Some(record) = added {
        return with_times_of(record, directory);
    }
    let within = directory.parent().unwrap_or(directory);
    Ok(late.current(within, directory.name(), &directory.pin()?)?)
}
