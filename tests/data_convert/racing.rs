//! An export that a hostile guest keeps rearranging while it is converted: nothing outside of it is ever touched.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags};

use crate::injector::{Meddling, run};
use crate::knot;
use crate::snapshot::assert_same;
use crate::stage::{MODELS, Stage, success};

/// What is watched of the files outside.
fn canaries(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for name in ["", "file", "folder", "folder/file", "folder/link"] {
        let path = folder.join(name);
        let it = fs::symlink_metadata(&path).unwrap();
        let mut names = vec![0; 4096];
        let count = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        lines.push(format!(
            "{name} {:o} {}:{} ino={} links={} mtime={}.{} ctime={}.{} xattrs={}",
            it.mode(),
            it.uid(),
            it.gid(),
            it.ino(),
            it.nlink(),
            it.mtime(),
            it.mtime_nsec(),
            it.ctime(),
            it.ctime_nsec(),
            names[..count].escape_ascii()
        ));
    }
    lines.push(format!("{:?}", fs::read_dir(folder.join("folder")).unwrap().count()));
    lines
}

fn outside(stage: &Stage) -> PathBuf {
    let folder = stage.folder().join("outside");
    fs::create_dir_all(folder.join("folder")).unwrap();
    fs::write(folder.join("file"), "canary").unwrap();
    fs::write(folder.join("folder/file"), "canary").unwrap();
    symlink("canary", folder.join("folder/link")).unwrap();
    folder
}

/// Keeps swapping a directory with a symlink out of the export, files with symlinks, and moves and removes others, from one
/// directory to another and over each other.
fn rearrange(export: &Path, outside: &Path, over: &AtomicBool) {
    let at = |name: &str| export.join(name);
    let swap = |one: &str, other: &str| {
        let _ = rustix::fs::renameat_with(CWD, at(one), CWD, at(other), RenameFlags::EXCHANGE);
    };
    // By its descriptor, for its name soon leads out of the export.
    let target = fs::File::open(at("target")).unwrap();
    symlink(outside.join("folder"), at("swap-folder")).unwrap();
    symlink(outside.join("file"), at("swap-file")).unwrap();
    let mut round = 0_u32;
    while !over.load(Ordering::Relaxed) {
        swap("target", "swap-folder");
        swap("file-1", "swap-file");
        let _ = rustix::fs::renameat_with(&target, "file", &target, "link", RenameFlags::EXCHANGE);
        let _ = rustix::fs::renameat(CWD, at("wander"), &target, "wander");
        let _ = rustix::fs::renameat(&target, "wander", CWD, at("wander"));
        carry(export, &target, round);
        let name = format!("fleeting-{}", round % 50);
        if fs::remove_file(at(&name)).is_err() {
            let _ = fs::write(at(&name), "");
        }
        round += 1;
    }
}

/// Carries a directory into another and back, and files and links between directories.
fn carry(export: &Path, target: &fs::File, round: u32) {
    let at = |name: &str| export.join(name);
    let go = |from: &str, to: &str| rustix::fs::renameat(CWD, at(from), CWD, at(to)).is_ok();
    let exchange = |one: &str, other: &str| {
        rustix::fs::renameat_with(CWD, at(one), CWD, at(other), RenameFlags::EXCHANGE)
    };
    if !go("nest", "wander/nest") && !go("wander/nest", "nest") {
        let _ = rustix::fs::renameat(target, "wander/nest", target, "nest");
        let _ = rustix::fs::renameat(target, "nest", CWD, at("nest"));
    }
    let number = round % 100;
    let _ = exchange(&format!("file-{number}"), &format!("wander/file-{number}"));
    let _ = exchange(&format!("nest/file-{number}"), &format!("wander/below/link-{number}"));
    if round % 16 == 3 {
        let _ = fs::write(at("fresh"), "");
        go("fresh", &format!("wander/file-{}", 60 + round % 10));
        go(&format!("file-{}", 60 + round % 10), &format!("file-{}", 70 + round % 20));
    }
    let _ = go("nest/fifo", "wander/fifo") || go("wander/fifo", "nest/fifo");
}

/// Owner, group, mode and time of what was first made at a path.
fn character(origin: &str) -> (u32, u32, u32, i64) {
    let number = origin.bytes().fold(7_u32, |sum, byte| (sum * 31 + u32::from(byte)) % 99_991);
    let mode = [0o4711, 0o2755, 0o000, 0o640, 0o1777, 0o604][number as usize % 6];
    (1000 + number % 500, 2000 + number % 300, mode, i64::from(number) * 10_000 - 300_000_000)
}

/// Gives what is at a path its character.
fn shape(export: &Path, origin: &str) {
    let path = export.join(origin);
    let (uid, gid, mode, seconds) = character(origin);
    std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).unwrap();
    if !path.is_symlink() {
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let time = Timespec { tv_sec: seconds, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn fill(export: &Path) {
    let at = |name: &str| export.join(name);
    let folders = ["", "target", "wander", "wander/below", "nest", "nest/deep"];
    let file = |name: &str| {
        fs::write(at(name), name).unwrap();
        shape(export, name);
    };
    for folder in folders {
        fs::create_dir(at(folder)).unwrap();
        rustix::fs::setxattr(at(folder), c"user.origin", folder.as_bytes(), XattrFlags::empty()).unwrap();
    }
    for number in 0..100 {
        file(&format!("file-{number}"));
        file(&format!("wander/file-{number}"));
        file(&format!("nest/file-{number}"));
        let link = format!("wander/below/link-{number}");
        symlink(&link, at(&link)).unwrap();
        shape(export, &link);
    }
    for name in ["target/file", "target/link", "nest/deep/file", "swap-me"] {
        file(name);
    }
    rustix::fs::mknodat(CWD, at("nest/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    shape(export, "nest/fifo");
    for name in CAPABLE {
        rustix::fs::setxattr(at(name), c"security.capability", knot::CAPABILITY, XattrFlags::empty())
            .unwrap();
    }
    for folder in folders {
        shape(export, folder);
    }
}

/// Programs with capabilities.
const CAPABLE: [&str; 4] = ["file-7", "wander/file-7", "nest/file-8", "nest/deep/file"];

/// Every entry's path, from the export, in order; what QEMU keeps for itself is left out.
fn paths(export: &Path) -> Vec<PathBuf> {
    let mut paths = vec![export.to_path_buf()];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        next += 1;
        if path.is_dir() && !path.is_symlink() {
            let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            // A crash's leftover goes away.
            let is_own = |path: &PathBuf| {
                let path = path.to_string_lossy();
                ["/.virtfs_metadata", "/.virtfs-convert-"].iter().any(|own| path.contains(own))
            };
            paths.extend(names.filter(|path| !is_own(path)));
        }
    }
    paths.sort();
    paths
}

/// [`paths`], one a line.
fn listed(export: &Path) -> String {
    paths(export).iter().fold(String::new(), |text, path| format!("{text}{}\n", path.display()))
}

/// Panics unless everything is what it was first made, wherever it is now.
fn check_characters(export: &Path, model: &str) {
    for path in paths(export) {
        let (now, shown) = (fs::symlink_metadata(&path).unwrap(), path.display());
        let mut value = vec![0; 256];
        let mut xattr = |name| rustix::fs::lgetxattr(&path, name, &mut value[..]);
        let origin = if now.is_symlink() {
            fs::read_link(&path).unwrap().to_string_lossy().into_owned()
        } else if now.is_file() {
            let origin = fs::read_to_string(&path).unwrap();
            let is_capable = xattr(c"security.capability").is_ok();
            assert_eq!(is_capable, CAPABLE.contains(&origin.as_str()), "{model}: capability of {shown}");
            origin
        } else if now.is_dir() {
            let count = xattr(c"user.origin").unwrap();
            String::from_utf8(value[..count].to_vec()).unwrap()
        } else {
            "nest/fifo".into()
        };
        if origin.contains("/outside/") || origin.is_empty() && !now.is_dir() {
            // Its group may be that of the directory it was made in.
            assert_eq!(now.uid(), 0, "{model}: {shown}");
            continue;
        }
        let (uid, gid, mode, time) = character(&origin);
        assert_eq!((now.uid(), now.gid()), (uid, gid), "{model}: owner of {shown}, once {origin}");
        assert!(
            now.is_symlink() || now.mode() & 0o7777 == mode,
            "{model}: mode of {shown}: {:o}",
            now.mode()
        );
        assert!(now.is_dir() || now.mtime() == time, "{model}: time of {shown}: {}", now.mtime());
    }
}

#[test]
fn nothing_outside_is_touched_however_the_export_changes() {
    if crate::stage::elsewhere() {
        return;
    }
    for (round, model) in MODELS.into_iter().cycle().take(4).enumerate() {
        let stage = Stage::new();
        fill(&stage.export());
        let outside = outside(&stage);
        let before = canaries(&outside);
        let over = AtomicBool::new(false);
        let statuses = std::thread::scope(|scope| {
            scope.spawn(|| rearrange(&stage.export(), &outside, &over));
            let mut commands = [stage.convert(model), stage.convert(model), stage.rollback()];
            let statuses: Vec<_> = commands
                .iter_mut()
                .map(|command| {
                    command.args(["--in-use", &format!("--jobs={}", 1 + round % 3)]);
                    command.output().unwrap().status.code()
                })
                .collect();
            over.store(true, Ordering::Relaxed);
            statuses
        });
        assert_eq!(before, canaries(&outside), "{model}: canaries changed");
        assert!(statuses.iter().all(|status| matches!(status, Some(0 | 1 | 3))), "{statuses:?}");
    }
}

/// How often the race is run; `RACES=60` for a long one.
fn races() -> usize {
    std::env::var("RACES").ok().and_then(|races| races.parse().ok()).unwrap_or(2)
}

/// An export that was rearranged while it was being converted, and is quiet now.
fn raced(model: &str, race: usize) -> Stage {
    let stage = Stage::new();
    fill(&stage.export());
    let outside = outside(&stage);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| rearrange(&stage.export(), &outside, &over));
        for _ in 0..=race % 2 {
            stage.convert(model).args(["--in-use", &format!("--jobs={}", 1 + race % 3)]).output().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    stage
}

/// Converts what is left of an export that is quiet now, and takes it back.
fn there_and_back(stage: &Stage, model: &str) {
    let before = listed(&stage.export());
    let output = stage.convert(model).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{model}: {output:?}");
    // What went away is told by whoever finds it missing first; after that there is nothing to do.
    let said = success(&mut stage.convert(model));
    assert!(said.contains("there is nothing to do"), "{model}: {said}");
    for path in paths(&stage.export()) {
        let (now, shown) = (fs::symlink_metadata(&path).unwrap(), path.display());
        assert_eq!((now.uid(), now.gid()), (64055, 64056), "{model}: {shown}");
        assert!(now.is_file() || now.is_dir(), "{model}: {shown} is not converted");
    }
    stage.verify(model);
    success(&mut stage.rollback());
    assert_same(&before, &listed(&stage.export()), model);
    check_characters(&stage.export(), model);
}

#[test]
fn once_all_is_quiet_the_conversion_ends_and_can_be_taken_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for race in 0..races() {
        for model in MODELS {
            there_and_back(&raced(model, race), model);
        }
    }
}

/// Puts much of an export elsewhere.
fn scatter(export: &Path) {
    let at = |name: &str| export.join(name);
    let go = |from: &str, to: &str| fs::rename(at(from), at(to)).unwrap();
    let exchange = |one: &str, other: &str| {
        rustix::fs::renameat_with(CWD, at(one), CWD, at(other), RenameFlags::EXCHANGE).unwrap();
    };
    exchange("wander/below/link-1", "file-1");
    exchange("wander/below/link-2", "wander/below/link-3");
    exchange("wander/file-7", "nest/file-8");
    exchange("target", "nest/file-1");
    go("file-7", "nest/moved");
    go("nest/file-3", "nest/file-4");
    go("nest/fifo", "wander/fifo");
    go("nest/deep", "wander/below/deep");
    go("nest", "wander/nest");
    go("wander", "elsewhere");
    fs::create_dir(at("wander")).unwrap();
    shape_as(export, "wander", "elsewhere");
    go("elsewhere/below/link-5", "wander/link");
    fs::write(at("fresh"), "").unwrap();
    go("fresh", "elsewhere/file-9");
    fs::remove_file(at("file-11")).unwrap();
    fs::hard_link(at("file-12"), at("elsewhere/another")).unwrap();
}

/// Gives a directory that was just made the attribute that another one has, with its character.
fn shape_as(export: &Path, name: &str, other: &str) {
    let mut value = vec![0; 256];
    let count = rustix::fs::getxattr(export.join(other), c"user.origin", &mut value[..]).unwrap();
    rustix::fs::setxattr(export.join(name), c"user.origin", &value[..count], XattrFlags::empty()).unwrap();
    shape(export, name);
}

#[test]
fn what_was_moved_after_a_kill_is_converted_where_it_is_now() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::new();
        fill(&stage.export());
        let calls = run(stage.convert(model), Meddling::Count).calls;
        for (turn, tenth) in [2, 5, 7, 9].into_iter().enumerate() {
            for back in [false, true] {
                let stage = Stage::new();
                fill(&stage.export());
                let mut command = stage.convert(model);
                command.arg("--jobs=1");
                assert_eq!(run(command, Meddling::Kill(calls * tenth / 10)).status, None);
                scatter(&stage.export());
                if turn % 2 == 0 {
                    scatter_again(&stage.export());
                }
                if back {
                    let before = listed(&stage.export());
                    success(&mut stage.rollback());
                    assert_same(&before, &listed(&stage.export()), model);
                    check_characters(&stage.export(), model);
                } else {
                    there_and_back(&stage, model);
                }
            }
        }
    }
}

/// … and some of it back again.
fn scatter_again(export: &Path) {
    let at = |name: &str| export.join(name);
    fs::rename(at("wander/link"), at("nest-link")).unwrap();
    fs::remove_dir(at("wander")).unwrap();
    fs::rename(at("elsewhere"), at("wander")).unwrap();
    fs::rename(at("wander/nest"), at("nest")).unwrap();
}

#[test]
fn once_all_is_quiet_half_a_conversion_can_be_taken_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for race in 0..races() {
        for model in MODELS {
            let stage = raced(model, race);
            let before = listed(&stage.export());
            success(&mut stage.rollback());
            assert_same(&before, &listed(&stage.export()), model);
            check_characters(&stage.export(), model);
        }
    }
}
