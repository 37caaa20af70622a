//! The installed QEMU: its version, and whether it has the proxy backend. Its programs are read, not run: they may
//! be of another host.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::host::Host;
use crate::share::version::{Backend, Version};

/// Where QEMU's programs are installed.
const FOLDERS: &[&str] = &[
    "/usr/bin",
    "/usr/libexec",
    "/usr/local/bin",
    "/usr/lib/qemu",
    "/usr/lib/xen/bin",
    "/opt/incus/bin",
    "/opt/qemu/bin",
    "/snap/lxd/current/bin",
    "/run/current-system/sw/bin",
];

/// What every QEMU program prints before its version.
const VERSION_MARK: &[u8] = b"QEMU emulator version ";

/// A parameter of the proxy backend. QEMU 9.2 and newer still hold this name of it, without the backend.
const BACKEND_MARK: &[u8] = b"\0sock_fd\0";

/// An installed program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    /// Where.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// Whether it has the proxy backend.
    pub has_backend: bool,
}

/// The programs that are installed on `host`, each once. `first`: one is enough.
pub(super) fn installed(host: &Host, first: bool) -> Vec<Installed> {
    let mut found: Vec<Installed> = Vec::new();
    let mut seen = Vec::new();
    for folder in FOLDERS {
        let Ok(Some(entries)) = host.list(Path::new(folder)) else { continue };
        for (path, _) in entries.into_iter().filter(|(path, _)| is_emulator(path)) {
            let Ok(identity) = host.identity(&path) else { continue };
            if seen.contains(&identity) {
                continue;
            }
            seen.push(identity);
            let path = host.canonical(&path).unwrap_or(path);
            let Ok(Some(file)) = host.open(&path) else { continue };
            if let Some(installed) = look(file, path) {
                found.push(installed);
                if first {
                    return found;
                }
            }
        }
    }
    found
}

fn is_emulator(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("qemu-system-") || name == "qemu-kvm" || name == "kvm"
}

/// Reads a program in pieces. A wrapper script is none.
fn look(mut file: File, path: PathBuf) -> Option<Installed> {
    const PIECE: usize = 1 << 20;
    const OVERLAP: usize = 128;
    let mut buffer = Vec::with_capacity(PIECE + OVERLAP);
    let mut version = None;
    let mut has_mark = false;
    let mut total = 0;
    loop {
        let keep = buffer.len().saturating_sub(OVERLAP);
        buffer.drain(..keep);
        let read = (&mut file).take(PIECE as u64).read_to_end(&mut buffer).ok()?;
        if total == 0 && !buffer.starts_with(b"\x7fELF") {
            return None;
        }
        total += read;
        if version.is_none() {
            version = version_in(&buffer);
        }
        has_mark |= memchr::memmem::find(&buffer, BACKEND_MARK).is_some();
        let decided = version.as_ref().is_some_and(|version| has_mark || is_without_backend(version));
        if read == 0 || decided || total > 256 << 20 {
            break;
        }
    }
    let version = version?;
    // An older version may be built without it.
    let has_backend = has_mark && !is_without_backend(&version);
    Some(Installed { path, version, has_backend })
}

/// Whether every program of this version is without the proxy backend.
fn is_without_backend(version: &Version) -> bool {
    version.backend() == Backend::Removed
}

fn version_in(bytes: &[u8]) -> Option<Version> {
    let at = memchr::memmem::find(bytes, VERSION_MARK)? + VERSION_MARK.len();
    let rest = bytes.get(at..)?;
    // Cut off by the end of the piece: the next one has it whole.
    let end = rest.iter().position(|byte| !(byte.is_ascii_digit() || *byte == b'.'))?;
    std::str::from_utf8(rest.get(..end)?).ok()?.trim_end_matches('.').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with these strings.
    fn program(strings: &[&str]) -> Option<Installed> {
        let mut bytes = b"\x7fELF".to_vec();
        for string in strings {
            bytes.push(0);
            bytes.extend_from_slice(string.as_bytes());
            bytes.push(0);
        }
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        look(file, "/usr/bin/qemu-system-x86_64".into())
    }

    #[test]
    fn from_9_2_on_the_version_decides() {
        for (version, mark, has_backend) in [
            ("7.2.22", true, true),
            ("7.2.22", false, false),
            ("9.1.3", true, true),
            ("9.1.90", true, false),
            ("9.2.0", true, false),
            ("10.0.13", true, false),
            ("11.1.3", true, false),
        ] {
            let said = format!("QEMU emulator version {version}%s");
            let strings = [said.as_str(), if mark { "sock_fd" } else { "socket" }];
            for strings in [strings, [strings[1], strings[0]]] {
                let found = program(&strings).unwrap();
                assert_eq!(
                    (found.version.text.as_str(), found.has_backend),
                    (version, has_backend),
                    "{strings:?}"
                );
            }
        }
        assert_eq!(program(&["sock_fd"]), None);
    }

    #[test]
    fn debians_qemu_is_found_with_its_backend() {
        let installed = installed(&Host::new(None).unwrap(), false);
        let main = installed.iter().find(|one| one.path.ends_with("qemu-system-x86_64"));
        let main = main.expect("qemu-system-x86 must be installed for the tests");
        let told = std::process::Command::new(&main.path).arg("--version").output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let (major, minor) = main.version.number;
        assert!(told.starts_with(&format!("QEMU emulator version {major}.{minor}.")), "{told}");
        // The proxy backend was removed in QEMU 9.2.
        assert_eq!(main.has_backend, main.version.number < (9, 2));
    }
}
