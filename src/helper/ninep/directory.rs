//! Reading directories: getdents64(2), from where the guest says.

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use rustix::fs::{FileType, RawDir};

/// The most bytes of entries that are read at once.
const MOST: usize = 64 << 10;

/// An open directory.
pub(crate) struct Directory {
    file: OwnedFd,
    /// Where the kernel goes on reading.
    position: u64,
}

/// An entry of a directory.
pub(crate) struct Entry<'b> {
    /// Its inode number.
    pub inode: u64,
    /// Where reading goes on behind it.
    pub next: u64,
    /// Its type as readdir(3) has it (`DT_*`); 0 where it is not known.
    pub kind: u8,
    /// Its name.
    pub name: &'b CStr,
}

impl Directory {
    /// A directory that was opened just now.
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self { file, position: 0 }
    }

    /// Reads entries from `offset` on, 0 or one that an entry had as `next`, and gives them to `put`; at the end of the directory none.
    /// Together they take `room` bytes at most, of which each takes 24 and its name. `EINVAL` where not one has room.
    pub(crate) fn read(
        &mut self,
        offset: u64,
        room: usize,
        mut put: impl FnMut(&Entry<'_>),
    ) -> Result<(), Errno> {
        if offset != self.position {
            lseek(self.file.as_fd(), offset.cast_signed(), Whence::SeekSet)?;
            self.position = offset;
        }
        // The kernel's entries take 20 bytes and their name, to a multiple of 8: at least six sevenths of ours. So all have room.
        let room = room.min(MOST) / 7 * 6;
        let mut buffer = vec![MaybeUninit::uninit(); room];
        let mut entries = RawDir::new(&self.file, &mut buffer);
        loop {
            match entries.next() {
                None => break,
                Some(Err(errno)) => return Err(Errno::from_raw(errno.raw_os_error())),
                Some(Ok(entry)) => {
                    let next = entry.next_entry_cookie();
                    let kind = kind(entry.file_type());
                    put(&Entry { inode: entry.ino(), next, kind, name: entry.file_name() });
                    self.position = next;
                }
            }
            if entries.is_buffer_empty() {
                break;
            }
        }
        Ok(())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The number of a type of file in a directory's entry.
fn kind(kind: FileType) -> u8 {
    match kind {
        FileType::RegularFile => libc::DT_REG,
        FileType::Directory => libc::DT_DIR,
        FileType::Symlink => libc::DT_LNK,
        FileType::Fifo => libc::DT_FIFO,
        FileType::Socket => libc::DT_SOCK,
        FileType::CharacterDevice => libc::DT_CHR,
        FileType::BlockDevice => libc::DT_BLK,
        FileType::Unknown => libc::DT_UNKNOWN,
    }
}

/// The file type bits of a mode that an entry of this type has.
pub(crate) fn mode_of(kind: u8) -> u32 {
    u32::from(kind) << 12
}
