//! Files → what is in them, on all processors. What is kept does not grow with the number of files.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use super::host::{Content, Host, has_extension, why};
use super::progress::Progress;
use super::walk::{Met, walk};
use crate::share::bounds::bounded;
use crate::share::rewrite::{MAX_SHARES, Refusal};
use crate::sources::{Document, Format, Reading, recognise, recognise_named};

/// How many paths wait for a reader at most.
const QUEUE: usize = 1024;

/// How many paths a reader takes at once.
const BATCH: usize = 32;

/// What the files hold.
#[derive(Debug, Default)]
pub struct Scan {
    /// What is in the files that hold something.
    pub readings: Vec<FileReading>,
    /// What could not be read, and why.
    pub unread: Vec<(Option<PathBuf>, Option<u64>, String)>,
    /// Files that were read.
    pub looked_at: u64,
    /// Files that no format claims.
    pub skipped: u64,
}

/// What a file holds.
#[derive(Debug)]
pub struct FileReading {
    /// The format.
    pub kind: &'static str,
    /// What is in it.
    pub reading: Reading,
    /// The file.
    pub path: Option<PathBuf>,
    /// For each share, why `migrate config` can't rewrite it.
    pub refusals: Vec<Option<Refusal>>,
}

/// A file that waits for a reader.
struct Waiting {
    path: PathBuf,
    /// Whether a listing said that it is a regular file.
    listed: bool,
    /// Whether the admin named it: then its name is no reason to pass over it.
    named: bool,
}

/// Reads every file at and below `roots`.
pub fn scan(host: &Host, roots: &[PathBuf], named: bool, progress: &Progress) -> Scan {
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
                while let Some(batch) = next(&receiver) {
                    for waiting in batch {
                        mine.file(host, &waiting);
                        progress.looked_at(done.fetch_add(1, Ordering::Relaxed) + 1);
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
            Met::Unread(path, reason) => walked.unread.push((Some(path), None, reason)),
        });
        let _ = sender.send(batch);
        drop(sender);
        if let Ok(mut total) = total.lock() {
            total.add(walked);
        }
    });
    let mut scan = total.into_inner().unwrap_or_default();
    scan.readings.sort_by(|a, b| a.path.cmp(&b.path));
    scan.unread.sort();
    scan
}

fn next(receiver: &Mutex<Receiver<Vec<Waiting>>>) -> Option<Vec<Waiting>> {
    receiver.lock().ok()?.recv().ok()
}

impl Scan {
    /// Takes what another scan found.
    pub fn add(&mut self, other: Self) {
        self.readings.extend(other.readings);
        self.unread.extend(other.unread);
        self.looked_at += other.looked_at;
        self.skipped += other.skipped;
    }

    fn file(&mut self, host: &Host, Waiting { path, listed, named }: &Waiting) {
        let document = |bytes| Document { path: Some(path), bytes };
        let recognised =
            |document: &Document| if *named { recognise_named(document) } else { recognise(document) };
        match host.read(path, *listed) {
            Ok(Content::Whole(bytes)) => {
                let document = document(&bytes);
                self.read(host, &document, recognised(&document));
            }
            // A saved guest: its configuration comes first, its memory is of no interest.
            Ok(Content::TooLong(start)) if start.starts_with(b"LibvirtQemud") => {
                self.document(host, &document(&start));
            }
            Ok(Content::TooLong(start)) => {
                if recognised(&document(&start)).is_some() {
                    let limit = super::host::MAX_FILE >> 20;
                    self.unread.push((Some(path.clone()), None, format!("it is longer than {limit} MiB")));
                } else {
                    self.skipped += 1;
                }
            }
            Ok(Content::Special) => {
                let reason = "not a regular file any more".to_owned();
                self.unread.push((Some(path.clone()), None, reason));
            }
            Err(error) => self.unread.push((Some(path.clone()), None, why(&error))),
        }
    }

    /// Reads a document.
    pub fn document(&mut self, host: &Host, document: &Document) {
        self.read(host, document, recognise(document));
    }

    fn read(&mut self, host: &Host, document: &Document, format: Option<&'static dyn Format>) {
        let Some(format) = format else {
            self.skipped += 1;
            return;
        };
        let (read, cut) = bounded(|| format.read_beside(document, Some(host)));
        let path = || document.path.map(Into::into);
        match read {
            Ok(mut reading) => {
                self.looked_at += 1;
                let refusal = unfinished(&mut reading, cut);
                self.unread.extend(refusal.iter().map(|why| (path(), None, why.message.clone())));
                if !(reading.shares.is_empty()
                    && reading.helpers.is_empty()
                    && reading.findings.is_empty()
                    && reading.listeners.is_empty())
                {
                    let refusals = match refusal {
                        Some(refusal) => vec![Some(refusal); reading.shares.len()],
                        None => super::rewritable::refusals(format, document, &reading.shares, host),
                    };
                    self.readings.push(FileReading { kind: format.name(), reading, path: path(), refusals });
                }
            }
            Err(unreadable) => self.unread.push((path(), unreadable.line, unreadable.reason)),
        }
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

/// Whether a name says that the file is a program, a picture, a disk, documentation, a log: not worth opening.
fn is_no_configuration(path: &Path) -> bool {
    has_extension(
        path,
        &[
            "md", "rst", "adoc", "html", "htm", "log", "pdf", "tex", "png", "jpg", "jpeg", "gif", "svg",
            "ico", "so", "o", "a", "ko", "pyc", "class", "jar", "qcow2", "img", "raw", "vmdk", "vdi", "iso",
            "gz", "xz", "bz2", "zst", "zip", "tar", "tgz", "deb", "rpm", "mo", "po", "db", "sqlite", "ttf",
            "woff", "woff2", "mp3", "mp4", "wav", "c", "h", "cc", "cpp", "hpp", "rs", "go", "java", "js",
            "css", "patch", "diff",
        ],
    )
}
