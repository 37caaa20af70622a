//! `T_OPEN`: flags of every kind, on everything that may be opened.

use libc::{
    O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_DSYNC, O_LARGEFILE, O_NOATIME, O_NOFOLLOW,
    O_NONBLOCK, O_RDONLY, O_RDWR, O_SYNC, O_TRUNC, O_WRONLY,
};
use nix::errno::Errno::{EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO};

use crate::creating::zoo;
use crate::stage::{OK, acts, long_name, play};
use crate::wire::ask;

#[test]
fn open_honours_the_guests_flags() {
    acts(zoo, |stage| {
        for access in [O_RDONLY, O_WRONLY, O_RDWR] {
            for flags in [
                0,
                O_APPEND,
                O_NONBLOCK,
                O_SYNC,
                O_DSYNC,
                O_NOATIME,
                O_NOFOLLOW,
                O_LARGEFILE,
                O_CLOEXEC,
                O_APPEND | O_NONBLOCK | O_NOATIME,
            ] {
                stage.play(&[
                    (ask::open(b"/file", access | flags), OK),
                    (ask::open(b"/private", access | flags), OK),
                    (ask::open(b"/closed", access | flags), OK),
                    (ask::open(b"/dirlink/file", access | flags), OK),
                    (ask::open(b"//dir//sub///deep", access | flags), OK),
                    (ask::open(b"/file", access | flags | O_DIRECTORY), ENOTDIR),
                    (ask::open(b"/none", access | flags), ENOENT),
                ]);
                let on_directory = if access == O_RDONLY { OK } else { EISDIR };
                stage.play(&[
                    (ask::open(b"/dir", access | flags), on_directory),
                    (ask::open(b"/dir", access | flags | O_DIRECTORY), on_directory),
                    (ask::open(b"/dir/", access | flags), on_directory),
                    (ask::open(b"/", access | flags | O_DIRECTORY), on_directory),
                ]);
            }
        }
    });
}

#[test]
fn open_truncates_when_it_is_told_to() {
    play(
        zoo,
        &[
            (ask::open(b"/file", O_WRONLY | O_TRUNC), OK),
            (ask::open(b"/private", O_RDWR | O_TRUNC), OK),
            (ask::open(b"/closed", O_RDONLY | O_TRUNC), OK),
            (ask::open(b"/dir", O_RDONLY | O_TRUNC), EISDIR),
            (ask::open(b"/dir/file", O_RDWR | O_DIRECT), OK),
            (ask::open(b"/none", O_RDWR | O_TRUNC), ENOENT),
        ],
    );
}

#[test]
fn open_refuses_what_the_kernel_refuses() {
    play(
        zoo,
        &[
            (ask::open(b"/file/", O_RDONLY), ENOTDIR),
            (ask::open(b"/file/x", O_RDONLY), ENOTDIR),
            (ask::open(b"/loop/x", O_RDONLY), ELOOP),
            (ask::open(b"/loop", O_RDONLY), ELOOP),
            (ask::open(b"/link", O_RDONLY | O_NOFOLLOW), ELOOP),
            (ask::open(b"/dangling", O_RDONLY | O_NOFOLLOW), ELOOP),
            (ask::open(b"", O_RDONLY), ENOENT),
            (ask::open(&long_name(256), O_RDONLY), ENAMETOOLONG),
            (ask::open(&long_name(60_000), O_RDONLY), ENAMETOOLONG),
            (ask::open(b"/socket", O_RDONLY), ENXIO),
            (ask::open(b"/socket", O_RDWR), ENXIO),
            (ask::open(b"/fifo", O_RDONLY | O_NONBLOCK), ENXIO),
            (ask::open(b"/fifo", O_RDWR), ENXIO),
            (ask::open(b"/fifo", O_WRONLY | O_NONBLOCK), ENXIO),
            (ask::open(b"/fifo", O_RDONLY | O_DIRECTORY), ENOTDIR),
            (ask::open(b"/null", O_RDONLY), ENXIO),
            (ask::open(b"/null", O_RDWR), ENXIO),
            (ask::open(b"/null", O_RDONLY | O_DIRECTORY), ENOTDIR),
            // The access mode 3 is neither reading nor writing: for ioctl alone.
            (ask::open(b"/file", 3), OK),
            (ask::open(b"/dir", 3), EISDIR),
        ],
    );
}

#[test]
fn a_final_symlink_is_followed_inside_the_export() {
    play(
        |tree| {
            zoo(tree);
            tree.link("absfile", "/file")
                .link("host", "/etc/passwd")
                .link("up", "../../../../../../file")
                .link("tofifo", "fifo")
                .link("tonull", "null")
                .link("chain", "link");
        },
        &[
            (ask::open(b"/link", O_RDONLY), OK),
            (ask::open(b"/absfile", O_RDWR), OK),
            (ask::open(b"/chain", O_WRONLY | O_TRUNC), OK),
            (ask::open(b"/up", O_RDONLY), OK),
            (ask::open(b"/dirlink", O_RDONLY), OK),
            (ask::open(b"/dirlink", O_RDONLY | O_DIRECTORY), OK),
            (ask::open(b"/abslink", O_RDONLY | O_DIRECTORY), OK),
            (ask::open(b"/dirlink/", O_RDONLY | O_DIRECTORY), OK),
            (ask::open(b"/abslink", O_RDWR), EISDIR),
            (ask::open(b"/link", O_RDONLY | O_DIRECTORY), ENOTDIR),
            (ask::open(b"/dirlink", O_RDONLY | O_DIRECTORY | O_NOFOLLOW), ENOTDIR),
            (ask::open(b"/loop", O_RDONLY | O_DIRECTORY), ELOOP),
            // In there, the host's files are not.
            (ask::open(b"/host", O_RDONLY), ENOENT),
            (ask::open(b"/dangling", O_RDWR), ENOENT),
            (ask::open(b"/tonull", O_RDONLY), ENXIO),
            (ask::open(b"/tofifo", O_RDWR), ENXIO),
            (ask::create(b"/link", O_CREAT | O_RDWR, 0o644, 0, 0), OK),
            (ask::create(b"/link", O_RDWR, 0o644, 0, 0), OK),
            (ask::create(b"/absfile", O_CREAT | O_WRONLY | O_TRUNC, 0o644, 1000, 1000), OK),
            (ask::create(b"/dirlink", O_CREAT | O_RDWR, 0o644, 0, 0), EISDIR),
            (ask::create(b"/dangling", O_RDWR, 0o644, 0, 0), ENOENT),
            (ask::truncate(b"/link", 3), OK),
            (ask::truncate(b"/absfile", 7), OK),
            (ask::truncate(b"/dirlink", 0), EISDIR),
            (ask::truncate(b"/dangling", 0), ENOENT),
            (ask::truncate(b"/host", 0), ENOENT),
            (ask::truncate(b"/tofifo", 0), EINVAL),
            (ask::chmod(b"/link", 0o600), OK),
            (ask::chmod(b"/up", 0o4711), OK),
            (ask::chmod(b"/dirlink", 0o700), OK),
            (ask::chmod(b"/tofifo", 0o622), OK),
            (ask::chmod(b"/host", 0o777), ENOENT),
            (ask::chmod(b"/loop", 0o700), ELOOP),
            (ask::version(b"/link"), OK),
            (ask::version(b"/dirlink"), OK),
            (ask::version(b"/dangling"), ENOENT),
            (ask::version(b"/loop"), ELOOP),
        ],
    );
}
