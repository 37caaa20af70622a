//! The directories that guests export, as `migrate check` sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd as _;
use std::path::Path;

use super::document::{Export, Guest, Question, Share, path_of};
use super::place::Place;
use super::tool;
use crate::data::journal::{Journal, Stage, default_path};
use crate::moves::options::PlanArgs;
use crate::report::FindingRow;
use crate::report::check::CheckDocument;
use crate::report::finding::{self, Severity};
use crate::text::escape;

/// Checks each directory, and asks for what is not known.
pub(super) fn of(
    questions: &mut Vec<Question>,
    guests: &[Guest],
    args: &PlanArgs,
    place: &Place,
) -> Vec<Export> {
    let mut owners: BTreeMap<&str, BTreeSet<Option<&str>>> = BTreeMap::new();
    for guest in guests {
        for share in &guest.shares {
            match &share.export {
                Some(export) => {
                    owners.entry(export).or_default().insert(guest.owner.as_deref());
                }
                None => questions.push(unknown_export(guest, share)),
            }
        }
    }
    let pids: Vec<_> = guests.iter().filter_map(|guest| guest.pid).collect();
    let mut exports = Vec::new();
    for (path, owners) in owners {
        let known: Vec<_> = owners.iter().flatten().collect();
        if known.len() > 1 {
            let names: Vec<_> = known.iter().map(|owner| **owner).collect();
            questions.push(Question {
                about: path.to_owned(),
                text: format!(
                    "its guests' QEMUs run as different users ({}), and converted files belong to one: let them run as one user",
                    names.join(", ")
                ),
                option: None,
            });
        }
        exports.push(export(path, known.first().map(|owner| **owner), &pids, questions, args, place));
    }
    exports
}

fn unknown_export(guest: &Guest, share: &Share) -> Question {
    let name = share.called();
    Question {
        about: guest.name.clone(),
        text: format!("nothing says which directory the share {name} exports"),
        option: Some(format!("--export {name}=PATH")),
    }
}

/// One directory: what `check` says, and what of it stands in the way.
fn export(
    path: &str,
    owner: Option<&str>,
    guests: &[i32],
    questions: &mut Vec<Question>,
    args: &PlanArgs,
    place: &Place,
) -> Export {
    let mut words = vec![OsString::from("--format=json")];
    // Another host's names mean nothing here.
    let number = owner.and_then(|owner| place.owner(OsStr::new(owner)).ok());
    let number = number.map(|owner| format!("{}:{}", owner.uid, owner.gid)).filter(|_| place.is_elsewhere());
    words.extend(number.as_deref().or(owner).map(|owner| format!("--owner={owner}").into()));
    words.extend(args.security_model.map(|model| format!("--security-model={}", model.name()).into()));
    words.extend(["--".into(), place.here(&path_of(path)).into_os_string()]);
    let ask = |text: String, option: Option<String>| Question { about: path.to_owned(), text, option };
    let mut checked: CheckDocument = match tool::document("check", words) {
        Ok(checked) => checked,
        Err(error) => {
            questions.push(ask(place.as_on_host(&format!("it can't be checked: {error:#}")), None));
            return Export { path: path.to_owned(), owner: owner.map(str::to_owned), ..Export::default() };
        }
    };
    let begun = Begun::of(&place.here(&path_of(path)));
    if let Some(begun) = &begun {
        questions.extend(begun.objection(owner, place).map(|text| ask(text, None)));
    }
    // The guest and its helper are stopped before the conversion; nobody else may use the export then.
    let strangers: Vec<_> = checked
        .in_use
        .iter()
        .filter(|user| {
            user.busy
                && !place.is_elsewhere()
                && user.kind != "helper"
                && user.pid.is_none_or(|pid| !guests.contains(&pid))
        })
        .collect();
    for user in &strangers {
        questions
            .push(ask(format!("it is in use by another than its guests and helpers: {}", user.how), None));
    }
    let mut ours = vec![finding::LIVE_EXPORT.id, finding::EXPORT_IN_USE.id];
    // What the host has added to a converted export is adopted on the way.
    if place.is_elsewhere() {
        // What uses an export here, and what is this machine's system, says nothing of that host.
        ours.extend([finding::PROCESSES_UNSEEN.id, finding::NOT_PRIVILEGED.id, finding::SYSTEM_DIRECTORY.id]);
        // A container may have the host's file system read-only, and the host not.
        ours.push(finding::READ_ONLY_FILESYSTEM.id);
        checked.findings.retain(|row| !ours.contains(&row.id.as_str()));
        for row in &mut checked.findings {
            row.file = row.file.as_deref().map(|file| place.as_on_host(file));
            row.message = place.as_on_host(&row.message);
            row.remedy = place.as_on_host(&row.remedy);
        }
        questions.extend(of_system(&path_of(path), place).map(|text| ask(text, None)));
    }
    ours.extend(begun.iter().flat_map(|_| [finding::ALREADY_CONVERTED.id, finding::ADDED_ON_HOST.id]));
    for row in checked.findings.iter().filter(|row| !ours.contains(&row.id.as_str())) {
        let text = format!("{} [{}]", row.message, row.id);
        match row.severity {
            Severity::Error => questions.push(ask(format!("{text}: {}", row.remedy), None)),
            Severity::Warning if !is_accepted(row, args) => {
                questions.push(ask(text, Some(format!("--accept {}", row.id))));
            }
            Severity::Warning | Severity::Info => {}
        }
    }
    let warned: BTreeSet<_> = checked.findings.iter().map(|row| row.id.as_str()).collect();
    let applies = |word: &&String| warned.contains(word.split(':').next().unwrap_or_default());
    let begun_is_converted = begun.as_ref().is_some_and(|begun| begun.stage == Stage::Converted);
    Export {
        path: path.to_owned(),
        owner: owner.map(str::to_owned),
        security_model: begun.as_ref().map_or(checked.security_model, |begun| begun.model.clone()),
        entries: checked.entries.total,
        seconds: checked.cost.seconds,
        journal_bytes: checked.cost.journal_bytes,
        converted: begun_is_converted,
        added: begun_is_converted && checked.findings.iter().any(|row| row.id == finding::ADDED_ON_HOST.id),
        accept: args.accept.iter().filter(applies).cloned().collect(),
        findings: checked.findings,
    }
}

/// Why a directory of another host is the system's or an account's there, by its name.
fn of_system(export: &Path, place: &Place) -> Option<String> {
    let what = if crate::data::check::is_system_by_name(export) {
        "a directory of the system".to_owned()
    } else {
        format!("or holds the home of {}", place.home_in(export)?)
    };
    Some(format!("it is {what} [{}]: export a directory that only guests use", finding::SYSTEM_DIRECTORY.id))
}

/// Whether the admin accepts a warning, or that of its kind which is about one subject.
fn is_accepted(row: &FindingRow, args: &PlanArgs) -> bool {
    args.accept.iter().any(|word| match word.split_once(':') {
        Some((id, subject)) => id == row.id && row.message.contains(subject),
        None => *word == row.id,
    })
}

/// What the journal beside an export says of a conversion that has begun.
struct Begun {
    stage: Stage,
    model: String,
    owner: (u32, u32),
}

impl Begun {
    fn of(export: &Path) -> Option<Self> {
        let root = std::fs::File::open(export).ok()?;
        let journal = Journal::of_export_to_read(&default_path(export), root.as_fd()).ok()??;
        let stage = journal.stage();
        if matches!(stage, Stage::Recording | Stage::RolledBack) {
            return None;
        }
        let begin = journal.begin();
        let model = escape(begin.security_model.as_bytes()).into_owned();
        Some(Self { stage, model, owner: (begin.uid, begin.gid) })
    }

    /// What of it is in the way of QEMU as `owner`.
    fn objection(&self, owner: Option<&str>, place: &Place) -> Option<String> {
        if self.stage == Stage::RollingBack {
            return Some(
                "its rollback was interrupted: end it by `migrate rollback` with --apply".to_owned(),
            );
        }
        let wanted = place.owner(OsStr::new(owner?)).ok()?;
        let (uid, gid) = self.owner;
        ((wanted.uid, wanted.gid) != self.owner).then(|| {
            format!("it was converted for QEMU as {uid}:{gid}, and its QEMU runs as {wanted}: take the conversion back first")
        })
    }
}
