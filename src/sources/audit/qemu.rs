//! The installed QEMU: its version, and whether the proxy backend is in it. Its programs are read, not run: they may
//! be of another host.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::host::Host;

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

/// What every QEMU program says before its version.
const VERSION_MARK: &[u8] = b"QEMU emulator version ";

/// A parameter that only the proxy backend has.
const BACKEND_MARK: &[u8] = b"\0sock_fd\0";

/// A QEMU version: only what deprecations go by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major and minor.
    pub number: (u32, u32),
    /// All of it, as it was said.
    pub text: String,
}

/// What the proxy backend is in a version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Before 8.1.
    Fine,
    /// 8.1 to 9.1.
    Deprecated,
    /// From 9.2 on.
    Removed,
}

impl Version {
    /// What the proxy backend is in it.
    pub fn backend(&self) -> Backend {
        match self.number {
            number if number < (8, 1) => Backend::Fine,
            number if number < (9, 2) => Backend::Deprecated,
            _ => Backend::Removed,
        }
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.trim_start_matches('v').split('.');
        let number = |part: Option<&str>| {
            let digits = part?.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<u32>().ok()
        };
        let major = number(parts.next()).ok_or("a QEMU version is like 9.2")?;
        let minor = match parts.next() {
            Some(part) => number(Some(part)).ok_or("a QEMU version is like 9.2")?,
            None => 0,
        };
        Ok(Self { number: (major, minor), text: text.trim_start_matches('v').to_owned() })
    }
}

/// An installed program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Where.
    pub path: PathBuf,
    /// Its version.
    pub version: Option<Version>,
    /// Whether it has the proxy backend.
    pub has_backend: bool,
}

/// The programs that are installed on `host`, each once. `first`: one is enough.
pub fn installed(host: &Host, first: bool) -> Vec<Installed> {
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
    let mut has_backend = false;
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
        has_backend |= memchr::memmem::find(&buffer, BACKEND_MARK).is_some();
        if read == 0 || (version.is_some() && has_backend) || total > 256 << 20 {
            break;
        }
    }
    version.is_some().then_some(Installed { path, version, has_backend })
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

    #[test]
    fn versions_are_judged() {
        for (text, backend) in [
            ("7.2.22", Backend::Fine),
            ("8.0", Backend::Fine),
            ("8.1", Backend::Deprecated),
            ("9.1.3", Backend::Deprecated),
            ("9.2", Backend::Removed),
            ("v10.0.0-rc1", Backend::Removed),
            ("10", Backend::Removed),
        ] {
            assert_eq!(text.parse::<Version>().unwrap().backend(), backend, "{text}");
        }
        for text in ["", "new", "x.1", "9.x"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn debians_qemu_is_found_with_its_backend() {
        let installed = installed(&Host::new(None).unwrap(), false);
        let main = installed.iter().find(|one| one.path.ends_with("qemu-system-x86_64"));
        let main = main.expect("qemu-system-x86 must be installed for the tests");
        assert_eq!(main.version.as_ref().map(|version| version.number), Some((7, 2)));
        assert!(main.has_backend);
    }
}
