//! An inode's generation number, mostly without opening the inode.
//!
//! Every lookup of a file in the guest asks for it, and the documented way, `ioctl(FS_IOC_GETVERSION)`, takes an open
//! and a close. The file handle that `name_to_handle_at(2)` makes from a mere path holds the same number for most file
//! systems that have one, but where in the handle it stands is each file system's own affair. So it is learnt: the first
//! times that a handle of some shape turns up on some device, the ioctl is asked as well, and when both agree on a number
//! that can't be there by chance, handles of that shape on that device are believed from then on. A file system without
//! the ioctl is not asked twice, either.

use std::ffi::CStr;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::fstatat;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

use super::export::{Kind, Known, Reach, wait_for_lease};
use super::sys::{self, FileHandle};

/// How many devices are remembered: an export with more file systems mounted in it gets slower, not wrong.
const REMEMBERED: usize = 8;

/// A number above this is no coincidence in a handle of a few words; smaller ones must be seen to differ.
const TELLING: u64 = 0xffff;

/// The form of a device's file handles.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    device: u64,
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

/// Files of one kind on one device: a file system either has the ioctl for all of them or for none. (All but FUSE, where
/// each file's server decides.)
#[derive(Clone, Copy, PartialEq, Eq)]
struct Population {
    device: u64,
    kind: Kind,
}

/// What was learnt about the file systems of an export.
#[derive(Default)]
pub struct Versions {
    lessons: [Option<Lesson>; REMEMBERED],
    next: usize,
    /// Those that have no generation numbers.
    without: [Option<Population>; REMEMBERED],
    next_without: usize,
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
    pub fn get(&mut self, reach: &Reach, path: &CStr) -> Result<u64, Errno> {
        let at = reach.at(path)?;
        let stat = fstatat(at.dir(), at.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let population = Population { device: stat.st_dev, kind: Kind::of(&stat) };
        match population.kind {
            Kind::Symlink => return ask(reach, path, Known::Nothing).map(|answer| answer.or_none()),
            Kind::Special => return Err(Errno::ENXIO),
            Kind::File | Kind::Directory => {}
        }
        if self.without.contains(&Some(population)) {
            return Ok(0);
        }
        let Ok(handle) = sys::name_to_handle(at.dir(), at.name) else {
            return ask(reach, path, Known::Regular).map(|answer| self.unless_never(population, &answer));
        };
        let shape = Shape { device: stat.st_dev, kind: handle.kind(), length: handle.bytes().len() };
        let known = self.lessons.iter().flatten().find(|lesson| lesson.confirmed && lesson.shape == shape);
        if let Some(version) = known.and_then(|lesson| word(&handle, lesson.offset)) {
            return Ok(version.into());
        }
        let version = self.unless_never(population, &ask(reach, path, Known::Regular)?);
        self.learn(shape, &handle, version);
        Ok(version)
    }

    /// The number that the ioctl gave; where it never gives one, 0, and that is remembered.
    fn unless_never(&mut self, population: Population, answer: &Generation) -> u64 {
        if matches!(answer, Generation::Never) {
            self.without[self.next_without] = Some(population);
            self.next_without = (self.next_without + 1) % REMEMBERED;
        }
        answer.or_none()
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

/// Asks the ioctl.
fn ask(reach: &Reach, path: &CStr, known: Known) -> Result<Generation, Errno> {
    // Without O_NONBLOCK a file under a lease would keep us waiting for its holder.
    let opened = wait_for_lease(|| reach.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, known))?;
    let version = match sys::inode_version(opened.file.as_fd()) {
        Err(Errno::ENOTTY | Errno::ENOSYS | Errno::EINVAL | Errno::EOPNOTSUPP) => {
            let fuse = fstatfs(&opened.file).is_ok_and(|status| status.filesystem_type() == FUSE_SUPER_MAGIC);
            Ok(if fuse { Generation::Is(0) } else { Generation::Never })
        }
        result => result.map(Generation::Is),
    };
    opened.close();
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { device: 1, kind: 1, length: 8 };

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
        let reach = Reach::Beneath(root);
        let mut versions = Versions::default();
        for entry in std::fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            let expected = sys::inode_version(std::fs::File::open(&path).unwrap().as_fd()).unwrap_or(0);
            let path = std::ffi::CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
            let at = reach.at(&path).unwrap();
            let stat = fstatat(at.dir(), at.name, AtFlags::AT_SYMLINK_NOFOLLOW).unwrap();
            let handle = sys::name_to_handle(at.dir(), at.name).unwrap();
            let shape = Shape { device: stat.st_dev, kind: handle.kind(), length: handle.bytes().len() };
            versions.learn(shape, &handle, expected);
            if let Some(lesson) = versions.lessons.iter().flatten().find(|lesson| lesson.confirmed) {
                assert_eq!(word(&handle, lesson.offset).map(u64::from), Some(expected));
            }
        }
    }
}
