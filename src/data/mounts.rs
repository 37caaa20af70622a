//! What is mounted where: `/proc/PID/mountinfo`, and where in its filesystem a directory lies.
//!
//! A path alone does not say which file it names: a bind mount, another mount namespace and a chroot each show the
//! same file under another one. A [`Location`], the filesystem and the path within it, is the same for all.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its number, unique on this machine while it lasts.
    pub id: u64,
    /// The filesystem, as `major:minor`.
    pub device: Vec<u8>,
    /// Which directory (or file) of the filesystem is mounted.
    pub root: PathBuf,
    /// Where, as the process whose list this is sees it.
    pub point: PathBuf,
    /// The mount's own options: `rw,nosuid`.
    pub options: Vec<u8>,
    /// The filesystem's type: `ext4`.
    pub kind: Vec<u8>,
    /// What is mounted, as the filesystem calls it: `/dev/vda1`.
    pub source: Vec<u8>,
    /// The filesystem's options: `rw,usrquota`.
    pub filesystem_options: Vec<u8>,
}

impl Mount {
    /// Reads one line of mountinfo; proc_pid_mountinfo(5) has its fields.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = number(fields.next()?)?;
        let device = fields.nth(1)?.to_vec();
        let root = path(fields.next()?);
        let point = path(fields.next()?);
        let options = fields.next()?.to_vec();
        // Any number of tags such as `shared:1` come before the dash.
        fields.find(|&field| field == b"-")?;
        let kind = unescape(fields.next()?);
        let source = unescape(fields.next()?);
        let filesystem_options = fields.next()?.to_vec();
        Some(Self { id, device, root, point, options, kind, source, filesystem_options })
    }

    /// Whether an option is among the mount's own or the filesystem's.
    pub(crate) fn has_option(&self, name: &str) -> bool {
        let among = |list: &[u8]| list.split(|&byte| byte == b',').any(|option| option == name.as_bytes());
        among(&self.options) || among(&self.filesystem_options)
    }

    /// The value of an option of the filesystem's, escaped as the kernel escapes it.
    pub(crate) fn filesystem_option(&self, name: &str) -> Option<&[u8]> {
        self.filesystem_options
            .split(|&byte| byte == b',')
            .find_map(|option| option.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }

    /// Where in its filesystem the file lies that is at `path` through this mount; `None` where it is not below it.
    pub(crate) fn locate(&self, path: &Path) -> Option<Location> {
        let within = path.strip_prefix(&self.point).ok()?;
        // Joining an empty path would add a slash.
        let path = if within.as_os_str().is_empty() { self.root.clone() } else { self.root.join(within) };
        Some(Location { device: self.device.clone(), path })
    }
}

/// Where a file lies, whatever it is called by: its filesystem and its path from that one's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    /// The filesystem, as mountinfo's `major:minor`.
    pub device: Vec<u8>,
    /// The path within.
    pub path: PathBuf,
}

impl Location {
    /// The path from `self` to `other`, where that is the same file or below it.
    pub(crate) fn way_to<'a>(&self, other: &'a Location) -> Option<&'a Path> {
        if self.device == other.device { other.path.strip_prefix(&self.path).ok() } else { None }
    }
}

/// Every mount that a process sees, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mounts(Vec<Mount>);

impl Mounts {
    /// This process's own.
    pub(crate) fn own() -> anyhow::Result<Self> {
        let path = "/proc/self/mountinfo";
        let text = std::fs::read(path).with_context(|| format!("reading {path}: is /proc mounted?"))?;
        Ok(Self::parse(&text))
    }

    /// Another process's.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read(format!("/proc/{pid}/mountinfo"))?))
    }

    /// Reads a list of mounts; a line that makes no sense is left out.
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self(text.split(|&byte| byte == b'\n').filter_map(Mount::parse).collect())
    }

    /// The same mounts with the points that they have from the namespace's root, where this list is that of a process whose
    /// root directory is at `root` there.
    #[must_use]
    pub(crate) fn seen_from_outside(mut self, root: &Path) -> Self {
        for mount in &mut self.0 {
            let within = mount.point.strip_prefix("/").unwrap_or(&mount.point);
            // Joining an empty path would add a slash.
            mount.point = if within.as_os_str().is_empty() { root.into() } else { root.join(within) };
        }
        self
    }

    /// The mount of this number.
    pub(crate) fn by_id(&self, id: u64) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == id)
    }

    /// The mount that shows what is at `path`, which is absolute and free of symbolic links.
    pub(crate) fn showing(&self, path: &Path) -> Option<&Mount> {
        // Of two mounts at one point, the later one covers the earlier.
        self.0
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .reduce(|best, next| if next.point.starts_with(&best.point) { next } else { best })
    }

    /// The mounts whose points are below `path`, `path` itself left out.
    pub(crate) fn below(&self, path: &Path) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(move |mount| mount.point != path && mount.point.starts_with(path))
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }
}

/// The number of the mount through which a descriptor was opened.
pub(crate) fn mount_id(file: impl AsFd) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
    mount_id_of(&std::fs::read(path)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The number of the mount that an `fdinfo` file's text names.
pub(crate) fn mount_id_of(fdinfo: &[u8]) -> Option<u64> {
    fdinfo.split(|&byte| byte == b'\n').find_map(|line| number(line.strip_prefix(b"mnt_id:")?.trim_ascii()))
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

/// Takes back the kernel's `\ooo` for blanks, tabs, newlines, backslashes and number signs.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = match after {
            [a, b, c, ..] if byte == b'\\' => octal([*a, *b, *c]),
            _ => None,
        };
        out.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    out
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    digits.iter().try_fold(0u8, |value, &digit| {
        let digit = char::from(digit).to_digit(8)?;
        value.checked_mul(8)?.checked_add(u8::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: &[u8] = b"21 1 254:0 / / rw,relatime - ext4 /dev/vda rw,usrquota\n\
        30 21 0:25 / /srv rw,nosuid shared:7 master:2 - tmpfs none rw,size=4k\n\
        31 30 254:0 /data/one\\040two /srv/a\\134b ro - ext4 /dev/vda rw\n\
        32 21 0:26 / /srvother rw - tmpfs none rw\n\
        nonsense\n";

    #[test]
    fn the_mounts_of_a_chroot_are_told_from_the_namespaces_root() {
        for (root, points) in [
            ("/", ["/", "/srv", r"/srv/a\b", "/srvother"]),
            ("/x/y", ["/x/y", "/x/y/srv", r"/x/y/srv/a\b", "/x/y/srvother"]),
        ] {
            let mounts = Mounts::parse(LIST).seen_from_outside(Path::new(root));
            let found: Vec<_> = mounts.iter().map(|mount| mount.point.as_os_str().to_owned()).collect();
            assert_eq!(found, points);
        }
    }

    #[test]
    fn lines_become_mounts_and_nonsense_is_left_out() {
        let mounts = Mounts::parse(LIST);
        assert_eq!(mounts.iter().map(|mount| mount.id).collect::<Vec<_>>(), [21, 30, 31, 32]);
        let bound = mounts.by_id(31).unwrap();
        assert_eq!(bound.root, Path::new("/data/one two"));
        assert_eq!(bound.point, Path::new(r"/srv/a\b"));
        assert!(bound.has_option("ro"));
        assert!(mounts.by_id(21).unwrap().has_option("usrquota"));
        assert!(!mounts.by_id(21).unwrap().has_option("quota"));
    }

    #[test]
    fn the_innermost_mount_shows_a_path() {
        let mounts = Mounts::parse(LIST);
        for (path, id) in [
            ("/", 21),
            ("/home", 21),
            ("/srv", 30),
            ("/srv/x", 30),
            (r"/srv/a\b/x", 31),
            ("/srvother/x", 32),
            ("/srvo", 21),
        ] {
            assert_eq!(mounts.showing(Path::new(path)).map(|mount| mount.id), Some(id), "{path}");
        }
    }

    #[test]
    fn one_file_has_one_location_by_every_name() {
        let mounts = Mounts::parse(LIST);
        let at = |path: &str| mounts.showing(Path::new(path)).unwrap().locate(Path::new(path)).unwrap();
        assert_eq!(at(r"/srv/a\b/x"), at("/data/one two/x"));
        assert_eq!(at(r"/srv/a\b").way_to(&at("/data/one two/x")), Some(Path::new("x")));
        assert_eq!(at("/data/one two").way_to(&at("/data/one twox")), None);
        assert_eq!(at("/srv/x").way_to(&at("/srvother/x")), None);
    }

    #[test]
    fn only_what_lies_below_is_below() {
        let mounts = Mounts::parse(LIST);
        let below = |path: &str| mounts.below(Path::new(path)).map(|mount| mount.id).collect::<Vec<_>>();
        assert_eq!(below("/srv"), [31]);
        assert_eq!(below("/"), [30, 31, 32]);
    }

    #[test]
    fn a_descriptor_tells_its_mount() {
        let root = std::fs::File::open("/proc").unwrap();
        let id = mount_id(&root).unwrap();
        assert_eq!(Mounts::own().unwrap().by_id(id).map(|mount| mount.kind.clone()), Some(b"proc".to_vec()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Mounts::parse(&bytes);
        }

        #[test]
        fn the_kernels_escapes_are_taken_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut escaped = Vec::new();
            for &byte in &bytes {
                if matches!(byte, b' ' | b'\t' | b'\n' | b'\\' | b'#') {
                    escaped.extend(format!("\\{byte:03o}").into_bytes());
                } else {
                    escaped.push(byte);
                }
            }
            prop_assert_eq!(unescape(&escaped), bytes);
        }
    }
}
