//! A look at the first entries of a tree: whether they are as a mapped model keeps them. It says what was seen, and nothing of the rest.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};

use super::form::Model;
use super::mapped_file::{METADATA, METADATA_ROOT};
use super::mapped_xattr::UID;

/// How many entries are looked at.
const MOST: u64 = 2000;

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Entries that say what the guest sees: by attributes, or by a metadata file.
    pub mapped: u64,
    /// Entries that do not.
    pub plain: u64,
    /// Whether these are all.
    pub whole: bool,
}

impl Sample {
    /// Looks at the directory with this open root; the root itself does not count. `model`: the one by which entries are to be
    /// mapped; any where there is none.
    pub(crate) fn of(root: OwnedFd, model: Option<Model>) -> rustix::io::Result<Self> {
        let mut sample = Self { whole: true, ..Self::default() };
        let mut folders = VecDeque::from([root]);
        while let Some(folder) = folders.pop_front() {
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") || name == METADATA || name == METADATA_ROOT {
                    continue;
                }
                if sample.mapped + sample.plain == MOST {
                    sample.whole = false;
                    return Ok(sample);
                }
                // What went away meanwhile is no part of the tree.
                let Ok(stat) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                let kind = FileType::from_raw_mode(stat.st_mode);
                if is_mapped(&folder, name, kind, model) {
                    sample.mapped += 1;
                } else {
                    sample.plain += 1;
                }
                if kind == FileType::Directory && folders.len() < MOST_OPEN {
                    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    folders.extend(openat(&folder, name, flags, Mode::empty()));
                } else if kind == FileType::Directory {
                    sample.whole = false;
                }
            }
        }
        Ok(sample)
    }

    /// How many were looked at.
    pub(crate) fn entries(&self) -> u64 {
        self.mapped + self.plain
    }
}

/// How many directories wait, each with a descriptor.
const MOST_OPEN: usize = 100;

fn is_mapped(folder: &OwnedFd, name: &CStr, kind: FileType, model: Option<Model>) -> bool {
    // A mapped model keeps all else as regular files.
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return false;
    }
    let by_attribute = || {
        let path = [format!("/proc/self/fd/{}/", folder.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
        rustix::fs::lgetxattr(path.as_slice(), UID, &mut [0_u8; 16][..]).is_ok()
    };
    let by_file = || {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC;
        openat(folder, METADATA, flags, Mode::empty())
            .is_ok_and(|metadata| statat(metadata, name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    };
    match model {
        Some(Model::MappedXattr) => by_attribute(),
        Some(Model::MappedFile) => by_file(),
        None => by_attribute() || by_file(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;

    fn sample(of: &Path, model: Option<Model>) -> (u64, u64, bool) {
        let sample = Sample::of(File::open(of).unwrap().into(), model).unwrap();
        (sample.mapped, sample.plain, sample.whole)
    }

    #[test]
    fn entries_are_mapped_by_an_attribute_or_by_a_metadata_file() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        assert_eq!(sample(top, None), (0, 0, true));
        fs::create_dir(top.join("plain")).unwrap();
        fs::write(top.join("plain/file"), "").unwrap();
        std::os::unix::fs::symlink("plain", top.join("link")).unwrap();
        fs::write(top.join("attribute"), "").unwrap();
        rustix::fs::lsetxattr(top.join("attribute"), UID, &[0; 4], rustix::fs::XattrFlags::empty()).unwrap();
        fs::create_dir(top.join(".virtfs_metadata")).unwrap();
        fs::write(top.join(".virtfs_metadata_root"), "").unwrap();
        fs::write(top.join("file"), "").unwrap();
        fs::write(top.join(".virtfs_metadata/file"), "").unwrap();
        assert_eq!(sample(top, None), (2, 3, true));
        assert_eq!(sample(top, Some(Model::MappedXattr)), (1, 4, true));
        assert_eq!(sample(top, Some(Model::MappedFile)), (1, 4, true));
    }

    #[test]
    fn a_look_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..=MOST {
            fs::create_dir(folder.path().join(number.to_string())).unwrap();
        }
        assert_eq!(sample(folder.path(), None), (0, MOST, false));
    }
}
