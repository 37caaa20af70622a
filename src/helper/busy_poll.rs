//! Waiting for the next request without sleeping, while the guest is busy.
//!
//! A guest that walks a tree sends its next request a few microseconds after the last reply, and most of what it waits
//! for is the scheduler waking this process up. So this process looks again for a moment before it goes to sleep: never longer
//! than the bound it was given, and only when the last request came within that bound, so that an idle guest costs
//! one such moment and a slow one nothing. Between two looks it offers the processor to whoever wants it, and with
//! a single processor, where looking would only keep the guest from asking, it does not start.

use std::time::{Duration, Instant};

/// Decides when to look again and when to sleep.
#[derive(Debug, Clone, Copy)]
pub struct BusyPoll {
    bound: Duration,
    /// When the last reply was sent.
    replied: Instant,
    /// The last request came within the bound.
    busy: bool,
}

impl BusyPoll {
    /// Looks for `bound` at most; never, where it is zero or this process has one processor (or the time of one, by
    /// cgroup). Finding that out takes files and system calls that a confined process is without.
    pub fn new(bound: Duration) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let bound = if processors > 1 { bound } else { Duration::ZERO };
        Self { bound, replied: Instant::now(), busy: false }
    }

    /// A reply was sent.
    pub fn replied(&mut self) {
        if !self.bound.is_zero() {
            self.replied = Instant::now();
        }
    }

    /// A request came.
    pub fn received(&mut self) {
        self.busy = !self.bound.is_zero() && self.replied.elapsed() < self.bound;
    }

    /// Whether to look before sleeping.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether to look again; gives way to others first.
    pub fn again(&self) -> bool {
        std::thread::yield_now();
        self.replied.elapsed() < self.bound
    }
}
