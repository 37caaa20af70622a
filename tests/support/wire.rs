//! The proxy protocol's client side, written for the tests alone.
//!
//! This encoder and decoder come straight from the protocol's description and share nothing with the daemon's
//! own codec, so that the two can disagree. Nothing here hangs: every receive has a deadline.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// How long a reply may take before the test is told that there is none.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An id of -1: "leave that id as it is".
pub const LEAVE: i32 = -1;

/// The largest payload that a header may announce.
pub const MAX_PAYLOAD: usize = 65536;

/// `T_SUCCESS`, the type of a reply's header.
pub const SUCCESS: u32 = 0;
/// `T_ERROR`, the type of a reply's header.
pub const ERROR: u32 = 1;

/// One request, as the protocol's table lists them. Paths, names and values are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `T_OPEN`
    Open { path: Vec<u8>, flags: i32 },
    /// `T_CREATE`
    Create { path: Vec<u8>, flags: i32, mode: u32, uid: i32, gid: i32 },
    /// `T_MKNOD`
    Mknod { uid: i32, gid: i32, path: Vec<u8>, mode: u32, rdev: u64 },
    /// `T_MKDIR`
    Mkdir { uid: i32, gid: i32, path: Vec<u8>, mode: u32 },
    /// `T_SYMLINK`
    Symlink { uid: i32, gid: i32, target: Vec<u8>, path: Vec<u8> },
    /// `T_LINK`
    Link { old: Vec<u8>, new: Vec<u8> },
    /// `T_LSTAT`
    Lstat { path: Vec<u8> },
    /// `T_READLINK`
    Readlink { path: Vec<u8>, size: i32 },
    /// `T_STATFS`
    Statfs { path: Vec<u8> },
    /// `T_CHMOD`
    Chmod { path: Vec<u8>, mode: u32 },
    /// `T_CHOWN`
    Chown { path: Vec<u8>, uid: i32, gid: i32 },
    /// `T_TRUNCATE`
    Truncate { path: Vec<u8>, size: i64 },
    /// `T_UTIME`: (seconds, nanoseconds) of the last access and the last change
    Utime { path: Vec<u8>, atime: (i64, i64), mtime: (i64, i64) },
    /// `T_RENAME`
    Rename { old: Vec<u8>, new: Vec<u8> },
    /// `T_REMOVE`
    Remove { path: Vec<u8> },
    /// `T_LGETXATTR`
    Getxattr { size: i32, path: Vec<u8>, name: Vec<u8> },
    /// `T_LLISTXATTR`
    Listxattr { size: i32, path: Vec<u8> },
    /// `T_LSETXATTR`
    Setxattr { path: Vec<u8>, name: Vec<u8>, value: Vec<u8>, size: i32, flags: i32 },
    /// `T_LREMOVEXATTR`
    Removexattr { path: Vec<u8>, name: Vec<u8> },
    /// `T_GETVERSION`
    Version { path: Vec<u8> },
}

/// The three forms a reply comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Four bytes without a header, and a descriptor when they say `INT_MAX`.
    Fd,
    /// A header and an `i32` of 0 or a negative errno.
    Status,
    /// A header and the answer's bytes.
    Response,
}

/// What came back.
#[derive(Debug)]
pub enum Answer {
    /// A descriptor.
    Fd(OwnedFd),
    /// A status of 0.
    Done,
    /// A response's payload.
    Data(Vec<u8>),
    /// An error.
    Errno(Errno),
    /// The connection has ended.
    Closed,
    /// No reply came in time.
    Silent,
    /// A reply that the protocol does not know, and what is wrong with it.
    Strange(String),
}

/// A payload in the making: packed fields in host byte order.
#[derive(Debug, Default, Clone)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// No field yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a string. Longer than 65535 bytes it cannot be said.
    pub fn s(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let length = u16::try_from(bytes.len()).expect("a wire string is at most 65535 bytes");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds an `i32`.
    pub fn d(mut self, value: i32) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    /// Adds a `u32`.
    pub fn u(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    /// Adds an `i64`.
    pub fn q(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The payload.
    pub fn payload(self) -> Vec<u8> {
        self.0
    }

    /// The payload behind a header of type `kind` that tells its true size.
    pub fn frame(self, kind: u32) -> Vec<u8> {
        let size = u32::try_from(self.0.len()).expect("a test's payload fits u32");
        frame(kind, size, &self.0)
    }
}

/// A header of type `kind` and size `size`, and whatever bytes follow it.
pub fn frame(kind: u32, size: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + rest.len());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&size.to_ne_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

impl Request {
    /// The number of this request's type.
    pub fn kind(&self) -> u32 {
        match self {
            Self::Open { .. } => 2,
            Self::Create { .. } => 3,
            Self::Mknod { .. } => 4,
            Self::Mkdir { .. } => 5,
            Self::Symlink { .. } => 6,
            Self::Link { .. } => 7,
            Self::Lstat { .. } => 8,
            Self::Readlink { .. } => 9,
            Self::Statfs { .. } => 10,
            Self::Chmod { .. } => 11,
            Self::Chown { .. } => 12,
            Self::Truncate { .. } => 13,
            Self::Utime { .. } => 14,
            Self::Rename { .. } => 15,
            Self::Remove { .. } => 16,
            Self::Getxattr { .. } => 17,
            Self::Listxattr { .. } => 18,
            Self::Setxattr { .. } => 19,
            Self::Removexattr { .. } => 20,
            Self::Version { .. } => 21,
        }
    }

    /// The form of its reply.
    pub fn form(&self) -> Form {
        match self.kind() {
            2 | 3 => Form::Fd,
            8 | 9 | 10 | 17 | 18 | 21 => Form::Response,
            _ => Form::Status,
        }
    }

    /// The bytes on the wire, header first.
    pub fn encode(&self) -> Vec<u8> {
        let f = Fields::new();
        let fields = match self {
            Self::Open { path, flags } => f.s(path).d(*flags),
            Self::Create { path, flags, mode, uid, gid } => f.s(path).d(*flags).u(*mode).d(*uid).d(*gid),
            Self::Mknod { uid, gid, path, mode, rdev } => {
                f.d(*uid).d(*gid).s(path).u(*mode).raw(&rdev.to_ne_bytes())
            }
            Self::Mkdir { uid, gid, path, mode } => f.d(*uid).d(*gid).s(path).u(*mode),
            Self::Symlink { uid, gid, target, path } => f.d(*uid).d(*gid).s(target).s(path),
            Self::Link { old, new } | Self::Rename { old, new } => f.s(old).s(new),
            Self::Lstat { path } | Self::Statfs { path } | Self::Remove { path } | Self::Version { path } => {
                f.s(path)
            }
            Self::Readlink { path, size } => f.s(path).d(*size),
            Self::Chmod { path, mode } => f.s(path).u(*mode),
            Self::Chown { path, uid, gid } => f.s(path).d(*uid).d(*gid),
            Self::Truncate { path, size } => f.s(path).q(*size),
            Self::Utime { path, atime, mtime } => f.s(path).q(atime.0).q(atime.1).q(mtime.0).q(mtime.1),
            Self::Getxattr { size, path, name } => f.d(*size).s(path).s(name),
            Self::Listxattr { size, path } => f.d(*size).s(path),
            Self::Setxattr { path, name, value, size, flags } => {
                f.s(path).s(name).s(value).d(*size).d(*flags)
            }
            Self::Removexattr { path, name } => f.s(path).s(name),
        };
        fields.frame(self.kind())
    }
}

/// Short ways to say a request.
pub mod ask {
    use super::Request;

    type Path<'a> = &'a [u8];

    pub fn open(path: Path<'_>, flags: i32) -> Request {
        Request::Open { path: path.into(), flags }
    }
    pub fn create(path: Path<'_>, flags: i32, mode: u32, uid: i32, gid: i32) -> Request {
        Request::Create { path: path.into(), flags, mode, uid, gid }
    }
    pub fn mknod(path: Path<'_>, mode: u32, rdev: u64, uid: i32, gid: i32) -> Request {
        Request::Mknod { uid, gid, path: path.into(), mode, rdev }
    }
    pub fn mkdir(path: Path<'_>, mode: u32, uid: i32, gid: i32) -> Request {
        Request::Mkdir { uid, gid, path: path.into(), mode }
    }
    pub fn symlink(target: Path<'_>, path: Path<'_>, uid: i32, gid: i32) -> Request {
        Request::Symlink { uid, gid, target: target.into(), path: path.into() }
    }
    pub fn link(old: Path<'_>, new: Path<'_>) -> Request {
        Request::Link { old: old.into(), new: new.into() }
    }
    pub fn lstat(path: Path<'_>) -> Request {
        Request::Lstat { path: path.into() }
    }
    pub fn readlink(path: Path<'_>, size: i32) -> Request {
        Request::Readlink { path: path.into(), size }
    }
    pub fn statfs(path: Path<'_>) -> Request {
        Request::Statfs { path: path.into() }
    }
    pub fn chmod(path: Path<'_>, mode: u32) -> Request {
        Request::Chmod { path: path.into(), mode }
    }
    pub fn chown(path: Path<'_>, uid: i32, gid: i32) -> Request {
        Request::Chown { path: path.into(), uid, gid }
    }
    pub fn truncate(path: Path<'_>, size: i64) -> Request {
        Request::Truncate { path: path.into(), size }
    }
    pub fn utime(path: Path<'_>, atime: (i64, i64), mtime: (i64, i64)) -> Request {
        Request::Utime { path: path.into(), atime, mtime }
    }
    pub fn rename(old: Path<'_>, new: Path<'_>) -> Request {
        Request::Rename { old: old.into(), new: new.into() }
    }
    pub fn remove(path: Path<'_>) -> Request {
        Request::Remove { path: path.into() }
    }
    pub fn getxattr(path: Path<'_>, name: Path<'_>, size: i32) -> Request {
        Request::Getxattr { size, path: path.into(), name: name.into() }
    }
    pub fn listxattr(path: Path<'_>, size: i32) -> Request {
        Request::Listxattr { size, path: path.into() }
    }
    /// The size sent beside the value is the value's own.
    pub fn setxattr(path: Path<'_>, name: Path<'_>, value: &[u8], flags: i32) -> Request {
        let size = i32::try_from(value.len()).expect("a wire value is at most 65535 bytes");
        Request::Setxattr { path: path.into(), name: name.into(), value: value.into(), size, flags }
    }
    pub fn removexattr(path: Path<'_>, name: Path<'_>) -> Request {
        Request::Removexattr { path: path.into(), name: name.into() }
    }
    pub fn version(path: Path<'_>) -> Request {
        Request::Version { path: path.into() }
    }
}

/// The sixteen numbers of an lstat reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub nlink: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub blksize: u64,
    pub blocks: u64,
    pub atime: (i64, i64),
    pub mtime: (i64, i64),
    pub ctime: (i64, i64),
}

impl Stat {
    /// Reads an lstat reply, which is exactly 116 bytes.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        if payload.len() != 116 {
            return None;
        }
        let q = |at: usize| u64::from_ne_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
        let d = |at: usize| u32::from_ne_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        let time = |at: usize| (q(at).cast_signed(), q(at + 8).cast_signed());
        Some(Self {
            dev: q(0),
            ino: q(8),
            nlink: q(16),
            mode: d(24),
            uid: d(28),
            gid: d(32),
            rdev: q(36),
            size: q(44),
            blksize: q(52),
            blocks: q(60),
            atime: time(68),
            mtime: time(84),
            ctime: time(100),
        })
    }
}

impl From<&rustix::fs::Stat> for Stat {
    /// What the host's own lstat tells, as the protocol has it.
    fn from(host: &rustix::fs::Stat) -> Self {
        Self {
            dev: host.st_dev,
            ino: host.st_ino,
            nlink: host.st_nlink,
            mode: host.st_mode,
            uid: host.st_uid,
            gid: host.st_gid,
            rdev: host.st_rdev,
            size: host.st_size.cast_unsigned(),
            blksize: host.st_blksize.cast_unsigned(),
            blocks: host.st_blocks.cast_unsigned(),
            atime: (host.st_atime, host.st_atime_nsec.cast_signed()),
            mtime: (host.st_mtime, host.st_mtime_nsec.cast_signed()),
            ctime: (host.st_ctime, host.st_ctime_nsec.cast_signed()),
        }
    }
}

/// The eleven numbers of a statfs reply: type, bsize, blocks, bfree, bavail, files, ffree, fsid twice, namelen,
/// frsize.
pub fn decode_statfs(payload: &[u8]) -> Option<[u64; 11]> {
    if payload.len() != 88 {
        return None;
    }
    let mut words = [0; 11];
    for (word, bytes) in words.iter_mut().zip(payload.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().ok()?);
    }
    Some(words)
}

impl Answer {
    /// The string of a response (readlink, a value, a list): the payload must be exactly that.
    pub fn string(&self) -> Option<&[u8]> {
        let Self::Data(payload) = self else { return None };
        let (length, rest) = payload.split_first_chunk::<2>()?;
        (usize::from(u16::from_ne_bytes(*length)) == rest.len()).then_some(rest)
    }

    /// The `i32` of a response (the length of a value or a list).
    pub fn int(&self) -> Option<i32> {
        let Self::Data(payload) = self else { return None };
        Some(i32::from_ne_bytes(payload.as_slice().try_into().ok()?))
    }

    /// The `u64` of a response (a version).
    pub fn word(&self) -> Option<u64> {
        let Self::Data(payload) = self else { return None };
        Some(u64::from_ne_bytes(payload.as_slice().try_into().ok()?))
    }

    /// The lstat reply.
    pub fn stat(&self) -> Option<Stat> {
        let Self::Data(payload) = self else { return None };
        Stat::decode(payload)
    }

    /// The error.
    pub fn errno(&self) -> Option<Errno> {
        if let Self::Errno(errno) = self { Some(*errno) } else { None }
    }

    /// Whether this is success, in any form.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Fd(_) | Self::Done | Self::Data(_))
    }

    /// The descriptor; panics with what came instead.
    #[track_caller]
    pub fn fd(self) -> OwnedFd {
        match self {
            Self::Fd(fd) => fd,
            other => panic!("expected a descriptor, got {other:?}"),
        }
    }

    /// Panics unless this is success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.is_success(), "expected success, got {self:?}");
        self
    }

    /// Panics unless this is `errno`.
    #[track_caller]
    pub fn fails(self, errno: Errno) {
        assert!(self.errno() == Some(errno), "expected {errno:?}, got {self:?}");
    }

    /// Panics unless the connection has ended.
    #[track_caller]
    pub fn closed(self) {
        assert!(matches!(self, Self::Closed), "expected the connection's end, got {self:?}");
    }
}

/// One connection to a helper.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Speaks over a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        let client = Self { stream };
        client.patience(PATIENCE);
        client.stream.set_write_timeout(Some(PATIENCE)).expect("a send deadline");
        client
    }

    /// Connects to the socket at `path`, once.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::new(UnixStream::connect(path)?))
    }

    /// Connects to the socket at `path`, and tries again while it is not there or nobody listens.
    #[track_caller]
    pub fn connect_soon(path: &Path) -> Self {
        let start = Instant::now();
        loop {
            match Self::connect(path) {
                Ok(client) => return client,
                Err(error) if start.elapsed() > PATIENCE => {
                    panic!("connecting to {}: {error}", path.display())
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Changes how long a reply may take.
    pub fn patience(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a receive deadline");
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Sends one request in one write and receives its reply.
    pub fn ask(&mut self, request: &Request) -> Answer {
        self.ask_raw(&request.encode(), request.form())
    }

    /// Sends bytes in one write and receives a reply of the form given.
    pub fn ask_raw(&mut self, bytes: &[u8], form: Form) -> Answer {
        match self.stream.write_all(bytes) {
            Ok(()) => self.reply(form),
            // What the peer said before it left is still there to be read.
            Err(error) if gone(&error) => Answer::Closed,
            Err(error) => panic!("sending a request: {error}"),
        }
    }

    /// Sends bytes, and says whether the peer was still there to take them.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write_all(bytes) {
            Ok(()) => true,
            Err(error) if gone(&error) => false,
            Err(error) => panic!("sending: {error}"),
        }
    }

    /// How many bytes have arrived and are not yet received.
    pub fn waiting(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.stream).expect("a socket")
    }

    /// Receives one reply of the form given.
    pub fn reply(&mut self, form: Form) -> Answer {
        let received = match form {
            Form::Fd => self.fd_reply(),
            Form::Status => self.framed().map(|(kind, payload)| status(kind, &payload)),
            Form::Response => self.framed().map(|(kind, payload)| response(kind, payload)),
        };
        received.unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Answer::Silent,
            io::ErrorKind::UnexpectedEof => Answer::Closed,
            _ if gone(&error) => Answer::Closed,
            _ => panic!("receiving a reply: {error}"),
        })
    }

    /// Whether the peer has ended the connection: waits for that end, and for nothing else.
    pub fn wait_closed(&mut self) -> Answer {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => Answer::Closed,
            Ok(_) => Answer::Strange(format!("a byte {byte:?} where the end was expected")),
            Err(error) if gone(&error) => Answer::Closed,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Answer::Silent,
            Err(error) => panic!("waiting for the end: {error}"),
        }
    }

    /// Whether nothing is waiting to be read: a reply's bytes must be all there is.
    pub fn is_quiet(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket that does not block");
        let quiet = match self.stream.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(_) => true,
        };
        self.stream.set_nonblocking(false).expect("a socket that blocks");
        quiet
    }

    fn framed(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header)?;
        let (kind, size) = header.split_at(4);
        let kind = u32::from_ne_bytes(kind.try_into().expect("four bytes"));
        let size = u32::from_ne_bytes(size.try_into().expect("four bytes")) as usize;
        assert!(size <= MAX_PAYLOAD, "a reply of type {kind} announces {size} bytes");
        let mut payload = vec![0; size];
        self.stream.read_exact(&mut payload)?;
        Ok((kind, payload))
    }

    fn fd_reply(&mut self) -> io::Result<Answer> {
        let mut value = [0; 4];
        let (count, mut fds) = receive_with_fds(&self.stream, &mut value)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.stream.read_exact(&mut value[count..])?;
        let value = i32::from_ne_bytes(value);
        Ok(match (value, fds.len()) {
            (i32::MAX, 1) => Answer::Fd(fds.remove(0)),
            (value, 0) if value < 0 => Answer::Errno(Errno::from_raw(-value)),
            (value, count) => Answer::Strange(format!("the value {value} with {count} descriptors")),
        })
    }
}

/// Receives up to `buffer.len()` bytes and whatever descriptors come with them.
fn receive_with_fds(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Room for more descriptors than the protocol allows, so that a surplus one is seen.
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(message) => break message,
        }
    };
    let mut fds = Vec::new();
    for item in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = item {
            // SAFETY: the kernel has just made these descriptors for this message, and nobody else owns them.
            fds.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

fn status(kind: u32, payload: &[u8]) -> Answer {
    let Ok(value) = <[u8; 4]>::try_from(payload).map(i32::from_ne_bytes) else {
        return Answer::Strange(format!("a status of type {kind} and {} bytes", payload.len()));
    };
    match (kind, value) {
        (SUCCESS, 0) => Answer::Done,
        (ERROR, value) if value < 0 => Answer::Errno(Errno::from_raw(-value)),
        _ => Answer::Strange(format!("a status of type {kind} and value {value}")),
    }
}

fn response(kind: u32, payload: Vec<u8>) -> Answer {
    match kind {
        SUCCESS => Answer::Data(payload),
        ERROR => match status(kind, &payload) {
            Answer::Done => Answer::Strange("an error of 0".into()),
            answer => answer,
        },
        _ => Answer::Strange(format!("a response of type {kind}")),
    }
}

fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
