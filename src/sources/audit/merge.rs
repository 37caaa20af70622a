//! Files that share a text: a share is told once, where its text is, with the places that use it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::host::{Host, Kind};
use super::scan::{FileReading, Scan};
use crate::share::{Place, Share};
use crate::sources::elsewhere::is_same;
use crate::sources::systemd::FOLDERS;
use crate::sources::{Document, path_of};

/// Readers whose documents can take text from other files, or be taken from.
const KINDS: &[&str] = &["shell", "systemd", "launcher"];

/// How many files with shares others are looked for that use them, and how many of a folder are looked at.
const MOST_TEXTS: usize = 200;
const MOST_OF_A_FOLDER: usize = 2000;

/// Reads the files that use the text of a file with shares: those that name it, in its own folder and in the units' folders,
/// and its unit's other files. They need not say a word of a proxy themselves. Only what is below `roots` is read.
pub fn find_users(host: &Host, roots: &[PathBuf], scan: &mut Scan) {
    let texts =
        scan.readings.iter().filter(|file| KINDS.contains(&file.kind) && !file.reading.shares.is_empty());
    let texts: Vec<_> = texts.filter_map(|file| file.path.clone()).take(MOST_TEXTS).collect();
    if texts.is_empty() {
        return;
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
    let candidates: BTreeSet<_> = folders.into_iter().flat_map(files_of).chain(own.iter().cloned()).collect();
    let is_new = |path: &&PathBuf| {
        roots.iter().any(|root| path.starts_with(root) && *path != root)
            && scan.readings.iter().all(|file| file.path.as_ref() != Some(path))
    };
    let mut found = Scan::default();
    for path in candidates.iter().filter(is_new) {
        let Some(bytes) = host.read_small(path) else { continue };
        if own.contains(path) || names.iter().any(|name| memchr::memmem::find(&bytes, name).is_some()) {
            found.document(host, &Document { path: Some(path), bytes: &bytes });
        }
    }
    found
        .readings
        .retain(|file| file.about.iter().all(|about| about.text.is_some()) && !file.about.is_empty());
    scan.readings.append(&mut found.readings);
    scan.sort();
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

/// Moves each share whose text is in another file that was read to that file's own share, as a user of it.
pub fn merge(host: &Host, readings: &mut [FileReading]) {
    let real: Vec<_> =
        readings.iter().map(|file| file.path.as_ref().and_then(|path| host.canonical(path).ok())).collect();
    for at in 0..readings.len() {
        let mut index = 0;
        while let Some((share, text)) = readings.get(at).and_then(|file| file.at(index)) {
            let target = text.and_then(|place| {
                let path = host.canonical(place.file.as_ref()?).ok();
                let own = real.iter().position(|other| other.is_some() && *other == path)?;
                let shares = &readings.get(own)?.reading.shares;
                let found = shares
                    .iter()
                    .position(|other| is_same(other, share) && other.place.line == place.line)?;
                (own != at).then_some((own, found))
            });
            match target {
                Some(target) => give(readings, (at, index), target),
                None => index += 1,
            }
        }
    }
}

/// Gives the share `from` of one file to the share `to` of another.
fn give(readings: &mut [FileReading], from: (usize, usize), to: (usize, usize)) {
    let Some((share, users)) = readings.get_mut(from.0).and_then(|file| file.remove(from.1)) else { return };
    if let Some(own) = readings.get_mut(to.0).and_then(|file| file.about.get_mut(to.1)) {
        own.users.push(share);
        own.users.extend(users);
    }
}

impl FileReading {
    fn at(&self, index: usize) -> Option<(&Share, Option<&Place>)> {
        let share = self.reading.shares.get(index)?;
        Some((share, self.about.get(index).and_then(|about| about.text.as_ref())))
    }

    /// Takes a share out, with its users.
    fn remove(&mut self, index: usize) -> Option<(Share, Vec<Share>)> {
        if index >= self.reading.shares.len().min(self.about.len()) {
            return None;
        }
        Some((self.reading.shares.remove(index), self.about.remove(index).users))
    }
}
