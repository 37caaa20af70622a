//! Filesystems mounted below the export: `EXDEV`, `EROFS`, `ENOSPC`, `EBUSY`, and types that keep no generation.

use nix::errno::Errno::{EBUSY, ENOENT, ENOSPC, ENOTDIR, ENOTTY, EROFS, EXDEV};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::apart::with_private_mounts;
use crate::creating::zoo;
use crate::stage::{OK, acts};
use crate::tree::Owned;
use crate::wire::ask;

const NONE: Option<&str> = None;

pub fn mount_tmpfs(tree: &Owned<'_>, name: &str, options: &str) {
    tree.dir(name, 0o755, 0, 0);
    mount(Some("tmpfs"), &tree.path(name), Some("tmpfs"), MsFlags::empty(), Some(options)).expect("a tmpfs");
}

pub fn unmount(tree: &Owned<'_>, name: &str) {
    umount2(&tree.path(name), MntFlags::MNT_DETACH).expect("an end to a mount");
}

#[test]
fn nothing_is_renamed_or_linked_from_one_filesystem_to_another() {
    with_private_mounts(|| {
        let prepare = |tree: &Owned<'_>| {
            zoo(tree);
            mount_tmpfs(tree, "mnt", "size=1m,mode=755");
            tree.file("mnt/there", b"there", 0o644, 1000, 1000);
        };
        acts(prepare, |stage| {
            stage.play(&[
                (ask::lstat(b"/mnt"), OK),
                (ask::statfs(b"/mnt"), OK),
                (ask::statfs(b"/mnt/there"), OK),
                (ask::rename(b"/file", b"/mnt/file"), EXDEV),
                (ask::rename(b"/mnt/there", b"/there"), EXDEV),
                (ask::rename(b"/dir", b"/mnt/dir"), EXDEV),
                (ask::link(b"/file", b"/mnt/file"), EXDEV),
                (ask::link(b"/mnt/there", b"/there"), EXDEV),
                (ask::rename(b"/mnt/there", b"/mnt/here"), OK),
                (ask::remove(b"/mnt"), EBUSY),
                (ask::rename(b"/mnt", b"/mnt2"), EBUSY),
                (ask::rename(b"/empty", b"/mnt"), EBUSY),
                (ask::open(b"/mnt", libc::O_DIRECTORY), OK),
                (ask::create(b"/mnt/new", libc::O_CREAT | libc::O_RDWR, 0o644, 1000, 1000), OK),
                (ask::lstat(b"/mnt/new"), OK),
                (ask::setxattr(b"/mnt/new", b"user.a", b"1", 0), OK),
                (ask::version(b"/mnt/none"), ENOENT),
                (ask::version(b"/mnt/new/x"), ENOTDIR),
            ]);
            stage.host(|tree| unmount(tree, "mnt"));
        });
    });
}

#[test]
fn an_export_without_generations_has_the_version_0() {
    with_private_mounts(|| {
        let prepare = |tree: &Owned<'_>| mount_tmpfs(tree, "mnt", "size=1m,mode=755");
        let dir = crate::program::scratch();
        let tree = Owned::below(dir.path());
        prepare(&tree);
        tree.file("mnt/there", b"", 0o644, 0, 0);
        for program in [crate::program::reference(), crate::program::ours()] {
            let (_running, mut client) = crate::program::Launch::new(&program, &tree.path("mnt")).by_fd();
            for path in [b"/there".as_slice(), b"/"] {
                assert_eq!(client.ask(&ask::version(path)).word(), Some(0), "{}", program.display());
            }
        }
        // Mounted somewhere below the export the reference tells ENOTTY of it; ours has one rule for both.
        let (_reference, mut reference) =
            crate::program::Launch::new(&crate::program::reference(), dir.path()).by_fd();
        let (_ours, mut ours) = crate::program::Launch::new(&crate::program::ours(), dir.path()).by_fd();
        reference.ask(&ask::version(b"/mnt/there")).fails(ENOTTY);
        assert_eq!(ours.ask(&ask::version(b"/mnt/there")).word(), Some(0));
        unmount(&tree, "mnt");
    });
}

#[test]
fn a_full_filesystem_takes_nothing_more() {
    with_private_mounts(|| {
        let prepare = |tree: &Owned<'_>| mount_tmpfs(tree, "mnt", "size=64k,nr_inodes=4,mode=755");
        acts(prepare, |stage| {
            stage.play(&[
                (ask::mkdir(b"/mnt/1", 0o755, 0, 0), OK),
                (ask::mkdir(b"/mnt/2", 0o755, 1000, 1000), OK),
                (ask::mkdir(b"/mnt/3", 0o755, 1000, 1000), OK),
                (ask::mkdir(b"/mnt/4", 0o755, 1000, 1000), ENOSPC),
                (ask::create(b"/mnt/5", libc::O_CREAT | libc::O_RDWR, 0o644, 0, 0), ENOSPC),
                (ask::mknod(b"/mnt/6", libc::S_IFIFO | 0o644, 0, 1000, 1000), ENOSPC),
                (ask::symlink(b"x", b"/mnt/7", 0, 0), ENOSPC),
                (ask::remove(b"/mnt/1"), OK),
                (ask::mkdir(b"/mnt/8", 0o755, 1000, 1000), OK),
                (ask::statfs(b"/mnt"), OK),
            ]);
            stage.host(|tree| unmount(tree, "mnt"));
        });
    });
}

#[test]
fn a_read_only_filesystem_is_not_changed() {
    with_private_mounts(|| {
        let prepare = |tree: &Owned<'_>| {
            tree.dir("mnt", 0o755, 0, 0);
            zoo(&Owned::below(&tree.path("mnt")));
            let path = tree.path("mnt");
            mount(Some(&path), &path, NONE, MsFlags::MS_BIND, NONE).expect("a bind mount");
            mount(NONE, &path, NONE, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NONE)
                .expect("a read-only bind mount");
        };
        acts(prepare, |stage| {
            stage.play(&[
                (ask::lstat(b"/mnt/file"), OK),
                (ask::statfs(b"/mnt"), OK),
                (ask::open(b"/mnt/file", libc::O_RDONLY), OK),
                (ask::open(b"/mnt/file", libc::O_RDWR), EROFS),
                (ask::open(b"/mnt/file", libc::O_TRUNC), EROFS),
                (ask::create(b"/mnt/new", libc::O_CREAT | libc::O_RDWR, 0o644, 1000, 1000), EROFS),
                (ask::mkdir(b"/mnt/new", 0o755, 1000, 1000), EROFS),
                (ask::mknod(b"/mnt/new", libc::S_IFIFO, 0, 1000, 1000), EROFS),
                (ask::symlink(b"x", b"/mnt/new", 1000, 1000), EROFS),
                (ask::link(b"/mnt/file", b"/mnt/new"), EROFS),
                (ask::chmod(b"/mnt/file", 0o600), EROFS),
                (ask::chown(b"/mnt/file", 0, 0), EROFS),
                (ask::truncate(b"/mnt/file", 0), EROFS),
                (ask::utime(b"/mnt/file", (1, 1), (1, 1)), EROFS),
                (ask::rename(b"/mnt/file", b"/mnt/new"), EROFS),
                (ask::remove(b"/mnt/file"), EROFS),
                (ask::setxattr(b"/mnt/file", b"user.a", b"1", 0), EROFS),
                (ask::removexattr(b"/mnt/file", b"user.a"), EROFS),
                (ask::version(b"/mnt/file"), OK),
            ]);
            stage.host(|tree| unmount(tree, "mnt"));
        });
    });
}
