//! Makes a plan: what the audit found, put together by guest, export and helper, and what the other verbs say of these.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::answers;
use super::configuration;
use super::document::{self, Export, Guest, Helper, Manager, Move, PlanDocument, Question, Share, path_of};
use super::exports;
use super::found::{Found, is_called};
use super::helpers;
use super::manager::{self, Managed};
use super::owner::{self, Owners};
use super::place::Place;
use super::qemu;
use super::steps;
use super::tool;
use crate::moves::options::PlanArgs;
use crate::report::audit::{Audited, HelperRow, ShareRow};
use crate::report::finding;
use crate::report::rows;
use crate::sources::audit;
use crate::text::escape;

/// Where units are.
const UNITS: &[&str] = &["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system"];

/// What is known only on the host itself, and not by its files.
const UNSEEN: &str = "what runs on the host: guests and helpers that run, what their managers know, and who uses an export are seen only on \
                      the host itself. Make a plan there before you move a guest";

/// Guests that move together.
type Group = Vec<(Managed, Found)>;

/// Looks at this host and makes the plan.
pub(super) fn make(args: &PlanArgs) -> anyhow::Result<PlanDocument> {
    let place = Place::of(args.root.as_deref())?;
    let mut words = vec![OsString::from("--format=json")];
    if let Some(root) = place.root() {
        words.extend(["--root".into(), root.as_os_str().to_owned()]);
    }
    words.push("--".into());
    words.extend(args.paths.iter().map(|path| path.as_os_str().to_owned()));
    let mut audit: Audited = tool::document("audit", words)?;
    let is_whole = args.paths.is_empty() || place.is_elsewhere();
    let running = if is_whole { Audited::default() } else { add_running(&mut audit)? };
    for share in &mut audit.shares {
        answer(share, args);
    }
    let owners = Owners::parse(&args.owners, &place)?;
    let mut guests = guests(&audit.shares, &place);
    for found in guests.values_mut().filter(|found| found.pid.is_none()) {
        let mut rows = running.shares.iter();
        let is_its = |row: &&ShareRow| found.rows.iter().any(|own| is_same(own, row));
        found.pid = rows.find(is_its).and_then(|row| row.pid);
    }
    let names: Vec<_> = guests.keys().map(|managed| managed.name.clone()).collect();
    let mut groups = groups(guests, &place);
    if !args.guests.is_empty() {
        groups = wanted(groups, &args.guests)?;
    }
    let mut document = PlanDocument {
        schema: document::SCHEMA,
        host: place.name(),
        root: place.root().map(rows::path),
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        answers: answers::of(args, &place)?,
        moves: Vec::new(),
        unread: audit
            .unread
            .iter()
            .map(|row| format!("{}: {}", row.file.as_deref().unwrap_or("-"), row.reason))
            .collect(),
    };
    for group in groups {
        document.moves.push(plan_move(group, &audit, args, &owners, &names, &place)?);
    }
    // Who might use an export, and could not be seen.
    let unseen = [finding::PROCESSES_UNSEEN.id, finding::NOT_PRIVILEGED.id];
    for export in document.moves.iter().flat_map(|one| &one.exports) {
        let rows = export.findings.iter().filter(|row| unseen.contains(&row.id.as_str()));
        document.unread.extend(rows.map(|row| format!("{}: {}", export.path, row.message)));
    }
    if place.is_elsewhere() {
        document.unread.push(UNSEEN.to_owned());
    }
    Ok(document)
}

/// An audit of files looks at no processes: adds the helpers that run, and the exports that only they name. Returns what runs.
fn add_running(audit: &mut Audited) -> anyhow::Result<Audited> {
    let document = audit::running_now()?;
    let running = Audited {
        shares: document.shares.iter().collect::<Result<_, _>>()?,
        helpers: document.helpers.iter().collect::<Result<_, _>>()?,
        unread: Vec::new(),
    };
    for share in audit.shares.iter_mut().filter(|share| share.export.is_none()) {
        let known = running.shares.iter().find(|row| is_same(share, row) && row.export.is_some());
        if let Some(row) = known {
            share.export.clone_from(&row.export);
            share.export_from.clone_from(&row.export_from);
            share.export_place.clone_from(&row.export_place);
        }
    }
    audit.helpers.extend(running.helpers.iter().cloned());
    Ok(running)
}

/// Fills in what the admin says about a share.
fn answer(share: &mut ShareRow, args: &PlanArgs) {
    let named = args.exports.iter().find(|(name, _)| is_called(share, name));
    if let Some((_, path)) = named {
        share.export = Some(rows::path(path));
        share.export_from = Some("--export".to_owned());
        share.export_place = None;
    }
    share.readonly |= args.readonly.iter().any(|name| is_called(share, name));
}

/// Puts the audit's rows together by guest.
fn guests(rows: &[ShareRow], place: &Place) -> BTreeMap<Managed, Found> {
    let mut guests: BTreeMap<Managed, Found> = BTreeMap::new();
    let is_process = |row: &&ShareRow| row.pid.is_some();
    for row in rows.iter().filter(is_process) {
        let Some(pid) = row.pid else { continue };
        let found = guests.entry(Managed::of_process(pid, row.guest.as_deref())).or_default();
        found.pid = Some(pid);
        found.rows.push(row.clone());
    }
    for row in rows.iter().filter(|row| !is_process(row)) {
        let file = path_of(row.file.as_deref().unwrap_or_default());
        let mut managed = Managed::of_file(&file, &row.kind, row.guest.as_deref());
        if managed.manager == Manager::Commands {
            // A running QEMU with the same share was started by this file; else the unit that names the file may say who starts it.
            let same =
                |found: &Found| found.rows.iter().any(|other| other.pid.is_some() && is_same(other, row));
            let running = guests.iter().find(|(_, found)| same(found)).map(|(managed, _)| managed.clone());
            managed = match running {
                Some(running) => running,
                None => starter_of(&file, place).unwrap_or(managed),
            };
        }
        guests.entry(managed).or_default().rows.push(row.clone());
    }
    guests.into_iter().fold(BTreeMap::new(), |mut named: BTreeMap<Managed, Found>, (managed, found)| {
        let into = named.entry(lasting(managed, &found)).or_default();
        into.pid = into.pid.or(found.pid);
        into.rows.extend(found.rows);
        named
    })
}

/// A running guest without a name goes by the file that starts it: its process will be another one.
fn lasting(managed: Managed, found: &Found) -> Managed {
    let is_nameless = found.pid.is_some_and(|pid| managed.name == manager::process_name(pid));
    let mut files = found.rows.iter().filter(|row| row.pid.is_none()).filter_map(|row| row.file.as_deref());
    match files.next().filter(|_| is_nameless && managed.manager == Manager::Commands) {
        Some(file) => Managed { name: path_of(file).to_string_lossy().into_owned(), ..managed },
        None => managed,
    }
}

/// Whether two rows are one share, seen in two places.
fn is_same(one: &ShareRow, other: &ShareRow) -> bool {
    one.socket.is_some() && one.socket == other.socket && one.fsdev == other.fsdev
}

/// The unit that starts a file.
fn starter_of(file: &Path, place: &Place) -> Option<Managed> {
    let wanted = file.to_str().filter(|text| text.starts_with('/'))?;
    let folders = UNITS.iter().map(Path::new);
    let folders = folders.filter_map(|folder| Some((folder, fs::read_dir(place.here(folder)).ok()?)));
    let units = folders.flat_map(|(folder, entries)| entries.flatten().map(move |entry| (folder, entry)));
    let mut names: Vec<_> = units
        .filter(|(_, entry)| entry.path().extension().is_some_and(|extension| extension == "service"))
        .filter(|(folder, entry)| {
            let text = place.text(&folder.join(entry.file_name()));
            let commands = text.lines().filter(|line| line.trim_start().starts_with("ExecStart"));
            commands.flat_map(|line| line.split(['=', ' ', '\t', '"', '\''])).any(|word| word == wanted)
        })
        .filter_map(|(_, entry)| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    match names.as_slice() {
        [name] => Some(Managed { manager: Manager::Systemd, name: name.clone() }),
        _ => None,
    }
}

/// Guests that share an export belong together.
fn groups(guests: BTreeMap<Managed, Found>, place: &Place) -> Vec<Group> {
    let mut groups: Vec<(BTreeSet<PathBuf>, Group)> = Vec::new();
    for (managed, found) in guests {
        let mut exports: BTreeSet<PathBuf> = found
            .rows
            .iter()
            .filter_map(|row| Some(place.canonical(&path_of(row.export.as_ref()?))))
            .collect();
        let mut members = vec![(managed, found)];
        let (joined, apart): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|(others, _)| !others.is_disjoint(&exports));
        groups = apart;
        for (others, more) in joined {
            exports.extend(others);
            members.extend(more);
        }
        members.sort_by(|one, other| one.0.cmp(&other.0));
        groups.push((exports, members));
    }
    let mut groups: Vec<_> = groups.into_iter().map(|(_, members)| members).collect();
    groups.sort_by(|one, other| one.first().map(|it| &it.0).cmp(&other.first().map(|it| &it.0)));
    groups
}

/// The groups that hold a guest of one of these names.
fn wanted(groups: Vec<Group>, names: &[OsString]) -> anyhow::Result<Vec<Group>> {
    let known: Vec<String> = groups.iter().flatten().map(|(managed, _)| managed.name.clone()).collect();
    for name in names {
        if !known.iter().any(|known| OsStr::new(known) == name) {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            bail!(
                "no guest with a proxy share is called {}: the guests are: {known}",
                escape(name.as_bytes())
            );
        }
    }
    let is_named = |managed: &Managed| names.iter().any(|name| name == OsStr::new(&managed.name));
    Ok(groups.into_iter().filter(|group| group.iter().any(|(managed, _)| is_named(managed))).collect())
}

/// Plans for guests that belong together.
fn plan_move(
    group: Group,
    audit: &Audited,
    args: &PlanArgs,
    owners: &Owners,
    names: &[String],
    place: &Place,
) -> anyhow::Result<Move> {
    let mut one = Move::default();
    let mut managed = Vec::new();
    for (by, found) in group {
        let mut guest = guest(&by, &found, audit, owners, &mut one.questions, place);
        guest.stop = answers::command(&args.stop, &by.name, names);
        guest.start = answers::command(&args.start, &by.name, names);
        guest.running = answers::command(&args.running, &by.name, names);
        if guest.pid.is_none() && !place.is_elsewhere() {
            // An audit of files does not look at processes.
            let running = qemu::of(&guest)?.into_iter().find(|qemu| !qemu.proxy.is_empty());
            guest.pid = running.map(|qemu| qemu.pid);
        }
        one.guests.push(guest);
        managed.push((by, found));
    }
    one.exports = exports::of(&mut one.questions, &one.guests, args, place);
    one.helpers = serving(&audit.helpers, &one.guests, place);
    let unserved = one.guests.iter().flat_map(|guest| unserved(guest, &audit.helpers, place));
    one.questions.extend(unserved);
    let model = model_of(&one.exports, &mut one.questions);
    let mut changes = Vec::new();
    for (guest, (by, found)) in one.guests.iter_mut().zip(&managed) {
        let change = configuration::change(by, &found.rows, model.as_deref(), args, place)?;
        guest.diff.clone_from(&change.diff);
        one.questions.extend(change.questions.iter().cloned());
        changes.push(change);
    }
    one.questions.extend(steps::questions(&one.guests));
    one.steps = steps::of(&one, &changes, args, place);
    one.questions.sort();
    one.questions.dedup();
    Ok(one)
}

/// The guest, and a question where it is not known who its QEMU runs as: one guest's unknown user does not keep the others from
/// being planned for.
fn guest(
    by: &Managed,
    found: &Found,
    audit: &Audited,
    owners: &Owners,
    questions: &mut Vec<Question>,
    place: &Place,
) -> Guest {
    let mut shares: Vec<_> = found.rows.iter().map(|row| share(row, place)).collect();
    shares.sort();
    shares.dedup();
    // One share that is configured and runs is one; which place says the export does not matter.
    shares.dedup_by(|one, other| {
        one.socket.is_some()
            && one.socket == other.socket
            && one.fsdev == other.fsdev
            && one.mount_tag == other.mount_tag
    });
    let files: BTreeSet<_> = found
        .rows
        .iter()
        .filter_map(|row| row.file.clone())
        .filter(|file| !file.starts_with("/proc/"))
        .collect();
    let mut ask = |text: String| {
        questions.push(Question {
            about: by.name.clone(),
            text,
            option: Some(format!("--owner {}=USER[:GROUP]", by.name)),
        });
        (None, None)
    };
    let (owner, owner_from) = match owner::of(by, found, audit, owners, place) {
        Ok(Some((owner, from))) => (Some(owner.argument()), Some(from)),
        Ok(None) => ask("nothing says which user its QEMU runs as".to_owned()),
        Err(error) => ask(format!("{error:#}: make that user on this host, or name another one")),
    };
    Guest {
        name: by.name.clone(),
        manager: by.manager,
        pid: found.pid,
        files: files.into_iter().collect(),
        owner,
        owner_from,
        shares,
        ..Guest::default()
    }
}

fn share(row: &ShareRow, place: &Place) -> Share {
    let at = row.export_place.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
    Share {
        mount_tag: row.mount_tag.clone(),
        fsdev: row.fsdev.clone(),
        socket: row.socket.clone(),
        export: row.export.as_ref().map(|export| rows::path(&place.canonical(&path_of(export)))),
        export_from: row.export_from.as_ref().map(|from| format!("{from}{at}")),
        readonly: row.readonly,
    }
}

/// The one model of all exports of a configuration.
fn model_of(exports: &[Export], questions: &mut Vec<Question>) -> Option<String> {
    let models: BTreeSet<_> =
        exports.iter().map(|export| &export.security_model).filter(|model| !model.is_empty()).collect();
    if models.len() > 1 {
        let names: Vec<_> = models.iter().map(|name| name.as_str()).collect();
        questions.push(Question {
            about: exports.iter().map(|export| export.path.as_str()).collect::<Vec<_>>().join(", "),
            text: format!(
                "different security models fit the exports of one configuration: {}",
                names.join(", ")
            ),
            option: Some("--security-model mapped-file".to_owned()),
        });
    }
    models.into_iter().next().cloned()
}

/// The helpers that serve these guests' shares, each once.
fn serving(rows: &[HelperRow], guests: &[Guest], place: &Place) -> Vec<Helper> {
    let canonical =
        |row: &HelperRow| row.export.as_ref().map(|export| rows::path(&place.canonical(&path_of(export))));
    let shares = || guests.iter().flat_map(|guest| &guest.shares);
    let mut helpers: Vec<Helper> = Vec::new();
    for row in rows.iter().filter(|row| shares().any(|share| serves(row, share, place))) {
        let file = row.file.as_deref().filter(|file| !file.starts_with("/proc/"));
        let new = Helper {
            unit: unit_of(row, file),
            pid: row.pid,
            place: file.map(|file| rows::place(Some(file), row.line)),
            export: canonical(row),
            socket: row.socket.clone(),
            command: row.pid.map(|pid| absolute(command_of(pid), row)).unwrap_or_default(),
            started: row.pid.and_then(helpers::start_time),
        };
        let same = |old: &&mut Helper| {
            old.unit.is_some() && old.unit == new.unit || old.socket.is_some() && old.socket == new.socket
        };
        match helpers.iter_mut().find(same) {
            Some(old) => {
                old.unit = old.unit.take().or(new.unit);
                old.pid = old.pid.or(new.pid);
                old.place = old.place.take().or(new.place);
                old.export = old.export.take().or(new.export);
                old.socket = old.socket.take().or(new.socket);
                if old.command.is_empty() {
                    old.command = new.command;
                    old.started = new.started;
                }
            }
            None => helpers.push(new),
        }
    }
    // What the guest's own unit starts is stopped with it.
    helpers.retain(|helper| {
        helper.unit.is_none() || guests.iter().all(|guest| Some(&guest.name) != helper.unit.as_ref())
    });
    helpers.sort();
    helpers
}

/// Whether a helper serves a share.
fn serves(row: &HelperRow, share: &Share, place: &Place) -> bool {
    let export = row.export.as_ref().map(|export| rows::path(&place.canonical(&path_of(export))));
    row.socket.is_some() && share.socket == row.socket || export.is_some() && share.export == export
}

/// The shares of a running guest that no known helper serves: the way back could not start one for them.
fn unserved(guest: &Guest, rows: &[HelperRow], place: &Place) -> Vec<Question> {
    let is_unserved = |share: &&Share| !rows.iter().any(|row| serves(row, share, place));
    let shares = guest.shares.iter().filter(|_| guest.pid.is_some()).filter(is_unserved);
    let question = |share: &Share| Question {
        about: guest.name.clone(),
        text: format!(
            "it runs, and no helper was found that serves its share {}: `migrate undo` could not start one again. Shut the guest down, or \
             name the file that starts the helper as PATH, and make the plan again",
            share.called()
        ),
        option: None,
    };
    shares.map(question).collect()
}

/// The arguments of a running process, its program first and by its path.
fn command_of(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    let mut words: Vec<_> = words.map(|word| escape(word).into_owned()).collect();
    if let (Some(first), Ok(program)) = (words.first_mut(), fs::read_link(format!("/proc/{pid}/exe"))) {
        *first = rows::path(&program);
    }
    words
}

/// The arguments of a helper with the paths that it has from its starter's directory as absolute ones.
fn absolute(mut command: Vec<String>, row: &HelperRow) -> Vec<String> {
    let mut before = String::new();
    for word in &mut command {
        let known = match before.as_str() {
            "-s" | "--socket" => row.socket.as_ref(),
            "-p" | "--path" => row.export.as_ref(),
            _ => None,
        };
        before.clone_from(word);
        if let Some(known) = known.filter(|_| !word.starts_with('/')) {
            word.clone_from(known);
        }
    }
    command
}

fn unit_of(row: &HelperRow, file: Option<&str>) -> Option<String> {
    if let Some(pid) = row.pid {
        let by = Managed::of_process(pid, None);
        return (by.manager == Manager::Systemd).then_some(by.name);
    }
    manager::unit_of(&path_of(file?))
}
