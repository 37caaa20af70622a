//! Stops helpers, and starts them again on the way back.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use super::document::{Helper, Step, path_of};
use super::guests::{SHORTLY, wait};
use super::run::run_all;
use super::{managers, tool};

/// Ends a helper: its unit, or its process, if that is still the one of the plan.
pub(super) fn stop(helper: &Helper, step: &Step) -> anyhow::Result<()> {
    if let Some(unit) = &helper.unit {
        run_all(&step.run)?;
        ensure!(
            wait(SHORTLY, || Ok(!managers::is_active(unit)?))?,
            "{unit} is active although it was stopped"
        );
        return Ok(());
    }
    let Some(pid) = helper.pid else {
        return Ok(());
    };
    // The descriptor stays with this process; if it has ended since, no other one gets the signal.
    let id = rustix::process::Pid::from_raw(pid).context("a process's number")?;
    let process = match rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(errno).with_context(|| format!("taking hold of process {pid}")),
    };
    // Only now: between an earlier look and the descriptor another process might have got the number.
    if !is_its(helper, pid) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(&process, rustix::process::Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(errno).with_context(|| format!("ending process {pid}")),
    }
    ensure!(wait(SHORTLY, || Ok(!is_its(helper, pid)))?, "the helper (process {pid}) does not end");
    Ok(())
}

/// Whether a process is the helper of the plan: it has its arguments, and was started when that was.
fn is_its(helper: &Helper, pid: i32) -> bool {
    is_command(pid, &helper.command) && helper.started.is_none_or(|started| start_time(pid) == Some(started))
}

/// When a process was started, in clock ticks since the boot (proc(5), field 22 of its stat). Its name, the second field, may have
/// blanks and parentheses in it.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at..))?;
    let text = std::str::from_utf8(after).ok()?;
    text.split_ascii_whitespace().nth(20)?.parse().ok()
}

/// Whether a process has these arguments. Its program is known by its path, not by the first argument.
fn is_command(pid: i32, command: &[String]) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0).skip(1).collect();
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let Some((first, rest)) = command.split_first() else {
        return false;
    };
    program == path_of(first)
        && rest.len() == words.len()
        && rest.iter().zip(words).all(|(own, word)| crate::text::unescape(own) == word)
}

/// Starts a helper again: by its unit, or by the arguments that it ran with.
pub(super) fn start(helper: &Helper, step: &Step) -> anyhow::Result<()> {
    if helper.unit.is_some() {
        return run_all(&step.undo);
    }
    let Some(command) = step.undo.first() else {
        return Ok(());
    };
    let Some((program, words)) = command.words.split_first().filter(|_| !command.by_hand) else {
        bail!("nothing says how the helper is started: {}", command.line());
    };
    if is_listening(helper)? {
        return Ok(());
    }
    if let Some(socket) = &helper.socket
        && fs::symlink_metadata(path_of(socket)).is_ok()
    {
        // A helper that was ended may leave its socket, and does not start over it.
        fs::remove_file(path_of(socket)).with_context(|| format!("removing {socket}"))?;
    }
    // Where it does not go to the background by itself it goes on after this program.
    let mut started = tool::Started::of(path_of(program), words.iter().map(|word| path_of(word)), true)?;
    let up = wait(SHORTLY, || {
        if let Some(said) = started.ended()? {
            ensure!(
                said.status == Some(0),
                "the helper ended at its start: {}: {}",
                command.line(),
                said.reason()
            );
        }
        is_listening(helper)
    })?;
    ensure!(up, "the helper does not listen: {}", command.line());
    Ok(())
}

/// Whether somebody listens on a helper's socket. To connect would take its client's place.
fn is_listening(helper: &Helper) -> anyhow::Result<bool> {
    let Some(socket) = &helper.socket else {
        return Ok(false);
    };
    let wanted = crate::text::unescape(socket);
    let mut tables = vec![PathBuf::from("/proc/net/unix")];
    // This program's own helper listens in a network namespace of its own.
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if pid.is_some_and(|pid| is_command(pid, &helper.command)) {
            tables.push(entry.path().join("net/unix"));
        }
    }
    // Num RefCount Protocol Flags Type St Inode Path; the flag 10000 says that it listens. A path may have blanks in it.
    let is_its = |line: &[u8]| {
        let before = line.len().checked_sub(wanted.len()).and_then(|length| line.split_at_checked(length));
        before.is_some_and(|(before, path)| {
            let fields: Vec<&[u8]> =
                before.split(|byte| *byte == b' ').filter(|field| !field.is_empty()).collect();
            path == wanted && fields.len() == 7 && fields.get(3) == Some(&b"00010000".as_slice())
        })
    };
    let is_in = |table: &PathBuf| {
        // A process that has ended meanwhile has none.
        fs::read(table).is_ok_and(|text| text.split(|byte| *byte == b'\n').any(is_its))
    };
    Ok(tables.iter().any(is_in))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// A process that was started at another time is not the plan's, though it has its number and its arguments.
    #[test]
    fn only_the_process_of_the_plan_is_ended() {
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let program = || fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let command = || vec![program().to_str().unwrap().to_owned(), "600".to_owned()];
        // A process has its program before it has its arguments.
        let is_sleep = || Ok(program().ends_with("sleep") && is_command(pid, &command()));
        assert!(wait(SHORTLY, is_sleep).unwrap());
        let started = start_time(pid);
        assert!(started.is_some());
        let command = command();
        let mut helper = Helper { pid: Some(pid), command, ..Helper::default() };
        helper.started = started.map(|started| started + 1);
        stop(&helper, &Step::default()).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "another process was ended");
        helper.started = started;
        // The parent reaps it.
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        stop(&helper, &Step::default()).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&reaper.join().unwrap()), Some(15));
    }
}
