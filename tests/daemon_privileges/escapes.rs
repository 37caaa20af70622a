//! Attempts to reach what is outside, or to make the helper open what it must not.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use libc::{O_CREAT, O_DIRECTORY, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use tempfile::TempDir;

use crate::apart::Stopper;
use crate::program::{self, Running};
use crate::tree::{self, Owned};
use crate::wire::{Answer, Client, PATIENCE, Request, ask};
use crate::{SANDBOXES, ours};

const SECRET: &[u8] = b"what nobody inside may read";

/// A host with an export in it, and what must stay as it is outside.
struct Host {
    dir: TempDir,
    outside: String,
}

impl Host {
    fn new() -> Self {
        let dir = program::scratch();
        let tree = Owned::below(dir.path());
        tree.dir("outside", 0o777, 0, 0)
            .file("outside/secret", SECRET, 0o644, 0, 0)
            .dir("outside/d", 0o777, 0, 0)
            .dir("export", 0o777, 0, 0)
            .dir("export/outside", 0o777, 0, 0)
            .file("export/outside/inside", b"", 0o644, 0, 0);
        let outside = tree::describe(&dir.path().join("outside"));
        Self { dir, outside }
    }

    fn export(&self) -> PathBuf {
        self.dir.path().join("export")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    #[track_caller]
    fn is_untouched(&self, when: &str) {
        let now = tree::describe(&self.outside());
        assert!(now == self.outside, "{when}: {}", tree::difference(&self.outside, &now));
    }
}

/// Requests by which a hostile client tries to read or change `path`, which it hopes to be outside.
fn attacks(path: &[u8]) -> Vec<Request> {
    let below = |name: &[u8]| [path, b"/", name].concat();
    vec![
        ask::open(&below(b"secret"), O_RDONLY),
        ask::open(&below(b"secret"), O_RDWR | O_TRUNC),
        ask::open(path, O_DIRECTORY),
        ask::create(&below(b"secret"), O_CREAT | O_RDWR | O_TRUNC, 0o666, 1000, 1000),
        ask::create(&below(b"new"), O_CREAT | O_RDWR, 0o666, 0, 0),
        ask::mkdir(&below(b"new"), 0o755, 1000, 1000),
        ask::mknod(&below(b"new"), libc::S_IFIFO | 0o600, 0, 0, 0),
        ask::symlink(b"x", &below(b"new"), 0, 0),
        ask::link(&below(b"secret"), b"/stolen"),
        ask::rename(&below(b"secret"), b"/stolen"),
        ask::rename(b"/bait", &below(b"new")),
        ask::link(b"/bait", &below(b"new")),
        ask::chmod(&below(b"secret"), 0o777),
        ask::chown(&below(b"secret"), 1000, 1000),
        ask::truncate(&below(b"secret"), 0),
        ask::utime(&below(b"secret"), (1, 1), (1, 1)),
        ask::setxattr(&below(b"secret"), b"user.a", b"1", 0),
        ask::remove(&below(b"secret")),
        ask::remove(&below(b"d")),
        ask::lstat(&below(b"secret")),
        ask::getxattr(&below(b"secret"), b"user.a", 100),
        ask::version(&below(b"secret")),
    ]
}

/// Panics where a descriptor leads to the secret or to the directory that it is in.
fn is_inside(fd: &OwnedFd, host: &Host, when: &str) {
    let stat = rustix::fs::fstat(fd).unwrap();
    for path in [host.outside(), host.outside().join("secret"), host.dir.path().into()] {
        let outside = fs::metadata(&path).unwrap();
        assert!(
            (stat.st_dev, stat.st_ino) != (outside.dev(), outside.ino()),
            "{when}: {} is open",
            path.display()
        );
    }
}

#[test]
fn dots_and_absolute_symlinks_stay_inside() {
    for sandbox in SANDBOXES {
        let host = Host::new();
        let export = Owned { root: &host.export() };
        export
            .link("absolute", host.outside().as_os_str().as_encoded_bytes())
            .link("relative", "../outside")
            .link("high", "../../../../../../../../../../")
            .link("etc", "/etc")
            .link("proc", "/proc/1/root")
            .link("self", "/proc/self/fd")
            .file("bait", b"", 0o644, 0, 0);
        let whole = host.outside().as_os_str().as_encoded_bytes().to_vec();
        let (_running, mut client) = ours(export.root, sandbox).by_fd();
        let through = |link: &[u8], path: &[u8]| [link, path].concat();
        for path in [
            b"/../outside".to_vec(),
            b"../outside".to_vec(),
            b"/..//../outside".to_vec(),
            b"/outside/../../outside".to_vec(),
            b"/./.././outside/.".to_vec(),
            whole.clone(),
            through(b"/..", &whole),
            through(b"/high", &whole),
            b"/absolute".to_vec(),
            b"/absolute/.".to_vec(),
            b"/absolute/".to_vec(),
            b"/high/outside".to_vec(),
            b"/self/0".to_vec(),
            b"/self/1".to_vec(),
        ] {
            for request in attacks(&path) {
                if let Answer::Fd(fd) = client.ask(&request) {
                    is_inside(&fd, &host, &format!("{sandbox}: {request:?}"));
                }
            }
            host.is_untouched(sandbox);
        }
        for (path, errno) in [
            // In there the links to /etc and /proc lead to themselves.
            (b"/etc/passwd".as_slice(), Errno::ELOOP),
            (b"/proc/etc/passwd", Errno::ELOOP),
            (b"/high/usr/bin", Errno::ENOENT),
            (b"0", Errno::ENOENT),
            (b"1", Errno::ENOENT),
            (b"./3", Errno::ENOENT),
        ] {
            client.ask(&ask::lstat(path)).fails(errno);
            client.ask(&ask::open(path, O_RDONLY)).fails(errno);
        }
        // The export's own directory of that name is what the relative link leads to.
        client.ask(&ask::lstat(b"/relative/inside")).ok();
    }
}

/// Swaps two names over and over while `attack` runs.
fn while_swapping(left: &Path, right: &Path, attack: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, left, CWD, right, RenameFlags::EXCHANGE).expect("two names swapped");
            }
        });
        let stopper = Stopper(&stop);
        attack();
        drop(stopper);
    });
}

/// Asks over and over until at least `least` requests have been made and `enough` is content with what was seen.
fn repeatedly(least: usize, enough: impl Fn(&BTreeSet<String>) -> bool, mut once: impl FnMut() -> String) {
    let start = Instant::now();
    let mut seen = BTreeSet::new();
    let mut count = 0;
    while count < least || !enough(&seen) {
        seen.insert(once());
        count += 1;
        assert!(start.elapsed() < PATIENCE, "after {count} requests all that was ever seen is {seen:?}");
    }
}

#[test]
fn a_directory_swapped_for_a_symlink_leads_nowhere() {
    for sandbox in SANDBOXES {
        for target in ["absolute", "relative"] {
            let host = Host::new();
            let export = host.export();
            let tree = Owned::below(&export);
            let outside = if target == "absolute" { host.outside() } else { "../outside".into() };
            tree.dir("x", 0o777, 0, 0).link("y", outside.as_os_str().as_encoded_bytes());
            tree.file("x/secret", b"inside", 0o666, 0, 0).file("bait", b"", 0o644, 0, 0);
            let (_running, mut client) = ours(&export, sandbox).by_fd();
            let attacks = attacks(b"/x");
            while_swapping(&export.join("x"), &export.join("y"), || {
                let mut at = 0;
                let both = |seen: &BTreeSet<String>| seen.len() == 2;
                repeatedly(6000, both, || {
                    at += 1;
                    let request = &attacks[at % attacks.len()];
                    match client.ask(request) {
                        Answer::Fd(fd) => {
                            is_inside(&fd, &host, sandbox);
                            "inside".into()
                        }
                        Answer::Closed | Answer::Silent | Answer::Strange(_) => {
                            panic!("{sandbox}: {request:?}")
                        }
                        answer if answer.is_success() => "inside".into(),
                        _ => "refused".into(),
                    }
                });
            });
            host.is_untouched(sandbox);
        }
    }
}

#[test]
fn a_parent_that_moves_out_of_the_export_takes_nobody_along() {
    // A chroot, the reference's too, does not keep a directory that the host itself moves out: the others do.
    for sandbox in ["namespace", "none"] {
        let host = Host::new();
        let export = host.export();
        let tree = Owned::below(&export);
        tree.dir("a", 0o777, 0, 0)
            .dir("a/b", 0o777, 0, 0)
            .dir("a/b/c", 0o777, 0, 0)
            .file("bait", b"", 0o644, 0, 0);
        // Beside the directory's place outside stands the secret.
        fs::create_dir(host.outside().join("d/b")).unwrap();
        let untouched = Host { outside: String::new(), ..host };
        let (_running, mut client) = ours(&export, sandbox).by_fd();
        let attacks = attacks(b"/a/b/c/../../..");
        while_swapping(&export.join("a/b"), &untouched.outside().join("d/b"), || {
            let mut at = 0;
            repeatedly(
                6000,
                |seen| !seen.is_empty(),
                || {
                    at += 1;
                    let request = &attacks[at % attacks.len()];
                    if let Answer::Fd(fd) = client.ask(request) {
                        is_inside(&fd, &untouched, sandbox);
                    }
                    String::new()
                },
            );
        });
        assert_eq!(fs::read(untouched.outside().join("secret")).unwrap(), SECRET, "{sandbox}");
        assert!(!untouched.outside().join("new").exists(), "{sandbox}");
        assert!(
            !export.join("stolen").exists() || fs::read(export.join("stolen")).unwrap() != SECRET,
            "{sandbox}"
        );
    }
}

/// The opens of one inode, seen by inotify, whatever it is called.
struct Opens(Inotify);

impl Opens {
    fn of(path: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        inotify.add_watch(path, AddWatchFlags::IN_OPEN).unwrap();
        Self(inotify)
    }

    fn any(&self) -> bool {
        self.0.read_events().is_ok_and(|events| !events.is_empty())
    }
}

/// Everything that opens a file, or might.
fn openers(path: &[u8]) -> Vec<Request> {
    let mut requests =
        vec![ask::version(path), ask::truncate(path, 3), ask::chmod(path, 0o666), ask::statfs(path)];
    for flags in [O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_TRUNC, O_RDONLY | libc::O_NONBLOCK, 3] {
        requests.push(ask::open(path, flags));
        requests.push(ask::create(path, flags | O_CREAT, 0o666, 0, 0));
        requests.push(ask::create(path, flags | O_CREAT, 0o666, 1000, 1000));
        requests.push(ask::create(path, flags, 0o666, 1000, 1000));
    }
    requests.push(ask::open(path, O_DIRECTORY));
    requests
}

/// Swaps a regular file with the special file at `special` while a client opens the regular one's name. It gets the special one
/// never, and is never kept waiting; where it `stays_shut` it isn't even opened.
fn races_with(special: impl Fn(&Owned<'_>), open_it: impl Fn(&Path), stays_shut: impl Fn(&str) -> bool) {
    for sandbox in SANDBOXES {
        let dir = program::scratch();
        let tree = Owned::below(dir.path());
        tree.file("file", b"regular", 0o666, 0, 0);
        special(&tree);
        let (file, node) = (dir.path().join("file"), dir.path().join("special"));
        let opens = Opens::of(&node);
        let (running, mut client) = ours(dir.path(), sandbox).by_fd();
        let requests = openers(b"/file");
        while_swapping(&file, &node, || {
            let mut at = 0;
            let both = |seen: &BTreeSet<String>| seen.contains("success") && seen.contains("ENXIO");
            repeatedly(6000, both, || {
                at += 1;
                outcome(&mut client, &requests[at % requests.len()], &running)
            });
        });
        if stays_shut(sandbox) {
            assert!(!opens.any(), "{sandbox}: the special file was opened");
            // The watch would have told.
            let now = if fs::symlink_metadata(&file).unwrap().is_file() { &node } else { &file };
            open_it(now);
            assert!(opens.any());
        }
    }
}

fn outcome(client: &mut Client, request: &Request, running: &Running) -> String {
    match client.ask(request) {
        Answer::Fd(fd) => {
            let mode = rustix::fs::fstat(fd).unwrap().st_mode & libc::S_IFMT;
            assert_eq!(mode, libc::S_IFREG, "a special file was handed out");
            "success".into()
        }
        Answer::Errno(errno) => format!("{errno:?}"),
        Answer::Closed | Answer::Silent | Answer::Strange(_) => panic!("{request:?}: {}", running.log()),
        Answer::Done | Answer::Data(_) => "done".into(),
    }
}

#[test]
fn a_fifos_waiting_reader_is_not_told_of_a_writer_that_never_was() {
    for sandbox in SANDBOXES {
        let host = Host::new();
        let export = host.export();
        Owned::below(&export).fifo("fifo").link("link", "fifo");
        let (_running, mut client) = ours(&export, sandbox).by_fd();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let reader = rustix::fs::openat(CWD, export.join("fifo"), flags, rustix::fs::Mode::empty()).unwrap();
        let is_told = || {
            let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() != 0
        };
        for path in [b"/fifo".as_slice(), b"/link"] {
            for flags in [O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC, O_WRONLY | libc::O_NONBLOCK] {
                client.ask(&ask::open(path, flags)).fails(Errno::ENXIO);
                client.ask(&ask::create(path, flags | O_CREAT, 0o644, 0, 0)).fails(Errno::ENXIO);
                // QEMU asks for a file's status before it opens it.
                client.ask(&ask::lstat(path)).ok();
                client.ask(&ask::open(path, flags)).fails(Errno::ENXIO);
                assert!(!is_told(), "{sandbox}: {} was opened for writing", String::from_utf8_lossy(path));
            }
        }
        // A writer that comes and goes does tell it.
        drop(fs::File::options().write(true).open(export.join("fifo")).unwrap());
        assert!(is_told(), "{sandbox}: this test would see nothing");
    }
}

#[test]
fn a_fifo_is_never_waited_for_nor_handed_out_not_even_in_a_race() {
    races_with(
        |tree| {
            tree.fifo("special");
        },
        |path| drop(fs::File::options().read(true).write(true).open(path).unwrap()),
        |sandbox| sandbox != "namespace",
    );
}

#[test]
fn a_device_is_never_opened_not_even_in_a_race() {
    races_with(
        |tree| {
            tree.node("special", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        },
        |path| drop(fs::File::open(path).unwrap()),
        |_| true,
    );
}

#[test]
fn a_file_swapped_for_a_symlink_leads_nowhere_outside() {
    for sandbox in SANDBOXES {
        for target in ["absolute", "relative"] {
            let host = Host::new();
            let export = host.export();
            let secret = host.outside().join("secret");
            let target = if target == "absolute" { secret.clone() } else { "../outside/secret".into() };
            let tree = Owned::below(&export);
            // What the links lead to in there: to a file of that name, or to none.
            tree.file("outside/secret", b"inside", 0o666, 0, 0)
                .file("file", b"regular", 0o666, 0, 0)
                .link("link", target.as_os_str().as_encoded_bytes());
            let opens = Opens::of(&secret);
            let (running, mut client) = ours(&export, sandbox).by_fd();
            let requests = openers(b"/file");
            while_swapping(&export.join("file"), &export.join("link"), || {
                let mut at = 0;
                repeatedly(
                    6000,
                    |seen| seen.contains("success"),
                    || {
                        at += 1;
                        outcome(&mut client, &requests[at % requests.len()], &running)
                    },
                );
            });
            assert!(!opens.any(), "{sandbox}: a link led outside");
            host.is_untouched(sandbox);
            // The watch would have told.
            drop(fs::File::open(&secret).unwrap());
            assert!(opens.any());
        }
    }
}
