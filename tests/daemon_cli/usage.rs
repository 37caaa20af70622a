//! What is wrong with a command line is said in a sentence, with what to do about it, and by the exit status.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use crate::program::{self, wait_until};
use crate::start::{Place, finish, text, words};
use crate::wire::{Client, ask};

/// Fails as a command line that nobody could carry out: status 2, nothing on standard output, a pointer to the help.
#[test]
fn usage_errors_end_with_status_2() {
    let place = Place::new();
    for (args, sense) in [
        ("", "no directory to export; give one with -p"),
        ("-p export", "no socket"),
        ("-p export -s socket -f 3 -u 0 -g 0", "both -s and -f"),
        ("-p export -s socket", "-u USER -g GROUP"),
        ("-p export -s socket -u 0", "-g GROUP"),
        ("-p export -s socket -g 0", "-u USER"),
        ("-p export -s socket -u nosuchuser -g 0", "no such user in /etc/passwd"),
        ("-p export -s socket -u 0 -g nosuchgroup", "no such group in /etc/group"),
        ("-p export -s socket -u 4294967295 -g 0", "ids go from 0 to 4294967294"),
        ("-p export -s socket -u 0 -g 18446744073709551616", "ids go from 0 to 4294967294"),
        ("-p export -s socket -u 1x -g 0", "no such user"),
        ("-p export -s socket -u -1 -g 0", "'-1'"),
        ("-p export -f x", "'x'"),
        ("-p export -f 3x", "'3x'"),
        ("-p export -f 4294967296", "4294967296"),
        ("-p export --fd=-1", "numbered from 0"),
        ("-p export -f 3 --persistent", "-s instead of -f"),
        ("-p export -f 3 --shared=2", "-s instead of -f"),
        ("-p export -f 3 --shared=0", "--shared"),
        ("-p export -f 3 --sandbox=jail", "namespace, chroot, none"),
        ("-p export -f 3 --log-level=loud", "debug"),
        ("-p export -f 3 --modcaps=+flying", "flying"),
        ("-p export -f 3 --rlimit-nofile=many", "many"),
        ("-p export -f 3 --nonsense", "--nonsense"),
        ("-p export -f 3 stray", "stray"),
        ("-p", "-p"),
    ] {
        for foreground in ["", "-n "] {
            let line = format!("{foreground}{args}");
            let output = finish(&program::ours(), line.split_ascii_whitespace(), place.path());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{line}: {said}");
            assert!(output.stdout.is_empty(), "{line}");
            assert!(said.contains(sense), "{line}: {said}");
            assert!(said.contains("--help"), "{line}: {said}");
            assert!(!place.socket().exists(), "{line}");
        }
    }
}

/// A command line that means something, which can't be done: status 1, whether a daemon was asked for or not.
#[test]
fn failures_end_with_status_1_before_anything_detaches() {
    let place = Place::new();
    fs::write(place.path().join("plain"), "not a socket").unwrap();
    let _live = UnixListener::bind(place.path().join("live")).unwrap();
    let long = format!("-p export -s {} -u 0 -g 0", "x".repeat(120));
    for (args, sense) in [
        ("-p nowhere -s socket -u 0 -g 0", "does not exist"),
        ("-p plain -s socket -u 0 -g 0", "not a directory"),
        ("-p export -s nowhere/socket -u 0 -g 0", "nowhere/socket"),
        ("-p export -s plain -u 0 -g 0", "not a socket"),
        ("-p export -s live -u 0 -g 0", "another process listens on it"),
        (&long, "107"),
        ("-p export -s socket -u 0 -g 0 --pid-file nowhere/pid", "nowhere/pid"),
        ("-p export -s socket -u 0 -g 0 --rlimit-nofile 99999999999", "--rlimit-nofile"),
        ("-p export -f 77", "descriptor 77 is not open"),
        ("-p export -f 0", "descriptor 0 is not a socket"),
    ] {
        for foreground in ["", "-n "] {
            let line = format!("{foreground}{args}");
            let output = finish(&program::ours(), line.split_ascii_whitespace(), place.path());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{line}: {said}");
            assert!(output.stdout.is_empty() && said.contains(sense), "{line}: {said}");
            assert!(!place.socket().exists(), "{line}: the socket stays behind");
        }
    }
    assert_eq!(fs::read_to_string(place.path().join("plain")).unwrap(), "not a socket");
}

/// Only a connected unix stream socket will do for -f.
#[test]
fn a_descriptor_of_another_kind_is_refused() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path().join("listener")).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp_client = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let (datagram, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let (read, _write) = std::io::pipe().unwrap();
    let cases: [(std::os::fd::OwnedFd, &str); 4] = [
        (listener.into(), "a listening socket"),
        (tcp_client.into(), "not a unix stream socket"),
        (datagram.into(), "not a unix stream socket"),
        (read.into(), "not a socket"),
    ];
    for (descriptor, sense) in cases {
        let mut running = program::Launch::new(&program::ours(), &place.export()).on_descriptor(descriptor);
        assert_eq!(running.wait().code(), Some(1), "{}", running.log());
        assert!(running.log().contains(sense), "{}", running.log());
    }
    let (near, far) = UnixStream::pair().unwrap();
    // One that has lost its peer is a client that left at once.
    drop(near);
    let mut running = program::Launch::new(&program::ours(), &place.export()).on_descriptor(far.into());
    running.wait();
    assert!(!running.log().contains("panicked"), "{}", running.log());
}

#[test]
fn help_and_version_go_to_standard_output() {
    let place = Place::new();
    let long = finish(&program::ours(), ["--help"], place.path());
    let short = finish(&program::ours(), ["-h"], place.path());
    for output in [&long, &short] {
        let said = text(&output.stdout);
        assert!(output.status.success() && output.stderr.is_empty());
        for option in ["-p, --path", "-f, --fd", "-s, --socket", "-u, --uid", "-g, --gid", "-n, --nodaemon"] {
            assert!(said.contains(option), "{option} is not in:\n{said}");
        }
    }
    let version = format!("virtfs-proxy-helper {}\n", env!("CARGO_PKG_VERSION"));
    for option in ["-V", "--version"] {
        let output = finish(&program::ours(), [option], place.path());
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), version.clone()));
    }
}

#[test]
fn defect_09_a_name_is_never_the_number_0() {
    use nix::fcntl::OFlag;
    use nix::sys::stat::Mode;
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let owner = |program: &std::path::Path| {
        let mut args = words(["-n"]);
        args.extend(place.listening());
        args.extend(words(["-u", "nobody", "-g", "nogroup"]));
        let mut helper = program::Running::spawn(Command::new(program).args(args).stdin(Stdio::null()));
        wait_until("the socket", || {
            place.socket().symlink_metadata().is_ok_and(|meta| {
                // The reference binds first and gives away then; ours ends at 0660.
                meta.mode() & 0o777 != 0o600
            })
        });
        // A helper that answers has given its socket away; the reference has removed it, too.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let socket = nix::fcntl::open(&place.socket(), flags, Mode::empty()).unwrap();
        Client::connect_soon(&place.socket()).ask(&ask::lstat(b"/")).ok();
        let meta = fs::File::from(socket).metadata().unwrap();
        helper.signal(nix::sys::signal::Signal::SIGTERM);
        helper.wait();
        let _ = fs::remove_file(place.socket());
        (meta.uid(), meta.gid())
    };
    assert_eq!(owner(&program::reference()), (0, 0), "the reference is cured");
    assert_eq!(owner(&program::ours()), (65534, 65534));
}

#[test]
fn defect_14_help_is_known_and_a_link_to_a_directory_is_one() {
    let place = Place::new();
    std::os::unix::fs::symlink("export", place.path().join("link")).unwrap();
    let args = ["-n", "-p", "link", "-f", "0"];
    let reference = finish(&program::reference(), args, place.path());
    assert!(text(&reference.stderr).contains("not directory"), "the reference is cured");
    let ours = finish(&program::ours(), args, place.path());
    assert!(text(&ours.stderr).contains("descriptor 0 is not a socket"), "{}", text(&ours.stderr));
    assert!(!finish(&program::reference(), ["--help"], place.path()).status.success());
}

/// Who listens makes no difference but to what is said: nothing panics, and what could not be said is an error.
#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    let place = Place::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/config/plain/");
    fs::copy(format!("{golden}in.xml"), place.path().join("domain.xml")).expect("a domain");
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").expect("/dev/full"));
    for args in [
        "migrate audit --schema",
        "migrate audit export",
        "migrate check export",
        "migrate manifest export",
        "migrate convert export --owner=1:1",
        "migrate convert export --owner=1:1 --apply",
        // Once more: the export is converted now.
        "migrate convert export --owner=1:1",
        "migrate rollback export",
        "migrate verify export",
        "migrate journal export.virtfs-journal",
        "migrate unmap export --from=mapped-xattr",
        "migrate config domain.xml --export share=/srv/share",
        "migrate config domain.xml --export share=/srv/share --to=qemu-args",
        "migrate rollback export --apply",
        "--help",
        "-V",
    ] {
        let command = || {
            let mut command = Command::new(program::ours());
            command.args(words(args.split(' '))).current_dir(place.path()).stdin(Stdio::null());
            command
        };
        let deaf = command().stdout(full()).stderr(Stdio::piped()).output().expect("our program");
        let said = text(&deaf.stderr);
        assert!(deaf.status.code().is_some_and(|status| status != 101), "{args}: {:?}: {said}", deaf.status);
        assert!(!said.contains("panicked"), "{args}: {said}");
        let is_output = args.starts_with("migrate");
        assert!(
            !is_output || said.contains("standard output") || said.contains("manifest"),
            "{args}: {said}"
        );
        let mute = command().stdout(Stdio::null()).stderr(full()).status().expect("our program");
        assert!(mute.code().is_some_and(|status| status != 101), "{args}: {mute:?}");
    }
}

#[test]
fn a_message_about_the_command_line_repeats_no_control_character() {
    for words in [
        &["--no-such\noption\x1b[2J"][..],
        &["-f", "1\n2\x1b[2J"],
        &["--sandbox", "a\nb\x1b[2J"],
        &["--modcaps", "a\nb\x1b[2J"],
        &["--modcaps", "+a\nb\x1b[2J"],
        &["migrate", "no\nsuch\x1b[2J"],
        &["migrate", "audit", "--format", "a\nb\x1b[2J"],
        &["migrate", "check", "a", "b\nc\x1b[2J"],
    ] {
        let output = Command::new(program::ours()).args(words).output().expect("our program");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(!said.contains('\x1b') && said.contains(r"\x1b[2J"), "{words:?}: {said}");
    }
}
