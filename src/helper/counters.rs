//! Counts of what was served, for who asks with SIGUSR1.
//!
//! They are in memory that all processes of one helper share, so that a request costs one addition and a worker's counts are
//! there after its end. A worker that was taken over can falsify them: nothing is decided by them.

use std::fmt::{self, Display, Formatter, Write as _};
use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};

use super::protocol::Request;
use super::sys;

/// More than there are types of requests.
const TYPES: usize = 32;
/// More than there are errors.
const ERRNOS: usize = 160;

type Counters = [AtomicU64; 2 * TYPES + ERRNOS + 1];
/// Where the counters of failed requests begin, of errors, and of clients.
const FAILED: usize = TYPES;
const ERRORS: usize = 2 * TYPES;
const CLIENTS: usize = ERRORS + ERRNOS;

static COUNTERS: OnceLock<&'static Counters> = OnceLock::new();

/// Starts to count, in this process and in all that it forks from now on.
pub(crate) fn start() -> Result<()> {
    let _ = COUNTERS.set(sys::shared_counters().context("cannot allocate counters")?);
    Ok(())
}

fn add(at: usize) {
    if let Some(counter) = COUNTERS.get().and_then(|counters| counters.get(at)) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a request and, where it failed, its error.
pub(crate) fn count(request: u32, error: Option<Errno>) {
    let number = usize::try_from(request).unwrap_or(0).min(TYPES - 1);
    add(number);
    if let Some(errno) = error {
        add(FAILED + number);
        add(ERRORS + usize::try_from(errno as i32).unwrap_or(0).min(ERRNOS - 1));
    }
}

/// Counts a client.
pub(crate) fn count_client() {
    add(CLIENTS);
}

/// The counts, as a line of text. Its formatting allocates nothing: a signal handler may do it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// How many clients are served now.
    pub clients: u64,
    /// The bytes of memory that the helper has, or has had at its peak.
    pub memory: u64,
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let get = |at: usize| {
            COUNTERS.get().and_then(|counters| counters.get(at)).map_or(0, |it| it.load(Ordering::Relaxed))
        };
        f.write_str("requests: ")?;
        let mut any = false;
        for &(number, name) in Request::TYPES {
            let at = usize::try_from(number).unwrap_or(0);
            let (count, failed) = (get(at), get(FAILED + at));
            if count == 0 {
                continue;
            }
            f.write_str(if any { ", " } else { "" })?;
            for letter in name.trim_start_matches("T_").chars() {
                f.write_char(letter.to_ascii_lowercase())?;
            }
            write!(f, " {count}")?;
            if failed > 0 {
                write!(f, " ({failed} failed)")?;
            }
            any = true;
        }
        f.write_str(if any { "; errors: " } else { "none; errors: " })?;
        any = false;
        for (raw, at) in (0_i32..).zip(ERRORS..CLIENTS) {
            let count = get(at);
            if count > 0 {
                write!(f, "{}{:?} {count}", if any { ", " } else { "" }, Errno::from_raw(raw))?;
                any = true;
            }
        }
        f.write_str(if any { "" } else { "none" })?;
        write!(f, "; clients: {} now, {} since the start; ", self.clients, get(CLIENTS))?;
        write!(f, "memory: {} bytes", self.memory)
    }
}

/// The most memory that this process has had, in bytes. It needs no `/proc`.
pub(crate) fn peak_memory() -> u64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| u64::try_from(usage.max_rss()).unwrap_or(0) * 1024)
}

/// The memory that these processes have now, in bytes. Needs `/proc`: a process that is not found there counts as 0.
pub(crate) fn memory_of(pids: impl IntoIterator<Item = i32>) -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|page| u64::try_from(page).ok()).unwrap_or(4096);
    let resident = |pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    pids.into_iter().filter_map(resident).map(|pages| pages * page).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_and_error_has_a_counter_and_a_word() {
        assert!(Request::TYPES.iter().all(|(number, _)| usize::try_from(*number).unwrap() < TYPES - 1));
        let _ = start();
        for &(number, _) in Request::TYPES {
            count(number, None);
        }
        // Whatever a client could bring about, no index is out of bounds.
        count(u32::MAX, Some(Errno::ENOTSUP));
        count(8, Some(Errno::ENOENT));
        count_client();
        let text = Counts { clients: 1, memory: 4096 }.to_string();
        for part in
            ["lstat 2 (1 failed)", "ENOENT 1", "clients: 1 now, 1 since the start", "memory: 4096 bytes"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        for (_, name) in Request::TYPES {
            assert!(text.contains(&name[2..].to_lowercase()), "{name}: {text}");
        }
    }
}
