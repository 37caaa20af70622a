//! Inodes whose numbers say nothing: those of Btrfs subvolumes, and those that were given out again.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags};

use crate::disk::{self, Disk};
use crate::knot;
use crate::snapshot::assert_same;
use crate::stage::{Disks, MODELS, OWNER, Stage, ended, success};

/// A file system, what its mkfs is told besides, its size in MiB and how it is mounted.
type System = (&'static str, &'static [&'static str], u64, &'static str);

const REUSING: [System; 3] = [
    ("ext4", &[], 12, "noatime"),
    // No room for the time at which an inode was made.
    ("ext4", &["-I", "128"], 12, "noatime"),
    ("xfs", &[], 320, "noatime"),
];

fn stage((kind, arguments, size, options): System) -> Stage {
    Stage::on(Disks { export: Disk::format_with(kind, arguments, size, options), journal: None })
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn names(path: &Path) -> Vec<String> {
    let mut buffer = [0; 4096];
    let count = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap();
    let names = buffer[..count].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| name != "security.selinux")
        .collect()
}

/// What a guest does through QEMU: makes a regular file that stands for an entry of this mode.
fn make(model: &str, path: &Path, content: &str, mode: u32) {
    fs::write(path, content).unwrap();
    std::os::unix::fs::chown(path, Some(64055), Some(64056)).unwrap();
    if model == "mapped-xattr" {
        for (name, value) in [("uid", 5_u32), ("gid", 6), ("mode", mode)] {
            set(path, &format!("user.virtfs.{name}"), &value.to_le_bytes());
        }
    } else {
        let folder = path.parent().unwrap().join(".virtfs_metadata");
        fs::create_dir_all(&folder).unwrap();
        let text = format!("virtfs.uid=5\nvirtfs.gid=6\nvirtfs.mode={mode}\n");
        fs::write(folder.join(path.file_name().unwrap()), text).unwrap();
    }
}

/// What a guest does through QEMU: makes an entry a regular file of root's.
fn own_by_root(model: &str, path: &Path) {
    let mode = 0o100_644_u32;
    if model == "mapped-xattr" {
        for (name, value) in [("uid", 0_u32), ("gid", 0), ("mode", mode)] {
            set(path, &format!("user.virtfs.{name}"), &value.to_le_bytes());
        }
    } else {
        let metadata = path.parent().unwrap().join(".virtfs_metadata").join(path.file_name().unwrap());
        fs::write(metadata, format!("virtfs.uid=0\nvirtfs.gid=0\nvirtfs.mode={mode}\n")).unwrap();
    }
}

fn remove(model: &str, path: &Path) {
    fs::remove_file(path).unwrap();
    if model == "mapped-file" {
        let name = path.file_name().unwrap();
        fs::remove_file(path.parent().unwrap().join(".virtfs_metadata").join(name)).unwrap();
    }
}

#[test]
fn what_took_over_an_inode_number_gets_nothing_of_the_recorded_inode() {
    if crate::stage::elsewhere() {
        return;
    }
    for system in REUSING {
        for model in MODELS {
            let what = format!("{} {:?}, {model}", system.0, system.1);
            let stage = stage(system);
            let export = stage.export();
            fs::create_dir(&export).unwrap();
            let modified = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
            let recorded: Vec<_> = (0..30).map(|number| export.join(format!("recorded{number}"))).collect();
            for path in &recorded {
                fs::write(path, "program").unwrap();
                set(path, "security.capability", knot::CAPABILITY);
                set(path, "user.known", b"value");
                fs::File::open(path).unwrap().set_modified(modified).unwrap();
            }
            success(&mut stage.convert(model));
            let numbers: Vec<_> = recorded.iter().map(|path| fs::metadata(path).unwrap().ino()).collect();
            for path in &recorded {
                remove(model, path);
            }
            if system.0 == "xfs" {
                // It frees inodes in the background, and gives their numbers out again after that. A freeze waits for it.
                let root = stage.disks().export.root();
                disk::run("fsfreeze", &[&"--freeze", &root]);
                disk::run("fsfreeze", &[&"--unfreeze", &root]);
            }
            let kinds = [0o120_777, 0o10_644, 0o100_644];
            let made: Vec<_> = (0..90).map(|number| export.join(format!("made{number}"))).collect();
            for (path, kind) in made.iter().zip(kinds.into_iter().cycle()) {
                make(model, path, if kind == 0o120_777 { "target" } else { "" }, kind);
            }
            let reused =
                made.iter().filter(|path| numbers.contains(&fs::metadata(path).unwrap().ino())).count();
            assert!(reused > 2, "{what}: only {reused} numbers were given out again");
            // Like a program that a package manager unpacks once more: it has not the capabilities of the first.
            let again: Vec<_> =
                made.iter().filter(|path| fs::metadata(path).unwrap().len() == 0).step_by(2).collect();
            for path in &again {
                fs::write(path, "program").unwrap();
                fs::File::open(path).unwrap().set_modified(modified).unwrap();
                own_by_root(model, path);
            }
            success(&mut stage.rollback());
            for path in &again {
                assert_eq!(names(path), Vec::<String>::new(), "{what}: {}", path.display());
            }
            let others = made.iter().zip(kinds.into_iter().cycle()).filter(|(path, _)| !again.contains(path));
            for (path, kind) in others {
                let told = fs::symlink_metadata(path).unwrap();
                assert_eq!((told.mode(), told.uid(), told.gid()), (kind, 5, 6), "{what}: {}", path.display());
                assert_eq!(names(path), Vec::<String>::new(), "{what}: {}", path.display());
            }
            assert_eq!(
                fs::read_dir(&export).unwrap().count(),
                made.len(),
                "{what}: something is left behind"
            );
        }
    }
}

#[test]
fn a_special_file_that_the_guest_put_in_the_place_of_another_gets_nothing_of_it() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::new();
        let export = stage.export();
        fs::create_dir(&export).unwrap();
        rustix::fs::mknodat(CWD, export.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink("somewhere", export.join("link")).unwrap();
        for name in ["fifo", "link"] {
            set(&export.join(name), "security.test", b"label");
        }
        success(&mut stage.convert(model));
        std::thread::sleep(std::time::Duration::from_millis(1100));
        for (name, content, mode) in [("fifo", "", 0o10_600), ("link", "somewhere", 0o120_777)] {
            remove(model, &export.join(name));
            make(model, &export.join(name), content, mode);
        }
        success(&mut stage.rollback());
        for name in ["fifo", "link"] {
            assert_eq!(names(&export.join(name)), Vec::<String>::new(), "{model}: {name}");
            assert_eq!(fs::symlink_metadata(export.join(name)).unwrap().uid(), 5, "{model}: {name}");
        }
    }
}

#[test]
fn links_and_special_files_that_the_guest_moved_keep_their_attributes() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::new();
        let export = stage.export();
        for folder in ["", "from", "from/below", "to"] {
            fs::create_dir(export.join(folder)).unwrap();
        }
        rustix::fs::mknodat(CWD, export.join("from/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink("a", export.join("from/link")).unwrap();
        symlink("b", export.join("from/below/link")).unwrap();
        symlink("c", export.join("from/plain")).unwrap();
        for (name, value) in [("fifo", "1"), ("link", "2"), ("below/link", "3")] {
            set(&export.join("from").join(name), "security.test", value.as_bytes());
            set(&export.join("from").join(name), "trusted.test", value.as_bytes());
        }
        success(&mut stage.convert(model));
        let moves = |from: &str, to: &str| {
            fs::rename(export.join(from), export.join(to)).unwrap();
            if model == "mapped-file" {
                let metadata = |path: &str| {
                    let path = export.join(path);
                    path.parent().unwrap().join(".virtfs_metadata").join(path.file_name().unwrap())
                };
                fs::create_dir_all(metadata(to).parent().unwrap()).unwrap();
                fs::rename(metadata(from), metadata(to)).unwrap();
            }
        };
        moves("from/fifo", "to/fifo");
        moves("from/link", "to/link");
        moves("from/plain", "to/plain");
        moves("from/below", "to/below");
        success(&mut stage.rollback());
        for (name, value) in [("fifo", "1"), ("link", "2"), ("below/link", "3")] {
            for attribute in ["security.test", "trusted.test"] {
                let mut buffer = [0; 16];
                let path = export.join("to").join(name);
                let count = rustix::fs::lgetxattr(&path, attribute, &mut buffer[..]);
                let count = count.unwrap_or_else(|error| panic!("{model}: {name} lost {attribute}: {error}"));
                assert_eq!(&buffer[..count], value.as_bytes(), "{model}: {name}");
            }
        }
        assert_eq!(names(&export.join("to/plain")), Vec::<String>::new(), "{model}");
    }
}

/// A Btrfs with an export in which inode numbers repeat.
fn subvolumes() -> Stage {
    let stage = stage(("btrfs", &[], 128, "noatime"));
    let export = stage.export();
    disk::run("btrfs", &[&"subvolume", &"create", &export]);
    knot::tie(&export.join("knot"));
    for name in ["one", "two"] {
        let volume = export.join(name);
        disk::run("btrfs", &[&"subvolume", &"create", &volume]);
        for folder in ["a", "a/b"] {
            fs::create_dir(volume.join(folder)).unwrap();
        }
        fs::write(volume.join("file"), name).unwrap();
        fs::hard_link(volume.join("file"), volume.join("a/hard")).unwrap();
        fs::set_permissions(volume.join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o4711))
            .unwrap();
        symlink(name, volume.join("link")).unwrap();
        rustix::fs::linkat(CWD, volume.join("link"), CWD, volume.join("a/b/link"), AtFlags::empty()).unwrap();
        rustix::fs::mknodat(CWD, volume.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::hard_link(volume.join("fifo"), volume.join("a/fifo")).unwrap();
    }
    disk::run("btrfs", &[&"subvolume", &"snapshot", &export.join("one"), &export.join("snapshot")]);
    let number = |name: &str| fs::symlink_metadata(export.join(name)).unwrap().ino();
    assert_eq!(number("one/fifo"), number("two/fifo"));
    assert_eq!(number("one/fifo"), number("snapshot/fifo"));
    stage
}

#[test]
fn subvolumes_are_converted_with_their_export() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = subvolumes();
        let before = stage.snapshot();
        let shown = success(stage.command("check").args([OWNER, "--exit-zero"]));
        assert!(shown.contains("subvolume-inside") && shown.contains("multidevs=remap"), "{shown}");
        success(stage.convert(model).arg("--one-file-system"));
        stage.verify(model);
        let owner = fs::symlink_metadata(stage.export().join("two/a/fifo")).unwrap().uid();
        assert_eq!(owner, 64055, "{model}: a subvolume was left out");
        success(&mut stage.rollback());
        assert_same(&before, &stage.snapshot(), model);
        stage.verify("rolled back");
        knot::untie(&stage.export().join("knot"));
    }
}

#[test]
fn the_place_of_a_subvolume_that_a_snapshot_lacks_is_left_alone() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = stage(("btrfs", &[], 128, "noatime"));
        let export = stage.export();
        for path in ["", "outer", "outer/inner"] {
            disk::run("btrfs", &[&"subvolume", &"create", &export.join(path)]);
            fs::write(export.join(path).join("file"), path).unwrap();
        }
        let snapshot = |name: &str| {
            disk::run("btrfs", &[&"subvolume", &"snapshot", &export.join("outer"), &export.join(name)]);
            assert_eq!(fs::metadata(export.join(name).join("inner")).unwrap().ino(), 2, "no empty place");
        };
        snapshot("before");
        let before = stage.snapshot();
        let shown = success(stage.command("check").args([OWNER, "--exit-zero"]));
        assert!(shown.contains("before/inner: warning") && shown.contains("absent-subvolume"), "{shown}");
        let said = ended(&mut stage.convert(model), 3);
        assert!(said.contains("--accept=absent-subvolume"), "{said}");
        success(stage.convert(model).arg("--accept=absent-subvolume"));
        stage.verify(model);
        // A snapshot that the host takes afterwards, as backup programs do.
        snapshot("after");
        success(&mut stage.rollback());
        disk::run("btrfs", &[&"subvolume", &"delete", &export.join("after")]);
        // The kernel makes up the place's times anew; the snapshot that came and went changed the root's.
        let lasting = |snapshot: &str| {
            let lines = snapshot
                .lines()
                .filter(|line| !line.starts_with("./before/inner ") && !line.starts_with(". "));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_same(&lasting(&before), &lasting(&stage.snapshot()), model);
    }
}

#[test]
fn a_read_only_subvolume_stops_a_conversion_before_the_first_change() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = subvolumes();
    let export = stage.export();
    disk::run("btrfs", &[&"subvolume", &"snapshot", &"-r", &export.join("two"), &export.join("fixed")]);
    let before = stage.snapshot();
    let said = ended(stage.command("check").arg(OWNER), 3);
    assert!(said.contains("read-only-subvolume") && said.contains("export/fixed"), "{said}");
    for model in MODELS {
        let said = ended(stage.convert(model).arg("--accept=links-outside"), 3);
        assert!(said.contains("read-only-subvolume"), "{model}: {said}");
        assert!(!stage.journal().exists(), "{model}");
        assert_same(&before, &stage.snapshot(), model);
    }
    knot::untie(&export.join("knot"));
}
