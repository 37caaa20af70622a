//! Two equal trees, a helper on each, and one list of requests played to both, step by step.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::OFlags;
use tempfile::TempDir;

use crate::program::{self, Launch, Running};
use crate::tree::{self, Owned};
use crate::wire::{Answer, Client, LEAVE, Request, Stat, decode_statfs};

/// What a step must say, on both sides: success.
pub const OK: Errno = Errno::UnknownErrno;

/// One step: the request, and what it must say on both sides.
pub type Step = (Request, Errno);

/// The sandboxes of ours that must all behave as the reference does.
const SANDBOXES: [&str; 3] = ["namespace", "chroot", "none"];

/// Flags of an open file that must be the same on both sides; the others are the helper's own business.
const SHARED_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DIRECT
    | libc::O_DSYNC
    | libc::O_SYNC
    | libc::O_NOATIME
    | libc::O_DIRECTORY;

/// A tmpfs's type, `TMPFS_MAGIC`.
const TMPFS: u64 = 0x0102_1994;

/// A helper on a tree.
pub struct Side {
    name: String,
    launch: Launch,
    root: PathBuf,
    running: Running,
    client: Client,
}

/// The two sides.
pub struct Stage {
    _dir: TempDir,
    sides: [Side; 2],
    mismatches: Vec<String>,
    told: String,
    steps: usize,
}

/// Plays one scenario against each sandbox of ours: `prepare` makes the tree, `steps` are played in order.
#[track_caller]
pub fn play(prepare: impl Fn(&Owned<'_>), steps: &[Step]) {
    for sandbox in SANDBOXES {
        let mut stage = Stage::new(sandbox, &prepare);
        stage.play(steps);
        stage.finish();
    }
}

/// Plays a scenario of several acts, the host's hand between them, against each sandbox of ours.
#[track_caller]
pub fn acts(prepare: impl Fn(&Owned<'_>), acts: impl Fn(&mut Stage)) {
    for sandbox in SANDBOXES {
        let mut stage = Stage::new(sandbox, &prepare);
        acts(&mut stage);
        stage.finish();
    }
}

impl Side {
    fn new(name: String, launch: Launch, root: PathBuf) -> Self {
        let (running, client) = launch.by_fd();
        Self { name, launch, root, running, client }
    }

    fn restart(&mut self) {
        (self.running, self.client) = self.launch.by_fd();
    }

    /// What the request said and did, in words that both sides can share.
    fn ask(&mut self, request: &Request) -> (Errno, String) {
        let answer = self.client.ask(request);
        if !self.client.is_quiet() {
            return (OK, "more bytes than one reply".into());
        }
        match answer {
            Answer::Errno(errno) => (errno, String::new()),
            Answer::Done => (OK, String::new()),
            Answer::Fd(fd) => (OK, self.describe_fd(&fd, request)),
            Answer::Data(payload) => (OK, self.describe_data(&payload, request)),
            Answer::Closed | Answer::Silent | Answer::Strange(_) => {
                let words = format!("{answer:?}; {} said:\n{}", self.name, self.running.log());
                self.restart();
                (OK, words)
            }
        }
    }

    fn describe_fd(&self, fd: &OwnedFd, request: &Request) -> String {
        let (Request::Open { path, .. } | Request::Create { path, .. }) = request else {
            return "a descriptor for nothing that was to be opened".into();
        };
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::F_GETFL).expect("a descriptor's flags");
        let stat = rustix::fs::fstat(fd).expect("a descriptor's inode");
        let offset = rustix::fs::tell(fd).expect("a descriptor's position");
        let host = Owned::below(&self.root).stat_target(path);
        let same = host.is_some_and(|host| host.st_ino == stat.st_ino);
        format!(
            "flags={:o} mode={:o} offset={offset} the-file-named={same}",
            flags & SHARED_FLAGS,
            stat.st_mode
        )
    }

    fn describe_data(&self, payload: &[u8], request: &Request) -> String {
        match request {
            Request::Lstat { path } => match Stat::decode(payload) {
                Some(stat) => self.describe_stat(&stat, path),
                None => format!("an lstat reply of {} bytes", payload.len()),
            },
            Request::Statfs { .. } => match decode_statfs(payload) {
                // Each tmpfs has an id of its own.
                Some([TMPFS, bsize, blocks, _, _, files, _, _, _, namelen, frsize]) => {
                    format!("tmpfs {bsize} {blocks} files={files} {namelen} {frsize}")
                }
                Some([kind, bsize, blocks, _, _, files, _, fsid0, fsid1, namelen, frsize]) => format!(
                    "{kind:x} {bsize} {blocks} files={files} fsid={fsid0:x},{fsid1:x} {namelen} {frsize}"
                ),
                None => format!("a statfs reply of {} bytes", payload.len()),
            },
            Request::Version { path } => self.describe_version(payload, path),
            _ => format!("\"{}\"", payload.escape_ascii()),
        }
    }

    /// An lstat reply must be what the host sees, in all its sixteen numbers.
    fn describe_stat(&self, stat: &Stat, path: &[u8]) -> String {
        let host = Owned::below(&self.root).stat(path);
        let is_hosts = host.is_some_and(|host| *stat == Stat::from(&host));
        let Stat { nlink, mode, uid, gid, rdev, blksize, .. } = stat;
        // A directory's size is the filesystem's own affair.
        let size = if mode & libc::S_IFMT == libc::S_IFDIR { 0 } else { stat.size };
        format!(
            "{mode:o} {nlink} {uid}:{gid} rdev={rdev:x} size={size} blksize={blksize} the-host's={is_hosts}"
        )
    }

    /// A version must be the inode's generation; of the reference's only the half that it wrote.
    fn describe_version(&self, payload: &[u8], path: &[u8]) -> String {
        let Some(&version) = payload.first_chunk::<8>().filter(|_| payload.len() == 8) else {
            return format!("a version of {} bytes", payload.len());
        };
        let version = u64::from_ne_bytes(version);
        let file = Owned::below(&self.root).open(path, OFlags::RDONLY | OFlags::NONBLOCK);
        let generation = file.and_then(tree::generation).unwrap_or(0);
        let said = if self.is_reference() { version & 0xffff_ffff } else { version };
        format!("the-generation={}", said == u64::from(generation))
    }

    fn is_reference(&self) -> bool {
        self.name == "C"
    }
}

impl Stage {
    /// Makes the two trees and starts a helper on each.
    pub fn new(sandbox: &str, prepare: impl Fn(&Owned<'_>)) -> Self {
        let dir = program::scratch();
        let side = |name: &str, program: &Path, sandbox: Option<&str>| {
            let root = dir.path().join(if sandbox.is_some() { "ours" } else { "reference" });
            fs::create_dir(&root).expect("a root");
            prepare(&Owned::below(&root));
            let mut launch = Launch::new(program, &root);
            if let Some(sandbox) = sandbox {
                launch = launch.option(format!("--sandbox={sandbox}"));
            }
            Side::new(name.into(), launch, root)
        };
        let sides = [
            side("C", &program::reference(), None),
            side(&format!("ours, sandbox={sandbox}"), &program::ours(), Some(sandbox)),
        ];
        let mut stage = Self { _dir: dir, sides, mismatches: Vec::new(), told: String::new(), steps: 0 };
        stage.compare_trees("before the first step");
        stage
    }

    /// Plays steps to both sides and compares what they say and what they leave behind.
    pub fn play(&mut self, steps: &[Step]) {
        for (request, expected) in steps {
            self.step(request, Some(*expected));
        }
    }

    /// Plays requests of which only this is asked: that both sides do the same.
    pub fn compare(&mut self, requests: impl IntoIterator<Item = Request>) {
        for request in requests {
            self.step(&request, None);
        }
    }

    /// Lets the host change both trees.
    pub fn host(&mut self, act: impl Fn(&Owned<'_>)) {
        for side in &self.sides {
            act(&Owned::below(&side.root));
        }
    }

    /// The type of the file that a path names, a symbolic link itself.
    pub fn kind(&self, path: &[u8]) -> Option<u32> {
        let [reference, _] = &self.sides;
        Owned::below(&reference.root).stat(path).map(|stat| stat.st_mode & libc::S_IFMT)
    }

    /// The type of the file that a path leads to, through a final symbolic link too.
    pub fn target_kind(&self, path: &[u8]) -> Option<u32> {
        let [reference, _] = &self.sides;
        Owned::below(&reference.root).stat_target(path).map(|stat| stat.st_mode & libc::S_IFMT)
    }

    /// How many steps have been played.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Panics with every mismatch that was found.
    #[track_caller]
    pub fn finish(self) {
        assert!(
            self.mismatches.is_empty(),
            "{} mismatches in {} steps:\n{}",
            self.mismatches.len(),
            self.steps,
            self.mismatches.iter().take(20).fold(String::new(), |all, one| all + one + "\n")
        );
    }

    fn step(&mut self, request: &Request, expected: Option<Errno>) {
        self.steps += 1;
        let [reference, ours] = &mut self.sides;
        let (theirs, our) = (reference.ask(request), ours.ask(request));
        if theirs != our || expected.is_some_and(|expected| expected != our.0) {
            let mut text = format!("step {}: {}\n", self.steps, shown(request));
            if let Some(expected) = expected {
                writeln!(text, "  expected {}", word(expected)).expect("text");
            }
            for (side, (errno, words)) in [(&*reference, theirs), (&*ours, our)] {
                writeln!(text, "  {}: {} {words}", side.name, word(errno)).expect("text");
            }
            self.mismatches.push(text);
        }
        if costs_the_reference_its_rights(request) {
            reference.restart();
        }
        self.compare_trees(&format!("after step {}, {}", self.steps, shown(request)));
    }

    fn compare_trees(&mut self, when: &str) {
        let [reference, ours] = &self.sides;
        let (left, right) = (tree::describe(&reference.root), tree::describe(&ours.root));
        let difference = tree::difference(&left, &right);
        // A difference stays; it is told when it comes, not after every step from there on.
        let told = std::mem::replace(&mut self.told, difference.clone());
        if left != right && difference != told {
            self.mismatches
                .push(format!("{when}: the trees of C (-) and {} (+) differ:\n{difference}", ours.name));
        }
    }
}

/// Whether the reference has lost capabilities for good by this request (its defect 1), so that it needs a fresh
/// start: after every create that ends where the effective uid has not changed, or with an id of -1.
fn costs_the_reference_its_rights(request: &Request) -> bool {
    match request {
        Request::Create { uid, gid, .. }
        | Request::Mknod { uid, gid, .. }
        | Request::Mkdir { uid, gid, .. }
        | Request::Symlink { uid, gid, .. } => {
            (*uid, *gid) != (0, 0) && (*uid == 0 || *uid == LEAVE || *gid == LEAVE)
        }
        _ => false,
    }
}

/// An outcome in a word.
fn word(outcome: Errno) -> String {
    if outcome == OK { "success".into() } else { format!("{outcome:?}") }
}

/// A request on one line, its bytes as text.
fn shown(request: &Request) -> String {
    let mut bytes = request.encode();
    let kind = request.kind();
    let payload = bytes.split_off(8);
    let mut text = format!("type {kind} \"{}\"", payload.escape_ascii());
    if text.len() > 300 {
        text.truncate(300);
        text.push('…');
    }
    text
}

/// A name of `length` bytes.
pub fn long_name(length: usize) -> Vec<u8> {
    vec![b'n'; length]
}

/// The device number that the host gives (`major`, `minor`), as `mknod` takes it.
pub fn device(major: u32, minor: u32) -> u64 {
    rustix::fs::makedev(major, minor)
}
