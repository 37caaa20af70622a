//! What is to be written of directories, as lines that are sorted.

use serde::{Deserialize, Serialize};

use crate::data::entry::Identity;
use crate::data::journal::Record;
use crate::data::tree::Directory;
use crate::report::spool::Keyed;

/// What is to be written of a directory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    /// The names of the directories around it, and its own.
    pub(super) directory: Vec<Vec<u8>>,
    pub(super) what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum What {
    /// The directory itself, before its entries.
    Itself {
        /// Where the journal tells of it.
        id: Option<u64>,
        /// Which inode it was when it was opened, if it was.
        identity: Option<Identity>,
        /// What it really is, where it was added itself.
        added: Option<Record>,
    },
    /// What was added in it; directories, which have lines of their own, without record.
    Entry(Vec<u8>, Option<Record>),
}

/// The place of a line: directories with all that is in them in a row, and of each one first itself, then its entries by their names.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order(Vec<Vec<u8>>, Option<Vec<u8>>);

impl Keyed for Line {
    type Key = Order;

    fn key(&self) -> Order {
        let name = match &self.what {
            What::Itself { .. } => None,
            What::Entry(name, _) => Some(name.clone()),
        };
        Order(self.directory.clone(), name)
    }
}

/// The names of the directories around a directory, and its own.
pub(super) fn names(directory: &Directory) -> Vec<Vec<u8>> {
    let around = std::iter::successors(Some(directory), |directory| directory.parent().map(|above| &**above));
    let mut names: Vec<_> = around
        .filter(|directory| !directory.is_root())
        .map(|directory| directory.name().to_bytes().to_vec())
        .collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::spool::Sorted;
    use crate::text;

    #[test]
    fn a_directory_has_its_lines_in_one_row_before_those_of_what_is_in_it() {
        let line = |path: &str, what| {
            let names = path.split('/').filter(|name| !name.is_empty());
            Line { directory: names.map(|name| name.as_bytes().to_vec()).collect(), what }
        };
        let itself = || What::Itself { id: None, identity: None, added: None };
        let entry = |name: &str| What::Entry(name.as_bytes().to_vec(), None);
        let mut lines = Sorted::default();
        for line in [
            line("a/b", entry("x")),
            line("a/b", itself()),
            line("a b", itself()),
            line("a", entry("z")),
            line("a", entry("b")),
            line("", entry("a")),
            line("a", itself()),
            line("", itself()),
        ] {
            lines.push(&line);
        }
        let shown = |line: Line| {
            let directory = line.directory.join(&b'/');
            let what = match line.what {
                What::Itself { .. } => String::new(),
                What::Entry(name, _) => format!(" {}", text::escape(&name)),
            };
            format!("{}:{what}", text::escape(&directory))
        };
        let shown: Vec<_> = lines.iter().map(|line| shown(line.unwrap())).collect();
        assert_eq!(shown, [":", ": a", "a:", "a: b", "a: z", "a/b:", "a/b: x", "a b:"]);
    }
}
