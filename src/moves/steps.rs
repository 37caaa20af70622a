//! The steps of a move, in their order.

use super::configuration::Change;
use super::document::{Helper, Manager, Move, Step};
use super::manager::{self, Managed};
use super::plan::{Found, shell};
use crate::cli::PlanArgs;

/// How this program is called.
const PROGRAM: &str = "virtfs-proxy-helper migrate";

/// The steps of a move. The guests are shut down throughout; a configuration changes only after its files are converted and verified;
/// a helper is disabled only when the guests run without it.
pub fn of(one: &Move, managed: &[(Managed, Found)], changes: &[Change], args: &PlanArgs) -> Vec<Step> {
    let mut steps = Vec::new();
    let running = || one.guests.iter().zip(managed).filter(|(guest, _)| guest.pid.is_some());
    for (guest, (by, _)) in running() {
        steps.push(stop(by, guest.pid));
    }
    steps.extend(one.helpers.iter().filter_map(stop_helper));
    steps.extend(args.before.as_ref().map(|command| Step {
        what: "Run what shall come before the conversion.".to_owned(),
        run: vec![command.clone()],
        undo: Vec::new(),
    }));
    for export in &one.exports {
        let Ok(path) = shell(&export.path) else { continue };
        if !export.converted {
            let owner = export.owner.as_deref().unwrap_or("USER");
            let mut words =
                vec![PROGRAM.to_owned(), "convert".to_owned(), path.clone(), format!("--owner {owner}")];
            if export.security_model != "mapped-xattr" && !export.security_model.is_empty() {
                words.push(format!("--security-model {}", export.security_model));
            }
            for accepted in &export.accept {
                words.extend(shell(accepted).ok().map(|word| format!("--accept {word}")));
            }
            words.push("--apply".to_owned());
            steps.push(Step {
                what: format!("Convert {}.", export.path),
                run: vec![words.join(" ")],
                undo: vec![format!("{PROGRAM} rollback {path} --apply")],
            });
        }
        if export.added {
            steps.push(Step {
                what: format!("Adopt what was added to {} on the host since its conversion.", export.path),
                run: vec![format!("{PROGRAM} convert {path} --adopt --apply")],
                undo: Vec::new(),
            });
        }
        steps.push(Step {
            what: format!("Verify {}: go on only if there are no differences.", export.path),
            run: vec![format!("{PROGRAM} verify {path}")],
            undo: Vec::new(),
        });
    }
    for (guest, change) in one.guests.iter().zip(changes).filter(|(_, change)| !change.run.is_empty()) {
        steps.push(Step {
            what: format!("Change the configuration of {}.", guest.name),
            run: change.run.clone(),
            undo: change.undo.clone(),
        });
    }
    for (_, (by, _)) in running() {
        steps.push(start(by));
    }
    // `migrate config` takes the helper's line out of the guest's own files, or names it.
    let is_elsewhere = |helper: &&Helper| {
        let file = helper.place.as_deref().and_then(|place| place.rsplit_once(':')).map(|(file, _)| file);
        one.guests.iter().all(|guest| guest.files.iter().all(|own| Some(own.as_str()) != file))
    };
    steps.extend(one.helpers.iter().filter(is_elsewhere).filter_map(disable_helper));
    steps
}

fn line(words: &[String]) -> String {
    words.iter().map(|word| shell(word).unwrap_or_else(|_| word.clone())).collect::<Vec<_>>().join(" ")
}

fn stop(by: &Managed, pid: Option<i32>) -> Step {
    let (stop, start) = (by.stop(), by.start());
    let process = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    if stop.is_empty() {
        return Step {
            what: format!("Shut the guest {} down from inside{process}.", by.name),
            run: vec![format!("# shut {} down, and wait until its QEMU has ended", by.name)],
            undo: vec![format!("# start {} as before", by.name)],
        };
    }
    let what = if by.manager == Manager::Systemd {
        format!(
            "Shut the guest down from inside, and stop {}{process}: unless its ExecStop= shuts the guest down, stopping the unit alone \
             is as pulling the plug.",
            by.name
        )
    } else {
        format!("Shut the guest {} down{process}, and wait until it is.", by.name)
    };
    Step { what, run: vec![line(&stop)], undo: vec![line(&start)] }
}

fn start(by: &Managed) -> Step {
    let (stop, start) = (by.stop(), by.start());
    let what = format!("Start {}, and look at the mount in the guest.", by.name);
    if start.is_empty() {
        return Step {
            what,
            run: vec![format!("# start {} as before", by.name)],
            undo: vec![format!("# shut {} down, and wait until its QEMU has ended", by.name)],
        };
    }
    Step { what, run: vec![line(&start)], undo: vec![line(&stop)] }
}

fn stop_helper(helper: &Helper) -> Option<Step> {
    let export = helper.export.as_deref().unwrap_or("an unknown directory");
    if let Some(unit) = &helper.unit {
        let word = shell(unit).ok()?;
        let state = manager::properties(unit, &["ActiveState"]).and_then(|said| said.into_iter().next());
        if helper.pid.is_none() && !matches!(state.as_deref(), Some("active" | "activating" | "reloading")) {
            return None;
        }
        return Some(Step {
            what: format!("Stop the helper of {export}."),
            run: vec![format!("systemctl stop {word}")],
            undo: vec![format!("systemctl start {word}")],
        });
    }
    let pid = helper.pid?;
    let place = helper.place.as_deref().map(|place| format!(", as {place} does")).unwrap_or_default();
    Some(Step {
        what: format!("End the helper of {export} (process {pid}), unless it ended with its guest."),
        run: vec![format!("! kill -0 {pid} 2>/dev/null || kill {pid}")],
        undo: vec![format!("# start the helper of {export}{place}, where the guest's start does not")],
    })
}

fn disable_helper(helper: &Helper) -> Option<Step> {
    let export = helper.export.as_deref().unwrap_or("an unknown directory");
    let Some(unit) = &helper.unit else {
        let place = helper.place.as_ref()?;
        return Some(Step {
            what: format!("Take the line that starts the helper of {export} out of {place}."),
            run: vec![format!("# edit {place}")],
            undo: vec![format!("# put the helper's line back into {place}")],
        });
    };
    let word = shell(unit).ok()?;
    manager::is_enabled(unit).then(|| Step {
        what: format!("Disable the helper of {export} for good."),
        run: vec![format!("systemctl disable {word}")],
        undo: vec![format!("systemctl enable {word}")],
    })
}
