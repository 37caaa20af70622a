//! The host that a plan is for: this machine, or another one whose file system is mounted at `--root`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::data::owner::Owner;
use crate::report::rows;
use crate::sources::audit::Host;

/// Where systemd's units of the administrator are, with the links of those that are started with the host.
const ENABLED: &str = "/etc/systemd/system";

/// The host that a plan is for.
pub(super) struct Place {
    /// The host of `--root`; nothing for this machine.
    other: Option<Host>,
    root: Option<PathBuf>,
}

impl Place {
    /// The host whose file system is mounted at `root`; this machine without.
    pub(super) fn of(root: Option<&Path>) -> anyhow::Result<Self> {
        let other = root.map(|root| Host::new(Some(root))).transpose()?;
        Ok(Self { other, root: root.map(Path::to_owned) })
    }

    /// Whether it is another host: nothing that runs here is of that host, and no program here manages it.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.other.is_some()
    }

    /// The folder where its file system is mounted, if it is another host.
    pub(super) fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// A path of the command line as it is on the host.
    pub(super) fn absolute(&self, path: &Path) -> anyhow::Result<PathBuf> {
        match &self.other {
            Some(host) => host.absolute(path),
            None => std::path::absolute(path),
        }
        .context("finding the current directory")
    }

    /// A path of the host's, free of symbolic links, as far as it exists.
    pub(super) fn canonical(&self, path: &Path) -> PathBuf {
        match &self.other {
            Some(host) => host.canonical(path),
            None => path.canonicalize(),
        }
        .unwrap_or_else(|_| path.to_owned())
    }

    /// A path of the host's as this program reaches it.
    pub(super) fn here(&self, path: &Path) -> PathBuf {
        match &self.other {
            Some(host) => host.here(&self.canonical(path)),
            None => path.to_owned(),
        }
    }

    /// The content of a small file of the host's; nothing where it can't be read.
    pub(super) fn read(&self, path: &Path) -> Option<Vec<u8>> {
        match &self.other {
            Some(host) => host.read_small(path),
            None => fs::read(path).ok(),
        }
    }

    /// The same as text.
    pub(super) fn text(&self, path: &Path) -> String {
        self.read(path).and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// A message about files here, with the names that they have on the host.
    pub(super) fn as_on_host(&self, message: &str) -> String {
        let Some(host) = &self.other else { return message.to_owned() };
        let prefix = rows::path(&host.here(Path::new("/")));
        match prefix.trim_end_matches('/') {
            "" => message.to_owned(),
            prefix => message.replace(&format!("{prefix}/"), "/").replace(prefix, "/"),
        }
    }

    /// `USER[:GROUP]` by the accounts of the host.
    pub(super) fn owner(&self, text: &OsStr) -> anyhow::Result<Owner> {
        if self.other.is_none() {
            return Owner::parse(text);
        }
        let (passwd, group) = self.accounts();
        Owner::parse_of(text, &passwd, &group)
    }

    /// The user that the host's libvirt runs QEMU as; `None` where there is no libvirt.
    pub(super) fn owner_of_libvirt(&self) -> anyhow::Result<Option<Owner>> {
        if self.other.is_none() {
            return Owner::of_libvirt();
        }
        let (passwd, group) = self.accounts();
        let configuration = self.text(Path::new(Owner::LIBVIRT));
        Owner::of_libvirt_of(&configuration, &passwd, &group)
    }

    fn accounts(&self) -> (String, String) {
        let lossy = |path: &str| {
            String::from_utf8_lossy(&self.read(Path::new(path)).unwrap_or_default()).into_owned()
        };
        (lossy("/etc/passwd"), lossy("/etc/group"))
    }

    /// The account of the host whose home a directory is or holds.
    pub(super) fn home_in(&self, directory: &Path) -> Option<String> {
        let (passwd, _) = self.accounts();
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, home) = (fields.next()?, fields.nth(4)?);
            let is_in = home.len() > 1 && Path::new(home).starts_with(directory);
            is_in.then(|| crate::text::escape(name.as_bytes()).into_owned())
        })
    }

    /// The host's name.
    pub(super) fn name(&self) -> String {
        if self.is_elsewhere() {
            let name = self.read(Path::new("/etc/hostname")).unwrap_or_default();
            return rows::bytes(name.trim_ascii());
        }
        let name = rustix::system::uname().nodename().to_str().map(str::to_owned).unwrap_or_default();
        rows::bytes(name.as_bytes())
    }

    /// Whether the host starts a unit with itself, as the links in its folders say.
    pub(super) fn links_to(&self, unit: &str) -> bool {
        let folders = fs::read_dir(self.here(Path::new(ENABLED))).into_iter().flatten().flatten();
        let wanting = folders.filter(|folder| {
            matches!(folder.path().extension().and_then(OsStr::to_str), Some("wants" | "requires"))
                && folder.file_type().is_ok_and(|kind| kind.is_dir())
        });
        wanting.into_iter().any(|folder| fs::symlink_metadata(folder.path().join(unit)).is_ok())
    }
}
