//! A helper's command line and environment → what it serves, and where.
//!
//! The command line is another program's: it is read here by a table, never by this program's own parser, which would
//! fill in what *this* process's environment says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::helper::Helper;

/// The helper's options: name, short name, whether it takes a value. The original's come first, for its abbreviations.
pub(crate) const OPTIONS: &[(&str, Option<char>, bool)] = &[
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
    ("idle-timeout", None, true),
    ("rlimit-nofile", None, true),
    ("pid-file", None, true),
    ("syslog", None, false),
    ("log-level", None, true),
    ("seccomp", None, true),
    ("strict", None, false),
    ("busy-poll", None, true),
];

/// The variables that stand for options, as the image sets them.
const VARIABLES: &[(&str, &str)] = &[
    ("VIRTFS_PATH", "path"),
    ("VIRTFS_SOCKET", "socket"),
    ("VIRTFS_FD", "fd"),
    ("VIRTFS_UID", "uid"),
    ("VIRTFS_GID", "gid"),
];

/// Subcommands of this program: a process that runs one of them serves nothing.
const VERBS: &[&[u8]] = &[b"migrate", b"healthcheck", b"help"];

/// A value of an option, as the command line spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// The bytes. What isn't known stands there as the file spells it.
    pub bytes: Vec<u8>,
    /// Which bytes are known.
    pub known: Vec<bool>,
}

/// A helper's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Invocation {
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
    /// The subcommand, where there is one: then nothing is served.
    verb: Option<Vec<u8>>,
}

impl Text {
    /// Text that is known.
    pub(crate) fn certain(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), known: vec![true; bytes.len()] }
    }

    /// The bytes, if all of them are known.
    pub(crate) fn all_known(&self) -> Option<&[u8]> {
        self.known.iter().all(|known| *known).then_some(self.bytes.as_slice())
    }

    /// The part from the byte `at` on.
    #[must_use]
    pub(crate) fn from(&self, at: usize) -> Self {
        Self {
            bytes: self.bytes.get(at..).unwrap_or_default().to_vec(),
            known: self.known.get(at..).unwrap_or_default().to_vec(),
        }
    }

    /// Whether it is the helper's path. The folder need not be known: `${pkgs.qemu}/bin/virtfs-proxy-helper`.
    fn is_helper(&self) -> bool {
        let folder = self.bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        is_helper(&self.bytes) && self.known.iter().skip(folder).all(|known| *known)
    }

    fn path(&self) -> Option<PathBuf> {
        self.all_known().filter(|bytes| !bytes.is_empty()).map(path_of)
    }
}

/// Whether `program` is the helper.
pub(crate) fn is_helper(program: &[u8]) -> bool {
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name == b"virtfs-proxy-helper"
}

/// Finds the helper among the words of a command and reads its options. Commands that only name it (`pgrep`,
/// `systemctl`) are none of its invocations, and neither is this program's `migrate`.
pub(crate) fn find(words: &[Text]) -> Option<(usize, Invocation)> {
    let at = words.iter().position(Text::is_helper)?;
    let mut rest = words.get(at + 1..)?;
    if rest.first().is_some_and(|word| word.bytes == b"--") {
        rest = rest.get(1..)?;
    }
    let invocation = parse(rest);
    if invocation.verb.is_some() {
        return None;
    }
    let connects = invocation.socket.is_some() || invocation.fd.is_some();
    // systemd may hold the socket. Then only the program's own place tells a start from a mention.
    let serves = invocation.path.is_some() && (connects || at == 0);
    serves.then_some((at, invocation))
}

/// The options of a helper that is known to be one: its arguments without the program's name. `None` where they name a
/// subcommand.
pub(crate) fn of_words(words: &[Text]) -> Option<Invocation> {
    Some(parse(words)).filter(|found| found.verb.is_none())
}

/// A running helper's options: its arguments without the program's name, and its environment (`NAME=VALUE`, each ended
/// by a NUL, as in /proc/PID/environ). `None` for a process that runs a subcommand.
pub(crate) fn of_process<'a>(
    arguments: impl IntoIterator<Item = &'a [u8]>,
    environment: &[u8],
) -> Option<Invocation> {
    let words: Vec<_> = arguments.into_iter().map(Text::certain).collect();
    let mut found = of_words(&words)?;
    found.fill_in(|name| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|one| one.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).map(Text::certain)
    });
    Some(found)
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
            positional => {
                if found.verb.is_none() && VERBS.contains(&positional) {
                    found.verb = Some(positional.to_vec());
                }
            }
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

    /// Takes what the command line leaves open from variables of the environment.
    pub(crate) fn fill_in(&mut self, variable: impl Fn(&str) -> Option<Text>) {
        // The command line wins: with one of `-s` and `-f` on it, neither variable counts.
        let connected = self.socket.is_some() || self.fd.is_some();
        for (name, option) in VARIABLES {
            let given = match *option {
                "path" => self.path.is_some(),
                "uid" => self.uid.is_some(),
                "gid" => self.gid.is_some(),
                _ => connected,
            };
            if let Some(value) =
                (!given).then(|| variable(name)).flatten().filter(|value| !value.bytes.is_empty())
            {
                self.take(option, Some(value));
            }
        }
    }

    /// The model's form of it. Relative paths stand below `cwd`, where that is known.
    pub(crate) fn helper(&self, cwd: Option<&Path>) -> Helper {
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

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
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
    fn the_environment_stands_for_options_that_the_command_line_leaves_out() {
        let environment =
            b"HOME=/\0VIRTFS_PATH=/export\0VIRTFS_SOCKET=/run/virtfs/helper.sock\0VIRTFS_UID=107\0";
        for (line, export, socket, fd) in [
            ("", "/export", Some("/run/virtfs/helper.sock"), None),
            ("--readonly", "/export", Some("/run/virtfs/helper.sock"), None),
            ("-p /srv", "/srv", Some("/run/virtfs/helper.sock"), None),
            ("--socket=/run/a", "/export", Some("/run/a"), None),
            ("--fd 3", "/export", None, Some(3)),
        ] {
            let words = line.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes);
            let helper = of_process(words, environment).unwrap_or_else(|| panic!("{line}")).helper(None);
            assert_eq!(helper.export.as_deref(), Some(Path::new(export)), "{line}");
            assert_eq!(helper.socket.as_deref(), socket.map(Path::new), "{line}");
            assert_eq!(helper.fd, fd, "{line}");
            assert_eq!(helper.uid.as_deref(), Some(&b"107"[..]), "{line}");
        }
        for verb in
            ["migrate check /srv", "--log-level debug migrate audit", "healthcheck", "-p /x migrate audit"]
        {
            assert_eq!(of_process(verb.split(' ').map(str::as_bytes), environment), None, "{verb}");
        }
    }

    #[test]
    fn a_mention_is_no_invocation() {
        for line in [
            "pgrep -f virtfs-proxy-helper",
            "systemctl stop virtfs-proxy-helper",
            "./configure --enable-virtfs-proxy-helper -p /x -s /y",
            "virtfs-proxy-helper migrate audit",
            "virtfs-proxy-helper -p /srv -f 3 migrate audit",
            "pgrep -f virtfs-proxy-helper -p /srv",
        ] {
            assert_eq!(helper(line), None, "{line}");
        }
    }
}
