//! `T_REMOVE` and `T_RENAME`: everything onto everything.

use nix::errno::Errno::{EBUSY, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENOTEMPTY};

use crate::creating::zoo;
use crate::stage::{OK, acts, long_name, play};
use crate::wire::ask;

/// Every kind of entry that the zoo has at its root, and a name that is not there.
const KINDS: [&[u8]; 14] = [
    b"/dir",
    b"/empty",
    b"/file",
    b"/private",
    b"/link",
    b"/dangling",
    b"/loop",
    b"/dirlink",
    b"/fifo",
    b"/socket",
    b"/null",
    b"/disk",
    b"/suid",
    b"/none",
];

#[test]
fn remove_takes_everything_but_what_is_in_use() {
    play(
        zoo,
        &[
            (ask::remove(b"/file"), OK),
            (ask::remove(b"/file"), ENOENT),
            (ask::remove(b"/link"), OK),
            (ask::remove(b"/dangling"), OK),
            (ask::remove(b"/loop"), OK),
            (ask::remove(b"/fifo"), OK),
            (ask::remove(b"/socket"), OK),
            (ask::remove(b"/null"), OK),
            (ask::remove(b"/disk"), OK),
            (ask::remove(b"/closed"), OK),
            (ask::remove(b"/empty"), OK),
            (ask::remove(b"/dir"), ENOTEMPTY),
            (ask::remove(b"/dir/"), ENOTEMPTY),
            (ask::remove(b"/private/"), ENOTDIR),
            (ask::remove(b"/private/x"), ENOTDIR),
            (ask::remove(b"/none/x"), ENOENT),
            (ask::remove(b"/dir/."), EINVAL),
            (ask::remove(b"/dir/.."), ENOTEMPTY),
            (ask::remove(b"/dirlink/file"), OK),
            (ask::remove(b"/dirlink"), OK),
            (ask::remove(b"/abslink/sub/deep"), OK),
            (ask::remove(b"/dir//sub///"), OK),
            (ask::remove(b"/dir"), OK),
            (ask::remove(b"/abslink/x"), ENOENT),
            (ask::remove(b"/"), EBUSY),
            (ask::remove(b"//"), EBUSY),
            (ask::remove(b"/."), EINVAL),
            (ask::remove(b"/.."), ENOTEMPTY),
            (ask::remove(b""), ENOENT),
            (ask::remove(&[b"/".as_slice(), &long_name(256)].concat()), ENAMETOOLONG),
        ],
    );
}

#[test]
fn a_directory_link_with_a_slash_is_no_directory_to_remove() {
    play(
        zoo,
        &[
            (ask::remove(b"/dirlink/"), ENOTDIR),
            (ask::remove(b"/abslink/"), ENOTDIR),
            (ask::remove(b"/link/"), ENOTDIR),
            (ask::remove(b"/dangling/"), ENOTDIR),
            (ask::remove(b"/loop/"), ENOTDIR),
        ],
    );
}

#[test]
fn rename_moves_everything_onto_everything() {
    acts(zoo, |stage| {
        for old in KINDS {
            for new in KINDS {
                stage.compare([ask::rename(old, new)]);
                stage.host(|tree| {
                    tree.empty("");
                    zoo(tree);
                });
            }
        }
        assert_eq!(stage.steps(), KINDS.len() * KINDS.len());
    });
}

#[test]
fn rename_refuses_what_the_kernel_refuses() {
    play(
        zoo,
        &[
            (ask::rename(b"/file", b"/moved"), OK),
            (ask::rename(b"/moved", b"/dir/moved"), OK),
            (ask::rename(b"/dir/moved", b"//dir//sub//moved"), OK),
            (ask::rename(b"/dir/sub/moved", b"/private"), OK),
            (ask::rename(b"/file", b"/x"), ENOENT),
            (ask::rename(b"/private", b"/none/x"), ENOENT),
            (ask::rename(b"/private", b"/blank/x"), ENOTDIR),
            (ask::rename(b"/private/", b"/x"), ENOTDIR),
            (ask::rename(b"/private", b"/x/"), ENOTDIR),
            (ask::rename(b"/private", b"/dir"), EISDIR),
            (ask::rename(b"/dir", b"/private"), ENOTDIR),
            (ask::rename(b"/empty", b"/dir"), ENOTEMPTY),
            (ask::rename(b"/dir", b"/empty"), OK),
            (ask::rename(b"/empty", b"/dir/"), OK),
            (ask::rename(b"/dir", b"/dir/sub/dir"), EINVAL),
            (ask::rename(b"/dir/sub", b"/dir"), ENOTEMPTY),
            (ask::rename(b"/dir/.", b"/x"), EBUSY),
            (ask::rename(b"/dir/..", b"/x"), EBUSY),
            (ask::rename(b"/", b"/x"), EBUSY),
            (ask::rename(b"/private", b"/"), EBUSY),
            (ask::rename(b"/private", b"/."), EBUSY),
            (ask::rename(b"", b"/x"), ENOENT),
            (ask::rename(b"/private", b""), ENOENT),
            (ask::rename(b"/loop/x", b"/x"), ELOOP),
            (ask::rename(b"/private", b"/loop/x"), ELOOP),
            (ask::rename(b"/private", &[b"/".as_slice(), &long_name(256)].concat()), ENAMETOOLONG),
            (ask::rename(b"/link", b"/link2"), OK),
            (ask::rename(b"/dirlink", b"/link2"), OK),
            (ask::rename(b"/fifo", b"/socket"), OK),
            (ask::rename(b"/private", b"/private"), OK),
            (ask::link(b"/private", b"/twin"), OK),
            // Two names of one inode: rename(2) does nothing, and says so with success.
            (ask::rename(b"/private", b"/twin"), OK),
            (ask::lstat(b"/private"), OK),
        ],
    );
}
