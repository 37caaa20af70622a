//! `migrate convert --adopt` of many entries: its memory does not grow with them.

use std::fs;
use std::os::unix::fs::lchown;

use nix::sys::resource::{UsageWho, getrusage};

use crate::adopt::adopt;
use crate::disk::Disk;
use crate::stage::{Disks, Stage, ended, success};

/// How many entries of each sort there are.
const MANY: usize = 3000;

/// How much more memory they may take, in KiB. Kept in memory, they take more.
const MORE: i64 = 5 << 10;

/// The most memory that any program took which this process has started, in KiB.
fn peak() -> i64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss()
}

#[test]
fn memory_does_not_grow_with_what_is_adopted() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::on(Disks { export: Disk::format("ext4", 64, "noatime"), journal: None });
    let folder = stage.export().join("folder");
    fs::create_dir_all(&folder).unwrap();
    let write = |name: String| {
        fs::write(folder.join(&name), "").unwrap();
        name
    };
    let old: Vec<_> = (0..MANY).map(|number| write(format!("old-{number}"))).collect();
    success(&mut stage.convert("mapped-xattr"));
    success(&mut adopt(&stage));
    ended(stage.command("check").arg("--security-model=mapped-xattr"), 3);
    let before = peak();
    for name in old {
        lchown(folder.join(name), Some(1000), Some(1000)).unwrap();
    }
    for number in 0..MANY {
        write(format!("new-{number}"));
    }
    let said = ended(stage.command("check").arg("--security-model=mapped-xattr"), 3);
    assert!(said.contains("6000 entries were added on the host"), "{said}");
    let said = success(&mut adopt(&stage));
    assert!(
        said.contains("3000 entries added on the host adopted, 3000 entries given back to QEMU's user"),
        "{said}"
    );
    let more = peak() - before;
    assert!(more < MORE, "{more} KiB more than the {before} KiB without additions");
}
