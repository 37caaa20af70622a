//! `migrate check`, `convert`, `verify`, `rollback` and `manifest`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::report::Format;
use crate::share::local::SecurityModel;

/// `migrate check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The exported directory
    #[arg(value_name = "EXPORT", required_unless_present = "schema")]
    pub export: Option<PathBuf>,
    /// Who QEMU will run as, names or numbers; libvirt's user when it is not given
    #[arg(long, value_name = "USER[:GROUP]")]
    pub owner: Option<OsString>,
    /// Try as this user, with its groups, whether QEMU can enter, read and write the export and set user.* attributes. It makes a
    /// scratch file in the export, and removes it
    #[arg(long = "as", value_name = "USER[:GROUP]", group = "subject")]
    pub run_as: Option<OsString>,
    /// Try it as the main process of this unit, in its namespaces; as the unit's user where the unit does not run
    #[arg(long, value_name = "NAME", group = "subject")]
    pub unit: Option<OsString>,
    /// Try it as the QEMU of this libvirt domain; as the domain's user where the domain does not run
    #[arg(long, value_name = "NAME", group = "subject")]
    pub domain: Option<OsString>,
    /// Try it as this process, in its namespaces
    #[arg(long, value_name = "PID", group = "subject", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// The share is read-only: try to read alone
    #[arg(long, requires = "subject")]
    pub read_only: bool,
    /// What the process that tries is told
    #[arg(long, hide = true)]
    pub trial: Option<OsString>,
    /// Judge for this model instead of the one that fits
    #[arg(long, value_enum, value_name = "MODEL")]
    pub security_model: Option<SecurityModel>,
    /// How it is looked at and shown.
    #[command(flatten)]
    pub look: LookArgs,
}

/// `migrate convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The exported directory, as the helper's --path has it
    #[arg(value_name = "EXPORT")]
    pub export: PathBuf,
    /// The user that QEMU runs as, and its group: names or numbers; root only where QEMU runs as root (Proxmox VE)
    /// [default: as the conversion was begun; otherwise libvirt's, where there is libvirt]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub owner: Option<OsString>,
    /// Convert; without it, only tell what would be done
    #[arg(long)]
    pub apply: bool,
    /// How QEMU will keep what the guest sees [default: as the conversion was begun; otherwise mapped-xattr]
    #[arg(long, value_enum, value_name = "MODEL")]
    pub security_model: Option<SecurityModel>,
    /// The mode that files get on this machine, in octal [default: as the conversion was begun; otherwise 0600]
    #[arg(long, value_name = "MODE", value_parser = file_mode)]
    pub fmode: Option<u32>,
    /// The mode that directories get on this machine, in octal [default: as the conversion was begun; otherwise 0700]
    #[arg(long, value_name = "MODE", value_parser = directory_mode)]
    pub dmode: Option<u32>,
    /// Where to keep the original state of everything [default: EXPORT.virtfs-journal, beside the export]
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Go on in spite of this finding; may be given several times
    #[arg(long, value_name = "FINDING")]
    pub accept: Vec<String>,
    /// Convert this directory, which has to be EXPORT, although it is the system's or an account's: after that, programs,
    /// services and logins of this machine that use it fail
    #[arg(long, value_name = "EXPORT")]
    pub system_directory: Option<PathBuf>,
    /// Convert while the export is in use: what is written to it meanwhile may be lost to the guest, or keep its
    /// owner on this machine. It takes a second run, best when nobody uses it, to say that all is converted
    #[arg(long)]
    pub in_use: bool,
    /// Adopt what other programs of this machine have put into the converted export since, as --owner, --security-model, --fmode and
    /// --dmode were at its conversion. A guest may be running
    #[arg(long, conflicts_with_all = ["owner", "security_model", "fmode", "dmode", "in_use", "system_directory"])]
    pub adopt: bool,
    /// With --adopt: leave what changed in the last SECONDS seconds; it may still be written
    #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "adopt", hide_default_value = true,
          value_parser = clap::value_parser!(u64).range(..=31_536_000))]
    pub settle: u64,
    /// Stay on the export's file system: what is mounted in it is never touched (this is always so). Btrfs subvolumes are part
    /// of it
    #[arg(long)]
    pub one_file_system: bool,
    /// How the work is done and shown.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// How an export is looked at, and what was seen is shown.
#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    /// How what was found is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: Format,
    /// How many threads look [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Exit with 0 whatever was found
    #[arg(long)]
    pub exit_zero: bool,
    /// Print the JSON Schema of the document, and do nothing else
    #[arg(long, exclusive = true)]
    pub schema: bool,
}

impl LookArgs {
    /// How many threads look.
    pub(crate) fn jobs(&self) -> usize {
        jobs(self.jobs)
    }
}

/// How work on many files is done and shown.
#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    /// How many threads work [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// How progress is shown, on standard error
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub progress: ProgressMode,
}

impl WorkArgs {
    /// How many threads work.
    pub(crate) fn jobs(&self) -> usize {
        jobs(self.jobs)
    }
}

/// As many threads as there are processors, where it is not said how many.
fn jobs(asked: Option<u16>) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    asked.map_or_else(all, usize::from)
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A bar on a terminal, one line a minute elsewhere
    #[default]
    Auto,
    /// Not at all
    Never,
    /// One JSON object a line, each second
    Json,
}

/// Permissions in octal of which the owner has at least `least`: QEMU's user owns what it uses.
fn mode(text: &str, least: u32) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777 && !digits.starts_with('+'));
    let mode = mode.ok_or("not permissions in octal, such as 0600")?;
    if mode & least == least {
        Ok(mode)
    } else {
        Err(format!("QEMU's user could not use what it owns: the owner needs {least:04o} at least"))
    }
}

/// The mode of files.
pub(crate) fn file_mode(text: &str) -> Result<u32, String> {
    mode(text, 0o600)
}

/// The mode of directories.
pub(crate) fn directory_mode(text: &str) -> Result<u32, String> {
    mode(text, 0o700)
}

/// `migrate verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The exported directory
    #[arg(value_name = "EXPORT", required_unless_present = "schema")]
    pub export: Option<PathBuf>,
    /// The conversion's journal; EXPORT.virtfs-journal beside the export when it is not given
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// The export is a copy, or was restored from a backup: go by paths, whichever inodes are there
    #[arg(long)]
    pub by_path: bool,
    /// How it is looked at and shown.
    #[command(flatten)]
    pub look: LookArgs,
}

/// `migrate journal`.
#[derive(Debug, Args)]
pub(crate) struct JournalArgs {
    /// The journal of a conversion
    #[arg(value_name = "FILE", required_unless_present = "schema")]
    pub journal: Option<PathBuf>,
    /// How it is shown.
    #[command(flatten)]
    pub look: ShowArgs,
}

/// How what was found is shown.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// How what was found is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: Format,
    /// Exit with 0 whatever was found
    #[arg(long)]
    pub exit_zero: bool,
    /// Print the JSON Schema of the document, and do nothing else
    #[arg(long, exclusive = true)]
    pub schema: bool,
}

/// `migrate unmap`.
#[derive(Debug, Args)]
pub(crate) struct UnmapArgs {
    /// The mapped tree
    #[arg(value_name = "TREE")]
    pub tree: PathBuf,
    /// How it is mapped
    #[arg(long, value_enum, value_name = "MODEL", required = true)]
    pub from: SecurityModel,
    /// Unmap; without it, only tell what would be done
    #[arg(long)]
    pub apply: bool,
    /// Where to keep how far it got [default: TREE.virtfs-unmap-journal, beside the tree]
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Unmap while the tree is in use: what is written to it meanwhile may keep the wrong owner
    #[arg(long)]
    pub in_use: bool,
    /// How the work is done and shown.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// `migrate rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The converted directory
    #[arg(value_name = "EXPORT")]
    pub export: PathBuf,
    /// Take the conversion back; without it, only tell what would be done
    #[arg(long)]
    pub apply: bool,
    /// The conversion's journal [default: EXPORT.virtfs-journal, beside the export]
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// The export is a copy, or was restored from a backup: go by paths, whichever inodes are there. What the guest moved then
    /// loses what the journal alone knows: file capabilities, inode flags
    #[arg(long)]
    pub by_path: bool,
    /// Take it back while the export is in use: what is written to it meanwhile may keep the wrong owner
    #[arg(long)]
    pub in_use: bool,
    /// How the work is done and shown.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// `migrate manifest`: contents of files are not described, but their sizes and times.
#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    /// The directory to describe
    #[arg(value_name = "TREE")]
    pub tree: PathBuf,
    /// What the tree's files are: plain, as the proxy backend serves them, or in a mapped model of the local backend's
    #[arg(long = "as", value_enum, value_name = "FORM", default_value_t)]
    pub form: TreeForm,
    /// Tell times of last access too
    #[arg(long)]
    pub atime: bool,
}

/// The forms of a tree that `migrate manifest` reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TreeForm {
    /// Every file is what it is
    #[default]
    Passthrough,
    /// security_model=mapped-xattr
    MappedXattr,
    /// security_model=mapped-file
    MappedFile,
}
