//! Strings off the wire → strings for the kernel.

#![forbid(unsafe_code)]

use std::ffi::CStr;

use nix::errno::Errno;

/// The longest path the kernel takes, its terminator included.
const PATH_MAX: usize = 4096;
/// The longest extended attribute name the kernel takes, and its terminator.
const NAME_MAX: usize = 256;

/// A reusable buffer for one path of the export.
///
/// Whatever the client names, the path that leaves here is absolute: nothing is ever looked up from the
/// working directory.
pub(crate) struct PathBuffer(Box<[u8; PATH_MAX + 1]>);

impl Default for PathBuffer {
    fn default() -> Self {
        Self(Box::new([0; PATH_MAX + 1]))
    }
}

impl PathBuffer {
    /// Takes a path off the wire. An empty one is `ENOENT`, one with a NUL inside `EINVAL`, one that is too long
    /// `ENAMETOOLONG`.
    ///
    /// QEMU counts a terminating NUL as part of the paths that it made itself, and sends it.
    pub(crate) fn set(&mut self, path: &[u8]) -> Result<&CStr, Errno> {
        let path = path.strip_suffix(b"\0").unwrap_or(path);
        let slash = usize::from(path.first() != Some(&b'/'));
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        // Said here: where the kernel gets a path in two parts it would take a longer one.
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        terminate(&mut self.0[..], path, slash).ok_or(Errno::ENAMETOOLONG)?
    }
}

/// A reusable buffer for a string that the kernel takes as it is: a symbolic link's target.
#[derive(Default)]
pub(crate) struct TargetBuffer(PathBuffer);

impl TargetBuffer {
    /// Takes a target off the wire. An empty one is `ENOENT`, one with a NUL `EINVAL`, one that is too long
    /// `ENAMETOOLONG`.
    pub(crate) fn set(&mut self, target: &[u8]) -> Result<&CStr, Errno> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        terminate(&mut self.0.0[..], target, 0).ok_or(Errno::ENAMETOOLONG)?
    }
}

/// A reusable buffer for the name of an extended attribute.
pub(crate) struct NameBuffer([u8; NAME_MAX]);

impl Default for NameBuffer {
    fn default() -> Self {
        Self([0; NAME_MAX])
    }
}

impl NameBuffer {
    /// Takes a name off the wire. One with a NUL is `EINVAL`, an empty one or one that is too long `ERANGE`, as the
    /// kernel has it (and says before it looks at the path).
    pub(crate) fn set(&mut self, name: &[u8]) -> Result<&CStr, Errno> {
        if name.is_empty() {
            return Err(Errno::ERANGE);
        }
        terminate(&mut self.0, name, 0).ok_or(Errno::ERANGE)?
    }
}

/// Writes `text` and a terminator to `buffer`, behind `slash` slashes (0 or 1). `None` where it does not fit.
fn terminate<'b>(buffer: &'b mut [u8], text: &[u8], slash: usize) -> Option<Result<&'b CStr, Errno>> {
    let end = slash + text.len();
    let place = buffer.get_mut(..=end)?;
    place[..slash].fill(b'/');
    place[slash..end].copy_from_slice(text);
    place[end] = 0;
    Some(CStr::from_bytes_with_nul(place).map_err(|_| Errno::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_terminated_and_bounded() {
        let mut buffer = PathBuffer::default();
        for (wire, kernel) in [
            (&b"/"[..], Ok(&b"/"[..])),
            (b"//d/f", Ok(b"//d/f")),
            (b"d/f", Ok(b"/d/f")),
            (b"../etc", Ok(b"/../etc")),
            (b"7", Ok(b"/7")),
            (b"\xff\n", Ok(b"/\xff\n")),
            (b"", Err(Errno::ENOENT)),
            (b"/a\0b", Err(Errno::EINVAL)),
            (b"/a\0", Ok(b"/a")),
            (b"/\0", Ok(b"/")),
            (b"/a\0\0", Err(Errno::EINVAL)),
            (b"\0", Err(Errno::ENOENT)),
        ] {
            assert_eq!(buffer.set(wire).map(CStr::to_bytes), kernel);
        }
        assert_eq!(buffer.set(&[b'/'; 4095]).map(CStr::to_bytes), Ok(&[b'/'; 4095][..]));
        assert_eq!(buffer.set(&[b'/'; 4096]), Err(Errno::ENAMETOOLONG));
        assert_eq!(buffer.set(&vec![b'x'; 65535]), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn attribute_names_are_judged_as_the_kernel_does() {
        let mut buffer = NameBuffer::default();
        assert_eq!(buffer.set(b"user.a").map(CStr::to_bytes), Ok(&b"user.a"[..]));
        assert_eq!(buffer.set(&[b'x'; 255]).map(CStr::count_bytes), Ok(255));
        assert_eq!(buffer.set(&[b'x'; 256]), Err(Errno::ERANGE));
        assert_eq!(buffer.set(b""), Err(Errno::ERANGE));
        assert_eq!(buffer.set(b"user.\0"), Err(Errno::EINVAL));
    }
}
