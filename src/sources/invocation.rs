//! A helper's command line → what it serves, and where.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::share::helper::Helper;
use crate::sources::path_of;

/// The options that take a value, and those that don't: the original's first, for its abbreviations.
const OPTIONS: &[(&str, Option<char>, bool)] = &[
    ("path", Some('p'), true),
    ("fd", Some('f'), true),
    ("socket", Some('s'), true),
    ("uid", Some('u'), true),
    ("gid", Some('g'), true),
    ("nodaemon", Some('n'), false),
    ("help", Some('h'), false),
    ("persistent", None, false),
    ("shared", None, true),
    ("readonly", None, false),
    ("sandbox", None, true),
    ("modcaps", None, true),
    ("rlimit-nofile", None, true),
    ("pid-file", None, true),
    ("syslog", None, false),
    ("log-level", None, true),
    ("seccomp", None, true),
    ("busy-poll", None, true),
];

/// A value of an option, as the command line spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The bytes. What isn't known stands there as the file spells it.
    pub bytes: Vec<u8>,
    /// Which bytes are known.
    pub known: Vec<bool>,
}

/// A helper's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Invocation {
    /// `-p`.
    pub path: Option<Text>,
    /// `-s`.
    pub socket: Option<Text>,
    /// `-f`.
    pub fd: Option<Text>,
    /// `-u`.
    pub uid: Option<Text>,
    /// `-g`.
    pub gid: Option<Text>,
}

impl Text {
    /// Text that is known.
    pub fn certain(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), known: vec![true; bytes.len()] }
    }

    /// The bytes, if all of them are known.
    pub fn all_known(&self) -> Option<&[u8]> {
        self.known.iter().all(|known| *known).then_some(self.bytes.as_slice())
    }

    fn from(&self, at: usize) -> Self {
        Self {
            bytes: self.bytes.get(at..).unwrap_or_default().to_vec(),
            known: self.known.get(at..).unwrap_or_default().to_vec(),
        }
    }

    fn path(&self) -> Option<PathBuf> {
        self.all_known().filter(|bytes| !bytes.is_empty()).map(path_of)
    }
}

/// Whether `program` is the helper.
pub fn is_helper(program: &[u8]) -> bool {
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name == b"virtfs-proxy-helper"
}

/// Finds the helper among the words of a command and reads its options. Commands that only name it (`pgrep`,
/// `systemctl`) are none of its invocations, and neither is this program's `migrate`.
pub fn find(words: &[Text]) -> Option<(usize, Invocation)> {
    let at = words.iter().position(|word| word.all_known().is_some_and(is_helper))?;
    let mut rest = words.get(at + 1..)?;
    if rest.first().is_some_and(|word| word.bytes == b"--") {
        rest = rest.get(1..)?;
    }
    let invocation = parse(rest);
    let connects = invocation.socket.is_some() || invocation.fd.is_some();
    // systemd may hold the socket. Then only the program's own place tells a start from a mention.
    let serves = invocation.path.is_some() && (connects || at == 0);
    serves.then_some((at, invocation))
}

/// Reads options the way `getopt_long` does.
fn parse(words: &[Text]) -> Invocation {
    let mut found = Invocation::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.bytes.as_slice() {
            b"--" => break,
            [b'-', b'-', long @ ..] => {
                let name_length = long.iter().position(|byte| *byte == b'=').unwrap_or(long.len());
                let Some((name, takes)) = long.get(..name_length).and_then(long_option) else { continue };
                let value = if name_length < long.len() {
                    Some(word.from(2 + name_length + 1))
                } else if takes {
                    words.next().cloned()
                } else {
                    None
                };
                found.take(name, value);
            }
            [b'-', short @ ..] if !short.is_empty() => {
                for (at, letter) in short.iter().enumerate() {
                    let known = word.known.get(at + 1).copied().unwrap_or(false);
                    let option = OPTIONS.iter().find(|(_, short, _)| *short == Some(char::from(*letter)));
                    let Some((name, _, takes)) = option.filter(|_| known) else { break };
                    if *takes {
                        let value = if at + 1 < short.len() {
                            Some(word.from(at + 2))
                        } else {
                            words.next().cloned()
                        };
                        found.take(name, value);
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// The long option that `name` is or abbreviates, and whether it takes a value.
fn long_option(name: &[u8]) -> Option<(&'static str, bool)> {
    let exact = OPTIONS.iter().find(|(long, ..)| long.as_bytes() == name);
    let short = || OPTIONS.iter().find(|(long, ..)| !name.is_empty() && long.as_bytes().starts_with(name));
    exact.or_else(short).map(|(long, _, takes)| (*long, *takes))
}

impl Invocation {
    fn take(&mut self, name: &str, value: Option<Text>) {
        let slot = match name {
            "path" => &mut self.path,
            "socket" => &mut self.socket,
            "fd" => &mut self.fd,
            "uid" => &mut self.uid,
            "gid" => &mut self.gid,
            _ => return,
        };
        *slot = value;
    }

    /// The model's form of it. Relative paths stand below `cwd`, where that is known.
    pub fn helper(&self, cwd: Option<&Path>) -> Helper {
        let path = |text: &Option<Text>| {
            let path = text.as_ref()?.path()?;
            Some(match cwd {
                Some(cwd) => cwd.join(path),
                None => path,
            })
        };
        let fd = self.fd.as_ref().and_then(Text::all_known);
        let doubtful = |text: &Text| text.all_known().is_none();
        let template = self.path.as_ref().filter(|path| match &self.socket {
            Some(socket) => doubtful(socket),
            None => doubtful(path),
        });
        Helper {
            export: path(&self.path).as_deref().map(tidy),
            socket: path(&self.socket),
            fd: fd.and_then(|fd| std::str::from_utf8(fd).ok()?.trim().parse().ok()),
            uid: self.uid.as_ref().map(|uid| uid.bytes.clone()),
            gid: self.gid.as_ref().map(|gid| gid.bytes.clone()),
            template: template
                .map(|path| (self.socket.as_ref().map(|socket| socket.bytes.clone()), path.bytes.clone())),
            ..Helper::default()
        }
    }
}

/// A directory without the slashes at its end.
fn tidy(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let length = bytes.iter().rposition(|byte| *byte != b'/').map_or(1.min(bytes.len()), |at| at + 1);
    bytes.get(..length).map_or_else(PathBuf::new, path_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(line: &str) -> Option<Helper> {
        let words: Vec<_> = line.split(' ').map(|word| Text::certain(word.as_bytes())).collect();
        find(&words).map(|(_, invocation)| invocation.helper(None))
    }

    #[test]
    fn options_are_read_the_way_getopt_long_does() {
        for (line, export, socket, fd) in [
            ("virtfs-proxy-helper -p /srv -s /run/x -u 0 -g 0", "/srv", Some("/run/x"), None),
            ("/usr/lib/qemu/virtfs-proxy-helper -np /srv -f3", "/srv", None, Some(3)),
            ("sudo virtfs-proxy-helper --nodaemon --fd 3 --path /srv/", "/srv", None, Some(3)),
            ("virtfs-proxy-helper --pa=/srv --so /run/x", "/srv", Some("/run/x"), None),
            ("start-stop-daemon --exec virtfs-proxy-helper -- -p / -s /x", "/", Some("/x"), None),
            ("/usr/lib/qemu/virtfs-proxy-helper -n -p /srv -u 0 -g 0", "/srv", None, None),
        ] {
            let helper = helper(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(helper.export.as_deref(), Some(Path::new(export)), "{line}");
            assert_eq!(helper.socket.as_deref(), socket.map(Path::new), "{line}");
            assert_eq!(helper.fd, fd, "{line}");
        }
    }

    #[test]
    fn a_mention_is_no_invocation() {
        for line in [
            "pgrep -f virtfs-proxy-helper",
            "systemctl stop virtfs-proxy-helper",
            "./configure --enable-virtfs-proxy-helper -p /x -s /y",
            "virtfs-proxy-helper migrate audit",
            "pgrep -f virtfs-proxy-helper -p /srv",
        ] {
            assert_eq!(helper(line), None, "{line}");
        }
    }
}
