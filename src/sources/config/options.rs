//! `migrate config`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, ValueEnum};

use crate::data::options::{directory_mode, file_mode};
use crate::share::local::{Multidevs, SecurityModel};
use crate::share::target::Target;

/// `migrate config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration to rewrite: libvirt domain XML, a -readconfig file, a script, a unit, a Proxmox guest, a YAML
    /// or JSON document; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Read the file, and those that it names, of a host whose file system is mounted at DIR
    #[arg(long, value_name = "DIR", hide = true, conflicts_with = "in_place")]
    pub root: Option<PathBuf>,
    /// What a share exports, by its mount tag, its fsdev's id or its socket's path. Repeatable
    #[arg(long = "export", value_name = "TAG_OR_ID=PATH", value_parser = OsStringValueParser::new().try_map(|text| export(&text)))]
    pub exports: Vec<(OsString, PathBuf)>,
    /// Make a share read-only whose readonly option, or the variable that may hold it, is not known from the file: by its
    /// mount tag, its fsdev's id or its socket's path. Repeatable
    #[arg(long, value_name = "TAG_OR_ID")]
    pub readonly: Vec<OsString>,
    /// Say of such a share that the guest may write to it. Repeatable
    #[arg(long, value_name = "TAG_OR_ID")]
    pub writable: Vec<OsString>,
    /// What the shares move to. In virtiofs's case libvirt XML is rewritten; of every other file --to prints what to write
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: Target,
    /// Where the guest's owners, modes and special files go [default: mapped-xattr]
    #[arg(long, value_enum, value_name = "MODEL")]
    pub security_model: Option<SecurityModel>,
    /// The host's mode of the files that the guest makes, in octal, in place of 0600
    #[arg(long, value_name = "MODE", value_parser = file_mode)]
    pub fmode: Option<u32>,
    /// The host's mode of the directories that the guest makes, in octal, in place of 0700
    #[arg(long, value_name = "MODE", value_parser = directory_mode)]
    pub dmode: Option<u32>,
    /// What QEMU does about other file systems below the export. Without this option: warn if there is none, remap if there
    /// are some, nothing if the export is not on this machine
    #[arg(long, value_enum, value_name = "HOW")]
    pub multidevs: Option<Multidevs>,
    /// Print the shares in this form instead of the file
    #[arg(long, value_enum, value_name = "FORM", conflicts_with_all = ["diff", "in_place", "check", "in_place_args"])]
    pub to: Option<Snippet>,
    /// Print what changes instead of the file
    #[arg(long, conflicts_with = "in_place")]
    pub diff: bool,
    /// Change the file itself, in one step, and keep the old one beside it
    #[arg(long)]
    pub in_place: bool,
    /// Say by exit status 3 that the file would change
    #[arg(long, conflicts_with = "in_place")]
    pub check: bool,
    /// In libvirt XML, change QEMU's arguments themselves instead of saying the shares in libvirt's own words. Saved
    /// images, snapshots and checkpoints are always changed so
    #[arg(long)]
    pub in_place_args: bool,
}

/// The forms in which `migrate config --to` prints shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Snippet {
    /// libvirt's filesystem element
    Libvirt,
    /// -fsdev and -device, or what virtiofs needs, for a shell
    QemuArgs,
    /// Sections of a -readconfig file
    Readconfig,
    /// The systemd unit of each share's virtiofsd; with --backend virtiofs
    VirtiofsdUnit,
}

/// `NAME=PATH`.
pub(crate) fn export(text: &OsStr) -> Result<(OsString, PathBuf), String> {
    let bytes = text.as_bytes();
    let equals = bytes.iter().position(|&byte| byte == b'=').ok_or("it must be TAG_OR_ID=PATH")?;
    let (name, path) = (bytes.get(..equals).unwrap_or_default(), bytes.get(equals + 1..).unwrap_or_default());
    if name.is_empty() || !path.starts_with(b"/") {
        return Err("it must be TAG_OR_ID=PATH, with a path from the root".into());
    }
    Ok((OsString::from_vec(name.to_vec()), PathBuf::from(OsString::from_vec(path.to_vec()))))
}
