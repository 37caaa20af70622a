//! Kills on other file systems than the one of the scratch directory: XFS, Btrfs, and Btrfs with subvolumes in the export.
//!
//! `CRASH_POINTS=all` kills at every call that changes something.

use std::fs;

use rustix::fs::{CWD, FileType, Mode};

use crate::crash::{alone, as_a_guest, count, each, kill_at, on_or_back, points, timeless};
use crate::disk::{self, Disk};
use crate::injector::{Meddling, run_watched};
use crate::knot;
use crate::snapshot::assert_same;
use crate::stage::{Disks, MODELS, Stage, success};

/// How many calls of a run are tried.
const POINTS: usize = 2;

fn on(kind: &str) -> Stage {
    let mebibytes = if kind == "xfs" { 320 } else { 128 };
    Stage::on(Disks { export: Disk::format(kind, mebibytes, "noatime"), journal: None })
}

#[test]
fn a_kill_on_xfs_and_btrfs_loses_nothing() {
    if crate::stage::elsewhere() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let begin = || {
            let stage = on(kind);
            knot::tie(&stage.export());
            stage
        };
        for model in MODELS {
            let stage = begin();
            let calls = count(stage.convert(model));
            let back = count(stage.rollback());
            knot::untie(&stage.export());
            each(&points(calls, POINTS), |point| {
                let what = format!("{kind}, {model}, killed at {point} of {calls}");
                let stage = begin();
                let before = stage.snapshot();
                kill_at(point, || stage.convert(model), &what);
                on_or_back(&stage, model, &before, point % 2 == 0, &what);
                knot::untie(&stage.export());
            });
            each(&points(back, POINTS), |point| {
                let what = format!("{kind}, {model}, rollback killed at {point} of {back}");
                let stage = begin();
                let before = stage.snapshot();
                success(&mut stage.convert(model));
                kill_at(point, || stage.rollback(), &what);
                success(&mut stage.rollback());
                assert_same(&before, &stage.snapshot(), &what);
                knot::untie(&stage.export());
            });
        }
    }
}

/// A converted export with a subvolume in which the guest has made hard links of special files.
fn linked(model: &str) -> Stage {
    let stage = on("btrfs");
    let export = stage.export();
    let volume = export.join("volume");
    for path in [&export, &volume] {
        disk::run("btrfs", &[&"-q", &"subvolume", &"create", path]);
    }
    for folder in ["a", "b"] {
        fs::create_dir(volume.join(folder)).unwrap();
    }
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
        rustix::fs::mknodat(CWD, volume.join("a").join(name), kind, Mode::RUSR, 0).unwrap();
    }
    std::os::unix::fs::symlink("target", volume.join("link")).unwrap();
    success(stage.convert(model).arg("--accept=owner-kept-out"));
    for (from, to) in [("a/fifo", "b/fifo"), ("a/socket", "socket"), ("link", "b/link"), ("link", "a/third")]
    {
        let in_volume = |name: &str| format!("volume/{name}");
        as_a_guest(&export, model, &in_volume(from), &in_volume(to), false);
    }
    stage
}

#[test]
fn the_hard_links_that_a_guest_made_in_a_subvolume_survive_a_killed_rollback() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = linked(model);
        let (mut calls, mut links) = (0, Vec::new());
        let whole = run_watched(alone(stage.rollback()), Meddling::Count, &mut |call| {
            calls += 1;
            if [libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_linkat].contains(&call) {
                links.push(calls);
            }
        });
        assert_eq!(whole.status, Some(0));
        let expected = timeless(&stage.snapshot());
        for (name, count) in [("b/fifo", 2), ("socket", 2), ("b/link", 3)] {
            let line = expected.lines().find(|line| line.starts_with(&format!("./volume/{name} ")));
            let is_linked = line.is_some_and(|line| line.contains(&format!(" links={count} ")));
            assert!(is_linked, "{model}: {name} lost its other names: {line:?}");
        }
        assert!(links.len() > 6, "{model}: {links:?}");
        let tried = points(links.len(), POINTS * 2).into_iter().map(|number| links[number - 1] + 1);
        each(&tried.collect::<Vec<_>>(), |point| {
            let what = format!("{model}, rollback killed at {point} of {calls}");
            let stage = linked(model);
            kill_at(point, || stage.rollback(), &what);
            success(&mut stage.rollback());
            assert_same(&expected, &timeless(&stage.snapshot()), &what);
        });
    }
}

/// XFS shows each ACL a second time, in its own form: as an attribute of the original, it is not for what the guest has changed.
#[test]
fn an_acl_that_the_guest_gave_to_a_special_file_is_its_acl_after_a_rollback_on_xfs() {
    if crate::stage::elsewhere() {
        return;
    }
    let acl = |path: &std::path::Path| {
        let output = std::process::Command::new("getfacl").args(["-npc"]).arg(path).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>().join(",")
    };
    for model in MODELS {
        let stage = on("xfs");
        let fifo = stage.export().join("fifo");
        let other = stage.export().join("other");
        fs::create_dir(stage.export()).unwrap();
        for path in [&fifo, &other] {
            rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from(0o640), 0).unwrap();
            disk::run("setfacl", &[&"-m", &"u:7:rw", path]);
        }
        success(&mut stage.convert(model));
        // The guest takes the user's rights away.
        if model == "mapped-xattr" {
            // The file system's root shows what the attribute of such an ACL is.
            let sample = stage.folder().join("sample");
            fs::write(&sample, "").unwrap();
            disk::run("setfacl", &[&"-m", &"u::rw,u:8:r,g::-,m::r,o::-", &sample]);
            let mut value = [0; 256];
            let length = rustix::fs::getxattr(&sample, "system.posix_acl_access", &mut value[..]).unwrap();
            let name = "user.virtfs.system.posix_acl_access";
            rustix::fs::setxattr(&fifo, name, &value[..length], rustix::fs::XattrFlags::empty()).unwrap();
        } else {
            disk::run("setfacl", &[&"-x", &"u:7", &"-m", &"u:8:r,g::-,m::r,o::-", &fifo]);
        }
        success(&mut stage.rollback());
        assert_eq!(acl(&other), "user::rw-,user:7:rw-,group::r--,mask::rw-,other::---,", "{model}");
        let now = acl(&fifo);
        assert!(now.contains("user:8:r--") && !now.contains("user:7"), "{model}: {now}");
    }
}
