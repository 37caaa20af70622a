//! A guest's side of 9P2000.L, written from the protocol's description: it shares no code with the device.

use std::path::Path;

use crate::front_end::FrontEnd;

/// A message in the making.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn new(kind: u8, tag: u16) -> Self {
        Self([&[0; 4][..], &[kind], &tag.to_le_bytes()].concat())
    }

    pub fn u8(mut self, number: u8) -> Self {
        self.0.push(number);
        self
    }

    pub fn u16(mut self, number: u16) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub fn string(self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        self.u16(u16::try_from(text.len()).expect("a short string")).bytes(text)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// The message, with its size.
    pub fn finish(mut self) -> Vec<u8> {
        let size = u32::try_from(self.0.len()).expect("a size");
        self.0[..4].copy_from_slice(&size.to_le_bytes());
        self.0
    }
}

/// An errno, as a guest is told.
pub type Errno = i32;

/// What a reply holds behind its head.
pub fn body(reply: &[u8], kind: u8, tag: u16) -> Result<Vec<u8>, Errno> {
    let size = u32::from_le_bytes(reply[..4].try_into().expect("a size"));
    assert_eq!(size as usize, reply.len(), "the size of a reply: {reply:?}");
    assert_eq!(reply[5..7], tag.to_le_bytes(), "the tag of a reply");
    if reply[4] == 7 {
        return Err(i32::from_le_bytes(reply[7..11].try_into().expect("an errno")));
    }
    assert_eq!(reply[4], kind + 1, "the type of a reply");
    Ok(reply[7..].to_vec())
}

pub const ROOT: u32 = 0;
pub const NONE: u32 = u32::MAX;
const TAG: u16 = 7;

/// A guest that holds the export as fid 0.
pub struct Guest {
    pub front_end: FrontEnd,
}

impl Guest {
    /// Sets a device up, and attaches as `uid`.
    pub fn attach(socket: &Path, uid: u32) -> Self {
        let mut guest = Self { front_end: FrontEnd::set_up(socket) };
        guest.begin(uid);
        guest
    }

    /// Begins a session.
    pub fn begin(&mut self, uid: u32) {
        let version = Message::new(100, u16::MAX).u32(65_536).string("9P2000.L").finish();
        let reply = self.front_end.call(&version);
        assert_eq!(reply[7..], [&65_536_u32.to_le_bytes()[..], &[8, 0], b"9P2000.L"].concat());
        self.ask(104, |it| it.u32(ROOT).u32(NONE).string("").string("").u32(uid)).expect("attach");
    }

    /// Sends a request of this type with these fields.
    pub fn ask(&mut self, kind: u8, fields: impl FnOnce(Message) -> Message) -> Result<Vec<u8>, Errno> {
        let request = fields(Message::new(kind, TAG)).finish();
        body(&self.front_end.call(&request), kind, TAG)
    }

    /// Walks to a path, and returns how many names were found.
    pub fn walk(&mut self, from: u32, to: u32, names: &[&[u8]]) -> Result<u16, Errno> {
        let count = u16::try_from(names.len()).expect("a count");
        let fields = |it: Message| names.iter().fold(it.u32(from).u32(to).u16(count), Message::string);
        self.ask(110, fields).map(|reply| u16::from_le_bytes([reply[0], reply[1]]))
    }

    pub fn open(&mut self, fid: u32, flags: u32) -> Result<(), Errno> {
        self.ask(12, |it| it.u32(fid).u32(flags)).map(drop)
    }

    /// Makes and opens `name` in the directory that `fid` is: it is the file afterwards.
    pub fn create(&mut self, fid: u32, name: &[u8], flags: u32, mode: u32, gid: u32) -> Result<(), Errno> {
        self.ask(14, |it| it.u32(fid).string(name).u32(flags).u32(mode).u32(gid)).map(drop)
    }

    pub fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let reply = self.ask(116, |it| it.u32(fid).u64(offset).u32(count))?;
        let count = u32::from_le_bytes(reply[..4].try_into().expect("a count"));
        assert_eq!(count as usize, reply.len() - 4);
        Ok(reply[4..].to_vec())
    }

    pub fn write(&mut self, fid: u32, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        let count = u32::try_from(bytes.len()).expect("a count");
        let reply = self.ask(118, |it| it.u32(fid).u64(offset).u32(count).bytes(bytes))?;
        Ok(u32::from_le_bytes(reply[..4].try_into().expect("a count")))
    }

    pub fn clunk(&mut self, fid: u32) -> Result<(), Errno> {
        self.ask(120, |it| it.u32(fid)).map(drop)
    }

    /// Mode, owner, group, links and size.
    pub fn status(&mut self, fid: u32) -> Result<(u32, u32, u32, u64, u64), Errno> {
        let reply = self.ask(24, |it| it.u32(fid).u64(0x7ff))?;
        let u32_at = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(reply[at..at + 8].try_into().expect("eight bytes"));
        Ok((u32_at(21), u32_at(25), u32_at(29), u64_at(33), u64_at(49)))
    }

    /// Sets what `valid` says.
    pub fn set(
        &mut self,
        fid: u32,
        valid: u32,
        mode: u32,
        ids: (u32, u32),
        size: u64,
        mtime: u64,
    ) -> Result<(), Errno> {
        let (uid, gid) = ids;
        let fields = |it: Message| {
            it.u32(fid).u32(valid).u32(mode).u32(uid).u32(gid).u64(size).u64(0).u64(0).u64(mtime).u64(0)
        };
        self.ask(26, fields).map(drop)
    }

    /// All names in a directory that was opened, each with its type; read `count` bytes at a time.
    pub fn names(&mut self, fid: u32, count: u32) -> Result<Vec<(Vec<u8>, u8)>, Errno> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let reply = self.ask(40, |it| it.u32(fid).u64(offset).u32(count))?;
            let mut rest = &reply[4..];
            assert!(rest.len() <= count as usize, "{} bytes of entries", rest.len());
            if rest.is_empty() {
                return Ok(names);
            }
            while !rest.is_empty() {
                offset = u64::from_le_bytes(rest[13..21].try_into().expect("an offset"));
                let length = usize::from(u16::from_le_bytes([rest[22], rest[23]]));
                names.push((rest[24..24 + length].to_vec(), rest[21]));
                rest = &rest[24 + length..];
            }
        }
    }

    /// Asks for a lock, or gives it up: 0 to read, 1 to write, 2 none. 0 is success, 1 blocked.
    pub fn lock(
        &mut self,
        fid: u32,
        kind: u8,
        (start, length): (u64, u64),
        process: u32,
    ) -> Result<u8, Errno> {
        let fields =
            |it: Message| it.u32(fid).u8(kind).u32(0).u64(start).u64(length).u32(process).string("guest");
        self.ask(52, fields).map(|reply| reply[0])
    }
}
