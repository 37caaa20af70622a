//! What a process is, and which directories its command line and environment name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::user::Role;
use crate::share::invocation;

/// What a process is, and the directories that it serves or exports, as the process itself names them. `command`:
/// /proc/PID/cmdline; `environment`: /proc/PID/environ; `name`: the kernel's name for it, cut after 15 bytes.
pub(super) fn role(command: &[u8], environment: &[u8], name: &[u8]) -> (Role, Vec<PathBuf>) {
    let words: Vec<&[u8]> = command.strip_suffix(b"\0").unwrap_or(command).split(|&byte| byte == 0).collect();
    let first = words.first().copied().unwrap_or_default();
    let program = first.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let called = |prefix: &str| program.starts_with(prefix.as_bytes()) || name.starts_with(prefix.as_bytes());
    if called("virtfs-proxy-he") {
        match invocation::of_process(words.iter().skip(1).copied(), environment) {
            Some(invocation) => (Role::Helper, invocation.helper(None).export.into_iter().collect()),
            None => (Role::Other, Vec::new()),
        }
    } else if called("qemu-system") || called("qemu-kvm") || program == b"kvm" || name == b"kvm" {
        (Role::Qemu, words.iter().flat_map(|word| paths(word)).collect())
    } else {
        (Role::Other, Vec::new())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(command: &str, environment: &str, name: &str) -> (Role, Vec<PathBuf>) {
        let words = command.replace(' ', "\0") + "\0";
        role(words.as_bytes(), environment.replace(' ', "\0").as_bytes(), name.as_bytes())
    }

    #[test]
    fn command_lines_name_what_helpers_serve_and_qemu_exports() {
        for (command, role, path) in [
            ("/usr/lib/qemu/virtfs-proxy-helper -p /srv/x -s /run/s -u 1 -g 1", Role::Helper, Some("/srv/x")),
            ("virtfs-proxy-helper --path=/srv/x --fd 3", Role::Helper, Some("/srv/x")),
            ("virtfs-proxy-helper -np /srv/x/sub -f 3", Role::Helper, Some("/srv/x/sub")),
            ("virtfs-proxy-helper --no-such-option -p /srv/x", Role::Helper, Some("/srv/x")),
            ("virtfs-proxy-helper -f 3", Role::Helper, None),
            (
                "qemu-system-x86_64 -fsdev local,id=f,path=/srv/x,security_model=none",
                Role::Qemu,
                Some("/srv/x"),
            ),
            ("qemu-system-x86_64 -virtfs local,path=/srv/x/sub,mount_tag=t", Role::Qemu, Some("/srv/x/sub")),
            ("qemu-system-x86_64 -fsdev local,id=f,path=/srv/x,,y", Role::Qemu, Some("/srv/x,y")),
            ("qemu-system-x86_64 -fsdev proxy,id=f,socket=/run/s", Role::Qemu, None),
            ("qemu-system-x86_64 -chardev pipe,id=c,mypath=/srv/x", Role::Qemu, None),
            ("/usr/bin/kvm -fsdev local,path=/srv/x", Role::Qemu, Some("/srv/x")),
            ("virtfs-proxy-helper migrate manifest /srv/x", Role::Other, None),
            ("less /srv/x/file", Role::Other, None),
        ] {
            let paths = path.into_iter().map(PathBuf::from).collect();
            assert_eq!(named(command, "", ""), (role, paths), "{command}");
        }
    }

    #[test]
    fn a_containers_helper_is_told_by_its_environment_and_this_process_has_no_part_in_it() {
        let environment = "PATH=/bin VIRTFS_PATH=/export VIRTFS_SOCKET=/run/virtfs/helper.sock";
        assert_eq!(named("/virtfs-proxy-helper", environment, ""), (Role::Helper, vec!["/export".into()]));
        assert_eq!(named("virtfs-proxy-helper migrate check /srv", environment, "").0, Role::Other);
        assert_eq!(named("virtfs-proxy-helper healthcheck", environment, "").0, Role::Other);
    }

    #[test]
    fn a_renamed_process_is_known_by_the_kernels_name() {
        assert_eq!(named("x -p /srv/x", "", "virtfs-proxy-he"), (Role::Helper, vec!["/srv/x".into()]));
        assert_eq!(named("", "", ""), (Role::Other, vec![]));
    }

    #[test]
    fn commas_in_values_are_doubled() {
        assert_eq!(value(b"/a,,b,c"), b"/a,b");
        assert_eq!(value(b"/a,,,c"), b"/a,");
        assert_eq!(value(b""), b"");
    }
}
