//! Where ours differs from the reference on purpose, and what both do.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use libc::{O_CREAT, O_DIRECTORY, O_EXCL, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY};
use nix::errno::Errno::{E2BIG, EINVAL, ELOOP, ENOBUFS, ENOENT, ENXIO, ERANGE};
use rustix::fs::OFlags;

use crate::creating::zoo;
use crate::program::{self, Launch, Running};
use crate::tree::Owned;
use crate::wire::{Answer, Client, Fields, Form, MAX_PAYLOAD, Request, ask, frame};

/// The reference and ours, each on a zoo of its own.
fn both() -> (tempfile::TempDir, [(Running, Client); 2]) {
    let dir = program::scratch();
    let serve = |name: &str, program: &Path| {
        let root = dir.path().join(name);
        fs::create_dir(&root).unwrap();
        zoo(&Owned::below(&root));
        Launch::new(program, &root).by_fd()
    };
    let sides = [serve("c", &program::reference()), serve("ours", &program::ours())];
    (dir, sides)
}

/// Ours alone, on a zoo.
fn ours() -> (tempfile::TempDir, Running, Client) {
    let dir = program::scratch();
    zoo(&Owned::below(dir.path()));
    let (running, client) = Launch::new(&program::ours(), dir.path()).by_fd();
    (dir, running, client)
}

/// One request of every type, its paths and names as given.
fn every_type(path: &[u8], name: &[u8]) -> Vec<Request> {
    vec![
        ask::open(path, O_RDONLY),
        ask::create(path, O_CREAT | O_RDWR, 0o644, 0, 0),
        ask::mknod(path, libc::S_IFIFO, 0, 0, 0),
        ask::mkdir(path, 0o755, 0, 0),
        ask::symlink(path, b"/new", 0, 0),
        ask::symlink(b"x", path, 0, 0),
        ask::link(path, b"/new"),
        ask::link(b"/file", path),
        ask::lstat(path),
        ask::readlink(path, 100),
        ask::statfs(path),
        ask::chmod(path, 0o600),
        ask::chown(path, 0, 0),
        ask::truncate(path, 0),
        ask::utime(path, (0, 0), (0, 0)),
        ask::rename(path, b"/new"),
        ask::rename(b"/file", path),
        ask::remove(path),
        ask::getxattr(path, name, 100),
        ask::listxattr(path, 100),
        ask::setxattr(path, name, b"x", 0),
        ask::removexattr(path, name),
        ask::version(path),
    ]
}

#[test]
fn every_type_is_in_the_list_of_every_type() {
    let kinds: BTreeSet<u32> = every_type(b"/", b"user.a").iter().map(Request::kind).collect();
    assert_eq!(kinds, (2..=21).collect());
}

#[test]
fn a_path_with_a_nul_is_refused_where_the_reference_cuts_it() {
    let (_dir, [(_c, mut reference), (_ours, mut ours)]) = both();
    reference.ask(&ask::open(b"/file\0x", O_RDONLY)).ok();
    for path in [b"/file\0x".as_slice(), b"/file\0\0", b"\0\0", b"/\0/etc/passwd"] {
        for request in every_type(path, b"user.a") {
            ours.ask(&request).fails(EINVAL);
        }
    }
    // QEMU itself sends one behind most paths.
    ours.ask(&ask::open(b"/file\0", O_RDONLY)).ok();
    ours.ask(&ask::getxattr(b"/file", b"user.\0a", 10)).fails(EINVAL);
    ours.ask(&ask::setxattr(b"/file", b"user.\0a", b"1", 0)).fails(EINVAL);
    ours.ask(&ask::removexattr(b"/file", b"user.\0a")).fails(EINVAL);
    // A value may hold any byte.
    ours.ask(&ask::setxattr(b"/file", b"user.a", b"\0\0", 0)).ok();
}

#[test]
fn an_open_creates_nothing_whatever_its_flags() {
    let (dir, [(_c, mut reference), (_ours, mut ours)]) = both();
    reference.ask(&ask::open(b"/new", O_RDWR | O_CREAT)).ok();
    ours.ask(&ask::open(b"/new", O_RDWR | O_CREAT)).fails(ENOENT);
    ours.ask(&ask::open(b"/new", O_RDWR | O_CREAT | O_EXCL)).fails(ENOENT);
    assert!(!dir.path().join("ours/new").exists());
    for dropped in [O_CREAT, O_EXCL, O_CREAT | O_EXCL, libc::O_NOCTTY, libc::O_ASYNC] {
        let fd = ours.ask(&ask::open(b"/file", O_RDWR | dropped)).fd();
        let flags = nix::fcntl::fcntl(&fd, nix::fcntl::F_GETFL).unwrap();
        assert_eq!(flags & (libc::O_ASYNC | libc::O_ACCMODE), O_RDWR, "{dropped:o}");
    }
}

#[test]
fn no_open_hands_out_a_bare_path_or_a_nameless_file() {
    let (_dir, [(_c, mut reference), (_ours, mut ours)]) = both();
    reference.ask(&ask::open(b"/file", O_PATH)).ok();
    for flags in [O_PATH, O_PATH | O_DIRECTORY, O_TMPFILE | O_RDWR, O_TMPFILE | O_WRONLY | O_EXCL] {
        for path in [b"/file".as_slice(), b"/dir", b"/link", b"/fifo", b"/none"] {
            ours.ask(&ask::open(path, flags)).fails(EINVAL);
            ours.ask(&ask::create(path, flags | O_CREAT, 0o644, 0, 0)).fails(EINVAL);
        }
    }
}

#[test]
fn special_files_are_never_opened() {
    let (_dir, _running, mut client) = ours();
    for path in [b"/fifo".as_slice(), b"/socket", b"/null", b"/disk"] {
        for flags in [O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_TRUNC, O_RDONLY | libc::O_NONBLOCK] {
            client.ask(&ask::open(path, flags)).fails(ENXIO);
            client.ask(&ask::create(path, flags | O_CREAT, 0o644, 0, 0)).fails(ENXIO);
            client.ask(&ask::create(path, flags, 0o644, 1000, 1000)).fails(ENXIO);
        }
        client.ask(&ask::version(path)).fails(ENXIO);
        client.ask(&ask::lstat(path)).ok();
    }
}

#[test]
fn no_create_makes_a_file_through_a_symlink() {
    let (dir, [(_c, mut reference), (_ours, mut ours)]) = both();
    let request = ask::create(b"/dangling", O_CREAT | O_RDWR, 0o644, 0, 0);
    reference.ask(&request).ok();
    ours.ask(&request).fails(ELOOP);
    assert!(dir.path().join("c/nowhere").exists());
    assert!(!dir.path().join("ours/nowhere").exists());
}

#[test]
fn an_attribute_too_long_for_the_wire_is_too_big() {
    // The kernel takes values of 65536 bytes, and tmpfs keeps them.
    crate::apart::with_private_mounts(|| {
        let dir = program::scratch();
        let tree = Owned::below(dir.path());
        crate::mounts::mount_tmpfs(&tree, "mnt", "mode=755");
        for length in [65_533, 65_534, 65_535, 65_536] {
            let name = format!("mnt/{length}");
            tree.file(&name, b"", 0o644, 0, 0).xattr(&name, "user.a", &vec![b'v'; length]);
        }
        list_of(&tree, "mnt/list", 65_534);
        list_of(&tree, "mnt/long-list", 65_535);
        let (_c, mut reference) = Launch::new(&program::reference(), dir.path()).by_fd();
        let (_ours, mut ours) = Launch::new(&program::ours(), dir.path()).by_fd();
        reference.ask(&ask::getxattr(b"/mnt/65535", b"user.a", 65_536)).fails(ENOBUFS);
        for length in [65_533_usize, 65_534] {
            let path = format!("/mnt/{length}").into_bytes();
            for size in [i32::try_from(length).unwrap(), 65_535, 65_536, -1] {
                let answer = ours.ask(&ask::getxattr(&path, b"user.a", size));
                assert_eq!(answer.string().map(<[u8]>::len), Some(length), "{answer:?}");
            }
            ours.ask(&ask::getxattr(&path, b"user.a", 65_532)).fails(ERANGE);
        }
        for length in [65_535, 65_536] {
            let path = format!("/mnt/{length}").into_bytes();
            assert_eq!(ours.ask(&ask::getxattr(&path, b"user.a", 0)).int(), Some(length));
            ours.ask(&ask::getxattr(&path, b"user.a", 65_535)).fails(E2BIG);
            ours.ask(&ask::getxattr(&path, b"user.a", 65_536)).fails(E2BIG);
            ours.ask(&ask::getxattr(&path, b"user.a", 100)).fails(ERANGE);
        }
        assert_eq!(ours.ask(&ask::listxattr(b"/mnt/list", 0)).int(), Some(65_534));
        let list = ours.ask(&ask::listxattr(b"/mnt/list", 65_536));
        assert_eq!(list.string().map(<[u8]>::len), Some(65_534));
        assert_eq!(ours.ask(&ask::listxattr(b"/mnt/long-list", 0)).int(), Some(65_535));
        ours.ask(&ask::listxattr(b"/mnt/long-list", 65_536)).fails(E2BIG);
        crate::mounts::unmount(&tree, "mnt");
    });
}

/// A file whose attributes' names, each ended by a NUL, come to `length` bytes.
fn list_of(tree: &Owned<'_>, name: &str, length: usize) {
    tree.file(name, b"", 0o644, 0, 0);
    let mut left = length;
    let mut count = 0;
    while left > 0 {
        // The last two share what is left: a name needs more than its prefix.
        let size = if left > 512 {
            256
        } else if left > 256 {
            left / 2
        } else {
            left
        };
        let key = format!("user.{count:03}{}", "k".repeat(size - "user.000".len() - 1));
        tree.xattr(name, &key, b"");
        left -= size;
        count += 1;
    }
}

#[test]
fn every_truncation_of_every_type_ends_the_connection_with_one_line() {
    let dir = program::scratch();
    zoo(&Owned::below(dir.path()));
    for request in every_type(b"/file", b"user.a") {
        let whole = request.encode();
        let payload = &whole[8..];
        // A few cuts of each type: nothing at all, within the first field, before the last byte.
        for cut in [0, 1, payload.len() / 2, payload.len() - 1] {
            let (mut running, mut client) = Launch::new(&program::ours(), dir.path()).by_fd();
            let short = frame(request.kind(), u32::try_from(cut).unwrap(), &payload[..cut]);
            client.ask_raw(&short, request.form()).closed();
            assert_eq!(running.wait().code(), Some(1));
            assert_eq!(
                complaints(&running).len(),
                1,
                "type {} cut at {cut}: {}",
                request.kind(),
                running.log()
            );
        }
    }
}

/// The lines that a helper has logged as errors.
fn complaints(running: &Running) -> Vec<String> {
    running.log().lines().filter(|line| line.contains("error")).map(Into::into).collect()
}

#[test]
fn what_is_no_request_ends_the_connection_with_one_line() {
    let dir = program::scratch();
    zoo(&Owned::below(dir.path()));
    let too_large = u32::try_from(MAX_PAYLOAD).unwrap() + 1;
    for (bytes, sense) in [
        (frame(0, 0, b""), "type 0"),
        (frame(1, 4, &[0; 4]), "type 1"),
        (frame(22, 0, b""), "type 22"),
        (frame(u32::MAX, 0, b""), "type 4294967295"),
        (frame(8, too_large, b""), "65537"),
        (frame(8, too_large, &[0; 100]), "65537"),
        (frame(8, u32::MAX, b""), "4294967295"),
        (frame(8, i32::MIN.cast_unsigned(), b""), "2147483648"),
        // A string that claims to be longer than the payload.
        (Fields::new().raw(&[0xff, 0xff, b'/']).frame(8), "path"),
    ] {
        let (mut running, mut client) = Launch::new(&program::ours(), dir.path()).by_fd();
        client.ask_raw(&bytes, Form::Status).closed();
        assert_eq!(running.wait().code(), Some(1));
        let complaints = complaints(&running);
        assert!(
            complaints.len() == 1 && complaints[0].contains(sense),
            "{sense:?} is not in one line: {complaints:?}"
        );
    }
}

#[test]
fn bytes_behind_the_last_field_are_ignored_by_both() {
    let (_dir, [(_c, mut reference), (_ours, mut ours)]) = both();
    for request in every_type(b"/none", b"user.a") {
        let encoded = request.encode();
        let longer = Fields::new().raw(&encoded[8..]).raw(b"and some more").frame(request.kind());
        for client in [&mut reference, &mut ours] {
            let answer = client.ask_raw(&longer, request.form());
            assert!(!matches!(answer, Answer::Closed | Answer::Silent | Answer::Strange(_)), "{answer:?}");
            // The next request is understood.
            client.ask(&ask::lstat(b"/")).ok();
        }
    }
}

#[test]
fn requests_may_come_split_or_joined() {
    let (_dir, _running, mut client) = ours();
    let request = ask::lstat(b"/dir/sub/deep").encode();
    for size in [1, 3, 7, 8, 9] {
        for piece in request.chunks(size) {
            assert!(client.send(piece));
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        client.reply(Form::Response).ok();
    }
    // Many at once: no client does, and each is answered all the same.
    assert!(client.send(&request.repeat(500)));
    for _ in 0..500 {
        client.reply(Form::Response).ok();
    }
    // The largest request there is, cut inside its header and inside its payload.
    let large = ask::rename(&b"x".repeat(32766), &b"y".repeat(32766)).encode();
    assert_eq!(large.len(), 8 + MAX_PAYLOAD);
    for piece in [&large[..5], &large[5..40_000], &large[40_000..]] {
        assert!(client.send(piece));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    client.reply(Form::Status).fails(nix::errno::Errno::ENAMETOOLONG);
    assert!(client.is_quiet());
}

#[test]
fn a_file_opened_is_the_clients_own() {
    let (dir, _running, mut client) = ours();
    let file = client.ask(&ask::open(b"/file", O_RDWR | libc::O_APPEND)).fd();
    rustix::io::write(&file, b"more").unwrap();
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"hello, world\nmore");
    let directory = client.ask(&ask::open(b"/dir", O_DIRECTORY)).fd();
    let names: BTreeSet<_> = rustix::fs::Dir::read_from(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
        .collect();
    assert_eq!(names, [b".".to_vec(), b"..".to_vec(), b"sub".to_vec(), b"file".to_vec()].into());
    // Nothing of the host is reached from it: a descriptor of a directory keeps the client where the export is.
    let up = rustix::fs::openat(&directory, "..", OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    assert_eq!(rustix::fs::fstat(&up).unwrap().st_ino, rustix::fs::fstat(&root).unwrap().st_ino);
}
