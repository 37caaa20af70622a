//! What was added, into the journal: each entry in a listing of the directory that it is in.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::data::added::Added;
use crate::data::convert::record::Late;
use crate::data::goal::Goal;
use crate::data::journal::{self, Journal, Part, Record, Writer};
use crate::data::origins::Origins;
use crate::data::staging::Staging;
use crate::data::tree::{Directory, Tree};
use crate::text;

/// A directory in which something was added, or that is above such a one.
struct Node {
    directory: Arc<Directory>,
    /// Where it was added itself: what it really is.
    added: Option<Record>,
    /// What the journal tells of it.
    known: Option<Known>,
    /// What was added in it; directories, which have nodes of their own, without record.
    entries: BTreeMap<CString, Option<Record>>,
}

/// A directory that the journal tells of.
struct Known {
    id: u64,
    parent: Option<u64>,
    name: CString,
    own: Record,
}

/// Records what was added. None of it is touched, and nothing of it is on stable storage yet.
pub(super) fn record(
    tree: &Tree,
    journal: &Journal,
    goal: Goal,
    added: &[Added],
    writer: &mut Writer,
) -> Result<()> {
    let mut nodes = nodes(added);
    find(journal, &mut nodes)?;
    forget_others(&mut nodes)?;
    // A directory that the journal does not tell of is named in the one that it is in.
    let unknown: Vec<_> =
        nodes.iter().filter(|(_, node)| node.known.is_none()).map(|(path, _)| path.clone()).collect();
    for path in unknown.iter().filter(|path| !path.is_empty()) {
        let (above, name) = split(path);
        let within = nodes.get_mut(above).context("the directory that a directory is in")?;
        within.entries.entry(CString::new(name)?).or_insert(None);
    }
    let (staging, origins) =
        (Staging::new(&journal.begin().staging), Origins::new(journal.path(), goal, true));
    let late = Late { goal, origins: &origins, staging: &staging };
    let mut ids: HashMap<&[u8], u64> = HashMap::new();
    for (path, node) in &nodes {
        let (above, name) = split(path);
        let mut part = if let Some(Known { id, parent, name, own }) = &node.known {
            let own = with_times_of(own, &node.directory)?;
            Part::new(journal.format(), *parent, name.to_bytes(), own, true).more(*id)
        } else {
            let parent = *ids.get(above).context("the export's root, of which the journal does not tell")?;
            Part::new(journal.format(), Some(parent), name, own(&late, node)?, true)
        };
        write(node, &mut part, writer)
            .map_err(|error| journal::not_written(error, journal.path()))
            .with_context(|| format!("recording '{}'", text::escape(path)))?;
        ids.insert(path, part.id().or(node.known.as_ref().map(|known| known.id)).unwrap_or(0));
    }
    debug_assert!(nodes.get(&b""[..]).is_none_or(|root| Arc::ptr_eq(&root.directory, tree.root())));
    Ok(())
}

/// Every directory in which something was added, and all above them, by their paths.
fn nodes(added: &[Added]) -> BTreeMap<Vec<u8>, Node> {
    let mut nodes = BTreeMap::new();
    for entry in added {
        let record = (!entry.is_directory()).then(|| entry.record.clone());
        node(&mut nodes, &entry.directory).entries.insert(entry.name.clone(), record);
        if entry.is_directory() {
            let itself = entry.directory.child(&entry.name);
            node(&mut nodes, &itself).added = Some(entry.record.clone());
        }
    }
    nodes
}

/// The node of a directory, which is made with all above it where it is not there.
fn node<'n>(nodes: &'n mut BTreeMap<Vec<u8>, Node>, directory: &Arc<Directory>) -> &'n mut Node {
    let mut next = Some(directory);
    while let Some(directory) = next {
        let path = directory.path();
        if nodes.contains_key(&path) {
            break;
        }
        let (directory, entries) = (Arc::clone(directory), BTreeMap::new());
        nodes.insert(path, Node { directory, added: None, known: None, entries });
        next = next.and_then(|directory| directory.parent());
    }
    let path = directory.path();
    let make =
        || Node { directory: Arc::clone(directory), added: None, known: None, entries: BTreeMap::new() };
    nodes.entry(path).or_insert_with(make)
}

/// Finds out what the journal tells of these directories.
fn find(journal: &Journal, nodes: &mut BTreeMap<Vec<u8>, Node>) -> Result<()> {
    let superseded = journal.superseded()?;
    let mut paths: HashMap<u64, Vec<u8>> = HashMap::new();
    for listing in journal.listings()? {
        let (at, mut listing) = listing?;
        if superseded.is_over(&listing) {
            continue;
        }
        if listing.is_first(at) {
            let path = match listing.parent {
                None => Some(Vec::new()),
                Some(parent) => paths.get(&parent).map(|above| join(above, &listing.name)),
            };
            let Some(path) = path.filter(|path| nodes.contains_key(path)) else { continue };
            paths.insert(listing.id, path);
        }
        let Some(path) = paths.get(&listing.id) else { continue };
        superseded.prune(at, &mut listing);
        if let Some(node) = nodes.get_mut(path) {
            let known =
                Known { id: listing.id, parent: listing.parent, name: listing.name, own: listing.own };
            node.known = Some(known);
        }
    }
    Ok(())
}

/// Forgets what the journal tells of directories that others have taken the place of, and of all below them.
fn forget_others(nodes: &mut BTreeMap<Vec<u8>, Node>) -> Result<()> {
    let paths: Vec<_> = nodes.keys().cloned().collect();
    for path in paths {
        let is_above_known =
            path.is_empty() || nodes.get(split(&path).0).is_some_and(|above| above.known.is_some());
        let Some(node) = nodes.get_mut(&path) else { continue };
        let Some(known) = &node.known else { continue };
        let pin = node.directory.pin().with_context(|| format!("opening '{}'", text::escape(&path)))?;
        if !is_above_known || !known.own.is_inode(pin.inode()) {
            node.known = None;
        }
    }
    Ok(())
}

/// The record of a directory with the times that it has now: what was added in it has changed them.
fn with_times_of(own: &Record, directory: &Directory) -> Result<Record> {
    let mut own = own.clone();
    let pin = directory.pin()?;
    (own.entry.accessed, own.entry.modified) = (pin.inode().accessed, pin.inode().modified);
    Ok(own)
}

/// The record of a directory that the journal does not tell of: what it really is where it was added on the host, what the guest
/// sees of it where the guest has made it.
fn own(late: &Late<'_>, node: &Node) -> Result<Record> {
    let directory = &node.directory;
    if let Some(record) = &node.added {
        return with_times_of(record, directory);
    }
    let within = directory.parent().unwrap_or(directory);
    Ok(late.current(within, directory.name(), &directory.pin()?)?)
}

/// Writes what was added in a directory, in as many parts as it takes.
fn write(node: &Node, part: &mut Part, writer: &mut Writer) -> std::io::Result<()> {
    let mut is_written = node.known.is_some();
    for (name, record) in &node.entries {
        part.push(name.to_bytes(), record.as_ref());
        is_written = part.is_full();
        if is_written {
            writer.listing(part)?;
        }
    }
    if node.known.is_none() {
        part.end();
    }
    if is_written && node.known.is_some() { Ok(()) } else { writer.listing(part) }
}

/// The path of the directory that an entry is in, and its name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

fn join(above: &[u8], name: &CStr) -> Vec<u8> {
    if above.is_empty() { name.to_bytes().to_vec() } else { [above, b"/", name.to_bytes()].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_and_joined() {
        for (path, above, name) in [("a/b/c", "a/b", "c"), ("a", "", "a"), ("", "", "")] {
            assert_eq!(split(path.as_bytes()), (above.as_bytes(), name.as_bytes()));
        }
        assert_eq!(join(b"", c"a"), b"a");
        assert_eq!(join(b"a/b", c"c"), b"a/b/c");
    }
}
