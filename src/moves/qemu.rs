//! The running QEMUs that have a guest's shares, as their command lines say.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::document::{Guest, Share};
use super::plan::{canonical, path_of};
use crate::share::backend::Backend;
use crate::share::{Transport, qemu_opts};
use crate::sources::readconfig::Readconfig;
use crate::sources::{Document, Format as _};

/// More than any configuration has, in bytes.
const LARGEST: u64 = 1 << 20;

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
    let pairs = || words.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?)));
    let has = pairs().flat_map(|(option, value)| match option.strip_prefix(b"-").unwrap_or(option) {
        b"fsdev" | b"-fsdev" | b"virtfs" | b"-virtfs" => of_option(value, cwd).into_iter().collect(),
        b"readconfig" | b"-readconfig" => of_file(&cwd.join(OsStr::from_bytes(value))),
        _ => Vec::new(),
    });
    for one in has {
        for (index, share) in shares.iter().enumerate() {
            match &one {
                Has::Proxy(socket) => {
                    let is_its = share.socket.as_ref().is_some_and(|own| *socket == cwd.join(path_of(own)));
                    running.proxy.extend(is_its.then_some(index));
                }
                Has::Local(path) => running.local.extend(has_export(path, share).then_some(index)),
            }
        }
    }
    running
}

/// How a QEMU has a share.
enum Has {
    /// Over the proxy, by this socket.
    Proxy(PathBuf),
    /// Over local, this directory.
    Local(PathBuf),
}

fn of_option(value: &[u8], cwd: &Path) -> Option<Has> {
    let opts = qemu_opts::parse(value, &[], Some(b"fsdriver"));
    let get = |key: &[u8]| qemu_opts::last(&opts, key).map(|opt| opt.value.as_slice());
    let at = |key: &[u8]| get(key).map(|path| cwd.join(OsStr::from_bytes(path)));
    match get(b"fsdriver") {
        Some(b"proxy") => at(b"socket").map(Has::Proxy),
        Some(b"local") => at(b"path").map(Has::Local),
        _ => None,
    }
}

/// What a file of `-readconfig` says. The configuration changes while the guest is shut down: the file is as QEMU has read it.
fn of_file(file: &Path) -> Vec<Has> {
    let Some(bytes) = regular(file) else { return Vec::new() };
    let document = Document { path: Some(file), bytes: &bytes };
    let cwd = Path::new("/");
    let transports = |make: fn(PathBuf) -> Has| {
        let shares =
            Readconfig.read_beside(&document, None).map(|reading| reading.shares).unwrap_or_default();
        shares.into_iter().filter_map(move |share| match share.transport {
            Transport::Socket(path) => Some(make(cwd.join(path))),
            _ => None,
        })
    };
    let mut has: Vec<_> = transports(Has::Proxy).collect();
    has.extend(Backend::Local.seek(|| transports(Has::Local).collect::<Vec<_>>()));
    has
}

/// A regular file's content, up to what a configuration may have. A FIFO is not waited for.
fn regular(file: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file).ok()?;
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn has_export(path: &Path, share: &Share) -> bool {
    share.export.as_ref().is_some_and(|export| canonical(path) == path_of(export))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_readconfig_says_how_qemu_has_its_shares() {
        let folder = tempfile::tempdir().unwrap();
        let share = Share {
            socket: Some("/run/a".to_owned()),
            export: Some("/nonexistent/a".to_owned()),
            ..Share::default()
        };
        for (driver, proxy, local) in [
            ("fsdriver = \"proxy\"\n  socket = \"/run/a\"", vec![0], vec![]),
            (
                "fsdriver = \"local\"\n  path = \"/nonexistent/a\"\n  security_model = \"mapped\"",
                vec![],
                vec![0],
            ),
            ("fsdriver = \"proxy\"\n  socket = \"/run/b\"", vec![], vec![]),
        ] {
            let device =
                "[device \"d\"]\n  driver = \"virtio-9p-pci\"\n  fsdev = \"a\"\n  mount_tag = \"a\"\n";
            fs::write(folder.path().join("vm.cfg"), format!("[fsdev \"a\"]\n  {driver}\n{device}")).unwrap();
            for name in ["vm.cfg".to_owned(), folder.path().join("vm.cfg").display().to_string()] {
                let line = format!("qemu\0-readconfig\0{name}\0");
                let running = look(1, line.as_bytes(), folder.path(), std::slice::from_ref(&share));
                assert_eq!(running.proxy, proxy.iter().copied().collect(), "{driver}");
                assert_eq!(running.local, local.iter().copied().collect(), "{driver}");
            }
        }
    }

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
