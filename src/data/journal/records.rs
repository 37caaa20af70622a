//! What a journal is made of: its frames' kinds, its beginning, stages, records and listings.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::data::entry::{Entry, Inode, Time};
use crate::data::form::Model;
use crate::data::id_view::IdMaps;
use crate::data::identity::{Id, Stamp};
use crate::text;

/// What a journal of this version's format starts with.
pub const MAGIC: &[u8; 16] = Format::Two.magic();

/// The formats that are read. New journals are of the last one; an earlier one is continued as it was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Inodes are known by their numbers alone.
    One,
    /// Inodes are known by [`Id`]s, notes are written twice, and marks say how far it got.
    Two,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    /// What a file of this format starts with.
    pub const fn magic(self) -> &'static [u8; 16] {
        match self {
            Self::One => b"virtfs-journal1\n",
            Self::Two => b"virtfs-journal2\n",
        }
    }

    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// The length of a frame without its payload.
pub(super) const HEAD: usize = 9;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Begin = b'B' as isize,
    Directory = b'D' as isize,
    Recorded = b'S' as isize,
    Converted = b'C' as isize,
    Adopting = b'A' as isize,
    RollbackBegun = b'R' as isize,
    RolledBack = b'U' as isize,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Begin,
        Self::Directory,
        Self::Recorded,
        Self::Converted,
        Self::Adopting,
        Self::RollbackBegun,
        Self::RolledBack,
    ];

    pub(super) fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }

    pub(super) const fn byte(self) -> u8 {
        self as u8
    }

    /// The note of which a byte is the kind of a second copy.
    pub(super) fn of_copy(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.is_note() && kind.copy() == byte)
    }

    /// The kind of a note's second copy.
    pub(super) const fn copy(self) -> u8 {
        self.byte().to_ascii_lowercase()
    }

    /// Whether it says how far a conversion got.
    pub(super) fn is_note(self) -> bool {
        !matches!(self, Self::Begin | Self::Directory)
    }
}

/// What is being done to which export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The program that wrote it, with its version.
    pub program: String,
    /// The export's path, as [`crate::text::escape`] spells it.
    pub export: String,
    /// The inode number of the export's root.
    pub root_inode: u64,
    /// `mapped-xattr` or `mapped-file`.
    pub security_model: String,
    /// The user that QEMU runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The real mode of files.
    pub fmode: u32,
    /// The real mode of directories.
    pub dmode: u32,
    /// What the names of files start with that are made on the way and never stay: no entry's name does.
    pub staging: String,
    /// The findings that the admin accepted.
    pub accepted: Vec<String>,
    /// When it began: seconds since 1970.
    pub at: u64,
    /// Which journal this is: a random number in hexadecimal. This and what follows is empty in format 1.
    #[serde(default)]
    pub id: String,
    /// The name of the host.
    #[serde(default)]
    pub host: String,
    /// The export's file system.
    #[serde(default)]
    pub file_system: FileSystem,
    /// The export's root.
    #[serde(default)]
    pub root: Option<Id>,
    /// By which maps the numbers of users and groups were seen; `None` where an earlier version did not record it.
    #[serde(default)]
    pub ids: Option<IdMaps>,
    /// Whether the export's root is marked before the first change: without a mark, nothing was changed.
    #[serde(default)]
    pub marks: bool,
    /// Whether mapped attributes that were there before are what the guest sees, and are kept.
    #[serde(default)]
    pub adopts: bool,
    /// Whether nothing was converted: the tree was mapped before, and is unmapped.
    #[serde(default)]
    pub unmaps: bool,
}

/// Which file system an export is on, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Its type: `ext4`.
    pub kind: String,
    /// What is mounted, as [`crate::text::escape`] spells it: `/dev/vda1`.
    pub source: String,
    /// Its id, `f_fsid` of statfs(2), in hexadecimal.
    pub id: String,
}

impl Begin {
    /// The model; `None` for one of a later version.
    pub fn model(&self) -> Option<Model> {
        [Model::MappedXattr, Model::MappedFile].into_iter().find(|model| model.name() == self.security_model)
    }
}

/// What was recorded in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Entries, directories and the root included.
    pub entries: u64,
    /// Directories among them.
    pub directories: u64,
    /// When the recording was done: seconds since 1970.
    pub at: u64,
    /// [`chained`] over all frames before; `None` in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<u32>,
}

/// When something happened.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Moment {
    pub(super) at: u64,
    /// [`chained`] over all frames before; `None` in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chain: Option<u32>,
}

/// A frame's checksum.
pub(super) fn checksum(length: u32, kind: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length.to_le_bytes());
    crc.update(&[kind]);
    crc.update(payload);
    crc.finalize()
}

/// The CRC-32 of the checksums of frames, one after the other, of which the last is `checksum`; `chain` is that of those before.
pub(super) fn chained(chain: u32, checksum: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(chain);
    crc.update(&checksum.to_le_bytes());
    crc.finalize()
}

/// How far a conversion got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The export is being recorded; nothing is touched yet.
    Recording,
    /// Everything is recorded; some inodes may be converted.
    Converting,
    /// All is converted.
    Converted,
    /// A rollback has begun.
    RollingBack,
    /// All is as it was.
    RolledBack,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 5] =
        [Self::Recording, Self::Converting, Self::Converted, Self::RollingBack, Self::RolledBack];

    /// Its name, for programs and people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Converting => "converting",
            Self::Converted => "converted",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
        }
    }
}

/// The original state of one inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which inode.
    pub id: Id,
    /// What the guest saw, every extended attribute of every namespace included.
    pub entry: Entry,
    /// When it last changed in any way.
    pub changed: Time,
    /// `chattr +i`.
    pub immutable: bool,
    /// `chattr +a`.
    pub append_only: bool,
}

impl Record {
    /// The record of an inode and what the guest saw of it.
    pub fn new(inode: &Inode, entry: Entry) -> Self {
        Self {
            id: inode.id,
            entry,
            changed: inode.changed,
            immutable: inode.immutable,
            append_only: inode.append_only,
        }
    }

    /// Whether it is of `inode`, or of one of the same kind where nothing else is known.
    pub fn is(&self, inode: &Inode) -> bool {
        self.is_inode(inode) && self.entry.kind() == inode.kind()
    }

    /// Whether it is of `inode`, whatever that is now.
    pub fn is_inode(&self, inode: &Inode) -> bool {
        self.id.is(&inode.id, self.changed)
    }

    /// The same, whichever inode it is of.
    pub(super) fn of_any(mut self) -> Self {
        self.id.stamp = Stamp::Any;
        self
    }
}

/// (A part of) a directory: one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The format of the journal that it is in.
    pub format: Format,
    /// Where the directory's first frame starts in the file: the directory's name in this journal.
    pub id: u64,
    /// The parent's; `None` for the root.
    pub parent: Option<u64>,
    /// The directory's name in its parent; empty for the root.
    pub name: CString,
    /// Whether it was met late.
    pub late: bool,
    /// The directory itself.
    pub own: Record,
    /// Only in the last part: all its names.
    pub names: Option<NameSum>,
    /// What is in it: `None` for directories, which have listings of their own.
    pub entries: Vec<(CString, Option<Record>)>,
    /// What earlier listings tell of and is not in it any more.
    pub gone: Vec<CString>,
}

impl Listing {
    /// Whether this frame is the directory's first.
    pub fn is_first(&self, offset: u64) -> bool {
        self.id == offset
    }
}

/// All names of a directory, in short: how many, and the sum of their hashes, in no order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NameSum {
    /// How many.
    pub count: u64,
    /// The sum modulo 2⁶⁴ of their 64-bit FNV-1a hashes.
    pub sum: u64,
}

impl NameSum {
    /// Adds a name.
    pub fn add(&mut self, name: &[u8]) {
        let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }
}

/// How many bytes are reserved behind a journal's end: several times what its last notes take, and what is met late usually does.
pub(super) const RESERVE: u64 = 1 << 16;

/// The error that a journal at `path` could not be written, with what to do about it.
pub(crate) fn not_written(error: io::Error, path: &Path) -> anyhow::Error {
    let shown = text::escape_path(path);
    let advice = if is_full(&error) {
        format!(
            ": its file system is full, or a quota on it is reached. Make room there ({} KiB are enough) and run the same command \
             again: it goes on, and nothing is lost",
            RESERVE / 1024
        )
    } else {
        String::new()
    };
    anyhow::Error::new(error).context(format!("writing the journal '{shown}'{advice}"))
}

/// Likewise while the export is recorded and nothing is changed.
pub(crate) fn not_recorded(error: io::Error) -> anyhow::Error {
    let advice = if is_full(&error) {
        ": its file system is full, or a quota on it is reached. Make room there (migrate check says how much), or keep the journal \
         elsewhere (--journal)"
    } else {
        ""
    };
    anyhow::Error::new(error).context(format!("nothing was changed: writing the journal{advice}"))
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}

/// How the name of a journal ends.
pub(crate) const SUFFIX: &[u8] = b".virtfs-journal";

/// Where an export's journal is unless told otherwise: beside it, `EXPORT.virtfs-journal`.
pub(crate) fn default_path(export: &Path) -> PathBuf {
    let mut name = OsString::from(export.file_name().unwrap_or_default());
    if name.as_bytes().is_empty() {
        name.push("root");
    }
    name.push(OsStr::from_bytes(SUFFIX));
    export.parent().unwrap_or(export).join(name)
}

/// Seconds since 1970, now.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
