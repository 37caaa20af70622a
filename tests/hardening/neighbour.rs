//! Clients that ask for anything at all, beside a neighbour on the host that changes the tree under the worker's feet:
//! nothing outside is reached, no special file is opened, nobody waits for good.
//!
//! Some seconds long, or as many as the variable `VIRTFS_TEST_SECONDS` says: for two hours,
//! `VIRTFS_TEST_SECONDS=7200 cargo test --test hardening neighbour`.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};

use crate::apart::{Stopper, with_private_mounts};
use crate::dice::Dice;
use crate::process;
use crate::program::{self, Launch};
use crate::tree::{self, Owned};
use crate::wire::{Answer, Client, Request};

/// How long a session lasts where the variable does not say.
const SECONDS: u64 = 8;
/// How long a reply may take: long for a request, short for a wait without end.
const LIMIT: Duration = Duration::from_secs(30);

/// What clients and the neighbour name. `out` and `up` are where the neighbour puts ways out.
const NAMES: &[&[u8]] = &[b"a", b"b", b"c", b"d", b"out", b"up", b"..", b"mnt"];

/// The host: an export, what must stay as it is, and a place for what is moved out of the export.
struct Host {
    dir: PathBuf,
    /// What no reply may lead to.
    forbidden: BTreeSet<(u64, u64)>,
    before: String,
    opens: Inotify,
}

impl Host {
    fn new(dir: &Path) -> Self {
        Owned::below(dir)
            .dir("outside", 0o777, 0, 0)
            .file("outside/a", b"secret", 0o666, 0, 0)
            .dir("outside/b", 0o777, 0, 0)
            .file("outside/b/c", b"secret", 0o666, 0, 0)
            .fifo("outside/d")
            .dir("beside", 0o777, 0, 0)
            .dir("export", 0o777, 0, 0);
        let outside = dir.join("outside");
        let opens = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        let mut forbidden = BTreeSet::new();
        let below = ["", "a", "b", "b/c", "d"].map(|name| outside.join(name));
        for path in below.iter().map(PathBuf::as_path).chain([Path::new("/"), Path::new("/etc"), dir]) {
            let metadata = fs::metadata(path).unwrap();
            forbidden.insert((metadata.dev(), metadata.ino()));
        }
        let before = tree::describe(&outside);
        for path in below {
            let all =
                AddWatchFlags::IN_ALL_EVENTS ^ AddWatchFlags::IN_DELETE_SELF ^ AddWatchFlags::IN_MOVE_SELF;
            opens.add_watch(&path, all).unwrap();
        }
        Self { dir: dir.into(), forbidden, before, opens }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Panics where anything outside was opened, changed or even read.
    fn is_untouched(&self, when: &str) {
        let events = self.opens.read_events().unwrap_or_default();
        assert!(events.is_empty(), "{when}: outside the export: {events:?}");
        let now = tree::describe(&self.path("outside"));
        assert!(now == self.before, "{when}: {}", tree::difference(&self.before, &now));
    }

    /// Panics where an answer leads outside, or is none.
    fn judge(&self, request: &Request, answer: &Answer, when: &str) {
        let found = match answer {
            Answer::Fd(fd) => {
                let stat = rustix::fs::fstat(fd).unwrap();
                let kind = FileType::from_raw_mode(stat.st_mode);
                let usual = [FileType::RegularFile, FileType::Directory];
                assert!(usual.contains(&kind), "{when}: {request:?} opened a {kind:?}");
                Some((stat.st_dev, stat.st_ino))
            }
            Answer::Closed | Answer::Silent | Answer::Strange(_) => panic!("{when}: {request:?}: {answer:?}"),
            Answer::Data(_) if matches!(request, Request::Lstat { .. }) => {
                answer.stat().map(|stat| (stat.dev, stat.ino))
            }
            Answer::Done | Answer::Data(_) | Answer::Errno(_) => None,
        };
        if let Some(inode) = found {
            assert!(!self.forbidden.contains(&inode), "{when}: {request:?} led outside");
        }
    }
}

/// A process of the host's that means ill, with the rights to.
struct Neighbour<'h> {
    host: &'h Host,
    root: OwnedFd,
    dice: Dice,
    /// Whether directories move out of the export, and back: no chroot can keep a process from following one.
    moves_out: bool,
}

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Neighbour<'_> {
    fn name(&mut self) -> &'static str {
        self.dice.pick(&["a", "b", "c", "d", "out", "up", "mnt"])
    }

    /// A directory of the export. The neighbour itself must not be led outside.
    fn directory(&mut self) -> Option<OwnedFd> {
        let path = match self.dice.roll(3) {
            0 => String::from("."),
            1 => self.name().into(),
            _ => format!("{}/{}", self.name(), self.name()),
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, path, DIRECTORY, Mode::empty(), resolve).ok()
    }

    /// Does one thing; most often in vain, for the clients have been there.
    fn act(&mut self) {
        let (Some(dir), name) = (self.directory(), self.name()) else { return };
        let outside = self.host.path("outside");
        let full = Mode::from_raw_mode(0o777);
        let _ = match self.dice.roll(16) {
            0 => rustix::fs::mkdirat(&dir, name, full),
            1 => rustix::fs::symlinkat(outside.as_os_str(), &dir, name),
            2 => rustix::fs::symlinkat(
                self.dice.pick(&["../outside", "../../outside/b", "..", "/", "/proc/self/fd", "."]),
                &dir,
                name,
            ),
            3 => {
                rustix::fs::mknodat(&dir, name, self.dice.pick(&[FileType::Fifo, FileType::Socket]), full, 0)
            }
            4 => rustix::fs::mknodat(&dir, name, FileType::CharacterDevice, full, rustix::fs::makedev(1, 3)),
            5 => {
                rustix::fs::openat(&dir, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, full).map(drop)
            }
            6 => rustix::fs::unlinkat(&dir, name, AtFlags::empty()),
            7 => rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR),
            8 => self.mount(&dir, name),
            9 => Self::unmount(&dir, name),
            10 if self.moves_out => self.move_out(&dir, name),
            _ => match self.directory() {
                Some(other) => {
                    rustix::fs::renameat_with(&dir, name, &other, self.name(), RenameFlags::EXCHANGE)
                }
                None => Ok(()),
            },
        };
    }

    /// Swaps a directory, or a link, with one beside the export.
    fn move_out(&mut self, dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        let beside = fs::File::open(self.host.path("beside")).unwrap();
        let _ = rustix::fs::mkdirat(&beside, "m", Mode::from_raw_mode(0o777));
        rustix::fs::renameat_with(dir, name, &beside, "m", RenameFlags::EXCHANGE)
    }

    /// Mounts something harmless over a directory.
    fn mount(&mut self, dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        let at = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
        let at = format!("/proc/self/fd/{}", at.as_raw_fd());
        let none = None::<&str>;
        let _ = if self.dice.roll(2) == 0 {
            mount(Some("tmpfs"), at.as_str(), Some("tmpfs"), MsFlags::empty(), none)
        } else {
            mount(Some(&self.host.path("beside")), at.as_str(), none, MsFlags::MS_BIND, none)
        };
        Ok(())
    }

    /// Takes a mount away, if there is one.
    fn unmount(dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        let at = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
        let at = format!("/proc/self/fd/{}", at.as_raw_fd());
        let _ = umount2(at.as_str(), MntFlags::MNT_DETACH);
        Ok(())
    }
}

/// How long, and from which seed: another one for each long session.
fn plan() -> (Duration, u64) {
    match std::env::var("VIRTFS_TEST_SECONDS") {
        Ok(text) => {
            let seconds = text.parse().expect("VIRTFS_TEST_SECONDS is a number of seconds");
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            (Duration::from_secs(seconds), now.as_secs())
        }
        Err(_) => (Duration::from_secs(SECONDS), 1),
    }
}

/// One client's requests until the time is over; how many there were, and how many went well.
fn be_a_client(host: &Host, socket: &Path, seed: u64, stop: &AtomicBool, when: &str) -> (u64, u64) {
    let _stopper = Stopper(stop);
    let mut dice = Dice::naming(seed, NAMES);
    let mut client = Client::connect_soon(socket);
    client.patience(LIMIT);
    let (mut count, mut well) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let request = dice.request();
        let answer = client.ask(&request);
        host.judge(&request, &answer, when);
        count += 1;
        well += u64::from(answer.is_success());
    }
    (count, well)
}

fn session(sandbox: &str, dir: &Path) {
    let (length, seed) = plan();
    let when = format!("--sandbox={sandbox}, seed {seed}");
    let host = Host::new(dir);
    let socket = host.path("socket");
    let running = Launch::new(&program::ours(), &host.path("export"))
        .option(format!("--sandbox={sandbox}"))
        .option("--shared=2")
        .option("--persistent")
        .by_socket(&socket);
    let stop = AtomicBool::new(false);
    let (served, acts) = std::thread::scope(|scope| {
        let _stopper = Stopper(&stop);
        let (host, stop, socket, when) = (&host, &stop, &socket, &when);
        let root: OwnedFd = fs::File::open(host.path("export")).unwrap().into();
        let mut neighbour =
            Neighbour { host, root, dice: Dice::naming(seed, NAMES), moves_out: sandbox != "chroot" };
        let clients: Vec<_> = [seed + 1, seed + 2]
            .map(|seed| scope.spawn(move || be_a_client(host, socket, seed, stop, when)))
            .into();
        let start = Instant::now();
        let mut acts = 0_u64;
        while start.elapsed() < length && !stop.load(Ordering::Relaxed) {
            neighbour.act();
            acts += 1;
            if acts.is_multiple_of(1000) {
                let events = host.opens.read_events().unwrap_or_default();
                assert!(events.is_empty(), "{when}: outside the export: {events:?}");
            }
        }
        let workers = process::children(running.pid());
        for worker in &workers {
            let peak: u64 = process::status(*worker, "VmHWM").trim_end_matches(" kB").parse().unwrap();
            assert!(peak < 16 << 10, "{when}: a worker has used {peak} KiB");
            let open = process::descriptors(*worker);
            assert!(open.len() <= 10, "{when}: {open:?}");
        }
        stop.store(true, Ordering::Relaxed);
        let served: Vec<_> = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        assert_eq!(workers.len(), 2, "{when}: {}", running.log());
        (served, acts)
    });
    host.is_untouched(&when);
    let log = running.log();
    assert!(!log.contains("panic") && !log.contains("killed"), "{when}: {log}");
    println!("{when}: {acts} acts of the neighbour's; requests and how many went well: {served:?}");
    let least = length.as_secs() * 50;
    assert!(served.iter().all(|(count, well)| *count > least && *well > least / 10), "{when}: {served:?}");
}

/// Runs a session where mounts are nobody else's.
fn apart(sandbox: &'static str) {
    let dir = program::scratch();
    let path = dir.path().to_owned();
    // The mounts go with the thread, and the scratch directory after them.
    with_private_mounts(move || session(sandbox, &path));
}

#[test]
fn behind_a_namespace_a_hostile_neighbour_gains_nothing() {
    apart("namespace");
}

#[test]
fn behind_a_chroot_a_hostile_neighbour_gains_nothing() {
    apart("chroot");
}

#[test]
fn without_walls_a_hostile_neighbour_gains_nothing() {
    apart("none");
}
