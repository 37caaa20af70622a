//! A Bloom filter: whether something may have come before, in little memory.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};

/// The least room, in words of 64 bits: 64 KiB.
const LEAST: u64 = 1 << 13;

/// The most room: 8 MiB. Of more than some ten million things, many will seem to have come.
const MOST: u64 = 1 << 20;

/// What came, with a few other things that can't be told from it.
#[derive(Debug)]
pub(super) struct Filter {
    words: Vec<u64>,
    hasher: RandomState,
}

impl Filter {
    /// One that has nothing, with room for about so many things: of others, one in twenty seems to have come then.
    pub(super) fn of(count: u64) -> Self {
        // A byte for each.
        let words = count.div_ceil(8).clamp(LEAST, MOST).next_power_of_two();
        Self { words: vec![0; usize::try_from(words).unwrap_or(1)], hasher: RandomState::new() }
    }

    /// Where something is noted: in a word, a bit.
    fn places(&self, what: impl Hash) -> [(usize, u64); 2] {
        let hash = self.hasher.hash_one(what);
        // The number of words is a power of two that takes at most 20 bits of 32.
        let last = self.words.len() as u64 - 1;
        [hash & 0xffff_ffff, hash >> 32]
            .map(|part| (usize::try_from(part >> 6 & last).unwrap_or(0), 1 << (part & 63)))
    }

    /// Adds something. Whether it may have come before.
    pub(super) fn add(&mut self, what: impl Hash) -> bool {
        let mut came = true;
        for (word, bit) in self.places(what) {
            if let Some(word) = self.words.get_mut(word) {
                came &= *word & bit != 0;
                *word |= bit;
            }
        }
        came
    }

    /// Whether something may have come.
    pub(super) fn may_have(&self, what: impl Hash) -> bool {
        self.places(what).iter().all(|(word, bit)| self.words.get(*word).is_none_or(|word| word & bit != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_what_came_and_few_others() {
        let mut filter = Filter::of(100_000);
        let came = (0..100_000).filter(|number| filter.add(number)).count();
        assert!(came < 10_000, "{came}");
        assert!((0..100_000).all(|number| filter.may_have(number)));
        let others = (100_000..200_000).filter(|number| filter.may_have(number)).count();
        assert!(others < 10_000, "{others}");
        assert_eq!(Filter::of(u64::MAX).words.len() as u64, MOST);
    }
}
