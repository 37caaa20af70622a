//! The running QEMUs that have a guest's shares, as their command lines say.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::document::{Guest, Manager, Share, path_of};
use super::manager::Managed;
use crate::share::argv::{self, Arg};
use crate::share::backend::Backend;
use crate::share::{Transport, qemu_opts};
use crate::sources::readconfig::Readconfig;
use crate::sources::{Document, Format as _};
use crate::text::escape;

/// More than any configuration has, in bytes.
const LARGEST: u64 = 1 << 20;

/// A running QEMU with shares of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    /// The process.
    pub pid: i32,
    /// Which of the guest's shares it has over the proxy, by their place in the guest's list.
    pub proxy: BTreeSet<usize>,
    /// Those over local.
    pub local: BTreeSet<usize>,
}

/// Every process that has a share of the guest, over the proxy or over local.
pub(super) fn of(guest: &Guest) -> anyhow::Result<Vec<Running>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let name = entry.context("reading /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has ended meanwhile has no share.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let running = look(pid, &line, &cwd, &guest.shares);
        let is_its = || {
            let name = name_of(&line);
            is_of(guest, &running, name.as_deref(), &Managed::of_process(pid, name.as_deref()))
        };
        if !running.proxy.is_empty() || !running.local.is_empty() && is_its() {
            found.push(running);
        }
    }
    Ok(found)
}

/// The name that a QEMU's command line gives the guest, as an audit shows it.
fn name_of(line: &[u8]) -> Option<String> {
    let words = line.split(|byte| *byte == 0).map(|word| Arg { value: word.to_vec(), ..Arg::default() });
    let name = argv::guest_name(&words.collect::<Vec<_>>())?;
    Some(escape(&name).into_owned())
}

/// Whether a QEMU that has exports of the guest over local is this guest's: several guests may have one export. A socket of a helper's
/// has one alone.
fn is_of(guest: &Guest, running: &Running, name: Option<&str>, by: &Managed) -> bool {
    if by.manager == guest.manager && by.manager != Manager::Commands {
        return by.name == guest.name;
    }
    // What a script starts may be in the unit of whoever runs the script: of cron, or of sshd.
    if !matches!(by.manager, Manager::Commands | Manager::Systemd) {
        return false;
    }
    match guest.manager {
        Manager::Libvirt => name.is_none_or(|name| name == guest.name),
        // One that is known by its file has no name, or not this one.
        Manager::Commands if !guest.name.contains('/') && !guest.name.starts_with("process ") => {
            name.is_none_or(|name| name == guest.name)
        }
        _ => running.local.len() == guest.shares.len(),
    }
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
    share
        .export
        .as_ref()
        .is_some_and(|export| path.canonicalize().unwrap_or_else(|_| path.to_owned()) == path_of(export))
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
    fn a_guest_with_the_same_export_is_another_one() {
        let share = |export: &str| Share { export: Some(export.to_owned()), ..Share::default() };
        let shares = vec![share("/nonexistent/a"), share("/nonexistent/b")];
        let guest = |manager, name: &str| Guest {
            name: name.to_owned(),
            manager,
            shares: shares.clone(),
            ..Guest::default()
        };
        let by = |manager, name: &str| Managed { manager, name: name.to_owned() };
        let commands = || by(Manager::Commands, "x");
        for (guest, name, local, by, expected) in [
            (guest(Manager::Commands, "web"), Some("web"), vec![0], commands(), true),
            (guest(Manager::Commands, "web"), Some("mail"), vec![0, 1], commands(), false),
            (guest(Manager::Commands, "/bin/vm"), Some("mail"), vec![0], commands(), false),
            (guest(Manager::Commands, "/bin/vm"), None, vec![0, 1], commands(), true),
            (guest(Manager::Libvirt, "web"), Some("web"), vec![0], by(Manager::Libvirt, "web"), true),
            (guest(Manager::Libvirt, "web"), Some("mail"), vec![0, 1], by(Manager::Libvirt, "mail"), false),
            (guest(Manager::Libvirt, "web"), Some("mail"), vec![0, 1], commands(), false),
            (guest(Manager::Proxmox, "100"), Some("web"), vec![0, 1], by(Manager::Proxmox, "101"), false),
            (guest(Manager::Proxmox, "100"), Some("web"), vec![0, 1], commands(), true),
            (guest(Manager::Commands, "web"), Some("web"), vec![0], by(Manager::Libvirt, "web"), false),
            (
                guest(Manager::Commands, "web"),
                Some("web"),
                vec![0],
                by(Manager::Systemd, "cron.service"),
                true,
            ),
            (
                guest(Manager::Systemd, "a.service"),
                None,
                vec![0, 1],
                by(Manager::Systemd, "b.service"),
                false,
            ),
        ] {
            let running = Running { pid: 1, proxy: BTreeSet::new(), local: local.into_iter().collect() };
            assert_eq!(is_of(&guest, &running, name, &by), expected, "{guest:?} {name:?} {by:?}");
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
