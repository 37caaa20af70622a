//! Clients that leave, linger, flood and come in thousands; and signals.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ours;
use crate::process;
use crate::program::{self, Launch, Running, wait_until};
use crate::tree::Owned;
use crate::wire::{Client, PATIENCE, ask};

/// A served directory with a file in it, and where to connect.
struct Served {
    running: Running,
    socket: std::path::PathBuf,
    // Last: a helper that still runs would make its socket anew while the folder is removed.
    _dir: tempfile::TempDir,
}

impl Served {
    fn new(options: &[&str]) -> Self {
        let dir = program::scratch();
        Owned::below(dir.path()).dir("export", 0o755, 0, 0).file("export/file", b"content", 0o644, 0, 0);
        let socket = dir.path().join("socket");
        let mut launch = program::Launch::new(&program::ours(), &dir.path().join("export"));
        for option in options {
            launch = launch.option(option);
        }
        let running = launch.by_socket(&socket);
        Self { running, socket, _dir: dir }
    }

    fn client(&self) -> Client {
        Client::connect_soon(&self.socket)
    }

    fn workers(&self) -> Vec<u32> {
        process::children(self.running.pid())
    }

    #[track_caller]
    fn wait_for_workers(&self, count: usize) -> Vec<u32> {
        wait_until(&format!("{count} workers"), || self.workers().len() == count);
        self.workers()
    }
}

#[track_caller]
fn works(client: &mut Client) {
    assert_eq!(client.ask(&ask::lstat(b"/file")).ok().stat().map(|stat| stat.size), Some(7));
}

#[test]
fn a_client_that_dies_in_mid_request_harms_nobody() {
    let served = Served::new(&["--persistent", "--shared=8"]);
    let mut steady = served.client();
    works(&mut steady);
    let whole = ask::rename(b"/file", b"/moved").encode();
    for cut in 0..whole.len() {
        let mut client = served.client();
        assert!(client.send(&whole[..cut]));
        drop(client);
        works(&mut steady);
    }
    served.wait_for_workers(1);
    works(&mut steady);
    assert!(!served.running.log().contains("panic"), "{}", served.running.log());
}

#[test]
fn a_lone_helper_ends_well_when_its_client_leaves_in_mid_request() {
    let dir = program::scratch();
    for cut in [1, 7, 8, 12] {
        let (mut running, mut client) = ours(dir.path(), "namespace").by_fd();
        assert!(client.send(&ask::lstat(b"/file").encode()[..cut]));
        drop(client);
        assert_eq!(running.wait().code(), Some(0), "{}", running.log());
        assert!(running.log().contains("middle of a request"), "{}", running.log());
    }
}

#[test]
fn half_a_request_keeps_nobody_else_waiting() {
    let served = Served::new(&["--shared=3"]);
    let (mut half, mut header, mut other) = (served.client(), served.client(), served.client());
    let request = ask::lstat(b"/file").encode();
    assert!(half.send(&request[..10]));
    assert!(header.send(&request[..3]));
    for _ in 0..100 {
        works(&mut other);
    }
    assert!(half.send(&request[10..]));
    half.reply(crate::wire::Form::Response).ok();
    assert!(header.send(&request[3..]));
    header.reply(crate::wire::Form::Response).ok();
}

/// A client that sends and never reads, until the helper takes no more.
fn flood(client: &mut Client) {
    client.stream().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let requests = ask::lstat(b"/file").encode().repeat(1000);
    loop {
        use std::io::Write;
        if client.stream().write_all(&requests).is_err() {
            return;
        }
    }
}

#[test]
fn a_flood_is_held_back_in_bounded_memory() {
    let served = Served::new(&["--persistent", "--shared=2"]);
    let mut flooding = served.client();
    flood(&mut flooding);
    let mut other = served.client();
    for _ in 0..100 {
        works(&mut other);
    }
    for worker in served.wait_for_workers(2) {
        let peak = process::status(worker, "VmHWM");
        let kib: u64 = peak.trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 65_536, "worker {worker} has used {kib} KiB");
    }
    // The replies are all there when it begins to read.
    for _ in 0..500 {
        flooding.reply(crate::wire::Form::Response).ok();
    }
}

#[test]
fn a_client_that_does_not_read_does_not_keep_the_helper_from_ending() {
    for options in [&[][..], &["--persistent"]] {
        let mut served = Served::new(options);
        let mut client = served.client();
        works(&mut client);
        flood(&mut client);
        served.running.signal(Signal::SIGTERM);
        assert_eq!(served.running.wait().code(), Some(0), "{options:?}");
    }
}

#[test]
fn more_clients_than_may_be_served_wait_for_their_turn() {
    let served = Served::new(&["--persistent", "--shared=2"]);
    let mut first = served.client();
    let mut second = served.client();
    works(&mut first);
    works(&mut second);
    let mut third = served.client();
    third.patience(Duration::from_millis(200));
    assert!(matches!(third.ask(&ask::lstat(b"/file")), crate::wire::Answer::Silent));
    assert_eq!(served.workers().len(), 2);
    drop(first);
    third.patience(PATIENCE);
    third.reply(crate::wire::Form::Response).ok();
    works(&mut second);
}

#[test]
fn thousands_of_clients_leave_nothing_behind() {
    let served = Served::new(&["--persistent"]);
    works(&mut served.client());
    served.wait_for_workers(0);
    // The sockets for the next worker are others than those for the first.
    let descriptors = || {
        let mut open = process::descriptors(served.running.pid());
        open.values_mut().filter(|name| name.starts_with("socket:")).for_each(|name| *name = "socket".into());
        open
    };
    let before = descriptors();
    let memory =
        || -> u64 { process::status(served.running.pid(), "VmRSS").trim_end_matches(" kB").parse().unwrap() };
    let start = Instant::now();
    let mut count = 0;
    // Ten thousand, or as many as a slow machine does in half a minute.
    let mut settled = 0;
    while count < 10_000 && (count < 500 || start.elapsed() < Duration::from_secs(30)) {
        let mut client = served.client();
        match count % 4 {
            0 => works(&mut client),
            1 => assert!(client.send(&[8, 0, 0])),
            2 => {
                client.ask(&ask::open(b"/file", libc::O_RDONLY)).ok();
            }
            _ => {}
        }
        count += 1;
        if count == 400 {
            settled = memory();
        }
    }
    println!("{count} clients in {:.1} s", start.elapsed().as_secs_f64());
    served.wait_for_workers(0);
    assert_eq!(descriptors(), before, "after {count} clients");
    assert!(memory() < settled + 2048, "{} KiB after 400 clients, {} after {count}", settled, memory());
    works(&mut served.client());
}

#[test]
fn a_worker_that_is_killed_takes_nobody_with_it() {
    let served = Served::new(&["--persistent", "--shared=3"]);
    let mut first = served.client();
    works(&mut first);
    let victim = served.wait_for_workers(1)[0];
    let mut second = served.client();
    works(&mut second);
    kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL).unwrap();
    first.wait_closed().closed();
    works(&mut second);
    served.wait_for_workers(1);
    works(&mut served.client());
    let log = served.running.log();
    assert!(log.contains(&format!("worker {victim} was killed")), "{log}");
}

#[test]
fn term_and_int_end_everything() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for options in [&[][..], &["--persistent", "--shared=3"]] {
            // Before a client comes, and while clients are served.
            for clients in [0, 1, options.len()] {
                let mut served = Served::new(options);
                let mut open: Vec<Client> = (0..clients).map(|_| served.client()).collect();
                open.iter_mut().for_each(works);
                if clients == 0 {
                    wait_until("the socket", || served.socket.exists());
                    // There, but perhaps not yet listening.
                    let term = 1 << (Signal::SIGTERM as u64 - 1);
                    wait_until("a helper that heeds signals", || {
                        ["SigCgt", "SigBlk"]
                            .iter()
                            .any(|set| process::capabilities(served.running.pid(), set) & term != 0)
                    });
                }
                let workers = served.workers();
                served.running.signal(signal);
                let status = served.running.wait();
                assert_eq!(
                    status.code(),
                    Some(0),
                    "{signal} {options:?}, {clients} clients: {status}: {}",
                    served.running.log()
                );
                for client in &mut open {
                    client.wait_closed().closed();
                }
                assert!(
                    !served.socket.exists(),
                    "{signal} {options:?}, {clients} clients: the socket is still there"
                );
                for worker in workers {
                    wait_until("the workers' end", || !process::of(worker, "stat").exists());
                }
            }
        }
    }
}

#[test]
fn descriptors_that_nobody_takes_are_bounded_and_cost_nobody_the_connection() {
    let served = Served::new(&["--persistent", "--shared=2", "--rlimit-nofile=50"]);
    let (mut hoarder, mut other) = (served.client(), served.client());
    for _ in 0..200 {
        assert!(hoarder.send(&ask::open(b"/file", libc::O_RDONLY).encode()));
    }
    works(&mut other);
    // Each reply is four bytes: none is taken before all have come.
    wait_until("the replies", || hoarder.waiting() == 4 * 200);
    let mut refused = 0;
    for _ in 0..200 {
        match hoarder.reply(crate::wire::Form::Fd) {
            crate::wire::Answer::Fd(_) => {}
            answer => {
                answer.fails(nix::errno::Errno::EMFILE);
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    hoarder.ask(&ask::open(b"/file", libc::O_RDONLY)).ok();
}

#[test]
fn a_client_that_asks_ahead_gets_every_descriptor() {
    let served = Served::new(&["--persistent", "--shared=2", "--rlimit-nofile=50"]);
    let mut client = served.client();
    let requests = [ask::open(b"/file", libc::O_RDONLY), ask::lstat(b"/file"), ask::lstat(b"/none")];
    let mut asked = requests.iter().cycle();
    let mut answered = requests.iter().cycle();
    // Two replies are there before one is taken: the socket is never empty, and never full of descriptors.
    assert!(client.send(&asked.next().unwrap().encode()));
    for turn in 0..300 {
        assert!(client.send(&asked.next().unwrap().encode()));
        wait_until("two replies", || client.waiting() > 4);
        let request = answered.next().unwrap();
        match client.reply(request.form()) {
            crate::wire::Answer::Fd(_) => assert_eq!(turn % 3, 0),
            answer if turn % 3 == 1 => drop(answer.ok()),
            answer => {
                assert_eq!(turn % 3, 2, "an open in turn {turn}: {answer:?}");
                answer.fails(nix::errno::Errno::ENOENT);
            }
        }
    }
}

#[test]
fn a_supervisor_that_is_shot_takes_its_workers_with_it() {
    for sandbox in crate::SANDBOXES {
        let mut served = Served::new(&["--persistent", "--shared=3", &format!("--sandbox={sandbox}")]);
        let mut clients: Vec<Client> = (0..3).map(|_| served.client()).collect();
        clients.iter_mut().for_each(works);
        // One whose identity was lent, and one that waits for its client to read.
        clients[0].ask(&ask::mkdir(b"/d", 0o755, 1000, 1000)).ok();
        flood(&mut clients[1]);
        let workers = served.wait_for_workers(3);
        served.running.signal(Signal::SIGKILL);
        served.running.wait();
        clients[0].wait_closed().closed();
        clients[2].wait_closed().closed();
        for worker in workers {
            wait_until("the workers' end", || !process::of(worker, "exe").exists());
        }
    }
}

#[test]
fn hup_leaves_everything_be() {
    for options in [&[][..], &["--persistent"]] {
        let mut served = Served::new(options);
        let mut client = served.client();
        works(&mut client);
        served.running.signal(Signal::SIGHUP);
        for worker in served.workers() {
            kill(Pid::from_raw(worker.cast_signed()), Signal::SIGHUP).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
        works(&mut client);
        assert!(served.running.is_alive());
    }
}

#[test]
fn a_signal_between_requests_tears_none_apart() {
    // Asked to end at any moment, the helper has either done a request and answered it, or not done it.
    for at in 0..40_u64 {
        let dir = program::scratch();
        let (mut running, mut client) = ours(dir.path(), "namespace").by_fd();
        client.ask(&ask::lstat(b"/")).ok();
        let pid = running.nix_pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(at * 37));
            kill(pid, Signal::SIGTERM).unwrap();
        });
        let mut done = 0;
        for number in 0..100_000 {
            let name = format!("/{number}").into_bytes();
            if !client.ask(&ask::mkdir(&name, 0o755, 1000, 1000)).is_success() {
                break;
            }
            done += 1;
        }
        killer.join().unwrap();
        assert_eq!(running.wait().code(), Some(0));
        let made = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(made, done, "a directory was made and nobody told, or the other way round");
    }
}

#[test]
fn a_file_larger_than_the_limit_is_an_error_and_no_end() {
    for options in [&[][..], &["--persistent"]] {
        let dir = program::scratch();
        Owned::below(dir.path()).dir("export", 0o755, 0, 0).file("export/file", b"content", 0o644, 0, 0);
        let socket = dir.path().join("socket");
        let mut launch = ours(&dir.path().join("export"), "namespace");
        launch = options.iter().fold(launch, program::Launch::option);
        let _running = launch.under(["prlimit", "--fsize=4096", "--"]).by_socket(&socket);
        let mut client = Client::connect_soon(&socket);
        client.ask(&ask::truncate(b"/file", 1 << 20)).fails(nix::errno::Errno::EFBIG);
        works(&mut client);
    }
}

/// Landlock forbids this to every process that inherits a rule set without a rule for it.
#[test]
fn files_move_between_directories_however_clients_come() {
    for sandbox in ["namespace", "chroot", "none"] {
        for supervised in [false, true] {
            let dir = program::scratch();
            let export = dir.path().join("export");
            std::fs::create_dir_all(export.join("from")).unwrap();
            std::fs::create_dir(export.join("to")).unwrap();
            std::fs::write(export.join("from/file"), "").unwrap();
            let mut launch = Launch::new(&program::ours(), &export).option(format!("--sandbox={sandbox}"));
            if supervised {
                launch = launch.option("--persistent");
            }
            let socket = dir.path().join("socket");
            let _helper = launch.by_socket(&socket);
            let mut client = Client::connect_soon(&socket);
            client.ask(&ask::rename(b"/from/file", b"/to/file")).ok();
            client.ask(&ask::link(b"/to/file", b"/from/again")).ok();
        }
    }
}
