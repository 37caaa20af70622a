//! Power cuts on a disk of its own: what had not reached the disk is lost, of the journal and of the export alike, and what
//! had is there, in whichever order the file system wrote it.
//!
//! `CRASH_POINTS=all` cuts at every call that changes something.

use std::path::PathBuf;
use std::process::Command;

use crate::crash::{alone, count, points};
use crate::disk::Disk;
use crate::injector::{Meddling, run_watched};
use crate::knot;
use crate::snapshot::assert_same;
use crate::stage::{MODELS, Stage, success};

/// A file system, its size in MiB, and how it is mounted: as everybody does, and so that content comes as late as it may.
const DISKS: [(&str, u64, &str); 2] =
    [("ext4", 12, "data=ordered"), ("ext4", 12, "data=writeback,noauto_da_alloc")];

/// How many points of a run are tried.
const POINTS: usize = 16;

/// What was on the disk at some points of a run.
struct Cuts {
    /// Removed with this.
    _folder: tempfile::TempDir,
    images: Vec<(usize, PathBuf)>,
}

/// Runs `command` to its end, and cuts the power at `points` of it. Before each second cut, the kernel has just written
/// everything: as it does now and then on its own account.
fn cuts(stage: &Stage, command: Command, points: &[usize]) -> Cuts {
    let folder = tempfile::tempdir_in(stage.disk().image().parent().unwrap()).unwrap();
    let (mut images, mut calls) = (Vec::new(), 0);
    let whole = run_watched(alone(command), Meddling::Count, &mut |_| {
        calls += 1;
        let near = |distance: usize| points.iter().position(|&point| point == calls + distance);
        if [0, 1, 4].into_iter().enumerate().any(|(sort, far)| near(far).is_some_and(|at| at % 4 == sort + 1))
        {
            stage.disk().sync();
        }
        if near(0).is_some() {
            let image = folder.path().join(calls.to_string());
            stage.disk().cut(&image);
            images.push((calls, image));
        }
    });
    assert_eq!(whole.status, Some(0));
    assert!(images.len() + 2 > points.len(), "only {} cuts of {}", images.len(), points.len());
    Cuts { _folder: folder, images }
}

#[test]
fn after_a_power_cut_a_conversion_goes_on_or_back() {
    let _turn = crate::stage::turn();
    for (kind, size, options) in DISKS {
        for model in MODELS {
            let calls = count(Stage::knotted().convert(model));
            let stage = Stage::on(Disk::format(kind, size, options));
            knot::tie(&stage.export());
            stage.disk().sync();
            let before = stage.snapshot();
            let cuts = cuts(&stage, stage.convert(model), &points(calls, POINTS));
            for (number, (point, image)) in cuts.images.iter().enumerate() {
                let what = format!("{kind} ({options}), {model}, power cut at {point} of {calls}");
                let stage = Stage::on(Disk::left(image, options));
                if number % 2 == 0 {
                    if stage.journal().exists() {
                        success(&mut stage.rollback());
                    }
                    assert_same(&before, &stage.snapshot(), &format!("{what}, rolled back"));
                }
                success(&mut stage.convert(model));
                stage.verify(&what);
                success(&mut stage.rollback());
                assert_same(&before, &stage.snapshot(), &what);
            }
        }
    }
}

#[test]
fn after_a_power_cut_a_rollback_goes_on() {
    let _turn = crate::stage::turn();
    for (kind, size, options) in DISKS {
        for model in MODELS {
            let begin = |stage: &Stage| {
                knot::tie(&stage.export());
                let before = stage.snapshot();
                success(&mut stage.convert(model));
                before
            };
            let stage = Stage::new();
            begin(&stage);
            let calls = count(stage.rollback());
            let stage = Stage::on(Disk::format(kind, size, options));
            let before = begin(&stage);
            let cuts = cuts(&stage, stage.rollback(), &points(calls, POINTS));
            // With all that came after it.
            let ended = cuts.images.len();
            for (number, (point, image)) in cuts.images.iter().enumerate() {
                let what = format!("{kind} ({options}), {model}, rollback, power cut at {point} of {calls}");
                let stage = Stage::on(Disk::left(image, options));
                success(&mut stage.rollback());
                assert_same(&before, &stage.snapshot(), &what);
                stage.verify(&what);
                if number + 1 == ended {
                    success(&mut stage.convert(model));
                    stage.verify(&what);
                }
            }
        }
    }
}

#[test]
fn what_was_said_to_be_done_is_on_the_disk() {
    let _turn = crate::stage::turn();
    for (kind, size, options) in DISKS {
        for model in MODELS {
            let stage = Stage::on(Disk::format(kind, size, options));
            knot::tie(&stage.export());
            let before = stage.snapshot();
            success(&mut stage.convert(model));
            let image = stage.disk().image().with_extension("cut");
            stage.disk().cut(&image);
            let converted = Stage::on(Disk::left(&image, options));
            assert_same(&stage.snapshot(), &converted.snapshot(), &format!("{kind} ({options}), {model}"));
            converted.verify("cut after the conversion");
            success(&mut stage.rollback());
            stage.disk().cut(&image);
            let back = Stage::on(Disk::left(&image, options));
            assert_same(&before, &back.snapshot(), &format!("{kind} ({options}), {model}, rolled back"));
        }
    }
}
