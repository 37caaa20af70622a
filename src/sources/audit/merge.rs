//! Files that share a text: a share is told once, where its text is, with the places that use it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::host::{Host, Kind};
use super::scan::{FileReading, Scan};
use crate::report::spool::{Rows, Sorted};
use crate::share::Share;
use crate::sources::elsewhere::is_same;
use crate::sources::format::{Document, path_of};
use crate::sources::systemd::FOLDERS;

/// Readers whose documents can take text from other files, or be taken from.
const KINDS: &[&str] = &["shell", "systemd", "launcher"];

/// How many files with shares others are looked for that use them, and how many of a folder are looked at.
const MOST_TEXTS: usize = 200;
const MOST_OF_A_FOLDER: usize = 2000;

/// Reads the files that use the text of a file with shares: those that name it, in its own folder and in the units' folders,
/// and its unit's other files. They need not say a word of a proxy themselves. Only what is below `roots` is read.
pub(super) fn find_users(host: &Host, roots: &[PathBuf], scan: &mut Scan) -> io::Result<()> {
    let mut texts = Vec::new();
    for file in scan.readings.iter() {
        let file = file?;
        let can_have = KINDS.contains(&file.kind.as_str()) && !file.reading.shares.is_empty();
        texts.extend(file.path.filter(|_| can_have));
        if texts.len() == MOST_TEXTS {
            break;
        }
    }
    if texts.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = texts.iter().filter_map(|text| Some(text.file_name()?.as_bytes().to_vec())).collect();
    let folders: BTreeSet<_> =
        texts.iter().filter_map(|text| text.parent()).chain(FOLDERS.iter().map(Path::new)).collect();
    let files_of = |folder: &Path| {
        let files = host.list(folder).ok().flatten().unwrap_or_default().into_iter();
        files.filter(|(_, kind)| *kind == Some(Kind::File)).map(|(path, _)| path).take(MOST_OF_A_FOLDER)
    };
    let own: BTreeSet<_> =
        texts.iter().flat_map(|text| files_of(&with_end(text, ".d")).chain(unit_of(text))).collect();
    let mut candidates: BTreeSet<_> =
        folders.into_iter().flat_map(files_of).chain(own.iter().cloned()).collect();
    candidates.retain(|path| roots.iter().any(|root| path.starts_with(root) && path != root));
    for file in scan.readings.iter() {
        if let Some(path) = file?.path {
            candidates.remove(&path);
        }
    }
    // What else is in such a file is of no interest.
    let mut others = Scan::default();
    for path in &candidates {
        let Some(bytes) = host.read_small(path) else { continue };
        let names_one = || names.iter().any(|name| memchr::memmem::find(&bytes, name).is_some());
        if !own.contains(path) && !names_one() {
            continue;
        }
        let document = Document { path: Some(path), bytes: &bytes };
        let found = others.reading_of(host, &document);
        let is_user = |file: &FileReading| {
            !file.about.is_empty() && file.about.iter().all(|about| about.text.is_some())
        };
        if let Some(file) = found.filter(is_user) {
            scan.readings.push(&file);
        }
    }
    Ok(())
}

/// The unit that a drop-in is of.
fn unit_of(drop_in: &Path) -> Option<PathBuf> {
    let folder = drop_in.parent()?;
    let unit = folder.file_name()?.as_bytes().strip_suffix(b".d")?;
    Some(folder.with_file_name(path_of(unit)))
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(end);
    text.into()
}

/// The shares whose text is in another file that was read: each is told of as a user of that file's own share.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// All shares whose text is in another file, packed.
    all: Rows<User>,
    /// What stands for the file that has the text, and which of [`Users::all`] use it; by the first of these.
    by_text: Vec<(u64, u64)>,
    /// What stands for the file of each share that has a user, which of its shares that is, and the user.
    of: Vec<(u64, usize, u64)>,
    /// What stands for the file of each share that is a user, and which of its shares that is.
    given: HashSet<(u64, usize)>,
    hasher: RandomState,
    /// Why one could not be unpacked.
    failed: RefCell<Option<io::Error>>,
}

/// A share whose text is in another file.
#[derive(Debug, Serialize, Deserialize)]
struct User {
    share: Share,
    /// The line of its text.
    line: Option<u64>,
    /// What stands for its own file, and which of its shares it is.
    own: (u64, usize),
}

impl Users {
    /// Finds them. A share that has its own text elsewhere has no users: no share is lost in a circle.
    pub(super) fn find(host: &Host, readings: &Sorted<FileReading>) -> io::Result<Self> {
        let mut users = Self::default();
        for file in readings.iter() {
            users.collect(host, &file?);
        }
        if users.by_text.is_empty() {
            return Ok(users);
        }
        users.by_text.sort_unstable();
        for file in readings.iter() {
            let file = file?;
            let real = file.path.as_ref().and_then(|path| host.canonical(path).ok());
            let Some(real) = real else { continue };
            users.match_texts(users.hasher.hash_one(&real), &file)?;
        }
        users.of.sort_unstable();
        Ok(users)
    }

    /// Takes the shares of a file whose text is elsewhere.
    fn collect(&mut self, host: &Host, file: &FileReading) {
        let mut own = None;
        for (index, (share, about)) in file.reading.shares.iter().zip(&file.about).enumerate() {
            let Some(text) = &about.text else { continue };
            let Some(Ok(target)) = text.file.as_ref().map(|text| host.canonical(text)) else { continue };
            let own =
                own.get_or_insert_with(|| file.path.as_ref().and_then(|path| host.canonical(path).ok()));
            if own.as_ref() == Some(&target) {
                continue;
            }
            let row = User {
                share: share.clone(),
                line: text.line,
                own: (self.hasher.hash_one(&file.path), index),
            };
            let at = self.all.push(&row);
            self.by_text.push((self.hasher.hash_one(&target), at));
        }
    }

    /// Joins the users of a file's text with the shares that it has itself.
    fn match_texts(&mut self, real: u64, file: &FileReading) -> io::Result<()> {
        let first = self.by_text.partition_point(|one| one.0 < real);
        for (_, at) in self.by_text.iter().skip(first).take_while(|one| one.0 == real) {
            let user = self.all.get(*at)?;
            let is_text = |(_, (share, about)): &(usize, (&Share, &super::scan::About))| {
                about.text.is_none() && is_same(share, &user.share) && share.place.line == user.line
            };
            let own = file.reading.shares.iter().zip(&file.about).enumerate().find(is_text);
            if let Some((index, _)) = own
                && self.given.insert(user.own)
            {
                self.of.push((self.hasher.hash_one(&file.path), index, *at));
            }
        }
        Ok(())
    }

    /// Takes those shares out of a file that are users of others, and gives the others their users.
    pub(super) fn merge(&self, file: &mut FileReading) {
        if self.by_text.is_empty() {
            return;
        }
        let own = self.hasher.hash_one(&file.path);
        for (index, about) in file.about.iter_mut().enumerate() {
            let first = self.of.partition_point(|one| (one.0, one.1) < (own, index));
            let users = self.of.iter().skip(first).take_while(|one| (one.0, one.1) == (own, index));
            for (.., at) in users {
                match self.all.get(*at) {
                    Ok(user) => about.users.push(user.share),
                    Err(error) => *self.failed.borrow_mut() = Some(error),
                }
            }
        }
        let is_kept = |index: usize| !self.given.contains(&(own, index));
        let mut index = 0..;
        file.reading.shares.retain(|_| index.next().is_none_or(is_kept));
        let mut index = 0..;
        file.about.retain(|_| index.next().is_none_or(is_kept));
    }

    /// Why not all users could be looked at.
    pub(super) fn failure(&self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}
