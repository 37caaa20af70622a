//! Where entries are that come by their paths.

use std::ffi::CString;
use std::sync::Arc;

use super::list::Added;
use crate::data::tree::{Directory, Tree};

/// Finds the directories of entries. Those of the last one are kept: entries come in the order of paths.
#[derive(Debug)]
pub(crate) struct Places {
    root: Arc<Directory>,
    /// The directories around the last entry, the outermost first.
    around: Vec<Arc<Directory>>,
}

impl Places {
    /// Those of a tree.
    pub(crate) fn of(tree: &Tree) -> Self {
        Self { root: Arc::clone(tree.root()), around: Vec::new() }
    }

    /// The directory that an entry is in, and its name there. The directory is the one that it was when the entry was found: where
    /// another has taken its place, it can't be opened.
    pub(crate) fn find(&mut self, added: &Added) -> (Arc<Directory>, CString) {
        let mut names: Vec<_> = added.path.split(|&byte| byte == b'/').collect();
        let name = names.pop().unwrap_or_default();
        let common = self
            .around
            .iter()
            .zip(&names)
            .take_while(|(directory, name)| directory.name().to_bytes() == **name);
        self.around.truncate(common.count());
        for name in names.iter().skip(self.around.len()) {
            let above = self.around.last().unwrap_or(&self.root);
            let directory = above.child(&named(name));
            self.around.push(directory);
        }
        let directory = self.around.last().unwrap_or(&self.root);
        directory.expect(added.within);
        (Arc::clone(directory), named(name))
    }
}

/// A part of a path that the kernel has told: there is no NUL in it.
fn named(name: &[u8]) -> CString {
    CString::new(name).unwrap_or_default()
}
