//! The running QEMUs that have a guest's shares, as their command lines say.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::document::{Guest, Share};
use super::plan::{canonical, path_of};
use crate::share::qemu_opts;

/// A running QEMU with shares of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The process.
    pub pid: i32,
    /// Which of the guest's shares it has over the proxy, by their place in the guest's list.
    pub proxy: BTreeSet<usize>,
    /// Those over local.
    pub local: BTreeSet<usize>,
}

/// Every process that has a share of the guest, over the proxy or over local.
pub fn of(guest: &Guest) -> anyhow::Result<Vec<Running>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let name = entry.context("reading /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has ended meanwhile has no share.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let running = look(pid, &line, &cwd, &guest.shares);
        if !running.proxy.is_empty() || !running.local.is_empty() {
            found.push(running);
        }
    }
    Ok(found)
}

fn look(pid: i32, line: &[u8], cwd: &Path, shares: &[Share]) -> Running {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let mut running = Running { pid, proxy: BTreeSet::new(), local: BTreeSet::new() };
    let is_option = |word: &[u8]| matches!(word, b"-fsdev" | b"--fsdev" | b"-virtfs" | b"--virtfs");
    for pair in words.windows(2) {
        let [option, value] = pair else { continue };
        if !is_option(option) {
            continue;
        }
        let opts = qemu_opts::parse(value, &[], Some(b"fsdriver"));
        let get = |key: &[u8]| qemu_opts::last(&opts, key).map(|opt| opt.value.as_slice());
        for (index, share) in shares.iter().enumerate() {
            let at = |key: &[u8]| get(key).map(|path| cwd.join(OsStr::from_bytes(path)));
            let is_its = |own: Option<&String>, key: &[u8]| {
                own.is_some_and(|own| at(key) == Some(cwd.join(path_of(own))))
            };
            match get(b"fsdriver") {
                Some(b"proxy") if is_its(share.socket.as_ref(), b"socket") => {
                    running.proxy.insert(index);
                }
                Some(b"local") if has_export(at(b"path"), share) => {
                    running.local.insert(index);
                }
                _ => {}
            }
        }
    }
    running
}

fn has_export(path: Option<PathBuf>, share: &Share) -> bool {
    let (Some(path), Some(export)) = (path, &share.export) else { return false };
    canonical(&path) == path_of(export)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_says_how_qemu_has_each_share() {
        let share = |socket: &str, export: &str| Share {
            socket: Some(socket.to_owned()),
            export: Some(export.to_owned()),
            ..Share::default()
        };
        let shares = [share("/run/a", "/nonexistent/a"), share("/run/b", "/nonexistent/b,c")];
        for (line, proxy, local) in [
            ("qemu\0-fsdev\0proxy,id=x,socket=/run/a\0", vec![0], vec![]),
            ("qemu\0-fsdev\0local,id=x,path=/nonexistent/b,,c,security_model=mapped\0", vec![], vec![1]),
            ("qemu\0-virtfs\0local,path=/nonexistent/a,mount_tag=t\0", vec![], vec![0]),
            ("vi\0-fsdev\0/run/a\0", vec![], vec![]),
            ("", vec![], vec![]),
            ("qemu\0-fsdev\0proxy,id=x,socket=a\0", vec![0], vec![]),
            ("qemu\0-fsdev\0proxy,id=x,socket=b/a\0", vec![], vec![]),
        ] {
            let running = look(1, line.as_bytes(), Path::new("/run"), &shares);
            assert_eq!(running.proxy, proxy.into_iter().collect(), "{line}");
            assert_eq!(running.local, local.into_iter().collect(), "{line}");
        }
    }
}
