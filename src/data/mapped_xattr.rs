//! `security_model=mapped-xattr`: what the guest sees is kept in `user.virtfs.*` attributes of each inode.
//!
//! An attribute that is absent lets the real value show through. A symbolic link is a regular file with its target as
//! content; a device, a FIFO and a socket are empty regular files.

use std::ffi::{CStr, CString};

use rustix::io::Result;

use super::entry::{ACCESS_ACL, DEFAULT_ACL, Entry, Kind};
use super::pin::Pin;

/// The owner: 32 bits, little-endian.
pub(crate) const UID: &CStr = c"user.virtfs.uid";
/// The group: 32 bits, little-endian.
pub(crate) const GID: &CStr = c"user.virtfs.gid";
/// The mode with its type bits: 32 bits, little-endian.
pub(crate) const MODE: &CStr = c"user.virtfs.mode";
/// The device number: 64 bits, little-endian.
pub(crate) const RDEV: &CStr = c"user.virtfs.rdev";
/// The access ACL, as `system.posix_acl_access` has it.
pub(crate) const MAPPED_ACCESS_ACL: &CStr = c"user.virtfs.system.posix_acl_access";
/// The default ACL, as `system.posix_acl_default` has it.
pub(crate) const MAPPED_DEFAULT_ACL: &CStr = c"user.virtfs.system.posix_acl_default";

/// What every name starts with that the guest never sees.
const HIDDEN: &[u8] = b"user.virtfs.";

/// The longest target of a symbolic link that QEMU reads.
pub(super) const LONGEST_TARGET: usize = 4096;

/// The attributes of one inode that this model reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// [`UID`].
    pub uid: Option<u32>,
    /// [`GID`].
    pub gid: Option<u32>,
    /// [`MODE`].
    pub mode: Option<u32>,
    /// [`RDEV`].
    pub rdev: Option<u64>,
}

impl Attributes {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What the guest sees through them.
    pub(super) fn apply(&self, entry: &mut Entry) {
        entry.uid = self.uid.unwrap_or(entry.uid);
        entry.gid = self.gid.unwrap_or(entry.gid);
        entry.mode = self.mode.unwrap_or(entry.mode);
        entry.rdev =
            if entry.kind().is_some_and(Kind::is_device) { self.rdev.unwrap_or(entry.rdev) } else { 0 };
    }
}

/// The entry of an inode.
pub(crate) fn read(pin: &Pin) -> Result<Entry> {
    let (attributes, mut entry) = read_attributes(pin)?;
    attributes.apply(&mut entry);
    if entry.kind() == Some(Kind::Symlink) {
        entry.target = target(pin)?;
    }
    Ok(entry)
}

/// The attributes of an inode apart, and what the guest would see without them.
pub(crate) fn read_attributes(pin: &Pin) -> Result<(Attributes, Entry)> {
    let mut entry = Entry::of(pin.inode());
    let mut attributes = Attributes::default();
    for name in pin.xattr_names()?.iter() {
        let raw = name.to_bytes();
        // A real ACL's name is listed for the guest, but it can't read the value.
        if !raw.starts_with(b"user.") {
            continue;
        }
        let Some(value) = pin.xattr(name)? else { continue };
        match name {
            _ if name == UID => attributes.uid = number(&value),
            _ if name == GID => attributes.gid = number(&value),
            _ if name == MODE => attributes.mode = number(&value),
            _ if name == RDEV => attributes.rdev = value.try_into().ok().map(u64::from_le_bytes),
            _ if name == MAPPED_ACCESS_ACL => entry.push_xattr(ACCESS_ACL, value),
            _ if name == MAPPED_DEFAULT_ACL => entry.push_xattr(DEFAULT_ACL, value),
            _ if raw.starts_with(HIDDEN) => {}
            _ => entry.push_xattr(raw, value),
        }
    }
    Ok((attributes, entry))
}

/// A number of 32 bits; one of another length is damaged and says nothing.
fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_le_bytes)
}

/// The target of what stands for a symbolic link: its content, up to the first NUL. A real one is not read.
pub(super) fn target(pin: &Pin) -> Result<Option<Vec<u8>>> {
    if pin.inode().kind() != Some(Kind::File) {
        return Ok(None);
    }
    let mut content = pin.content(LONGEST_TARGET)?;
    if let Some(end) = content.iter().position(|&byte| byte == 0) {
        content.truncate(end);
    }
    Ok(Some(content))
}

/// What a guest sees of a regular file or a directory that was recorded with mapped attributes; `None` where it had none.
///
/// A symbolic link's target is the file's content, which was not recorded.
pub(crate) fn adopted(entry: &Entry) -> Option<Entry> {
    let value = |name: &CStr| {
        entry.xattrs.iter().find(|(other, _)| other == name.to_bytes()).map(|(_, value)| value.clone())
    };
    let short = |name| value(name).and_then(|value| number(&value));
    let rdev = value(RDEV).and_then(|value| value.try_into().ok()).map(u64::from_le_bytes);
    let attributes = Attributes { uid: short(UID), gid: short(GID), mode: short(MODE), rdev };
    let acls = (value(MAPPED_ACCESS_ACL), value(MAPPED_DEFAULT_ACL));
    if attributes.is_empty() && acls == (None, None) {
        return None;
    }
    let mut shown = entry.clone();
    attributes.apply(&mut shown);
    shown.access_acl = acls.0.or(shown.access_acl);
    shown.default_acl = acls.1.or(shown.default_acl);
    Some(shown)
}

/// Lets the guest see `entry` at an inode, whatever the inode itself becomes. `known` are attributes that the inode is
/// known to have already.
pub(crate) fn write(pin: &Pin, entry: &Entry, known: &Attributes) -> Result<()> {
    if known.uid != Some(entry.uid) {
        pin.set_xattr(UID, &entry.uid.to_le_bytes())?;
    }
    if known.gid != Some(entry.gid) {
        pin.set_xattr(GID, &entry.gid.to_le_bytes())?;
    }
    // Last of the three: few modes are different, so that file systems which keep equal attributes once (ext4) do.
    if known.mode != Some(entry.mode) {
        pin.set_xattr(MODE, &entry.mode.to_le_bytes())?;
    }
    if entry.kind().is_some_and(Kind::is_device) && known.rdev != Some(entry.rdev) {
        pin.set_xattr(RDEV, &entry.rdev.to_le_bytes())?;
    }
    for (name, acl) in [(MAPPED_ACCESS_ACL, &entry.access_acl), (MAPPED_DEFAULT_ACL, &entry.default_acl)] {
        if let Some(acl) = acl
            && (known.is_empty() || pin.xattr(name)?.as_ref() != Some(acl))
        {
            pin.set_xattr(name, acl)?;
        }
    }
    Ok(())
}

/// Takes everything away from an inode that this model reads: the guest sees what it really is.
pub(crate) fn remove(pin: &Pin) -> Result<()> {
    for name in pin.xattr_names()?.iter() {
        if [UID, GID, MODE, RDEV, MAPPED_ACCESS_ACL, MAPPED_DEFAULT_ACL].contains(&name) {
            pin.remove_xattr(name)?;
        }
    }
    Ok(())
}

/// Whether the guest sees an attribute of this name as it is.
pub(crate) fn is_passed(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(HIDDEN)
}

/// Whether an inode has any attribute that this model reads.
pub(crate) fn is_carried(pin: &Pin) -> Result<bool> {
    let names = pin.xattr_names()?;
    Ok(names.iter().any(|name| [UID, GID, MODE, RDEV, MAPPED_ACCESS_ACL, MAPPED_DEFAULT_ACL].contains(&name)))
}

/// An attribute's name, for the kernel. One that the kernel gave has no NUL inside.
pub(super) fn name(name: &[u8]) -> CString {
    CString::new(name).unwrap_or_default()
}
