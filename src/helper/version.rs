//! An inode's generation number, mostly without opening the inode.
//!
//! Every lookup of a file in the guest asks for it, and the documented way, `ioctl(FS_IOC_GETVERSION)`, takes an open
//! and a close. The file handle that `name_to_handle_at(2)` makes from a mere path holds the same number for most file
//! systems that have one, but each file system has its own place for it. So the place is learnt: the first times that a handle
//! of some shape turns up on some file system, the ioctl is asked as well. When both agree on a number that can't be there by
//! chance, handles of that shape on that file system are believed from then on. A file system without the ioctl is not asked twice,
//! either.
//!
//! A device number does not tell file systems apart: the kernel gives it out again after an unmount. What is learnt belongs
//! to a mount, whose unique id is never given out again (Linux 6.8); on older kernels, to the type of the file system.

use std::ffi::CStr;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::fstatat;
use nix::sys::statfs::FUSE_SUPER_MAGIC;

use super::export::{DirAndName, ExportRoot, Kind, Known, Opened, wait_for_lease};
use super::sys::{self, FileHandle};

/// How many mounts are remembered: an export with more file systems mounted in it gets slower, not wrong.
const REMEMBERED: usize = 8;

/// A number above this is no coincidence in a handle of a few words; smaller ones must be seen to differ.
const TELLING: u64 = 0xffff;

/// What a file is on, by a name that nothing else has had or will have while this process runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A mount, by its unique id.
    Mount(u64),
    /// Any file system of this type (`f_type` of statfs(2)): the code is the same for all of them.
    OfType(i64),
}

/// The form of the file handles of a place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    place: Place,
    kind: i32,
    length: usize,
}

/// Where the generation number stands in handles of some shape.
#[derive(Clone, Copy)]
struct Lesson {
    shape: Shape,
    offset: usize,
    /// The number that it was learnt from.
    first: u64,
    /// Whether another number stood there, too.
    confirmed: bool,
}

/// Files of one kind in one place: a file system either has the ioctl for all of them or for none. (All but FUSE, where
/// each file's server decides.)
#[derive(Clone, Copy, PartialEq, Eq)]
struct Population {
    place: Place,
    kind: Kind,
}

/// What was learnt about the file systems of an export.
#[derive(Default)]
pub(crate) struct Versions {
    lessons: [Option<Lesson>; REMEMBERED],
    next: usize,
    /// Those that have no generation numbers.
    without: [Option<Population>; REMEMBERED],
    next_without: usize,
    /// statx(2) is missing or forbidden.
    no_statx: bool,
}

/// What the ioctl says.
enum Generation {
    Is(u64),
    /// This file system has none, for files of this kind.
    Never,
}

impl Generation {
    /// The number, 0 where there is none.
    fn or_none(&self) -> u64 {
        match *self {
            Self::Is(version) => version,
            Self::Never => 0,
        }
    }
}

impl Versions {
    /// The generation number of the file at the absolute `path`; 0 where the file system keeps none. `ENXIO`
    /// for a special file; a final symbolic link is followed.
    pub(crate) fn get(&mut self, reach: &ExportRoot, path: &CStr) -> Result<u64, Errno> {
        let at = reach.at(path)?;
        let (kind, mount) = self.look_at(&at)?;
        match kind {
            Kind::Symlink => {
                return open(reach, path, Known::Nothing).and_then(|file| close(ask(&file), file));
            }
            Kind::Special => return Err(Errno::ENXIO),
            Kind::File | Kind::Directory => {}
        }
        let place = mount.map(Place::Mount).or_else(|| type_at(reach, path));
        if place.is_some_and(|place| self.without.contains(&Some(Population { place, kind }))) {
            return Ok(0);
        }
        let handle = sys::name_to_handle(at.dir(), at.name).ok().zip(place);
        let handle = handle.map(|(handle, place)| {
            let shape = Shape { place, kind: handle.kind(), length: handle.bytes().len() };
            (handle, shape)
        });
        if let Some((handle, shape)) = &handle {
            let known = self.lessons.iter().flatten().find(|it| it.confirmed && it.shape == *shape);
            if let Some(version) = known.and_then(|lesson| word(handle, lesson.offset)) {
                return Ok(version.into());
            }
        }
        let file = open(reach, path, Known::Regular)?;
        let answer = ask(&file);
        // Something else may have come to the path since it was looked at.
        let stays = |place| place_of(&file, place) == Some(place);
        match (&answer, place, &handle) {
            (Ok(Generation::Never), Some(place), _) if stays(place) => self.remember_none(place, kind),
            (Ok(Generation::Is(version)), _, Some((handle, shape))) if stays(shape.place) => {
                self.learn(*shape, handle, *version);
            }
            _ => {}
        }
        close(answer, file)
    }

    /// The kind of a file, and the unique id of the mount that it is on, where the kernel tells it.
    fn look_at(&mut self, at: &DirAndName<'_>) -> Result<(Kind, Option<u64>), Errno> {
        if !self.no_statx {
            match sys::kind_and_mount(at.dir(), at.name) {
                Err(Errno::ENOSYS | Errno::EPERM) => {}
                result => return result.map(|(mode, mount)| (Kind::of_mode(mode), mount)),
            }
        }
        let stat = fstatat(at.dir(), at.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        self.no_statx = true;
        Ok((Kind::of(&stat), None))
    }

    /// Remembers that the files of this kind in this place have no generation number.
    fn remember_none(&mut self, place: Place, kind: Kind) {
        self.without[self.next_without] = Some(Population { place, kind });
        self.next_without = (self.next_without + 1) % REMEMBERED;
    }

    /// Remembers where in `handle` the number stands that the ioctl gave. Where it can't be told apart from another part of the
    /// handle, or is not there, nothing is learnt.
    fn learn(&mut self, shape: Shape, handle: &FileHandle, version: u64) {
        let mut found = (0..shape.length)
            .step_by(4)
            .filter(|&offset| word(handle, offset).map(u64::from) == Some(version));
        let (Some(offset), None) = (found.next(), found.next()) else { return };
        match self.lessons.iter_mut().flatten().find(|lesson| lesson.shape == shape) {
            Some(lesson) if lesson.offset == offset => lesson.confirmed |= lesson.first != version,
            Some(lesson) => *lesson = Lesson { shape, offset, first: version, confirmed: version > TELLING },
            None => {
                self.lessons[self.next] =
                    Some(Lesson { shape, offset, first: version, confirmed: version > TELLING });
                self.next = (self.next + 1) % REMEMBERED;
            }
        }
    }
}

/// The 32-bit word of a handle at `offset`.
fn word(handle: &FileHandle, offset: usize) -> Option<u32> {
    handle.bytes().get(offset..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The type of the file system that a file is on, which is no symbolic link. None where it can't be told by the path alone, and for
/// FUSE: what the server of one file says does not hold for another's.
fn type_at(reach: &ExportRoot, path: &CStr) -> Option<Place> {
    match reach {
        ExportRoot::Rooted { .. } => sys::statfs(path).ok().and_then(|status| of_type(&status)),
        ExportRoot::Beneath(_) => None,
    }
}

fn of_type(status: &libc::statfs) -> Option<Place> {
    #[allow(clippy::unnecessary_cast, reason = "its type differs by architecture")]
    let kind = status.f_type as i64;
    #[allow(clippy::unnecessary_cast, reason = "its type differs by architecture")]
    let fuse = FUSE_SUPER_MAGIC.0 as i64;
    (kind != fuse).then_some(Place::OfType(kind))
}

/// Where an open file is, told in the same way as `like`.
fn place_of(opened: &Opened, like: Place) -> Option<Place> {
    let file = opened.file.as_fd();
    let status = sys::fstatfs(file).ok()?;
    match like {
        // What a server says of one of its files does not hold for the others.
        Place::Mount(_) => {
            of_type(&status).and_then(|_| sys::unique_mount_id(file).ok().flatten()).map(Place::Mount)
        }
        Place::OfType(_) => of_type(&status),
    }
}

fn open(reach: &ExportRoot, path: &CStr, known: Known) -> Result<Opened, Errno> {
    // Without O_NONBLOCK a file under a lease would keep us waiting for its holder.
    wait_for_lease(|| reach.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, known))
}

/// Asks the ioctl.
fn ask(opened: &Opened) -> Result<Generation, Errno> {
    match sys::inode_version(opened.file.as_fd()) {
        Err(Errno::ENOTTY | Errno::ENOSYS | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Generation::Never),
        result => result.map(Generation::Is),
    }
}

/// Closes the file that was asked.
fn close(answer: Result<Generation, Errno>, opened: Opened) -> Result<u64, Errno> {
    opened.close();
    answer.map(|answer| answer.or_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { place: Place::Mount(1), kind: 1, length: 8 };

    fn handle(words: [u32; 2]) -> FileHandle {
        FileHandle::new(1, &words.map(u32::to_ne_bytes).concat())
    }

    fn learnt(lessons: &[([u32; 2], u64)]) -> Option<usize> {
        let mut versions = Versions::default();
        for (words, version) in lessons {
            versions.learn(SHAPE, &handle(*words), *version);
        }
        versions.lessons.iter().flatten().find(|lesson| lesson.confirmed).map(|lesson| lesson.offset)
    }

    #[test]
    fn two_numbers_at_the_same_place_teach_it() {
        assert_eq!(learnt(&[([7, 100], 100)]), None);
        assert_eq!(learnt(&[([7, 100], 100), ([8, 100], 100)]), None, "the same number twice");
        assert_eq!(learnt(&[([7, 100], 100), ([8, 200], 200)]), Some(4));
        assert_eq!(learnt(&[([5, 5], 5), ([8, 200], 200)]), None, "either word may be it");
        assert_eq!(learnt(&[([7, 100], 7), ([8, 200], 200)]), None, "a coincidence, taken back");
        assert_eq!(learnt(&[([7, 100], 7), ([8, 200], 200), ([9, 300], 300)]), Some(4));
        assert_eq!(learnt(&[([7, 100], 0), ([8, 200], 0)]), None, "no number in the handle");
        assert_eq!(learnt(&[([7, 0xfeed_beef], 0xfeed_beef)]), Some(4), "no coincidence");
    }

    #[test]
    fn the_answer_is_the_ioctls() {
        use nix::sys::stat::Mode;
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/helper");
        let root = nix::fcntl::open("/", OFlag::O_PATH, Mode::empty()).unwrap();
        let reach = ExportRoot::Beneath(root);
        let mut versions = Versions::default();
        for entry in std::fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            let expected = sys::inode_version(std::fs::File::open(&path).unwrap().as_fd()).unwrap_or(0);
            let path = std::ffi::CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
            let at = reach.at(&path).unwrap();
            let handle = sys::name_to_handle(at.dir(), at.name).unwrap();
            let shape = Shape { place: Place::Mount(0), kind: handle.kind(), length: handle.bytes().len() };
            versions.learn(shape, &handle, expected);
            if let Some(lesson) = versions.lessons.iter().flatten().find(|lesson| lesson.confirmed) {
                assert_eq!(word(&handle, lesson.offset).map(u64::from), Some(expected));
            }
        }
    }
}
