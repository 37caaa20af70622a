//! The steps of a move, in their order.

use super::configuration::Change;
use super::document::{Command, Export, Guest, Helper, Kind, Manager, Move, Question, Step, is_of_guest};
use super::manager;
use super::managers;
use super::place::Place;
use super::run::PROGRAM;
use crate::moves::options::PlanArgs;

/// The steps of a move. The guests are shut down throughout; a configuration changes only after its files are converted and verified;
/// a helper is disabled only when the guests run without it.
pub(super) fn of(one: &Move, changes: &[Change], args: &PlanArgs, place: &Place) -> Vec<Step> {
    let mut steps = Vec::new();
    // Those of another host may run.
    let may_run = |guest: &Guest| guest.pid.is_some() || place.is_elsewhere();
    let running = || one.guests.iter().enumerate().filter(|(_, guest)| may_run(guest));
    steps.extend(running().map(|(index, guest)| stop(index, guest)));
    // libvirt and Proxmox VE would have to be asked, and those of another host can't be.
    let is_known = |guest: &Guest| !place.is_elsewhere() || guest.manager == Manager::Systemd;
    let hold = |guest| if is_known(guest) { managers::of(guest.manager).hold(guest) } else { Vec::new() };
    let held: Vec<_> = one.guests.iter().map(hold).collect();
    let holds = || one.guests.iter().zip(&held).enumerate().filter(|(_, (_, hold))| !hold.is_empty());
    steps.extend(holds().map(|(index, (guest, hold))| Step {
        kind: Kind::Hold,
        about: guest.name.clone(),
        index,
        what: format!("Keep {} from being started meanwhile, with the host for example.", guest.name),
        run: hold.clone(),
        undo: managers::of(guest.manager).release(guest),
        ..Step::default()
    }));
    steps.extend(
        one.helpers.iter().enumerate().filter_map(|(index, helper)| stop_helper(index, helper, one, place)),
    );
    steps.extend(args.before.as_ref().map(|command| Step {
        kind: Kind::Before,
        what: "Run the command of --before.".to_owned(),
        run: vec![Command::shell(command)],
        ..Step::default()
    }));
    for (index, export) in one.exports.iter().enumerate() {
        steps.extend(files(index, export));
    }
    for ((index, guest), change) in
        one.guests.iter().enumerate().zip(changes).filter(|(_, change)| !change.documents.is_empty())
    {
        steps.push(Step {
            kind: Kind::Configure,
            about: guest.name.clone(),
            index,
            what: format!("Change the configuration of {}.", guest.name),
            run: change.run.clone(),
            undo: change.undo.clone(),
            documents: change.documents.clone(),
        });
    }
    steps.extend(holds().map(|(index, (guest, hold))| Step {
        kind: Kind::Release,
        about: guest.name.clone(),
        index,
        what: format!("Let {} be started again.", guest.name),
        run: managers::of(guest.manager).release(guest),
        undo: hold.clone(),
        ..Step::default()
    }));
    steps.extend(running().map(|(index, guest)| start(index, guest)));
    steps.extend(
        one.helpers
            .iter()
            .enumerate()
            .filter_map(|(index, helper)| disable_helper(index, helper, one, place)),
    );
    steps
}

/// What the steps need to be told.
pub(super) fn questions(guests: &[Guest]) -> Vec<Question> {
    let mut questions = Vec::new();
    for guest in guests.iter().filter(|guest| guest.pid.is_some()) {
        let ask = |text: &str, option: &str| Question {
            about: guest.name.clone(),
            text: text.to_owned(),
            option: Some(format!("{option} {}=COMMAND", super::document::shell(&guest.name))),
        };
        match guest.manager {
            Manager::Commands => {
                if guest.stop.is_none() {
                    questions.push(ask("nothing says how it is shut down", "--stop"));
                }
                if guest.start.is_none() {
                    questions.push(ask("nothing says how it is started", "--start"));
                }
            }
            Manager::Systemd if guest.stop.is_none() => {
                let said = manager::properties(&guest.name, &["ExecStop"]);
                if said.and_then(|said| said.into_iter().next()).is_none_or(|command| command.is_empty()) {
                    questions.push(ask(
                        "its unit has no ExecStop=: to stop the unit ends QEMU as a power failure does, and nothing says how the guest is shut down",
                        "--stop",
                    ));
                }
            }
            _ => {}
        }
    }
    questions
}

fn files(index: usize, export: &Export) -> Vec<Step> {
    let step = |kind, what: String, run: Vec<Command>, undo: Vec<Command>| Step {
        kind,
        about: export.path.clone(),
        index,
        what,
        run,
        undo,
        ..Step::default()
    };
    let verb = |words: &[&str]| Command::of([PROGRAM, "migrate"].iter().chain(words));
    let path = export.path.as_str();
    let mut steps = Vec::new();
    if !export.converted {
        let owner = export.owner.as_deref().unwrap_or("USER");
        let mut words = vec!["convert", path, "--owner", owner];
        if export.security_model != "mapped-xattr" && !export.security_model.is_empty() {
            words.extend(["--security-model", &export.security_model]);
        }
        for accepted in &export.accept {
            words.extend(["--accept", accepted]);
        }
        words.push("--apply");
        let undo = vec![verb(&["rollback", path, "--apply"])];
        steps.push(step(Kind::Convert, format!("Convert {path}."), vec![verb(&words)], undo));
    }
    if export.added {
        let what = format!("Adopt what was added to {path} on the host since its conversion.");
        let run = vec![verb(&["convert", path, "--adopt", "--apply"])];
        steps.push(step(Kind::Adopt, what, run, Vec::new()));
    }
    let what = format!("Verify {path}: go on only if there are no differences.");
    steps.push(step(Kind::Verify, what, vec![verb(&["verify", path])], Vec::new()));
    steps
}

fn or_by_hand(commands: Vec<Command>, text: String) -> Vec<Command> {
    if commands.is_empty() { vec![Command::by_hand(text)] } else { commands }
}

fn stop_commands(guest: &Guest) -> Vec<Command> {
    let text = format!("shut {} down, and wait until its QEMU has ended", guest.name);
    or_by_hand(managers::of(guest.manager).stop(guest), text)
}

fn start_commands(guest: &Guest) -> Vec<Command> {
    or_by_hand(managers::of(guest.manager).start(guest), format!("start {} as before", guest.name))
}

fn stop(index: usize, guest: &Guest) -> Step {
    let process = guest.pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    Step {
        kind: Kind::StopGuest,
        about: guest.name.clone(),
        index,
        what: format!("Shut {} down{process}, and wait until it is.", guest.name),
        run: stop_commands(guest),
        undo: start_commands(guest),
        ..Step::default()
    }
}

/// A step that starts a guest.
pub(super) fn start(index: usize, guest: &Guest) -> Step {
    Step {
        kind: Kind::StartGuest,
        about: guest.name.clone(),
        index,
        what: format!("Start {}, and wait until its QEMU has the shares over local.", guest.name),
        run: start_commands(guest),
        undo: stop_commands(guest),
        ..Step::default()
    }
}

fn name(helper: &Helper) -> String {
    helper.export.clone().unwrap_or_else(|| "an unknown directory".to_owned())
}

/// A step about a helper.
fn of_helper(
    kind: Kind,
    index: usize,
    helper: &Helper,
    what: String,
    run: Vec<Command>,
    undo: Vec<Command>,
) -> Step {
    let about = helper.unit.clone().unwrap_or_else(|| name(helper));
    Step { kind, about, index, what, run, undo, ..Step::default() }
}

fn stop_helper(index: usize, helper: &Helper, one: &Move, place: &Place) -> Option<Step> {
    let export = name(helper);
    let step = |what, run, undo| of_helper(Kind::StopHelper, index, helper, what, run, undo);
    if let Some(unit) = &helper.unit {
        let is_active =
            helper.pid.is_some() || place.is_elsewhere() || managers::is_active(unit).unwrap_or(false);
        let mut run = managers::hold_unit(unit);
        run.push(Command::of(["systemctl", "stop", unit]));
        let mut undo = managers::release_unit(unit);
        undo.extend(is_active.then(|| Command::of(["systemctl", "start", unit])));
        return Some(step(
            format!("Stop the helper of {export} ({unit}), and keep it from being started."),
            run,
            undo,
        ));
    }
    let pid = helper.pid?;
    let what = format!("End the helper of {export} (process {pid}), unless it ended with its guest.");
    let run = vec![Command::of(["kill", &pid.to_string()])];
    let undo = if is_of_guest(helper, &one.guests) {
        // The guest's start does it.
        Vec::new()
    } else if helper.command.is_empty() {
        vec![Command::by_hand(format!("start the helper of {export}"))]
    } else {
        vec![Command::of(&helper.command)]
    };
    Some(step(what, run, undo))
}

fn disable_helper(index: usize, helper: &Helper, one: &Move, place: &Place) -> Option<Step> {
    let export = name(helper);
    let step = |what, run, undo| of_helper(Kind::DisableHelper, index, helper, what, run, undo);
    let Some(unit) = &helper.unit else {
        // `migrate config` takes the helper's line out of the guest's own files, or names it.
        let place = helper.place.as_ref().filter(|_| !is_of_guest(helper, &one.guests))?;
        return Some(step(
            format!("Take the line that starts the helper of {export} out of {place}."),
            vec![Command::by_hand(format!("edit {place}"))],
            vec![Command::by_hand(format!("put the helper's line back into {place}"))],
        ));
    };
    let is_enabled = if place.is_elsewhere() { place.links_to(unit) } else { manager::is_enabled(unit) };
    let (mut run, mut undo) = (Vec::new(), managers::hold_unit(unit));
    if is_enabled {
        run.push(Command::of(["systemctl", "disable", unit]));
        undo.push(Command::of(["systemctl", "enable", unit]));
    }
    run.extend(managers::release_unit(unit));
    let what = if is_enabled {
        format!("Disable the helper of {export} ({unit}) for good.")
    } else {
        format!("Let the helper of {export} ({unit}) be started again: nothing starts it with the host.")
    };
    Some(step(what, run, undo))
}
