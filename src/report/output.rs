//! Where a document goes: standard output, or what `--output` names.
//!
//! A regular file, or a name that is free, gets the whole document or nothing: it is written beside it and renamed. Everything
//! else keeps what it is, and the document is written into it: a device, a FIFO, the target of a symbolic link. A link to a
//! descriptor of this process (`/dev/stdout`, `/dev/fd/3`) is that descriptor: opened by its name, a file there would be cut
//! to nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::kernel;
use crate::text::escape_path;

/// What writes a document.
type Writer<'a> = dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a;

/// The mode of a new file, before the umask.
const NEW_FILE: u32 = 0o644;
/// As many links in a row as the kernel follows.
const MOST_LINKS: usize = 40;

/// Writes a document to `output`; to standard output where that is `-` or `None`.
pub(crate) fn put(
    output: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let Some(path) = output.filter(|path| *path != Path::new("-")) else { return print_with(write) };
    put_into(path, Box::new(write)).with_context(|| format!("cannot write '{}'", escape_path(path)))
}

/// Writes to standard output. A reader that went away (`| head`) is no error.
pub(crate) fn print_with(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = write(&mut out).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| anyhow::anyhow!("cannot write to standard output: {error}")),
    }
}

/// What a path names.
enum Target {
    /// A descriptor that this process has open.
    Descriptor(RawFd),
    /// A name that is free, or a regular file.
    Replaceable(PathBuf, Option<fs::Metadata>),
    /// Something that stays, and is written into.
    Existing(PathBuf),
}

fn put_into(path: &Path, write: Box<Writer<'_>>) -> anyhow::Result<()> {
    match target(path)? {
        Target::Descriptor(1) => print_with(write),
        Target::Descriptor(fd) => write_all(File::from(kernel::duplicate(fd)?), write),
        Target::Replaceable(path, old) => replace(&path, old.as_ref(), write),
        Target::Existing(path) => {
            let mut options = OpenOptions::new();
            let is_file = fs::metadata(&path).map_or(true, |meta| meta.is_file());
            // Opening a FIFO waits for its reader, as a shell's redirection does.
            options.write(true).create(is_file).truncate(is_file).custom_flags(libc::O_NOCTTY).mode(NEW_FILE);
            write_all(options.open(&path)?, write)
        }
    }
}

/// What `path` names, its links followed.
fn target(path: &Path) -> anyhow::Result<Target> {
    let own_descriptors = fs::canonicalize("/proc/self/fd").ok();
    let mut at = path.to_owned();
    for _ in 0..MOST_LINKS {
        let parent = at.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = at.file_name().context("it names no file")?;
        let parent = parent.canonicalize()?;
        if Some(&parent) == own_descriptors.as_ref()
            && let Some(number) = name.to_str().and_then(|name| name.parse().ok())
        {
            return Ok(Target::Descriptor(number));
        }
        let here = parent.join(name);
        let meta = match fs::symlink_metadata(&here) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound && at.as_path() == path => {
                return Ok(Target::Replaceable(here, None));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Target::Existing(here)),
            Err(error) => return Err(error.into()),
        };
        if meta.is_symlink() {
            at = parent.join(fs::read_link(&here)?);
            continue;
        }
        if meta.is_dir() {
            bail!("it is a directory");
        }
        if meta.file_type().is_socket() {
            bail!("it is a socket");
        }
        let is_replaceable = meta.is_file() && at.as_path() == path && !is_mount_point(&here);
        return Ok(if is_replaceable {
            Target::Replaceable(here, Some(meta))
        } else {
            Target::Existing(here)
        });
    }
    bail!("it is a link in a circle of links")
}

/// Whether something is mounted at `path`, as a container's volume of one file is: it can't be replaced.
fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Makes a document the content of a new file, and renames it to `path`. The owner and the mode of a file that was there stay.
fn replace(path: &Path, old: Option<&fs::Metadata>, write: Box<Writer<'_>>) -> anyhow::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let new = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(if old.is_some() { 0o600 } else { NEW_FILE }))
        .tempfile_in(directory)?;
    write_all(new.as_file(), write)?;
    if let Some(old) = old {
        // Only root may give a file away: for everybody else the new file is their own.
        let _ = fchown(new.as_file(), Some(old.uid()), Some(old.gid()));
        new.as_file().set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
    }
    new.as_file().sync_all()?;
    new.persist(path)?;
    Ok(())
}

fn write_all(file: impl Write, write: Box<Writer<'_>>) -> anyhow::Result<()> {
    let mut buffer = BufWriter::new(file);
    write(&mut buffer)?;
    buffer.flush()?;
    Ok(())
}
