//! Many clients for long, some of which die, beside workers that are shot: nothing grows.
//!
//! Some hundred thousand requests, or as many as the variable `VIRTFS_TEST_REQUESTS` says: for ten million,
//! `VIRTFS_TEST_REQUESTS=10000000 cargo test --test hardening soak -- --nocapture`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::apart::Stopper;
use crate::dice::Dice;
use crate::process;
use crate::program::{self, Launch, Running, wait_until};
use crate::wire::{Answer, Client, Request, ask};

/// Clients at once.
const CLIENTS: usize = 64;
/// Threads that play them.
const THREADS: usize = 4;
/// Requests that a client sends before it reads the replies.
const BATCH: usize = 16;
/// Requests in all, where the variable does not say.
const REQUESTS: u64 = 200_000;
/// How often a worker is shot.
const SHOTS: Duration = Duration::from_millis(100);

/// What may not grow.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// The supervisor's resident memory in KiB.
    supervisor: u64,
    /// Its open descriptors.
    descriptors: usize,
    /// The largest resident memory of any worker, in KiB.
    worker: u64,
    /// The most descriptors of any worker.
    worker_descriptors: usize,
    /// Workers.
    workers: usize,
}

fn kib(pid: u32, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(process::of(pid, "status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// How many descriptors a process has open; `None` where it is gone.
fn descriptors(pid: u32) -> Option<usize> {
    Some(std::fs::read_dir(process::of(pid, "fd")).ok()?.count())
}

impl Figures {
    fn of(running: &Running) -> Self {
        let workers = process::children(running.pid());
        Self {
            supervisor: kib(running.pid(), "VmRSS").expect("the supervisor's memory"),
            descriptors: descriptors(running.pid()).expect("the supervisor's descriptors"),
            // One that is just being made has its supervisor's memory still, and its descriptors.
            worker: workers.iter().filter_map(|pid| kib(*pid, "RssAnon")).max().unwrap_or(0),
            worker_descriptors: workers.iter().filter_map(|pid| descriptors(*pid)).max().unwrap_or(0),
            workers: workers.len(),
        }
    }
}

/// One connection after the other, and the requests that are on their way.
struct Player<'s> {
    socket: &'s Path,
    client: Client,
    dice: Dice,
    asked: Vec<Request>,
}

impl<'s> Player<'s> {
    fn new(socket: &'s Path, seed: u64) -> Self {
        let client = Client::connect_soon(socket);
        Self {
            socket,
            client,
            dice: Dice::naming(seed, &[b"a", b"b", b"c", b"d", b"e", b"f"]),
            asked: Vec::new(),
        }
    }

    /// Sends a batch; now and then half a request and no more.
    fn send(&mut self) {
        self.asked = (0..BATCH).map(|_| self.dice.request()).collect();
        let mut bytes: Vec<u8> = self.asked.iter().flat_map(Request::encode).collect();
        if self.dice.roll(500) == 0 {
            bytes.truncate(self.dice.roll(bytes.len()));
            self.client.send(&bytes);
            self.again();
        } else {
            self.client.send(&bytes);
        }
    }

    /// Reads the replies; how many came.
    fn receive(&mut self) -> u64 {
        let mut count = 0;
        for request in std::mem::take(&mut self.asked) {
            match self.client.reply(request.form()) {
                Answer::Closed => {
                    self.again();
                    return count;
                }
                answer @ (Answer::Silent | Answer::Strange(_)) => panic!("{request:?}: {answer:?}"),
                _ => count += 1,
            }
        }
        count
    }

    /// Leaves, and comes as another client.
    fn again(&mut self) {
        self.asked.clear();
        self.client = Client::connect_soon(self.socket);
    }
}

fn play(socket: &Path, thread: usize, served: &AtomicU64, wanted: u64, stop: &AtomicBool) {
    let _stopper = Stopper(stop);
    let first = thread * CLIENTS / THREADS;
    let mut players: Vec<_> =
        (first..first + CLIENTS / THREADS).map(|seed| Player::new(socket, seed as u64 + 1)).collect();
    while served.load(Ordering::Relaxed) < wanted && !stop.load(Ordering::Relaxed) {
        players.iter_mut().for_each(Player::send);
        let count = players.iter_mut().map(Player::receive).sum();
        served.fetch_add(count, Ordering::Relaxed);
    }
}

/// Shoots workers until it is told to stop. How many; and the figures when a fifth of the requests was served.
fn shoot(running: &Running, served: &AtomicU64, wanted: u64, stop: &AtomicBool) -> (u64, Option<Figures>) {
    let mut dice = Dice::naming(1, &[]);
    let (mut shots, mut early) = (0, None);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(SHOTS);
        if early.is_none() && served.load(Ordering::Relaxed) > wanted / 5 {
            early = Some(Figures::of(running));
        }
        let workers = process::children(running.pid());
        if let Some(victim) = workers.get(dice.roll(workers.len().max(1))) {
            shots += u64::from(kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL).is_ok());
        }
    }
    (shots, early)
}

#[test]
fn nothing_grows_however_long_it_serves() {
    let wanted = std::env::var("VIRTFS_TEST_REQUESTS")
        .map_or(REQUESTS, |text| text.parse().expect("VIRTFS_TEST_REQUESTS is a number"));
    let dir = program::scratch();
    let export: PathBuf = dir.path().join("export");
    std::fs::create_dir(&export).unwrap();
    let socket = dir.path().join("socket");
    let running = Launch::new(&program::ours(), &export)
        .option("--persistent")
        .option(format!("--shared={CLIENTS}"))
        .by_socket(&socket);
    Client::connect_soon(&socket).ask(&ask::lstat(b"/")).ok();
    wait_until("the worker's end", || process::children(running.pid()).is_empty());
    let idle = Figures::of(&running);
    let (served, stop, start) = (AtomicU64::new(0), AtomicBool::new(false), Instant::now());
    let ((shots, early), late) = std::thread::scope(|scope| {
        let shooter = scope.spawn(|| shoot(&running, &served, wanted, &stop));
        let players: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (socket, served, stop) = (&socket, &served, &stop);
                scope.spawn(move || play(socket, thread, served, wanted, stop))
            })
            .collect();
        // Before the last client leaves, all workers are there.
        while served.load(Ordering::Relaxed) < wanted * 19 / 20 && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let late = Figures::of(&running);
        for player in players {
            player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        stop.store(true, Ordering::Relaxed);
        (shooter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), late)
    });
    let seconds = start.elapsed().as_secs_f64();
    wait_until("the workers' end", || process::children(running.pid()).is_empty());
    let after = Figures::of(&running);
    let early = early.expect("figures of the first part");
    let log = running.log();
    let clients = log.matches("client connected").count();
    println!(
        "{} requests by {clients} clients, {CLIENTS} at once, in {seconds:.0} s; {shots} workers shot\nidle: {idle:?}\nearly: {early:?}\n\
         late: {late:?}\nafter: {after:?}",
        served.load(Ordering::Relaxed),
    );
    assert!(!log.contains("panic") && !log.contains("SIGSYS") && !log.contains("SIGABRT"), "{log}");
    assert_eq!(after.workers, 0);
    assert_eq!(after.descriptors, idle.descriptors, "the supervisor's descriptors");
    assert!(after.supervisor <= idle.supervisor + 512, "the supervisor's memory: {idle:?} {after:?}");
    assert!(late.workers <= CLIENTS, "{late:?}");
    assert!(late.worker <= early.worker + 256, "a worker's memory: {early:?} {late:?}");
    assert!(late.worker_descriptors <= early.worker_descriptors + 10, "{early:?} {late:?}");
}
