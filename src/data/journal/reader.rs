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
use super::{Begin, HEAD, Kind, Listing, MAGIC, Moment, Stage, Superseded, Totals, Writer};
use crate::data::tree::{Directory, Tree};
use crate::text;

/// How many directories are remembered by their ids.
const REMEMBERED: usize = 4096;

/// More than the payload of any frame takes that says how far a conversion got.
const LONGEST_NOTE: u32 = 4096;

/// How much of a listing is read for its place: more than flags, two numbers and a name take.
const PLACE: usize = 512;

/// A journal whose checksums were all found right.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    begin: Begin,
    totals: Option<Totals>,
    stage: Stage,
    /// Where the last good frame ends.
    good: u64,
    /// Bytes behind it, which a crash left.
    torn: u64,
    /// Whether it was converted at any time.
    converted: bool,
    /// When a rollback began.
    since: Option<u64>,
    /// Whether any listing is late.
    late: bool,
    known: Mutex<HashMap<u64, Arc<Directory>>>,
}

/// One frame.
struct Frame {
    offset: u64,
    kind: Kind,
    payload: Vec<u8>,
}

impl Journal {
    /// Opens a journal and checks all of it.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = text::escape_path(path);
        let file = File::options().read(true).append(true).open(path);
        let file = file.with_context(|| format!("opening the journal {shown}"))?;
        Self::read(path, file).with_context(|| format!("the journal {shown}"))
    }

    fn read(path: &Path, file: File) -> Result<Self> {
        let length = file.metadata()?.len();
        let mut magic = [0; MAGIC.len()];
        ensure!(
            file.read_exact_at(&mut magic, 0).is_ok() && magic == *MAGIC,
            "this is not a journal of this format: it does not start with {:?}",
            text::escape(MAGIC)
        );
        let mut frames = Frames::new(file.try_clone()?, length)?;
        let Some(first) = frames.next()? else {
            bail!("it is damaged at byte {}, its first record", frames.offset)
        };
        ensure!(first.kind == Kind::Begin, "its first record does not say what was begun");
        let begin = json(&first)?;
        let (mut stage, mut totals) = (Stage::Recording, None);
        let (mut converted, mut since, mut late) = (false, None, false);
        while let Some(frame) = frames.next()? {
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
                    converted = true;
                    Stage::Converted
                }
                Kind::RollbackBegun => {
                    since = Some(json::<Moment>(&frame)?.at);
                    Stage::RollingBack
                }
                Kind::RolledBack => Stage::RolledBack,
            };
        }
        let good = frames.offset;
        // A crash leaves nothing whole behind what it tore: something damaged the file later.
        ensure!(
            !frames.has_more()?,
            "it is damaged at byte {good}, and what follows can't be relied on: restore it from a backup"
        );
        let known = Mutex::default();
        Ok(Self {
            path: path.into(),
            file,
            begin,
            totals,
            stage,
            good,
            torn: length - good,
            converted,
            since,
            late,
            known,
        })
    }

    /// Whether a file is what a crash leaves of a journal that was just being made: nothing was done yet.
    pub fn is_stillborn(path: &Path) -> Result<bool> {
        let mut bytes = Vec::new();
        let length = File::open(path)?.take(1 << 16).read_to_end(&mut bytes)? as u64;
        if length <= MAGIC.len() as u64 {
            return Ok(MAGIC.starts_with(&bytes) || bytes.iter().all(|&byte| byte == 0));
        }
        let is_ours = bytes.starts_with(MAGIC) || bytes.iter().all(|&byte| byte == 0);
        if !is_ours || length >= 1 << 16 {
            return Ok(false);
        }
        let mut frames = Frames::new(File::open(path)?, length)?;
        Ok(frames.next()?.is_none() && !frames.has_more()?)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
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

    /// Whether all was converted, so that guests may have worked in the export.
    pub fn was_converted(&self) -> bool {
        self.converted
    }

    /// When a rollback began that is not done: seconds since 1970.
    pub fn rollback_since(&self) -> Option<u64> {
        self.since
    }

    /// How many bytes of it count.
    pub fn len(&self) -> u64 {
        self.good
    }

    /// Whether nothing of it counts; there always is a beginning.
    pub fn is_empty(&self) -> bool {
        self.good == 0
    }

    /// How many bytes a crash left behind the last good record.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Goes on writing it, behind the last good record.
    pub fn append(&self) -> Result<Writer> {
        Ok(Writer::append(self.file.try_clone()?, self.good)?)
    }

    /// Every listing, in the order they were written.
    pub fn listings(&self) -> Result<Listings> {
        // A descriptor of its own, for a copy would share the position.
        let file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file)))?;
        Ok(Listings(Frames::new(file, self.good)?))
    }

    /// Which entries are told of more than once, and which directories are therefore told of in vain.
    pub fn superseded(&self) -> Result<Superseded> {
        if self.late { Superseded::of(self) } else { Ok(Superseded::default()) }
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
        decode(offset, &payload).with_context(|| format!("the listing at byte {offset}"))
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

fn json<T: DeserializeOwned>(frame: &Frame) -> Result<T> {
    serde_json::from_slice(&frame.payload).with_context(|| format!("the record at byte {}", frame.offset))
}

/// The good frames of a file, one after the other.
struct Frames {
    file: BufReader<File>,
    /// Where the next one starts.
    offset: u64,
    /// Where the file ends.
    end: u64,
}

impl Frames {
    fn new(mut file: File, end: u64) -> Result<Self> {
        let offset = MAGIC.len() as u64;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file: BufReader::with_capacity(1 << 18, file), offset, end })
    }

    /// The next frame; `None` at the end, or where the rest was torn by a crash.
    fn next(&mut self) -> Result<Option<Frame>> {
        let left = self.end - self.offset;
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
        if checksum(length, kind, &payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Ok(None);
        }
        let offset = self.offset;
        let Some(kind) = Kind::of(kind) else {
            bail!("the record at byte {offset} is of a kind that this version does not know")
        };
        self.offset += HEAD as u64 + u64::from(length);
        Ok(Some(Frame { offset, kind, payload }))
    }
}

impl Frames {
    /// Whether behind what is no frame a later one follows that says how far the conversion got.
    fn has_more(&mut self) -> Result<bool> {
        if self.offset == self.end {
            return Ok(false);
        }
        self.file.seek(SeekFrom::Start(self.offset))?;
        let mut rest = Vec::new();
        self.file.read_to_end(&mut rest)?;
        let notes = [Kind::Recorded, Kind::Converted, Kind::RollbackBegun, Kind::RolledBack].map(Kind::byte);
        Ok(rest.windows(HEAD).enumerate().any(|(at, head)| {
            let &[l0, l1, l2, l3, c0, c1, c2, c3, kind] = head else { return false };
            let length = u32::from_le_bytes([l0, l1, l2, l3]);
            let payload = at + HEAD..at + HEAD + length as usize;
            notes.contains(&kind)
                && length < LONGEST_NOTE
                && rest.get(payload).is_some_and(|payload| {
                    checksum(length, kind, payload) == u32::from_le_bytes([c0, c1, c2, c3])
                })
        }))
    }
}

/// A frame's checksum.
fn checksum(length: u32, kind: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length.to_le_bytes());
    crc.update(&[kind]);
    crc.update(payload);
    crc.finalize()
}

/// Every listing of a journal. Each comes with the offset of its frame.
pub struct Listings(Frames);

impl Iterator for Listings {
    type Item = Result<(u64, Listing)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next() {
                Err(error) => return Some(Err(error)),
                Ok(None) => return None,
                Ok(Some(frame)) if frame.kind != Kind::Directory => {}
                Ok(Some(Frame { offset, payload, .. })) => {
                    let listing =
                        decode(offset, &payload).with_context(|| format!("the listing at byte {offset}"));
                    return Some(listing.map(|listing| (offset, listing)));
                }
            }
        }
    }
}
