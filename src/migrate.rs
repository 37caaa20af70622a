//! `migrate`: one arm a verb.

use crate::cli::MigrateVerb;
use crate::exit::Outcome;

/// Runs one step of a migration. Errors are printed here, once, with their context.
pub(crate) fn run(verb: MigrateVerb) -> Outcome {
    let result = match verb {
        MigrateVerb::Audit(args) => crate::sources::audit::run(&args),
        MigrateVerb::Config(args) => crate::sources::config::run(&args),
        MigrateVerb::Check(args) => crate::data::check(&args),
        MigrateVerb::Convert(args) => crate::data::convert(&args),
        MigrateVerb::Verify(args) => crate::data::verify(&args),
        MigrateVerb::Rollback(args) => crate::data::rollback(&args),
        MigrateVerb::Journal(args) => crate::data::journal(&args),
        MigrateVerb::Unmap(args) => crate::data::unmap(&args),
        MigrateVerb::Manifest(args) => crate::data::manifest(&args),
        MigrateVerb::Plan(args) => crate::moves::plan(&args),
        MigrateVerb::Status(args) => crate::moves::status(&args),
        MigrateVerb::Apply(args) => crate::moves::apply(&args),
        MigrateVerb::Undo(args) => crate::moves::undo(&args),
        MigrateVerb::Report(args) => crate::report::fleet::run(&args),
    };
    result.unwrap_or_else(|error| {
        complain!("virtfs-proxy-helper: {error:#}");
        Outcome::Failure
    })
}
