//! Power cuts on a disk of its own: what had not reached the disk is lost, of the journal and of the export alike, and what
//! had is there, in whichever order the file system wrote it.
//!
//! `CRASH_POINTS=all` cuts at every call that changes something.

use std::process::Command;

use tempfile::TempDir;

use crate::crash::{alone, count, on_or_back, points};
use crate::disk::{self, Disk};
use crate::injector::{Meddling, run_watched};
use crate::knot;
use crate::snapshot::assert_same;
use crate::stage::{Disks, MODELS, Stage, success};

/// A file system and its size in MiB, how it is mounted, and whether the journal is on another one: as everybody does, and so
/// that content comes as late as it may.
const DISKS: [(&str, u64, &str, bool); 6] = [
    ("ext4", 12, "data=ordered", false),
    ("ext4", 12, "data=ordered", true),
    ("ext4", 12, "data=writeback,noauto_da_alloc", false),
    ("ext4", 12, "data=writeback,noauto_da_alloc", true),
    ("btrfs", 128, "noatime", true),
    // A copy is mounted beside the disk that it is of.
    ("xfs", 320, "nouuid", true),
];

/// How many points of a run are tried.
const POINTS: usize = 5;

/// Calls `test` with an empty stage on each of [`DISKS`], for each model, and with how to mount what is left.
fn on_each(test: impl Fn(Stage, &str, &str, &str)) {
    if crate::stage::elsewhere() {
        return;
    }
    for (kind, size, options, is_apart) in DISKS {
        for model in MODELS {
            let format = || Disk::format(kind, size, options);
            let stage = Stage::on(Disks { export: format(), journal: is_apart.then(format) });
            let apart = if is_apart { ", journal apart" } else { "" };
            test(stage, model, options, &format!("{kind} ({options}{apart}), {model}"));
        }
    }
}

/// What is on a stage's disks when the power is cut now.
struct Cut {
    folder: TempDir,
    /// The system calls before it.
    point: usize,
}

impl Cut {
    fn of(stage: &Stage, point: usize) -> Self {
        let folder = disk::folder();
        for (number, disk) in stage.disks().each().enumerate() {
            disk.cut(&folder.path().join(number.to_string()));
        }
        Self { folder, point }
    }

    /// A stage with that.
    fn left(&self, options: &str) -> Stage {
        let mut disks: Vec<_> = ["0", "1"]
            .iter()
            .map(|number| self.folder.path().join(number))
            .filter(|image| image.exists())
            .map(|image| Disk::left(&image, options))
            .collect();
        let export = disks.pop().unwrap();
        Stage::on(Disks { export, journal: disks.pop() })
    }
}

/// Runs `command` to its end, and cuts the power at `points` of it. Before most cuts, sooner or later, the kernel writes
/// all of the export, as it does now and then on its own account.
fn cuts(stage: &Stage, command: Command, points: &[usize]) -> Vec<Cut> {
    let (mut cuts, mut calls) = (Vec::new(), 0);
    let whole = run_watched(alone(command), Meddling::Count, &mut |_| {
        calls += 1;
        let is_near = |sort: usize, distance: usize| {
            points.iter().position(|&point| point == calls + distance).is_some_and(|at| at % 4 == sort)
        };
        if is_near(1, 0) || is_near(2, 1) || is_near(3, 4) {
            stage.disks().export.sync();
        }
        if points.contains(&calls) {
            cuts.push(Cut::of(stage, calls));
        }
    });
    assert_eq!(whole.status, Some(0));
    // The order of a directory's entries is the file system's affair, and with it the number of calls varies a little.
    assert!(points.iter().all(|&point| point < calls + 40), "only {calls} calls, and cuts at {points:?}");
    cuts
}

#[test]
fn after_a_power_cut_a_conversion_goes_on_or_back() {
    on_each(|stage, model, options, what| {
        let calls = count(Stage::knotted().convert(model));
        knot::tie(&stage.export());
        stage.disks().each().for_each(Disk::sync);
        let before = stage.snapshot();
        let cuts = cuts(&stage, stage.convert(model), &points(calls, POINTS));
        // A copy beside its original is refused.
        drop(stage);
        for (number, cut) in cuts.iter().enumerate() {
            let what = format!("{what}, power cut at {} of {calls}", cut.point);
            on_or_back(&cut.left(options), model, &before, number % 2 == 0, &what);
        }
    });
}

#[test]
fn after_a_power_cut_a_rollback_goes_on() {
    on_each(|stage, model, options, what| {
        let calls = {
            let stage = Stage::knotted();
            success(&mut stage.convert(model));
            count(stage.rollback())
        };
        knot::tie(&stage.export());
        let before = stage.snapshot();
        success(&mut stage.convert(model));
        let cuts = cuts(&stage, stage.rollback(), &points(calls, POINTS));
        drop(stage);
        for cut in cuts {
            let what = format!("{what}, rollback, power cut at {} of {calls}", cut.point);
            let stage = cut.left(options);
            success(&mut stage.rollback());
            assert_same(&before, &stage.snapshot(), &what);
            stage.verify(&what);
        }
    });
}

#[test]
fn what_was_said_to_be_done_is_on_the_disk() {
    on_each(|stage, model, options, what| {
        knot::tie(&stage.export());
        let before = stage.snapshot();
        success(&mut stage.convert(model));
        let converted = Cut::of(&stage, 0).left(options);
        assert_same(&stage.snapshot(), &converted.snapshot(), what);
        converted.verify(what);
        success(&mut stage.rollback());
        assert_same(&before, &Cut::of(&stage, 0).left(options).snapshot(), &format!("{what}, rolled back"));
    });
}
