//! Appends to a journal.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use super::codec::{Entries, Head, encode};
use super::{Begin, HEAD, Kind, MAGIC, Moment, NameSum, Record, Totals, now};

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
}

impl Writer {
    /// Makes a new journal at `path`, where nothing may be yet.
    pub fn create(path: &Path, begin: &Begin) -> io::Result<Self> {
        let file = File::options().read(true).append(true).create_new(true).mode(0o600).open(path)?;
        let mut writer = Self { file, gathered: MAGIC.to_vec(), offset: MAGIC.len() as u64 };
        writer.note(Kind::Begin, begin)?;
        writer.sync()?;
        // Its name, too, must survive a crash.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(writer)
    }

    /// Goes on with a journal of which `good` bytes count; what a crash left behind them is cut off, and they are put on
    /// stable storage, for whoever wrote the last of them may have been killed before.
    pub(super) fn append(file: File, good: u64) -> io::Result<Self> {
        file.set_len(good)?;
        rustix::fs::fdatasync(file.as_fd())?;
        Ok(Self { file, gathered: Vec::new(), offset: good })
    }

    /// Appends a frame; returns where it starts.
    fn frame(&mut self, kind: Kind, payload: &[u8]) -> io::Result<u64> {
        let too_long = |_| io::Error::other("a record of more than 4 GiB");
        let length = u32::try_from(payload.len()).map_err(too_long)?.to_le_bytes();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&length);
        crc.update(&[kind.byte()]);
        crc.update(payload);
        let start = self.offset;
        self.gathered.extend_from_slice(&length);
        self.gathered.extend_from_slice(&crc.finalize().to_le_bytes());
        self.gathered.push(kind.byte());
        self.gathered.extend_from_slice(payload);
        self.offset += (HEAD + payload.len()) as u64;
        if self.gathered.len() >= GATHERED {
            self.flush()?;
        }
        Ok(start)
    }

    fn note(&mut self, kind: Kind, note: &impl Serialize) -> io::Result<()> {
        self.frame(kind, &serde_json::to_vec(note)?).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.gathered)?;
        self.gathered.clear();
        Ok(())
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
        let start = self.frame(Kind::Directory, &payload)?;
        part.id.get_or_insert(start);
        part.entries = Entries::after(&part.own);
        Ok(())
    }

    /// Everything is recorded: from now on the export may be touched.
    pub fn recorded(&mut self, totals: Totals) -> io::Result<()> {
        self.sync()?;
        self.note(Kind::Recorded, &Totals { at: now(), ..totals })?;
        self.sync()
    }

    /// Everything is converted.
    pub fn converted(&mut self) -> io::Result<()> {
        self.moment(Kind::Converted)
    }

    /// A rollback begins.
    pub fn rollback_begun(&mut self) -> io::Result<()> {
        self.moment(Kind::RollbackBegun)
    }

    /// Everything is rolled back.
    pub fn rolled_back(&mut self) -> io::Result<()> {
        self.moment(Kind::RolledBack)
    }

    fn moment(&mut self, kind: Kind) -> io::Result<()> {
        self.note(kind, &Moment { at: now() })?;
        self.sync()
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
    /// The start of a directory whose parent has the id `parent`; the root has none.
    pub fn new(parent: Option<u64>, name: &[u8], own: Record, late: bool) -> Self {
        let entries = Entries::after(&own);
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
