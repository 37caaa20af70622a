//! `migrate apply` and `migrate undo`: which moves, whether nothing has changed since their plan, and how it ended.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use super::document::{self, Command, Kind, Move, PlanDocument, Step};
use super::engine::{Ended, Engine};
use super::run::Options;
use super::state::{self, Event, Phase, State, id_of};
use super::{answers, steps, tool};
use crate::data::options::ProgressMode;
use crate::exit::Outcome;
use crate::moves::options::{ApplyArgs, UndoArgs, WayArgs};
use crate::report::Text as _;
use crate::text::{escape, escape_path};

/// More than any plan has, in bytes.
const LARGEST: u64 = 64 << 20;

/// Runs `migrate apply`.
pub(crate) fn apply(args: &ApplyArgs) -> anyhow::Result<Outcome> {
    if args.plan.is_none() && args.way.guests.is_empty() {
        complain!("virtfs-proxy-helper: name a plan's file, or guests by --guest");
        return Ok(Outcome::Usage);
    }
    ensure_root("apply")?;
    let document = match &args.plan {
        Some(file) => read(file)?,
        None => made(&args.way.guests)?,
    };
    if document.moves.is_empty() {
        say!("the plan has no guest with a share over the proxy: there is nothing to do")?;
    }
    let mut all = Outcome::Clean;
    let mut work = Vec::new();
    for one in chosen(&document, &args.way.guests)? {
        let id = id_of(one)?;
        let state = State::open(&args.way.state, &id)?;
        refuse_rival(&args.way.state, one, &id)?;
        match state.phase() {
            Phase::Applied => say!("{}: the plan is applied already ({id})", names(one))?,
            Phase::Undoing | Phase::Failed => {
                bail!("{}: the move is being undone: `migrate undo` ends that", names(one))
            }
            Phase::InProgress => {
                let kept = state.plan()?.context("the move's plan.yaml is missing")?;
                say!("{}: the move was interrupted; it goes on ({id})", names(one))?;
                work.push((state, kept, true));
            }
            Phase::Planned | Phase::Undone => {
                ensure!(
                    one.questions.is_empty(),
                    "{}: the plan has open questions; `migrate plan` names the option that answers each",
                    names(one)
                );
                let mut fresh = fresh(&document, one)?;
                add_steps(&mut fresh, args);
                work.push((state, fresh, false));
            }
        }
    }
    if work.is_empty() {
        return Ok(all);
    }
    for file in &document.unread {
        complain!("virtfs-proxy-helper: not read: {file}");
    }
    if !agreed(&args.way, "apply", work.iter().map(|(_, one, _)| one))? {
        return Ok(Outcome::Usage);
    }
    let options = Options { agent: !args.no_agent, ..options(&args.way) };
    for (state, one, goes_on) in work {
        let outcome = carry_out(state, one, goes_on, &options)?;
        if outcome == Outcome::Failure {
            return Ok(outcome);
        }
        if outcome != Outcome::Clean {
            all = outcome;
        }
    }
    Ok(all)
}

fn carry_out(mut state: State, one: Move, goes_on: bool, options: &Options) -> anyhow::Result<Outcome> {
    if !goes_on {
        let before = state.folder().join("before");
        for entry in fs::read_dir(&before).with_context(|| format!("reading {}", escape_path(&before)))? {
            fs::remove_file(entry?.path()).context("removing what an earlier run has kept")?;
        }
        state.keep_plan(&one)?;
        state.append(Event::Planned, None, None)?;
    }
    let (names, id) = (names(&one), state.id.clone());
    let kept = escape_path(&state.folder().join("before")).into_owned();
    let ended = Engine::new(state, one, options).apply();
    let ended = ended.with_context(|| {
        format!("{names}: the move stopped where it was: mend the cause, then `migrate apply` goes on and `migrate undo` takes it back")
    })?;
    match ended {
        Ended::Applied(left) if left.is_empty() => {
            say!(
                "{names}: moved. `migrate undo` takes it back; what it needs for that is in {kept} and in the conversion's journal"
            )?;
            Ok(Outcome::Clean)
        }
        Ended::Applied(left) => {
            say!("{names}: moved ({id}). This is left for you to do:")?;
            for what in left {
                say!("    {what}")?;
            }
            Ok(Outcome::Findings)
        }
        Ended::TakenBack(reason) => {
            complain!(
                "virtfs-proxy-helper: {names}: {reason}. All that was done is undone: the files, the configuration and the helpers are as \
                 before, and the guests that ran before run again. Nothing is lost."
            );
            Ok(Outcome::Failure)
        }
        Ended::Stuck(reason) => {
            complain!("virtfs-proxy-helper: {names}: {reason}");
            complain!(
                "virtfs-proxy-helper: {names}: what is needed to take the rest back is kept: {kept} and the conversions' journals. Keep both."
            );
            Ok(Outcome::Failure)
        }
    }
}

/// Runs `migrate undo`.
pub(crate) fn undo(args: &UndoArgs) -> anyhow::Result<Outcome> {
    ensure_root("undo")?;
    let document = read(&args.plan)?;
    if document.moves.is_empty() {
        say!("the plan has no guest with a share over the proxy: there is nothing to undo")?;
    }
    let mut work = Vec::new();
    for one in chosen(&document, &args.way.guests)? {
        let id = id_of(one)?;
        let is_known = state::all(&args.way.state)?.iter().any(|known| known.id == id);
        if !is_known {
            say!("{}: this plan was not applied: there is nothing to undo", names(one))?;
            continue;
        }
        let state = State::open(&args.way.state, &id)?;
        match state.phase() {
            Phase::Planned => {
                say!("{}: nothing of this plan was done: there is nothing to undo", names(one))?;
            }
            Phase::Undone => say!("{}: the move is undone already", names(one))?,
            Phase::InProgress | Phase::Applied | Phase::Undoing | Phase::Failed => {
                let kept = state.plan()?.context("the move's plan.yaml is missing")?;
                work.push((state, kept));
            }
        }
    }
    if work.is_empty() {
        return Ok(Outcome::Clean);
    }
    if !agreed(&args.way, "undo", work.iter().map(|(_, one)| one))? {
        return Ok(Outcome::Usage);
    }
    let options = options(&args.way);
    for (state, one) in work {
        let names = names(&one);
        match Engine::new(state, one, &options).undo()? {
            Ok(()) => {
                say!("{names}: undone. The files, the configuration and the helpers are as before the move")?;
            }
            Err(reason) => {
                complain!("virtfs-proxy-helper: {names}: {reason}");
                return Ok(Outcome::Failure);
            }
        }
    }
    Ok(Outcome::Clean)
}

fn ensure_root(verb: &str) -> anyhow::Result<()> {
    ensure!(
        nix::unistd::Uid::effective().is_root(),
        "migrate {verb} stops guests and changes the owners of files: run it as root"
    );
    Ok(())
}

fn options(way: &WayArgs) -> Options {
    Options {
        force_stop: way.force_stop,
        stop_timeout: way.stop_timeout,
        up_timeout: way.up_timeout,
        settle: way.settle,
        agent: false,
        json: way.progress == ProgressMode::Json,
    }
}

fn names(one: &Move) -> String {
    one.guests.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn read(file: &Path) -> anyhow::Result<PlanDocument> {
    use std::io::Read as _;
    let shown = escape_path(file);
    let mut text = Vec::new();
    let opened = fs::File::open(file).with_context(|| format!("opening the plan {shown}"))?;
    opened.take(LARGEST + 1).read_to_end(&mut text).with_context(|| format!("reading the plan {shown}"))?;
    ensure!(text.len() as u64 <= LARGEST, "{shown} is too large for a plan");
    let value: crate::yaml::Value = crate::yaml::from_slice(&text)
        .with_context(|| format!("{shown} is no plan of `migrate plan --output`"))?;
    let version = value.get("schema").and_then(crate::yaml::Value::as_u64);
    ensure!(
        version == Some(u64::from(document::SCHEMA)),
        "{shown} is no plan of this version (schema {}): make a new one by `migrate plan --output`",
        document::SCHEMA
    );
    let document: PlanDocument = crate::yaml::from_slice(&text)
        .with_context(|| format!("{shown} is no plan of `migrate plan --output`"))?;
    if let Some(root) = &document.root {
        bail!(
            "{shown} is a plan of another root: it was made for the host {} by `migrate plan --root {root}`, and does not know what runs \
             there. `migrate apply` and `migrate undo` need the host itself: they stop and start guests by its virsh, qm and systemctl, and see \
             its processes, which a container does not. Run `migrate plan` and `migrate apply` on that host, without --root",
            if document.host.is_empty() { "(no name in its /etc/hostname)" } else { &document.host }
        );
    }
    let here = rustix::system::uname();
    let here = here.nodename().to_string_lossy().into_owned();
    ensure!(
        document.host == here,
        "{shown} was made on {}, and this host is {here}: make a plan on this host",
        document.host
    );
    Ok(document)
}

/// A plan for these guests, made now.
fn made(guests: &[OsString]) -> anyhow::Result<PlanDocument> {
    let mut words = vec![OsString::from("--format=json")];
    for guest in guests {
        let mut word = OsString::from("--guest=");
        word.push(guest);
        words.push(word);
    }
    tool::document("plan", words)
}

/// The moves of a document that hold one of these guests; all where none is named.
fn chosen<'a>(document: &'a PlanDocument, guests: &[OsString]) -> anyhow::Result<Vec<&'a Move>> {
    let is_in = |one: &Move, name: &OsStr| one.guests.iter().any(|guest| OsStr::new(&guest.name) == name);
    for name in guests {
        ensure!(
            document.moves.iter().any(|one| is_in(one, name)),
            "the plan has no guest {}: its guests are: {}",
            escape(name.as_encoded_bytes()),
            document.moves.iter().map(names).collect::<Vec<_>>().join(", ")
        );
    }
    let is_chosen = |one: &&Move| guests.is_empty() || guests.iter().any(|name| is_in(one, name));
    Ok(document.moves.iter().filter(is_chosen).collect())
}

/// Another move of the same guests or directories has to end first.
fn refuse_rival(dir: &Path, one: &Move, id: &str) -> anyhow::Result<()> {
    for other in state::all(dir)? {
        let is_open = matches!(other.phase, Phase::InProgress | Phase::Undoing | Phase::Failed);
        let shares = other
            .plan
            .guests
            .iter()
            .any(|guest| one.guests.iter().any(|own| own.name == guest.name))
            || other.plan.exports.iter().any(|export| one.exports.iter().any(|own| own.path == export.path));
        ensure!(
            other.id == id || !is_open || !shares,
            "another move of {} has not ended: {}. Its plan is {}",
            names(&other.plan),
            other.next,
            escape_path(&dir.join(&other.id).join("plan.yaml"))
        );
    }
    Ok(())
}

/// The same move, planned now. It must be what the admin has read.
fn fresh(document: &PlanDocument, one: &Move) -> anyhow::Result<Move> {
    let mut words = vec![OsString::from("--format=json")];
    words.extend(answers::words(&document.answers));
    let now: PlanDocument = tool::document("plan", words)?;
    let is_same = |other: &&Move| names(other) == names(one);
    let Some(fresh) = now.moves.iter().find(is_same) else {
        bail!(
            "{}: the guests, or the directories that they share, have changed since the plan: make a new plan",
            names(one)
        );
    };
    if let Some(what) = difference(one, fresh) {
        bail!("{}: {what} since the plan; nothing was changed. Make a new plan, and read it", names(one));
    }
    Ok(fresh.clone())
}

/// What is different. Running processes and the number of files may be.
fn difference(old: &Move, new: &Move) -> Option<String> {
    if let Some(question) = new.questions.first() {
        return Some(format!("there is something new to deal with ({}: {})", question.about, question.text));
    }
    let documents = |one: &Move| -> Vec<_> {
        let configured = one.steps.iter().filter(|step| step.kind == Kind::Configure);
        configured.flat_map(|step| step.documents.clone()).collect()
    };
    let (before, now) = (documents(old), documents(new));
    let lacks = |list: &[document::Source], one: &document::Source| !list.contains(one);
    let changed =
        before.iter().find(|one| lacks(&now, one)).or_else(|| now.iter().find(|one| lacks(&before, one)));
    if let Some(changed) = changed {
        return Some(format!("{} has changed", changed.shown));
    }
    for (one, other) in old.guests.iter().zip(&new.guests) {
        if one.owner != other.owner {
            let user =
                |guest: &document::Guest| guest.owner.clone().unwrap_or_else(|| "nobody known".to_owned());
            return Some(format!("{}'s QEMU ran as {} and runs as {}", one.name, user(one), user(other)));
        }
        if one.manager != other.manager || one.shares.len() != other.shares.len() {
            return Some(format!("{} is managed in another way, or has other shares,", one.name));
        }
        if one.diff != other.diff {
            return Some(format!("the change of {}'s configuration is another one", one.name));
        }
    }
    if let Some(what) = edited(old, new) {
        return Some(what);
    }
    let exports = |one: &Move| -> Vec<_> {
        let key = |export: &super::document::Export| {
            (export.path.clone(), export.owner.clone(), export.security_model.clone(), export.converted)
        };
        one.exports.iter().map(key).collect()
    };
    if exports(old) != exports(new) {
        return Some("the directories, their owner or their conversion have changed".to_owned());
    }
    let units =
        |one: &Move| -> Vec<_> { one.helpers.iter().filter_map(|helper| helper.unit.clone()).collect() };
    (units(old) != units(new)).then(|| "the helpers' units have changed".to_owned())
}

/// What somebody has changed in the plan itself: its commands are made again from its answers, and an edit would do nothing.
fn edited(old: &Move, new: &Move) -> Option<String> {
    for (one, other) in old.guests.iter().zip(&new.guests) {
        let commands =
            |guest: &document::Guest| (guest.stop.clone(), guest.start.clone(), guest.running.clone());
        if commands(one) != commands(other) {
            return Some(format!(
                "the commands of {} are not those that the plan was made with (`migrate plan --stop`, --start, --running): they have changed",
                one.name
            ));
        }
    }
    // Whether guests and helpers run may be different, and with it the steps that stop and start them.
    let is_fixed =
        |step: &&Step| matches!(step.kind, Kind::Before | Kind::Convert | Kind::Adopt | Kind::Verify);
    let steps = |one: &Move| -> Vec<_> {
        let fixed = one.steps.iter().filter(is_fixed);
        fixed.map(|step| (step.kind, step.about.clone(), step.run.clone(), step.undo.clone())).collect()
    };
    (steps(old) != steps(new)).then(|| {
        "the steps about files are not those that `migrate plan` makes with the same options: they have changed".to_owned()
    })
}

/// The steps that `apply`'s own options want.
fn add_steps(one: &mut Move, args: &ApplyArgs) {
    let last = one.steps.iter().position(|step| step.kind == Kind::DisableHelper).unwrap_or(one.steps.len());
    let mut added = Vec::new();
    if args.start {
        for (index, guest) in one.guests.iter().enumerate().filter(|(_, guest)| guest.pid.is_none()) {
            added.push(steps::start(index, guest));
        }
    }
    if let Some(command) = &args.probe {
        added.push(Step {
            kind: Kind::Probe,
            about: names(one),
            what: "Run the command of --probe until it succeeds.".to_owned(),
            run: vec![Command::shell(command)],
            ..Step::default()
        });
    }
    one.steps.splice(last..last, added);
}

/// Shows what will be done, and asks.
fn agreed<'a>(way: &WayArgs, verb: &str, moves: impl Iterator<Item = &'a Move>) -> anyhow::Result<bool> {
    if way.yes {
        return Ok(true);
    }
    let mut out = io::stdout().lock();
    for one in moves {
        one.text(&mut out).context("printing the plan")?;
    }
    if verb == "undo" {
        let _ = writeln!(out, "The guests are shut down, and the way back above is done.");
    }
    if !io::stdin().is_terminal() {
        complain!(
            "virtfs-proxy-helper: nothing was changed: there is no terminal to ask on. To {verb} it, add --yes"
        );
        return Ok(false);
    }
    let _ = write!(out, "Do it? [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("reading the answer")?;
    let agreed = matches!(answer.trim(), "y" | "Y" | "yes");
    if !agreed {
        let _ = writeln!(out, "Nothing was changed.");
    }
    Ok(agreed)
}
