//! Appends to a journal.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use serde::Serialize;

use super::codec::{Entries, Head, encode};
use super::mark;
use super::mark::Mark;
use super::reader::Journal;
use super::records::{
    Begin, Format, HEAD, Kind, Moment, NameSum, RESERVE, Record, Stage, Totals, chained, checksum, now,
};

/// How much is gathered before it is written.
const GATHERED: usize = 1 << 18;

/// From which size on the entries of a directory go on in another frame.
const FRAME: usize = 1 << 16;

/// A journal that is appended to.
#[derive(Debug)]
pub struct Writer {
    file: File,
    gathered: Vec<u8>,
    /// Where the next frame starts.
    offset: u64,
    /// Where the last frame ends that is no second copy of a note.
    told: u64,
    /// [`chained`] over all frames but second copies.
    chain: u32,
    format: Format,
    /// [`Begin::id`].
    id: String,
    /// The export's root, where it can be marked.
    root: Option<File>,
}

impl Writer {
    /// Makes a new journal at `path`, where nothing may be yet, of the export with this open root.
    pub fn create(path: &Path, begin: &Begin, root: BorrowedFd<'_>) -> io::Result<Self> {
        Self::create_in(Format::Two, path, begin, root)
    }

    /// [`Writer::create`] in one of the formats.
    pub fn create_in(format: Format, path: &Path, begin: &Begin, root: BorrowedFd<'_>) -> io::Result<Self> {
        let root = if begin.marks { Some(mark::root(root)?) } else { None };
        let file = File::options().read(true).append(true).create_new(true).mode(0o600).open(path)?;
        let (gathered, offset) = (format.magic().to_vec(), format.magic().len() as u64);
        let mut writer =
            Self { file, gathered, offset, told: offset, chain: 0, format, id: begin.id.clone(), root };
        if let Err(error) = writer.begin(path, begin) {
            // A full disk, say: no part of a journal stays, which would be taken for one that was interrupted.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(writer)
    }

    /// Puts the first note on stable storage, and the journal's name.
    fn begin(&mut self, path: &Path, begin: &Begin) -> io::Result<()> {
        self.note(Kind::Begin, begin)?;
        self.sync()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }

    /// Goes on with a journal, by its file: what a crash left behind the bytes that count is cut off, and those are put on
    /// stable storage, for whoever wrote the last of them may have been killed before.
    pub(super) fn append(journal: &Journal, file: File) -> io::Result<Self> {
        let (offset, told) = (journal.len(), journal.told());
        // What is reserved behind the end would be given up.
        if file.metadata()?.len() != offset {
            file.set_len(offset)?;
        }
        rustix::fs::fdatasync(file.as_fd())?;
        let (format, id, chain) = (journal.format(), journal.begin().id.clone(), journal.chain());
        let mut writer = Self { file, gathered: Vec::new(), offset, told, chain, format, id, root: None };
        if let Some((kind, payload)) = journal.unsealed() {
            // Nothing may follow before it is there twice.
            writer.frame(kind.copy(), payload)?;
            writer.sync()?;
        }
        Ok(writer)
    }

    /// Reserves room on the journal's file system for what is yet to be written to it, so that a disk that is full keeps neither a
    /// conversion nor a rollback from its end. Where that can't be reserved, nothing is.
    pub fn reserve(&self) -> io::Result<()> {
        let at = self.offset + self.gathered.len() as u64;
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, at, RESERVE) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            reserved => Ok(reserved?),
        }
    }

    /// From now on, the export with this open root is marked.
    pub(super) fn marking(mut self, root: BorrowedFd<'_>) -> io::Result<Self> {
        self.root = Some(mark::root(root)?);
        Ok(self)
    }

    /// The format that it has.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Appends a frame; returns where it starts.
    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<u64> {
        let too_long = |_| io::Error::other("a record of more than 4 GiB");
        let length = u32::try_from(payload.len()).map_err(too_long)?;
        let checksum = checksum(length, kind, payload);
        if Kind::of(kind).is_some() {
            self.chain = chained(self.chain, checksum);
        }
        let start = self.offset;
        self.gathered.extend_from_slice(&length.to_le_bytes());
        self.gathered.extend_from_slice(&checksum.to_le_bytes());
        self.gathered.push(kind);
        self.gathered.extend_from_slice(payload);
        self.offset += (HEAD + payload.len()) as u64;
        if Kind::of(kind).is_some() {
            self.told = self.offset;
        }
        if self.gathered.len() >= GATHERED {
            self.flush()?;
        }
        Ok(start)
    }

    fn note(&mut self, kind: Kind, note: &impl Serialize) -> io::Result<()> {
        let payload = serde_json::to_vec(note)?;
        self.frame(kind.byte(), &payload)?;
        if kind.is_note() && self.format > Format::One {
            self.frame(kind.copy(), &payload)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.gathered)?;
        self.gathered.clear();
        Ok(())
    }

    /// Puts listings of what was met late on stable storage, before the entries in them are touched. The marks tell of them: no note
    /// does.
    pub fn sync_late(&mut self, stage: Stage) -> io::Result<()> {
        self.sync()?;
        match self.mark(stage) {
            // The marks that are there are true as well.
            Err(error) if super::records::is_full(&error) => Ok(()),
            marked => marked,
        }
    }

    /// Puts everything on stable storage.
    pub fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        Ok(rustix::fs::fdatasync(self.file.as_fd())?)
    }

    /// Appends a part of a directory. The first one gets the directory its id.
    pub fn listing(&mut self, part: &mut Part) -> io::Result<()> {
        let head = Head {
            id: part.id,
            parent: part.parent,
            name: &part.name,
            late: part.late,
            own: &part.own,
            names: part.last.then_some(part.names),
        };
        let payload = encode(self.offset, head, &part.entries);
        let start = self.frame(Kind::Directory.byte(), &payload)?;
        part.id.get_or_insert(start);
        part.entries = Entries::after(&part.own, part.entries.format());
        Ok(())
    }

    /// What a note says of the frames before it.
    fn chain(&self) -> Option<u32> {
        (self.format > Format::One).then_some(self.chain)
    }

    /// Everything is recorded: from now on the export may be touched. Where it can be marked it is, before it is touched.
    pub fn recorded(&mut self, totals: Totals) -> io::Result<()> {
        self.sync()?;
        self.note(Kind::Recorded, &Totals { at: now(), chain: self.chain(), ..totals })?;
        self.sync()?;
        self.mark(Stage::Converting)
    }

    /// Marks the export and the journal's file. `stage` and all of the journal are on stable storage.
    pub fn mark(&self, stage: Stage) -> io::Result<()> {
        if self.format == Format::One {
            return Ok(());
        }
        let mark = Mark { id: self.id.clone(), stage, length: self.told };
        mark.put_on_journal(&self.file)?;
        match &self.root {
            None => Ok(()),
            Some(root) if stage == Stage::RolledBack => Ok(mark::remove(root)?),
            Some(root) => match mark.put_on_export(root) {
                // The mark that is there is true as well.
                Err(Errno::NOSPC | Errno::DQUOT) if stage > Stage::Converting => Ok(()),
                put => Ok(put?),
            },
        }
    }

    /// Everything that is recorded is converted.
    pub fn converted(&mut self) -> io::Result<()> {
        self.moment(Kind::Converted, Stage::Converted)
    }

    /// What was recorded since the last note was added to the converted export: from now on it may be touched.
    pub fn adopting(&mut self) -> io::Result<()> {
        self.sync()?;
        self.moment(Kind::Adopting, Stage::Converted)
    }

    /// A rollback begins.
    pub fn rollback_begun(&mut self) -> io::Result<()> {
        self.moment(Kind::RollbackBegun, Stage::RollingBack)
    }

    /// Everything is rolled back.
    pub fn rolled_back(&mut self) -> io::Result<()> {
        self.moment(Kind::RolledBack, Stage::RolledBack)
    }

    fn moment(&mut self, kind: Kind, stage: Stage) -> io::Result<()> {
        self.note(kind, &Moment { at: now(), chain: self.chain() })?;
        self.sync()?;
        self.mark(stage)
    }

    /// How long the journal is, in bytes.
    pub fn len(&self) -> u64 {
        self.offset
    }

    /// Whether there is nothing in it; there always is.
    pub fn is_empty(&self) -> bool {
        self.offset == 0
    }
}

/// (A part of) a directory on its way into the journal.
#[derive(Debug)]
pub struct Part {
    id: Option<u64>,
    parent: Option<u64>,
    name: Vec<u8>,
    late: bool,
    own: Record,
    names: NameSum,
    last: bool,
    entries: Entries,
}

impl Part {
    /// The start of a directory whose parent has the id `parent`, for a journal of this format; the root has none.
    pub fn new(format: Format, parent: Option<u64>, name: &[u8], own: Record, late: bool) -> Self {
        let entries = Entries::after(&own, format);
        Self {
            id: None,
            parent,
            name: name.to_vec(),
            late,
            own,
            names: NameSum::default(),
            last: false,
            entries,
        }
    }

    /// More of a directory that is in the journal already.
    pub fn more(mut self, id: u64) -> Self {
        self.id = Some(id);
        self
    }

    /// The directory's id, once its first part is in the journal.
    pub fn id(&self) -> Option<u64> {
        self.id
    }

    /// Adds an entry; a directory without record.
    pub fn push(&mut self, name: &[u8], record: Option<&Record>) {
        self.names.add(name);
        self.entries.push(name, record);
    }

    /// Says that an entry that was told of is not there any more.
    pub fn push_gone(&mut self, name: &[u8]) {
        self.entries.push_gone(name);
    }

    /// Whether it is time to append what there is.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= FRAME
    }

    /// What follows is the directory's last part.
    pub fn end(&mut self) {
        self.last = true;
    }
}

impl Journal {
    /// Goes on writing it, behind the last good record.
    pub fn append(&self) -> anyhow::Result<Writer> {
        Ok(Writer::append(self, self.file.try_clone()?)?)
    }
}
