//! Reads a journal back.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;

use super::codec::{decode, decode_place};
use super::mark::Mark;
use super::records::{Begin, Format, HEAD, Kind, Listing, Moment, Record, Stage, Totals, chained, checksum};
use crate::data::tree::{Directory, Tree};
use crate::text;

/// How many directories are remembered by their ids.
const REMEMBERED: usize = 4096;

/// More than the payload of any frame takes that says how far a conversion got.
const LONGEST_NOTE: u32 = 4096;

/// The length of what a journal starts with.
const MAGIC_LENGTH: usize = Format::Two.magic().len();

/// How much of a listing is read for its place: more than flags, two numbers and a name take.
const PLACE: usize = 512;

/// A journal whose checksums were all found right.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    pub(super) file: File,
    format: Format,
    begin: Begin,
    totals: Option<Totals>,
    stage: Stage,
    /// Where the last good frame ends.
    good: u64,
    /// Where the last frame that counts ends and that is no second copy of a note.
    told: u64,
    /// [`chained`] over all frames that count.
    chain: u32,
    /// Where a note is of which only one copy is good.
    mended: Option<u64>,
    /// The last note, where its second copy is missing at the end.
    unsealed: Option<(Kind, Vec<u8>)>,
    /// Bytes behind it, which a crash left.
    torn: u64,
    /// When it was converted, if it was at any time.
    converted: Option<u64>,
    /// From where on the listings tell of an adoption that has begun and has not got to its end.
    adopting: Option<u64>,
    /// Whether entries were adopted, or begun to be, at any time.
    adopted: bool,
    /// When a rollback began.
    since: Option<u64>,
    /// Whether any listing is late.
    pub(super) late: bool,
    /// Whether entries are known by their paths alone.
    by_path: bool,
    known: Mutex<HashMap<u64, Arc<Directory>>>,
}

/// One frame.
struct Frame {
    offset: u64,
    kind: Kind,
    /// Whether it is the second copy of a note.
    is_copy: bool,
    payload: Vec<u8>,
}

impl Frame {
    /// [`chained`] over this frame and those before it: a note counts as its first copy.
    fn chained(&self, before: u32) -> u32 {
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        chained(before, checksum(length, self.kind.byte(), &self.payload))
    }

    /// What a note says that the frames before it come to.
    fn chain(&self) -> Result<Option<u32>> {
        /// The field that all notes have.
        #[derive(serde::Deserialize)]
        struct Chain {
            #[serde(default)]
            chain: Option<u32>,
        }
        if self.kind.is_note() { Ok(json::<Chain>(self)?.chain) } else { Ok(None) }
    }
}

/// Opens a journal's file to read it.
fn to_read(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| not_opened(error, path))
}

fn not_opened(error: std::io::Error, path: &Path) -> anyhow::Error {
    let is_roots = error.kind() == std::io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root();
    let advice = if is_roots { ", which is root's to read: run the same command as root" } else { "" };
    anyhow::Error::new(error).context(format!("opening the journal {}{advice}", text::escape_path(path)))
}

impl Journal {
    /// Opens a journal and checks all of it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).append(true).open(path);
        Self::of_file(path, file)
    }

    /// [`Journal::open`] for one that is only looked at.
    pub fn open_to_read(path: &Path) -> Result<Self> {
        Self::of_file(path, File::open(path))
    }

    /// What a journal says was begun, as far as that alone can be read.
    pub fn begin_of(path: &Path) -> Option<Begin> {
        let file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let mut magic = [0; MAGIC_LENGTH];
        file.read_exact_at(&mut magic, 0).ok()?;
        let format = Format::ALL.into_iter().find(|format| *format.magic() == magic)?;
        let first = Frames::new(file, length, format).ok()?.next().ok()??;
        if first.kind == Kind::Begin { json(&first).ok() } else { None }
    }

    fn of_file(path: &Path, file: std::io::Result<File>) -> Result<Self> {
        let file = file.map_err(|error| not_opened(error, path))?;
        Self::read(path, file).with_context(|| format!("the journal {}", text::escape_path(path)))
    }

    fn read(path: &Path, file: File) -> Result<Self> {
        let length = file.metadata()?.len();
        let format = format_of(&file)?;
        let mut frames = Frames::new(file.try_clone()?, length, format)?;
        let Some(first) = frames.next()? else {
            bail!(
                "it is damaged at byte {}, its first record: restore it from a backup; `migrate unmap` needs no journal",
                frames.offset
            )
        };
        ensure!(first.kind == Kind::Begin, "its first record does not say what was begun");
        let begin = json(&first)?;
        let (mut stage, mut totals) = (Stage::Recording, None);
        let (mut converted, mut since, mut adopting) = (None, None, None);
        let (mut late, mut adopted) = (false, false);
        let (mut chain, mut last) = (first.chained(0), None);
        let mut told = frames.offset;
        // Where the first copy of the last note ends; where its last copy does, and the chain up to there.
        let (mut noted, mut sealed, mut sealed_chain) = (frames.offset, frames.offset, chain);
        while let Some(frame) = frames.next()? {
            if frame.is_copy {
                ensure!(
                    last.as_ref() == Some(&(frame.kind, frame.payload)),
                    "it is damaged at byte {}: the second copy of a note follows something else. Restore it from a backup",
                    frame.offset
                );
                sealed = frames.offset;
                continue;
            }
            let (before, expected) = (chain, frame.chain()?);
            told = frames.offset;
            chain = frame.chained(chain);
            ensure!(
                expected.is_none_or(|expected| expected == before),
                "it is damaged before byte {}: records are missing, or are not where they were written. Restore it from a backup",
                frame.offset
            );
            if frame.kind.is_note() {
                noted = frames.offset;
                last = Some((frame.kind, frame.payload.clone()));
            }
            stage = match frame.kind {
                Kind::Begin => bail!("a second beginning at byte {}", frame.offset),
                Kind::Directory => {
                    late |= totals.is_some();
                    stage
                }
                Kind::Recorded => {
                    totals = Some(json(&frame)?);
                    Stage::Converting
                }
                Kind::Converted => {
                    // The end of an adoption says the same again.
                    converted.get_or_insert(json::<Moment>(&frame)?.at);
                    adopting = None;
                    Stage::Converted
                }
                Kind::Adopting => {
                    let is_converted = stage == Stage::Converted;
                    ensure!(is_converted, "an adoption at byte {} of what is not converted", frame.offset);
                    adopting.get_or_insert(sealed);
                    adopted = true;
                    Stage::Converted
                }
                Kind::RollbackBegun => {
                    since = Some(json::<Moment>(&frame)?.at);
                    Stage::RollingBack
                }
                Kind::RolledBack => Stage::RolledBack,
            };
            if frame.kind.is_note() {
                (sealed, sealed_chain) = (frames.offset, chain);
            }
        }
        let good = frames.offset;
        frames.ensure_end_is_torn()?;
        // What was recorded for an adoption that did not begin was not touched: it is recorded anew.
        let is_sealed = stage == Stage::Converted && adopting.is_none();
        let (good, told, chain) = if is_sealed { (sealed, noted, sealed_chain) } else { (good, told, chain) };
        let journal = Self {
            path: path.into(),
            file,
            format,
            begin,
            totals,
            stage,
            good,
            told,
            chain,
            mended: frames.mended,
            unsealed: last.filter(|_| format > Format::One && good == noted),
            torn: length - good,
            converted,
            adopting,
            adopted,
            since,
            late,
            by_path: false,
            known: Mutex::default(),
        };
        if let Some(mark) = Mark::of_journal(&journal.file)? {
            journal.keeps(&mark, "the journal's file")?;
        }
        Ok(journal)
    }

    /// Refuses a journal that has lost what a mark `on` something says was on stable storage.
    pub(super) fn keeps(&self, mark: &Mark, on: &str) -> Result<()> {
        let Mark { id, stage, length } = mark;
        if *id != self.begin.id {
            bail!(
                "it is the journal {}, and {on} is marked by the journal {id} (as {}): name that one by --journal",
                if self.begin.id.is_empty() { "of a format without ids" } else { &self.begin.id },
                stage.name()
            );
        }
        ensure!(
            self.good >= *length && self.stage >= *stage,
            "it is damaged at byte {}: it was {length} bytes long when {on} was marked as {}. Restore it from a backup; nothing \
             was changed",
            self.good,
            stage.name()
        );
        Ok(())
    }

    /// Whether a file is what a crash leaves of a journal that was just being made: nothing was done yet.
    pub(super) fn is_stillborn(path: &Path) -> Result<bool> {
        let mut bytes = Vec::new();
        let length = to_read(path)?.take(1 << 16).read_to_end(&mut bytes)? as u64;
        if length <= MAGIC_LENGTH as u64 {
            let is_cut = Format::ALL.into_iter().any(|format| format.magic().starts_with(&bytes));
            return Ok(is_cut || bytes.iter().all(|&byte| byte == 0));
        }
        let format = Format::ALL.into_iter().find(|format| bytes.starts_with(format.magic()));
        let is_ours = format.is_some() || bytes.iter().all(|&byte| byte == 0);
        if !is_ours || length >= 1 << 16 {
            return Ok(false);
        }
        let mut frames = Frames::new(to_read(path)?, length, format.unwrap_or(Format::Two))?;
        Ok(frames.next()?.is_none() && !frames.has_more()?)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// From now on its entries are known by their paths, whichever inodes are there.
    #[must_use]
    pub fn by_path(mut self) -> Self {
        self.by_path = true;
        self
    }

    /// Whether its entries are known by their paths.
    pub fn is_by_path(&self) -> bool {
        self.by_path
    }

    /// What was begun.
    pub fn begin(&self) -> &Begin {
        &self.begin
    }

    /// What was recorded in all; `None` where the recording did not get to its end.
    pub fn totals(&self) -> Option<Totals> {
        self.totals
    }

    /// How far it got.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether the export is touched, and not rolled back.
    pub fn is_going_on(&self) -> bool {
        matches!(self.stage, Stage::Converting | Stage::Converted | Stage::RollingBack)
    }

    /// Whether all was converted, so that guests may have worked in the export.
    pub fn was_converted(&self) -> bool {
        self.converted.is_some()
    }

    /// When all was converted: seconds since 1970.
    pub fn converted_at(&self) -> Option<u64> {
        self.converted
    }

    /// From where on the listings tell of an adoption that has begun and has not got to its end.
    pub fn adopting(&self) -> Option<u64> {
        self.adopting
    }

    /// Whether entries that were added to the converted export were adopted, or begun to be, at any time.
    pub fn has_adopted(&self) -> bool {
        self.adopted
    }

    /// When a rollback began that is not done: seconds since 1970.
    pub fn rollback_since(&self) -> Option<u64> {
        self.since
    }

    /// Where the last frame that counts ends and that is no second copy of a note: the copy may be lost.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// [`chained`] over all frames that count.
    pub(super) fn chain(&self) -> u32 {
        self.chain
    }

    /// The last note, where its second copy is missing at the end.
    pub(super) fn unsealed(&self) -> Option<&(Kind, Vec<u8>)> {
        self.unsealed.as_ref()
    }

    /// How many bytes of it count.
    pub fn len(&self) -> u64 {
        self.good
    }

    /// Whether nothing of it counts; there always is a beginning.
    pub fn is_empty(&self) -> bool {
        self.good == 0
    }

    /// Where a note is of which only one copy is good.
    pub fn mended(&self) -> Option<u64> {
        self.mended
    }

    /// How many bytes a crash left behind the last good record.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Every listing, in the order they were written.
    pub fn listings(&self) -> Result<Listings> {
        // A descriptor of its own, for a copy would share the position.
        let file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file)))?;
        Ok(Listings { frames: Frames::new(file, self.good, self.format)?, by_path: self.by_path })
    }

    /// The listing whose frame starts at `offset`.
    pub fn listing_at(&self, offset: u64) -> Result<Listing> {
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, offset)?;
        let [l0, l1, l2, l3, ..] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        ensure!(u64::from(length) <= self.good, "byte {offset} does not start a record");
        let mut payload = vec![0; length as usize];
        self.file.read_exact_at(&mut payload, offset + HEAD as u64)?;
        let listing =
            decode(self.format, offset, &payload).with_context(|| format!("the listing at byte {offset}"))?;
        Ok(if self.by_path { of_any(listing) } else { listing })
    }

    /// The directory of `tree` that a listing tells of.
    pub fn directory(&self, tree: &Tree, listing: &Listing) -> Result<Arc<Directory>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chain = Vec::new();
        let mut place = (listing.id, listing.parent, listing.name.clone());
        let mut directory = loop {
            if let Some(directory) = known.get(&place.0) {
                break Arc::clone(directory);
            }
            let (id, parent, name) = place;
            let Some(parent) = parent else { break Arc::clone(tree.root()) };
            chain.push((id, name));
            let (above, name) = self.place(parent)?;
            place = (parent, above, name);
        };
        if known.len() + chain.len() > REMEMBERED {
            known.clear();
        }
        for (id, name) in chain.into_iter().rev() {
            directory = directory.child(&name);
            known.insert(id, Arc::clone(&directory));
        }
        Ok(directory)
    }

    /// Forgets which directories were found: those of another tree will be asked for.
    pub fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The parent's id and the name of the directory whose first frame starts at `id`.
    fn place(&self, id: u64) -> Result<(Option<u64>, CString)> {
        let mut bytes = vec![0; HEAD + PLACE];
        let mut count = 0;
        while count < bytes.len() {
            let at = id + count as u64;
            match self.file.read_at(bytes.get_mut(count..).unwrap_or_default(), at)? {
                0 => break,
                more => count += more,
            }
        }
        bytes.truncate(count);
        let damaged = || format!("byte {id} does not start a directory's record");
        ensure!(bytes.get(HEAD - 1) == Some(&Kind::Directory.byte()), damaged());
        decode_place(id, bytes.get(HEAD..).unwrap_or_default()).with_context(damaged)
    }
}

/// The format of a journal, by what it starts with.
fn format_of(file: &File) -> Result<Format> {
    let mut magic = [0; MAGIC_LENGTH];
    let format = match file.read_exact_at(&mut magic, 0) {
        Ok(()) => Format::ALL.into_iter().find(|format| *format.magic() == magic),
        Err(_) => None,
    };
    format.with_context(|| {
        format!(
            "this is not a journal that this version knows: its first line is neither {} nor {}",
            String::from_utf8_lossy(Format::One.magic()).trim_end(),
            String::from_utf8_lossy(Format::Two.magic()).trim_end()
        )
    })
}

fn json<T: DeserializeOwned>(frame: &Frame) -> Result<T> {
    serde_json::from_slice(&frame.payload).with_context(|| format!("the record at byte {}", frame.offset))
}

/// The good frames of a file, one after the other.
struct Frames {
    file: BufReader<File>,
    format: Format,
    /// Where the next one starts.
    offset: u64,
    /// Where the file ends.
    end: u64,
    /// Where the last note is of which only one copy is good, though more follows.
    mended: Option<u64>,
    /// The note that was read last, and how long its second copy is, which should be here.
    awaited: Option<(Kind, Vec<u8>)>,
}

impl Frames {
    fn new(mut file: File, end: u64, format: Format) -> Result<Self> {
        let offset = MAGIC_LENGTH as u64;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self {
            file: BufReader::with_capacity(1 << 18, file),
            format,
            offset,
            end,
            mended: None,
            awaited: None,
        })
    }

    /// The next frame; `None` at the end, or where the rest was torn by a crash.
    fn next(&mut self) -> Result<Option<Frame>> {
        let offset = self.offset;
        let Some((kind, payload)) = self.read()? else {
            return if self.skips_copy()? { self.next() } else { self.copy() };
        };
        let copy = if self.format > Format::One { Kind::of_copy(kind) } else { None };
        let Some(kind) = Kind::of(kind).or(copy) else {
            bail!("the record at byte {offset} is of a kind that this version does not know")
        };
        self.offset += (HEAD + payload.len()) as u64;
        let has_copy = self.format > Format::One && copy.is_none() && kind.is_note();
        self.awaited = has_copy.then(|| (kind, payload.clone()));
        Ok(Some(Frame { offset, kind, is_copy: copy.is_some(), payload }))
    }

    /// Reads what stands here; `None` where that is no whole frame.
    fn read(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let left = self.end.saturating_sub(self.offset);
        if left < HEAD as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.file.read_exact(&mut head)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if u64::from(length) > left - HEAD as u64 {
            return Ok(None);
        }
        let mut payload = vec![0; length as usize];
        self.file.read_exact(&mut payload)?;
        let is_whole = checksum(length, kind, &payload) == u32::from_le_bytes([c0, c1, c2, c3]);
        Ok(is_whole.then_some((kind, payload)))
    }

    /// How long the second copy is that should be here.
    fn awaits(&self) -> u64 {
        self.awaited.as_ref().map_or(0, |(_, payload)| (HEAD + payload.len()) as u64)
    }

    /// Goes on behind the second copy of a note that alone is damaged: behind it stands a good frame.
    fn skips_copy(&mut self) -> Result<bool> {
        let (damaged, size) = (self.offset, self.awaits());
        if size == 0 || size >= self.end.saturating_sub(damaged) {
            return Ok(false);
        }
        let mut follows = |at: u64| -> Result<bool> {
            self.offset = at;
            self.file.seek(SeekFrom::Start(at))?;
            let frame = self.read()?;
            self.file.seek(SeekFrom::Start(at))?;
            Ok(frame.is_some_and(|(kind, _)| Kind::of(kind).is_some()))
        };
        let is_damaged = follows(damaged + size)?;
        if is_damaged {
            self.awaited = None;
            self.mended = Some(damaged);
        } else {
            self.offset = damaged;
        }
        Ok(is_damaged)
    }

    /// The second copy of the note whose first one should be here, where that alone is damaged.
    fn copy(&mut self) -> Result<Option<Frame>> {
        if self.format == Format::One || self.offset >= self.end {
            return Ok(None);
        }
        let rest = self.rest(2 * (HEAD + LONGEST_NOTE as usize))?;
        let offset = self.offset;
        for (at, size, kind) in notes(&rest) {
            if let Some(kind) = Kind::of_copy(kind).filter(|_| at == size) {
                self.offset += (at + size) as u64;
                self.file.seek(SeekFrom::Start(self.offset))?;
                let payload = rest.get(at + HEAD..at + size).unwrap_or_default().to_vec();
                (self.mended, self.awaited) = (Some(offset), None);
                return Ok(Some(Frame { offset, kind, is_copy: false, payload }));
            }
        }
        Ok(None)
    }

    /// Up to `most` of the bytes from here on.
    fn rest(&mut self, most: usize) -> Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(self.offset))?;
        let mut rest = Vec::new();
        let left = self.end.saturating_sub(self.offset).min(most as u64);
        (&mut self.file).take(left).read_to_end(&mut rest)?;
        Ok(rest)
    }

    /// Refuses a file whose end no crash has torn: something damaged it later.
    fn ensure_end_is_torn(&mut self) -> Result<()> {
        let good = self.offset;
        // Nothing is written behind a note before both of its copies are on stable storage.
        ensure!(
            self.awaited.is_none() || self.end - good <= self.awaits(),
            "it is damaged at byte {good}, the second copy of a note, and what follows can't be relied on: restore it from a backup; `migrate unmap` needs no journal"
        );
        // A crash leaves nothing whole behind what it tore.
        ensure!(
            !self.has_more()? && !self.is_flipped()?,
            "it is damaged at byte {good}, and what follows can't be relied on: restore it from a backup; `migrate unmap` needs no journal"
        );
        Ok(())
    }

    /// Whether behind what is no frame a later one follows that says how far the conversion got.
    fn has_more(&mut self) -> Result<bool> {
        if self.offset == self.end {
            return Ok(false);
        }
        let rest = self.rest(usize::MAX)?;
        Ok(notes(&rest).next().is_some())
    }

    /// Whether what stands at the end is a note of which one bit is another: no crash leaves that.
    fn is_flipped(&mut self) -> Result<bool> {
        // Of a note that is there twice, the other copy says the same.
        if self.format > Format::One || self.end - self.offset > (HEAD + LONGEST_NOTE as usize) as u64 {
            return Ok(false);
        }
        let mut tail = self.rest(usize::MAX)?;
        for bit in 0..tail.len() * 8 {
            let flip = |tail: &mut Vec<u8>| {
                if let Some(byte) = tail.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            };
            flip(&mut tail);
            let is_note = notes_at(&tail, 0).is_some_and(|(size, _)| size == tail.len());
            flip(&mut tail);
            if is_note {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The notes that stand anywhere in these bytes: where, their sizes and their kinds, of first and of second copies.
fn notes(bytes: &[u8]) -> impl Iterator<Item = (usize, usize, u8)> {
    (0..bytes.len()).filter_map(|at| notes_at(bytes, at).map(|(size, kind)| (at, size, kind)))
}

/// The size and the kind of the note that stands at `at`.
fn notes_at(bytes: &[u8], at: usize) -> Option<(usize, u8)> {
    let &[l0, l1, l2, l3, c0, c1, c2, c3, kind] = bytes.get(at..at + HEAD)? else { return None };
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let is_note = Kind::of(kind).or(Kind::of_copy(kind)).is_some_and(Kind::is_note);
    if !is_note || length >= LONGEST_NOTE {
        return None;
    }
    let size = HEAD + length as usize;
    let payload = bytes.get(at + HEAD..at + size)?;
    (checksum(length, kind, payload) == u32::from_le_bytes([c0, c1, c2, c3])).then_some((size, kind))
}

/// A listing whose entries are known by their paths.
fn of_any(mut listing: Listing) -> Listing {
    listing.own = listing.own.of_any();
    for (_, record) in &mut listing.entries {
        *record = record.take().map(Record::of_any);
    }
    listing
}

/// Every listing of a journal. Each comes with the offset of its frame.
pub struct Listings {
    frames: Frames,
    by_path: bool,
}

impl Iterator for Listings {
    type Item = Result<(u64, Listing)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.frames.next() {
                Err(error) => return Some(Err(error)),
                Ok(None) => return None,
                Ok(Some(frame)) if frame.kind != Kind::Directory => {}
                Ok(Some(Frame { offset, payload, .. })) => {
                    let listing = decode(self.frames.format, offset, &payload)
                        .with_context(|| format!("the listing at byte {offset}"));
                    let told = |listing| (offset, if self.by_path { of_any(listing) } else { listing });
                    return Some(listing.map(told));
                }
            }
        }
    }
}
