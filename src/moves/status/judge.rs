//! A share and its export → how far it is, and what does not fit.

use super::tree::{Said, Told, Tree, since, time};
use crate::data::form::Model;
use crate::data::journal::Stage;
use crate::data::sample::Sample;
use crate::report::audit::UnreadRow;
use crate::report::status::{Backend, Phase, StatusRow};
use crate::text::counted;
use crate::text::{escape, shell_word, unescape};

/// Judges a share; `None` for one that is no matter of a migration. What can't be seen is added to `unread`.
pub(super) fn share(
    mut row: StatusRow,
    tree: Option<Result<&Tree, &str>>,
    unread: &mut Vec<UnreadRow>,
) -> Option<StatusRow> {
    let is_local = row.backend == Some(Backend::Local);
    let model = row.security_model.as_deref().and_then(model);
    if is_local && model.is_none() && !tree.is_some_and(|tree| tree.is_ok_and(is_touched)) {
        return None;
    }
    row.phase = if is_local { Phase::Local } else { Phase::Proxy };
    let told = match tree {
        None => {
            if is_local {
                let reason = format!("the directory of the share '{}' over local is not known", row.name());
                unread.push(UnreadRow { file: row.places.first().cloned(), reason });
            }
            row.next = (!is_local).then(|| "find out its directory: `migrate plan` asks for it".to_owned());
            return Some(row);
        }
        Some(Err(reason)) => {
            unread.push(UnreadRow { file: row.export.clone(), reason: reason.to_owned() });
            return Some(row);
        }
        Some(Ok(tree)) => match &tree.said {
            Said::Doubt(problem) => {
                row.problem = Some(problem.clone());
                return Some(row);
            }
            Said::Nothing => {
                untold(&mut row, tree, model, unread);
                return Some(row);
            }
            Said::Journal(told) => told,
        },
    };
    let export = row.export.clone().unwrap_or_default();
    match row.backend {
        Some(Backend::Local) => local(&mut row, told, &export),
        _ => proxy(&mut row, told, &export),
    }
    Some(row)
}

/// A mapped model by QEMU's names for it.
fn model(name: &str) -> Option<Model> {
    match name {
        "mapped" | "mapped-xattr" => Some(Model::MappedXattr),
        "mapped-file" => Some(Model::MappedFile),
        _ => None,
    }
}

/// Whether the files of an export are other than they were before its conversion.
fn is_touched(tree: &Tree) -> bool {
    match &tree.said {
        Said::Nothing => false,
        Said::Doubt(_) => true,
        Said::Journal(told) => {
            matches!(told.stage, Stage::Converting | Stage::Converted | Stage::RollingBack)
        }
    }
}

/// A share over the proxy backend, by the journal of its export.
fn proxy(row: &mut StatusRow, told: &Told, export: &str) {
    match told.stage {
        Stage::Recording => plan_next(row),
        Stage::RolledBack => {
            row.phase = if told.unmaps { Phase::Proxy } else { Phase::Undone };
            plan_next(row);
        }
        Stage::Converting | Stage::RollingBack => in_progress(row, told, export),
        Stage::Converted => {
            row.problem = Some(format!(
                "its export is converted to {} ({}), and the share still uses the proxy: over it the guest sees QEMU's user as the owner \
                 of all files",
                escape(told.model.as_bytes()),
                since(told)
            ));
            row.next = Some(format!(
                "keep the guest shut down; then `migrate config --in-place` for its configuration, or `{}`",
                command("rollback", export)
            ));
        }
    }
}

/// A share over the local backend, by the journal of its export.
fn local(row: &mut StatusRow, told: &Told, export: &str) {
    let own = row.security_model.as_deref().and_then(model);
    match told.stage {
        Stage::Recording | Stage::Converting | Stage::RollingBack => in_progress(row, told, export),
        Stage::RolledBack => {
            let what = if told.unmaps { "unmapped" } else { "rolled back" };
            row.problem = Some(format!(
                "its export was {what}, and the share still uses local with a mapped security model"
            ));
            row.next = Some(format!(
                "keep the guest shut down; then put its configuration back, or `{}`",
                command("convert", export)
            ));
        }
        Stage::Converted if own.is_none_or(|own| own.name() != told.model) => {
            row.problem = Some(format!(
                "its export is converted to {}, and the share says security_model={}",
                escape(told.model.as_bytes()),
                row.security_model.as_deref().unwrap_or("(not known)")
            ));
            row.next =
                Some(format!("set security_model={} in its configuration", escape(told.model.as_bytes())));
        }
        Stage::Converted if told.is_adopting => {
            row.phase = Phase::InProgress;
            row.step = Some("adoption of files that were added on the host".to_owned());
            row.next = Some(format!("`{}`", command("convert --adopt", export)));
        }
        Stage::Converted => {
            row.phase = Phase::Converted;
            row.since = Some(since(told));
        }
    }
}

fn in_progress(row: &mut StatusRow, told: &Told, export: &str) {
    row.phase = Phase::InProgress;
    row.since = Some(time(told.begun));
    row.step = Some(told.stage.name().to_owned());
    row.problem = Some(unfinished(told));
    row.next = Some(go_on(told, export));
}

/// What a conversion, a rollback or an unmapping that has not got to its end means.
pub(super) fn unfinished(told: &Told) -> String {
    let what = match (told.stage, told.unmaps) {
        (_, true) => "unmapping",
        (Stage::RollingBack, false) => "rollback",
        _ => "conversion",
    };
    format!(
        "the {what} of its export is not finished: it is going on, or was interrupted. Do not start the guest before it is"
    )
}

/// The command that ends it.
pub(super) fn go_on(told: &Told, export: &str) -> String {
    match (told.stage, told.unmaps) {
        (_, true) => format!("`{}` goes on", command("unmap", export)),
        (Stage::RollingBack, false) => format!("`{}` goes on", command("rollback", export)),
        _ => format!(
            "`{}` goes on, `{}` takes it back",
            command("convert", export),
            command("rollback", export)
        ),
    }
}

/// A share of whose export no journal tells.
fn untold(row: &mut StatusRow, tree: &Tree, model: Option<Model>, unread: &mut Vec<UnreadRow>) {
    let sample = match tree.sample(model) {
        Ok(sample) => sample,
        Err(error) => {
            unread.push(UnreadRow { file: row.export.clone(), reason: error.to_string() });
            return;
        }
    };
    let Sample { mapped, plain, .. } = sample;
    let looked = counted(sample.entries(), "entry");
    if row.backend == Some(Backend::Proxy) {
        plan_next(row);
        if mapped > 0 {
            row.problem = Some(format!(
                "no journal of a conversion is beside its export, and entries with mapped attributes are in it ({mapped} of {looked} looked at): it \
                 is, at least in part, a converted tree, or a copy of one"
            ));
            row.next =
                Some("restore the journal, or take the mapped attributes back by `migrate unmap`".to_owned());
        }
    } else if plain > 0 {
        row.problem = Some(format!(
            "no journal of a conversion is beside its export, and entries without mapped attributes are in it ({plain} of {looked} looked \
             at): the guest sees their real owners and modes, which are to be QEMU's"
        ));
        row.next = Some("`migrate check` says what is in the export".to_owned());
    }
}

fn plan_next(row: &mut StatusRow) {
    row.next = Some("`migrate plan`".to_owned());
}

/// A command of this program's about an export.
fn command(verb: &str, export: &str) -> String {
    let word = shell_word(&unescape(export));
    format!("migrate {verb} {} --apply", escape(&word))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn told(stage: Stage) -> Told {
        Told {
            journal: PathBuf::from("/srv/a.virtfs-journal"),
            stage,
            model: "mapped-xattr".to_owned(),
            owner: (1, 1),
            begun: 0,
            converted: (stage > Stage::Converting).then_some(60),
            is_adopting: false,
            has_adopted: false,
            unmaps: false,
        }
    }

    fn judged(model: Option<&str>, said: Said) -> Option<StatusRow> {
        let row = StatusRow {
            export: Some("/srv/a".to_owned()),
            backend: Some(if model.is_some() { Backend::Local } else { Backend::Proxy }),
            security_model: model.map(str::to_owned),
            ..StatusRow::default()
        };
        let tree = Tree::with(PathBuf::from("/srv/a"), said);
        share(row, Some(Ok(&tree)), &mut Vec::new())
    }

    /// Which backend and security model, how far the journal is, the phase, a part of the problem.
    type Case = (Option<&'static str>, Stage, Phase, Option<&'static str>);

    const TABLE: &[Case] = &[
        (None, Stage::Recording, Phase::Proxy, None),
        (None, Stage::Converting, Phase::InProgress, Some("conversion of its export is not finished")),
        (None, Stage::Converted, Phase::Proxy, Some("the share still uses the proxy")),
        (None, Stage::RollingBack, Phase::InProgress, Some("rollback of its export is not finished")),
        (None, Stage::RolledBack, Phase::Undone, None),
        (Some("mapped-xattr"), Stage::Recording, Phase::InProgress, Some("is not finished")),
        (Some("mapped-xattr"), Stage::Converting, Phase::InProgress, Some("is not finished")),
        (Some("mapped-xattr"), Stage::Converted, Phase::Converted, None),
        (Some("mapped"), Stage::Converted, Phase::Converted, None),
        (Some("mapped-file"), Stage::Converted, Phase::Local, Some("security_model=mapped-file")),
        (Some("mapped-xattr"), Stage::RollingBack, Phase::InProgress, Some("is not finished")),
        (Some("mapped-xattr"), Stage::RolledBack, Phase::Local, Some("was rolled back")),
        (Some("passthrough"), Stage::Converting, Phase::InProgress, Some("is not finished")),
        (Some("none"), Stage::Converted, Phase::Local, Some("security_model=none")),
    ];

    #[test]
    fn a_share_fits_its_export_or_the_row_says_what_does_not() {
        for (model, stage, phase, problem) in TABLE {
            let row = judged(*model, Said::Journal(told(*stage))).unwrap();
            assert_eq!(row.phase, *phase, "{model:?} {stage:?}");
            match problem {
                Some(part) => {
                    let said =
                        row.problem.as_ref().unwrap_or_else(|| panic!("{model:?} {stage:?}: no problem"));
                    assert!(said.contains(part), "{model:?} {stage:?}: {said}");
                    assert!(row.next.is_some(), "{model:?} {stage:?}: nothing comes next");
                }
                None => assert_eq!(row.problem, None, "{model:?} {stage:?}"),
            }
        }
    }

    #[test]
    fn shares_that_are_no_matter_of_a_migration_are_left_out() {
        for (model, stage, is_there) in [
            ("passthrough", Stage::Recording, false),
            ("passthrough", Stage::RolledBack, false),
            ("passthrough", Stage::Converted, true),
            ("mapped-xattr", Stage::RolledBack, true),
        ] {
            let row = judged(Some(model), Said::Journal(told(stage)));
            assert_eq!(row.is_some(), is_there, "{model} {stage:?}");
        }
    }

    #[test]
    fn a_journal_that_cannot_be_relied_on_says_nothing_good() {
        for model in [None, Some("mapped-xattr"), Some("passthrough")] {
            let row = judged(model, Said::Doubt("it is damaged".to_owned())).unwrap();
            assert_eq!(row.problem.as_deref(), Some("it is damaged"), "{model:?}");
            assert!(matches!(row.phase, Phase::Proxy | Phase::Local), "{model:?}");
        }
        let mut unmapped = told(Stage::RolledBack);
        unmapped.unmaps = true;
        let row = judged(Some("mapped-xattr"), Said::Journal(unmapped)).unwrap();
        assert!(row.problem.unwrap().contains("was unmapped"));
        let mut adopting = told(Stage::Converted);
        adopting.is_adopting = true;
        assert_eq!(judged(Some("mapped-xattr"), Said::Journal(adopting)).unwrap().phase, Phase::InProgress);
    }
}
