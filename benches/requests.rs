//! Microseconds per request: QEMU's own helper and ours, in turn, on equal trees.
//!
//! `cargo bench --bench requests` prints a Markdown table. Each row is one request type, played by one client over a
//! connected pair, one request in flight, as QEMU does. A round plays the same batch to each helper, each time
//! beginning with the next; everything the batch needs is prepared outside the measurement. The times are medians of
//! the rounds, the ratios medians of the rounds' own ratios, so that a noisy moment weighs nothing. CPU is what the
//! helper itself used, on all its threads, by the scheduler's account.
//!
//! Ours runs twice: with `--busy-poll=0` ("sleeps"), and as it comes ("ours").
//!
//! `cargo bench --bench requests -- --calls` counts instead of timing: system calls per request, beside the least there can be (one
//! that receives, one that does it, one that answers; one that closes what was handed over; four that lend an identity
//! and take it back), and how often a request put the helper to sleep.
//!
//! Options (after `--`): `--rounds N`, `--only TEXT` (rows that contain it), `--dir DIR` (where the trees
//! are made), `--pin CPU` (client and helpers on one CPU: whether the scheduler puts both on one or not
//! decides between 6 and 60 microseconds on a small virtual machine, whichever helper it is), `--apart` (client and helpers on
//! two CPUs), `--ours PATH` (another binary of ours), `--base PATH` (a second one of ours to compare to).

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on says where and stops"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "numbers of requests are small, and nanoseconds are rounded"
)]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use libc::{O_CREAT, O_DIRECTORY, O_EXCL, O_RDONLY, O_RDWR};

use measure::median;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use program::{Launch, Running};
use tree::Owned;
use wire::{Client, Form, LEAVE, Request, ask};

#[path = "../tests/support/calls.rs"]
mod calls;
#[path = "../tests/support/measure.rs"]
mod measure;
#[path = "../tests/support/program.rs"]
mod program;
#[path = "../tests/support/tree.rs"]
mod tree;
#[path = "../tests/support/wire.rs"]
mod wire;

/// Compares the speed of helpers, request by request.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds that are measured; one more warms up
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Only rows whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Make the trees below this directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep client and helpers on this CPU
    #[arg(long)]
    pin: Option<usize>,
    /// Keep the client on CPU 0 and the helpers on CPU 1
    #[arg(long, conflicts_with = "pin")]
    apart: bool,
    /// Count system calls and sleeps instead of timing
    #[arg(long)]
    calls: bool,
    /// Our binary
    #[arg(long, default_value_os_t = program::ours())]
    ours: PathBuf,
    /// A second binary of ours to compare to
    #[arg(long)]
    base: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// One row of the table.
struct Row {
    name: &'static str,
    /// Requests in a batch.
    batch: usize,
    /// Prepares the requests with these numbers, in the directory `w`.
    prepare: fn(&Owned<'_>, Range<usize>),
    /// The request number `n`. Numbers are not used twice: a filesystem that is made to reuse inodes at once (ext4
    /// would rather not) would be all that is measured.
    request: fn(usize) -> Request,
}

/// A batch of requests that change nothing.
const MANY: usize = 1500;
/// A batch of requests that each make or remove something.
const FEW: usize = 200;

fn nothing(_: &Owned<'_>, _: Range<usize>) {}

/// A path below `w`.
fn at(name: &str, number: usize) -> Vec<u8> {
    format!("//w/{name}{number}").into_bytes()
}

fn create(number: usize, uid: i32) -> Request {
    ask::create(&at("f", number), O_CREAT | O_EXCL | O_RDWR, 0o644, uid, uid)
}

fn files(tree: &Owned<'_>, numbers: Range<usize>) {
    for number in numbers {
        tree.file(at("f", number), b"", 0o644, 1000, 1000);
    }
}

fn directories(tree: &Owned<'_>, numbers: Range<usize>) {
    for number in numbers {
        tree.dir(at("d", number), 0o755, 1000, 1000);
    }
}

fn files_with_attribute(tree: &Owned<'_>, numbers: Range<usize>) {
    files(tree, numbers.clone());
    for number in numbers {
        tree.xattr(at("f", number), "user.bench", b"a value");
    }
}

const DEEP: &[u8] = b"//deep//1//2//3//4//5//6//7//8//file";

/// Every request type, those that depend on whom or what they act for and on in several rows.
const ROWS: [Row; 36] = [
    Row {
        name: "open, regular file",
        batch: MANY,
        prepare: nothing,
        request: |_| ask::open(b"//file", O_RDONLY),
    },
    Row {
        name: "lstat, open, regular file",
        batch: MANY,
        prepare: nothing,
        // As QEMU does.
        request: |number| {
            if number % 2 == 0 { ask::lstat(b"//file") } else { ask::open(b"//file", O_RDONLY) }
        },
    },
    Row {
        name: "open, directory",
        batch: MANY,
        prepare: nothing,
        request: |_| ask::open(b"//dir", O_DIRECTORY),
    },
    Row { name: "open, deep path", batch: MANY, prepare: nothing, request: |_| ask::open(DEEP, O_RDWR) },
    Row { name: "create, uid 0", batch: FEW, prepare: nothing, request: |n| create(n, 0) },
    Row { name: "create, uid 1000", batch: FEW, prepare: nothing, request: |n| create(n, 1000) },
    Row { name: "create, uid -1", batch: FEW, prepare: nothing, request: |n| create(n, LEAVE) },
    Row { name: "mknod, uid 0", batch: FEW, prepare: nothing, request: |n| mknod(n, 0) },
    Row { name: "mknod, uid 1000", batch: FEW, prepare: nothing, request: |n| mknod(n, 1000) },
    Row { name: "mknod, uid -1", batch: FEW, prepare: nothing, request: |n| mknod(n, LEAVE) },
    Row { name: "mkdir, uid 0", batch: FEW, prepare: nothing, request: |n| mkdir(n, 0) },
    Row { name: "mkdir, uid 1000", batch: FEW, prepare: nothing, request: |n| mkdir(n, 1000) },
    Row { name: "mkdir, uid -1", batch: FEW, prepare: nothing, request: |n| mkdir(n, LEAVE) },
    Row { name: "symlink, uid 0", batch: FEW, prepare: nothing, request: |n| symlink(n, 0) },
    Row { name: "symlink, uid 1000", batch: FEW, prepare: nothing, request: |n| symlink(n, 1000) },
    Row { name: "symlink, uid -1", batch: FEW, prepare: nothing, request: |n| symlink(n, LEAVE) },
    Row { name: "link", batch: FEW, prepare: nothing, request: |n| ask::link(b"//file", &at("l", n)) },
    Row { name: "lstat", batch: MANY, prepare: nothing, request: |_| ask::lstat(b"//file") },
    Row { name: "lstat, deep path", batch: MANY, prepare: nothing, request: |_| ask::lstat(DEEP) },
    Row { name: "lstat, no such file", batch: MANY, prepare: nothing, request: |_| ask::lstat(b"//none") },
    Row { name: "readlink", batch: MANY, prepare: nothing, request: |_| ask::readlink(b"//link", 4096) },
    Row { name: "statfs", batch: MANY, prepare: nothing, request: |_| ask::statfs(b"//") },
    Row {
        name: "chmod",
        batch: MANY,
        prepare: nothing,
        request: |n| ask::chmod(b"//file", 0o600 | (n as u32 & 1)),
    },
    Row {
        name: "chown",
        batch: MANY,
        prepare: nothing,
        request: |n| ask::chown(b"//file", n as i32 & 1, LEAVE),
    },
    Row {
        name: "truncate",
        batch: MANY,
        prepare: nothing,
        request: |n| ask::truncate(b"//file", n as i64 & 1),
    },
    Row {
        name: "utime",
        batch: MANY,
        prepare: nothing,
        request: |n| ask::utime(b"//file", (n as i64, 0), (1, 0)),
    },
    Row { name: "rename", batch: FEW, prepare: files, request: |n| ask::rename(&at("f", n), &at("r", n)) },
    Row { name: "remove, file", batch: FEW, prepare: files, request: |n| ask::remove(&at("f", n)) },
    Row {
        name: "remove, directory",
        batch: FEW,
        prepare: directories,
        request: |n| ask::remove(&at("d", n)),
    },
    Row {
        name: "getxattr",
        batch: MANY,
        prepare: nothing,
        request: |_| ask::getxattr(b"//file", b"user.a", 4096),
    },
    Row {
        name: "getxattr, none",
        batch: MANY,
        prepare: nothing,
        request: |_| ask::getxattr(b"//dir", b"security.capability", 0),
    },
    Row { name: "listxattr", batch: MANY, prepare: nothing, request: |_| ask::listxattr(b"//file", 4096) },
    Row {
        name: "setxattr",
        batch: MANY,
        prepare: nothing,
        request: |n| ask::setxattr(b"//file", b"user.a", &[n as u8 | 1; 16], 0),
    },
    Row {
        name: "removexattr",
        batch: FEW,
        prepare: files_with_attribute,
        request: |n| ask::removexattr(&at("f", n), b"user.bench"),
    },
    Row {
        name: "getversion, regular file",
        batch: MANY,
        prepare: nothing,
        request: |_| ask::version(b"//file"),
    },
    Row { name: "getversion, directory", batch: MANY, prepare: nothing, request: |_| ask::version(b"//dir") },
];

fn mknod(number: usize, uid: i32) -> Request {
    ask::mknod(&at("n", number), libc::S_IFIFO | 0o644, 0, uid, uid)
}

fn mkdir(number: usize, uid: i32) -> Request {
    ask::mkdir(&at("d", number), 0o755, uid, uid)
}

fn symlink(number: usize, uid: i32) -> Request {
    ask::symlink(b"../some/where", &at("s", number), uid, uid)
}

/// A helper that takes part.
struct Player {
    name: &'static str,
    program: PathBuf,
    options: &'static [&'static str],
}

/// A helper on its tree, and what was measured of it in one row.
struct Side {
    root: PathBuf,
    running: Running,
    client: Client,
    /// Seconds per request, one for each round.
    times: Vec<f64>,
    /// Seconds of CPU per request, over all rounds.
    cpu: f64,
}

impl Side {
    fn start(player: &Player, root: PathBuf) -> Self {
        let launch = Launch::new(&player.program, &root);
        let (running, client) =
            player.options.iter().fold(launch, |launch, option| launch.option(*option)).by_fd();
        Self { root, running, client, times: Vec::new(), cpu: 0.0 }
    }

    /// Plays one batch; measures it, unless it is the first, which warms up.
    fn play(&mut self, row: &Row, round: usize) {
        let tree = Owned::below(&self.root);
        let numbers = round * row.batch..(round + 1) * row.batch;
        (row.prepare)(&tree, numbers.clone());
        let requests: Vec<(Vec<u8>, Form)> = numbers
            .map(|number| (row.request)(number))
            .map(|request| (request.encode(), request.form()))
            .collect();
        let expected = self.client.ask_raw(&requests[0].0, requests[0].1).is_success();
        let cpu = cpu_seconds(&self.running);
        let start = Instant::now();
        for (bytes, form) in &requests[1..] {
            let answer = self.client.ask_raw(bytes, *form);
            assert!(answer.is_success() == expected, "{}: {answer:?}\n{}", row.name, self.running.log());
        }
        let elapsed = start.elapsed().as_secs_f64();
        if round > 0 {
            let count = (row.batch - 1) as f64;
            self.times.push(elapsed / count);
            self.cpu += (cpu_seconds(&self.running) - cpu) / count;
        }
    }
}

/// What a process has used of the CPU until now, all its threads together, in seconds.
fn cpu_seconds(running: &Running) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.pid())).expect("the helper's threads");
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

fn make_tree(root: &Path) {
    fs::create_dir(root).expect("a root");
    let tree = Owned::below(root);
    tree.dir("w", 0o777, 0, 0)
        .dir("dir", 0o755, 1000, 1000)
        .file("file", b"a few bytes", 0o644, 1000, 1000)
        .xattr("file", "user.a", b"a value")
        .xattr("file", "user.b", b"another value")
        .link("link", "some/target");
    let mut deep = String::from("deep");
    tree.dir(&deep, 0o755, 0, 0);
    for level in 1..=8 {
        deep = format!("{deep}/{level}");
        tree.dir(&deep, 0o755, 0, 0);
    }
    tree.file(format!("{deep}/file"), b"", 0o644, 0, 0);
}

/// Keeps a process (0: this one) on a CPU.
fn keep_on(pid: u32, cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).expect("a CPU's number");
    sched_setaffinity(Pid::from_raw(pid as i32), &cpus).expect("a CPU to run on");
}

/// Plays one row to fresh helpers, on fresh trees below `dir`.
fn measure(row: &Row, players: &[Player], dir: &Path, options: &Options) -> Vec<Side> {
    let mut sides: Vec<Side> = players
        .iter()
        .map(|player| {
            let root = dir.join(format!("{}: {}", player.name, row.name));
            make_tree(&root);
            Side::start(player, root)
        })
        .collect();
    if options.apart {
        // Only now: a helper that finds itself on one CPU alone never looks before it sleeps.
        keep_on(0, 0);
        for side in &sides {
            keep_on(side.running.pid(), 1);
        }
    }
    let count = sides.len();
    for round in 0..=options.rounds {
        for turn in 0..count {
            sides[(round + turn) % count].play(row, round);
        }
    }
    sides
}

/// How often a process, all its threads together, went to sleep of its own.
fn sleeps(running: &Running) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.pid())).expect("the helper's threads");
    let counts = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        count.trim().parse::<u64>().ok()
    });
    counts.sum()
}

/// Prints how many system calls and sleeps a request takes each helper. One that looks before it sleeps makes as many calls as
/// it finds time for: only its sleeps tell something.
fn count(players: &[Player], dir: &Path, options: &Options) {
    let is_counted = |player: &&Player| player.name != "ours";
    let heads: Vec<String> =
        (players.iter().filter(is_counted).map(|player| format!("{} calls", player.name)))
            .chain(players.iter().map(|player| format!("{} sleeps", player.name)))
            .collect();
    println!("| request | the least | {} |\n|---|---:|{}", heads.join(" | "), "---:|".repeat(heads.len()));
    for row in ROWS.iter().filter(|row| row.name.contains(&options.only)) {
        let form = (row.request)(0).form();
        let lent = if row.name.ends_with("uid 1000") { 4 } else { 0 };
        let least = 3 + u64::from(form == Form::Fd) + lent;
        let per_request = |count: u64| format!("{:.1}", count as f64 / row.batch as f64);
        let (mut cells, mut slept) = (Vec::new(), Vec::new());
        for player in players {
            let root = dir.join(format!("{}: {}", player.name, row.name));
            make_tree(&root);
            let mut side = Side::start(player, root);
            side.play(row, 0);
            let before = sleeps(&side.running);
            side.play(row, 1);
            slept.push(per_request(sleeps(&side.running) - before));
            if is_counted(&player) {
                let pid = side.running.pid();
                cells.push(per_request(calls::during(pid, dir, || side.play(row, 2))));
            }
        }
        cells.append(&mut slept);
        println!("| {} | {least} | {} |", row.name, cells.join(" | "));
    }
}

/// The table's columns and its sums.
struct Table {
    /// The helpers after the reference.
    others: usize,
    ratios: Vec<Vec<f64>>,
}

impl Table {
    fn new(players: &[Player]) -> Self {
        let names: Vec<&str> = players.iter().map(|player| player.name).collect();
        let heads = [" µs", " / C", " CPU µs", " CPU / C"]
            .iter()
            .enumerate()
            .flat_map(|(kind, what)| names[kind % 2..].iter().map(move |name| format!("{name}{what}")));
        let heads: Vec<String> = heads.collect();
        println!("| request | {} |", heads.join(" | "));
        println!("|---|{}", "---:|".repeat(heads.len()));
        Self { others: names.len() - 1, ratios: Vec::new() }
    }

    fn row(&mut self, name: &str, sides: &[Side], rounds: usize) {
        let (reference, others) = sides.split_first().expect("the reference and ours");
        let times = others
            .iter()
            .map(|side| median(side.times.iter().zip(&reference.times).map(|(ours, theirs)| ours / theirs)));
        let cpu = others.iter().map(|side| side.cpu / reference.cpu);
        let ratios: Vec<f64> = times.chain(cpu).collect();
        let microseconds = |seconds: f64| format!("{:.1}", seconds * 1e6);
        let ratio = |ratio: &f64| format!("{ratio:.2}");
        let cells: Vec<String> = (sides.iter().map(|side| microseconds(median(side.times.clone()))))
            .chain(ratios[..self.others].iter().map(ratio))
            .chain(sides.iter().map(|side| microseconds(side.cpu / rounds as f64)))
            .chain(ratios[self.others..].iter().map(ratio))
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
        self.ratios.push(ratios);
    }

    /// The last row: the ratios' geometric means.
    fn end(&self) {
        let mean = |column: usize| {
            let all: Vec<f64> = self.ratios.iter().map(|ratios| ratios[column]).collect();
            format!("**{:.2}**", geometric_mean(&all))
        };
        let empty = || std::iter::repeat_n(String::new(), self.others + 1);
        let cells: Vec<String> = empty()
            .chain((0..self.others).map(mean))
            .chain(empty())
            .chain((self.others..2 * self.others).map(mean))
            .collect();
        println!("| **geometric mean** | {} |", cells.join(" | "));
    }
}

fn main() {
    program::need_root();
    let options = Options::parse();
    let mut players = vec![Player { name: "C", program: program::reference(), options: &[] }];
    players.extend(options.base.clone().map(|program| Player { name: "base", program, options: &[] }));
    players.push(Player { name: "sleeps", program: options.ours.clone(), options: &["--busy-poll=0"] });
    players.push(Player { name: "ours", program: options.ours.clone(), options: &[] });
    if let Some(cpu) = options.pin {
        keep_on(0, cpu);
    }
    let dir = options.dir.as_ref().map_or_else(tempfile::tempdir, tempfile::tempdir_in).expect("a directory");
    if options.calls {
        return count(&players, dir.path(), &options);
    }
    let mut table = Table::new(&players);
    for row in ROWS.iter().filter(|row| row.name.contains(&options.only)) {
        let sides = measure(row, &players, dir.path(), &options);
        table.row(row.name, &sides, options.rounds);
    }
    table.end();
}
