//! What a request costs when there is much of something: QEMU's own helper and ours, in turn.
//!
//! `cargo bench --bench scale` prints Markdown tables of microseconds per request: by the depth of a path, by the size of a
//! directory, and by the number of clients at once, where QEMU's helper takes a process for each and ours is one
//! `--shared` helper. Medians of the rounds.
//!
//! Options (after `--`): `--rounds N`, `--entries N` (in the large directory; 0: no directories), `--dir DIR` (where the trees are made).

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on says where and stops")]
#![allow(clippy::cast_precision_loss, reason = "numbers of requests are small")]

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use clap::Parser;
use libc::{O_CREAT, O_EXCL, O_RDONLY, O_RDWR};

use measure::median;
use program::{Launch, Running};
use wire::{Client, Request, ask};

#[path = "../tests/support/measure.rs"]
mod measure;
#[path = "../tests/support/program.rs"]
mod program;
#[path = "../tests/support/wire.rs"]
mod wire;

/// Measures what a request costs when there is much of something.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds that are measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Entries of the large directory; 0: no directories
    #[arg(long, default_value_t = 1_000_000)]
    entries: usize,
    /// Make the trees below this directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// Requests in a batch.
const BATCH: usize = 1000;
/// Requests of one client of many.
const EACH: usize = 300;

/// Both helpers on trees of their own.
struct Pair {
    sides: Vec<(Running, Client)>,
}

impl Pair {
    fn start(roots: &[PathBuf]) -> Self {
        let sides = [program::reference(), program::ours()];
        let sides = sides.iter().zip(roots).map(|(program, root)| Launch::new(program, root).by_fd());
        Self { sides: sides.collect() }
    }

    /// Prints a row: what a request costs at each.
    fn row(&mut self, label: &str, rounds: usize, request: impl Fn(usize) -> Request) {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            for (side, times) in self.sides.iter_mut().zip(&mut times) {
                let requests: Vec<_> = (0..BATCH)
                    .map(|number| request(round * BATCH + number))
                    .map(|request| (request.encode(), request.form()))
                    .collect();
                let start = Instant::now();
                for (bytes, form) in &requests {
                    let answer = side.1.ask_raw(bytes, *form);
                    assert!(answer.is_success(), "{label}: {answer:?}");
                }
                if round > 0 {
                    times.push(start.elapsed().as_secs_f64() / BATCH as f64);
                }
            }
        }
        print_row(label, &times);
    }
}

fn heads(what: &str) {
    println!("\n| {what} | C µs | ours µs | ours / C |\n|---|---:|---:|---:|");
}

fn print_row(label: &str, [theirs, ours]: &[Vec<f64>; 2]) {
    let ratio = median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs));
    let [theirs, ours] = [theirs, ours].map(|times| median(times.iter().copied()) * 1e6);
    println!("| {label} | {theirs:.1} | {ours:.1} | {ratio:.2} |");
}

/// Two empty roots below `dir`.
fn roots(dir: &Path, name: &str) -> Vec<PathBuf> {
    let roots = ["C", "ours"].map(|side| dir.join(format!("{name} {side}")));
    for root in &roots {
        fs::create_dir(root).expect("a root");
    }
    roots.into()
}

fn depths(dir: &Path, rounds: usize) {
    heads("lstat by depth");
    let roots = roots(dir, "depth");
    for depth in [1, 10, 30, 100] {
        let path = "/d".repeat(depth);
        for root in &roots {
            fs::create_dir_all(root.join(&path[1..])).expect("directories");
        }
        let path = path.replace('/', "//");
        Pair::start(&roots).row(&depth.to_string(), rounds, |_| ask::lstat(path.as_bytes()));
    }
}

fn directories(dir: &Path, options: &Options) {
    heads("in a directory of");
    let roots = roots(dir, "size");
    for entries in [1000, options.entries] {
        for root in &roots {
            let directory = root.join(entries.to_string());
            fs::create_dir(&directory).expect("a directory");
            for number in 0..entries {
                File::create(directory.join(number.to_string())).expect("a file");
            }
        }
        let mut pair = Pair::start(&roots);
        let spread = |number: usize| number * 7919 % entries;
        pair.row(&format!("{entries} entries, lstat"), options.rounds, |number| {
            ask::lstat(format!("//{entries}//{}", spread(number)).as_bytes())
        });
        pair.row(&format!("{entries} entries, open"), options.rounds, |number| {
            ask::open(format!("//{entries}//{}", spread(number)).as_bytes(), O_RDONLY)
        });
        pair.row(&format!("{entries} entries, create"), options.rounds, |number| {
            let path = format!("//{entries}//new{number}");
            ask::create(path.as_bytes(), O_CREAT | O_EXCL | O_RDWR, 0o644, 0, 0)
        });
    }
}

fn clients(dir: &Path, rounds: usize) {
    heads("lstat, clients at once");
    let roots = roots(dir, "clients");
    for count in [1, 8, 64] {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            let theirs: Vec<(Running, Client)> =
                (0..count).map(|_| Launch::new(&program::reference(), &roots[0]).by_fd()).collect();
            let (helpers, connected): (Vec<_>, Vec<_>) = theirs.into_iter().unzip();
            let theirs = all_at_once(connected);
            drop(helpers);
            let socket = dir.join(format!("{count}-{round}.sock"));
            let helper = Launch::new(&program::ours(), &roots[1])
                .option(format!("--shared={count}"))
                .option("--persistent")
                .by_socket(&socket);
            program::wait_until("our helper listens", || socket.exists());
            let connected =
                (0..count).map(|_| Client::new(UnixStream::connect(&socket).expect("our helper"))).collect();
            let ours = all_at_once(connected);
            drop(helper);
            if round > 0 {
                times[0].push(theirs);
                times[1].push(ours);
            }
        }
        print_row(&count.to_string(), &times);
    }
}

/// Seconds per request, with all clients at it at the same time.
fn all_at_once(clients: Vec<Client>) -> f64 {
    let count = clients.len();
    let barrier = Barrier::new(count + 1);
    let request = ask::lstat(b"//");
    let (bytes, form) = (request.encode(), request.form());
    let mut start = Instant::now();
    thread::scope(|scope| {
        for mut client in clients {
            let (barrier, bytes) = (&barrier, &bytes);
            scope.spawn(move || {
                // The helper is there and serves.
                assert!(client.ask_raw(bytes, form).is_success());
                barrier.wait();
                for _ in 0..EACH {
                    assert!(client.ask_raw(bytes, form).is_success());
                }
            });
        }
        barrier.wait();
        start = Instant::now();
    });
    start.elapsed().as_secs_f64() / (EACH * count) as f64
}

fn main() {
    program::need_root();
    let options = Options::parse();
    let dir = options.dir.as_ref().map_or_else(tempfile::tempdir, tempfile::tempdir_in).expect("a directory");
    depths(dir.path(), options.rounds);
    if options.entries > 0 {
        directories(dir.path(), &options);
    }
    clients(dir.path(), options.rounds);
}
