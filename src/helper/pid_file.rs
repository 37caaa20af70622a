//! The file with this process's id.
//!
//! Others may be able to write to its directory. So it is made under a name of its own and renamed, as a new file of this
//! process's; what was there is neither opened nor written to. All is relative to a descriptor of the directory.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::text::escape_path;

/// Its permissions, whatever the umask is.
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IRGRP).union(Mode::S_IROTH);

/// A file with this process's id.
pub(crate) struct PidFile {
    directory: OwnedFd,
    name: OsString,
    inode: (u64, u64),
    text: String,
}

impl PidFile {
    /// Writes it. A regular file of that name is replaced, anything else is refused.
    pub(crate) fn write(path: &Path) -> Result<Self> {
        Self::write_below(path).with_context(|| format!("cannot write the pid file '{}'", escape_path(path)))
    }

    fn write_below(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("it is no file's name");
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(parent, flags, Mode::empty())?;
        match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(there) if !is_regular(&there) => {
                bail!("it exists and is not a regular file; remove it, or name another file with --pid-file")
            }
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let text = format!("{}\n", std::process::id());
        let aside = super::socket::name_aside();
        let written = write_new(&directory, &aside, &text)
            .and_then(|inode| Ok(renameat(&directory, aside.as_str(), &directory, name).map(|()| inode)?));
        let inode = written.inspect_err(|_| {
            let _ = unlinkat(&directory, aside.as_str(), UnlinkatFlags::NoRemoveDir);
        })?;
        Ok(Self { name: name.into(), directory, inode, text })
    }

    /// Removes it, unless something else has its name by now.
    pub(crate) fn remove(&self) {
        if self.is_there().unwrap_or(false) {
            let _ = unlinkat(&self.directory, &*self.name, UnlinkatFlags::NoRemoveDir);
        }
    }

    fn is_there(&self) -> Result<bool> {
        // Without waiting for the other end of a FIFO that has taken its place.
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let there = fstatat(&self.directory, &*self.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if !is_regular(&there) || (there.st_dev, there.st_ino) != self.inode {
            return Ok(false);
        }
        let file = openat(&self.directory, &*self.name, flags, Mode::empty())?;
        let opened = fstat(&file)?;
        let mut text = String::new();
        File::from(file).take(64).read_to_string(&mut text)?;
        Ok((opened.st_dev, opened.st_ino) == self.inode && text == self.text)
    }

    /// The directory, for a process that closes all other descriptors.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Makes a new file; returns its device and inode number.
fn write_new(directory: &OwnedFd, name: &str, text: &str) -> Result<(u64, u64)> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    fchmod(&file, MODE)?;
    let stat = fstat(&file)?;
    File::from(file).write_all(text.as_bytes())?;
    Ok((stat.st_dev, stat.st_ino))
}

fn is_regular(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFREG
}
