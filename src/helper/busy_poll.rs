//! Waiting for the next request without sleeping, while that pays.
//!
//! A guest that walks a tree sends its next request a few microseconds after the last reply, and most of what it waits
//! for is the scheduler waking this process up. So this process looks again for a moment before it goes to sleep, under
//! five conditions, all of them found out as it goes:
//!
//! - The client is busy: its last requests came within the bound of the replies before them. An idle client
//!   costs one such moment, a slow one nothing.
//! - The client runs on another processor. On our own it can't ask before we give way, which is what sleeping does best,
//!   and looking would only talk the scheduler into moving it away.
//! - There is more than one processor to run on.
//! - It pays here and now: every [`TRIAL`] requests some are slept for, and their gaps compared with those of as many that were looked
//!   for. Where looking does not shorten them by a tenth, it stops for a while, longer each time.
//! - Nobody else wants ours: between two looks it is offered to others, and where these keep taking it, looking only
//!   takes their time, the guest's own not least.

use std::time::{Duration, Instant};

/// So many requests in a row must agree before the way of waiting changes.
const AGREED: u8 = 16;
/// After so many looks at most the client of our own processor has asked: it did when we gave way to it.
const AT_ONCE: u32 = 2;
/// An offer of the processor that took so long was taken.
const TAKEN: Duration = Duration::from_micros(15);
/// What an offer that was taken adds to the count that a request takes one from, and the count at which to leave it.
const CROWDED: (u8, u8) = (8, 32);
/// The first and the longest pause before looking is tried again, in requests.
const PAUSES: (u32, u32) = (1 << 10, 1 << 17);

/// So many requests are slept for, and so many looked for, to compare them.
const SAMPLE: u32 = 32;
/// How often the two are compared, in requests.
const TRIAL: u32 = 1 << 12;

/// Decides when to look again and when to sleep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BusyPoll {
    bound: Duration,
    /// When the last reply was sent.
    replied: Instant,
    looks: bool,
    /// How often this process has looked since the last reply.
    looked: u32,
    /// Requests in a row that speak for the other way of waiting.
    streak: u8,
    /// How much others want this processor ([`CROWDED`]).
    crowd: u8,
    /// Requests to come before looking is tried again, and how long that pause was at first.
    pause: u32,
    paused: u32,
    /// The gaps of requests that were slept for, and of some that were looked for.
    slept: Gaps,
    watched: Gaps,
}

/// The sum of some gaps between a reply and the next request.
#[derive(Debug, Clone, Copy, Default)]
struct Gaps {
    count: u32,
    sum: Duration,
}

impl Gaps {
    fn add(&mut self, gap: Duration) {
        self.count += 1;
        self.sum += gap;
    }
}

impl BusyPoll {
    /// Looks for `bound` at most; never, where it is zero or this process has one processor (or the time of one, by
    /// cgroup). Finding that out takes files and system calls that a confined process is without.
    pub(crate) fn new(bound: Duration) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::with(if processors > 1 { bound } else { Duration::ZERO })
    }

    fn with(bound: Duration) -> Self {
        Self {
            bound,
            replied: Instant::now(),
            looks: false,
            looked: 0,
            streak: 0,
            crowd: 0,
            pause: 0,
            paused: PAUSES.0 / 2,
            slept: Gaps::default(),
            watched: Gaps::default(),
        }
    }

    /// A reply was sent.
    pub(crate) fn replied(&mut self) {
        if !self.bound.is_zero() && self.pause == 0 {
            self.replied = Instant::now();
        }
    }

    /// Bytes came.
    pub(crate) fn received(&mut self) {
        if self.bound.is_zero() {
            return;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        self.came_after(self.replied.elapsed());
    }

    /// What a gap between a reply and the next bytes says about the way to wait for the next ones.
    fn came_after(&mut self, gap: Duration) {
        let looked = std::mem::take(&mut self.looked);
        self.crowd = self.crowd.saturating_sub(1);
        if gap >= self.bound {
            self.looks = false;
            self.streak = 0;
            (self.slept, self.watched) = (Gaps::default(), Gaps::default());
            return;
        }
        if !self.compare(gap) {
            return;
        }
        let change = !self.looks || looked <= AT_ONCE;
        self.streak = if change { self.streak + 1 } else { 0 };
        if self.streak == AGREED {
            if self.looks {
                self.give_up();
            } else if self.slept.count < SAMPLE {
                // There is nothing to compare with yet.
                self.streak -= 1;
            } else {
                self.streak = 0;
                self.looks = true;
            }
        }
    }

    /// Takes note of a gap. False where that has changed the way of waiting.
    fn compare(&mut self, gap: Duration) -> bool {
        if !self.looks {
            if self.slept.count < SAMPLE {
                self.slept.add(gap);
            }
            return true;
        }
        // The first ones after a sample find a client and caches that are still used to the other way.
        self.watched.count += 1;
        if self.watched.count > SAMPLE && self.watched.count <= 2 * SAMPLE {
            self.watched.sum += gap;
        }
        if self.watched.count == 2 * SAMPLE && self.watched.sum * 10 > self.slept.sum * 9 {
            self.give_up();
            return false;
        }
        if self.watched.count >= TRIAL {
            // It paid: a client that asks now and then may be looked for again soon. Time to sleep for some.
            self.paused = PAUSES.0 / 2;
            self.looks = false;
            self.streak = 0;
            (self.slept, self.watched) = (Gaps::default(), Gaps::default());
            return false;
        }
        true
    }

    /// Looking does not pay: sleeps for a while of requests, longer each time.
    fn give_up(&mut self) {
        self.looks = false;
        (self.streak, self.crowd, self.looked) = (0, 0, 0);
        (self.slept, self.watched) = (Gaps::default(), Gaps::default());
        self.paused = (self.paused * 2).min(PAUSES.1);
        self.pause = self.paused;
    }

    /// Whether to look before sleeping.
    pub(crate) fn is_busy(&self) -> bool {
        self.looks
    }

    /// Whether to look again; gives way to others first.
    pub(crate) fn again(&mut self) -> bool {
        self.looked += 1;
        let offered = Instant::now();
        std::thread::yield_now();
        let now = Instant::now();
        self.is_ours(now - offered) && now - self.replied < self.bound
    }

    /// Whether the processor is still ours to look from, after it was offered to others for so long.
    fn is_ours(&mut self, offered: Duration) -> bool {
        if offered < TAKEN {
            return true;
        }
        self.crowd += CROWDED.0;
        if self.crowd >= CROWDED.1 {
            self.give_up();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_micros(50);
    const SOON: Duration = Duration::from_micros(5);
    /// How long a request takes to come where this process must be woken up for it.
    const WOKEN: Duration = Duration::from_micros(25);

    /// Lets `count` requests come after `gap`, each after `looks` looks when looking; later where they must wake this process.
    fn requests(poll: &mut BusyPoll, count: u32, gap: Duration, looks: u32) {
        gaps(poll, count, (gap.max(WOKEN), gap), looks);
    }

    /// The same, with the gaps of requests that are slept for and of those that are looked for.
    fn gaps(poll: &mut BusyPoll, count: u32, (slept, watched): (Duration, Duration), looks: u32) {
        for _ in 0..count {
            if poll.pause > 0 {
                poll.pause -= 1;
                continue;
            }
            poll.looked = if poll.looks { looks } else { 0 };
            poll.came_after(if poll.looks { watched } else { slept });
        }
    }

    /// How many of a million requests are looked for.
    fn looked_of_a_million(slept: Duration, watched: Duration) -> u32 {
        let mut poll = BusyPoll::with(BOUND);
        let mut looked = 0;
        for _ in 0..1_000_000 {
            looked += u32::from(poll.is_busy());
            gaps(&mut poll, 1, (slept, watched), 9);
        }
        looked
    }

    #[test]
    fn looking_stops_where_it_does_not_pay() {
        for (slept, watched, pays) in
            [(20, 5, true), (20, 17, true), (20, 19, false), (9, 16, false), (5, 5, false)]
        {
            let looked = looked_of_a_million(Duration::from_micros(slept), Duration::from_micros(watched));
            let expected = if pays { 950_000..1_000_000 } else { 1..5_000 };
            assert!(expected.contains(&looked), "{slept} µs, {watched} µs: {looked}");
        }
    }

    #[test]
    fn looking_is_tried_again_when_it_may_pay_again() {
        let mut poll = BusyPoll::with(BOUND);
        gaps(&mut poll, 100_000, (SOON, SOON), 9);
        gaps(&mut poll, 300_000, (WOKEN, SOON), 9);
        assert!(poll.is_busy());
    }

    #[test]
    fn a_busy_client_on_another_processor_is_looked_for() {
        let mut poll = BusyPoll::with(BOUND);
        requests(&mut poll, SAMPLE - 1, SOON, 9);
        assert!(!poll.is_busy());
        requests(&mut poll, 1, SOON, 9);
        assert!(poll.is_busy());
        requests(&mut poll, TRIAL - 1, SOON, 9);
        assert!(poll.is_busy());
        // It is compared again, and pays again.
        requests(&mut poll, 1, SOON, 9);
        assert!(!poll.is_busy());
        requests(&mut poll, SAMPLE, SOON, 9);
        assert!(poll.is_busy());
    }

    #[test]
    fn a_client_that_pauses_is_slept_for_at_once() {
        let mut poll = BusyPoll::with(BOUND);
        requests(&mut poll, 100, SOON, 9);
        requests(&mut poll, 1, BOUND, 9);
        assert!(!poll.is_busy());
        requests(&mut poll, 1_000, BOUND, 9);
        assert!(!poll.is_busy());
    }

    #[test]
    fn a_client_on_our_processor_is_looked_for_ever_more_rarely() {
        let mut poll = BusyPoll::with(BOUND);
        let mut looked = 0;
        for _ in 0..1_000_000 {
            looked += u32::from(poll.is_busy());
            requests(&mut poll, 1, SOON, 1);
        }
        assert!((16..1_000).contains(&looked), "{looked}");
    }

    #[test]
    fn a_processor_that_others_want_is_left_to_them() {
        // Every how many requests another process takes the processor, and whether that is too often.
        for (every, leaves) in [(1, true), (4, true), (10, false), (1000, false)] {
            let mut poll = BusyPoll::with(BOUND);
            requests(&mut poll, SAMPLE, SOON, 9);
            let mut left = false;
            for number in 1..=500 {
                assert!(poll.is_ours(Duration::from_micros(1)));
                if number % every == 0 {
                    assert!(!poll.is_ours(Duration::from_millis(1)));
                }
                left |= !poll.is_busy();
                requests(&mut poll, 1, SOON, 9);
            }
            assert_eq!(left, leaves, "{every}");
        }
    }

    #[test]
    fn a_bound_of_zero_never_looks() {
        let mut poll = BusyPoll::with(Duration::ZERO);
        for _ in 0..100 {
            poll.replied();
            poll.received();
        }
        assert!(!poll.is_busy());
    }
}
