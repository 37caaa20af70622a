//! A file's new content, in one step: whoever looks sees the old file or the new one, and the old one is kept.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::text::escape_path;

/// What tells a file's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The version of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// Gives the file at `path`, which was read as `old` at the version `before`, the content `new`, and returns where
/// the old file is now. Owner, mode and extended attributes stay. A file that changed meanwhile stays as it is.
pub(super) fn replace(path: &Path, before: &Stamp, old: &[u8], new: &[u8]) -> anyhow::Result<PathBuf> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        bail!("it is no regular file");
    }
    let folder = path.parent().context("it has no folder")?;
    let name = path.file_name().context("it has no name")?;
    let mut fresh = tempfile::Builder::new()
        .prefix(".migrate-")
        .tempfile_in(folder)
        .with_context(|| format!("making a file in {}", escape_path(folder)))?;
    fresh.write_all(new)?;
    fchown(fresh.as_file(), Some(metadata.uid()), Some(metadata.gid())).context("keeping the owner")?;
    fresh
        .as_file()
        .set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))
        .context("keeping the mode")?;
    copy_attributes(path, fresh.as_file()).context("keeping the extended attributes")?;
    fresh.as_file().sync_all()?;
    if is_other(path, before, old)? {
        bail!("it changed meanwhile; nothing is written");
    }
    let fresh = fresh.into_temp_path();
    let kept = match renameat_with(CWD, &*fresh, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => {
            // What was put aside must be what was read: else it goes back.
            if is_other(&fresh, before, old)? {
                renameat_with(CWD, &*fresh, CWD, path, RenameFlags::EXCHANGE)?;
                bail!("it changed meanwhile; nothing is written");
            }
            keep(&fresh, folder, name)?
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let kept = keep_link(path, folder, name)?;
            fs::rename(&fresh, path)?;
            kept
        }
        Err(errno) => return Err(errno).context("putting the new file in place"),
    };
    // What is renamed away is no temporary file any more.
    let _ = fresh.keep();
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Not every file system can: Proxmox's own, say.
        Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Err(error).context("making the change last")
        }
        _ => Ok(kept),
    }
}

/// Whether the file at `path` is not the one that was read.
fn is_other(path: &Path, before: &Stamp, old: &[u8]) -> anyhow::Result<bool> {
    let mut file = File::open(path)?;
    if Stamp::of(&file)? != *before {
        return Ok(true);
    }
    let mut bytes = Vec::with_capacity(old.len());
    file.read_to_end(&mut bytes)?;
    Ok(bytes != old)
}

/// The names under which an old file is kept: `NAME.orig`, `NAME.orig.2`, …
fn names<'a>(folder: &'a Path, name: &'a OsStr) -> impl Iterator<Item = PathBuf> + 'a {
    (1..=9999).map(move |number| {
        let mut kept = OsString::from(name);
        kept.push(".orig");
        if number > 1 {
            kept.push(format!(".{number}"));
        }
        folder.join(kept)
    })
}

/// Gives the old file its name.
fn keep(old: &Path, folder: &Path, name: &OsStr) -> anyhow::Result<PathBuf> {
    for kept in names(folder, name) {
        match renameat_with(CWD, old, CWD, &kept, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(kept),
            Err(Errno::EXIST) => {}
            Err(errno) => {
                return Err(errno).with_context(|| format!("keeping the old file as {}", escape_path(&kept)));
            }
        }
    }
    bail!("there are too many old files beside it")
}

/// Gives the old file a second name, where two files can't change places.
fn keep_link(path: &Path, folder: &Path, name: &OsStr) -> anyhow::Result<PathBuf> {
    for kept in names(folder, name) {
        let made = fs::hard_link(path, &kept).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Err(error),
            // No hard links either.
            _ if !kept.exists() => fs::copy(path, &kept).map(drop),
            _ => Err(error),
        });
        match made {
            Ok(()) => return Ok(kept),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists || kept.exists() => {}
            Err(error) => {
                return Err(error).with_context(|| format!("keeping the old file as {}", escape_path(&kept)));
            }
        }
    }
    bail!("there are too many old files beside it")
}

/// ACLs, labels and whatever else hangs on the file.
fn copy_attributes(from: &Path, to: &File) -> rustix::io::Result<()> {
    let from = rustix::fs::open(
        from,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(&from, list.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut value = vec![0; 64 << 10];
    for name in
        list.get(..length).unwrap_or_default().split(|&byte| byte == 0).filter(|name| !name.is_empty())
    {
        let Ok(length) = rustix::fs::fgetxattr(&from, name, value.as_mut_slice()) else { continue };
        let content = value.get(..length).unwrap_or_default();
        match rustix::fs::fsetxattr(to, name, content, rustix::fs::XattrFlags::empty()) {
            // Labels that the system gives by itself, and those that only root may give.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(Errno::PERM | Errno::ACCESS) if !name.starts_with(b"system.") => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&Path);

    fn names_in(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_changed_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vm.xml");
        fs::write(&file, "old").unwrap();
        let before = Stamp::of(&File::open(&file).unwrap()).unwrap();
        let changes: [Change; 3] = [
            |file| fs::write(file, "new").unwrap(),
            // Another file of the same content, as an editor leaves it.
            |file| {
                fs::write(file.with_extension("tmp"), "old").unwrap();
                fs::rename(file.with_extension("tmp"), file).unwrap();
            },
            |file| fs::write(file, "old and longer").unwrap(),
        ];
        for change in changes {
            change(&file);
            let content = fs::read(&file).unwrap();
            let error = replace(&file, &before, b"old", b"rewritten").unwrap_err();
            assert!(error.to_string().contains("changed meanwhile"), "{error}");
            assert_eq!(fs::read(&file).unwrap(), content);
            assert_eq!(names_in(folder.path()), ["vm.xml"]);
        }
    }

    #[test]
    fn the_old_file_is_kept_where_two_files_cannot_change_places() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vm.xml");
        fs::write(&file, "old").unwrap();
        fs::write(folder.path().join("vm.xml.orig"), "older").unwrap();
        let kept = keep_link(&file, folder.path(), OsStr::new("vm.xml")).unwrap();
        assert_eq!(kept, folder.path().join("vm.xml.orig.2"));
        assert_eq!(fs::read(kept).unwrap(), b"old");
        assert_eq!(fs::read(folder.path().join("vm.xml.orig")).unwrap(), b"older");
    }
}
