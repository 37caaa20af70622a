//! Errors that do not go away: a disk that is full, a quota that is reached, a device that is broken, from any system call on. What
//! is said to be done is done; when the cause is gone the same command goes on, and everything comes back.
//!
//! `CRASH_POINTS=all` tries every call.

use std::process::Command;

use crate::crash::{alone, as_a_guest, count, each, points, timeless};
use crate::injector::{Meddling, Run, run, run_watched};
use crate::snapshot::assert_same;
use crate::stage::{MODELS, Stage, success};
use crate::unmap::{kept, unmap};

/// How many calls of a run are tried for each cause.
const POINTS: usize = 3;

/// A cause, and what it lets fail from a call on.
pub type Cause = (&'static str, fn(usize) -> Meddling);

/// What takes room fails, or everything.
pub const CAUSES: [Cause; 3] = [
    ("ENOSPC", |point| Meddling::FailFrom(point, libc::ENOSPC)),
    ("EDQUOT", |point| Meddling::FailFrom(point, libc::EDQUOT)),
    ("EIO", |point| Meddling::FailAllFrom(point, libc::EIO)),
];

#[test]
fn a_conversion_that_errors_end_goes_on_or_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for (cause, meddling) in CAUSES {
        for model in MODELS {
            let calls = count(Stage::knotted().convert(model));
            each(&points(calls, POINTS - 1), |point| {
                let what = format!("{model}, {cause} from {point} of {calls}");
                let stage = Stage::knotted();
                let before = stage.snapshot();
                match run(alone(stage.convert(model)), meddling(point)).status {
                    Some(0) => stage.verify(&what),
                    Some(1 | 3) => {}
                    other => panic!("{what}: ended with {other:?}"),
                }
                if point % 2 == 0 && stage.journal().exists() {
                    success(&mut stage.rollback());
                    assert_same(&before, &stage.snapshot(), &format!("{what}, rolled back at once"));
                }
                success(&mut stage.convert(model));
                stage.verify(&what);
                success(&mut stage.rollback());
                assert_same(&before, &stage.snapshot(), &what);
            });
        }
    }
}

/// Lets errors end a command of a stage that `begin` makes, and runs it again: at the end it looks as `begin` says, or as it does
/// without errors.
fn must_get_there(
    what: &str,
    begin: impl Fn() -> (Stage, Option<String>),
    command: impl Fn(&Stage) -> Command,
    look: impl Fn(&Stage) -> String,
) {
    let (stage, _) = begin();
    let calls = count(command(&stage));
    let common = look(&stage);
    for (cause, meddling) in CAUSES {
        each(&points(calls, POINTS), |point| {
            let what = format!("{what}, {cause} from {point} of {calls}");
            let (stage, expected) = begin();
            let expected = expected.as_ref().unwrap_or(&common);
            match run(alone(command(&stage)), meddling(point)).status {
                Some(0) => assert_same(expected, &look(&stage), &format!("{what}, which is said to be done")),
                Some(1 | 3) => {}
                other => panic!("{what}: ended with {other:?}"),
            }
            let output = command(&stage).output().expect("the program");
            let said = String::from_utf8_lossy(&output.stderr);
            // It may have come to its end before.
            assert!(output.status.success() || said.contains("is unmapped"), "{what}: {said}");
            assert_same(expected, &look(&stage), &what);
        });
    }
}

fn converted(model: &str) -> (Stage, String) {
    let stage = Stage::knotted();
    let before = stage.snapshot();
    success(&mut stage.convert(model));
    (stage, before)
}

/// Lets each call that changes an inode of a command lack room once: it is tried again over what the first try did. Of every further
/// call of a kind one in `step` is tried.
fn each_lacks_room_once(
    what: &str,
    step: usize,
    begin: &dyn Fn() -> (Stage, String),
    command: &dyn Fn(&Stage) -> Command,
    look: &dyn Fn(&Stage) -> String,
) {
    const CHANGING: [i64; 11] = [
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_fchmod,
        libc::SYS_chmod,
        libc::SYS_fsetxattr,
        libc::SYS_fremovexattr,
        libc::SYS_unlinkat,
        libc::SYS_symlinkat,
        libc::SYS_mknodat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
    ];
    let (mut calls, mut points) = (0, Vec::new());
    run_watched(alone(command(&begin().0)), Meddling::Count, &mut |call| {
        calls += 1;
        points.extend(CHANGING.contains(&call).then_some(calls));
    });
    assert!(points.len() > 5, "{what}: {points:?} of {calls}");
    let all = std::env::var_os("CRASH_POINTS").is_some_and(|value| value == "all");
    for (number, point) in points.into_iter().enumerate().step_by(if all { 1 } else { step }) {
        let error = if number % 2 == 0 { libc::ENOSPC } else { libc::EDQUOT };
        let what = format!("{what}, error {error} at {point} of {calls}");
        let (stage, expected) = begin();
        let Run { status, .. } = run(alone(command(&stage)), Meddling::Fail(point, error));
        match status {
            Some(0) => assert_same(&expected, &look(&stage), &format!("{what}, which is said to be done")),
            Some(1) => {}
            other => panic!("{what}: ended with {other:?}"),
        }
        let output = command(&stage).output().expect("the program");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("is unmapped"), "{what}: {said}");
        assert_same(&expected, &look(&stage), &what);
    }
}

#[test]
fn a_rollback_that_lacks_room_for_a_moment_is_exact() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let begin = || {
            let stage = Stage::in_memory();
            std::fs::create_dir_all(stage.export().join("d")).unwrap();
            let before = stage.snapshot();
            success(&mut stage.convert(model));
            (stage, before)
        };
        each_lacks_room_once(model, 1, &begin, &Stage::rollback, &Stage::snapshot);
    }
}

/// What the guest made, moved and linked is restored by the walk over all that is left.
#[test]
fn a_rollback_of_a_guests_work_that_lacks_room_for_a_moment_is_exact() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let work = || {
            let (stage, _) = converted(model);
            for (from, to, moves) in GUESTS_WORK {
                as_a_guest(&stage.export(), model, from, to, moves);
            }
            stage
        };
        let look = |stage: &Stage| timeless(&stage.snapshot());
        let expected = {
            let stage = work();
            success(&mut stage.rollback());
            look(&stage)
        };
        each_lacks_room_once(model, 29, &|| (work(), expected.clone()), &Stage::rollback, &look);
    }
}

#[test]
fn an_unmapping_that_lacks_room_for_a_moment_is_exact() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let begin = || {
            let stage = Stage::knotted();
            let original = kept(&stage.manifest("passthrough"));
            success(&mut stage.convert(model));
            std::fs::remove_file(stage.journal()).unwrap();
            (stage, original)
        };
        let command = |stage: &Stage| {
            let mut command = unmap(stage, model);
            command.arg("--apply");
            command
        };
        let look = |stage: &Stage| kept(&stage.manifest("passthrough"));
        each_lacks_room_once(&format!("{model}, unmapped"), 29, &begin, &command, &look);
    }
}

/// What a guest links, and moves.
const GUESTS_WORK: [(&str, &str, bool); 4] = [
    ("d/e/fifo", "empty/fifo", false),
    ("link", "empty/third", false),
    ("d/null", "empty/moved", true),
    ("acl", "d/acl", true),
];

#[test]
fn a_rollback_that_errors_end_goes_on() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let begin = || {
            let (stage, before) = converted(model);
            (stage, Some(before))
        };
        must_get_there(model, begin, Stage::rollback, Stage::snapshot);
    }
}

#[test]
fn a_rollback_of_a_guests_work_that_errors_end_goes_on() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let begin = || {
            let (stage, _) = converted(model);
            for (from, to, moves) in GUESTS_WORK {
                as_a_guest(&stage.export(), model, from, to, moves);
            }
            (stage, None)
        };
        let what = format!("{model}, a guest's work");
        must_get_there(&what, begin, Stage::rollback, |stage| timeless(&stage.snapshot()));
    }
}

#[test]
fn an_unmapping_that_errors_end_goes_on() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let begin = || {
            let stage = Stage::knotted();
            let original = kept(&stage.manifest("passthrough"));
            success(&mut stage.convert(model));
            std::fs::remove_file(stage.journal()).unwrap();
            (stage, Some(original))
        };
        let command = |stage: &Stage| {
            let mut command = unmap(stage, model);
            command.arg("--apply");
            command
        };
        let what = format!("{model}, unmapped");
        must_get_there(&what, begin, command, |stage| kept(&stage.manifest("passthrough")));
    }
}

/// A converted tree in the place of which a copy of it was restored.
fn restored(model: &str) -> Stage {
    let (stage, _) = converted(model);
    let backup = stage.folder().join("backup");
    crate::disk::run("cp", &[&"-a", &stage.export(), &backup]);
    crate::knot::untie(&stage.export());
    std::fs::rename(&backup, stage.export()).unwrap();
    stage
}

pub fn by_path(stage: &Stage) -> Command {
    let mut command = stage.rollback();
    command.arg("--by-path");
    command
}

#[test]
fn a_rollback_by_paths_that_errors_end_goes_on() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let look = |stage: &Stage| timeless(&stage.snapshot());
        must_get_there(&format!("{model}, by paths"), || (restored(model), None), by_path, look);
    }
}

#[test]
fn a_rollback_by_paths_that_was_killed_goes_on() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = restored(model);
        let calls = count(by_path(&stage));
        let expected = timeless(&stage.snapshot());
        each(&points(calls, POINTS), |point| {
            let what = format!("{model}, rollback by paths killed at {point} of {calls}");
            let stage = restored(model);
            crate::crash::kill_at(point, || by_path(&stage), &what);
            success(&mut by_path(&stage));
            assert_same(&expected, &timeless(&stage.snapshot()), &what);
        });
    }
}
