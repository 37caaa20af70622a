//! `migrate status`: how far the guests and exports of a host are.
//!
//! It puts together what an audit finds, what the journals beside the exports say, and the state of moves. It changes nothing.

mod judge;
mod moves;
mod rows;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::document::path_of;
use super::state::{self, MoveState};
use crate::data::journal::Stage;
use crate::moves::options::StatusArgs;
use crate::report::audit::UnreadRow;
use crate::report::finding;
use crate::report::rows::path as shown;
use crate::report::status::{Backend, ExportRow, StatusDocument, StatusRow};
use crate::sources::audit::{Survey, survey};
use tree::{Said, Tree, time};

/// Looks at this host, or at the one below `--root`.
pub(super) fn look(args: &StatusArgs) -> anyhow::Result<StatusDocument> {
    let survey = survey(&args.paths, args.root.as_deref())?;
    let mut unread = survey.audit.unread.iter().collect::<Result<Vec<UnreadRow>, _>>()?;
    for row in survey.audit.findings.iter() {
        let row = row?;
        if row.id == finding::NOT_SEEN.id {
            unread.push(UnreadRow { file: row.file, reason: row.message });
        }
    }
    let known = moves_of(args, &survey, &mut unread);
    let mut trees = Trees { survey: &survey, known: BTreeMap::new() };
    let mut shares = Vec::new();
    for mut row in rows::of(&survey)? {
        let tree = row.export.as_ref().map(|export| trees.at(&path_of(export)));
        if let Some(Ok(tree)) = tree {
            row.export = Some(shown(&tree.path));
        }
        let told = tree.and_then(Result::ok).and_then(Tree::told);
        if let Some(mut row) = judge::share(row, tree, &mut unread) {
            moves::add(&mut row, told, &known);
            shares.push(row);
        }
    }
    shares.extend(moves::missing(&shares, &known));
    let shares = rows::merged(shares);
    let exports = exports(&survey, &mut trees, &shares)?;
    unread.sort_by(|one, other| (&one.file, &one.reason).cmp(&(&other.file, &other.reason)));
    unread.dedup();
    Ok(StatusDocument::new(survey.audit.origin.clone(), shares, exports, unread))
}

/// What the state on the host knows of moves.
fn moves_of(args: &StatusArgs, survey: &Survey, unread: &mut Vec<UnreadRow>) -> Vec<MoveState> {
    let folder = args.state.clone().unwrap_or_else(|| PathBuf::from(state::DEFAULT));
    let found = match survey.directory(&folder) {
        Ok((_, here)) => state::all(&here).map_err(|error| survey.as_on_host(&format!("{error:#}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Survey::why(&error)),
    };
    found.unwrap_or_else(|reason| {
        unread.push(UnreadRow { file: Some(shown(&folder)), reason });
        Vec::new()
    })
}

/// The exports that were looked at, each once.
struct Trees<'s> {
    survey: &'s Survey,
    known: BTreeMap<PathBuf, Result<Tree, String>>,
}

impl Trees<'_> {
    fn at(&mut self, path: &Path) -> Result<&Tree, &str> {
        let survey = self.survey;
        let known = self
            .known
            .entry(path.to_owned())
            .or_insert_with(|| Tree::of(survey, path).map_err(|error| Survey::why(&error)));
        known.as_ref().map_err(String::as_str)
    }
}

/// The exports with a journal, with the problems that no share tells of.
fn exports(survey: &Survey, trees: &mut Trees, shares: &[StatusRow]) -> anyhow::Result<Vec<ExportRow>> {
    let of_shares = shares.iter().filter_map(|row| row.export.as_ref()).map(|export| path_of(export));
    let paths: Vec<_> = of_shares.chain(survey.journaled.iter().cloned()).collect();
    let mut helpers: BTreeMap<PathBuf, Vec<i32>> = BTreeMap::new();
    for helper in survey.audit.helpers.iter() {
        let helper = helper?;
        if let Some((export, pid)) = helper.export.zip(helper.pid)
            && let Ok((export, _)) = survey.directory(&path_of(&export))
        {
            helpers.entry(export).or_default().push(pid);
        }
    }
    let mut rows: BTreeMap<PathBuf, ExportRow> = BTreeMap::new();
    for path in paths {
        let Ok(tree) = trees.at(&path) else { continue };
        if rows.contains_key(&tree.path) {
            continue;
        }
        let name = shown(&tree.path);
        let of: Vec<_> = shares.iter().filter(|row| row.export.as_ref() == Some(&name)).collect();
        let serving = helpers.get(&tree.path).cloned().unwrap_or_default();
        rows.extend(export(tree, name, &of, serving).map(|row| (tree.path.clone(), row)));
    }
    Ok(rows.into_values().collect())
}

/// What is to be said of an export; `None` where it has neither a journal nor a problem of its own.
fn export(tree: &Tree, name: String, shares: &[&StatusRow], helpers: Vec<i32>) -> Option<ExportRow> {
    let row = ExportRow { export: name, shares: shares.len() as u64, helpers, ..ExportRow::default() };
    let told = match &tree.said {
        Said::Nothing => return None,
        Said::Doubt(problem) if shares.is_empty() => {
            return Some(ExportRow { problem: Some(problem.clone()), ..row });
        }
        Said::Doubt(_) => return Some(row),
        Said::Journal(told) => told,
    };
    let is_local = shares.iter().any(|share| share.backend == Some(Backend::Local));
    let is_touched = matches!(told.stage, Stage::Converting | Stage::Converted | Stage::RollingBack);
    let (problem, next) = match told.stage {
        Stage::Converting | Stage::RollingBack if shares.is_empty() => {
            (Some(judge::unfinished(told)), Some(judge::go_on(told, &row.export)))
        }
        Stage::Converted if shares.is_empty() => (
            Some("it is converted, and no share over the local backend that uses it was found".to_owned()),
            Some(
                "name the files of its guest as PATH, or take the conversion back by `migrate rollback`"
                    .to_owned(),
            ),
        ),
        _ if is_touched && is_local && !row.helpers.is_empty() => (
            Some(format!(
                "it is {}, and {} still serves it over the proxy",
                told.stage.name(),
                processes(&row.helpers)
            )),
            Some("shut its guests down and end the helper".to_owned()),
        ),
        _ => (None, None),
    };
    Some(ExportRow {
        journal: Some(shown(&told.journal)),
        stage: Some(told.stage.name().to_owned()),
        security_model: Some(crate::text::escape(told.model.as_bytes()).into_owned()),
        owner: Some(format!("{}:{}", told.owner.0, told.owner.1)),
        begun: Some(time(told.begun)),
        converted: told.converted.map(time),
        problem,
        next,
        ..row
    })
}

fn processes(pids: &[i32]) -> String {
    let numbers: Vec<_> = pids.iter().map(ToString::to_string).collect();
    format!(
        "{} {}",
        if pids.len() == 1 { "the helper process" } else { "each of the helper processes" },
        numbers.join(", ")
    )
}
