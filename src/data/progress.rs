//! How far the work is: a bar on a terminal, a line a minute elsewhere, or JSON lines for programs.

use std::fmt::Write;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;

use crate::data::options::ProgressMode;

/// Work in progress. It is shown until this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    shared: Arc<Shared>,
    shower: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    what: &'static str,
    done: AtomicU64,
    /// 0: not known.
    total: u64,
    start: Instant,
    over: AtomicBool,
    wake: (Mutex<()>, Condvar),
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct State {
    /// What is being done.
    step: &'static str,
    /// Entries that are done.
    done: u64,
    /// Of how many; `None`: not known.
    total: Option<u64>,
    /// Entries a second, since the start.
    rate: u64,
    /// Seconds left; `None`: not known.
    seconds_left: Option<u64>,
}

impl Progress {
    /// Shows a step of `total` entries; 0: nobody knows how many.
    pub(crate) fn start(mode: ProgressMode, what: &'static str, total: u64) -> Self {
        let shared = Arc::new(Shared {
            what,
            done: AtomicU64::new(0),
            total,
            start: Instant::now(),
            over: AtomicBool::new(false),
            wake: (Mutex::new(()), Condvar::new()),
        });
        let show: Option<fn(&Shared)> = match mode {
            ProgressMode::Never => None,
            ProgressMode::Json => Some(|shared| lines(shared, Duration::from_secs(1), json)),
            ProgressMode::Auto if std::io::stderr().is_terminal() => Some(bar),
            ProgressMode::Auto => Some(|shared| lines(shared, Duration::from_secs(60), line)),
        };
        let shower = show.map(|show| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || show(&shared))
        });
        Self { shared, shower }
    }

    /// So many more entries are done.
    pub(crate) fn add(&self, entries: u64) {
        self.shared.done.fetch_add(entries, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.wake.1.notify_all();
        if let Some(shower) = self.shower.take() {
            // A shower that panicked has shown so itself.
            let _ = shower.join();
        }
    }
}

impl Shared {
    fn state(&self) -> State {
        let done = self.done.load(Ordering::Relaxed);
        let elapsed = self.start.elapsed();
        let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let total = (self.total > 0).then_some(self.total);
        let left = total.filter(|_| done > 0).map(|total| total.saturating_sub(done));
        State {
            step: self.what,
            done,
            total,
            rate: done.saturating_mul(1000) / milliseconds,
            seconds_left: left.map(|left| left.saturating_mul(milliseconds) / done.max(1) / 1000),
        }
    }

    /// Waits; says whether there is more to show.
    fn wait(&self, pause: Duration) -> bool {
        let guard = self.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.over.load(Ordering::Relaxed) {
            return false;
        }
        let _ = self.wake.1.wait_timeout(guard, pause);
        !self.over.load(Ordering::Relaxed)
    }
}

fn lines(shared: &Shared, pause: Duration, say: fn(&State)) {
    let mut next = Instant::now() + pause;
    while shared.wait(next.saturating_duration_since(Instant::now())) {
        if Instant::now() >= next {
            say(&shared.state());
            next += pause;
        }
    }
    if pause == Duration::from_secs(1) {
        say(&shared.state());
    }
}

fn json(state: &State) {
    if let Ok(text) = serde_json::to_string(state) {
        complain!("{text}");
    }
}

fn line(state: &State) {
    let State { step, done, rate, .. } = state;
    match (state.total, state.seconds_left) {
        (Some(total), Some(left)) => {
            complain!("{step}: {done} of {total} entries, {rate} a second, {} left", duration(left));
        }
        _ => complain!("{step}: {done} entries, {rate} a second"),
    }
}

/// Seconds for people.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn bar(shared: &Shared) {
    let (bar, template) = if shared.total > 0 {
        let template = "{msg} {wide_bar} {human_pos} of {human_len} entries, {rate} a second, {eta} left";
        (ProgressBar::new(shared.total), template)
    } else {
        (ProgressBar::new_spinner(), "{msg} {spinner} {human_pos} entries, {rate} a second")
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        let rate = |state: &ProgressState, out: &mut dyn Write| {
            // What can't be written is not shown.
            let _ = write!(out, "{:.0}", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar.set_message(shared.what);
    while shared.wait(Duration::from_millis(100)) {
        bar.set_position(shared.done.load(Ordering::Relaxed));
    }
    bar.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_told_by_what_is_done() {
        let progress = Progress::start(ProgressMode::Never, "converting", 1000);
        assert_eq!(progress.shared.state().seconds_left, None);
        progress.add(1000);
        let state = progress.shared.state();
        assert_eq!((state.done, state.total, state.seconds_left), (1000, Some(1000), Some(0)));
        assert_eq!(serde_json::to_value(state).unwrap()["step"], "converting");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([59, 61, 3600, 9000].map(duration), ["59 s", "2 min", "1 h 0 min", "2 h 30 min"]);
    }
}
