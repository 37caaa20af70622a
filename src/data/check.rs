//! `migrate check`: whether an export's files can move, to which model, and what that takes. Changes nothing.

use anyhow::Context;

use super::form::Model;
use super::owner::Owner;
use crate::data::options::CheckArgs;
use crate::exit::Outcome;
use crate::report::check::CheckDocument;
use crate::report::finding;
use crate::report::{self, Counts, FindingRow, SCHEMA, rows};

mod configuration;
mod cost;
mod document;
mod earlier;
pub(crate) mod entries;
mod facts;
mod judgement;
mod system;
mod trial;

use self::document::{entries_row, filesystem_row, owner_rows, user_rows};
pub(crate) use cost::{of as cost, rollback_room};
pub(crate) use facts::Facts;
pub(crate) use judgement::{findings, live as live_findings, system as system_finding};
pub(crate) use system::is_by_name as is_system_by_name;
pub(super) use system::reasons as system_reasons;

/// `migrate check`.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<Outcome> {
    if args.look.schema {
        report::print_schema::<CheckDocument>()?;
        return Ok(Outcome::Clean);
    }
    let export = args.export.as_deref().context("name the export to check")?;
    if let Some(told) = &args.trial {
        trial::attempt(export, told)?;
        return Ok(Outcome::Clean);
    }
    let tried = trial::findings(export, args)?;
    let owner = match args.owner.as_ref().or(args.run_as.as_ref()) {
        Some(owner) => Some(Owner::parse(owner)?),
        None => Owner::of_libvirt()?,
    };
    let facts = Facts::gather(export, owner, args.look.jobs())?;
    let document = document(&facts, args.security_model, tried, args.look.jobs());
    report::print(&document, args.look.format)?;
    Ok(report::exit_zero(document.outcome(), args.look.exit_zero))
}

fn document(facts: &Facts, asked: Option<Model>, tried: Vec<finding::Finding>, jobs: usize) -> CheckDocument {
    let model = asked.unwrap_or_else(|| facts.fitting_model());
    let cost = cost::of(facts, model);
    let mut findings = findings(facts, model, asked.is_some(), &cost);
    if let Some(earlier) = earlier::conversion(&facts.export, &facts.tree) {
        // It says where the attributes come from.
        findings.retain(|finding| *finding.kind != finding::ALREADY_MAPPED);
        findings.insert(0, earlier);
        findings.extend(earlier::additions(&facts.export, &facts.tree, jobs));
    }
    findings.extend(tried);
    let findings: Vec<_> = findings.iter().map(FindingRow::from).collect();
    CheckDocument {
        schema: SCHEMA,
        export: rows::path(&facts.export),
        security_model: model.name().into(),
        owner: facts.owner.as_ref().map(ToString::to_string),
        filesystem: filesystem_row(&facts.filesystem),
        entries: entries_row(&facts.survey),
        owners: owner_rows(&facts.survey),
        in_use: user_rows(&facts.live),
        cost,
        configuration: configuration::of(facts, model),
        summary: Counts::of(&findings),
        findings,
    }
}
