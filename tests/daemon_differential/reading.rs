//! `T_LSTAT`, `T_READLINK`, `T_STATFS`, `T_GETVERSION`.

use std::fs;

use nix::errno::Errno::{EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR};

use crate::creating::zoo;
use crate::stage::{OK, acts, long_name, play};
use crate::wire::ask;

#[test]
fn lstat_tells_what_the_host_sees() {
    play(
        |tree| {
            zoo(tree);
            tree.times("file", 1, 2).times("link", -5, 4_102_444_800).times("dir", 0, 2_000_000_000);
            tree.file("sparse", b"", 0o644, 1, 2);
            fs::File::options().write(true).open(tree.path("sparse")).unwrap().set_len(1 << 40).unwrap();
        },
        &[
            (ask::lstat(b"/"), OK),
            (ask::lstat(b"//"), OK),
            (ask::lstat(b"/dir"), OK),
            (ask::lstat(b"/dir/"), OK),
            (ask::lstat(b"//dir///sub//deep"), OK),
            (ask::lstat(b"/file"), OK),
            (ask::lstat(b"/private"), OK),
            (ask::lstat(b"/closed"), OK),
            (ask::lstat(b"/suid"), OK),
            (ask::lstat(b"/link"), OK),
            (ask::lstat(b"/dangling"), OK),
            (ask::lstat(b"/loop"), OK),
            (ask::lstat(b"/dirlink"), OK),
            (ask::lstat(b"/dirlink/file"), OK),
            (ask::lstat(b"/abslink/file"), OK),
            (ask::lstat(b"/fifo"), OK),
            (ask::lstat(b"/socket"), OK),
            (ask::lstat(b"/null"), OK),
            (ask::lstat(b"/disk"), OK),
            (ask::lstat(b"/sparse"), OK),
            (ask::lstat(b"/none"), ENOENT),
            (ask::lstat(b"/none/x"), ENOENT),
            (ask::lstat(b"/file/"), ENOTDIR),
            (ask::lstat(b"/file/x"), ENOTDIR),
            (ask::lstat(b"/link/"), ENOTDIR),
            (ask::lstat(b"/dangling/"), ENOENT),
            (ask::lstat(b"/loop/"), ELOOP),
            (ask::lstat(b"/loop/x"), ELOOP),
            (ask::lstat(b""), ENOENT),
            (ask::lstat(&long_name(4096)), ENAMETOOLONG),
            (ask::lstat(&long_name(65534)), ENAMETOOLONG),
        ],
    );
}

#[test]
fn readlink_tells_the_target_that_fits() {
    play(
        |tree| {
            zoo(tree);
            tree.link("bytes", b"\xff\x01\n ").link("long", vec![b'l'; 4095]).link("six", b"target");
        },
        &[
            (ask::readlink(b"/link", 4096), OK),
            (ask::readlink(b"/dangling", 4096), OK),
            (ask::readlink(b"/loop", 4096), OK),
            (ask::readlink(b"/abslink", 4096), OK),
            (ask::readlink(b"/bytes", 4096), OK),
            (ask::readlink(b"/long", 4096), OK),
            (ask::readlink(b"/long", 4097), OK),
            (ask::readlink(b"/long", 65535), OK),
            (ask::readlink(b"/long", 65536), OK),
            (ask::readlink(b"/long", 1 << 20), OK),
            (ask::readlink(b"/six", 7), OK),
            (ask::readlink(b"/six", 8), OK),
            (ask::readlink(b"/six", 0), EINVAL),
            (ask::readlink(b"/file", 4096), EINVAL),
            (ask::readlink(b"/dir", 4096), EINVAL),
            (ask::readlink(b"/fifo", 4096), EINVAL),
            (ask::readlink(b"/dirlink/", 4096), EINVAL),
            (ask::readlink(b"/none", 4096), ENOENT),
            (ask::readlink(b"/link/x", 4096), ENOTDIR),
            (ask::readlink(b"/loop/x", 4096), ELOOP),
            (ask::readlink(b"", 4096), ENOENT),
        ],
    );
}

#[test]
fn statfs_tells_of_the_filesystem_behind_any_path() {
    play(
        zoo,
        &[
            (ask::statfs(b"/"), OK),
            (ask::statfs(b"//dir//sub"), OK),
            (ask::statfs(b"/file"), OK),
            (ask::statfs(b"/closed"), OK),
            (ask::statfs(b"/dir/"), OK),
            (ask::statfs(b"/dirlink/file"), OK),
            (ask::statfs(b"/link"), OK),
            (ask::statfs(b"/dirlink"), OK),
            (ask::statfs(b"/abslink"), OK),
            (ask::statfs(b"/dangling"), ENOENT),
            (ask::statfs(b"/loop"), ELOOP),
            (ask::statfs(b"/none"), ENOENT),
            (ask::statfs(b"/file/x"), ENOTDIR),
            (ask::statfs(b"/file/"), ENOTDIR),
            (ask::statfs(b"/loop/x"), ELOOP),
            (ask::statfs(b""), ENOENT),
            (ask::statfs(&long_name(256)), ENAMETOOLONG),
            (ask::statfs(b"/fifo"), OK),
            (ask::statfs(b"/socket"), OK),
            (ask::statfs(b"/null"), OK),
        ],
    );
}

#[test]
fn a_version_is_the_inodes_generation() {
    acts(zoo, |stage| {
        stage.play(&[
            (ask::version(b"/"), OK),
            (ask::version(b"/dir"), OK),
            (ask::version(b"//dir/"), OK),
            (ask::version(b"/file"), OK),
            (ask::version(b"/private"), OK),
            (ask::version(b"/closed"), OK),
            (ask::version(b"/dir/sub/deep"), OK),
            (ask::version(b"/dirlink/file"), OK),
            (ask::version(b"/none"), ENOENT),
            (ask::version(b"/file/x"), ENOTDIR),
            (ask::version(b""), ENOENT),
            (ask::version(b"/loop/x"), ELOOP),
            (ask::version(&long_name(300)), ENAMETOOLONG),
        ]);
        // Files made and removed in turn reuse inode numbers, and differ by generation.
        for _ in 0..8 {
            stage.host(|tree| {
                tree.file("again", b"", 0o644, 0, 0);
            });
            stage.play(&[(ask::version(b"/again"), OK), (ask::remove(b"/again"), OK)]);
        }
    });
}
