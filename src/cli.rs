//! The command line: the program's commands. Each room declares the options of its own.

mod help;

use std::ffi::OsString;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::data::options::{
    CheckArgs, ConvertArgs, JournalArgs, ManifestArgs, RollbackArgs, UnmapArgs, VerifyArgs,
};
use crate::helper::options::{HealthcheckArgs, HelperArgs, without_empty_variables};
use crate::moves::options::{ApplyArgs, PlanArgs, StatusArgs, UndoArgs};
use crate::report::fleet::options::ReportArgs;
use crate::sources::audit::options::AuditArgs;
use crate::sources::config::options::ConfigArgs;

/// QEMU's 9p proxy helper, and the way off the proxy backend.
#[derive(Debug, Parser)]
#[command(
    name = "virtfs-proxy-helper",
    version,
    args_conflicts_with_subcommands = true,
    infer_long_args = true,
    args_override_self = true,
    after_help = help::ENVIRONMENT,
    after_long_help = help::HELPER
)]
pub struct Cli {
    /// What to do instead of serving an export.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The helper's own options.
    #[command(flatten)]
    pub helper: HelperArgs,
}

impl Cli {
    /// Reads a command line, the program's name included, and the environment. An empty variable counts as
    /// unset.
    pub(crate) fn read<W: Into<OsString> + Clone>(
        words: impl IntoIterator<Item = W>,
    ) -> Result<Self, clap::Error> {
        let mut command = without_empty_variables(Self::command());
        let matches = command.try_get_matches_from_mut(words)?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        cli.helper.prefer_command_line(&matches);
        Ok(cli)
    }
}

/// What the program does besides serving an export.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the helper of this container, or the one behind a socket, whether it serves. Takes no client's place.
    #[command(after_long_help = help::HEALTHCHECK)]
    Healthcheck(HealthcheckArgs),
    /// Move shares from the proxy backend to local + mapped: find, rewrite, convert, verify, take back.
    #[command(after_long_help = help::MIGRATE)]
    Migrate(MigrateArgs),
}

/// `migrate`'s arguments.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The step.
    #[command(subcommand)]
    pub verb: MigrateVerb,
}

/// The steps of a migration.
#[derive(Debug, Subcommand)]
pub(crate) enum MigrateVerb {
    /// Find every proxy setup on this machine, or in the files given.
    #[command(after_long_help = help::AUDIT)]
    Audit(AuditArgs),
    /// Rewrite one configuration: each proxy share becomes its local, mapped equivalent.
    #[command(after_long_help = help::CONFIG)]
    Config(ConfigArgs),
    /// Say whether an export's files can move, to which model, and what that takes. Changes nothing.
    #[command(after_long_help = help::CHECK)]
    Check(CheckArgs),
    /// Convert an export's files, so that the guest sees through local + mapped what it saw before.
    #[command(after_long_help = help::CONVERT)]
    Convert(ConvertArgs),
    /// Prove a conversion against its journal.
    #[command(after_long_help = help::VERIFY)]
    Verify(VerifyArgs),
    /// Take a conversion back.
    #[command(after_long_help = help::ROLLBACK)]
    Rollback(RollbackArgs),
    /// Print what a conversion's journal says, and check every record of it. Changes nothing.
    #[command(after_long_help = help::JOURNAL)]
    Journal(JournalArgs),
    /// Give the files of a mapped tree the owners, modes and types that its guest sees. Needs no journal of a conversion.
    #[command(after_long_help = help::UNMAP)]
    Unmap(UnmapArgs),
    /// Describe a tree as the guest sees it: stable, sorted, diffable.
    #[command(after_long_help = help::MANIFEST)]
    Manifest(ManifestArgs),
    /// Plan the whole move of this host's guests: every step with its command, the way back, and what is open. Changes nothing.
    #[command(after_long_help = help::PLAN)]
    Plan(Box<PlanArgs>),
    /// Say how far each guest and export of this host is, and what does not fit. Changes nothing.
    #[command(after_long_help = help::STATUS)]
    Status(StatusArgs),
    /// Carry a plan out, guest by guest. When a step fails, take back what was done.
    #[command(after_long_help = help::APPLY)]
    Apply(Box<ApplyArgs>),
    /// Take an applied plan back: the files, the configuration and the helpers are as before.
    #[command(after_long_help = help::UNDO)]
    Undo(Box<UndoArgs>),
    /// Merge the audits of many hosts into one report.
    #[command(after_long_help = help::REPORT)]
    Report(ReportArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::invocation::OPTIONS;

    fn has_end_of_help(command: &clap::Command) {
        let end = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let name = command.get_name();
        assert!(
            end.contains("Exit status:\n") && end.contains("Examples:\n"),
            "src/cli/help.rs lacks {name}"
        );
        command.get_subcommands().filter(|below| below.get_name() != "help").for_each(has_end_of_help);
    }

    #[test]
    fn each_command_has_exit_statuses_and_examples() {
        has_end_of_help(&Cli::command());
    }

    #[test]
    fn the_table_of_other_processes_options_is_this_programs() {
        let mut command = Cli::command();
        command.build();
        let mut declared: Vec<_> = command
            .get_arguments()
            .filter(|argument| argument.get_id() != "version" && argument.get_id() != "help")
            .filter_map(|argument| {
                let takes = argument.get_num_args().is_some_and(|count| count.min_values() > 0);
                Some((argument.get_long()?, argument.get_short(), takes))
            })
            .collect();
        declared.push(("help", Some('h'), false));
        for option in &declared {
            assert!(OPTIONS.contains(option), "{option:?} is missing");
        }
        assert_eq!(OPTIONS.len(), declared.len());
    }
}
