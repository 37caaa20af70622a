//! An export that a hostile guest keeps rearranging while it is converted: nothing outside of it is ever touched.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags};

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

/// Keeps swapping a directory with a symlink out of the export, files with symlinks, and moves and removes others.
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
        let name = format!("fleeting-{}", round % 50);
        if fs::remove_file(at(&name)).is_err() {
            let _ = fs::write(at(&name), "");
        }
        round += 1;
    }
}

fn fill(export: &Path) {
    for folder in ["", "target", "wander", "wander/below"] {
        fs::create_dir(export.join(folder)).unwrap();
    }
    for number in 0..100 {
        fs::write(export.join(format!("file-{number}")), "").unwrap();
        fs::write(export.join(format!("wander/file-{number}")), "").unwrap();
        symlink("nowhere", export.join(format!("wander/below/link-{number}"))).unwrap();
    }
    for name in ["file", "link"] {
        fs::write(export.join("target").join(name), "").unwrap();
    }
}

#[test]
fn nothing_outside_is_touched_however_the_export_changes() {
    let _turn = crate::stage::turn();
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

#[test]
fn once_all_is_quiet_the_conversion_ends_and_can_be_taken_back() {
    let _turn = crate::stage::turn();
    for model in MODELS {
        let stage = Stage::new();
        fill(&stage.export());
        let outside = outside(&stage);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| rearrange(&stage.export(), &outside, &over));
            stage.convert(model).arg("--in-use").output().unwrap();
            over.store(true, Ordering::Relaxed);
        });
        let names = |stage: &Stage| {
            let mut names: Vec<_> = fs::read_dir(stage.export())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .filter(|name| !name.to_string_lossy().starts_with(".virtfs_metadata"))
                .collect();
            names.sort();
            names
        };
        let before = names(&stage);
        let output = stage.convert(model).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{model}: {output:?}");
        // What went away is told by whoever finds it missing first; after that there is nothing to do.
        stage.convert(model).output().unwrap();
        success(&mut stage.convert(model));
        // A directory that was carried to and fro may have been passed over: then the proof says so.
        let missed = fs::read_dir(stage.export()).unwrap().any(|entry| {
            let metadata = entry.unwrap().metadata().unwrap();
            (metadata.uid(), metadata.gid()) != (64055, 64056)
        });
        let proof = stage.command("verify").output().unwrap();
        assert!(!missed || proof.status.code() == Some(3), "{model}: {proof:?}");
        let output = stage.rollback().output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{model}: {output:?}");
        assert_eq!(before, names(&stage), "{model}");
        for (name, kind) in [("file-7", 'f'), ("wander", 'd'), ("wander/below/link-3", 'l')] {
            let metadata = fs::symlink_metadata(stage.export().join(name)).unwrap();
            let is = if metadata.is_symlink() {
                'l'
            } else if metadata.is_dir() {
                'd'
            } else {
                'f'
            };
            assert_eq!((is, metadata.uid()), (kind, 0), "{model} {name}");
        }
    }
}
