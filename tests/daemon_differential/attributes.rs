//! `T_CHMOD`, `T_CHOWN`, `T_TRUNCATE`, `T_UTIME`.

use nix::errno::Errno::{EFBIG, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, ETXTBSY};

use crate::creating::zoo;
use crate::stage::{OK, acts, device, long_name, play};
use crate::wire::{LEAVE, ask};

#[test]
fn chmod_sets_every_bit_on_every_type() {
    acts(zoo, |stage| {
        for mode in [0, 0o644, 0o777, 0o4711, 0o2711, 0o1777, 0o7777, 0o600] {
            stage.play(&[
                (ask::chmod(b"/file", mode), OK),
                (ask::chmod(b"/private", mode), OK),
                (ask::chmod(b"/dir", mode), OK),
                (ask::chmod(b"//dir//sub/", mode), OK),
                (ask::chmod(b"/fifo", mode), OK),
                (ask::chmod(b"/socket", mode), OK),
                (ask::chmod(b"/null", mode), OK),
                (ask::chmod(b"/disk", mode), OK),
                (ask::chmod(b"/dirlink/file", mode), OK),
                (ask::chmod(b"/", mode), OK),
            ]);
        }
        stage.play(&[
            // A type above the permissions says nothing.
            (ask::chmod(b"/file", libc::S_IFREG | 0o640), OK),
            (ask::chmod(b"/file", libc::S_IFDIR | 0o641), OK),
            (ask::chmod(b"/file", u32::MAX), OK),
            (ask::chmod(b"/none", 0o600), ENOENT),
            (ask::chmod(b"/file/", 0o600), ENOTDIR),
            (ask::chmod(b"/file/x", 0o600), ENOTDIR),
            (ask::chmod(b"/loop/x", 0o600), ELOOP),
            (ask::chmod(b"", 0o600), ENOENT),
            (ask::chmod(&long_name(256), 0o600), ENAMETOOLONG),
        ]);
    });
}

#[test]
fn chown_changes_what_it_is_told_and_nothing_else() {
    play(
        zoo,
        &[
            (ask::chown(b"/file", 0, 0), OK),
            (ask::chown(b"/file", 1234, LEAVE), OK),
            (ask::chown(b"/file", LEAVE, 567), OK),
            (ask::chown(b"/file", LEAVE, LEAVE), OK),
            (ask::chown(b"/file", -2, -2), OK),
            (ask::chown(b"/private", 5, 6), OK),
            // Changing an owner costs a program its set-id bits, and a mere -1, -1 may, too.
            (ask::chown(b"/suid", 7, LEAVE), OK),
            (ask::chmod(b"/suid", 0o6755), OK),
            (ask::chown(b"/suid", LEAVE, LEAVE), OK),
            (ask::chmod(b"/suid", 0o2644), OK),
            (ask::chown(b"/suid", 8, 9), OK),
            (ask::chmod(b"/dir", 0o6755), OK),
            (ask::chown(b"/dir", 10, 11), OK),
            (ask::chown(b"/link", 12, 13), OK),
            (ask::chown(b"/dangling", 12, 13), OK),
            (ask::chown(b"/loop", 12, 13), OK),
            (ask::chown(b"/dirlink", 12, 13), OK),
            (ask::chown(b"/dirlink/file", 14, 15), OK),
            (ask::chown(b"/dirlink/", 18, 19), OK),
            (ask::chown(b"/fifo", 12, 13), OK),
            (ask::chown(b"/socket", 12, 13), OK),
            (ask::chown(b"/null", 12, 13), OK),
            (ask::chown(b"/", 16, 17), OK),
            (ask::chown(b"/none", 0, 0), ENOENT),
            (ask::chown(b"/file/x", 0, 0), ENOTDIR),
            (ask::chown(b"/file/", 0, 0), ENOTDIR),
            (ask::chown(b"/loop/x", 0, 0), ELOOP),
            (ask::chown(b"", 0, 0), ENOENT),
            (ask::chown(&long_name(256), 0, 0), ENAMETOOLONG),
        ],
    );
}

#[test]
fn truncate_shrinks_and_grows_regular_files_alone() {
    play(
        zoo,
        &[
            (ask::truncate(b"/file", 5), OK),
            (ask::truncate(b"/file", 10), OK),
            (ask::truncate(b"/file", 0), OK),
            (ask::truncate(b"/private", 1), OK),
            (ask::truncate(b"/closed", 2), OK),
            (ask::truncate(b"/suid", 1), OK),
            (ask::truncate(b"/dirlink/file", 3), OK),
            (ask::truncate(b"/blank", 1 << 20), OK),
            (ask::truncate(b"/blank", i64::MAX), EFBIG),
            (ask::truncate(b"/blank", -1), EINVAL),
            (ask::truncate(b"/blank", i64::MIN), EINVAL),
            (ask::truncate(b"/dir", 0), EISDIR),
            (ask::truncate(b"/", 0), EISDIR),
            (ask::truncate(b"/fifo", 0), EINVAL),
            (ask::truncate(b"/socket", 0), EINVAL),
            (ask::truncate(b"/null", 0), EINVAL),
            (ask::truncate(b"/disk", 0), EINVAL),
            (ask::truncate(b"/loop", 0), ELOOP),
            (ask::truncate(b"/none", 0), ENOENT),
            (ask::truncate(b"/file/", 0), ENOTDIR),
            (ask::truncate(b"/file/x", 0), ENOTDIR),
            (ask::truncate(b"/loop/x", 0), ELOOP),
            (ask::truncate(b"", 0), ENOENT),
            (ask::truncate(&long_name(256), 0), ENAMETOOLONG),
            (ask::lstat(b"/blank"), OK),
        ],
    );
}

#[test]
fn a_running_program_is_not_written_to() {
    let program = std::fs::read("/bin/sleep").expect("/bin/sleep, to be run from the export");
    let running = std::cell::RefCell::new(Vec::new());
    acts(
        |tree| {
            tree.file("sleep", &program, 0o755, 0, 0);
        },
        |stage| {
            stage.host(|tree| {
                // Started through a shell: the descriptor that wrote the file may still be open in a fork elsewhere.
                let child = std::process::Command::new("sh")
                    .args(["-c", "until \"$0\" 600; do [ $? = 126 ] || exit; done"])
                    .arg(tree.path("sleep"))
                    .process_group_of_its_own()
                    .spawn()
                    .expect("a program that runs");
                running.borrow_mut().push(Group(child));
                crate::program::wait_until("the program to run", || is_busy(&tree.path("sleep")));
            });
            stage.play(&[
                (ask::truncate(b"/sleep", 0), ETXTBSY),
                (ask::open(b"/sleep", libc::O_WRONLY), ETXTBSY),
                (ask::open(b"/sleep", libc::O_RDONLY), OK),
                (ask::open(b"/sleep", libc::O_RDONLY | libc::O_TRUNC), ETXTBSY),
                (ask::create(b"/sleep", libc::O_CREAT | libc::O_RDWR, 0o644, 1000, 1000), ETXTBSY),
                (ask::chmod(b"/sleep", 0o700), OK),
                (ask::remove(b"/sleep"), OK),
            ]);
            running.borrow_mut().clear();
        },
    );
}

/// Whether a file is being executed.
fn is_busy(path: &std::path::Path) -> bool {
    let opened = std::fs::File::options().append(true).open(path);
    opened.is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy)
}

/// A process group, ended with its owner.
struct Group(std::process::Child);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::killpg(leader, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

trait OwnGroup {
    fn process_group_of_its_own(&mut self) -> &mut Self;
}

impl OwnGroup for std::process::Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        use std::os::unix::process::CommandExt;
        self.process_group(0)
    }
}

#[test]
fn utime_sets_times_near_and_far() {
    let now = (0, libc::UTIME_NOW);
    let omit = (0, libc::UTIME_OMIT);
    acts(
        |tree| {
            zoo(tree);
            for name in ["file", "private", "dir", "link"] {
                tree.times(name, 100, 200);
            }
        },
        |stage| {
            stage.play(&[
                (ask::utime(b"/file", (1, 2), (3, 4)), OK),
                (ask::lstat(b"/file"), OK),
                (ask::utime(b"/file", (0, 0), (0, 0)), OK),
                (ask::utime(b"/file", (-1, 0), (-1_000_000, 999_999_999)), OK),
                (ask::lstat(b"/file"), OK),
                // The year 2100, and the end of what ext4 can say.
                (ask::utime(b"/file", (4_102_444_800, 5), (4_102_444_800, 5)), OK),
                (ask::lstat(b"/file"), OK),
                (ask::utime(b"/file", (1 << 40, 0), (-(1 << 40), 0)), OK),
                (ask::lstat(b"/file"), OK),
                (ask::utime(b"/file", (i64::MAX, 0), (i64::MIN, 0)), OK),
                (ask::lstat(b"/file"), OK),
                (ask::utime(b"/private", omit, (7, 8)), OK),
                (ask::lstat(b"/private"), OK),
                (ask::utime(b"/private", (9, 10), omit), OK),
                (ask::lstat(b"/private"), OK),
                (ask::utime(b"/private", omit, omit), OK),
                (ask::lstat(b"/private"), OK),
                (ask::utime(b"/private", now, omit), OK),
                (ask::utime(b"/private", omit, now), OK),
                (ask::utime(b"/closed", now, now), OK),
                // The seconds beside NOW and OMIT say nothing.
                (ask::utime(b"/closed", (77, libc::UTIME_OMIT), (99, libc::UTIME_OMIT)), OK),
                (ask::utime(b"/file", (1, 1_000_000_000), (1, 0)), EINVAL),
                (ask::utime(b"/file", (1, 0), (1, -1)), EINVAL),
                (ask::utime(b"/file", (1, i64::MAX), (1, 0)), EINVAL),
                (ask::utime(b"/link", (11, 12), (13, 14)), OK),
                (ask::lstat(b"/link"), OK),
                (ask::utime(b"/dangling", (11, 12), (13, 14)), OK),
                (ask::utime(b"/loop", (11, 12), (13, 14)), OK),
                (ask::utime(b"/fifo", (11, 12), (13, 14)), OK),
                (ask::utime(b"/socket", (11, 12), (13, 14)), OK),
                (ask::utime(b"/null", (11, 12), (13, 14)), OK),
                (ask::utime(b"/dir", (11, 12), (13, 14)), OK),
                (ask::utime(b"/dirlink/file", (11, 12), (13, 14)), OK),
                (ask::utime(b"/", (11, 12), (13, 14)), OK),
                (ask::utime(b"/none", (1, 1), (1, 1)), ENOENT),
                // The kernel does not even look.
                (ask::utime(b"/none", omit, omit), OK),
                (ask::utime(b"/file/x", (1, 1), (1, 1)), ENOTDIR),
                (ask::utime(b"/loop/x", (1, 1), (1, 1)), ELOOP),
                (ask::utime(b"", (1, 1), (1, 1)), ENOENT),
                (ask::utime(&long_name(256), (1, 1), (1, 1)), ENAMETOOLONG),
            ]);
        },
    );
}

#[test]
fn an_immutable_or_append_only_file_stays_as_it_is() {
    acts(zoo, |stage| {
        stage.host(|tree| {
            flag(tree, "+i", "private");
            flag(tree, "+a", "file");
        });
        stage.play(&[
            (ask::chmod(b"/private", 0o777), EPERM),
            (ask::chown(b"/private", 1, 1), EPERM),
            (ask::truncate(b"/private", 0), EPERM),
            (ask::utime(b"/private", (1, 1), (1, 1)), EPERM),
            (ask::remove(b"/private"), EPERM),
            (ask::rename(b"/private", b"/x"), EPERM),
            (ask::link(b"/private", b"/x"), EPERM),
            (ask::setxattr(b"/private", b"user.x", b"1", 0), EPERM),
            (ask::open(b"/private", libc::O_RDWR), EPERM),
            (ask::open(b"/private", libc::O_RDONLY), OK),
            (ask::lstat(b"/private"), OK),
            (ask::version(b"/private"), OK),
            (ask::truncate(b"/file", 0), EPERM),
            (ask::open(b"/file", libc::O_WRONLY), EPERM),
            (ask::open(b"/file", libc::O_WRONLY | libc::O_APPEND), OK),
            (ask::open(b"/file", libc::O_RDWR | libc::O_APPEND | libc::O_TRUNC), EPERM),
            (ask::remove(b"/file"), EPERM),
        ]);
        stage.host(|tree| {
            flag(tree, "-i", "private");
            flag(tree, "-a", "file");
        });
        stage.play(&[(ask::remove(b"/private"), OK), (ask::remove(b"/file"), OK)]);
    });
}

fn flag(tree: &crate::tree::Owned<'_>, flag: &str, name: &str) {
    let status = std::process::Command::new("chattr").arg(flag).arg(tree.path(name)).status();
    assert!(
        status.expect("chattr, of e2fsprogs").success(),
        "chattr {flag} failed: these tests need a temporary directory on ext4, xfs, btrfs or tmpfs"
    );
}

#[test]
fn devices_keep_their_numbers() {
    acts(zoo, |stage| {
        for (major, minor) in [(0, 0), (1, 3), (4095, 0), (0, 0xf_ffff), (259, 65_536)] {
            let name = format!("/device-{major}-{minor}").into_bytes();
            stage.play(&[
                (ask::mknod(&name, libc::S_IFCHR | 0o600, device(major, minor), 0, 0), OK),
                (ask::lstat(&name), OK),
            ]);
        }
    });
}
