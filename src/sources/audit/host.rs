//! The audited host's files: this machine's, or those below `--root`. Links never lead out of it, nothing that is
//! opened blocks, and reads are bounded.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::listings::Listings;
use crate::share::bounds::cut;
use crate::sources::format::{Beside, Unreadable};
use anyhow::Context;
use nix::dir::{Dir, OwningIter, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, fstatfs};

/// The longest file that is read, in bytes. Configuration is far smaller.
pub(crate) const MAX_FILE: u64 = 16 << 20;

/// How much of a longer file is read, to tell what it is.
pub(crate) const BEGINNING: usize = 1 << 20;

/// How many entries of a folder are kept in memory at once.
pub(super) const MOST_ENTRIES: usize = 4096;

/// How many entries of a folder are looked at that is listed as a whole: one of units, or of programs.
const MOST_LISTED: usize = 16 * MOST_ENTRIES;

/// How often a look-up is tried again that renames elsewhere disturbed.
const RETRIES: usize = 16;

/// File systems in which the kernel shows itself: no configuration lives there, and a look may have effects.
const PSEUDO: &[i64] = &[
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x1cd1,      // devpts
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0x0187,      // autofs
    0x1980_0202, // mqueue
    0x6265_6570, // configfs
    0x6573_5543, // fusectl
    0x4249_4e4d, // binfmt_misc
    0x6e73_6673, // nsfs
    0x9584_58f6, // hugetlbfs
    0xf97c_ff8c, // selinuxfs
    0xde5e_81e4, // efivarfs
];

/// The audited host.
#[derive(Debug)]
pub(crate) struct Host {
    root: OwnedFd,
    /// The folder that the host's `/` is here; `None` on this machine itself.
    prefix: Option<PathBuf>,
    /// What was listed for the documents that are read.
    listings: Listings,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A FIFO, socket or device: never opened.
    Special,
}

/// An entry of a folder, and what it is where the listing says so.
pub(super) type Entry = (PathBuf, Option<Kind>);

/// A file's content.
#[derive(Debug)]
pub(crate) enum Content {
    /// All of it.
    Whole(Vec<u8>),
    /// It is longer than [`MAX_FILE`]: how it begins.
    TooLong(Vec<u8>),
    /// Not a regular file.
    Special,
}

impl Host {
    /// The host whose `/` is `root`; this machine without.
    pub(crate) fn new(root: Option<&Path>) -> anyhow::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = root.unwrap_or(Path::new("/"));
        let fd = open(folder, flags, Mode::empty())
            .with_context(|| format!("cannot open --root {}", crate::text::escape_path(folder)))?;
        let prefix = root.map(std::fs::canonicalize).transpose()?;
        Ok(Self { root: fd, prefix, listings: Listings::default() })
    }

    /// A path of the command line as it is on the host.
    pub(crate) fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        match &self.prefix {
            Some(_) => Ok(Path::new("/").join(path)),
            None => std::path::absolute(path),
        }
    }

    fn open_how(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        let resolve = match self.prefix {
            Some(_) => ResolveFlag::RESOLVE_IN_ROOT,
            None => ResolveFlag::empty(),
        };
        let how = OpenHow::new().flags(flags).resolve(resolve);
        for _ in 0..RETRIES {
            match openat2(&self.root, path, how) {
                Err(Errno::EAGAIN) => {}
                // Before Linux 5.6, or under a filter that doesn't know it: this machine's paths need no walls.
                Err(Errno::ENOSYS) if self.prefix.is_none() => {
                    return Ok(open(path, flags, Mode::empty())?);
                }
                other => return Ok(other?),
            }
        }
        Err(Errno::EAGAIN.into())
    }

    /// What `path` is; what a link leads to, if asked to follow it.
    pub(crate) fn kind(&self, path: &Path, follow: bool) -> io::Result<Kind> {
        let nofollow = if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let fd = self.open_how(path, OFlag::O_PATH | nofollow)?;
        let file_type = File::from(fd).metadata()?.file_type();
        Ok(if file_type.is_file() {
            Kind::File
        } else if file_type.is_dir() {
            Kind::Folder
        } else if file_type.is_symlink() {
            Kind::Link
        } else {
            Kind::Special
        })
    }

    /// Opens a regular file. `Ok(None)`: it is something else.
    pub(crate) fn open(&self, path: &Path) -> io::Result<Option<File>> {
        Ok(self.open_with_length(path)?.map(|(file, _)| file))
    }

    fn open_with_length(&self, path: &Path) -> io::Result<Option<(File, u64)>> {
        // O_NONBLOCK: what was a file a moment ago may be a FIFO now.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::from(self.open_how(path, flags)?);
        let metadata = file.metadata()?;
        Ok(metadata.is_file().then_some((file, metadata.len())))
    }

    /// Opens a regular file. `listed`: a folder's listing just said that it is one, and it is not asked again.
    pub(crate) fn open_listed(&self, path: &Path, listed: bool) -> io::Result<Option<File>> {
        if !listed {
            return if self.kind(path, true)? == Kind::File { self.open(path) } else { Ok(None) };
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        Ok(Some(File::from(self.open_how(path, flags)?)))
    }

    /// Reads a regular file. `known`: a folder's listing just said that it is one.
    pub(crate) fn read(&self, path: &Path, known: bool) -> io::Result<Content> {
        if !known && self.kind(path, true)? != Kind::File {
            return Ok(Content::Special);
        }
        let Some((file, expected)) = self.open_with_length(path)? else { return Ok(Content::Special) };
        if expected > MAX_FILE {
            return Ok(Content::TooLong(read_up_to(&file, BEGINNING as u64, BEGINNING as u64)?));
        }
        let bytes = read_up_to(&file, MAX_FILE + 1, expected)?;
        Ok(if bytes.len() as u64 > MAX_FILE { Content::TooLong(bytes) } else { Content::Whole(bytes) })
    }

    /// A small file that is of help when it is there and readable.
    pub(crate) fn read_small(&self, path: &Path) -> Option<Vec<u8>> {
        match self.read(path, false) {
            Ok(Content::Whole(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Opens a folder's listing. `Ok(None)`: the kernel shows itself there.
    pub(crate) fn listing(&self, path: &Path) -> io::Result<Option<Listing>> {
        let fd = self.open_how(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK)?;
        if is_pseudo(fd.as_fd()) {
            return Ok(None);
        }
        Listing::new(fd).map(Some)
    }

    /// A folder's entries, by name; of one with more than [`MOST_LISTED`], those that the file system lists first. `Ok(None)`:
    /// the kernel shows itself there.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Option<Vec<Entry>>> {
        let Some(mut listing) = self.listing(path)? else { return Ok(None) };
        let mut names = listing.next()?;
        while names.len() < MOST_LISTED && !listing.is_at_end() {
            names.extend(listing.next()?);
            names.sort();
        }
        Ok(Some(entries(path, names)))
    }

    /// The entries of a folder in which the kernel shows itself.
    pub(crate) fn list_proc(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        let mut listing = Listing::new(self.open_how(path, flags)?)?;
        let mut paths = Vec::new();
        while !listing.is_at_end() {
            paths.extend(entries(path, listing.next()?).into_iter().map(|(path, _)| path));
        }
        Ok(paths)
    }

    /// Where `path` really is on the host, links followed.
    pub(crate) fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        let fd = self.open_how(path, OFlag::O_PATH)?;
        let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        Ok(match &self.prefix {
            Some(prefix) => Path::new("/").join(real.strip_prefix(prefix).unwrap_or(&real)),
            None => real,
        })
    }

    /// A path of the host's, free of symbolic links, as this program reaches it.
    pub(crate) fn here(&self, path: &Path) -> PathBuf {
        match &self.prefix {
            Some(prefix) => prefix.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// What a symbolic link says, also one of /proc's that leads nowhere.
    pub(crate) fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let fd = self.open_how(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        let target = nix::fcntl::readlinkat(&fd, c"")?;
        Ok(target.into())
    }

    /// Who owns `path`: its device and inode tell files apart.
    pub(crate) fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        let metadata = File::from(self.open_how(path, OFlag::O_PATH)?).metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// The device and the inode of a unix socket; `None` where there is none.
    pub(crate) fn identity_of_socket(&self, path: &Path) -> Option<(u64, u64)> {
        use std::os::unix::fs::FileTypeExt as _;
        let metadata = File::from(self.open_how(path, OFlag::O_PATH).ok()?).metadata().ok()?;
        metadata.file_type().is_socket().then(|| (metadata.dev(), metadata.ino()))
    }

    /// Whether the host's file system is mounted elsewhere than at `/`.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.prefix.is_some()
    }

    /// Takes hold of a process's root or working directory, whatever it is called.
    pub(crate) fn open_folder(&self, link: &Path) -> io::Result<File> {
        self.open_magic(link, OFlag::O_PATH | OFlag::O_DIRECTORY)
    }

    /// Takes hold of the folder that `path` is to a process whose root is `root`.
    pub(crate) fn open_below(root: &File, path: &Path) -> io::Result<File> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        Ok(openat2(root, path, how)?.into())
    }

    /// Opens something of /proc's that is no regular file: a namespace.
    pub(crate) fn open_namespace(&self, path: &Path) -> io::Result<File> {
        self.open_magic(path, OFlag::O_RDONLY)
    }

    fn open_magic(&self, path: &Path, flags: OFlag) -> io::Result<File> {
        // Such a link leads nowhere by name: openat2's walls keep it out.
        let folder = self.open_how(path.parent().unwrap_or(path), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let name = path.file_name().unwrap_or_default();
        Ok(nix::fcntl::openat(&folder, name, flags | OFlag::O_CLOEXEC, Mode::empty())?.into())
    }
}

/// An open folder, whose entries are read a number at a time: it may have any number of them.
#[derive(Debug)]
pub(crate) struct Listing {
    entries: OwningIter,
    ended: bool,
}

impl Listing {
    fn new(folder: OwnedFd) -> io::Result<Self> {
        Ok(Self { entries: Dir::from_fd(folder)?.into_iter(), ended: false })
    }

    /// Whether all entries were read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.ended
    }

    /// The next entries, at most [`MOST_ENTRIES`], by name; none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Vec<(OsString, Option<Kind>)>> {
        let mut names = Vec::new();
        while !self.ended {
            let Some(entry) = self.entries.next().transpose()? else {
                self.ended = true;
                break;
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = entry.file_type().map(|kind| match kind {
                Type::File => Kind::File,
                Type::Directory => Kind::Folder,
                Type::Symlink => Kind::Link,
                _ => Kind::Special,
            });
            names.push((OsStr::from_bytes(name).to_owned(), kind));
            if names.len() == MOST_ENTRIES {
                break;
            }
        }
        names.sort();
        Ok(names)
    }
}

fn entries(folder: &Path, names: Vec<(OsString, Option<Kind>)>) -> Vec<Entry> {
    names.into_iter().map(|(name, kind)| (folder.join(name), kind)).collect()
}

impl Beside for Host {
    fn file(&self, path: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
        match self.read(path, false) {
            Ok(Content::Whole(bytes)) => Ok(Some(bytes)),
            Ok(_) => Err(Unreadable { line: None, reason: "not a small regular file".to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Unreadable { line: None, reason: why(&error) }),
        }
    }

    fn files(&self, folder: &Path) -> Arc<[PathBuf]> {
        let list = || self.list(folder).ok().flatten().unwrap_or_default();
        let paths = self.listings.get(folder, || list().into_iter().map(|(path, _)| path).collect());
        if paths.len() >= MOST_LISTED {
            cut("a folder that belongs to it has too many entries, and was not read to its end");
        }
        paths
    }
}

/// Reads a file of which `expected` bytes are said to be there. /proc's say none, and a growing one has more.
fn read_up_to(mut file: &File, limit: u64, expected: u64) -> io::Result<Vec<u8>> {
    let room = usize::try_from(expected.min(limit)).unwrap_or(0);
    let mut bytes = vec![0; room];
    let mut filled = 0;
    while filled < room {
        match file.read(bytes.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    if room == 0 {
        file.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn is_pseudo(fd: std::os::fd::BorrowedFd) -> bool {
    let Ok(stat) = fstatfs(fd) else { return false };
    PSEUDO.iter().any(|magic| stat.filesystem_type() == FsType(*magic as _))
}

/// Why something can't be read, for people.
pub(super) fn why(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => "it does not exist, or vanished before it could be read".to_owned(),
        Some(Errno::EACCES | Errno::EPERM) => "permission denied: run as root to see it".to_owned(),
        Some(Errno::ELOOP) => "a loop of symbolic links".to_owned(),
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// Whether the last part of `path` ends with one of `extensions`.
pub(super) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().map(|extension| extension.as_bytes().to_ascii_lowercase());
    extension.is_some_and(|extension| extensions.iter().any(|known| known.as_bytes() == extension))
}
