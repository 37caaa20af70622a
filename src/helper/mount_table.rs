//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)): which mounts a process sees.

#![forbid(unsafe_code)]

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its number, which no other mount has at the same time.
    pub id: u64,
    /// The file system's device, `major:minor`.
    pub device: Vec<u8>,
    /// The directory or file of the file system that is the root of this mount.
    pub root: Vec<u8>,
    /// Where it is mounted.
    pub point: Vec<u8>,
    /// Those of the attributes nodev, nosuid, noexec and ro that it has (`MOUNT_ATTR_*`).
    pub attributes: u64,
    /// Whether what is mounted on it is propagated to other mounts.
    pub shared: bool,
}

impl Mount {
    /// Whether this is a mount of the same directory or file of the same file system as `other`.
    pub(crate) fn shows_same(&self, other: &Self) -> bool {
        self.device == other.device && self.root == other.root
    }

    /// Its mount point as a path below `base`, without a leading slash; empty for `base` itself. None where it is
    /// elsewhere.
    pub(crate) fn below<'m>(&'m self, base: &[u8]) -> Option<&'m [u8]> {
        let base = base.strip_suffix(b"/").unwrap_or(base);
        match self.point.strip_prefix(base)? {
            [b'/', rest @ ..] => Some(rest),
            [] => Some(&[]),
            _ => None,
        }
    }
}

/// Reads the table; leaves out lines that it does not understand.
pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = fields.next()?.to_vec();
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    let attributes = fields.next()?.split(|&byte| byte == b',').map(attribute).sum();
    let shared = fields.take_while(|field| *field != b"-").any(|field| field.starts_with(b"shared:"));
    Some(Mount { id, device, root, point, attributes, shared })
}

fn attribute(option: &[u8]) -> u64 {
    match option {
        b"nodev" => libc::MOUNT_ATTR_NODEV,
        b"nosuid" => libc::MOUNT_ATTR_NOSUID,
        b"noexec" => libc::MOUNT_ATTR_NOEXEC,
        b"ro" => libc::MOUNT_ATTR_RDONLY,
        _ => 0,
    }
}

/// A path, whose spaces, tabs, line ends and backslashes the kernel writes as `\` and three octal digits.
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(text.len());
    while let [first, rest @ ..] = text {
        let escaped = match text {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        path.push(escaped.unwrap_or(*first));
        text = if escaped.is_some() { &text[4..] } else { rest };
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_mount() {
        let text =
            b"36 35 98:0 /mnt1 /a\\040b\\134c rw,nodev,noatime shared:1 master:2 - ext3 /dev/root rw\n\
            37 36 0:5 / /x ro,nosuid,noexec - tmpfs shared:9 rw\nnonsense\n";
        let mounts = parse(text);
        assert_eq!(
            mounts,
            [
                Mount {
                    id: 36,
                    device: b"98:0".to_vec(),
                    root: b"/mnt1".to_vec(),
                    point: b"/a b\\c".to_vec(),
                    attributes: libc::MOUNT_ATTR_NODEV,
                    shared: true,
                },
                Mount {
                    id: 37,
                    device: b"0:5".to_vec(),
                    root: b"/".to_vec(),
                    point: b"/x".to_vec(),
                    attributes: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
                    shared: false,
                },
            ]
        );
    }

    #[test]
    fn a_mount_point_is_below_a_base() {
        for (point, base, below) in [
            (b"/srv/export/a/b".as_slice(), b"/srv/export".as_slice(), Some(b"a/b".as_slice())),
            (b"/srv/export", b"/srv/export", Some(b"")),
            (b"/srv/export2", b"/srv/export", None),
            (b"/srv", b"/srv/export", None),
            (b"/a", b"/", Some(b"a")),
            (b"/", b"/", Some(b"")),
        ] {
            let line = [b"1 2 0:3 / ", point, b" rw - tmpfs none rw"].concat();
            let mount = parse_line(&line).unwrap();
            assert_eq!(mount.below(base), below);
        }
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic() {
        for length in 0..40 {
            let line = b"1 2 0:3 \\04 /\\777\\ rw,,ro - a b c d e f g h";
            parse(&line[..length]);
        }
    }
}
