//! Requests drawn at random.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use crate::wire::{LEAVE, Request, ask};

/// A small generator (xorshift64*): what it draws must be the same on every machine.
pub struct Dice {
    state: u64,
    names: &'static [&'static [u8]],
}

/// Names few enough that the paths made of them meet each other.
const NAMES: &[&[u8]] = &[b"a", b"b", b"c", b"dir", b"dirlink", b"file", b"sub"];

impl Dice {
    /// One that draws what this seed makes of it.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, names: NAMES }
    }

    /// Draws paths made of these names.
    pub fn naming(seed: u64, names: &'static [&'static [u8]]) -> Self {
        // A state of 0 would stay there, and small ones begin alike.
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, names }
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let high = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits") % sides
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }

    /// A path of one to three names.
    pub fn path(&mut self) -> Vec<u8> {
        let mut path = Vec::new();
        for _ in 0..=self.roll(3) {
            path.extend_from_slice(self.pick(&[b"/".as_slice(), b"/", b"/", b"//"]));
            path.extend_from_slice(self.pick(self.names));
        }
        path
    }

    fn ids(&mut self) -> (i32, i32) {
        self.pick(&[
            (0, 0),
            (0, 0),
            (1000, 1000),
            (1000, 1000),
            (1000, 1000),
            (1001, 1001),
            (1001, 1001),
            (1000, 2000),
            (1000, 0),
            (LEAVE, LEAVE),
            (LEAVE, 1000),
            (1000, LEAVE),
        ])
    }

    fn mode(&mut self) -> u32 {
        self.pick(&[0o644, 0o755, 0o600, 0o777, 0o2755, 0o1777, 0o4755, 0o000])
    }

    /// A request of any type.
    pub fn request(&mut self) -> Request {
        let (path, (uid, gid), mode) = (self.path(), self.ids(), self.mode());
        let access = self.pick(&[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR]);
        let flags = self.pick(&[0, 0, libc::O_TRUNC, libc::O_APPEND, libc::O_DIRECTORY, libc::O_EXCL]);
        let name = self.pick(&[b"user.a".as_slice(), b"user.b", b"user.c"]);
        match self.roll(26) {
            0 | 1 => ask::open(&path, access | flags & !libc::O_EXCL),
            2..=4 => ask::create(&path, access | libc::O_CREAT | flags & !libc::O_DIRECTORY, mode, uid, gid),
            5 => ask::mknod(&path, libc::S_IFIFO | mode, 0, uid, gid),
            6 => ask::mknod(&path, libc::S_IFCHR | mode, rustix::fs::makedev(1, 3), uid, gid),
            7..=9 => ask::mkdir(&path, mode, uid, gid),
            10 | 11 => ask::symlink(&self.path(), &path, uid, gid),
            12 => ask::link(&path, &self.path()),
            13 => ask::readlink(&path, 4096),
            14 => ask::statfs(&path),
            15 => ask::chmod(&path, mode),
            16 => ask::chown(&path, uid, gid),
            17 => ask::truncate(&path, self.pick(&[0, 1, 100, 5000])),
            18 => ask::utime(&path, (self.pick(&[1, 2, -3]), 0), (4, self.pick(&[5, libc::UTIME_OMIT]))),
            19 | 20 => ask::rename(&path, &self.path()),
            21 | 22 => ask::remove(&path),
            23 => ask::getxattr(&path, name, self.pick(&[0, 3, 100])),
            24 => ask::setxattr(
                &path,
                name,
                self.pick(&[b"".as_slice(), b"1", b"longer"]),
                self.pick(&[0, 1, 2]),
            ),
            _ => self.pick_rest(&path, name),
        }
    }

    fn pick_rest(&mut self, path: &[u8], name: &[u8]) -> Request {
        match self.roll(4) {
            0 => ask::listxattr(path, self.pick(&[0, 3, 100])),
            1 => ask::removexattr(path, name),
            2 => ask::version(path),
            _ => ask::lstat(path),
        }
    }
}
