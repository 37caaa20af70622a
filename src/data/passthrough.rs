//! A passthrough tree: every entry is what it is.

use rustix::io::Result;

use super::entry::{Entry, Kind};
use super::pin::Pin;

/// The entry of an inode.
pub(crate) fn read(pin: &Pin) -> Result<Entry> {
    let mut entry = Entry::of(pin.inode());
    if entry.kind() == Some(Kind::Symlink) {
        entry.target = Some(pin.target()?);
    }
    for name in pin.xattr_names()?.iter() {
        if let Some(value) = pin.xattr(name)? {
            entry.push_xattr(name.to_bytes(), value);
        }
    }
    Ok(entry)
}
