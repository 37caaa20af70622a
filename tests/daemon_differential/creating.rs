//! `T_CREATE`, `T_MKNOD`, `T_MKDIR`, `T_SYMLINK`, `T_LINK`: owners, modes, and what stands in the way.

use libc::{O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use nix::errno::Errno::{EEXIST, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM};

use crate::stage::{OK, Step, acts, device, long_name, play};
use crate::tree::Owned;
use crate::wire::{LEAVE, ask};

const S_IFIFO: u32 = libc::S_IFIFO;
const S_IFSOCK: u32 = libc::S_IFSOCK;
const S_IFCHR: u32 = libc::S_IFCHR;
const S_IFBLK: u32 = libc::S_IFBLK;
const S_IFREG: u32 = libc::S_IFREG;

/// The identities that a guest may send, mixed.
const IDENTITIES: [(i32, i32); 12] = [
    (0, 0),
    (1000, 1000),
    (1000, 0),
    (0, 1000),
    (65534, 65534),
    (LEAVE, LEAVE),
    (LEAVE, 0),
    (0, LEAVE),
    (LEAVE, 1000),
    (1000, LEAVE),
    (2_000_000_000, 2_000_000_000),
    // -2: an id like any other, the largest there is.
    (-2, -2),
];

/// Directories whose owner, group and bits decide what becomes of an entry made in them.
fn parents(tree: &Owned<'_>) {
    tree.dir("plain", 0o755, 0, 0)
        .dir("theirs", 0o700, 4242, 4242)
        .dir("setgid", 0o2775, 0, 2000)
        .dir("setgid-member", 0o2777, 1000, 1000)
        .dir("sticky", 0o1777, 0, 0)
        .dir("closed", 0o000, 0, 0)
        .dir("defaults", 0o755, 0, 0)
        .xattr("defaults", "system.posix_acl_default", &default_acl());
}

/// A default ACL: user::rwx, user:1000:r--, group::r-x, mask::rwx, other::---.
fn default_acl() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1_u16, 7_u16, none), (2, 4, 1000), (4, 5, none), (16, 7, none), (32, 0, none)]
    {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

const PARENTS: [&str; 7] = ["plain", "theirs", "setgid", "setgid-member", "sticky", "closed", "defaults"];

/// One path for each parent and identity.
fn paths() -> Vec<(Vec<u8>, i32, i32)> {
    paths_of(&IDENTITIES)
}

/// The same without the identities under which the reference loses capabilities before it has even created (its
/// defect 1): it makes no device, and clears setgid bits.
fn undiminished_paths() -> Vec<(Vec<u8>, i32, i32)> {
    let undiminished = |(uid, gid): &(i32, i32)| (*uid, *gid) == (0, 0) || ![0, LEAVE].contains(uid);
    paths_of(&IDENTITIES.into_iter().filter(undiminished).collect::<Vec<_>>())
}

fn paths_of(identities: &[(i32, i32)]) -> Vec<(Vec<u8>, i32, i32)> {
    let mut paths = Vec::new();
    for parent in PARENTS {
        for &(uid, gid) in identities {
            paths.push((format!("//{parent}/{uid}.{gid}").into_bytes(), uid, gid));
        }
    }
    paths
}

#[test]
fn files_belong_to_whom_the_guest_says_in_every_directory() {
    acts(parents, |stage| {
        for mode in [0o644, 0o6755, 0o2745, 0o1666, 0] {
            stage.host(|tree| {
                for parent in PARENTS {
                    tree.empty(parent);
                }
            });
            let paths = if mode & libc::S_ISGID == 0 { paths() } else { undiminished_paths() };
            stage.compare(
                paths.iter().map(|(path, uid, gid)| ask::create(path, O_CREAT | O_RDWR, mode, *uid, *gid)),
            );
        }
    });
}

#[test]
fn directories_belong_to_whom_the_guest_says_in_every_directory() {
    acts(parents, |stage| {
        for mode in [0o755, 0o2750, 0o7777] {
            stage.host(|tree| {
                for parent in PARENTS {
                    tree.empty(parent);
                }
            });
            stage.compare(paths().iter().map(|(path, uid, gid)| ask::mkdir(path, mode, *uid, *gid)));
        }
    });
}

#[test]
fn symlinks_belong_to_whom_the_guest_says_in_every_directory() {
    acts(parents, |stage| {
        stage.compare(paths().iter().map(|(path, uid, gid)| ask::symlink(b"target", path, *uid, *gid)));
    });
}

#[test]
fn nodes_belong_to_whom_the_guest_says_in_every_directory() {
    acts(parents, |stage| {
        for (mode, rdev) in [(S_IFIFO | 0o640, 0), (S_IFCHR | 0o2666, device(1, 3)), (S_IFREG | 0o2755, 0)] {
            stage.host(|tree| {
                for parent in PARENTS {
                    tree.empty(parent);
                }
            });
            let paths = if mode & libc::S_IFMT == S_IFIFO { paths() } else { undiminished_paths() };
            stage.compare(paths.iter().map(|(path, uid, gid)| ask::mknod(path, mode, rdev, *uid, *gid)));
        }
    });
}

#[test]
fn mknod_makes_every_type_that_a_guest_may_ask_for() {
    play(
        parents,
        &[
            (ask::mknod(b"/fifo", S_IFIFO | 0o644, 0, 0, 0), OK),
            (ask::mknod(b"/socket", S_IFSOCK | 0o755, 0, 0, 0), OK),
            (ask::mknod(b"/regular", S_IFREG | 0o600, 0, 0, 0), OK),
            (ask::mknod(b"/no-type", 0o600, 0, 0, 0), OK),
            (ask::mknod(b"/null", S_IFCHR | 0o666, device(1, 3), 0, 0), OK),
            (ask::mknod(b"/loop99", S_IFBLK | 0o660, device(7, 99), 0, 0), OK),
            (ask::mknod(b"/wide", S_IFCHR | 0o600, device(4095, 0xf_ffff), 0, 0), OK),
            (ask::mknod(b"/whiteout", S_IFCHR, 0, 0, 0), OK),
            (ask::mknod(b"/bits", S_IFIFO | 0o7777, 0, 0, 0), OK),
            (ask::lstat(b"/null"), OK),
            (ask::lstat(b"/loop99"), OK),
            (ask::lstat(b"/wide"), OK),
            (ask::lstat(b"/socket"), OK),
            // A user of the guest who is not root cannot make devices, and could not on the host.
            (ask::mknod(b"/users-fifo", S_IFIFO | 0o644, 0, 1000, 1000), OK),
            (ask::mknod(b"/users-socket", S_IFSOCK | 0o644, 0, 1000, 1000), OK),
            (ask::mknod(b"/users-null", S_IFCHR | 0o666, device(1, 3), 1000, 1000), EPERM),
            (ask::mknod(b"/users-loop", S_IFBLK | 0o660, device(7, 99), 1000, 1000), EPERM),
            (ask::mknod(b"/a-directory", libc::S_IFDIR | 0o755, 0, 0, 0), EPERM),
            (ask::mknod(b"/a-link", libc::S_IFLNK | 0o777, 0, 0, 0), EINVAL),
            (ask::mknod(b"/no-such-type", 0o170_000, 0, 0, 0), EINVAL),
            (ask::mknod(b"/fifo", S_IFIFO | 0o644, 0, 0, 0), EEXIST),
            (ask::mknod(b"/plain", S_IFIFO | 0o644, 0, 0, 0), EEXIST),
            (ask::mknod(b"/none/fifo", S_IFIFO | 0o644, 0, 0, 0), ENOENT),
            (ask::mknod(b"/fifo/fifo", S_IFIFO | 0o644, 0, 0, 0), ENOTDIR),
            (ask::mknod(b"/slash/", S_IFIFO | 0o644, 0, 0, 0), ENOENT),
            (ask::mknod(b"/plain/", S_IFIFO | 0o644, 0, 0, 0), EEXIST),
            (ask::mknod(b"", S_IFIFO | 0o644, 0, 0, 0), ENOENT),
            (ask::mknod(b"/", S_IFIFO | 0o644, 0, 0, 0), EEXIST),
        ],
    );
}

#[test]
fn mkdir_refuses_what_the_kernel_refuses() {
    let too_long = [b"/".as_slice(), &long_name(256)].concat();
    let longest = [b"/".as_slice(), &long_name(255)].concat();
    play(
        zoo,
        &[
            (ask::mkdir(b"/new", 0o755, 0, 0), OK),
            (ask::mkdir(b"/new", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/new/", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/new/slash/", 0o700, 0, 0), OK),
            (ask::mkdir(b"/new/slashes///", 0o700, 0, 0), OK),
            (ask::mkdir(b"//new//twice", 0o700, 0, 0), OK),
            (ask::mkdir(b"/file", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/link", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/dangling", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/loop", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/file/sub", 0o755, 0, 0), ENOTDIR),
            (ask::mkdir(b"/none/sub", 0o755, 0, 0), ENOENT),
            (ask::mkdir(b"/dangling/sub", 0o755, 0, 0), ENOENT),
            (ask::mkdir(b"/loop/sub", 0o755, 0, 0), ELOOP),
            (ask::mkdir(b"/dirlink/sub1", 0o755, 1000, 1000), OK),
            (ask::mkdir(b"/abslink/sub2", 0o755, 1000, 1000), OK),
            (ask::mkdir(&too_long, 0o755, 0, 0), ENAMETOOLONG),
            (ask::mkdir(&longest, 0o755, 0, 0), OK),
            (ask::mkdir(&vec![b'/'; 5000], 0o755, 0, 0), ENAMETOOLONG),
            (ask::mkdir(b"", 0o755, 0, 0), ENOENT),
            (ask::mkdir(b"/", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/.", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/..", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/dir/..", 0o755, 0, 0), EEXIST),
            (ask::mkdir(b"/dir/.", 0o755, 0, 0), EEXIST),
            // Bits beyond the permissions are the kernel's to drop.
            (ask::mkdir(b"/typed", libc::S_IFDIR | 0o755, 0, 0), OK),
            (ask::mkdir(b"/all-bits", u32::MAX, 0, 0), OK),
            (ask::lstat(b"/typed"), OK),
            (ask::lstat(b"/all-bits"), OK),
        ],
    );
}

/// One of everything.
pub fn zoo(tree: &Owned<'_>) {
    tree.dir("dir", 0o755, 0, 0)
        .dir("dir/sub", 0o755, 1000, 1000)
        .file("dir/sub/deep", b"deep", 0o644, 1000, 1000)
        .file("dir/file", b"in the directory", 0o640, 1000, 1000)
        .dir("empty", 0o755, 1000, 1000)
        .file("file", b"hello, world\n", 0o644, 1000, 1000)
        .file("private", b"root's own", 0o600, 0, 0)
        .file("closed", b"nobody's", 0o000, 1000, 1000)
        .file("suid", b"#!", 0o6755, 1000, 1000)
        .file("blank", b"", 0o644, 0, 0)
        .link("link", "file")
        .link("dangling", "nowhere")
        .link("loop", "loop")
        .link("dirlink", "dir")
        .link("abslink", "/dir")
        .fifo("fifo")
        .node("socket", rustix::fs::FileType::Socket, 0)
        .node("null", rustix::fs::FileType::CharacterDevice, device(1, 3))
        .node("disk", rustix::fs::FileType::BlockDevice, device(7, 99));
}

#[test]
fn create_honours_the_guests_flags() {
    let new = O_CREAT | O_RDWR;
    play(
        zoo,
        &[
            (ask::create(b"/a", new, 0o644, 1000, 1000), OK),
            (ask::create(b"/a", new, 0o600, 0, 0), OK),
            (ask::create(b"/a", new | O_EXCL, 0o600, 0, 0), EEXIST),
            (ask::create(b"/b", new | O_EXCL, 0o600, 0, 0), OK),
            (ask::create(b"/c", O_CREAT | O_WRONLY, 0o644, 1000, 1000), OK),
            (ask::create(b"/d", O_CREAT | O_RDONLY, 0o200, 1000, 1000), OK),
            (ask::create(b"/e", O_CREAT | O_WRONLY | O_APPEND, 0o400, 1000, 1000), OK),
            (ask::create(b"/f", new | O_NOFOLLOW, 0o644, 1000, 1000), OK),
            (ask::create(b"/g", new | libc::O_SYNC, 0o644, 1000, 1000), OK),
            (ask::create(b"/h", new | libc::O_NONBLOCK, 0o644, 1000, 1000), OK),
            (ask::create(b"/i", new | libc::O_LARGEFILE, 0o644, 1000, 1000), OK),
            (ask::create(b"/j", new | libc::O_CLOEXEC | libc::O_NOCTTY, 0o644, 1000, 1000), OK),
            (ask::create(b"/file", new | O_TRUNC, 0o644, 0, 0), OK),
            (ask::create(b"/dir/file", new | O_APPEND, 0o644, 0, 0), OK),
            // Without O_CREAT it is an open as that user.
            (ask::create(b"/private", O_RDWR, 0o644, 0, 0), OK),
            (ask::create(b"/none", O_RDWR, 0o644, 0, 0), ENOENT),
            (ask::create(b"/dir", new, 0o644, 0, 0), EISDIR),
            (ask::create(b"/dir", new | O_EXCL, 0o644, 0, 0), EEXIST),
            (ask::create(b"/dir/", new, 0o644, 0, 0), EISDIR),
            (ask::create(b"/new/", new, 0o644, 0, 0), EISDIR),
            (ask::create(b"/", new, 0o644, 0, 0), EISDIR),
            (ask::create(b"", new, 0o644, 0, 0), ENOENT),
            (ask::create(b"/new", new | O_DIRECTORY, 0o644, 0, 0), EINVAL),
            (ask::create(b"/file/new", new, 0o644, 0, 0), ENOTDIR),
            (ask::create(b"/none/new", new, 0o644, 0, 0), ENOENT),
            (ask::create(b"/loop/new", new, 0o644, 0, 0), ELOOP),
            (ask::create(b"/dirlink/new", new, 0o644, 1000, 1000), OK),
            (ask::create(b"/link", new | O_EXCL, 0o644, 0, 0), EEXIST),
            (ask::create(b"/link", new | O_NOFOLLOW, 0o644, 0, 0), ELOOP),
            (ask::create(b"/loop", new, 0o644, 0, 0), ELOOP),
            (ask::create(b"/fifo", new | O_EXCL, 0o644, 0, 0), EEXIST),
            (ask::create(b"/socket", new, 0o644, 0, 0), nix::errno::Errno::ENXIO),
        ],
    );
}

#[test]
fn a_user_creates_with_the_helpers_reach_but_no_more() {
    let new = O_CREAT | O_RDWR;
    play(
        zoo,
        &[
            // The guest has checked: the helper may write to any directory for any user.
            (ask::create(b"/private", new, 0o644, 1000, 1000), OK),
            (ask::create(b"/closed", new, 0o644, 1000, 1000), OK),
            (ask::create(b"/dir/new", new, 0o644, 1234, 1234), OK),
            // What only an owner may.
            (ask::create(b"/private", O_RDWR | libc::O_NOATIME, 0o644, 1000, 1000), EPERM),
            (ask::create(b"/file", O_RDWR | libc::O_NOATIME, 0o644, 1000, 1000), OK),
            (ask::create(b"/file", O_RDWR | libc::O_NOATIME, 0o644, 1001, 1001), EPERM),
            (ask::create(b"/file", O_RDWR | libc::O_NOATIME, 0o644, 0, 0), OK),
            // Afterwards the helper has all its own rights again.
            (ask::chown(b"/private", 5, 6), OK),
            (ask::chmod(b"/file", 0o4711), OK),
            (ask::mknod(b"/null2", S_IFCHR | 0o666, device(1, 3), 0, 0), OK),
        ],
    );
}

#[test]
fn symlinks_keep_any_target() {
    let longest = vec![b't'; 4095];
    let too_long = vec![b't'; 4096];
    play(
        zoo,
        &[
            (ask::symlink(b"file", b"/s1", 0, 0), OK),
            (ask::symlink(b"/etc/passwd", b"/s2", 1000, 1000), OK),
            (ask::symlink(b"../../..", b"/dir/s3", 1000, 0), OK),
            (ask::symlink(b"\xff\xfe\n", b"/s4", 0, 0), OK),
            (ask::symlink(&longest, b"/s5", 0, 0), OK),
            (ask::symlink(&too_long, b"/s6", 0, 0), ENAMETOOLONG),
            (ask::symlink(b"", b"/s7", 0, 0), ENOENT),
            (ask::symlink(b"x", b"", 0, 0), ENOENT),
            (ask::symlink(b"x", b"/file", 0, 0), EEXIST),
            (ask::symlink(b"x", b"/link", 0, 0), EEXIST),
            (ask::symlink(b"x", b"/dangling", 0, 0), EEXIST),
            (ask::symlink(b"x", b"/dir/", 0, 0), EEXIST),
            (ask::symlink(b"x", b"/new/", 0, 0), ENOENT),
            (ask::symlink(b"x", b"/none/s", 0, 0), ENOENT),
            (ask::symlink(b"x", b"/file/s", 0, 0), ENOTDIR),
            (ask::symlink(b"x", b"/", 0, 0), EEXIST),
            (ask::readlink(b"/s2", 1024), OK),
            (ask::readlink(b"/s4", 1024), OK),
            (ask::lstat(b"/s5"), OK),
        ],
    );
}

#[test]
fn hard_links_to_everything() {
    play(
        zoo,
        &[
            (ask::link(b"/file", b"/h-file"), OK),
            (ask::link(b"/link", b"/h-link"), OK),
            (ask::link(b"/dangling", b"/h-dangling"), OK),
            (ask::link(b"/fifo", b"/h-fifo"), OK),
            (ask::link(b"/socket", b"/h-socket"), OK),
            (ask::link(b"/null", b"/h-null"), OK),
            (ask::link(b"/suid", b"/h-suid"), OK),
            (ask::link(b"/private", b"/dir/sub/h-private"), OK),
            (ask::link(b"/dirlink/file", b"/dirlink/h"), OK),
            (ask::link(b"/dir", b"/h-dir"), EPERM),
            (ask::link(b"/", b"/h-root"), EPERM),
            (ask::link(b"/none", b"/h"), ENOENT),
            (ask::link(b"/file", b"/dir"), EEXIST),
            (ask::link(b"/file", b"/h-file"), EEXIST),
            (ask::link(b"/file", b"/dangling"), EEXIST),
            (ask::link(b"/file", b"/none/h"), ENOENT),
            (ask::link(b"/file", b"/private/h"), ENOTDIR),
            (ask::link(b"/file/", b"/h"), ENOTDIR),
            (ask::link(b"/file", b"/h/"), ENOENT),
            (ask::link(b"/dirlink/", b"/h"), EPERM),
            (ask::link(b"", b"/h"), ENOENT),
            (ask::link(b"/file", b""), ENOENT),
            (ask::link(b"/loop/x", b"/h"), ELOOP),
            (ask::lstat(b"/h-file"), OK),
            (ask::lstat(b"/h-link"), OK),
            (ask::chmod(b"/h-file", 0o600), OK),
            (ask::remove(b"/file"), OK),
            (ask::lstat(b"/h-file"), OK),
        ],
    );
}

#[test]
fn the_sticky_bit_protects_what_is_there() {
    let tree = |tree: &Owned<'_>| {
        tree.dir("tmp", 0o1777, 0, 0)
            .file("tmp/theirs", b"x", 0o666, 1001, 1001)
            .file("tmp/mine", b"x", 0o600, 1000, 1000)
            .dir("shared", 0o1775, 0, 1000)
            .file("shared/theirs", b"x", 0o666, 1001, 1001)
            .dir("closed", 0o1755, 0, 0)
            .file("closed/theirs", b"x", 0o666, 1001, 1001)
            .dir("plain", 0o777, 0, 0)
            .file("plain/theirs", b"x", 0o666, 1001, 1001);
    };
    let steps: Vec<Step> = vec![
        (ask::create(b"/tmp/mine", O_CREAT | O_RDWR, 0o644, 1000, 1000), OK),
        (ask::create(b"/tmp/new", O_CREAT | O_RDWR, 0o644, 1000, 1000), OK),
    ];
    acts(tree, |stage| {
        stage.play(&steps);
        // What fs.protected_regular says is the kernel's to the original, and the helper's own decision here.
        for (uid, gid) in [(1000, 1000), (0, 0), (1001, 1001), (LEAVE, LEAVE)] {
            for path in [&b"/tmp/theirs"[..], b"/shared/theirs", b"/closed/theirs", b"/plain/theirs"] {
                for flags in [O_CREAT | O_RDWR, O_CREAT | O_WRONLY | O_TRUNC, O_CREAT | O_RDONLY] {
                    stage.compare([ask::create(path, flags, 0o644, uid, gid)]);
                }
            }
        }
        stage.compare([ask::create(b"/tmp/theirs", O_RDWR, 0o644, 1000, 1000), ask::remove(b"/tmp/theirs")]);
    });
}
