//! The messages of 9P2000.L that a Linux guest sends, and their replies.
//!
//! All numbers are little-endian. A message is `size[4] type[1] tag[2]` and the fields of its type; `size` counts itself. A string is
//! `length[2]` and so many bytes, without a terminator. Sources: the kernel's `include/net/9p/9p.h` and
//! `net/9p/client.c`, diod's `protocol.md`.

#![forbid(unsafe_code)]

use nix::errno::Errno;

/// The bytes of a message's head.
pub(crate) const HEAD: usize = 7;
/// The bytes of an [`error`] reply: its head and a number.
pub(crate) const ERROR: usize = HEAD + 4;
/// The bytes of an R-message before the data of a read, or of a directory's entries.
pub(crate) const DATA_AT: usize = HEAD + 4;
/// The bytes of a T-message before the data of a write.
pub(crate) const WRITE_HEAD: usize = HEAD + 16;
/// The longest T-message, the data of a write apart: sixteen names of 64 KiB would be more, but no name is longer than 255 bytes.
pub(crate) const LONGEST_REQUEST: usize = 16 << 10;
/// "No fid", and "no user id".
pub(crate) const NONE: u32 = u32::MAX;
/// The version that is spoken here.
pub(crate) const VERSION: &[u8] = b"9P2000.L";
/// Most names that one walk takes (`P9_MAXWELEM`).
pub(crate) const MOST_NAMES: usize = 16;

/// A message's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// The bytes of the message.
    pub size: usize,
    /// Its type.
    pub kind: u8,
    /// By which its reply is known.
    pub tag: u16,
}

impl Head {
    /// Reads a head.
    pub(crate) fn decode(bytes: [u8; HEAD]) -> Self {
        let [size @ .., kind, low, high] = bytes;
        let size = usize::try_from(u32::from_le_bytes(size)).unwrap_or(usize::MAX);
        Self { size, kind, tag: u16::from_le_bytes([low, high]) }
    }
}

/// By which a guest knows a file: `type[1] version[4] path[8]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Qid {
    /// [`QID_DIRECTORY`], [`QID_SYMLINK`] or 0.
    pub kind: u8,
    /// Changes with the file.
    pub version: u32,
    /// Tells the file from all others.
    pub path: u64,
}

/// The qid of a directory.
pub(crate) const QID_DIRECTORY: u8 = 0x80;
/// The qid of a symbolic link.
pub(crate) const QID_SYMLINK: u8 = 0x02;

/// What a [`Request::Setattr`] sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Which of the fields: `SET_*`.
    pub valid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub atime: (u64, u64),
    /// Seconds and nanoseconds.
    pub mtime: (u64, u64),
}

/// A file's status for [`Reply::attributes`]: the basic fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the fields of stat(2)")]
pub(crate) struct Status {
    pub qid: Qid,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub rdev: u64,
    pub size: u64,
    pub blksize: u64,
    pub blocks: u64,
    pub atime: (u64, u64),
    pub mtime: (u64, u64),
    pub ctime: (u64, u64),
}

/// The fields of [`Status`] that are there (`P9_STATS_BASIC`).
const BASIC: u64 = 0x7ff;

/// A lock, or a question for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lock<'m> {
    /// `P9_LOCK_TYPE_*`: 0 to read, 1 to write, 2 none.
    pub kind: u8,
    /// First byte.
    pub start: u64,
    /// How many bytes; 0 means all that follow.
    pub length: u64,
    /// The process in the guest.
    pub process: u32,
    /// The guest's name.
    pub client: &'m [u8],
}

/// One field of a message, off its bytes.
trait Field<'m>: Sized {
    fn take(fields: &mut Fields<'m>) -> Result<Self, Errno>;
}

/// The bytes of a message that are not yet read.
struct Fields<'m>(&'m [u8]);

impl<'m> Fields<'m> {
    fn bytes(&mut self, count: usize) -> Result<&'m [u8], Errno> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Errno::EPROTO)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Errno::EPROTO)?;
        self.0 = rest;
        Ok(*bytes)
    }
}

macro_rules! number_fields {
    ($($number:ty),*) => {$(
        impl Field<'_> for $number {
            fn take(fields: &mut Fields<'_>) -> Result<Self, Errno> {
                fields.array().map(Self::from_le_bytes)
            }
        }
    )*};
}
number_fields!(u8, u16, u32, u64);

impl<'m> Field<'m> for &'m [u8] {
    fn take(fields: &mut Fields<'m>) -> Result<Self, Errno> {
        let length = u16::take(fields)?;
        fields.bytes(length.into())
    }
}

impl Field<'_> for (u64, u64) {
    fn take(fields: &mut Fields<'_>) -> Result<Self, Errno> {
        Ok((u64::take(fields)?, u64::take(fields)?))
    }
}

impl Field<'_> for Attributes {
    fn take(fields: &mut Fields<'_>) -> Result<Self, Errno> {
        Ok(Self {
            valid: Field::take(fields)?,
            mode: Field::take(fields)?,
            uid: Field::take(fields)?,
            gid: Field::take(fields)?,
            size: Field::take(fields)?,
            atime: Field::take(fields)?,
            mtime: Field::take(fields)?,
        })
    }
}

/// The names of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Names<'m> {
    names: [&'m [u8]; MOST_NAMES],
    count: usize,
}

impl<'m> Names<'m> {
    /// In their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'m [u8]> {
        self.names.into_iter().take(self.count)
    }
}

impl<'m> Field<'m> for Names<'m> {
    fn take(fields: &mut Fields<'m>) -> Result<Self, Errno> {
        let count = usize::from(u16::take(fields)?);
        let mut names = [&[][..]; MOST_NAMES];
        for name in names.get_mut(..count).ok_or(Errno::EPROTO)? {
            *name = Field::take(fields)?;
        }
        Ok(Self { names, count })
    }
}

macro_rules! requests {
    ($($(#[$doc:meta])* $number:literal $name:ident { $($field:ident: $type:ty),* })*) => {
        /// A request of the guest's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the fields have the protocol's names")]
        #[allow(clippy::large_enum_variant, reason = "one at a time, and never moved")]
        pub(crate) enum Request<'m> {
            $($(#[$doc])* $name { $($field: $type),* },)*
        }

        impl<'m> Request<'m> {
            /// Reads the fields of a request of type `kind`. `EOPNOTSUPP` for a type that is none, `EPROTO` where the bytes are
            /// not those of one request.
            pub(crate) fn decode(kind: u8, body: &'m [u8]) -> Result<Self, Errno> {
                let mut fields = Fields(body);
                let request = match kind {
                    $($number => {
                        $(let $field = <$type as Field<'m>>::take(&mut fields)?;)*
                        Self::$name { $($field),* }
                    })*
                    _ => return Err(Errno::EOPNOTSUPP),
                };
                if fields.0.is_empty() { Ok(request) } else { Err(Errno::EPROTO) }
            }
        }
    };
}

requests! {
    /// The status of a file system.
    8 Statfs { fid: u32 }
    /// Opens a file.
    12 Lopen { fid: u32, flags: u32 }
    /// Makes and opens a file.
    14 Lcreate { fid: u32, name: &'m [u8], flags: u32, mode: u32, gid: u32 }
    /// Makes a symbolic link.
    16 Symlink { fid: u32, name: &'m [u8], target: &'m [u8], gid: u32 }
    /// Makes a special file.
    18 Mknod { fid: u32, name: &'m [u8], mode: u32, major: u32, minor: u32, gid: u32 }
    /// Gives a file another directory and name.
    20 Rename { fid: u32, directory: u32, name: &'m [u8] }
    /// Reads a symbolic link.
    22 Readlink { fid: u32 }
    /// A file's status.
    24 Getattr { fid: u32, mask: u64 }
    /// Changes a file's status.
    26 Setattr { fid: u32, attributes: Attributes }
    /// Reads an extended attribute, or the list of them.
    30 Xattrwalk { fid: u32, newfid: u32, name: &'m [u8] }
    /// Begins to set an extended attribute.
    32 Xattrcreate { fid: u32, name: &'m [u8], size: u64, flags: u32 }
    /// Reads entries of a directory.
    40 Readdir { fid: u32, offset: u64, count: u32 }
    /// Writes a file to its disk.
    50 Fsync { fid: u32, datasync: u32 }
    /// Locks bytes of a file, or unlocks them.
    52 Lock { fid: u32, kind: u8, flags: u32, start: u64, length: u64, process: u32, client: &'m [u8] }
    /// Asks for a lock that is in the way.
    54 Getlock { fid: u32, kind: u8, start: u64, length: u64, process: u32, client: &'m [u8] }
    /// Makes a hard link.
    70 Link { directory: u32, fid: u32, name: &'m [u8] }
    /// Makes a directory.
    72 Mkdir { fid: u32, name: &'m [u8], mode: u32, gid: u32 }
    /// Renames an entry.
    74 Renameat { from: u32, old: &'m [u8], to: u32, new: &'m [u8] }
    /// Removes an entry.
    76 Unlinkat { fid: u32, name: &'m [u8], flags: u32 }
    /// Begins a session.
    100 Version { msize: u32, version: &'m [u8] }
    /// Asks for authentication, which there is none of.
    102 Auth { afid: u32, uname: &'m [u8], aname: &'m [u8], uid: u32 }
    /// Takes hold of the export.
    104 Attach { fid: u32, afid: u32, uname: &'m [u8], aname: &'m [u8], uid: u32 }
    /// Takes back a request.
    108 Flush { oldtag: u16 }
    /// Looks names up.
    110 Walk { fid: u32, newfid: u32, names: Names<'m> }
    /// Reads from a file.
    116 Read { fid: u32, offset: u64, count: u32 }
    /// Writes to a file: the data follow.
    118 Write { fid: u32, offset: u64, count: u32 }
    /// Lets go of a file.
    120 Clunk { fid: u32 }
    /// Removes a file.
    122 Remove { fid: u32 }
}

/// The type of a write request, the one whose data are not among its fields.
pub(crate) const WRITE: u8 = 118;
/// The type of an error reply.
const RLERROR: u8 = 7;

/// An error reply, whole.
pub(crate) fn error(tag: u16, errno: Errno) -> [u8; ERROR] {
    let mut bytes = [0; ERROR];
    bytes[0] = 11;
    bytes[4] = RLERROR;
    bytes[5..7].copy_from_slice(&tag.to_le_bytes());
    bytes[7..].copy_from_slice(&(errno as i32).to_le_bytes());
    bytes
}

/// Makes a reply of a request's type in a buffer that is used again.
pub(crate) struct Reply<'b>(&'b mut Vec<u8>);

impl<'b> Reply<'b> {
    /// An empty reply to a request of type `kind`.
    pub(crate) fn new(buffer: &'b mut Vec<u8>, kind: u8, tag: u16) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&[0; 4]);
        buffer.push(kind.wrapping_add(1));
        buffer.extend_from_slice(&tag.to_le_bytes());
        Self(buffer)
    }

    /// Appends a number of one byte.
    pub(crate) fn u8(&mut self, number: u8) -> &mut Self {
        self.0.push(number);
        self
    }

    /// Appends a number of two bytes.
    pub(crate) fn u16(&mut self, number: u16) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Appends a number of four bytes.
    pub(crate) fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Appends a number of eight bytes.
    pub(crate) fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Appends a string, cut at 64 KiB.
    pub(crate) fn string(&mut self, bytes: &[u8]) -> &mut Self {
        let bytes = &bytes[..bytes.len().min(u16::MAX.into())];
        self.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX)).bytes(bytes)
    }

    /// Appends bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a qid.
    pub(crate) fn qid(&mut self, qid: Qid) -> &mut Self {
        self.u8(qid.kind).u32(qid.version).u64(qid.path)
    }

    /// Appends a time.
    fn time(&mut self, (seconds, nanoseconds): (u64, u64)) -> &mut Self {
        self.u64(seconds).u64(nanoseconds)
    }

    /// Appends a file's status, without the fields that are not basic.
    pub(crate) fn attributes(&mut self, status: &Status) -> &mut Self {
        self.u64(BASIC).qid(status.qid).u32(status.mode).u32(status.uid).u32(status.gid);
        self.u64(status.nlink).u64(status.rdev).u64(status.size).u64(status.blksize).u64(status.blocks);
        self.time(status.atime).time(status.mtime).time(status.ctime);
        // When it was made, its generation, the version of its data.
        self.time((0, 0)).u64(0).u64(0)
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Overwrites the number of four bytes at `at`.
    pub(crate) fn set_u32(&mut self, at: usize, number: u32) {
        if let Some(place) = self.0.get_mut(at..at + 4) {
            place.copy_from_slice(&number.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request's bytes behind its head, and what they say.
    fn table() -> Vec<(u8, Vec<u8>, Request<'static>)> {
        let mut names = [&[][..]; MOST_NAMES];
        (names[0], names[1]) = (b"one", b"");
        vec![
            (8, vec![1, 0, 0, 0], Request::Statfs { fid: 1 }),
            (12, vec![1, 0, 0, 0, 2, 4, 0, 0], Request::Lopen { fid: 1, flags: 0x402 }),
            (
                14,
                [&[1, 0, 0, 0, 1, 0, b'f', 2, 0, 0, 0][..], &[0xa4, 1, 0, 0], &[5, 0, 0, 0]].concat(),
                Request::Lcreate { fid: 1, name: b"f", flags: 2, mode: 0o644, gid: 5 },
            ),
            (
                74,
                vec![1, 0, 0, 0, 1, 0, b'a', 2, 0, 0, 0, 1, 0, b'b'],
                Request::Renameat { from: 1, old: b"a", to: 2, new: b"b" },
            ),
            (
                100,
                [&[0, 0, 8, 0, 8, 0][..], b"9P2000.L"].concat(),
                Request::Version { msize: 512 << 10, version: VERSION },
            ),
            (108, vec![9, 0], Request::Flush { oldtag: 9 }),
            (
                110,
                [&[1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 3, 0][..], b"one", &[0, 0]].concat(),
                Request::Walk { fid: 1, newfid: 2, names: Names { names, count: 2 } },
            ),
            (
                118,
                vec![1, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0],
                Request::Write { fid: 1, offset: 4096, count: 3 },
            ),
        ]
    }

    #[test]
    fn requests_are_read_as_the_protocol_has_them() {
        for (kind, bytes, request) in table() {
            assert_eq!(Request::decode(kind, &bytes), Ok(request));
            for length in 0..bytes.len() {
                assert_eq!(Request::decode(kind, &bytes[..length]), Err(Errno::EPROTO), "{kind}: {length}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Request::decode(kind, &longer), Err(Errno::EPROTO), "{kind}");
        }
        assert_eq!(Request::decode(99, &[]), Err(Errno::EOPNOTSUPP));
    }

    #[test]
    fn a_walk_of_more_names_than_there_may_be_is_refused() {
        for (count, expected) in [(16_u16, true), (17, false), (u16::MAX, false)] {
            let names = vec![0; usize::from(count) * 2];
            let body = [&[1, 0, 0, 0, 2, 0, 0, 0][..], &count.to_le_bytes(), &names].concat();
            assert_eq!(Request::decode(110, &body).is_ok(), expected, "{count}");
        }
    }

    #[test]
    fn replies_have_the_protocols_layout() {
        assert_eq!(error(0x0102, Errno::ENOENT), [11, 0, 0, 0, 7, 2, 1, 2, 0, 0, 0]);
        let mut buffer = vec![1, 2, 3];
        let mut reply = Reply::new(&mut buffer, 110, 5);
        reply.u16(1).qid(Qid { kind: QID_DIRECTORY, version: 2, path: 3 });
        assert_eq!(buffer, [0, 0, 0, 0, 111, 5, 0, 1, 0, 0x80, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        Reply::new(&mut buffer, 24, 5).attributes(&Status::default());
        assert_eq!(buffer.len(), HEAD + 153);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::decode(kind, &body);
        }
    }
}
