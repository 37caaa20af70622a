//! `security_model=mapped-file`: what the guest sees of `DIR/NAME` is kept in the text file
//! `DIR/.virtfs_metadata/NAME`, of the root in `ROOT/.virtfs_metadata_root`.
//!
//! A key that is absent lets the real value show through. Symbolic links and special files are kept as in
//! [`super::mapped_xattr`]; extended attributes and ACLs are the real inode's.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::{Errno, Result};

use super::entry::{Entry, Inode, Kind};
use super::identity::Stamp;
use super::mapped_xattr::{Attributes, target};
use super::pin::{BENEATH, Pin};
use super::staging::{self, write_all};
use super::tree::Directory;
use super::walk;

/// The directory of metadata files in each directory.
pub(crate) const METADATA: &CStr = c".virtfs_metadata";
/// The metadata file of the root.
pub(crate) const METADATA_ROOT: &CStr = c".virtfs_metadata_root";

/// The longest metadata file that we read: QEMU's own are a tenth of it.
const LONGEST: usize = 4096;

/// Whether QEMU keeps this name for itself, in any directory.
pub(crate) fn is_reserved(_directory: &Directory, name: &CStr) -> bool {
    name == METADATA || name == METADATA_ROOT
}

/// The entry `name` of `directory`; with an empty name, the root itself.
pub(crate) fn read(directory: &Directory, name: &CStr, pin: &Pin) -> Result<Entry> {
    let mut entry = Entry::of(pin.inode());
    for xattr in pin.xattr_names()?.iter() {
        let raw = xattr.to_bytes();
        if (raw.starts_with(b"user.") || raw.starts_with(b"system.posix_acl_"))
            && let Some(value) = pin.xattr(xattr)?
        {
            entry.push_xattr(raw, value);
        }
    }
    read_attributes(directory, name)?.unwrap_or_default().apply(&mut entry);
    if entry.kind() == Some(Kind::Symlink) {
        entry.target = target(pin)?;
    }
    Ok(entry)
}

/// What the metadata file of an entry says; `None` where there is none.
pub(crate) fn read_attributes(directory: &Directory, name: &CStr) -> Result<Option<Attributes>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file =
        match rustix::fs::openat2(directory.open()?, metadata_path(name), flags, Mode::empty(), BENEATH) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error),
        };
    Ok(Some(parse(&content(file)?)))
}

/// Whether the metadata file of an entry says what another inode of that name was: of one that QEMU's user `uid` does not own, as
/// when a program of the host has put a new file in the place of an old one.
pub(crate) fn belongs_to_another(
    directory: &Directory,
    name: &CStr,
    inode: &Inode,
    uid: u32,
) -> Result<bool> {
    if inode.kind().is_some_and(Kind::is_replaced) {
        return Ok(true);
    }
    if inode.uid == uid {
        return Ok(false);
    }
    let Some(metadata) = stat_metadata(directory, name)? else { return Ok(false) };
    let Stamp::Born(born) = inode.id.stamp else { return Ok(false) };
    Ok(metadata.st_uid == uid
        && (metadata.st_mtime, metadata.st_mtime_nsec) < (born.seconds, born.nanoseconds.into()))
}

/// The state of the metadata file of an entry; `None` where there is none.
pub(super) fn stat_metadata(directory: &Directory, name: &CStr) -> Result<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(directory.open()?, metadata_path(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(told) => Ok(Some(told)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

fn content(file: OwnedFd) -> Result<Vec<u8>> {
    let pin = Pin::of(file, true)?;
    if pin.inode().kind() == Some(Kind::File) { pin.content(LONGEST) } else { Ok(Vec::new()) }
}

/// Where the metadata of an entry is, from its directory; of the root for an empty name.
pub(super) fn metadata_path(name: &CStr) -> CString {
    if name.is_empty() {
        return METADATA_ROOT.to_owned();
    }
    let path = [METADATA.to_bytes(), b"/", name.to_bytes()].concat();
    // Neither part has a NUL inside.
    CString::new(path).unwrap_or_default()
}

/// The text of the metadata file of an entry, as QEMU writes it.
pub(super) fn text(entry: &Entry) -> Vec<u8> {
    let (uid, gid, mode) = (entry.uid.cast_signed(), entry.gid.cast_signed(), entry.mode.cast_signed());
    let text = format!("virtfs.uid={uid}\nvirtfs.gid={gid}\nvirtfs.mode={mode}\n");
    if entry.kind().is_some_and(Kind::is_device) {
        // What does not fit an int was found before the conversion.
        return format!("{text}virtfs.rdev={}\n", entry.rdev).into_bytes();
    }
    text.into_bytes()
}

/// Makes sure that a directory has its directory of metadata files, which belongs to `uid` and `gid`.
pub(super) fn make_metadata_directory(dir: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    match rustix::fs::mkdirat(dir, METADATA, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let pin = Pin::entry(dir, METADATA, Some(Kind::Directory), false)?;
    let inode = pin.inode();
    if (inode.uid, inode.gid) != (uid, gid) {
        own(&pin, uid, gid)?;
    }
    // A default ACL of the directory's came with it, which need not show in the mode.
    shed_acls(&pin)?;
    if inode.permissions() != Mode::RWXU.as_raw_mode() {
        rustix::fs::fchmod(&pin, Mode::RWXU)?;
    }
    Ok(())
}

/// Lets the guest see `entry` at `name` of an open directory, whatever the inode there becomes; with an empty name,
/// at the root. Returns the metadata file.
pub(super) fn write(dir: BorrowedFd<'_>, name: &CStr, entry: &Entry, uid: u32, gid: u32) -> Result<Pin> {
    let path = metadata_path(name);
    let (text, wanted) = (text(entry), Mode::RUSR | Mode::WUSR);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let pin = Pin::of(rustix::fs::openat2(dir, path, flags, wanted, BENEATH)?, true)?;
    let inode = pin.inode();
    if inode.kind() != Some(Kind::File) {
        return Err(Errno::EXIST);
    }
    if inode.size > 0 && pin.content(LONGEST)? != text {
        rustix::fs::ftruncate(&pin, 0)?;
        write_all(&pin, &text)?;
    } else if inode.size == 0 {
        // Another worker may have made the directory a moment ago, which has its parent's default ACL still.
        shed_acls(&pin)?;
        write_all(&pin, &text)?;
    }
    if inode.permissions() != wanted.as_raw_mode() {
        shed_acls(&pin)?;
        rustix::fs::fchmod(&pin, wanted)?;
    }
    if (inode.uid, inode.gid) != (uid, gid) {
        own(&pin, uid, gid)?;
    }
    Ok(pin)
}

/// Makes the metadata file of the entry `name` another name of the one that `first` holds.
pub(super) fn link(dir: BorrowedFd<'_>, name: &CStr, first: &Pin) -> Result<()> {
    let path = metadata_path(name);
    match staging::link(first, dir, &path) {
        Err(Errno::EXIST) => {}
        linked => return linked,
    }
    let now = rustix::fs::statat(dir, &*path, AtFlags::SYMLINK_NOFOLLOW)?;
    if now.st_ino == first.inode().identity.number {
        return Ok(());
    }
    rustix::fs::unlinkat(dir, &*path, AtFlags::empty())?;
    staging::link(first, dir, &path)
}

/// Removes the metadata file of an entry; one that is not there is no error.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match rustix::fs::openat2(
        dir,
        metadata_folder(name),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        BENEATH,
    ) {
        Ok(folder) if name.is_empty() => gone(rustix::fs::unlinkat(folder, METADATA_ROOT, AtFlags::empty())),
        Ok(folder) => gone(rustix::fs::unlinkat(folder, name, AtFlags::empty())),
        Err(error) => gone(Err(error)),
    }
}

/// The directory of an entry's metadata file.
fn metadata_folder(name: &CStr) -> &'static CStr {
    if name.is_empty() { c"." } else { METADATA }
}

/// What is not there needs no removing.
fn gone(removed: Result<()>) -> Result<()> {
    match removed {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        removed => removed,
    }
}

/// Removes a directory's directory of metadata files, with all files in it; says whether there was one.
pub(super) fn remove_metadata_directory(directory: &Arc<Directory>) -> Result<bool> {
    let fd = directory.open()?;
    let metadata = directory.child(METADATA);
    match metadata.open() {
        Ok(folder) => {
            for (name, _) in walk::names(&metadata)? {
                gone(rustix::fs::unlinkat(&folder, &*name, AtFlags::empty()))?;
            }
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        Err(error) => return Err(error),
    }
    rustix::fs::unlinkat(&fd, METADATA, AtFlags::REMOVEDIR).map(|()| true)
}

fn own(pin: &Pin, uid: u32, gid: u32) -> Result<()> {
    rustix::fs::fchown(pin, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Removes the ACLs that an inode got from its directory when it was made.
pub(super) fn shed_acls(pin: &Pin) -> Result<()> {
    for name in [c"system.posix_acl_access", c"system.posix_acl_default"] {
        match pin.remove_xattr(name) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the text of a metadata file as QEMU does: each line by itself, unknown ones passed over.
fn parse(text: &[u8]) -> Attributes {
    let mut attributes = Attributes::default();
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(value) = line.strip_prefix(b"virtfs.uid=") {
            attributes.uid = Some(number(value).cast_unsigned());
        } else if let Some(value) = line.strip_prefix(b"virtfs.gid=") {
            attributes.gid = Some(number(value).cast_unsigned());
        } else if let Some(value) = line.strip_prefix(b"virtfs.mode=") {
            attributes.mode = Some(number(value).cast_unsigned());
        } else if let Some(value) = line.strip_prefix(b"virtfs.rdev=") {
            // QEMU widens an int to the 64 bits of st_rdev: the sign goes with it.
            attributes.rdev = Some(i64::from(number(value)).cast_unsigned());
        }
    }
    attributes
}

/// `atoi(3)`: white space, a sign, digits; the rest is ignored. What is too large wraps around to 32 bits, as it does
/// with the C library.
fn number(text: &[u8]) -> i32 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let size = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0_i64, |sum, byte| sum.saturating_mul(10).saturating_add(i64::from(byte - b'0')));
    let value = if negative { -size } else { size };
    #[allow(clippy::cast_possible_truncation, reason = "as the C library's atoi")]
    let wrapped = value as i32;
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_as_qemu_reads_it() {
        let all = Attributes { uid: Some(1), gid: Some(2), mode: Some(0o120_777), rdev: Some(0x801) };
        for (text, attributes) in [
            (&b"virtfs.uid=1\nvirtfs.gid=2\nvirtfs.mode=41471\nvirtfs.rdev=2049\n"[..], all.clone()),
            (b"virtfs.rdev=2049\nvirtfs.mode= 41471x\nvirtfs.gid=+2\nsomething\nvirtfs.uid=1", all),
            (b"", Attributes::default()),
            (b"virtfs.uid=-1\n", Attributes { uid: Some(u32::MAX), ..Attributes::default() }),
            (b"virtfs.uid=4294967294\n", Attributes { uid: Some(u32::MAX - 1), ..Attributes::default() }),
            (b"virtfs.uid\n", Attributes::default()),
            (
                b"virtfs.rdev=-2147483648\n",
                Attributes { rdev: Some(0xffff_ffff_8000_0000), ..Attributes::default() },
            ),
        ] {
            assert_eq!(parse(text), attributes, "{}", text.escape_ascii());
        }
    }
}
