//! The command line: declarations only.

mod audit;
mod config;
mod data;
mod helper;
mod report;

use clap::{Args, Parser, Subcommand};

pub use audit::{AuditArgs, AuditFormat};
pub use config::{ConfigArgs, Snippet};
pub use data::{
    CheckArgs, ConvertArgs, JournalArgs, ManifestArgs, ProgressMode, RollbackArgs, TreeForm, UnmapArgs,
    VerifyArgs, WorkArgs,
};
pub use helper::{HealthcheckArgs, HelperArgs};
pub use report::{By, FleetFormat, ReportArgs};

/// QEMU's 9p proxy helper, and the way off the proxy backend.
#[derive(Debug, Parser)]
#[command(
    name = "virtfs-proxy-helper",
    version,
    args_conflicts_with_subcommands = true,
    infer_long_args = true,
    args_override_self = true,
    after_help = "Each helper option can come from the environment too, by its name: VIRTFS_SOCKET is --socket. The command \
                  line wins."
)]
pub struct Cli {
    /// What to do instead of serving an export.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The helper's own options.
    #[command(flatten)]
    pub helper: HelperArgs,
}

/// What the program does besides serving an export.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the helper of this container, or the one behind a socket, whether it serves. Takes no client's place.
    Healthcheck(HealthcheckArgs),
    /// Move shares from the proxy backend to local + mapped: find, rewrite, convert, verify, take back.
    Migrate(MigrateArgs),
}

/// `migrate`'s arguments.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The step.
    #[command(subcommand)]
    pub verb: MigrateVerb,
}

/// The steps of a migration.
#[derive(Debug, Subcommand)]
pub enum MigrateVerb {
    /// Find every proxy setup on this machine, or in the files given.
    Audit(AuditArgs),
    /// Rewrite one configuration: each proxy share becomes its local, mapped equivalent.
    Config(ConfigArgs),
    /// Say whether an export's files can move, to which model and at what price. Changes nothing.
    Check(CheckArgs),
    /// Convert an export's files, so that the guest sees through local + mapped what it saw before.
    Convert(ConvertArgs),
    /// Prove a conversion against its journal.
    Verify(VerifyArgs),
    /// Take a conversion back.
    Rollback(RollbackArgs),
    /// Print what a conversion's journal says, and check every record of it. Changes nothing.
    Journal(JournalArgs),
    /// Give the files of a mapped tree the owners, modes and types that its guest sees. Needs no journal of a conversion.
    Unmap(UnmapArgs),
    /// Describe a tree as the guest sees it: stable, sorted, diffable.
    Manifest(ManifestArgs),
    /// Merge the audits of many hosts into one report.
    Report(ReportArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::invocation::OPTIONS;
    use clap::CommandFactory;

    #[test]
    fn the_table_of_other_processes_options_is_this_programs() {
        let command = Cli::command();
        let mut declared: Vec<_> = command
            .get_arguments()
            .filter(|argument| argument.get_id() != "version")
            .filter_map(|argument| {
                Some((argument.get_long()?, argument.get_short(), argument.get_action().takes_values()))
            })
            .collect();
        declared.push(("help", Some('h'), false));
        for option in &declared {
            assert!(OPTIONS.contains(option), "{option:?} is missing");
        }
        assert_eq!(OPTIONS.len(), declared.len());
    }
}
