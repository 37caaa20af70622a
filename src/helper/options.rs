//! The helper's own options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{BoolishValueParser, RangedU64ValueParser, Resettable};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser};

use super::capabilities::CapabilitySet;
use super::isolation::{Sandbox, Seccomp};

/// The helper's own options: the original's, with its abbreviations, and long ones beyond it.
///
/// Each has a variable of the environment too, for an image that has no shell to build a command line with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Helper options")]
pub struct HelperArgs {
    /// Export this directory
    #[arg(short, long, value_name = "DIR", alias = "p", env = "VIRTFS_PATH", hide_env = true)]
    pub path: Option<PathBuf>,
    /// Serve the connected socket that is open as descriptor N
    #[arg(short, long, value_name = "N", alias = "f", env = "VIRTFS_FD", hide_env = true)]
    pub fd: Option<i32>,
    /// Listen on this socket; needs -u and -g
    #[arg(short, long, value_name = "PATH", alias = "s", env = "VIRTFS_SOCKET", hide_env = true)]
    pub socket: Option<PathBuf>,
    /// Give the socket to this user, a number or a name of /etc/passwd: the one that QEMU runs as
    #[arg(short, long, value_name = "USER", alias = "u", env = "VIRTFS_UID", hide_env = true)]
    pub uid: Option<String>,
    /// Give the socket to this group, a number or a name of /etc/group
    #[arg(short, long, value_name = "GROUP", alias = "g", env = "VIRTFS_GID", hide_env = true)]
    pub gid: Option<String>,
    /// Stay in the foreground and log to standard error
    #[arg(short, long, alias = "n", env = "VIRTFS_NODAEMON", hide_env = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          value_name = "BOOL", default_value = "false", default_missing_value = "true", hide_default_value = true,
          hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub nodaemon: bool,

    /// Keep serving after a client has left; the socket comes back when QEMU removes it
    #[arg(long, env = "VIRTFS_PERSISTENT", hide_env = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          value_name = "BOOL", default_value = "false", default_missing_value = "true", hide_default_value = true,
          hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub persistent: bool,
    /// Serve up to N clients at once, each by a process of its own
    #[arg(long, value_name = "N", default_value_t = 1, env = "VIRTFS_SHARED", hide_env = true,
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=4096))]
    pub shared: u32,
    /// Answer EROFS to every request that would change something
    #[arg(long, env = "VIRTFS_READONLY", hide_env = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          value_name = "BOOL", default_value = "false", default_missing_value = "true", hide_default_value = true,
          hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub readonly: bool,
    /// Be a 9p device over vhost-user, not QEMU's proxy helper; needs --tag
    #[cfg(feature = "vhost-user")]
    #[arg(long, env = "VIRTFS_VHOST_USER", hide_env = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          value_name = "BOOL", default_value = "false", default_missing_value = "true", hide_default_value = true,
          hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub vhost_user: bool,
    /// The mount tag by which the guest knows the device
    #[cfg(feature = "vhost-user")]
    #[arg(long, value_name = "TAG", env = "VIRTFS_TAG", hide_env = true)]
    pub tag: Option<String>,
    /// What keeps the export apart from the rest of the host
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Sandbox::Namespace, env = "VIRTFS_SANDBOX", hide_env = true)]
    pub sandbox: Sandbox,
    /// What happens at a system call that no request needs
    #[arg(long, value_enum, value_name = "ACTION", default_value_t = Seccomp::Kill, env = "VIRTFS_SECCOMP", hide_env = true)]
    pub seccomp: Seccomp,
    /// Capabilities to keep or drop besides the usual: +NAME or -NAME, separated by colons
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true,
          allow_hyphen_values = true, value_parser = parse_modcaps, env = "VIRTFS_MODCAPS", hide_env = true)]
    pub modcaps: CapabilitySet,
    /// Do not start where an isolation layer that was asked for is missing
    #[arg(long, env = "VIRTFS_STRICT", hide_env = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          value_name = "BOOL", default_value = "false", default_missing_value = "true", hide_default_value = true,
          hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub strict: bool,
    /// Look for a busy client's next request for up to USEC microseconds before sleeping; 0 never looks
    #[arg(long, value_name = "USEC", default_value_t = 200, env = "VIRTFS_BUSY_POLL", hide_env = true,
          value_parser = RangedU64ValueParser::<u64>::new().range(0..=10_000))]
    pub busy_poll: u64,
    /// Close the connection of a client that sends no request for SECONDS, or does not read its replies for as long; 0 never does
    #[arg(long, value_name = "SECONDS", default_value_t = 0, env = "VIRTFS_IDLE_TIMEOUT", hide_env = true,
          value_parser = RangedU64ValueParser::<u64>::new().range(0..=31_536_000))]
    pub idle_timeout: u64,
    /// Limit of open files
    #[arg(long, value_name = "N", env = "VIRTFS_RLIMIT_NOFILE", hide_env = true)]
    pub rlimit_nofile: Option<u64>,
    /// Write the process's id to this file
    #[arg(long, value_name = "PATH", env = "VIRTFS_PID_FILE", hide_env = true)]
    pub pid_file: Option<PathBuf>,
    /// Log to syslog in the foreground too
    #[arg(long, env = "VIRTFS_SYSLOG", hide_env = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          value_name = "BOOL", default_value = "false", default_missing_value = "true", hide_default_value = true,
          hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub syslog: bool,
    /// Log lines of this weight and above
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "VIRTFS_LOG_LEVEL", hide_env = true,
          value_parser = ["off", "error", "warn", "info", "debug", "trace"])]
    pub log_level: String,
}

fn parse_modcaps(list: &str) -> Result<CapabilitySet, String> {
    if list.is_empty() {
        Ok(CapabilitySet::default())
    } else {
        list.parse().map_err(|error| format!("{error:#}"))
    }
}

impl HelperArgs {
    /// Lets the command line win where it and the environment name what does not go together: `--fd` leaves `VIRTFS_SOCKET`,
    /// `VIRTFS_PERSISTENT` and `VIRTFS_SHARED` without effect, and `--socket` leaves `VIRTFS_FD`.
    pub fn prefer_command_line(&mut self, matches: &ArgMatches) {
        let from = |id, source| matches.value_source(id) == Some(source);
        let (line, environment) = (ValueSource::CommandLine, ValueSource::EnvVariable);
        if from("socket", line) && from("fd", environment) {
            self.fd = None;
        }
        if !from("fd", line) || from("socket", line) {
            return;
        }
        if from("socket", environment) {
            self.socket = None;
        }
        if from("persistent", environment) {
            self.persistent = false;
        }
        if from("shared", environment) {
            self.shared = 1;
        }
    }
}

/// A command line that starts a helper: the program's, without its other commands.
#[derive(Debug, Parser)]
#[command(name = "virtfs-proxy-helper", infer_long_args = true, args_override_self = true)]
struct HelperLine {
    #[command(flatten)]
    helper: HelperArgs,
}

impl HelperArgs {
    /// Reads a command line that starts a helper, the program's name included, and the environment. A line with another command is
    /// an error.
    pub fn read<W: Into<OsString> + Clone>(words: impl IntoIterator<Item = W>) -> Result<Self, clap::Error> {
        let matches = without_empty_variables(HelperLine::command()).try_get_matches_from(words)?;
        let mut args = HelperLine::from_arg_matches(&matches)?.helper;
        args.prefer_command_line(&matches);
        Ok(args)
    }
}

/// The command with those variables unset that are empty, in its subcommands too: an image's setting can be undone where a variable
/// cannot be removed.
pub(crate) fn without_empty_variables(command: clap::Command) -> clap::Command {
    let unset = |arg: clap::Arg| {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty { arg.env(Resettable::Reset) } else { arg }
    };
    command.mut_args(unset).mut_subcommands(without_empty_variables)
}

/// `healthcheck`'s arguments.
#[derive(Debug, Args)]
pub(crate) struct HealthcheckArgs {
    /// The helper's socket; by default, the one that process 1 was started with, then VIRTFS_SOCKET
    #[arg(short, long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How long the helper may take to answer, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 3,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600))]
    pub timeout: u64,
}
