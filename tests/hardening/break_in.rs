//! A worker that does what an intruder would: each wall by itself, and all of them.
//!
//! What comes out is the table of `.github/SECURITY.md`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::apart::with_private_mounts;
use crate::program::{self, Launch, Running, wait_until};
use crate::tree::Owned;
use crate::wire::{Answer, Client, ask};

/// What became of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It did what it was to do.
    Reached,
    /// It failed with this error.
    Failed(Errno),
    /// The worker was killed for it.
    Died,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached => f.write_str("**open**"),
            Self::Failed(errno) => write!(f, "{errno:?}"),
            Self::Died => f.write_str("dies"),
        }
    }
}

/// One way to put walls up.
struct Walls {
    name: &'static str,
    sandbox: &'static str,
    seccomp: &'static str,
    without: &'static str,
}

const fn walls(
    name: &'static str,
    sandbox: &'static str,
    seccomp: &'static str,
    without: &'static str,
) -> Walls {
    Walls { name, sandbox, seccomp, without }
}

/// Each wall by itself, then all of them with each sandbox.
const WALLS: [Walls; 10] = [
    walls("no wall", "none", "none", "view,capabilities,landlock,limits"),
    walls("capabilities", "none", "none", "view,landlock,limits"),
    walls("namespaces", "namespace", "none", "capabilities,landlock,limits"),
    walls("chroot", "chroot", "none", "mounts,view,capabilities,landlock,limits"),
    walls("Landlock", "none", "none", "view,capabilities,limits"),
    walls("seccomp", "none", "kill", "view,capabilities,landlock,limits"),
    walls("limits", "none", "none", "view,capabilities,landlock"),
    walls("**all, namespace**", "namespace", "kill", ""),
    walls("**all, chroot**", "chroot", "kill", ""),
    walls("**all, none**", "none", "kill", ""),
];

/// Attempts that all walls together let pass, by sandbox. Everything else must fail or be the worker's end.
const OPEN: [(&str, &[&str]); 3] = [
    ("namespace", &[]),
    ("chroot", &["open a device that mknod made"]),
    ("none", &["look at a file outside", "change a file's mode outside", "open a device that mknod made"]),
];

/// Attempts that this kernel or container may not allow anybody, so that only their end by seccomp proves something.
const NOT_EVERYWHERE: [&str; 7] = [
    "bpf",
    "io_uring_setup",
    "userfaultfd",
    "perf_event_open",
    "load a module",
    "load another kernel",
    // Linux 6.16 and later lets the helper refuse what clients send.
    "receive a descriptor",
];

/// A host with an export, and what is to be kept from whoever breaks in.
struct Host {
    dir: TempDir,
    victim: Child,
    tcp: TcpListener,
    name: String,
    _abstract: UnixListener,
    segment: i32,
}

impl Host {
    /// Call it in a mount namespace that nobody else uses.
    fn new(number: usize) -> Self {
        let dir = program::scratch();
        Owned::below(dir.path())
            .dir("outside", 0o755, 0, 0)
            .file("outside/secret", b"what nobody inside may read", 0o644, 0, 0)
            .dir("export", 0o755, 0, 0)
            .dir("export/mount", 0o755, 0, 0)
            .dir("export/mounted", 0o755, 0, 0);
        let busybox = dir.path().join("export/busybox");
        fs::copy("/bin/busybox", busybox).expect("/bin/busybox is missing: install busybox-static");
        mount(
            Some("tmpfs"),
            &dir.path().join("export/mounted"),
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("a tmpfs");
        let name = format!("virtfs-break-in-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self {
            victim: Command::new("sleep").arg("1000").spawn().expect("sleep"),
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            segment: make_segment(key(number)),
            name,
            dir,
        }
    }

    fn export(&self) -> PathBuf {
        self.dir.path().join("export")
    }

    /// What the worker is told.
    fn variable(&self, walls: &Walls, number: usize) -> String {
        let outside = self.dir.path().join("outside");
        let inside = if walls.sandbox == "none" { self.export() } else { PathBuf::new() };
        format!(
            "without={};outside={};inside={};victim={};handle={};port={};abstract={};shm={}",
            walls.without,
            outside.display(),
            inside.display(),
            self.victim.id(),
            handle(&outside.join("secret")),
            self.tcp.local_addr().unwrap().port(),
            self.name,
            key(number),
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        let _ = umount2(&self.export().join("mounted"), MntFlags::MNT_DETACH);
        // SAFETY: plain integers.
        unsafe { libc::shmctl(self.segment, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

fn key(number: usize) -> i32 {
    i32::try_from(std::process::id()).unwrap() * 16 + i32::try_from(number).unwrap()
}

fn make_segment(key: i32) -> i32 {
    // SAFETY: plain integers.
    let segment = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o600) };
    assert!(segment >= 0, "shared memory: {}", Errno::last());
    segment
}

/// A file's handle: its type and its bytes.
fn handle(path: &Path) -> String {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let mut handle = [0u32; 34];
    handle[0] = 128;
    let mut id = 0i32;
    // SAFETY: the path is terminated; `handle` is a struct file_handle with room for 128 bytes, as its first word says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut id,
            0,
        )
    };
    assert_eq!(result, 0, "a file handle: {}", Errno::last());
    let bytes: Vec<u8> = handle[2..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut text = format!("{},", handle[1].cast_signed());
    for byte in &bytes[..handle[0] as usize] {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// A supervisor whose workers can be asked to misbehave.
struct Stage {
    host: Host,
    running: Running,
    socket: PathBuf,
}

impl Stage {
    fn new(walls: &Walls, number: usize) -> Self {
        let host = Host::new(number);
        let socket = host.dir.path().join("socket");
        let running = Launch::new(&program::ours(), &host.export())
            .under(["prlimit", "--nofile=20000", "--"])
            .variable("VIRTFS_BREAK_IN", host.variable(walls, number))
            .option(format!("--sandbox={}", walls.sandbox))
            .option(format!("--seccomp={}", walls.seccomp))
            .option("--persistent")
            .by_socket(&socket);
        Self { host, running, socket }
    }

    fn ask(&self, name: &str) -> Answer {
        let path = [b"/.break-in/", name.as_bytes()].concat();
        Client::connect_soon(&self.socket).ask(&ask::readlink(&path, 60_000))
    }

    fn attempts(&self) -> Vec<String> {
        let answer = self.ask("list");
        let list = answer.string().unwrap_or_else(|| {
            panic!("{answer:?}: build with --features break-in; the helper said: {}", self.running.log())
        });
        String::from_utf8_lossy(list).lines().map(Into::into).collect()
    }

    fn killed(&self) -> usize {
        self.running.log().matches(" was killed by SIGSYS").count()
    }

    fn attempt(&self, name: &str) -> Outcome {
        let executed = self.host.export().join("executed");
        let _ = fs::remove_file(&executed);
        let before = self.killed();
        match self.ask(name) {
            Answer::Errno(errno) => Outcome::Failed(errno),
            Answer::Data(_) => Outcome::Reached,
            // Killed, or another program by now.
            Answer::Closed => {
                wait_until("the worker's end", || executed.exists() || self.killed() > before);
                if executed.exists() { Outcome::Reached } else { Outcome::Died }
            }
            answer => panic!("{name}: {answer:?}: {}", self.running.log()),
        }
    }
}

/// Every attempt against every kind of walls: by attempt, in the order of [`WALLS`].
fn break_in() -> Vec<(String, Vec<Outcome>)> {
    let mut names = Vec::new();
    let mut outcomes: BTreeMap<String, Vec<Outcome>> = BTreeMap::new();
    for (number, walls) in WALLS.iter().enumerate() {
        let stage = Stage::new(walls, number);
        names = stage.attempts();
        for name in &names {
            outcomes.entry(name.clone()).or_default().push(stage.attempt(name));
        }
    }
    names.into_iter().filter_map(|name| outcomes.remove_entry(&name)).collect()
}

fn table(rows: &[(String, Vec<Outcome>)]) -> String {
    let mut text = String::from("| attempt |");
    for walls in &WALLS {
        write!(text, " {} |", walls.name).unwrap();
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(WALLS.len()));
    text.push('\n');
    for (name, outcomes) in rows {
        write!(text, "| {name} |").unwrap();
        for outcome in outcomes {
            write!(text, " {outcome} |").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn every_attempt_to_break_out_fails_or_is_the_workers_end() {
    program::need_root();
    let rows = with_private_mounts(break_in);
    let table = table(&rows);
    println!("{table}");
    for (name, outcomes) in &rows {
        // An attempt that can't succeed anywhere shows nothing.
        let possible = outcomes[0] == Outcome::Reached || NOT_EVERYWHERE.contains(&name.as_str());
        assert!(possible, "{name}: {} even without a wall", outcomes[0]);
        for (walls, outcome) in WALLS.iter().zip(outcomes).filter(|(walls, _)| walls.without.is_empty()) {
            let (_, open) = OPEN.iter().find(|(sandbox, _)| *sandbox == walls.sandbox).unwrap();
            let expected_open = open.contains(&name.as_str());
            assert_eq!(*outcome == Outcome::Reached, expected_open, "{name}, {}: {outcome}", walls.name);
        }
    }
    is_documented(&table);
}

/// Where the table is published, and what stands around it there.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.github/SECURITY.md");
const BEGIN: &str = "<!-- table: begin -->\n";
const END: &str = "<!-- table: end -->\n";

/// Compares with the published table, or writes it where the variable `UPDATE_GOLDEN` is set. A kernel that does not know all
/// that the table speaks of has one of its own.
fn is_documented(table: &str) {
    let document = fs::read_to_string(DOCUMENT).expect("the document");
    let (front, rest) = document.split_once(BEGIN).expect("the table's begin");
    let (published, back) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(DOCUMENT, [front, BEGIN, table, END, back].concat()).unwrap();
    } else if landlock_version() < 6 {
        println!("this kernel's Landlock is older than the table of {DOCUMENT}: not compared");
    } else {
        assert_eq!(published, table, "UPDATE_GOLDEN=1 writes {DOCUMENT}");
    }
}

/// The version of the kernel's Landlock; -1 where it has none.
fn landlock_version() -> i64 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: no pointers are given; the call only tells the version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) }
}
