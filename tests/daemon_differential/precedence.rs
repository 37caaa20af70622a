//! Requests with two faults: both say the same one, which is the one that the kernel sees first.

use libc::{O_CREAT, O_DIRECTORY, O_RDONLY, O_RDWR, O_TRUNC, S_IFDIR, S_IFIFO, S_IFLNK};
use nix::errno::Errno::{
    E2BIG, EBUSY, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM, ERANGE,
};

use crate::creating::zoo;
use crate::stage::{OK, Step, play};
use crate::wire::{Request, ask};

/// A path of more than 4096 bytes.
fn long() -> Vec<u8> {
    b"/dir/".repeat(900)
}

/// Paths of which nothing can be found, and why.
const NOWHERE: [(&[u8], nix::errno::Errno); 4] =
    [(b"/none", ENOENT), (b"/none/x", ENOENT), (b"/file/x", ENOTDIR), (b"", ENOENT)];

fn setxattr(path: &[u8], name: &[u8], value: &[u8], size: i32, flags: i32) -> Request {
    Request::Setxattr { path: path.to_vec(), name: name.to_vec(), value: value.to_vec(), size, flags }
}

#[test]
fn readlink_with_room_for_a_terminator_alone_is_einval_whatever_the_path() {
    let mut steps: Vec<Step> = Vec::new();
    for path in [&b"/link"[..], b"/loop", b"/file", b"/"].into_iter().chain(NOWHERE.map(|(path, _)| path)) {
        steps.push((ask::readlink(path, 1), EINVAL));
        steps.push((ask::readlink(path, 0), EINVAL));
    }
    play(zoo, &steps);
}

#[test]
fn mknod_judges_the_kind_before_the_path() {
    let mut steps: Vec<Step> = Vec::new();
    for (path, why) in NOWHERE {
        steps.push((ask::mknod(path, S_IFLNK | 0o600, 0, 0, 0), EINVAL));
        steps.push((ask::mknod(path, 0o030_600, 0, 0, 0), EINVAL));
        steps.push((ask::mknod(path, S_IFDIR | 0o600, 0, 0, 0), EPERM));
        // It is made where only the last name is missing.
        if path != b"/none" {
            steps.push((ask::mknod(path, S_IFIFO | 0o600, 0, 0, 0), why));
        }
    }
    play(zoo, &steps);
}

#[test]
fn truncate_judges_the_size_before_the_path() {
    let mut steps: Vec<Step> =
        vec![(ask::truncate(b"/loop", -1), EINVAL), (ask::truncate(b"/loop", 1), ELOOP)];
    for (path, why) in NOWHERE {
        steps.push((ask::truncate(path, -1), EINVAL));
        steps.push((ask::truncate(path, i64::MIN), EINVAL));
        steps.push((ask::truncate(path, 1), why));
    }
    play(zoo, &steps);
}

#[test]
fn setxattr_judges_flags_name_and_size_in_this_order_and_then_the_path() {
    let long_name = [b"user.".as_slice(), &[b'x'; 300]].concat();
    let mut steps: Vec<Step> = Vec::new();
    for (path, why) in NOWHERE.into_iter().chain([(&b"/file"[..], OK), (b"/fifo", EPERM)]) {
        for name in [&b"user.a"[..], b"", &long_name] {
            steps.push((setxattr(path, name, b"abc", 3, 4), EINVAL));
            steps.push((setxattr(path, name, b"abc", -1, -1), EINVAL));
        }
        for name in [&b""[..], &long_name] {
            steps.push((setxattr(path, name, b"abc", 3, 0), ERANGE));
            steps.push((setxattr(path, name, b"abc", -1, 0), ERANGE));
        }
        steps.push((setxattr(path, b"user.a", b"abc", -1, 0), E2BIG));
        steps.push((setxattr(path, b"user.a", b"abc", 65_537, 0), E2BIG));
        steps.push((setxattr(path, b"user.a", b"abc", 3, 0), why));
    }
    steps.push((setxattr(b"/file", b"bogus", b"abc", 3, 0), EOPNOTSUPP));
    play(zoo, &steps);
}

#[test]
fn the_old_name_of_a_link_or_rename_is_judged_before_the_new_one() {
    let long = long();
    let mut steps: Vec<Step> = Vec::new();
    for new in [&b""[..], &long] {
        let unusable = if new.is_empty() { ENOENT } else { ENAMETOOLONG };
        for (old, why) in NOWHERE {
            steps.push((ask::link(old, new), why));
            // Of the old name, only the directory is looked for.
            let why = if old == b"/none" { unusable } else { why };
            steps.push((ask::rename(old, new), why));
        }
        steps.push((ask::link(b"/file", new), unusable));
        steps.push((ask::rename(b"/file", new), unusable));
    }
    steps.push((ask::link(b"/none", b"/file/x"), ENOENT));
    steps.push((ask::symlink(b"", b"/file/x", 0, 0), ENOENT));
    steps.push((ask::symlink(b"", b"/none/x", 0, 0), ENOENT));
    play(zoo, &steps);
}

#[test]
fn the_root_directory_cannot_be_renamed() {
    let mut steps: Vec<Step> = Vec::new();
    for other in [&b"/file"[..], b"/dir", b"/none", b"/link"] {
        steps.push((ask::rename(b"/", other), EBUSY));
        steps.push((ask::rename(other, b"/"), EBUSY));
    }
    play(zoo, &steps);
}

#[test]
fn create_of_a_directory_opens_it_unless_it_shall_be_made() {
    play(
        zoo,
        &[
            (ask::create(b"/dir", O_DIRECTORY | O_RDONLY, 0o644, 0, 0), OK),
            (ask::create(b"/dirlink", O_DIRECTORY | O_RDONLY, 0o644, 0, 0), OK),
            (ask::create(b"/dir", O_DIRECTORY | O_RDWR, 0o644, 0, 0), EISDIR),
            (ask::create(b"/file", O_DIRECTORY | O_RDONLY, 0o644, 0, 0), ENOTDIR),
            (ask::create(b"/none", O_DIRECTORY | O_RDONLY, 0o644, 0, 0), ENOENT),
            (ask::create(b"/loop", O_DIRECTORY | O_RDONLY, 0o644, 0, 0), ELOOP),
            (ask::create(b"/dir", O_DIRECTORY | O_CREAT, 0o644, 0, 0), EINVAL),
            (ask::create(b"/dir", O_RDONLY | O_TRUNC, 0o644, 0, 0), EISDIR),
        ],
    );
}
