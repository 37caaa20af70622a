//! The reference's defects, by their numbers: each shown on the reference where that is cheap, and right on ours.
//!
//! Those of the command line (6, 7, 8, 9, 13, 14, 15) have their tests in `daemon_cli`.

use std::fs;
use std::path::Path;

use libc::{O_CREAT, O_RDONLY, O_RDWR};
use nix::errno::Errno::{E2BIG, EINVAL, ENAMETOOLONG, ENXIO, EPERM};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::program::{self, Launch, Running};
use crate::stage::device;
use crate::tree::{self, Owned};
use crate::wire::{Answer, Client, Fields, Form, LEAVE, Request, ask};

fn reference(root: &Path) -> (Running, Client) {
    Launch::new(&program::reference(), root).by_fd()
}

fn ours(root: &Path) -> (Running, Client) {
    Launch::new(&program::ours(), root).by_fd()
}

/// Every way in which a create can carry ids, one after the other in the same process.
const SEQUENCE: [(i32, i32); 10] = [
    (LEAVE, 1000),
    (1000, 1000),
    (LEAVE, LEAVE),
    (LEAVE, 0),
    (0, 1000),
    (1000, LEAVE),
    (0, 0),
    (2000, 3000),
    (0, LEAVE),
    (-2, -2),
];

/// What needs the capabilities that creating as somebody else sets aside: all of it must work between any two creates.
fn privileged(client: &mut Client, name: &[u8]) {
    client.ask(&ask::chown(name, 1234, 567)).ok();
    client.ask(&ask::chmod(name, 0o6755)).ok();
    client.ask(&ask::utime(name, (1, 0), (2, 0))).ok();
    client.ask(&ask::setxattr(name, b"user.a", b"1", 0)).ok();
    let device_name = [name, b"-device"].concat();
    client.ask(&ask::mknod(&device_name, libc::S_IFCHR | 0o600, device(1, 3), 0, 0)).ok();
    client.ask(&ask::chown(&device_name, 7, 7)).ok();
}

#[test]
fn defect_01_an_id_of_minus_one_costs_no_capability_later() {
    let dir = program::scratch();
    Owned::below(dir.path()).file("theirs", b"", 0o600, 4, 4);
    {
        let (_running, mut client) = reference(dir.path());
        client.ask(&ask::mkdir(b"/c", 0o755, LEAVE, 1000)).ok();
        client.ask(&ask::chown(b"/theirs", 1, 1)).fails(EPERM);
        client.ask(&ask::mkdir(b"/c2", 0o755, 1000, 1000)).closed();
    }
    let (_running, mut client) = ours(dir.path());
    for (at, (uid, gid)) in SEQUENCE.into_iter().enumerate() {
        let name = |kind: &str| format!("/{kind}{at}").into_bytes();
        client.ask(&ask::mkdir(&name("dir"), 0o755, uid, gid)).ok();
        privileged(&mut client, &name("dir"));
        client.ask(&ask::create(&name("file"), O_CREAT | O_RDWR, 0o600, uid, gid)).ok();
        privileged(&mut client, &name("file"));
        client.ask(&ask::symlink(b"x", &name("link"), uid, gid)).ok();
        client.ask(&ask::mknod(&name("fifo"), libc::S_IFIFO | 0o600, 0, uid, gid)).ok();
        client.ask(&ask::chown(&name("fifo"), 1, 1)).ok();
        // A create that fails costs nothing either.
        assert!(!client.ask(&ask::mkdir(&name("dir"), 0o755, uid, gid)).is_success());
        assert!(!client.ask(&ask::create(b"/none/x", O_CREAT, 0o755, uid, gid)).is_success());
        client.ask(&ask::chown(&name("dir"), 99, 99)).ok();
    }
}

/// What LTP's execve03 makes a guest send, after another test has made a file as root with a user's group: files as nobody. The path
/// that it executes is too long for the guest's own kernel; sent all the same, it ends neither helper.
#[test]
fn defect_01_the_files_of_execve03_end_the_reference() {
    let long = [b"/".as_slice(), &[b'a'; 4097]].concat();
    let play = |client: &mut Client, first_group: i32| {
        client.ask(&ask::create(b"/first", O_CREAT | O_RDWR, 0o644, 0, first_group)).ok();
        client.ask(&ask::mkdir(b"/ltp", 0o777, 0, 0)).ok();
        client.ask(&ask::open(&long, O_RDONLY)).fails(ENAMETOOLONG);
        client.ask(&ask::create(&long, O_CREAT | O_RDWR, 0o444, 65534, 0)).fails(ENAMETOOLONG);
        client.ask(&ask::rename(&long, &long)).fails(ENAMETOOLONG);
        client.ask(&ask::link(&long, &long)).fails(ENAMETOOLONG);
        client.ask(&ask::create(b"/ltp/fake", O_CREAT | O_RDWR, 0o444, 65534, 0)).ok();
    };
    // Without the first file the reference goes on.
    let dir = program::scratch();
    let (_running, mut client) = reference(dir.path());
    play(&mut client, 0);
    let dir = program::scratch();
    let (mut running, mut client) = reference(dir.path());
    client.ask(&ask::create(b"/first", O_CREAT | O_RDWR, 0o644, 0, 1000)).ok();
    client.ask(&ask::open(&long, O_RDONLY)).fails(ENAMETOOLONG);
    client.ask(&ask::create(b"/fake", O_CREAT | O_RDWR, 0o444, 65534, 0)).closed();
    let status = running.wait();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    // The shell that started it may pass its status on.
    assert!(signal == Some(libc::SIGABRT) || status.code() == Some(134), "{status:?}");
    let dir = program::scratch();
    let (_running, mut client) = ours(dir.path());
    play(&mut client, 1000);
    client.ask(&ask::chown(b"/ltp/fake", 1, 1)).ok();
}

/// The same for a create as root under another group: the reference does it without its capabilities.
#[test]
fn defect_01_a_create_as_root_has_roots_rights() {
    let dir = program::scratch();
    Owned::below(dir.path()).dir("setgid", 0o2775, 0, 2000);
    let node = |name: &[u8], uid, gid| ask::mknod(name, libc::S_IFCHR | 0o600, device(1, 3), uid, gid);
    for (uid, gid) in [(0, 1000), (LEAVE, LEAVE), (LEAVE, 1000), (LEAVE, 0)] {
        let name = format!("/null{uid}.{gid}").into_bytes();
        let (_running, mut client) = reference(dir.path());
        client.ask(&node(&name, uid, gid)).fails(EPERM);
        let (_running, mut client) = ours(dir.path());
        client.ask(&node(&name, uid, gid)).ok();
        let program = [b"/setgid".as_slice(), &name].concat();
        client.ask(&ask::create(&program, O_CREAT | O_RDWR, 0o2755, uid, gid)).ok();
        assert_eq!(client.ask(&ask::lstat(&program)).stat().unwrap().mode & 0o7777, 0o2755, "{uid}:{gid}");
    }
}

#[test]
fn defect_02_a_version_is_the_same_on_every_call() {
    let dir = program::scratch();
    Owned::below(dir.path()).file("file", b"", 0o644, 0, 0);
    let generation = fs::File::open(dir.path().join("file")).ok().and_then(tree::generation);
    let generation = u64::from(generation.expect("a filesystem with generations, such as ext4"));
    let answers = |client: &mut Client| -> Vec<u64> {
        let between = [ask::statfs(b"/"), ask::lstat(b"/file"), ask::getxattr(b"/file", b"user.a", 500)];
        (0..30)
            .map(|at| {
                client.ask(&between[at % between.len()]);
                client.ask(&ask::version(b"/file")).word().expect("a version")
            })
            .collect()
    };
    // What the reference leaves of its stack in the other four bytes may be zero by chance: the test does not depend on that.
    let shows = (0..20).any(|_| {
        let (_running, mut client) = reference(dir.path());
        answers(&mut client).iter().any(|&version| version != generation)
    });
    if !shows {
        println!(
            "the reference has not shown its defect in 20 runs: the other four bytes were zero by chance"
        );
    }
    let (_running, mut client) = ours(dir.path());
    assert!(answers(&mut client).iter().all(|&version| version == generation));
}

#[test]
fn defect_03_one_thread_serves() {
    let dir = program::scratch();
    let threads = |running: &Running| fs::read_dir(format!("/proc/{}/task", running.pid())).unwrap().count();
    let (running, mut client) = reference(dir.path());
    client.ask(&ask::lstat(b"/")).ok();
    assert!(threads(&running) > 1, "the reference is cured");
    let (running, mut client) = ours(dir.path());
    client.ask(&ask::mkdir(b"/d", 0o755, 1000, 1000)).ok();
    assert_eq!(threads(&running), 1);
}

/// The system calls of one process while it serves one request, by strace.
fn calls(program: &Path, root: &Path, options: &[&str], request: &Request) -> Vec<String> {
    const TIMES: usize = 50;
    let trace = tempfile::NamedTempFile::new().unwrap();
    let mut launch = Launch::new(program, root)
        .under(["strace", "-f", "-qq", "-e", "signal=none", "-o"])
        .under([trace.path()]);
    for option in options {
        launch = launch.option(option);
    }
    let (mut running, mut client) = launch.by_fd();
    client.ask(&ask::lstat(b"/the-start")).fails(nix::errno::Errno::ENOENT);
    for _ in 0..TIMES {
        assert!(!matches!(client.ask(request), Answer::Closed | Answer::Silent));
    }
    client.ask(&ask::lstat(b"/the-end")).fails(nix::errno::Errno::ENOENT);
    drop(client);
    running.wait();
    let text = fs::read_to_string(trace.path()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = |mark: &str| lines.iter().rposition(|line| line.contains(mark)).expect("a mark in the trace");
    // From behind the first mark's reply to before the second mark's request: whole rounds, the marks' own calls cut.
    let rounds = &lines[at("the-start") + 2..at("the-end")];
    let name = |line: &&str| Some(line.split_whitespace().nth(1)?.split('(').next()?.to_owned());
    let all: Vec<String> = rounds.iter().filter_map(name).filter(|name| !name.starts_with('<')).collect();
    let each = all.len() / TIMES;
    all[..each].to_vec()
}

#[test]
fn defect_04_a_request_costs_three_system_calls() {
    let dir = program::scratch();
    Owned::below(dir.path()).file("file", b"", 0o644, 0, 0);
    let lstat = if cfg!(all(target_env = "musl", target_arch = "x86_64")) { "lstat" } else { "newfstatat" };
    for (request, call) in [
        (ask::lstat(b"/file"), lstat),
        (ask::chown(b"/file", 1, 1), "fchownat"),
        (ask::getxattr(b"/file", b"user.a", 100), "lgetxattr"),
    ] {
        let theirs = calls(&program::reference(), dir.path(), &[], &request);
        assert!(theirs.len() > 3, "the reference is cured: {theirs:?}");
        // How often it looks for the next request before it sleeps is the machine's mood.
        let mut ours = calls(&program::ours(), dir.path(), &["--busy-poll=0"], &request);
        ours.sort();
        let mut expected = ["recvfrom", call, "sendto"];
        expected.sort_unstable();
        assert_eq!(ours, expected);
    }
}

#[test]
fn defect_04_a_client_that_leaves_before_its_reply_ends_nothing_by_signal() {
    let dir = program::scratch();
    for _ in 0..20 {
        let (mut running, mut client) = ours(dir.path());
        assert!(client.send(&ask::lstat(b"/").encode().repeat(200)));
        drop(client);
        let status = running.wait();
        assert_eq!(status.code(), Some(0), "{status}: {}", running.log());
    }
}

#[test]
fn defect_05_a_fifo_blocks_nobody() {
    let dir = program::scratch();
    Owned::below(dir.path()).fifo("fifo");
    {
        // A writer that does not wait finds a reader only while the reference waits in its open.
        let (_running, mut client) = reference(dir.path());
        assert!(client.send(&ask::open(b"/fifo", O_RDONLY).encode()));
        let writer = || {
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK;
            nix::fcntl::open(&dir.path().join("fifo"), flags, Mode::empty()).ok()
        };
        let mut found = None;
        program::wait_until("the reference to wait at the FIFO", || {
            found = writer();
            found.is_some() || client.waiting() > 0
        });
        assert!(found.is_some(), "the reference is cured");
        // Debian's refuses it once it is open.
        client.reply(Form::Fd).fails(ENXIO);
    }
    let (_running, mut client) = ours(dir.path());
    for flags in [O_RDONLY, libc::O_WRONLY, O_RDWR, O_RDONLY | libc::O_NONBLOCK] {
        client.ask(&ask::open(b"/fifo", flags)).fails(ENXIO);
        client.ask(&ask::create(b"/fifo", O_CREAT | flags, 0o644, 1000, 1000)).fails(ENXIO);
    }
    client.ask(&ask::version(b"/fifo")).fails(ENXIO);
    client.ask(&ask::truncate(b"/fifo", 0)).fails(EINVAL);
    client.ask(&ask::chmod(b"/fifo", 0o600)).ok();
    client.ask(&ask::statfs(b"/fifo")).ok();
}

#[test]
fn defect_10_a_target_or_value_is_whole_or_an_error() {
    let dir = program::scratch();
    Owned::below(dir.path()).link("six", b"target");
    {
        // Cut where nobody can see it.
        let (_running, mut client) = reference(dir.path());
        assert_eq!(client.ask(&ask::readlink(b"/six", 6)).string(), Some(b"targe".as_slice()));
    }
    let (_running, mut client) = ours(dir.path());
    assert_eq!(client.ask(&ask::readlink(b"/six", 7)).string(), Some(b"target".as_slice()));
    for size in 2..7 {
        client.ask(&ask::readlink(b"/six", size)).fails(ENAMETOOLONG);
    }
}

#[test]
fn defect_11_the_groups_of_whoever_started_it_do_not_count() {
    let dir = program::scratch();
    Owned::below(dir.path()).dir("setgid", 0o2777, 0, 2000);
    // A setgid program stays one where its maker is a member of the directory's group.
    let mode = |program: &Path, name: &[u8]| {
        let launch = Launch::new(program, dir.path()).under(["setpriv", "--groups", "2000", "--"]);
        let (_running, mut client) = launch.by_fd();
        client.ask(&ask::create(name, O_CREAT | O_RDWR, 0o2755, 1000, 1000)).ok();
        client.ask(&ask::lstat(name)).stat().unwrap().mode & 0o7777
    };
    assert_eq!(mode(&program::reference(), b"/setgid/c"), 0o2755, "the reference is cured");
    assert_eq!(mode(&program::ours(), b"/setgid/ours"), 0o755);
}

#[test]
fn defect_12_memory_does_not_grow_with_a_size_the_client_names() {
    let dir = program::scratch();
    Owned::below(dir.path()).file("file", b"", 0o644, 0, 0).xattr("file", "user.a", b"1").link("link", b"to");
    let naming = |size| {
        [
            ask::readlink(b"/link", size),
            ask::getxattr(b"/file", b"user.a", size),
            ask::listxattr(b"/file", size),
        ]
    };
    for request in naming(-1) {
        let (_running, mut client) = reference(dir.path());
        client.ask(&request).closed();
    }
    let (running, mut client) = ours(dir.path());
    for size in [65_535, 65_536, 1 << 20, i32::MAX, i32::MIN, -2, -1] {
        for request in naming(size) {
            client.ask(&request).ok();
        }
    }
    // A value's size beside a shorter value.
    let long = Fields::new().s(b"/file").s(b"user.b").s(b"value").d(i32::MAX).d(0).frame(19);
    client.ask_raw(&long, Form::Status).fails(E2BIG);
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak of its memory");
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 65_536, "{kib} KiB");
}

/// The size of an attribute's value is a field of its own: the reference takes what it says, behind the value's end.
#[test]
fn defect_16_a_value_is_as_long_as_it_was_sent() {
    let dir = program::scratch();
    Owned::below(dir.path()).file("file", b"", 0o644, 0, 0);
    let longer = Request::Setxattr {
        path: b"/file".to_vec(),
        name: b"user.a".to_vec(),
        value: b"abc".to_vec(),
        size: 100,
        flags: 0,
    };
    {
        let (_running, mut client) = reference(dir.path());
        client.ask(&longer).ok();
        assert_eq!(client.ask(&ask::getxattr(b"/file", b"user.a", 0)).int(), Some(100));
    }
    let (_running, mut client) = ours(dir.path());
    client.ask(&longer).fails(EINVAL);
}

/// With a default mount, root of the guest creates in a set-group-id directory as user 0 and the directory's group. The
/// reference gives up its capabilities for that and does not get them back: the next change of identity ends it.
#[test]
fn defect_17_a_set_group_id_directory_costs_nothing_later() {
    let dir = program::scratch();
    Owned::below(dir.path()).dir("setgid", 0o2775, 0, 1000);
    let file = ask::create(b"/setgid/file", O_CREAT | O_RDWR, 0o644, 0, 1000);
    let sub = ask::mkdir(b"/setgid/sub", 0o755, 0, 1000);
    {
        let (_running, mut client) = reference(dir.path());
        client.ask(&file).ok();
        client.ask(&sub).closed();
    }
    let (_running, mut client) = ours(dir.path());
    client.ask(&file).ok();
    client.ask(&sub).ok();
    client.ask(&ask::chown(b"/setgid/file", 7, 7)).ok();
}
