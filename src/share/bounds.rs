//! What reading one document may cost: text can multiply itself without end, by variables, aliases, nesting.
//!
//! Whoever multiplies pays here before, and stops where nothing is left. [`bounded`] says then that the document was
//! not read to its end, so that this is never silent.

#![forbid(unsafe_code)]

use std::cell::Cell;

/// How much one document may cost, in bytes looked at once more.
const MOST: usize = 32 << 20;

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(MOST) };
    static CUT: Cell<Option<&'static str>> = const { Cell::new(None) };
    static DOCUMENT: Cell<u64> = const { Cell::new(0) };
}

/// Does the work of one document, and says why it was not done to its end, if it was not.
pub(crate) fn bounded<T>(work: impl FnOnce() -> T) -> (T, Option<&'static str>) {
    LEFT.set(MOST);
    CUT.set(None);
    DOCUMENT.set(DOCUMENT.get() + 1);
    let done = work();
    (done, CUT.take())
}

/// The number of the document that this thread works on: of no other before it.
pub(crate) fn document() -> u64 {
    DOCUMENT.get()
}

/// Pays for looking at `bytes` bytes once more. `false`: there is nothing left, and the work must stop.
pub(crate) fn spend(bytes: usize) -> bool {
    let left = LEFT.get().checked_sub(bytes);
    LEFT.set(left.unwrap_or(0));
    if left.is_none() {
        cut("what it says multiplies without end, and it was not read further");
    }
    left.is_some()
}

/// Notes that the document is not read to its end, and why. The first reason counts.
pub(crate) fn cut(why: &'static str) {
    CUT.set(CUT.take().or(Some(why)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_spent_and_the_next_document_starts_anew() {
        let (spent, cut) = bounded(|| (spend(MOST - 1), spend(1), spend(1), spend(0)));
        assert_eq!(spent, (true, true, false, true));
        assert!(cut.is_some());
        assert_eq!(bounded(|| spend(1)), (true, None));
    }
}
