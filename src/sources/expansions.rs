//! The expansions that bytes of a document came through. A byte holds a number of them, which takes less room than they do.
//!
//! The numbers are those of one thread's document: [`bounded`](crate::share::bounds::bounded) begins a new one, and what
//! comes out of a document's reader holds none.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;

use super::quote_style::QuoteStyle;
use crate::share::bounds::document;

/// How many expansions of a way are kept, the outermost ones: a variable that is made of itself again and again has ways without end.
const MOST: usize = 4;

/// An expansion: where the variable is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Expansion {
    /// The bytes of the file that spell the expansion, from…
    pub start: u32,
    /// …to.
    pub end: u32,
    /// What escapes a new byte needs there.
    pub spelt: QuoteStyle,
    /// Whether the expansion makes several words, so that it can't be replaced by one text.
    pub several: bool,
}

/// A way through expansions, the outermost first; none by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Expansions(u32);

#[derive(Debug, Default)]
struct Table {
    /// Of which document.
    document: u64,
    ways: Vec<(Expansion, Expansions)>,
    numbers: HashMap<(Expansion, Expansions), Expansions>,
    /// What was asked for last: mostly, the next byte came the same way.
    last: Option<((Expansion, Expansions), Expansions)>,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

impl Expansions {
    /// The way through `via` and then through these.
    pub(crate) fn behind(self, via: Expansion) -> Self {
        TABLE.with_borrow_mut(|table| table.behind(via, self))
    }

    /// The outermost one, and the way behind it.
    pub(crate) fn first(self) -> Option<(Expansion, Self)> {
        let index = usize::try_from(self.0).ok()?.checked_sub(1)?;
        TABLE.with_borrow(|table| table.ways.get(index).copied())
    }
}

impl Table {
    fn behind(&mut self, via: Expansion, rest: Expansions) -> Expansions {
        if self.document != document() {
            *self = Self { document: document(), ..Self::default() };
        }
        let way = (via, rest);
        if let Some((last, number)) = self.last
            && last == way
        {
            return number;
        }
        let rest = self.outermost(rest, MOST - 1);
        let number = self.number(via, rest);
        self.last = Some((way, number));
        number
    }

    /// The outermost expansions of a way, at most so many.
    fn outermost(&mut self, way: Expansions, most: usize) -> Expansions {
        let inner = (way.0 as usize).checked_sub(1).and_then(|index| self.ways.get(index).copied());
        match (inner, most.checked_sub(1)) {
            (Some((via, rest)), Some(most)) => {
                let rest = self.outermost(rest, most);
                self.number(via, rest)
            }
            _ => Expansions::default(),
        }
    }

    fn number(&mut self, via: Expansion, rest: Expansions) -> Expansions {
        *self.numbers.entry((via, rest)).or_insert_with(|| {
            self.ways.push((via, rest));
            Expansions(u32::try_from(self.ways.len()).unwrap_or(0))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::bounds::bounded;
    use crate::sources::quote_style::QuoteStyle;

    #[test]
    fn a_way_is_told_as_it_was_made_and_forgotten_with_its_document() {
        let via = |start| Expansion { start, end: start + 2, spelt: QuoteStyle::ShellBare, several: false };
        let none = Expansions::default();
        assert_eq!(none.first(), None);
        let two = || none.behind(via(1)).behind(via(5));
        let first = bounded(|| {
            assert_eq!(two(), two());
            assert_ne!(two(), none.behind(via(5)));
            let (outer, rest) = two().first().unwrap();
            assert_eq!((outer, rest), (via(5), none.behind(via(1))));
            two()
        });
        // Of a long way, the outermost ones are kept.
        let long = (0..9).fold(none, |way, start| way.behind(via(start)));
        let mut kept = Vec::new();
        let mut way = long;
        while let Some((via, rest)) = way.first() {
            kept.push(via.start);
            way = rest;
        }
        assert_eq!(kept, [8, 7, 6, 5]);
        // The next document's numbers begin anew.
        let next = bounded(|| none.behind(via(7)).behind(via(9)));
        assert_eq!(first.0, next.0);
    }
}
