//! The wire protocol: requests, replies and their codec. No I/O here, and no unsafe code.
//!
//! All integers are in the host's byte order, packed without padding. A request is a header (`u32 type`,
//! `u32 size`, the number of bytes behind it) and its fields in the order of [`Request`]'s table: a string is a
//! `u16` length and that many bytes, neither terminated nor necessarily UTF-8. A request is answered in one of
//! three forms: see [`Form`].
//!
//! Source: the traffic of QEMU 7.2's client (`hw/9pfs/9p-proxy.c`) with its helper.

#![forbid(unsafe_code)]

use nix::errno::Errno;

/// The header's length: `u32 type`, `u32 size`.
pub const HEADER: usize = 8;
/// The most bytes that may follow a header, in either direction.
pub(crate) const MAX_PAYLOAD: usize = 64 * 1024;
/// The longest string that a response can carry: what [`MAX_PAYLOAD`] leaves beside its length.
pub(crate) const MAX_VALUE: usize = MAX_PAYLOAD - 2;

/// The reply's type for success.
pub(crate) const T_SUCCESS: u32 = 0;
/// The reply's type for an error; its payload is the negative errno.
pub(crate) const T_ERROR: u32 = 1;

/// What the four bytes of an fd reply say when a descriptor comes with them.
pub(crate) const FD_FOLLOWS: i32 = i32::MAX;

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// No header: four bytes, [`FD_FOLLOWS`] with a descriptor beside them, or a negative errno without.
    Fd,
    /// A header and four bytes: zero or a negative errno.
    Status,
    /// A header and the bytes asked for, or a header and a negative errno.
    Response,
}

/// What a request does to the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Reads,
    /// It changes something, always.
    Changes,
    /// That depends on the open flags.
    ByFlags,
}

/// Why bytes are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The type is none of the table's.
    UnknownType(u32),
    /// The header announces more than [`MAX_PAYLOAD`] bytes.
    TooLarge(u32),
    /// The payload ends before this field does.
    Truncated {
        /// The request's name.
        request: &'static str,
        /// The field's name.
        field: &'static str,
    },
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownType(number) => write!(f, "request type {number} is unknown"),
            Self::TooLarge(size) => {
                write!(f, "a request announces {size} bytes, {MAX_PAYLOAD} are the most")
            }
            Self::Truncated { request, field } => write!(f, "{request} ends before its field '{field}'"),
        }
    }
}

/// A field's form on the wire.
trait Field<'a>: Sized {
    /// Takes the field off the front of `bytes`.
    fn take(bytes: &mut &'a [u8]) -> Option<Self>;
    /// Appends the field to `out`.
    fn put(&self, out: &mut Vec<u8>);
    /// The bytes of a string.
    fn string(&self) -> Option<&'a [u8]> {
        None
    }
}

macro_rules! integer_fields {
    ($($int:ty),*) => {$(
        impl Field<'_> for $int {
            fn take(bytes: &mut &[u8]) -> Option<Self> {
                let (first, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(<$int>::from_ne_bytes(*first))
            }
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_ne_bytes());
            }
        }
    )*};
}
integer_fields!(u16, i32, u32, i64, u64);

impl<'a> Field<'a> for &'a [u8] {
    fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let length = u16::take(bytes)?;
        let (string, rest) = bytes.split_at_checked(length.into())?;
        *bytes = rest;
        Some(string)
    }
    /// A string longer than its length field can say is cut there.
    fn put(&self, out: &mut Vec<u8>) {
        let length = u16::try_from(self.len()).unwrap_or(u16::MAX);
        length.put(out);
        out.extend_from_slice(&self[..length.into()]);
    }
    fn string(&self) -> Option<&'a [u8]> {
        Some(self)
    }
}

/// Makes [`Request`] and its codec from one table.
macro_rules! requests {
    ($($(#[$doc:meta])* $number:literal $wire:literal $name:ident => $form:ident, $effect:ident
        { $($(#[$field_doc:meta])* $field:ident: $kind:ty),* $(,)? })*) => {
        /// A request, borrowed from the bytes it came in.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Request<'a> {
            $($(#[$doc])* $name { $($(#[$field_doc])* $field: $kind),* },)*
        }

        impl<'a> Request<'a> {
            /// Every type there is: number and name.
            pub const TYPES: &'static [(u32, &'static str)] = &[$(($number, $wire)),*];

            /// Decodes the `payload` behind a header of type `number`. Bytes behind the last field are ignored,
            /// as the original does.
            pub fn decode(number: u32, payload: &'a [u8]) -> Result<Self, Malformed> {
                let mut rest = payload;
                match number {
                    $($number => Ok(Self::$name {
                        $($field: <$kind as Field<'a>>::take(&mut rest).ok_or(Malformed::Truncated {
                            request: $wire,
                            field: stringify!($field),
                        })?,)*
                    }),)*
                    _ => Err(Malformed::UnknownType(number)),
                }
            }

            /// Appends header and payload to `out`: what a client sends.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let start = out.len();
                out.extend_from_slice(&[0; HEADER]);
                match self {
                    $(Self::$name { $($field),* } => { $($field.put(out);)* })*
                }
                let size = u32::try_from(out.len() - start - HEADER).unwrap_or(u32::MAX);
                out[start..start + HEADER].copy_from_slice(&header(self.number(), size));
            }

            /// The request's type on the wire.
            pub fn number(&self) -> u32 {
                match self { $(Self::$name { .. } => $number,)* }
            }

            /// The request's name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name { .. } => $wire,)* }
            }

            /// The strings that it carries, paths most of them.
            pub fn strings(&self) -> impl Iterator<Item = &'a [u8]> {
                let all: Vec<Option<&'a [u8]>> =
                    match self { $(Self::$name { $($field),* } => vec![$($field.string()),*],)* };
                all.into_iter().flatten()
            }

            /// How it is answered.
            pub fn form(&self) -> Form {
                match self { $(Self::$name { .. } => Form::$form,)* }
            }

            /// What it does to the export.
            pub fn effect(&self) -> Effect {
                match self { $(Self::$name { .. } => Effect::$effect,)* }
            }
        }

        #[cfg(test)]
        pub(crate) mod arbitrary {
            use super::Request;
            use proptest::prelude::*;

            /// Owned values for a request of any type, for property tests.
            pub(crate) fn encoded() -> impl Strategy<Value = (u32, Vec<u8>)> {
                let types: Vec<u32> = Request::TYPES.iter().map(|(number, _)| *number).collect();
                (proptest::sample::select(types), proptest::collection::vec(any::<u8>(), 0..200))
            }
        }
    };
}

requests! {
    /// Open an existing regular file or directory.
    2 "T_OPEN" Open => Fd, ByFlags {
        /// The file.
        path: &'a [u8],
        /// `O_*`.
        flags: i32,
    }
    /// Create a regular file as `uid:gid` and open it.
    3 "T_CREATE" Create => Fd, Changes {
        /// The file.
        path: &'a [u8],
        /// `O_*`, `O_CREAT` among them.
        flags: i32,
        /// Permission bits.
        mode: u32,
        /// The new file's owner; `u32::MAX` leaves the helper's own.
        uid: u32,
        /// The new file's group; `u32::MAX` leaves the helper's own.
        gid: u32,
    }
    /// Make a device, FIFO, socket or regular file.
    4 "T_MKNOD" Mknod => Status, Changes {
        /// Owner, as in [`Request::Create`].
        uid: u32,
        /// Group, as in [`Request::Create`].
        gid: u32,
        /// The new node.
        path: &'a [u8],
        /// Type and permission bits.
        mode: u32,
        /// The device's number, as `st_rdev` has it.
        rdev: u64,
    }
    /// Make a directory.
    5 "T_MKDIR" Mkdir => Status, Changes {
        /// Owner, as in [`Request::Create`].
        uid: u32,
        /// Group, as in [`Request::Create`].
        gid: u32,
        /// The new directory.
        path: &'a [u8],
        /// Permission bits.
        mode: u32,
    }
    /// Make a symbolic link.
    6 "T_SYMLINK" Symlink => Status, Changes {
        /// Owner, as in [`Request::Create`].
        uid: u32,
        /// Group, as in [`Request::Create`].
        gid: u32,
        /// What the link says.
        target: &'a [u8],
        /// The new link.
        path: &'a [u8],
    }
    /// Make a hard link.
    7 "T_LINK" Link => Status, Changes {
        /// The existing name.
        old: &'a [u8],
        /// The new name.
        new: &'a [u8],
    }
    /// Status of a file; a final symlink is not followed. Reply: see [`encode_stat`].
    8 "T_LSTAT" Lstat => Response, Reads {
        /// The file.
        path: &'a [u8],
    }
    /// What a symbolic link says. Reply: a string of at most `size - 1` bytes.
    9 "T_READLINK" Readlink => Response, Reads {
        /// The link.
        path: &'a [u8],
        /// The client's buffer, a terminator included.
        size: u32,
    }
    /// Status of the file system. Reply: see [`encode_statfs`].
    10 "T_STATFS" Statfs => Response, Reads {
        /// Any file on it.
        path: &'a [u8],
    }
    /// Change permission bits.
    11 "T_CHMOD" Chmod => Status, Changes {
        /// The file.
        path: &'a [u8],
        /// Permission bits.
        mode: u32,
    }
    /// Change owner and group; a final symlink is not followed.
    12 "T_CHOWN" Chown => Status, Changes {
        /// The file.
        path: &'a [u8],
        /// The owner; `u32::MAX` leaves it alone.
        uid: u32,
        /// The group; `u32::MAX` leaves it alone.
        gid: u32,
    }
    /// Change a regular file's size.
    13 "T_TRUNCATE" Truncate => Status, Changes {
        /// The file.
        path: &'a [u8],
        /// In bytes.
        size: i64,
    }
    /// Change access and modification time; a final symlink is not followed.
    14 "T_UTIME" Utime => Status, Changes {
        /// The file.
        path: &'a [u8],
        /// Access time: seconds.
        atime: i64,
        /// Access time: nanoseconds, `UTIME_NOW` or `UTIME_OMIT`.
        atime_ns: i64,
        /// Modification time: seconds.
        mtime: i64,
        /// Modification time: nanoseconds, `UTIME_NOW` or `UTIME_OMIT`.
        mtime_ns: i64,
    }
    /// Rename.
    15 "T_RENAME" Rename => Status, Changes {
        /// The existing name.
        old: &'a [u8],
        /// The new name.
        new: &'a [u8],
    }
    /// Remove a file or an empty directory.
    16 "T_REMOVE" Remove => Status, Changes {
        /// The file.
        path: &'a [u8],
    }
    /// An extended attribute's value. Reply: `u32` length when `size` is 0, else a string.
    17 "T_LGETXATTR" Lgetxattr => Response, Reads {
        /// The client's buffer.
        size: u32,
        /// The file.
        path: &'a [u8],
        /// The attribute.
        name: &'a [u8],
    }
    /// The names of all extended attributes, each with a NUL. Reply as for [`Request::Lgetxattr`].
    18 "T_LLISTXATTR" Llistxattr => Response, Reads {
        /// The client's buffer.
        size: u32,
        /// The file.
        path: &'a [u8],
    }
    /// Set an extended attribute.
    19 "T_LSETXATTR" Lsetxattr => Status, Changes {
        /// The file.
        path: &'a [u8],
        /// The attribute.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
        /// How many bytes of the value count.
        size: u32,
        /// `XATTR_CREATE`, `XATTR_REPLACE` or 0.
        flags: i32,
    }
    /// Remove an extended attribute.
    20 "T_LREMOVEXATTR" Lremovexattr => Status, Changes {
        /// The file.
        path: &'a [u8],
        /// The attribute.
        name: &'a [u8],
    }
    /// The inode's generation number. Reply: `u64`, 0 where the file system has none.
    21 "T_GETVERSION" Getversion => Response, Reads {
        /// The file.
        path: &'a [u8],
    }
}

/// A header's bytes.
pub(crate) fn header(kind: u32, size: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&kind.to_ne_bytes());
    bytes[4..].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// A request that stands at the front of a buffer: its type, and its payload's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The request's type, not yet checked.
    pub number: u32,
    /// How many bytes follow the header.
    pub size: usize,
}

impl Frame {
    /// Reads the header at the front of `bytes`; `None` while it is not whole.
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut rest = bytes;
        let (Some(number), Some(size)) = (u32::take(&mut rest), u32::take(&mut rest)) else {
            return Ok(None);
        };
        match usize::try_from(size) {
            Ok(size) if size <= MAX_PAYLOAD => Ok(Some(Self { number, size })),
            _ => Err(Malformed::TooLarge(size)),
        }
    }
}

/// A success reply without a value: what [`Form::Status`] carries for 0.
pub(crate) const DONE: [u8; HEADER + 4] = error_or_zero(T_SUCCESS, 0);

/// The reply to a request of form [`Form::Status`] or [`Form::Response`] that failed.
pub(crate) fn encode_error(errno: Errno) -> [u8; HEADER + 4] {
    error_or_zero(T_ERROR, -(errno as i32))
}

const fn error_or_zero(kind: u32, value: i32) -> [u8; HEADER + 4] {
    let (kind, size, value) = (kind.to_ne_bytes(), 4u32.to_ne_bytes(), value.to_ne_bytes());
    let mut bytes = [0; HEADER + 4];
    let mut at = 0;
    // A for loop is not const.
    while at < 4 {
        (bytes[at], bytes[at + 4], bytes[at + 8]) = (kind[at], size[at], value[at]);
        at += 1;
    }
    bytes
}

/// A fixed-size response under construction: a header, then 8-byte and 4-byte integers.
struct Packed<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Packed<N> {
    fn new() -> Self {
        let mut packed = Self { bytes: [0; N], at: 0 };
        let size = u32::try_from(N - HEADER).unwrap_or(u32::MAX);
        packed.put(&header(T_SUCCESS, size));
        packed
    }
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }
    fn q(&mut self, value: u64) {
        self.put(&value.to_ne_bytes());
    }
    fn d(&mut self, value: u32) {
        self.put(&value.to_ne_bytes());
    }
}

/// The bytes of a [`Request::Lstat`] reply: header and 116 bytes.
pub(crate) const STAT_REPLY: usize = HEADER + 116;

/// Encodes a file's status: q dev, q ino, q nlink, d mode, d uid, d gid, q rdev, q size, q blksize, q blocks,
/// then seconds and nanoseconds of atime, mtime and ctime, q each.
#[allow(clippy::cast_sign_loss, reason = "the wire carries two's complement")]
#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "field types differ by architecture")]
pub(crate) fn encode_stat(stat: &libc::stat) -> [u8; STAT_REPLY] {
    let mut out = Packed::new();
    out.q(stat.st_dev);
    out.q(stat.st_ino);
    out.q(u64::from(stat.st_nlink));
    out.d(stat.st_mode);
    out.d(stat.st_uid);
    out.d(stat.st_gid);
    out.q(stat.st_rdev);
    out.q(stat.st_size as u64);
    out.q(stat.st_blksize as u64);
    out.q(stat.st_blocks as u64);
    for (seconds, nanoseconds) in [
        (stat.st_atime, stat.st_atime_nsec),
        (stat.st_mtime, stat.st_mtime_nsec),
        (stat.st_ctime, stat.st_ctime_nsec),
    ] {
        out.q(seconds as u64);
        out.q(nanoseconds as u64);
    }
    out.bytes
}

/// The bytes of a [`Request::Statfs`] reply: header and 88 bytes.
pub(crate) const STATFS_REPLY: usize = HEADER + 88;

/// A file system's status, field by field as the wire has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StatfsReply {
    /// Its magic number.
    pub kind: u64,
    /// Block size in bytes.
    pub bsize: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for ordinary users.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// The file system's id. The client takes its second half from the upper half of the second word.
    pub fsid: [u64; 2],
    /// The longest name in bytes.
    pub namelen: u64,
    /// Fragment size in bytes.
    pub frsize: u64,
}

/// Encodes a file system's status: eleven words, in the order of [`StatfsReply`].
pub(crate) fn encode_statfs(reply: &StatfsReply) -> [u8; STATFS_REPLY] {
    let mut out = Packed::new();
    for word in [
        reply.kind,
        reply.bsize,
        reply.blocks,
        reply.bfree,
        reply.bavail,
        reply.files,
        reply.ffree,
        reply.fsid[0],
        reply.fsid[1],
        reply.namelen,
        reply.frsize,
    ] {
        out.q(word);
    }
    out.bytes
}

/// Encodes a length: the reply to an extended attribute request of size 0.
pub(crate) fn encode_length(length: u32) -> [u8; HEADER + 4] {
    let mut out = Packed::new();
    out.d(length);
    out.bytes
}

/// Encodes an inode's generation number.
pub(crate) fn encode_version(version: u64) -> [u8; HEADER + 8] {
    let mut out = Packed::new();
    out.q(version);
    out.bytes
}

/// Where a string's bytes go in a response under construction, so that the kernel can write them in place.
pub(crate) const VALUE_AT: usize = HEADER + 2;

/// Completes a response whose string of `length` bytes stands at [`VALUE_AT`] of `reply`, and returns how many
/// bytes of `reply` are to be sent. Answers `E2BIG` when the string does not fit a response.
pub(crate) fn finish_value(reply: &mut [u8], length: usize) -> Result<usize, Errno> {
    let count = u16::try_from(length).ok().filter(|_| length <= MAX_VALUE).ok_or(Errno::E2BIG)?;
    let size = u32::from(count) + 2;
    let front = reply.get_mut(..VALUE_AT).ok_or(Errno::E2BIG)?;
    front[..HEADER].copy_from_slice(&header(T_SUCCESS, size));
    front[HEADER..].copy_from_slice(&count.to_ne_bytes());
    Ok(VALUE_AT + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(request: Request<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        bytes
    }

    /// One vector a type, spelt out in little-endian bytes.
    fn vectors() -> Vec<(Request<'static>, &'static [u8])> {
        vec![
            (Request::Open { path: b"/f", flags: 2 }, b"\x02\0\0\0\x08\0\0\0\x02\0/f\x02\0\0\0"),
            (
                Request::Create { path: b"/f", flags: 0x42, mode: 0o644, uid: 1000, gid: u32::MAX },
                b"\x03\0\0\0\x14\0\0\0\x02\0/f\x42\0\0\0\xa4\x01\0\0\xe8\x03\0\0\xff\xff\xff\xff",
            ),
            (
                Request::Mknod { uid: 0, gid: 5, path: b"/n", mode: 0o20600, rdev: 0x0103 },
                b"\x04\0\0\0\x18\0\0\0\0\0\0\0\x05\0\0\0\x02\0/n\x80\x21\0\0\x03\x01\0\0\0\0\0\0",
            ),
            (
                Request::Mkdir { uid: 1, gid: 2, path: b"/d", mode: 0o755 },
                b"\x05\0\0\0\x10\0\0\0\x01\0\0\0\x02\0\0\0\x02\0/d\xed\x01\0\0",
            ),
            (
                Request::Symlink { uid: 1, gid: 2, target: b"to", path: b"/l" },
                b"\x06\0\0\0\x10\0\0\0\x01\0\0\0\x02\0\0\0\x02\0to\x02\0/l",
            ),
            (Request::Link { old: b"/a", new: b"/b" }, b"\x07\0\0\0\x08\0\0\0\x02\0/a\x02\0/b"),
            (Request::Lstat { path: b"/" }, b"\x08\0\0\0\x03\0\0\0\x01\0/"),
            (Request::Readlink { path: b"/l", size: 4096 }, b"\x09\0\0\0\x08\0\0\0\x02\0/l\0\x10\0\0"),
            (Request::Statfs { path: b"/" }, b"\x0a\0\0\0\x03\0\0\0\x01\0/"),
            (Request::Chmod { path: b"/f", mode: 0o4755 }, b"\x0b\0\0\0\x08\0\0\0\x02\0/f\xed\x09\0\0"),
            (
                Request::Chown { path: b"/f", uid: 1, gid: u32::MAX },
                b"\x0c\0\0\0\x0c\0\0\0\x02\0/f\x01\0\0\0\xff\xff\xff\xff",
            ),
            (
                Request::Truncate { path: b"/f", size: 1 << 32 },
                b"\x0d\0\0\0\x0c\0\0\0\x02\0/f\0\0\0\0\x01\0\0\0",
            ),
            (
                Request::Utime { path: b"/f", atime: -1, atime_ns: 2, mtime: 3, mtime_ns: 4 },
                b"\x0e\0\0\0\x24\0\0\0\x02\0/f\xff\xff\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0",
            ),
            (Request::Rename { old: b"/a", new: b"/b" }, b"\x0f\0\0\0\x08\0\0\0\x02\0/a\x02\0/b"),
            (Request::Remove { path: b"/f" }, b"\x10\0\0\0\x04\0\0\0\x02\0/f"),
            (
                Request::Lgetxattr { size: 9, path: b"/f", name: b"user.a" },
                b"\x11\0\0\0\x10\0\0\0\x09\0\0\0\x02\0/f\x06\0user.a",
            ),
            (Request::Llistxattr { size: 0, path: b"/f" }, b"\x12\0\0\0\x08\0\0\0\0\0\0\0\x02\0/f"),
            (
                Request::Lsetxattr { path: b"/f", name: b"user.a", value: b"v\0", size: 2, flags: 1 },
                b"\x13\0\0\0\x18\0\0\0\x02\0/f\x06\0user.a\x02\0v\0\x02\0\0\0\x01\0\0\0",
            ),
            (
                Request::Lremovexattr { path: b"/f", name: b"user.a" },
                b"\x14\0\0\0\x0c\0\0\0\x02\0/f\x06\0user.a",
            ),
            (Request::Getversion { path: b"/f" }, b"\x15\0\0\0\x04\0\0\0\x02\0/f"),
        ]
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn every_type_has_its_bytes() {
        let vectors = vectors();
        let numbers: Vec<u32> = vectors.iter().map(|(request, _)| request.number()).collect();
        assert_eq!(numbers, Request::TYPES.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        for (request, bytes) in vectors {
            assert_eq!(wire(request), bytes, "{}", request.name());
            assert_eq!(Request::decode(request.number(), &bytes[HEADER..]), Ok(request));
        }
    }

    #[test]
    fn every_truncation_is_malformed() {
        for (request, _) in vectors() {
            let bytes = wire(request);
            for end in HEADER..bytes.len() {
                let decoded = Request::decode(request.number(), &bytes[HEADER..end]);
                assert!(
                    matches!(decoded, Err(Malformed::Truncated { request: name, .. }) if name == request.name()),
                    "{} cut at {end}: {decoded:?}",
                    request.name()
                );
            }
        }
    }

    #[test]
    fn bytes_behind_the_last_field_are_ignored() {
        for (request, _) in vectors() {
            let mut bytes = wire(request);
            bytes.extend_from_slice(b"tail");
            assert_eq!(Request::decode(request.number(), &bytes[HEADER..]), Ok(request));
        }
    }

    #[test]
    fn unknown_types_are_named() {
        for number in [0, 1, 22, 23, 255, u32::MAX] {
            assert_eq!(Request::decode(number, b""), Err(Malformed::UnknownType(number)));
        }
    }

    #[test]
    fn a_header_may_announce_64_kib_and_no_more() {
        let peek = |size: u32| Frame::peek(&header(8, size));
        assert_eq!(peek(0), Ok(Some(Frame { number: 8, size: 0 })));
        assert_eq!(peek(65536), Ok(Some(Frame { number: 8, size: 65536 })));
        assert_eq!(peek(65537), Err(Malformed::TooLarge(65537)));
        assert_eq!(peek(u32::MAX), Err(Malformed::TooLarge(u32::MAX)));
        for end in 0..HEADER {
            assert_eq!(Frame::peek(&header(8, u32::MAX)[..end]), Ok(None));
        }
    }

    #[test]
    fn a_value_fits_up_to_the_payload_limit() {
        let mut reply = vec![0; HEADER + MAX_PAYLOAD];
        assert_eq!(finish_value(&mut reply, MAX_VALUE), Ok(HEADER + MAX_PAYLOAD));
        assert_eq!(finish_value(&mut reply, MAX_VALUE + 1), Err(Errno::E2BIG));
        assert_eq!(finish_value(&mut reply, usize::MAX), Err(Errno::E2BIG));
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_encoding_takes_it_back((number, payload) in arbitrary::encoded()) {
            if let Ok(request) = Request::decode(number, &payload) {
                let bytes = wire(request);
                prop_assert!(bytes.len() - HEADER <= payload.len());
                prop_assert_eq!(&bytes[HEADER..], &payload[..bytes.len() - HEADER]);
                prop_assert_eq!(Request::decode(number, &bytes[HEADER..]), Ok(request));
            }
        }

        #[test]
        fn any_bytes_are_safe_to_decode(number: u32, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::decode(number % 32, &payload);
            let _ = Frame::peek(&payload);
        }
    }
}
