//! What a command line says of an export.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::Role;
use crate::cli::Cli;

/// What a process is, and whether its command line (words that end with NUL) names the export, a directory around
/// it or one in it. A name is the kernel's, cut after 15 bytes.
pub fn role(command: &[u8], name: &[u8], export: &Path) -> (Role, bool) {
    let words: Vec<&OsStr> = command
        .strip_suffix(b"\0")
        .unwrap_or(command)
        .split(|&byte| byte == 0)
        .map(OsStr::from_bytes)
        .collect();
    let program = words.first().and_then(|word| Path::new(word).file_name()).unwrap_or_default().as_bytes();
    let called = |prefix: &str| program.starts_with(prefix.as_bytes()) || name.starts_with(prefix.as_bytes());
    if called("virtfs-proxy-he") && !migrates(&words) {
        let overlaps = |path: PathBuf| overlap(&resolved(&path), export);
        (Role::Helper, served(&words).is_some_and(overlaps))
    } else if called("qemu-system") || called("qemu-kvm") || program == b"kvm" || name == b"kvm" {
        let named = words.iter().flat_map(|word| paths(word.as_bytes()));
        (Role::Qemu, named.map(|path| resolved(&path)).any(|path| overlap(&path, export)))
    } else {
        (Role::Other, false)
    }
}

/// Whether a helper's program is at work on a migration instead.
fn migrates(words: &[&OsStr]) -> bool {
    Cli::try_parse_from(words).is_ok_and(|cli| cli.command.is_some())
}

/// What a helper's command line says it exports.
fn served(words: &[&OsStr]) -> Option<PathBuf> {
    if let Ok(cli) = Cli::try_parse_from(words) {
        return cli.helper.path;
    }
    // An option that we don't know must not hide the one that counts.
    let at = words.iter().position(|word| *word == "-p" || *word == "--path")?;
    words.get(at + 1).map(PathBuf::from)
}

/// The directories that a word of QEMU's command line exports: `local,path=/srv,…`, commas doubled in values.
fn paths(word: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut rest = word;
    while let Some(at) = rest.windows(5).position(|window| window == b"path=") {
        let starts = at == 0 || matches!(rest.get(at - 1), Some(b','));
        rest = rest.get(at + 5..).unwrap_or_default();
        if starts {
            found.push(PathBuf::from(OsStr::from_bytes(&value(rest))));
        }
    }
    found
}

/// The value at the front of an option string: up to a single comma.
fn value(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            break;
        }
        out.push(byte);
    }
    out
}

/// A path free of symbolic links where it exists; as it stands otherwise.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// Whether one of two directories holds the other, or they are the same. The root directory holds everything and
/// says nothing.
fn overlap(path: &Path, export: &Path) -> bool {
    path.is_absolute() && (path.starts_with(export) || (export.starts_with(path) && path != Path::new("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_tell_helpers_and_qemus_with_the_export() {
        for (command, expected) in [
            ("/usr/lib/qemu/virtfs-proxy-helper -p /srv/x -s /run/s -u 1 -g 1", (Role::Helper, true)),
            ("virtfs-proxy-helper --path=/srv/x --fd 3", (Role::Helper, true)),
            ("virtfs-proxy-helper -np /srv/x/sub -f 3", (Role::Helper, true)),
            ("virtfs-proxy-helper -p /srv -f 3", (Role::Helper, true)),
            ("virtfs-proxy-helper -p /srv/xother -f 3", (Role::Helper, false)),
            ("virtfs-proxy-helper --no-such-option -p /srv/x", (Role::Helper, true)),
            ("qemu-system-x86_64 -fsdev local,id=f,path=/srv/x,security_model=none", (Role::Qemu, true)),
            ("qemu-system-x86_64 -virtfs local,path=/srv/x/sub,mount_tag=t", (Role::Qemu, true)),
            ("qemu-system-x86_64 -fsdev local,id=f,path=/srv/x,,y", (Role::Qemu, false)),
            ("qemu-system-x86_64 -fsdev proxy,id=f,socket=/run/s", (Role::Qemu, false)),
            ("qemu-system-x86_64 -chardev pipe,id=c,mypath=/srv/x", (Role::Qemu, false)),
            ("/usr/bin/kvm -fsdev local,path=/srv/x", (Role::Qemu, true)),
            ("virtfs-proxy-helper migrate manifest /srv/x", (Role::Other, false)),
            ("less /srv/x/file", (Role::Other, false)),
        ] {
            let words = command.replace(' ', "\0") + "\0";
            assert_eq!(role(words.as_bytes(), b"", Path::new("/srv/x")), expected, "{command}");
        }
    }

    #[test]
    fn a_renamed_process_is_known_by_the_kernels_name() {
        assert_eq!(role(b"x\0-p\0/srv/x\0", b"virtfs-proxy-he", Path::new("/srv/x")), (Role::Helper, true));
        assert_eq!(role(b"", b"", Path::new("/srv/x")), (Role::Other, false));
    }

    #[test]
    fn commas_in_values_are_doubled() {
        assert_eq!(value(b"/a,,b,c"), b"/a,b");
        assert_eq!(value(b"/a,,,c"), b"/a,");
        assert_eq!(value(b""), b"");
    }
}
