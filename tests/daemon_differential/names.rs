//! Names and paths of every kind: bytes that are no text, lengths at every edge, slashes and dots.

use nix::errno::Errno::{EEXIST, ENAMETOOLONG, ENOENT, ENOTDIR};

use crate::creating::zoo;
use crate::stage::{OK, Step, acts, long_name, play};
use crate::tree::Owned;
use crate::wire::{Request, ask};

const NAMES: [&[u8]; 14] = [
    b"plain",
    b" ",
    b"\n",
    b"\x01\x1b[2J",
    b"\xff",
    b"\xff\xfe\x80",
    "caf\u{e9}".as_bytes(),
    b"caf\xe9",
    "e\u{301}".as_bytes(),
    "\u{202e}gpj.exe".as_bytes(),
    b"-rf",
    b"*?[a-z]",
    b"back\\slash",
    b"...",
];

#[test]
fn names_are_bytes() {
    let mut steps: Vec<Step> = Vec::new();
    for name in NAMES {
        let at = |prefix: &[u8]| [b"/", prefix, name].concat();
        let (file, dir, link) = (at(b"f"), at(b"d"), at(b"l"));
        let below = [dir.as_slice(), b"/", name].concat();
        steps.extend([
            (ask::create(&file, libc::O_CREAT | libc::O_RDWR, 0o644, 1000, 1000), OK),
            (ask::mkdir(&dir, 0o755, 1000, 1000), OK),
            (ask::symlink(name, &link, 1000, 1000), OK),
            (ask::readlink(&link, 4096), OK),
            (ask::mknod(&below, libc::S_IFIFO | 0o600, 0, 0, 0), OK),
            (ask::lstat(&below), OK),
            (ask::open(&file, libc::O_RDONLY), OK),
            (ask::chmod(&file, 0o600), OK),
            (ask::setxattr(&file, &[b"user.", name].concat(), name, 0), OK),
            (ask::getxattr(&file, &[b"user.", name].concat(), 100), OK),
            (ask::listxattr(&file, 1000), OK),
            (ask::version(&file), OK),
            (ask::statfs(&dir), OK),
            (ask::rename(&below, &at(b"r")), OK),
            (ask::link(&file, &below), OK),
            (ask::remove(&below), OK),
            (ask::remove(&dir), OK),
        ]);
    }
    play(|_| {}, &steps);
}

/// Requests that name one path, one of every type that takes it without a change to the tree.
fn lookups(path: &[u8]) -> [Request; 7] {
    [
        ask::lstat(path),
        ask::open(path, libc::O_RDONLY),
        ask::readlink(path, 100),
        ask::statfs(path),
        ask::version(path),
        ask::listxattr(path, 100),
        ask::getxattr(path, b"user.none", 100),
    ]
}

#[test]
fn slashes_and_dots_mean_what_they_mean_to_the_kernel() {
    let paths: [&[u8]; 30] = [
        b"/",
        b"//",
        b"///",
        b"/.",
        b"/./",
        b"/..",
        b"/../",
        b"/../..",
        b"/../../dir",
        b"/../../../../../../etc/passwd",
        b"/dir/..",
        b"/dir/../file",
        b"/dir/./file",
        b"//dir//file",
        b"/dir/file/",
        b"/dir/file/.",
        b"/dir/file/..",
        b"/dir/",
        b"/dir//",
        b"/dir/.",
        b"/dir/sub/../..",
        b"/dir/sub/../../file",
        b"/dir/none/..",
        b"/none/../file",
        b"/dirlink/..",
        b"/dirlink/../file",
        b"/abslink/../file",
        b"/dirlink/sub/../file",
        b"dir/file",
        b"./file",
    ];
    acts(zoo, |stage| {
        for path in paths {
            stage.compare(lookups(path));
        }
    });
}

#[test]
fn lengths_at_every_edge() {
    let prefix = b"/".to_vec();
    let of = |length: usize| [prefix.clone(), long_name(length)].concat();
    // A path of the longest length there is: 4095 bytes, in names of 255.
    let deep = |length: usize| -> Vec<u8> {
        let mut path = b"/".repeat(length);
        for (at, byte) in path.iter_mut().enumerate() {
            if at % 200 != 0 {
                *byte = b'd';
            }
        }
        path
    };
    acts(
        |tree: &Owned<'_>| {
            zoo(tree);
        },
        |stage| {
            stage.play(&[
                (ask::mkdir(&of(255), 0o755, 0, 0), OK),
                (ask::mkdir(&of(256), 0o755, 0, 0), ENAMETOOLONG),
                (ask::lstat(&of(255)), OK),
                (ask::lstat(&of(256)), ENAMETOOLONG),
                (ask::lstat(&deep(4095)), ENOENT),
                (ask::lstat(&deep(4096)), ENAMETOOLONG),
                (ask::lstat(&deep(4097)), ENAMETOOLONG),
                (ask::lstat(&b"/".repeat(4095)), OK),
                (ask::lstat(&b"/".repeat(4096)), ENAMETOOLONG),
                (ask::lstat(&b"/".repeat(65534)), ENAMETOOLONG),
                (ask::symlink(&deep(4095), b"/long-target", 0, 0), OK),
                (ask::symlink(&deep(4096), b"/longer-target", 0, 0), ENAMETOOLONG),
                (ask::rename(&deep(4096), b"/x"), ENAMETOOLONG),
                (ask::link(b"/file", &deep(4096)), ENAMETOOLONG),
            ]);
            // The whole chain, directory by directory, to the last byte.
            let whole = deep(4095);
            for end in (200..4095).step_by(200) {
                stage.play(&[(ask::mkdir(&whole[..end], 0o755, 1000, 1000), OK)]);
            }
            stage.play(&[
                (ask::create(&whole, libc::O_CREAT | libc::O_RDWR, 0o644, 1000, 1000), OK),
                (ask::lstat(&whole), OK),
                (ask::setxattr(&whole, b"user.x", b"1", 0), OK),
                (ask::open(&whole, libc::O_RDWR), OK),
                (ask::version(&whole), OK),
                (ask::rename(&whole, b"/short"), OK),
                (ask::chmod(&whole, 0o600), ENOENT),
            ]);
        },
    );
}

/// The largest requests: a payload of 65536 bytes, and strings of the most that fits.
#[test]
fn the_largest_requests_are_served() {
    let half = |length: usize| vec![b'x'; length];
    play(
        zoo,
        &[
            // 2 + 32766 + 2 + 32766 = 65536.
            (ask::rename(&half(32766), &half(32766)), ENAMETOOLONG),
            (ask::symlink(&half(65536 - 8 - 4 - 2), b"/x", 0, 0), ENAMETOOLONG),
            (ask::lstat(&half(65534)), ENAMETOOLONG),
            (ask::open(&half(65530), 0), ENAMETOOLONG),
            (ask::lstat(b"/file"), OK),
        ],
    );
}

#[test]
fn symlinks_on_the_way_lead_nowhere_but_into_the_export() {
    acts(
        |tree| {
            zoo(tree);
            tree.dir("etc", 0o755, 0, 0)
                .file("etc/passwd", b"the export's own", 0o644, 0, 0)
                .link("out", "/etc")
                .link("up", "../../../../../../../../etc")
                .link("chain1", "chain2")
                .link("chain2", "/out")
                .link("dot", ".")
                .link("root", "/");
        },
        |stage| {
            for path in [
                b"/out/passwd".as_slice(),
                b"/up/passwd",
                b"/chain1/passwd",
                b"/dot/dot/dot/etc/passwd",
                b"/root/root/etc/passwd",
                b"/root/../../etc/passwd",
                b"/out/../etc/passwd",
                b"/out/",
            ] {
                stage.compare(lookups(path));
            }
            stage.play(&[
                (ask::create(b"/out/new", libc::O_CREAT | libc::O_RDWR, 0o644, 1000, 1000), OK),
                (ask::mkdir(b"/up/new-dir", 0o755, 1000, 1000), OK),
                (ask::symlink(b"x", b"/chain1/new-link", 1000, 1000), OK),
                (ask::mknod(b"/root/etc/fifo", libc::S_IFIFO | 0o600, 0, 1000, 1000), OK),
                (ask::rename(b"/up/new", b"/chain1/moved"), OK),
                (ask::link(b"/up/moved", b"/out/linked"), OK),
                (ask::remove(b"/up/passwd"), OK),
                (ask::mkdir(b"/up", 0o755, 0, 0), EEXIST),
                (ask::lstat(b"/out/moved/x"), ENOTDIR),
            ]);
            // Forty links on the way are allowed. The kernel goes on counting when it has to start a walk over
            // (it may, at any time), so the edge itself moves.
            for count in [19, 81] {
                let path = [b"/dot".repeat(count), b"/file".to_vec()].concat();
                stage.compare(lookups(&path));
            }
        },
    );
}
