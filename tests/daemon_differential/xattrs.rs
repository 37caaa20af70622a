//! `T_LGETXATTR`, `T_LLISTXATTR`, `T_LSETXATTR`, `T_LREMOVEXATTR`, and ACLs, which are extended attributes.

use nix::errno::Errno::{
    EEXIST, EINVAL, ELOOP, ENAMETOOLONG, ENODATA, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM, ERANGE,
};

use crate::creating::zoo;
use crate::stage::{OK, acts, long_name, play};
use crate::wire::{Request, ask};

const CREATE: i32 = 1;
const REPLACE: i32 = 2;

#[test]
fn attributes_come_back_as_they_were_set() {
    play(
        zoo,
        &[
            (ask::getxattr(b"/file", b"user.a", 0), ENODATA),
            (ask::getxattr(b"/file", b"user.a", 100), ENODATA),
            (ask::setxattr(b"/file", b"user.a", b"value", 0), OK),
            (ask::getxattr(b"/file", b"user.a", 0), OK),
            (ask::getxattr(b"/file", b"user.a", 4), ERANGE),
            (ask::getxattr(b"/file", b"user.a", 5), OK),
            (ask::getxattr(b"/file", b"user.a", 6), OK),
            (ask::getxattr(b"/file", b"user.a", 65535), OK),
            (ask::getxattr(b"/file", b"user.a", 65536), OK),
            (ask::getxattr(b"/file", b"user.a", 1 << 20), OK),
            (ask::setxattr(b"/file", b"user.empty", b"", 0), OK),
            (ask::getxattr(b"/file", b"user.empty", 0), OK),
            (ask::getxattr(b"/file", b"user.empty", 1), OK),
            (ask::setxattr(b"/file", b"user.bytes", b"\0\xff\n\0", 0), OK),
            (ask::getxattr(b"/file", b"user.bytes", 4), OK),
            (ask::listxattr(b"/file", 0), OK),
            (ask::listxattr(b"/file", 1000), OK),
            (ask::listxattr(b"/file", 3), ERANGE),
            (ask::listxattr(b"/file", 65536), OK),
            (ask::listxattr(b"/file", 1 << 20), OK),
            (ask::removexattr(b"/file", b"user.a"), OK),
            (ask::removexattr(b"/file", b"user.a"), ENODATA),
            (ask::listxattr(b"/private", 0), OK),
            (ask::listxattr(b"/private", 1), OK),
        ],
    );
}

#[test]
fn flags_say_whether_an_attribute_may_exist() {
    play(
        zoo,
        &[
            (ask::setxattr(b"/file", b"user.a", b"1", REPLACE), ENODATA),
            (ask::setxattr(b"/file", b"user.a", b"1", CREATE), OK),
            (ask::setxattr(b"/file", b"user.a", b"2", CREATE), EEXIST),
            (ask::setxattr(b"/file", b"user.a", b"3", REPLACE), OK),
            (ask::setxattr(b"/file", b"user.a", b"4", CREATE | REPLACE), EEXIST),
            (ask::setxattr(b"/file", b"user.b", b"4", CREATE | REPLACE), ENODATA),
            (ask::setxattr(b"/file", b"user.a", b"5", 4), EINVAL),
            (ask::setxattr(b"/file", b"user.a", b"5", -1), EINVAL),
            (ask::getxattr(b"/file", b"user.a", 10), OK),
        ],
    );
}

#[test]
fn a_value_may_be_cut_by_the_size_beside_it() {
    let cut = |size| Request::Setxattr {
        path: b"/file".to_vec(),
        name: b"user.cut".to_vec(),
        value: b"abcdef".to_vec(),
        size,
        flags: 0,
    };
    play(
        zoo,
        &[
            (cut(6), OK),
            (cut(3), OK),
            (ask::getxattr(b"/file", b"user.cut", 10), OK),
            (cut(0), OK),
            (ask::getxattr(b"/file", b"user.cut", 10), OK),
        ],
    );
}

#[test]
fn every_type_of_file_is_asked_itself() {
    acts(zoo, |stage| {
        for path in [
            b"/file".as_slice(),
            b"/dir",
            b"/dir/",
            b"/",
            b"/link",
            b"/dangling",
            b"/loop",
            b"/dirlink",
            b"/dirlink/",
            b"/fifo",
            b"/socket",
            b"/null",
            b"/disk",
            b"/dirlink/file",
            b"/none",
            b"/file/x",
            b"/file/",
            b"",
        ] {
            for name in [
                b"user.a".as_slice(),
                b"trusted.a",
                b"security.a",
                b"security.capability",
                b"security.selinux",
                b"system.a",
                b"system.posix_acl_access",
                b"os2.a",
                b"a",
                b"user.",
                b"",
            ] {
                stage.compare([
                    ask::setxattr(path, name, b"value", 0),
                    ask::getxattr(path, name, 100),
                    ask::getxattr(path, name, 0),
                    ask::listxattr(path, 200),
                    ask::removexattr(path, name),
                ]);
            }
        }
    });
}

#[test]
fn attributes_are_refused_as_the_kernel_refuses_them() {
    play(
        zoo,
        &[
            (ask::setxattr(b"/link", b"user.a", b"1", 0), EPERM),
            (ask::setxattr(b"/fifo", b"user.a", b"1", 0), EPERM),
            (ask::setxattr(b"/file", b"trusted.a", b"1", 0), EPERM),
            (ask::getxattr(b"/file", b"trusted.a", 100), ENODATA),
            (ask::setxattr(b"/file", b"a", b"1", 0), EOPNOTSUPP),
            (ask::setxattr(b"/file", b"", b"1", 0), ERANGE),
            (ask::setxattr(b"/file", &[b"user.".as_slice(), &long_name(250)].concat(), b"1", 0), OK),
            (ask::setxattr(b"/file", &[b"user.".as_slice(), &long_name(251)].concat(), b"1", 0), ERANGE),
            (ask::setxattr(b"/file", &long_name(10_000), b"1", 0), ERANGE),
            (ask::getxattr(b"/file", &long_name(256), 100), ERANGE),
            (ask::removexattr(b"/file", &long_name(256)), ERANGE),
            (ask::getxattr(b"/none", b"user.a", 100), ENOENT),
            (ask::getxattr(b"/file/x", b"user.a", 100), ENOTDIR),
            (ask::getxattr(b"/loop/x", b"user.a", 100), ELOOP),
            (ask::listxattr(b"/none", 100), ENOENT),
            (ask::listxattr(&long_name(256), 100), ENAMETOOLONG),
            (ask::removexattr(b"/none", b"user.a"), ENOENT),
        ],
    );
}

#[test]
fn values_of_every_length_until_the_filesystem_is_full() {
    acts(zoo, |stage| {
        for length in [1, 2, 63, 64, 255, 256, 1000, 2000, 3000, 4000, 4096, 8192, 32_768, 65_000, 65_500] {
            let value = vec![b'v'; length];
            stage.compare([
                ask::setxattr(b"/file", b"user.long", &value, 0),
                ask::getxattr(b"/file", b"user.long", 0),
                ask::getxattr(b"/file", b"user.long", i32::try_from(length).unwrap()),
                ask::getxattr(b"/file", b"user.long", 65_536),
            ]);
        }
    });
}

/// An ACL's bytes: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn acls_are_set_read_and_inherited() {
    const NONE: u32 = u32::MAX;
    let access = acl(&[(1, 6, NONE), (2, 4, 1000), (2, 7, 2000), (4, 4, NONE), (16, 7, NONE), (32, 0, NONE)]);
    let default = acl(&[(1, 7, NONE), (4, 5, NONE), (8, 6, 3000), (16, 5, NONE), (32, 1, NONE)]);
    let no_mask = acl(&[(1, 6, NONE), (2, 4, 1000), (4, 4, NONE), (32, 0, NONE)]);
    let (name, inherited) = (b"system.posix_acl_access".as_slice(), b"system.posix_acl_default".as_slice());
    play(
        zoo,
        &[
            (ask::setxattr(b"/file", name, &access, 0), OK),
            (ask::getxattr(b"/file", name, 0), OK),
            (ask::getxattr(b"/file", name, 1000), OK),
            (ask::lstat(b"/file"), OK),
            (ask::chmod(b"/file", 0o640), OK),
            (ask::getxattr(b"/file", name, 1000), OK),
            (ask::setxattr(b"/file", name, &no_mask, 0), EINVAL),
            (ask::setxattr(b"/file", name, b"nonsense", 0), EOPNOTSUPP),
            (ask::setxattr(b"/file", inherited, &default, 0), nix::errno::Errno::EACCES),
            (ask::setxattr(b"/dir", inherited, &default, 0), OK),
            (ask::create(b"/dir/inherits", libc::O_CREAT | libc::O_RDWR, 0o666, 1000, 1000), OK),
            (ask::create(b"/dir/inherits-root", libc::O_CREAT | libc::O_RDWR, 0o666, 0, 0), OK),
            (ask::mkdir(b"/dir/inherits-dir", 0o777, 1000, 1000), OK),
            (ask::mkdir(b"/dir/inherits-dir/below", 0o700, 1000, 1000), OK),
            (ask::mknod(b"/dir/inherits-fifo", libc::S_IFIFO | 0o666, 0, 1000, 1000), OK),
            (ask::symlink(b"x", b"/dir/inherits-not", 1000, 1000), OK),
            (ask::getxattr(b"/dir/inherits", name, 1000), OK),
            (ask::getxattr(b"/dir/inherits-dir", inherited, 1000), OK),
            (ask::listxattr(b"/dir/inherits-dir", 1000), OK),
            (ask::setxattr(b"/link", name, &access, 0), EOPNOTSUPP),
            (ask::removexattr(b"/dir", inherited), OK),
            (ask::removexattr(b"/file", name), OK),
            (ask::lstat(b"/file"), OK),
        ],
    );
}
