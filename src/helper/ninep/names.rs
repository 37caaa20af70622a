//! Names of files off the wire: one component each, never a way.

#![forbid(unsafe_code)]

use std::ffi::CStr;

use nix::errno::Errno;

/// The longest name of a file, without its terminator.
const NAME_MAX: usize = 255;

/// One name, terminated.
pub(crate) struct Name {
    bytes: [u8; NAME_MAX + 1],
    length: usize,
}

impl Name {
    /// Takes a name off the wire. `ENOENT` for an empty one or one with a slash or NUL, which no file has; `ENAMETOOLONG` for one that is
    /// too long. `.` and `..` are not for this: the callers say what they are there.
    pub(crate) fn of(name: &[u8]) -> Result<Self, Errno> {
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Err(Errno::ENOENT);
        }
        let mut bytes = [0; NAME_MAX + 1];
        let place = bytes.get_mut(..name.len()).filter(|it| it.len() <= NAME_MAX);
        place.ok_or(Errno::ENAMETOOLONG)?.copy_from_slice(name);
        Ok(Self { bytes, length: name.len() })
    }

    /// Takes the name of what is to be made: `EEXIST` for `.` and `..`.
    pub(crate) fn of_new(name: &[u8]) -> Result<Self, Errno> {
        if is_dots(name) { Err(Errno::EEXIST) } else { Self::of(name) }
    }

    /// Takes the name of what is to be renamed or removed: `EBUSY` for `.` and `..`.
    pub(crate) fn of_changed(name: &[u8]) -> Result<Self, Errno> {
        if is_dots(name) { Err(Errno::EBUSY) } else { Self::of(name) }
    }

    /// For the kernel.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.bytes[..=self.length]).unwrap_or(c"")
    }
}

/// Whether a name is `.` or `..`.
pub(crate) fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}
