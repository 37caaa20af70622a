//! `migrate plan`, `migrate apply`, `migrate undo` and `migrate status`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use crate::data::options::ProgressMode;
use crate::report::Format;
use crate::share::local::SecurityModel;
use crate::sources::config::options::export;

/// `migrate plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Files and folders to look at; this machine, its processes included, when none is given
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Plan for a host whose file system is mounted at DIR: PATHs and everything printed are as on that host. Such a plan is to read;
    /// `migrate apply` takes one that was made on the host itself
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Plan for this guest alone, and for those that share an export with it. Repeatable
    #[arg(long = "guest", value_name = "NAME")]
    pub guests: Vec<OsString>,
    /// Who QEMU runs as, where nothing says it: for all guests, or for one. Repeatable
    #[arg(long = "owner", value_name = "[GUEST=]USER[:GROUP]")]
    pub owners: Vec<String>,
    /// What a share exports, where nothing says it, by its mount tag, its fsdev's id or its socket's path. Repeatable
    #[arg(long = "export", value_name = "TAG_OR_ID=PATH", value_parser = OsStringValueParser::new().try_map(|text| export(&text)))]
    pub exports: Vec<(OsString, PathBuf)>,
    /// The guest may only read a share of which that is not known: by mount tag, id or socket. Repeatable
    #[arg(long, value_name = "TAG_OR_ID")]
    pub readonly: Vec<OsString>,
    /// The guest may write to such a share. Repeatable
    #[arg(long, value_name = "TAG_OR_ID")]
    pub writable: Vec<OsString>,
    /// Where the guest's owners, modes and special files go [default: the model that fits each export]
    #[arg(long, value_enum, value_name = "MODEL")]
    pub security_model: Option<SecurityModel>,
    /// Convert in spite of this warning of `migrate check`. Repeatable
    #[arg(long, value_name = "FINDING")]
    pub accept: Vec<String>,
    /// A command to run while the guests are shut down, before their files are converted: one that takes a snapshot or a backup
    #[arg(long, value_name = "COMMAND")]
    pub before: Option<String>,
    /// The shell command that shuts a guest down, where no manager does: for all such guests, or for one. Repeatable
    #[arg(long, value_name = "[GUEST=]COMMAND")]
    pub stop: Vec<String>,
    /// The shell command that starts such a guest. Repeatable
    #[arg(long, value_name = "[GUEST=]COMMAND")]
    pub start: Vec<String>,
    /// The shell command that exits with 0 while such a guest runs and with 1 while it does not [default: looks for its QEMU].
    /// Repeatable
    #[arg(long, value_name = "[GUEST=]COMMAND")]
    pub running: Vec<String>,
    /// How the plan is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: Format,
    /// Write it to this file instead of standard output (-); as YAML, unless --format says otherwise
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the JSON Schema of the document, and do nothing else
    #[arg(long, exclusive = true)]
    pub schema: bool,
}

/// `migrate status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Files and folders to look at; this machine, its processes included, when none is given
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Look at a host whose file system is mounted at DIR: PATHs and everything printed are as on that host
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Where the state of moves is [default: /var/lib/virtfs-proxy-helper/moves]
    #[arg(long, env = "VIRTFS_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// How the status is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: Format,
    /// Write it to this file instead of standard output (-)
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Exit with 0 whatever is left to do or unread
    #[arg(long)]
    pub exit_zero: bool,
    /// Print the JSON Schema of the document, and do nothing else
    #[arg(long, exclusive = true)]
    pub schema: bool,
}

/// `migrate apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The plan, as `migrate plan --output` wrote it; without it, --guest names what to plan for now
    #[arg(value_name = "PLAN")]
    pub plan: Option<PathBuf>,
    /// Start guests that are shut down, too
    #[arg(long)]
    pub start: bool,
    /// A shell command that succeeds when the guest sees its shares: it is run after the guest's start, again and again until it
    /// succeeds or the time is up
    #[arg(long, value_name = "COMMAND")]
    pub probe: Option<String>,
    /// Do not ask the agent in a guest (qemu-guest-agent) whether the shares that were mounted are mounted after its start
    #[arg(long)]
    pub no_agent: bool,
    /// How it is done.
    #[command(flatten)]
    pub way: WayArgs,
}

/// `migrate undo`.
#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// The plan that was applied
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// How it is done.
    #[command(flatten)]
    pub way: WayArgs,
}

/// How a move is carried out or taken back.
#[derive(Debug, Args)]
pub(crate) struct WayArgs {
    /// Only this guest, and those that share an export with it. Repeatable
    #[arg(long = "guest", value_name = "NAME")]
    pub guests: Vec<OsString>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// End a guest that does not shut down in time as a power failure does
    #[arg(long)]
    pub force_stop: bool,
    /// How long a guest may take to shut down
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub stop_timeout: u64,
    /// How long a guest may take to be up, and then its probe to succeed
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub up_timeout: u64,
    /// How long a guest has to stay up before its start counts
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub settle: u64,
    /// Where it is kept how far each move is
    #[arg(
        long,
        value_name = "DIR",
        env = "VIRTFS_STATE",
        default_value = "/var/lib/virtfs-proxy-helper/moves"
    )]
    pub state: PathBuf,
    /// How progress is shown, on standard error
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub progress: ProgressMode,
}
