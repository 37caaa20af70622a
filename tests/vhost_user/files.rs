//! What a guest can do with files, and what it sees.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::Device;
use crate::guest::{Guest, ROOT};

const RDONLY: u32 = 0;
const RDWR: u32 = 2;
const EXCL: u32 = 0o200;
const TRUNC: u32 = 0o1000;

fn failed<T>(errno: Errno) -> Result<T, i32> {
    Err(errno as i32)
}

#[test]
fn the_tag_stands_in_the_configuration_space() {
    let device = Device::start(&[]);
    let mut guest = Guest::attach(&device.socket(), 0);
    assert_eq!(guest.front_end.configuration(6), b"\x04\0work");
}

#[test]
fn a_file_that_a_guests_user_makes_is_that_users() {
    for sandbox in ["namespace", "chroot", "none"] {
        let device = Device::start(&[&format!("--sandbox={sandbox}")]);
        fs::set_permissions(device.export(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut guest = Guest::attach(&device.socket(), 1000);
        guest.walk(ROOT, 1, &[]).unwrap();
        guest.create(1, b"file", RDWR, 0o640, 100).unwrap();
        assert_eq!(guest.write(1, 3, b"content").unwrap(), 7, "{sandbox}");
        assert_eq!(guest.read(1, 0, 100).unwrap(), b"\0\0\0content", "{sandbox}");
        assert_eq!(guest.read(1, 10, 100).unwrap(), b"");
        guest.ask(72, |it| it.u32(ROOT).string("folder").u32(0o750).u32(200)).unwrap();
        guest.ask(16, |it| it.u32(ROOT).string("link").string("target").u32(300)).unwrap();
        guest.ask(18, |it| it.u32(ROOT).string("fifo").u32(0o010_600).u32(0).u32(0).u32(400)).unwrap();
        for (name, mode, gid) in [
            ("file", 0o100_640, 100),
            ("folder", 0o040_750, 200),
            ("link", 0o120_777, 300),
            ("fifo", 0o010_600, 400),
        ] {
            let seen = fs::symlink_metadata(device.export().join(name)).unwrap();
            assert_eq!((seen.mode(), seen.uid(), seen.gid()), (mode, 1000, gid), "{sandbox}: {name}");
            guest.walk(ROOT, 2, &[name.as_bytes()]).unwrap();
            let (seen, uid, group, links, _) = guest.status(2).unwrap();
            assert_eq!((seen, uid, group), (mode, 1000, gid), "{sandbox}: {name}");
            assert_eq!(links, if name == "folder" { 2 } else { 1 });
            guest.clunk(2).unwrap();
        }
        guest.walk(ROOT, 2, &[b"link"]).unwrap();
        assert_eq!(guest.ask(22, |it| it.u32(2)).unwrap(), b"\x06\0target");
    }
}

#[test]
fn a_file_that_was_removed_or_renamed_goes_on_to_work() {
    for sandbox in ["namespace", "chroot", "none"] {
        let device = Device::start(&[&format!("--sandbox={sandbox}")]);
        let mut guest = Guest::attach(&device.socket(), 0);
        guest.walk(ROOT, 1, &[]).unwrap();
        guest.create(1, b"file", RDWR, 0o644, 0).unwrap();
        guest.write(1, 0, b"content").unwrap();
        guest.ask(76, |it| it.u32(ROOT).string("file").u32(0)).unwrap();
        assert!(!device.export().join("file").exists());
        // Mode, owner and group, size, time: all at once.
        guest.set(1, 1 | 2 | 4 | 8 | 0x20 | 0x100, 0o4711, (7, 8), 3, 1_000).unwrap();
        // The size is set last, and takes the time with it.
        assert_eq!(guest.status(1).unwrap(), (0o100_711, 7, 8, 0, 3), "{sandbox}");
        assert_eq!(guest.read(1, 0, 10).unwrap(), b"con");

        guest.ask(72, |it| it.u32(ROOT).string("folder").u32(0o755).u32(0)).unwrap();
        guest.walk(ROOT, 2, &[b"folder"]).unwrap();
        guest.ask(74, |it| it.u32(ROOT).string("folder").u32(ROOT).string("moved")).unwrap();
        guest.ask(14, |it| it.u32(2).string("inside").u32(RDWR).u32(0o600).u32(0)).unwrap();
        assert!(device.export().join("moved/inside").exists(), "{sandbox}");
    }
}

#[test]
fn nothing_above_the_export_is_reached() {
    for sandbox in ["namespace", "chroot", "none"] {
        let device = Device::start(&[&format!("--sandbox={sandbox}")]);
        let outside = device.export().parent().unwrap().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        symlink(&outside, device.export().join("way")).unwrap();
        symlink(outside.join("secret"), device.export().join("secret")).unwrap();
        fs::create_dir(device.export().join("folder")).unwrap();
        let mut guest = Guest::attach(&device.socket(), 0);

        // Up from the export is the export.
        guest.walk(ROOT, 1, &[b"..", b"..", b"folder", b".."]).unwrap();
        let there = fs::metadata(device.export()).unwrap();
        assert_eq!(guest.status(1).unwrap().3, there.nlink());
        assert_eq!(guest.walk(1, 2, &[b"outside"]), failed(Errno::ENOENT));
        // A directory that is moved out of the export does not lead there.
        guest.walk(ROOT, 3, &[b"folder"]).unwrap();
        fs::rename(device.export().join("folder"), outside.join("folder")).unwrap();
        assert_eq!(guest.walk(3, 4, &[b"..", b"secret"]), Ok(2), "{sandbox}: the link in the export");
        assert_eq!(guest.status(4).unwrap().0 & 0o170_000, 0o120_000, "{sandbox}");
        // Symbolic links are not followed.
        assert_eq!(guest.walk(ROOT, 5, &[b"way", b"secret"]), Ok(1), "{sandbox}");
        assert_eq!(guest.open(4, RDONLY), failed(Errno::ELOOP), "{sandbox}");
        guest.walk(ROOT, 6, &[]).unwrap();
        assert_eq!(guest.create(6, b"secret", RDWR, 0o600, 0), failed(Errno::ELOOP), "{sandbox}");
        // A name is no path.
        for name in [&b"/"[..], b"folder/inside", b"../outside", b"", b"a\0b"] {
            assert_eq!(guest.walk(ROOT, 7, &[name]), failed(Errno::ENOENT), "{sandbox}: {name:?}");
            assert_eq!(guest.create(6, name, RDWR, 0o600, 0), failed(Errno::ENOENT), "{sandbox}: {name:?}");
        }
        for name in [&b"."[..], b".."] {
            assert_eq!(guest.create(6, name, RDWR, 0o600, 0), failed(Errno::EEXIST), "{sandbox}: {name:?}");
            let remove = guest.ask(76, |it| it.u32(ROOT).string(name).u32(0x200));
            assert_eq!(remove, failed(Errno::EBUSY), "{sandbox}: {name:?}");
        }
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    }
}

#[test]
fn devices_and_fifos_are_made_and_not_opened() {
    let device = Device::start(&[]);
    let mut guest = Guest::attach(&device.socket(), 0);
    // /dev/null's numbers.
    guest.ask(18, |it| it.u32(ROOT).string("null").u32(0o020_666).u32(1).u32(3).u32(0)).unwrap();
    let made = fs::metadata(device.export().join("null")).unwrap();
    assert!(made.file_type().is_char_device());
    assert_eq!(made.rdev(), fs::metadata("/dev/null").unwrap().rdev());
    guest.walk(ROOT, 1, &[b"null"]).unwrap();
    assert_eq!(guest.open(1, RDWR), failed(Errno::ENXIO));
}

#[test]
fn a_directory_is_read_whole_whatever_the_room() {
    let device = Device::start(&[]);
    let mut expected: Vec<(Vec<u8>, u8)> = vec![(b".".to_vec(), 4), (b"..".to_vec(), 4)];
    for number in 0..500 {
        let name = format!("{number:0width$}", width = 1 + number % 250);
        fs::write(device.export().join(&name), "").unwrap();
        expected.push((name.into_bytes(), 8));
    }
    expected.sort();
    let mut guest = Guest::attach(&device.socket(), 0);
    for count in [400, 1000, 8192, 1 << 20] {
        guest.walk(ROOT, 1, &[]).unwrap();
        guest.open(1, RDONLY).unwrap();
        for _ in 0..2 {
            let mut names = guest.names(1, count).unwrap();
            names.sort();
            assert_eq!(names, expected, "{count}");
        }
        guest.clunk(1).unwrap();
    }
    // Not one entry has room.
    guest.walk(ROOT, 1, &[]).unwrap();
    guest.open(1, RDONLY).unwrap();
    assert_eq!(guest.names(1, 10), failed(Errno::EINVAL));
}

#[test]
fn a_read_only_export_is_not_changed() {
    let device = Device::start(&["--readonly"]);
    fs::write(device.export().join("file"), "content").unwrap();
    let mut guest = Guest::attach(&device.socket(), 0);
    guest.walk(ROOT, 1, &[b"file"]).unwrap();
    guest.walk(ROOT, 2, &[]).unwrap();
    assert_eq!(guest.open(1, RDWR), failed(Errno::EROFS));
    assert_eq!(guest.open(1, TRUNC), failed(Errno::EROFS));
    assert_eq!(guest.create(2, b"new", RDWR, 0o600, 0), failed(Errno::EROFS));
    assert_eq!(guest.set(1, 1, 0o600, (0, 0), 0, 0), failed(Errno::EROFS));
    assert_eq!(guest.ask(32, |it| it.u32(1).string("user.a").u64(1).u32(0)), failed(Errno::EROFS));
    assert_eq!(guest.ask(122, |it| it.u32(1)), failed(Errno::EROFS));
    guest.walk(ROOT, 1, &[b"file"]).unwrap();
    guest.open(1, RDONLY).unwrap();
    assert_eq!(guest.read(1, 0, 10).unwrap(), b"content");
}

#[test]
fn extended_attributes_are_set_read_listed_and_removed() {
    let device = Device::start(&[]);
    fs::write(device.export().join("file"), "").unwrap();
    let mut guest = Guest::attach(&device.socket(), 0);
    guest.walk(ROOT, 1, &[b"file"]).unwrap();
    let set = |guest: &mut Guest, name: &str, value: &[u8], flags: u32| {
        guest.walk(1, 9, &[]).unwrap();
        guest.ask(32, |it| it.u32(9).string(name).u64(value.len() as u64).u32(flags)).unwrap();
        for (at, part) in value.chunks(1000).enumerate() {
            guest.write(9, at as u64 * 1000, part).unwrap();
        }
        guest.clunk(9)
    };
    let get = |guest: &mut Guest, name: &str| {
        let size = guest.ask(30, |it| it.u32(1).u32(9).string(name))?;
        let value = guest.read(9, 0, 60_000).unwrap();
        assert_eq!(size, (value.len() as u64).to_le_bytes());
        guest.clunk(9).unwrap();
        Ok::<_, i32>(value)
    };
    let long: Vec<u8> = (0..3000_u32).map(|it| it as u8).collect();
    set(&mut guest, "user.long", &long, 0).unwrap();
    set(&mut guest, "user.empty", b"", 0).unwrap();
    assert_eq!(get(&mut guest, "user.long").unwrap(), long);
    assert_eq!(get(&mut guest, "user.empty").unwrap(), b"");
    assert_eq!(set(&mut guest, "user.long", b"x", 1), failed(Errno::EEXIST));
    assert_eq!(set(&mut guest, "user.none", b"x", 2), failed(Errno::ENODATA));
    let list = get(&mut guest, "").unwrap();
    let mut names: Vec<_> = list.split(|it| *it == 0).filter(|it| it.starts_with(b"user.")).collect();
    names.sort();
    assert_eq!(names, [b"user.empty", &b"user.long"[..]]);
    // What removexattr(2) of a guest becomes.
    set(&mut guest, "user.long", b"", 2).unwrap();
    assert_eq!(get(&mut guest, "user.long"), failed(Errno::ENODATA));
    // A value that is not whole is not set.
    guest.walk(1, 9, &[]).unwrap();
    guest.ask(32, |it| it.u32(9).string("user.part").u64(10).u32(0)).unwrap();
    guest.write(9, 0, b"12345").unwrap();
    assert_eq!(guest.write(9, 5, b"123456"), failed(Errno::ENOSPC));
    assert_eq!(guest.clunk(9), failed(Errno::EINVAL));
    assert_eq!(get(&mut guest, "user.part"), failed(Errno::ENODATA));
}

/// Whether another process of the host could lock bytes for writing.
fn is_free(file: &File, start: i64, length: i64) -> bool {
    let lock =
        libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: start, l_len: length, l_pid: 0 };
    let mut found = lock;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).unwrap();
    i32::from(found.l_type) == libc::F_UNLCK
}

#[test]
fn the_guests_locks_are_locks_on_the_host() {
    let device = Device::start(&[]);
    let path = device.export().join("file");
    fs::write(&path, [0; 100]).unwrap();
    let host = File::options().read(true).write(true).open(&path).unwrap();
    let mut guest = Guest::attach(&device.socket(), 0);
    for fid in [1, 2] {
        guest.walk(ROOT, fid, &[b"file"]).unwrap();
        guest.open(fid, RDWR).unwrap();
    }
    // One process of the guest has the file open twice, and locks by one and unlocks by the other.
    assert_eq!(guest.lock(1, 1, (0, 10), 5), Ok(0));
    assert!(!is_free(&host, 9, 1) && is_free(&host, 10, 1));
    assert_eq!(guest.lock(2, 1, (5, 10), 5), Ok(0));
    assert_eq!(guest.lock(2, 2, (0, 0), 5), Ok(0));
    assert!(is_free(&host, 0, 0));
    // Two processes share bytes: what one gives up is still the other's.
    assert_eq!(guest.lock(1, 0, (0, 10), 5), Ok(0));
    assert_eq!(guest.lock(2, 0, (5, 10), 6), Ok(0));
    assert_eq!(guest.lock(1, 2, (0, 0), 5), Ok(0));
    assert!(is_free(&host, 0, 5) && !is_free(&host, 5, 1) && !is_free(&host, 14, 1) && is_free(&host, 15, 0));
    // The host's lock is in the way, and what was held before is still held.
    let mine = libc::flock { l_type: libc::F_RDLCK as i16, l_whence: 0, l_start: 20, l_len: 1, l_pid: 0 };
    fcntl(&host, FcntlArg::F_OFD_SETLK(&mine)).unwrap();
    assert_eq!(guest.lock(1, 1, (0, 0), 6), Ok(1));
    assert!(is_free(&host, 0, 5) && !is_free(&host, 5, 1) && is_free(&host, 15, 0));
    let found = guest
        .ask(54, |it| it.u32(1).u8(1).u64(0).u64(0).u32(6).string("guest"))
        .map(|reply| (reply[0], reply[1..9].to_vec(), reply[9..17].to_vec()));
    assert_eq!(found, Ok((0, 20_u64.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec())));
    // A new session holds nothing.
    guest.begin(0);
    assert!(is_free(&host, 0, 0));
}

#[test]
fn hard_links_and_renames_name_the_file_that_is_held() {
    for sandbox in ["namespace", "chroot", "none"] {
        let device = Device::start(&[&format!("--sandbox={sandbox}")]);
        fs::write(device.export().join("file"), "content").unwrap();
        symlink("nowhere", device.export().join("link")).unwrap();
        fs::create_dir(device.export().join("folder")).unwrap();
        let mut guest = Guest::attach(&device.socket(), 0);
        guest.walk(ROOT, 1, &[b"file"]).unwrap();
        guest.walk(ROOT, 2, &[b"link"]).unwrap();
        guest.walk(ROOT, 3, &[b"folder"]).unwrap();
        guest.ask(70, |it| it.u32(3).u32(1).string("hard")).unwrap();
        guest.ask(70, |it| it.u32(3).u32(2).string("link")).unwrap();
        assert_eq!(guest.status(1).unwrap().3, 2, "{sandbox}");
        assert_eq!(fs::read_link(device.export().join("folder/link")).unwrap(), Path::new("nowhere"));
        // Rename and remove by the file itself.
        guest.ask(20, |it| it.u32(1).u32(3).string("moved")).unwrap();
        assert!(device.export().join("folder/moved").exists() && !device.export().join("file").exists());
        // Its name is another file's now.
        fs::write(device.export().join("file"), "another").unwrap();
        assert_eq!(guest.ask(122, |it| it.u32(1)), failed(Errno::ENOENT), "{sandbox}");
        assert!(device.export().join("file").exists(), "{sandbox}");
        // A fid that was to be removed is gone.
        assert_eq!(guest.status(1), failed(Errno::EBADF));
    }
}

#[test]
fn an_existing_file_is_opened_by_a_create_that_is_not_exclusive() {
    let device = Device::start(&[]);
    fs::write(device.export().join("file"), "content").unwrap();
    fs::create_dir(device.export().join("folder")).unwrap();
    let mut guest = Guest::attach(&device.socket(), 0);
    guest.walk(ROOT, 1, &[]).unwrap();
    assert_eq!(guest.create(1, b"file", RDWR | EXCL, 0o600, 0), failed(Errno::EEXIST));
    assert_eq!(guest.create(1, b"folder", RDWR, 0o600, 0), failed(Errno::EISDIR));
    guest.create(1, b"file", RDWR, 0o600, 0).unwrap();
    assert_eq!(guest.read(1, 0, 10).unwrap(), b"content");
}

#[test]
fn a_request_that_waits_for_a_lease_delays_no_other() {
    let device = Device::start(&[]);
    let path = device.export().join("file");
    fs::write(&path, "content").unwrap();
    let holder = File::open(&path).unwrap();
    // A lease to read: an open to write waits until it is given back.
    let lease = |kind: i32| {
        // SAFETY: plain integers.
        assert_eq!(unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, kind) }, 0);
    };
    // SAFETY: the signal that says that the lease is wanted is ignored.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let mut guest = Guest::attach(&device.socket(), 0);
    guest.walk(ROOT, 1, &[b"file"]).unwrap();
    lease(libc::F_RDLCK);
    let open = crate::guest::Message::new(12, 1).u32(1).u32(RDWR).finish();
    guest.front_end.post(1, &open);
    // It was taken off the ring before this one, and is still not answered.
    assert_eq!(guest.status(ROOT).unwrap().0 & 0o170_000, 0o040_000);
    // A flush is answered behind what it takes back.
    let flush = crate::guest::Message::new(108, 2).u16(1).finish();
    guest.front_end.post(2, &flush);
    assert_eq!(guest.status(ROOT).unwrap().0 & 0o170_000, 0o040_000);
    lease(libc::F_UNLCK);
    let (slot, reply) = guest.front_end.take().unwrap();
    assert_eq!((slot, reply[4]), (1, 13), "the open");
    let (slot, reply) = guest.front_end.take().unwrap();
    assert_eq!((slot, reply[4]), (2, 109), "the flush");
}

#[test]
fn a_ring_that_is_stopped_and_started_serves_the_next_guest() {
    let device = Device::start(&[]);
    fs::write(device.export().join("file"), "content").unwrap();
    let mut guest = Guest::attach(&device.socket(), 0);
    for _ in 0..3 {
        guest.walk(ROOT, 1, &[b"file"]).unwrap();
        let served = guest.front_end.stop_ring();
        assert!(served > 0, "{served}");
        guest.front_end.start_ring();
        guest.begin(0);
    }
}
