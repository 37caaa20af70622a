//! `migrate audit`: every proxy setup of a host, joined and judged.

mod advise;
mod exports;
mod host;
mod judge;
mod kept;
mod listening;
mod listings;
mod local;
mod look;
mod managers;
mod merge;
mod named;
pub(crate) mod options;
mod places;
mod proc;
mod processes;
mod progress;
mod qemu;
mod rewritable;
mod root_user;
mod scan;
mod serving;
mod sift;
mod sockets;
mod started;
mod survey;
mod unpack;
mod uses;
mod walk;

use crate::exit::Outcome;
use crate::report::audit::AuditDocument;
use crate::report::formats::write_audit;
use crate::report::{self, exit_zero, print_schema};
pub(crate) use host::Host;
pub(super) use host::{BEGINNING, MAX_FILE};
pub(super) use named::{EMPTY, can_hold_all, unknown_form};
use options::AuditArgs;
pub(crate) use survey::{Survey, directory_of, running_now, survey};
pub(super) use unpack::{Packed, unpack};

/// Runs it.
pub(crate) fn run(args: &AuditArgs) -> anyhow::Result<Outcome> {
    if args.schema {
        print_schema::<AuditDocument>()?;
        return Ok(Outcome::Clean);
    }
    let document = look::look(args)?.document;
    report::put(args.output.as_deref(), |out| write_audit(&document, args.format, out))?;
    Ok(exit_zero(document.outcome(), args.exit_zero))
}
