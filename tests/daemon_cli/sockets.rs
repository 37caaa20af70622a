//! The socket: whose it is from its first instant, taken over when stale, refused when live, back when QEMU removes it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::apart::with_private_mounts;
use crate::disk::Disk;
use crate::program::{self, Launch, Running, wait_until};
use crate::start::{Place, finish, text, words};
use crate::wire::{Client, ask};

/// Connects with the rights of a user and a group, and those alone.
fn connect_as(path: &Path, uid: u32, gid: u32) -> io::Result<UnixStream> {
    std::thread::scope(|scope| {
        let connect = || {
            // For this thread alone; it gives up CAP_DAC_OVERRIDE with it.
            setfsgid(Gid::from_raw(gid));
            setfsuid(Uid::from_raw(uid));
            UnixStream::connect(path)
        };
        scope.spawn(connect).join().expect("a thread of another user's")
    })
}

fn owner_and_mode(path: &Path) -> (u32, u32, u32) {
    let meta = path.symlink_metadata().expect("the socket");
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

/// Starts ours on the place's socket, for user 1234 and group 567.
fn for_1234(place: &Place, wrapper: &[&str], options: &[&str]) -> Running {
    let mut all = words(wrapper);
    all.push(program::ours().into());
    all.push("-n".into());
    all.extend(place.listening());
    all.extend(words(["-u", "1234", "-g", "567"]));
    all.extend(words(options));
    Running::spawn(Command::new(&all[0]).args(&all[1..]).stdin(Stdio::null()))
}

#[test]
fn owner_and_group_may_connect_and_nobody_else() {
    let place = Place::new();
    let _helper = for_1234(&place, &[], &["--persistent", "--shared=8"]);
    wait_until("the socket", || {
        place.socket().exists() && owner_and_mode(&place.socket()) == (1234, 567, 0o660)
    });
    wait_until("a helper that listens", || connect_as(&place.socket(), 1234, 1).is_ok());
    for (uid, gid, may) in [(1234, 567, true), (1234, 9, true), (9, 567, true), (9, 9, false)] {
        let connected = connect_as(&place.socket(), uid, gid);
        assert_eq!(connected.is_ok(), may, "{uid}:{gid}: {connected:?}");
    }
}

#[test]
fn from_its_first_instant_the_socket_is_its_owners_alone() {
    let place = Place::new();
    // Keeps the helper for a second where bind(2) has just made the socket.
    let held = "inject=bind:delay_exit=1000000";
    let mut helper = for_1234(&place, &["strace", "-f", "-qqq", "-o", "/dev/null", "-e", held], &[]);
    wait_until("the socket", || place.socket().symlink_metadata().is_ok());
    assert_eq!(owner_and_mode(&place.socket()), (1234, 567, 0o600), "just bound");
    wait_until("an open socket", || owner_and_mode(&place.socket()) == (1234, 567, 0o660));
    Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/file")).ok();
    helper.wait();
}

#[test]
fn in_a_setgid_directory_the_socket_has_its_group_too() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o2755)).unwrap();
    std::os::unix::fs::chown(place.path(), None, Some(2000)).unwrap();
    let _helper = for_1234(&place, &[], &[]);
    wait_until("the socket", || {
        place.socket().exists() && owner_and_mode(&place.socket()) == (1234, 567, 0o660)
    });
}

/// Leaves a socket file that nobody listens on.
fn stale(path: &Path) {
    drop(UnixListener::bind(path).expect("a socket"));
    assert!(path.exists());
}

#[test]
fn defect_06_a_stale_socket_is_taken_over() {
    let place = Place::new();
    stale(&place.socket());
    {
        let mut reference = Launch::new(&program::reference(), &place.export()).by_socket(&place.socket());
        reference.wait();
        assert!(Client::connect(&place.socket()).is_err(), "the reference is cured");
    }
    let mut helper = Launch::new(&program::ours(), &place.export()).by_socket(&place.socket());
    Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/file")).ok();
    assert!(helper.wait().success(), "{}", helper.log());
    assert!(helper.log().contains("taking over"), "{}", helper.log());
    assert!(!place.socket().exists());
}

#[test]
fn after_a_kill_the_next_helper_starts_as_if_nothing_had_been() {
    let place = Place::new();
    for options in [&["--persistent"][..], &[]] {
        let mut helper = for_1234(&place, &[], options);
        Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/file")).ok();
        helper.signal(Signal::SIGKILL);
        helper.wait();
        // What it had forked off ends, too.
        wait_until("nobody to listen", || UnixStream::connect(place.socket()).is_err());
    }
    let mut helper = Launch::new(&program::ours(), &place.export()).by_socket(&place.socket());
    Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/file")).ok();
    assert!(helper.wait().success());
}

#[test]
fn a_live_socket_is_refused_by_name_and_goes_on() {
    let place = Place::new();
    let _first =
        Launch::new(&program::ours(), &place.export()).option("--persistent").by_socket(&place.socket());
    let mut client = Client::connect_soon(&place.socket());
    client.ask(&ask::lstat(b"/file")).ok();
    for foreground in ["-n", "--log-level=info"] {
        let mut args = place.listening();
        args.push(foreground.into());
        let second = finish(&program::ours(), args, place.path());
        assert_eq!(second.status.code(), Some(1));
        let said = text(&second.stderr);
        assert!(said.contains(&place.socket().display().to_string()) && said.contains("in use"), "{said}");
    }
    client.ask(&ask::lstat(b"/file")).ok();
    drop(client);
    Client::connect(&place.socket()).expect("the first one's socket").ask(&ask::lstat(b"/file")).ok();
}

/// A socket, or a way to it, that somebody else has put there is not followed or removed.
#[test]
fn a_link_in_the_sockets_place_is_refused() {
    let place = Place::new();
    let elsewhere = place.path().join("elsewhere");
    for target in ["elsewhere", "export/file", "nowhere"] {
        let _ = fs::remove_file(&elsewhere);
        stale(&elsewhere);
        let _ = fs::remove_file(place.socket());
        std::os::unix::fs::symlink(target, place.socket()).unwrap();
        let mut args = words(["-n"]);
        args.extend(place.listening());
        let output = finish(&program::ours(), args, place.path());
        assert_eq!(output.status.code(), Some(1), "{target}: {}", text(&output.stderr));
        assert!(place.socket().is_symlink() && elsewhere.exists(), "{target}");
        assert!(!place.path().join("nowhere").exists());
    }
}

#[test]
fn defect_08_it_serves_on_after_its_client_and_the_socket_comes_back() {
    let place = Place::new();
    {
        let mut reference = Launch::new(&program::reference(), &place.export()).by_socket(&place.socket());
        Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/file")).ok();
        reference.wait();
        fs::remove_file(place.socket()).unwrap();
    }
    let mut helper = for_1234(&place, &[], &["--persistent"]);
    for round in 0..20 {
        let mut client = Client::connect_soon(&place.socket());
        // As QEMU does.
        fs::remove_file(place.socket()).unwrap();
        client.ask(&ask::lstat(b"/file")).ok();
        if round % 2 == 0 {
            drop(client);
        }
        wait_until("the socket, made anew", || {
            place.socket().exists() && owner_and_mode(&place.socket()) == (1234, 567, 0o660)
        });
    }
    helper.signal(Signal::SIGTERM);
    assert!(helper.wait().success());
    assert!(!place.socket().exists());
}

#[test]
fn what_took_the_sockets_place_is_not_removed() {
    for options in [&["--persistent"][..], &["--shared=2"], &[]] {
        for (served, file) in [(false, false), (false, true), (true, false), (true, true)] {
            let when = format!("{options:?}, served: {served}, a file: {file}");
            let place = Place::new();
            let mut helper = for_1234(&place, &[], options);
            wait_until("an open socket", || {
                place.socket().exists() && owner_and_mode(&place.socket()) == (1234, 567, 0o660)
            });
            let client = served.then(|| {
                let mut client = Client::connect_soon(&place.socket());
                client.ask(&ask::lstat(b"/file")).ok();
                client
            });
            // In one step: a supervisor makes its socket again as soon as the name is free.
            let other = place.path().join("other");
            let listener = (!file).then(|| UnixListener::bind(&other).unwrap());
            if file {
                fs::write(&other, "somebody else's").unwrap();
            }
            let there = other.symlink_metadata().unwrap().ino();
            fs::rename(&other, place.socket()).unwrap();
            if options.contains(&"--persistent") {
                helper.wait_for_log("cannot make the socket again");
            }
            helper.signal(Signal::SIGTERM);
            assert!(helper.wait().success(), "{when}: {}", helper.log());
            assert_eq!(place.socket().symlink_metadata().unwrap().ino(), there, "{when}");
            drop((client, listener));
        }
    }
}

/// A stale socket, in whose place another process puts a live one when the helper has found it to be stale.
#[test]
fn a_socket_that_comes_to_life_while_it_is_taken_over_is_moved_back() {
    with_private_mounts(|| {
        // Of ext4, whose next file has the number of the one that was removed last; and of a tmpfs, whose next file has another.
        let disk = Disk::format("ext4", 32, "noatime");
        let memory = Place::new();
        nix::mount::mount(
            Some("tmpfs"),
            memory.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        for (directory, reused) in [(disk.root(), true), (memory.path().to_owned(), false)] {
            let (socket, export) = (directory.join("socket"), directory.join("export"));
            fs::create_dir(&export).unwrap();
            stale(&socket);
            let before = socket.symlink_metadata().unwrap().ino();
            let held = "inject=rename,renameat,renameat2:delay_enter=3000000:when=1";
            let mut all = words(["-f", "-qqq", "-o", "/dev/null", "-e", held]);
            all.push(program::ours().into());
            all.extend(words(["-n", "-u", "0", "-g", "0", "--log-level=info", "-p"]));
            all.push(export.into());
            all.push("-s".into());
            all.push(socket.clone().into());
            let mut helper = Running::spawn(Command::new("strace").args(all).stdin(Stdio::null()));
            helper.wait_for_log("taking over");
            fs::remove_file(&socket).unwrap();
            let _live = UnixListener::bind(&socket).unwrap();
            let now = socket.symlink_metadata().unwrap().ino();
            assert_eq!(now == before, reused, "the inode's number: {before}, {now}");
            assert_eq!(helper.wait().code(), Some(1), "{}", helper.log());
            assert!(helper.log().contains("in use"), "{}", helper.log());
            assert_eq!(socket.symlink_metadata().unwrap().ino(), now, "{}", helper.log());
            UnixStream::connect(&socket).expect("the live socket");
            let mut left: Vec<_> =
                fs::read_dir(&directory).unwrap().map(|it| it.unwrap().file_name()).collect();
            left.retain(|name| name != "lost+found");
            left.sort();
            assert_eq!(left, ["export", "socket"]);
        }
        nix::mount::umount2(memory.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

/// Holds the lock that any user who can read a directory can take on it.
fn lock(directory: &Path) -> nix::fcntl::Flock<fs::File> {
    let file = fs::File::open(directory).expect("the directory");
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).expect("a lock")
}

#[test]
fn a_lock_on_the_sockets_directory_delays_no_start_and_no_new_socket() {
    for options in [&["--persistent"][..], &["--shared=2"], &[]] {
        let place = Place::new();
        stale(&place.socket());
        let _held = lock(place.path());
        let mut helper = for_1234(&place, &[], options);
        let mut client = Client::connect_soon(&place.socket());
        client.ask(&ask::lstat(b"/file")).ok();
        if !options.is_empty() {
            fs::remove_file(place.socket()).unwrap();
            wait_until("the socket, made anew", || {
                place.socket().exists() && owner_and_mode(&place.socket()) == (1234, 567, 0o660)
            });
        }
        helper.signal(Signal::SIGTERM);
        assert!(helper.wait().success(), "{options:?}: {}", helper.log());
        assert!(!place.socket().exists(), "{options:?}");
    }
}

/// Nothing that takes the directory's place is waited for, and the socket is there again when the directory is.
#[test]
fn a_fifo_in_place_of_the_sockets_directory_stops_nothing() {
    let place = Place::new();
    let (directory, away) = (place.path().join("run"), place.path().join("away"));
    let socket = directory.join("socket");
    // The socket goes last: a helper that notices it before would make it again in the directory.
    let put_fifo = || {
        fs::rename(&directory, &away).unwrap();
        nix::unistd::mkfifo(&directory, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        fs::remove_file(away.join("socket")).unwrap();
    };
    fs::create_dir(&directory).unwrap();
    let launch = Launch::new(&program::ours(), &place.export()).option("--persistent");
    let mut helper = launch.by_socket(&socket);
    let mut client = Client::connect_soon(&socket);
    client.ask(&ask::lstat(b"/file")).ok();
    put_fifo();
    helper.wait_for_log("cannot make the socket again");
    drop(client);
    fs::remove_file(&directory).unwrap();
    fs::rename(&away, &directory).unwrap();
    Client::connect_soon(&socket).ask(&ask::lstat(b"/file")).ok();
    put_fifo();
    wait_until("another failure", || helper.log().matches("cannot make the socket again").count() == 2);
    helper.signal(Signal::SIGTERM);
    assert!(helper.wait().success(), "{}", helper.log());
    // A start is refused, too, and does not wait.
    let mut late = launch.by_socket(&socket);
    assert_eq!(late.wait().code(), Some(1));
    assert!(late.log().contains("cannot bind the socket"), "{}", late.log());
}

#[test]
fn of_many_helpers_that_take_over_one_stale_socket_one_serves() {
    let place = Place::new();
    for round in 0..5 {
        stale(&place.socket());
        let launch = Launch::new(&program::ours(), &place.export()).option("--persistent");
        let mut helpers: Vec<Running> = (0..6).map(|_| launch.by_socket(&place.socket())).collect();
        wait_until("one helper", || {
            helpers.iter_mut().filter_map(|it| it.is_alive().then_some(())).count() == 1
        });
        Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/file")).ok();
        for helper in &mut helpers {
            if helper.is_alive() {
                helper.signal(Signal::SIGTERM);
                assert!(helper.wait().success(), "round {round}: {}", helper.log());
            } else {
                assert!(helper.log().contains("in use"), "round {round}: {}", helper.log());
            }
        }
        let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["export"], "round {round}");
    }
}
