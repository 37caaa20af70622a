//! How much of a tree is mapped.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::entry::Kind;
use super::form::{Form, Model};
use super::pin::Pin;
use super::tree::{Directory, Tree};
use super::walk::{self, Trouble, Visitor};
use super::{mapped_file, mapped_xattr};
use crate::text;

/// Counts what is mapped in a tree.
pub(super) fn count(tree: &Path, model: Model, jobs: usize) -> Result<Counts> {
    let opened = Tree::open(tree)?;
    let counters = walk::parallel(&opened, jobs, || Counter { model, counts: Counts::default() })?;
    let mut counts = Counts::default();
    for Counter { counts: more, .. } in &counters {
        counts.entries += more.entries;
        counts.mapped += more.mapped;
        counts.replaced += more.replaced;
        counts.acls += more.acls;
        counts.owners.extend(&more.owners);
    }
    Ok(counts)
}

/// What is in a tree.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) entries: u64,
    /// Entries with something that says what the guest sees.
    pub(super) mapped: u64,
    /// Regular files that stand for something else.
    pub(super) replaced: u64,
    /// Mapped entries with ACLs.
    pub(super) acls: u64,
    /// The owners and groups that the guest sees.
    pub(super) owners: BTreeSet<(u32, u32)>,
}

/// Counts what would be done.
struct Counter {
    model: Model,
    counts: Counts,
}

impl Counter {
    fn count(&mut self, directory: &Directory, name: &CStr, pin: &Pin) -> Result<()> {
        let shown = || crate::text::escape(&directory.path_of(name)).into_owned();
        let is_mapped = match self.model {
            Model::MappedXattr => mapped_xattr::is_carried(pin),
            Model::MappedFile => mapped_file::read_attributes(directory, name).map(|found| found.is_some()),
        };
        let is_mapped = is_mapped.with_context(|| format!("reading '{}'", shown()))?;
        let entry = Form::Mapped(self.model).read(directory, name, pin);
        let entry = entry.with_context(|| format!("reading '{}'", shown()))?;
        self.counts.entries += 1;
        self.counts.owners.insert((entry.uid, entry.gid));
        self.counts.mapped += u64::from(is_mapped);
        self.counts.acls +=
            u64::from(is_mapped && (entry.access_acl.is_some() || entry.default_acl.is_some()));
        let is_replaced = is_mapped && entry.kind() != pin.inode().kind();
        self.counts.replaced += u64::from(is_replaced && entry.kind().is_some_and(Kind::is_replaced));
        Ok(())
    }
}

impl Visitor for Counter {
    type Error = anyhow::Error;

    fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> Result<()> {
        let within = directory.parent().unwrap_or(directory);
        self.count(within, directory.name(), pin)
    }

    fn entry(&mut self, directory: &Arc<Directory>, name: &CStr, pin: Pin) -> Result<()> {
        self.count(directory, name, &pin)
    }

    fn trouble(&mut self, directory: &Arc<Directory>, name: &CStr, trouble: Trouble) -> Result<()> {
        match trouble {
            // Mounts are no part of the tree.
            Trouble::Mount | Trouble::Changed => Ok(()),
            Trouble::Failed(error) => {
                Err(error).with_context(|| format!("reading '{}'", text::escape(&directory.path_of(name))))
            }
        }
    }

    fn hides(&self, directory: &Arc<Directory>, name: &CStr) -> bool {
        Form::Mapped(self.model).hides(directory, name)
    }
}
