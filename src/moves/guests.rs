//! Stops and starts guests, and waits until they are down or up.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::document::{Command, Guest, Manager, Move, path_of};
use super::run::{Options, run_all};
use super::{managers, qemu, tool};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a process may take to end after it was told to, or a helper to listen.
pub(super) const SHORTLY: Duration = Duration::from_secs(60);

/// Whether a guest runs: its manager says so, or a QEMU has its shares.
pub(super) fn is_running(guest: &Guest) -> anyhow::Result<bool> {
    Ok(managers::of(guest.manager).is_running(guest)? || !qemu::of(guest)?.is_empty())
}

/// Waits for a condition; whether it came true in time.
pub(super) fn wait(
    limit: Duration,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let start = Instant::now();
    loop {
        if condition()? {
            return Ok(true);
        }
        if start.elapsed() >= limit {
            return Ok(false);
        }
        sleep(PAUSE);
    }
}

/// After how long a guest that still runs is asked again to shut down.
const ASK_AGAIN: Duration = Duration::from_secs(20);

pub(super) fn stop(guest: &Guest, options: &Options) -> anyhow::Result<()> {
    if !is_running(guest)? {
        return Ok(());
    }
    let manager = managers::of(guest.manager);
    let commands = manager.stop(guest);
    ensure!(
        !commands.is_empty(),
        "{} runs, and nothing says how it is shut down: shut it down, and run this again",
        guest.name
    );
    run_all(&commands)?;
    let end = Instant::now() + Duration::from_secs(options.stop_timeout);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if wait(left.min(ASK_AGAIN), || Ok(!is_running(guest)?))? {
            return Ok(());
        }
        if left <= ASK_AGAIN {
            break;
        }
        // A guest that was starting may have missed it. That it is just ending is no error.
        let _ = run_all(&commands);
    }
    let force = manager.force_stop(guest);
    ensure!(
        options.force_stop,
        "{} does not shut down within {} seconds, and is left running: it was asked to, and may still do it. Shut it down from inside; \
         or give it more time by --stop-timeout, or end it as a power failure does by --force-stop",
        guest.name,
        options.stop_timeout
    );
    ensure!(!force.is_empty(), "{} does not shut down, and nothing says how it is forced to", guest.name);
    run_all(&force)?;
    ensure!(wait(SHORTLY, || Ok(!is_running(guest)?))?, "{} runs although it was ended by force", guest.name);
    Ok(())
}

pub(super) fn stop_all(one: &Move, options: &Options) -> anyhow::Result<()> {
    one.guests.iter().try_for_each(|guest| stop(guest, options))
}

pub(super) fn nobody_runs(one: &Move) -> anyhow::Result<()> {
    for guest in &one.guests {
        ensure!(!is_running(guest)?, "{} runs: somebody has started it meanwhile", guest.name);
    }
    Ok(())
}

/// Starts a guest. Returns the command that does it, which may go on.
pub(super) fn start(guest: &Guest, options: &Options) -> anyhow::Result<Option<Starting>> {
    let limit = Duration::from_secs(options.up_timeout);
    if is_running(guest)? {
        return Ok(None);
    }
    let commands = managers::of(guest.manager).start(guest);
    ensure!(!commands.is_empty(), "nothing says how {} is started", guest.name);
    if guest.manager != Manager::Commands {
        return run_all(&commands).map(|()| None);
    }
    let mut last = None;
    for command in &commands {
        last = Some(start_by_command(command, guest, limit)?);
    }
    Ok(last)
}

/// A command that starts a guest, as far as it is.
pub(super) struct Starting {
    line: String,
    started: tool::Started,
}

impl Starting {
    /// Whether the command has ended. It is an error if it has failed.
    pub(super) fn has_ended(&mut self) -> anyhow::Result<bool> {
        let Some(said) = self.started.ended()? else { return Ok(false) };
        ensure!(said.status == Some(0), "{}: {}: {}", self.line, said.how(), said.reason());
        Ok(true)
    }
}

/// Runs the command that starts a guest until it ends or the guest runs: the command may become QEMU itself.
fn start_by_command(command: &Command, guest: &Guest, limit: Duration) -> anyhow::Result<Starting> {
    let (program, words) = command.words.split_first().context("a command without words")?;
    let started = tool::Started::of(path_of(program), words.iter().map(|word| path_of(word)), true)?;
    let mut starting = Starting { line: command.line(), started };
    let up = wait(limit, || Ok(starting.has_ended()? || is_running(guest)?))?;
    ensure!(up, "{} neither ended nor started the guest in time", starting.line);
    Ok(starting)
}

/// Waits until a guest runs and its QEMU has all shares over local, and stays so for the settling time.
/// A command that started it and fails ends the wait: QEMU can be seen before it finds what it cannot do.
pub(super) fn wait_until_up(
    guest: &Guest,
    mut starting: Option<Starting>,
    options: &Options,
) -> anyhow::Result<()> {
    let is_up = || -> anyhow::Result<bool> {
        let running = qemu::of(guest)?;
        let has = |index: usize| running.iter().any(|qemu| qemu.local.contains(&index));
        let on_proxy = running.iter().any(|qemu| !qemu.proxy.is_empty());
        Ok(is_running(guest)? && !on_proxy && (0..guest.shares.len()).all(has))
    };
    let limit = Duration::from_secs(options.up_timeout);
    ensure!(
        wait(limit, || {
            starting.as_mut().map_or(Ok(false), Starting::has_ended)?;
            is_up()
        })?,
        "{} does not run with all its shares over local within {} seconds of its start",
        guest.name,
        options.up_timeout
    );
    let fell = wait(Duration::from_secs(options.settle), || Ok(!is_up()?))?;
    ensure!(!fell, "{} ended shortly after its start", guest.name);
    Ok(())
}
