//! Files → what is in them, on all processors. What is kept in memory grows neither with the number of files nor with what
//! they hold.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use super::host::{Content, Host, why};
use super::kept;
use super::progress::Progress;
use super::sift::{Sieve, Sifted};
use super::started::{Started, is_no_configuration};
use super::walk::{Met, walk};
use crate::report::spool::{Keyed, Sorted};
use crate::share::bounds::bounded;
use crate::share::rewrite::{MAX_SHARES, Refusal};
use crate::share::{Place, Share};
use crate::sources::elsewhere::{self, Recorder};
use crate::sources::format::{Document, Format, Reading};
use crate::sources::launcher::is_prose;
use crate::sources::libvirt::is_saved_image;
use crate::sources::mention::{can_hold, first_unread, names_share, why_unread};
use crate::sources::registry::recognise;
use serde::{Deserialize, Serialize};

/// How many paths wait for a reader at most.
const QUEUE: usize = 1024;

/// How many paths a reader takes at once.
const BATCH: usize = 32;

/// How many paths that files start each reader keeps.
const MOST_STARTED: usize = 1000;

/// Taken by whoever reads a long file: readers of several at once would need much memory.
static LONG_FILES: Mutex<()> = Mutex::new(());

/// What the files hold.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// What is in the files that hold something, by their paths.
    pub readings: Sorted<FileReading>,
    /// What could not be read, and why, by paths.
    pub unread: Sorted<Unread>,
    /// Files that were read.
    pub looked_at: u64,
    /// Files that are no configuration, by their names or their first bytes.
    pub skipped: u64,
    /// Folders that were left out.
    pub left_out: Vec<PathBuf>,
    /// What the files start, by its path.
    pub started: Started,
}

/// What a file holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FileReading {
    /// The format.
    pub kind: String,
    /// What is in it.
    pub reading: Reading,
    /// The file.
    #[serde(with = "crate::text::packed::optional_path")]
    pub path: Option<PathBuf>,
    /// What else is known of each share.
    pub about: Vec<About>,
}

impl Keyed for FileReading {
    type Key = Option<PathBuf>;

    fn key(&self) -> Self::Key {
        self.path.clone()
    }
}

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Unread {
    /// The file; `None` for standard input.
    #[serde(with = "crate::text::packed::optional_path")]
    pub path: Option<PathBuf>,
    /// The line at which reading ended.
    pub line: Option<u64>,
    /// Why, in one sentence without a full stop.
    pub reason: String,
}

impl Keyed for Unread {
    type Key = Self;

    fn key(&self) -> Self {
        self.clone()
    }
}

/// What is known of a share besides what its reader says.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct About {
    /// Why `migrate config` can't rewrite it.
    pub refusal: Option<Refusal>,
    /// Where its text is, if that is another file.
    pub text: Option<Place>,
    /// The shares of other files that are made of its text. Found once all files are read.
    #[serde(skip)]
    pub users: Vec<Share>,
}

/// Reads a file about whose name somebody asked: nothing about it is a reason to pass over it.
type ReadNamed = fn(&mut Scan, &Host, &Path);

/// A file that waits for a reader.
struct Waiting {
    path: PathBuf,
    /// Whether a listing said that it is a regular file.
    listed: bool,
    /// Whether the admin named it: then its name is no reason to pass over it.
    named: bool,
}

/// Reads every file at and below `roots`. If `named` is set, somebody asked for the roots: those that are files are read by
/// `read_named`.
pub(super) fn scan(
    host: &Host,
    roots: &[PathBuf],
    named: bool,
    read_named: ReadNamed,
    progress: &Progress,
) -> Scan {
    progress.doing("reading files");
    let total = Mutex::new(Scan::default());
    let (sender, receiver) = sync_channel::<Vec<Waiting>>(QUEUE / BATCH);
    let receiver = Mutex::new(receiver);
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(|| {
                let mut mine = Scan::default();
                let mut sieve = Sieve::default();
                while let Some(batch) = next(&receiver) {
                    for waiting in batch {
                        // What is started is looked for on a whole machine alone.
                        mine.file(host, &mut sieve, &waiting, !named, read_named);
                        progress.looked_at(done.fetch_add(1, Ordering::Relaxed) + 1);
                    }
                    if mine.started.len() > MOST_STARTED
                        && let Ok(mut total) = total.lock()
                    {
                        total.started.extend(std::mem::take(&mut mine.started));
                    }
                }
                if let Ok(mut total) = total.lock() {
                    total.add(mine);
                }
            });
        }
        let mut batch = Vec::with_capacity(BATCH);
        let mut walked = Scan::default();
        walk(host, roots, named, &mut |met| match met {
            Met::File { path, named: false, .. } if is_no_configuration(&path) => walked.skipped += 1,
            Met::File { path, listed, named } => {
                batch.push(Waiting { path, listed, named });
                if batch.len() == BATCH {
                    // The readers are gone only when they panicked, which the scope then reports.
                    let _ = sender.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)));
                }
            }
            Met::Skipped(_) => walked.skipped += 1,
            Met::LeftOut(path) => walked.left_out.push(path),
            Met::Unread(path, reason) => walked.not_read(Some(&path), reason),
        });
        let _ = sender.send(batch);
        drop(sender);
        if let Ok(mut total) = total.lock() {
            total.add(walked);
        }
    });
    let mut scan = total.into_inner().unwrap_or_default();
    scan.sort();
    scan
}

fn next(receiver: &Mutex<Receiver<Vec<Waiting>>>) -> Option<Vec<Waiting>> {
    receiver.lock().ok()?.recv().ok()
}

impl Scan {
    /// Brings everything into an order that does not depend on who read what.
    pub(super) fn sort(&mut self) {
        self.left_out.sort();
        self.left_out.dedup();
    }

    /// Takes what another scan found.
    pub(super) fn add(&mut self, other: Self) {
        self.readings.add(other.readings);
        self.unread.add(other.unread);
        self.looked_at += other.looked_at;
        self.skipped += other.skipped;
        self.left_out.extend(other.left_out);
        self.started.extend(other.started);
    }

    /// Takes what was read of a compressed file, under the name of its text: it is inside the file `packed`. Such a file is
    /// not rewritten where it stands.
    pub(super) fn add_inside(&mut self, unpacked: Self, packed: Option<&Path>) -> io::Result<()> {
        let packed = packed.map(Path::to_owned);
        for row in unpacked.unread.iter() {
            self.unread.push(&Unread { path: packed.clone(), ..row? });
        }
        let refusal = Refusal::at(None, "the file is compressed", "unpack it first");
        for file in unpacked.readings.iter() {
            let mut file = file?;
            file.path.clone_from(&packed);
            file.about.iter_mut().for_each(|about| about.refusal = Some(refusal.clone()));
            let reading = &mut file.reading;
            let shares = reading.shares.iter_mut().map(|share| &mut share.place);
            let helpers = reading.helpers.iter_mut().map(|helper| &mut helper.place);
            let findings = reading.findings.iter_mut().map(|finding| &mut finding.place);
            for place in shares.chain(helpers).chain(findings) {
                place.file.clone_from(&packed);
            }
            self.readings.push(&file);
        }
        self.add(Self { readings: Sorted::default(), unread: Sorted::default(), ..unpacked });
        Ok(())
    }

    /// Takes out what is in the files of which `path` is one that is wanted.
    pub(super) fn take(&mut self, wanted: impl Fn(&Path) -> bool) -> io::Result<Vec<FileReading>> {
        let mut taken = Vec::new();
        for file in std::mem::take(&mut self.readings).iter() {
            let file = file?;
            if file.path.as_deref().is_some_and(&wanted) {
                taken.push(file);
            } else {
                self.readings.push(&file);
            }
        }
        Ok(taken)
    }

    fn file(
        &mut self,
        host: &Host,
        sieve: &mut Sieve,
        waiting: &Waiting,
        follows: bool,
        read_named: ReadNamed,
    ) {
        let Waiting { path, listed, named } = waiting;
        if *named {
            return read_named(self, host, path);
        }
        let sifted = sieve.sift(host, path, *listed);
        if let Some(text) = sieve.whole().filter(|_| follows) {
            self.started.take(path, text);
        }
        match sifted {
            Ok(Sifted::Nothing) => self.looked_at += 1,
            Ok(Sifted::Binary) => self.skipped += 1,
            Ok(Sifted::Candidate) => match sieve.whole() {
                Some(bytes) => self.document(host, &Document { path: Some(path), bytes }),
                None => self.candidate(host, path),
            },
            Ok(Sifted::TooLong) => self.too_long(path),
            Ok(Sifted::Special) => self.not_read(Some(path), "not a regular file any more"),
            Err(error) => self.not_read(Some(path), why(&error)),
        }
    }

    /// Reads a file that may hold something, and that is not in memory yet.
    fn candidate(&mut self, host: &Host, path: &Path) {
        // One long file in memory at a time is enough.
        let _turn = LONG_FILES.lock();
        match host.read(path, true) {
            // Of a saved guest, the configuration comes first; its memory is of no interest.
            Ok(Content::Whole(bytes)) => self.document(host, &Document { path: Some(path), bytes: &bytes }),
            Ok(Content::TooLong(start)) if is_saved_image(&start) => {
                self.document(host, &Document { path: Some(path), bytes: &start });
            }
            Ok(Content::TooLong(_)) => self.too_long(path),
            Ok(Content::Special) => self.not_read(Some(path), "not a regular file any more"),
            Err(error) => self.not_read(Some(path), why(&error)),
        }
    }

    /// A file that may hold something is too long to be read.
    pub(super) fn too_long(&mut self, path: &Path) {
        self.not_read(Some(path), format!("it is longer than {} MiB", super::host::MAX_FILE >> 20));
    }

    /// Something could not be read.
    pub(super) fn not_read(&mut self, path: Option<&Path>, reason: impl Into<String>) {
        self.not_read_from(path, None, reason);
    }

    /// Something could not be read from a line on.
    fn not_read_from(&mut self, path: Option<&Path>, line: Option<u64>, reason: impl Into<String>) {
        self.unread.push(&Unread { path: path.map(Into::into), line, reason: reason.into() });
    }

    /// Reads a document.
    pub(super) fn document(&mut self, host: &Host, document: &Document) {
        if let Some(file) = self.reading_of(host, document) {
            self.readings.push(&file);
        }
    }

    /// What a document holds; `None` where that is nothing.
    pub(super) fn reading_of(&mut self, host: &Host, document: &Document) -> Option<FileReading> {
        if kept::is_plan(document.bytes) {
            self.skipped += 1;
            return None;
        }
        let mut file = self.reading(host, document, recognise(document))?;
        if let Some(told) = document.path.and_then(|path| kept::told(host, path, &file.reading)) {
            file.reading = Reading { findings: vec![told], ..Reading::default() };
            file.about.clear();
        }
        Some(file)
    }

    /// Reads a document of a format, if it is of any.
    pub(super) fn read(&mut self, host: &Host, document: &Document, format: Option<&'static dyn Format>) {
        if let Some(file) = self.reading(host, document, format) {
            self.readings.push(&file);
        }
    }

    /// What a document of a format holds; `None` where that is nothing.
    fn reading(
        &mut self,
        host: &Host,
        document: &Document,
        format: Option<&'static dyn Format>,
    ) -> Option<FileReading> {
        let path = document.path;
        let Some(format) = format else {
            if !is_prose(document) && names_share(document.bytes) {
                self.not_read(path, why_unread(document.bytes));
            } else {
                self.skipped += 1;
            }
            return None;
        };
        let recorder = Recorder::new(host);
        let (read, cut) = bounded(|| format.read_beside(document, Some(&recorder)));
        let mut reading = match read {
            Ok(reading) => reading,
            // What can hold nothing is not unread, whatever else is wrong with it.
            Err(_) if !can_hold(document.bytes) => {
                self.looked_at += 1;
                return None;
            }
            Err(unreadable) => {
                self.not_read_from(path, unreadable.line, unreadable.reason);
                return None;
            }
        };
        self.looked_at += 1;
        let refusal = unfinished(&mut reading, cut);
        let whole = refusal.is_none() && reading.unread.is_empty();
        for part in reading.unread.drain(..) {
            self.not_read_from(path, part.line, part.reason);
        }
        if let Some(why) = &refusal {
            self.not_read(path, why.message.clone());
        }
        let read: Vec<_> = reading.shares.iter().map(|share| share.place.line).collect();
        if whole && let Some(line) = first_unread(document.bytes, &read) {
            self.not_read_from(path, Some(line), why_unread(document.bytes));
        }
        if reading.is_empty() {
            return None;
        }
        let refusals = match refusal {
            Some(refusal) => vec![Some(refusal); reading.shares.len()],
            None => super::rewritable::refusals(format, document, &reading.shares, host),
        };
        let texts = recorder.texts(document, &reading.shares);
        let about = reading.shares.iter().zip(texts).zip(refusals).map(|((share, text), refusal)| {
            let elsewhere = || text.as_ref().and_then(|place| elsewhere::refusal(share, place));
            About { refusal: refusal.map(|own| elsewhere().unwrap_or(own)), text, users: Vec::new() }
        });
        let about = about.collect();
        Some(FileReading { kind: format.name().to_owned(), reading, path: path.map(Into::into), about })
    }
}

/// Whether a document holds more than is read of one: why it is not rewritten, then.
fn unfinished(reading: &mut Reading, cut: Option<&str>) -> Option<Refusal> {
    let shares = reading.shares.len().max(reading.helpers.len());
    reading.shares.truncate(MAX_SHARES);
    reading.helpers.truncate(MAX_SHARES);
    let refusal = |message| Refusal::at(None, message, "split the file");
    if shares > MAX_SHARES {
        let message =
            format!("it speaks of {shares} shares or helpers: only the first {MAX_SHARES} are told");
        return Some(refusal(message));
    }
    cut.map(|why| refusal(why.to_owned()))
}
