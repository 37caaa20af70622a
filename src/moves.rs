//! How the guests of this host leave the proxy backend, from the first step to the last: `migrate plan` says how and changes nothing.
//! `migrate apply` does it, and `migrate undo` takes it back.
//!
//! They ask this program's other verbs, as their own processes, and the managers of guests (virsh, qm, systemctl).

mod actions;
mod agent;
mod answers;
mod apply;
mod configuration;
mod document;
mod engine;
mod exports;
mod found;
mod guests;
mod helpers;
mod manager;
mod managers;
mod mounted;
pub(crate) mod options;
mod owner;
mod page;
mod place;
mod plan;
mod qemu;
mod run;
mod snapshot;
mod state;
mod status;
mod steps;
mod telling;
mod tool;

pub(crate) use apply::{apply, undo};

use crate::exit::Outcome;
use crate::moves::options::{PlanArgs, StatusArgs};
use crate::report::status::StatusDocument;
use crate::report::{self, Format, print_schema};
use document::PlanDocument;

/// Runs `migrate plan`.
pub(crate) fn plan(args: &PlanArgs) -> anyhow::Result<Outcome> {
    if args.schema {
        print_schema::<PlanDocument>()?;
        return Ok(Outcome::Clean);
    }
    if !nix::unistd::Uid::effective().is_root() {
        anyhow::bail!("a plan needs to see all processes and files: run it as root");
    }
    let document = plan::make(args)?;
    let to_file = args.output.as_deref().is_some_and(|path| path != std::path::Path::new("-"));
    let format = if to_file && args.format == Format::Text { Format::Yaml } else { args.format };
    report::put(args.output.as_deref(), |out| report::write(&document, format, out))?;
    if let Some(file) = args.output.as_deref().filter(|_| to_file) {
        let file = crate::text::escape_path(file);
        let next = match document.outcome() {
            _ if document.moves.is_empty() => String::new(),
            Outcome::Findings => {
                ". Answer the questions by the options that the plan names, and plan again".to_owned()
            }
            _ if document.root.is_some() => {
                ". `migrate apply` does not take this plan: make one on the host itself before you move a guest".to_owned()
            }
            _ => format!(". Read '{file}'; `migrate apply '{file}'` carries it out"),
        };
        complain!("virtfs-proxy-helper: {}{next}", document.conclusion());
    }
    Ok(document.outcome())
}

/// Runs `migrate status`.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<Outcome> {
    if args.schema {
        print_schema::<StatusDocument>()?;
        return Ok(Outcome::Clean);
    }
    let document = status::look(args)?;
    report::put(args.output.as_deref(), |out| report::write(&document, args.format, out))?;
    Ok(report::exit_zero(document.outcome(), args.exit_zero))
}
