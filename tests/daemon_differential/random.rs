//! Long sessions of requests drawn at random, the same on every run: sequences nobody would think of.

use crate::creating::zoo;
use crate::stage::{Stage, device};
use crate::wire::{LEAVE, Request, ask};

/// A small generator (xorshift64*): these sessions must be the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits") % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }

    /// A path of one to three names, few enough that they meet each other.
    fn path(&mut self) -> Vec<u8> {
        let mut path = Vec::new();
        for _ in 0..=self.roll(3) {
            path.extend_from_slice(self.pick(&[b"/".as_slice(), b"/", b"/", b"//"]));
            path.extend_from_slice(self.pick(&[
                b"a".as_slice(),
                b"b",
                b"c",
                b"dir",
                b"dirlink",
                b"file",
                b"sub",
            ]));
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

    fn request(&mut self) -> Request {
        let (path, (uid, gid), mode) = (self.path(), self.ids(), self.mode());
        let access = self.pick(&[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR]);
        let flags = self.pick(&[0, 0, libc::O_TRUNC, libc::O_APPEND, libc::O_DIRECTORY, libc::O_EXCL]);
        let name = self.pick(&[b"user.a".as_slice(), b"user.b", b"user.c"]);
        match self.roll(26) {
            0 | 1 => ask::open(&path, access | flags & !libc::O_EXCL),
            2..=4 => ask::create(&path, access | libc::O_CREAT | flags & !libc::O_DIRECTORY, mode, uid, gid),
            5 => ask::mknod(&path, libc::S_IFIFO | mode, 0, uid, gid),
            6 => ask::mknod(&path, libc::S_IFCHR | mode, device(1, 3), uid, gid),
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

/// Whether the reference loses capabilities before it does this (its defect 1), and they would be needed.
fn is_diminished(request: &Request) -> bool {
    match request {
        Request::Mknod { uid, gid, mode, .. } => {
            diminishes(*uid, *gid) && mode & libc::S_IFMT != libc::S_IFIFO
        }
        Request::Create { uid, gid, mode, .. } => diminishes(*uid, *gid) && mode & libc::S_ISGID != 0,
        _ => false,
    }
}

fn diminishes(uid: i32, gid: i32) -> bool {
    (uid, gid) != (0, 0) && [0, LEAVE].contains(&uid)
}

/// Whether ours differs on purpose here: where the last name is a symbolic link or a special file, the reference
/// follows the one and opens the other.
fn differs_on_purpose(stage: &Stage, request: &Request) -> bool {
    if let Request::Link { old, .. } = request {
        // Two faults at once: without walls the other one is told.
        return stage.kind(old).is_none();
    }
    if is_diminished(request) {
        return true;
    }
    let (Request::Open { path, .. }
    | Request::Create { path, .. }
    | Request::Chmod { path, .. }
    | Request::Truncate { path, .. }
    | Request::Version { path }) = request
    else {
        return false;
    };
    let kind = stage.kind(path);
    let is_special = ![None, Some(libc::S_IFREG), Some(libc::S_IFDIR), Some(libc::S_IFLNK)].contains(&kind);
    kind == Some(libc::S_IFLNK)
        || is_special
            && matches!(request, Request::Open { .. } | Request::Create { .. } | Request::Version { .. })
}

fn session(sandbox: &str, seed: u64, steps: usize) {
    let mut stage = Stage::new(sandbox, zoo);
    let mut dice = Dice(seed);
    while stage.steps() < steps {
        let request = dice.request();
        if !differs_on_purpose(&stage, &request) {
            stage.compare([request]);
        }
    }
    stage.finish();
}

#[test]
fn sessions_behind_a_namespace() {
    for seed in 1..=4 {
        session("namespace", seed, 600);
    }
}

#[test]
fn sessions_behind_a_chroot() {
    for seed in 11..=12 {
        session("chroot", seed, 600);
    }
}

#[test]
fn sessions_without_walls() {
    for seed in 21..=24 {
        session("none", seed, 600);
    }
}
