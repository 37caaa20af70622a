//! Walks over a tree: in parallel and in no order for work, alone and sorted for text.
//!
//! Memory does not grow with the number of entries: a directory is read in chunks, and only the directories of one
//! chunk at each depth wait for their turn.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::{Errno, Result};

use super::entry::Kind;
use super::pin::Pin;
use super::tree::{Directory, Tree};
use super::workers;

/// How many entries of one directory are looked at before its subdirectories are.
const CHUNK: usize = 1024;

/// The room for what the kernel tells about a directory's entries at once.
const BUFFER: usize = 32768;

/// What happens to somebody who walks. Each worker has one of its own.
///
/// An error that a method returns ends the walk.
pub(crate) trait Visitor {
    /// What ends the walk.
    type Error;

    /// A directory, before everything in it. `pin` is the directory itself.
    fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> std::result::Result<(), Self::Error>;

    /// An entry that is no directory.
    fn entry(
        &mut self,
        directory: &Arc<Directory>,
        name: &CStr,
        pin: Pin,
    ) -> std::result::Result<(), Self::Error>;

    /// A subdirectory's name was met; it is visited later.
    fn subdirectory(&mut self, _directory: &Arc<Directory>, _name: &CStr) {}

    /// Some entries of `directory` have been visited in a row; with `last` they were the last ones of it. Their
    /// subdirectories are visited after this.
    fn chunk(&mut self, _directory: &Arc<Directory>, _last: bool) -> std::result::Result<(), Self::Error> {
        Ok(())
    }

    /// The entry `name` of `directory` (or `directory` itself, with an empty name) can't be looked at.
    fn trouble(
        &mut self,
        directory: &Arc<Directory>,
        name: &CStr,
        trouble: Trouble,
    ) -> std::result::Result<(), Self::Error>;

    /// Whether the entry `name` of `directory` is to be passed over.
    fn hides(&self, _directory: &Arc<Directory>, _name: &CStr) -> bool {
        false
    }
}

/// Why an entry can't be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Another file system, or another part of this one, is mounted there.
    Mount,
    /// It went away, or became something else, while it was looked at.
    Changed,
    /// The kernel says no.
    Failed(Errno),
}

impl Trouble {
    /// What an error of looking at one entry means.
    pub(crate) fn of(error: Errno) -> Self {
        match error {
            Errno::XDEV => Self::Mount,
            Errno::NOENT | Errno::STALE | Errno::LOOP | Errno::NOTDIR => Self::Changed,
            error => Self::Failed(error),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mount => formatter.write_str("something is mounted there"),
            Self::Changed => formatter.write_str("it went away or was replaced while it was looked at"),
            Self::Failed(error) => error.fmt(formatter),
        }
    }
}

/// A directory that waits for its turn.
struct Task {
    directory: Arc<Directory>,
    /// Where to go on reading it; `None`: it has not been visited yet.
    position: Option<u64>,
}

/// What waits, and who is at work.
struct Queue {
    state: Mutex<State>,
    news: Condvar,
}

struct State {
    tasks: Vec<Task>,
    busy: usize,
    over: bool,
}

impl Queue {
    fn new(root: &Arc<Directory>) -> Self {
        let tasks = vec![Task { directory: Arc::clone(root), position: None }];
        Self { state: Mutex::new(State { tasks, busy: 0, over: false }), news: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next directory; `None` when all is done.
    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.over {
                return None;
            }
            if let Some(task) = state.tasks.pop() {
                state.busy += 1;
                return Some(task);
            }
            if state.busy == 0 {
                self.news.notify_all();
                return None;
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A task is done, and gave these. The last one comes next.
    fn done(&self, tasks: &mut Vec<Task>) {
        let mut state = self.lock();
        state.busy -= 1;
        state.tasks.append(tasks);
        drop(state);
        self.news.notify_all();
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.over = true;
        state.busy -= 1;
        drop(state);
        self.news.notify_all();
    }
}

/// Walks over a whole tree with `jobs` workers, and gives back their visitors, which `visitor` makes. The first
/// error ends it.
pub(crate) fn parallel<V: Visitor + Send>(
    tree: &Tree,
    jobs: usize,
    visitor: impl Fn() -> V + Sync,
) -> std::result::Result<Vec<V>, V::Error>
where
    V::Error: Send,
{
    from(tree.root(), jobs, visitor)
}

/// [`parallel`] over the tree below a directory, itself included.
pub(crate) fn from<V: Visitor + Send>(
    top: &Arc<Directory>,
    jobs: usize,
    visitor: impl Fn() -> V + Sync,
) -> std::result::Result<Vec<V>, V::Error>
where
    V::Error: Send,
{
    let queue = Queue::new(top);
    workers::run(jobs, || work(&queue, visitor()))
}

/// One worker: takes directories until there are none.
fn work<V: Visitor>(queue: &Queue, mut visitor: V) -> std::result::Result<V, V::Error> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut found = Vec::new();
    while let Some(task) = queue.next() {
        // Also where a visitor panics, the others must not wait for ever.
        let guard = Stop(queue);
        visit(task, &mut visitor, &mut buffer, &mut found)?;
        std::mem::forget(guard);
        queue.done(&mut found);
    }
    Ok(visitor)
}

/// Ends the walk for everybody when it is dropped.
struct Stop<'q>(&'q Queue);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Visits a directory, or goes on with it, until there are subdirectories to visit first.
fn visit<V: Visitor>(
    task: Task,
    visitor: &mut V,
    buffer: &mut [MaybeUninit<u8>],
    found: &mut Vec<Task>,
) -> std::result::Result<(), V::Error> {
    let Task { directory, position } = task;
    let fd = match enter(&directory, position, visitor)? {
        Ok(fd) => fd,
        Err(error) => return visitor.trouble(&directory, c"", Trouble::of(error)),
    };
    let mut names = RawDir::new(fd.as_fd(), buffer);
    let mut seen = 0;
    loop {
        let (name, kind, position) = match names.next() {
            None => break,
            Some(Err(error)) => {
                visitor.trouble(&directory, c"", Trouble::of(error))?;
                break;
            }
            Some(Ok(entry)) if is_dots(entry.file_name()) => continue,
            Some(Ok(entry)) => {
                (entry.file_name().to_owned(), kind(entry.file_type()), entry.next_entry_cookie())
            }
        };
        if visitor.hides(&directory, &name) {
            continue;
        }
        if one(&directory, fd.as_fd(), &name, kind, visitor)? {
            found.push(Task { directory: directory.child(&name), position: None });
        }
        seen += 1;
        if seen % CHUNK == 0 {
            visitor.chunk(&directory, false)?;
            if !found.is_empty() {
                found.push(Task { directory, position: Some(position) });
                // Its subdirectories first, in the order they were met.
                found.reverse();
                return Ok(());
            }
        }
    }
    found.reverse();
    visitor.chunk(&directory, true)
}

/// Opens a directory and visits it, or finds the place in it where to go on.
fn enter<V: Visitor>(
    directory: &Arc<Directory>,
    position: Option<u64>,
    visitor: &mut V,
) -> std::result::Result<Result<Arc<std::os::fd::OwnedFd>>, V::Error> {
    let opened = directory.open().and_then(|fd| {
        rustix::fs::seek(&fd, SeekFrom::Start(position.unwrap_or(0)))?;
        Ok((fd, directory.pin()?))
    });
    match opened {
        Ok((fd, pin)) => {
            if position.is_none() {
                visitor.directory(directory, &pin)?;
            }
            Ok(Ok(fd))
        }
        Err(error) => Ok(Err(error)),
    }
}

/// Visits one entry; says whether it is a directory, which waits.
fn one<V: Visitor>(
    directory: &Arc<Directory>,
    fd: BorrowedFd<'_>,
    name: &CStr,
    kind: Option<Kind>,
    visitor: &mut V,
) -> std::result::Result<bool, V::Error> {
    if kind == Some(Kind::Directory) {
        visitor.subdirectory(directory, name);
        return Ok(true);
    }
    match directory.entry_at(fd, name, kind) {
        Ok(pin) if pin.inode().kind() == Some(Kind::Directory) => {
            visitor.subdirectory(directory, name);
            Ok(true)
        }
        Ok(pin) => visitor.entry(directory, name, pin).map(|()| false),
        Err(error) => visitor.trouble(directory, name, Trouble::of(error)).map(|()| false),
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// What the kernel said along with a name; file systems may leave it out.
fn kind(told: FileType) -> Option<Kind> {
    Kind::of(told.as_raw_mode())
}

/// Names of one directory, with what they are as far as the kernel said it.
pub(crate) type Names = Vec<(CString, Option<Kind>)>;

/// The names of all entries of a directory, sorted by their bytes.
pub(crate) fn names(directory: &Directory) -> Result<Names> {
    let mut found = Vec::new();
    each_name(directory, |name, kind| found.push((name.to_owned(), kind)))?;
    found.sort_unstable();
    Ok(found)
}

/// Does something with the name of each entry of a directory, in no order.
pub(crate) fn each_name(directory: &Directory, mut work: impl FnMut(&CStr, Option<Kind>)) -> Result<()> {
    let fd = directory.open()?;
    rustix::fs::seek(&fd, SeekFrom::Start(0))?;
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(fd.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if !is_dots(entry.file_name()) {
            work(entry.file_name(), kind(entry.file_type()));
        }
    }
    Ok(())
}

/// Walks over a whole tree in the order of names, byte by byte, a directory before what is in it. Holds the names of
/// one directory at each depth.
pub(crate) fn sorted<V: Visitor>(tree: &Tree, visitor: &mut V) -> std::result::Result<(), V::Error> {
    let mut waiting = Vec::new();
    descend(Arc::clone(tree.root()), visitor, &mut waiting)?;
    while let Some((directory, names)) = waiting.last_mut() {
        let Some((name, kind)) = names.pop() else {
            let directory = Arc::clone(directory);
            waiting.pop();
            visitor.chunk(&directory, true)?;
            continue;
        };
        let directory = Arc::clone(directory);
        if visitor.hides(&directory, &name) {
            continue;
        }
        let is_directory = match directory.open() {
            Ok(fd) => one(&directory, fd.as_fd(), &name, kind, visitor)?,
            Err(error) => {
                visitor.trouble(&directory, &name, Trouble::of(error))?;
                false
            }
        };
        if is_directory {
            descend(directory.child(&name), visitor, &mut waiting)?;
        }
    }
    Ok(())
}

/// Visits a directory and lets its names wait.
fn descend<V: Visitor>(
    directory: Arc<Directory>,
    visitor: &mut V,
    waiting: &mut Vec<(Arc<Directory>, Names)>,
) -> std::result::Result<(), V::Error> {
    let read = directory.pin().and_then(|pin| Ok((pin, names(&directory)?)));
    match read {
        Ok((pin, mut names)) => {
            visitor.directory(&directory, &pin)?;
            names.reverse();
            waiting.push((directory, names));
            Ok(())
        }
        Err(error) => visitor.trouble(&directory, c"", Trouble::of(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// Collects the paths of everything.
    #[derive(Default)]
    struct Paths(Vec<String>);

    impl Paths {
        fn add(&mut self, letter: char, directory: &Directory, name: &CStr) {
            let path = String::from_utf8(directory.path_of(name)).unwrap();
            self.0.push(format!("{letter} {path}"));
        }
    }

    impl Visitor for Paths {
        type Error = Errno;

        fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> Result<()> {
            self.add(pin.inode().kind().unwrap().letter(), directory, c"");
            Ok(())
        }

        fn entry(&mut self, directory: &Arc<Directory>, name: &CStr, pin: Pin) -> Result<()> {
            self.add(pin.inode().kind().unwrap().letter(), directory, name);
            Ok(())
        }

        fn trouble(&mut self, directory: &Arc<Directory>, name: &CStr, trouble: Trouble) -> Result<()> {
            panic!("{}: {trouble}", directory.path_of(name).escape_ascii());
        }
    }

    /// A directory of more entries than a chunk has, some of them directories.
    fn wide(root: &Path) -> BTreeSet<String> {
        let mut paths = BTreeSet::from(["d ".to_owned()]);
        for number in 0..3 * CHUNK {
            if number % 5 == 0 {
                fs::create_dir_all(root.join(format!("{number}/below"))).unwrap();
                symlink("/", root.join(format!("{number}/link"))).unwrap();
                paths.extend([
                    format!("d {number}"),
                    format!("d {number}/below"),
                    format!("l {number}/link"),
                ]);
            } else {
                fs::write(root.join(number.to_string()), "").unwrap();
                paths.insert(format!("f {number}"));
            }
        }
        paths
    }

    #[test]
    fn everything_is_visited_once() {
        let scratch = tempfile::tempdir().unwrap();
        let expected = wide(scratch.path());
        for jobs in [1, 4] {
            let tree = Tree::open(scratch.path()).unwrap();
            let visitors = parallel(&tree, jobs, Paths::default).unwrap();
            let paths: Vec<_> = visitors.into_iter().flat_map(|paths| paths.0).collect();
            assert_eq!(paths.len(), expected.len());
            assert_eq!(paths.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }

    #[test]
    fn the_sorted_walk_is_in_the_order_of_names() {
        let scratch = tempfile::tempdir().unwrap();
        for path in ["b/x/y", "b/w", "a", "b-", "c"] {
            fs::create_dir_all(scratch.path().join(path)).unwrap();
        }
        fs::write(scratch.path().join("b/v"), "").unwrap();
        let mut paths = Paths::default();
        sorted(&Tree::open(scratch.path()).unwrap(), &mut paths).unwrap();
        assert_eq!(paths.0, ["d ", "d a", "d b", "f b/v", "d b/w", "d b/x", "d b/x/y", "d b-", "d c"]);
    }
}
