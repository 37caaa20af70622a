//! Killed, or refused by the kernel, at any system call that changes something: nothing is lost, the same command goes
//! on, and a rollback brings everything back.
//!
//! `CRASH_POINTS=all` tries every such call; otherwise so many of each sort, evenly spread.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::injector::{Meddling, Run, run, run_watched};
use crate::snapshot::assert_same;
use crate::stage::{MODELS, Stage, success};

/// How many calls of a run are tried.
const POINTS: usize = 12;

/// One worker: nothing happens in another order, and the calls of each run are the same.
pub fn alone(mut command: Command) -> Command {
    command.arg("--jobs=1").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Whether everything is to be tried, however long it takes.
pub fn is_all() -> bool {
    std::env::var_os("CRASH_POINTS").is_some_and(|value| value == "all")
}

/// Calls to try of a run that makes so many.
pub fn points(calls: usize, most: usize) -> Vec<usize> {
    let step = if is_all() { 1 } else { calls.div_ceil(most).max(1) };
    (1..=calls).step_by(step).collect()
}

/// Tries each point.
pub fn each(points: &[usize], attempt: impl Fn(usize)) {
    for &point in points {
        attempt(point);
    }
}

/// Calls to try of a run that makes so many, every other one with `true`: what follows then takes the other way.
fn alternating(calls: usize, most: usize) -> impl Iterator<Item = (usize, bool)> {
    points(calls, most).into_iter().enumerate().map(|(number, point)| (point, number % 2 == 1))
}

/// Panics unless a run was killed, or came to its end just before: the order of a directory's entries is the file
/// system's affair, and with it the number of calls varies a little.
fn must_be_killed(run: &Run, point: usize, what: &str) {
    let is_over = run.status == Some(0) && run.calls < point && point - run.calls < 20;
    assert!(run.status.is_none() || is_over, "{what}: not killed but {run:?}");
}

/// Kills a run at its call number `point`.
pub fn kill_at(point: usize, command: impl Fn() -> Command, what: &str) {
    let killed = run(alone(command()), Meddling::Kill(point));
    must_be_killed(&killed, point, what);
}

/// How many calls a whole run of `command` makes.
pub fn count(command: Command) -> usize {
    count_above(100, command)
}

/// [`count`], of a run that makes more than `least`.
pub fn count_above(least: usize, command: Command) -> usize {
    let Run { status, calls } = run(alone(command), Meddling::Count);
    assert_eq!(status, Some(0));
    assert!(calls > least, "only {calls} calls seen: does the injector know those that matter?");
    calls
}

/// The ways from a conversion that was interrupted: back at once, or on; and then back.
pub fn on_or_back(stage: &Stage, model: &str, before: &str, back_first: bool, what: &str) {
    if back_first {
        if stage.journal().exists() {
            success(&mut stage.rollback());
        }
        assert_same(before, &stage.snapshot(), &format!("{what}, rolled back"));
    }
    success(&mut stage.convert(model));
    stage.verify(what);
    success(&mut stage.rollback());
    assert_same(before, &stage.snapshot(), what);
}

#[test]
fn a_conversion_that_was_killed_goes_on_or_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let calls = count(Stage::knotted().convert(model));
        // The step may be an even number: whether a point is even says nothing.
        for (point, back_first) in alternating(calls, POINTS) {
            let what = format!("{model}, killed at {point} of {calls}");
            let stage = Stage::knotted();
            let before = stage.snapshot();
            kill_at(point, || stage.convert(model), &what);
            on_or_back(&stage, model, &before, back_first, &what);
        }
    }
}

/// The times of modification of the directories that a snapshot of an export tells of. Listing them would mark them as read.
fn directory_times(export: &Path, snapshot: &str) -> BTreeMap<PathBuf, (i64, i64)> {
    let directories = snapshot.lines().filter(|line| line.contains(" mode=4"));
    let paths = directories.map(|line| export.join(line.split(' ').next().unwrap()));
    let time = |path: &Path| path.symlink_metadata().map(|of| (of.mtime(), of.mtime_nsec()));
    paths.filter_map(|path| Some((path.clone(), time(&path).ok()?))).collect()
}

#[test]
fn a_rollback_of_a_conversion_killed_before_it_gave_times_back_restores_them() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let (mut calls, mut gives_back) = (0, Vec::new());
        run_watched(alone(Stage::knotted().convert(model)), Meddling::Count, &mut |call| {
            calls += 1;
            if call == libc::SYS_utimensat {
                gives_back.push(calls);
            }
        });
        assert!(gives_back.len() > 5, "{model}: {gives_back:?}");
        for point in gives_back {
            let what = format!("{model}, killed at {point} of {calls}");
            let stage = Stage::knotted();
            let before = stage.snapshot();
            kill_at(point, || stage.convert(model), &what);
            success(&mut stage.rollback());
            assert_same(&before, &stage.snapshot(), &what);
        }
    }
}

/// A folder that the journal tells of in several parts, of which the last alone holds a symbolic link.
fn in_parts() -> Stage {
    let stage = Stage::in_memory();
    let folder = stage.export().join("folder");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..900 {
        std::fs::write(folder.join(format!("{number}{}", "n".repeat(200))), "").unwrap();
    }
    // A name has one place in the order of ext4, whatever bears it.
    let last = std::fs::read_dir(&folder).unwrap().last().unwrap().unwrap().path();
    std::fs::remove_file(&last).unwrap();
    std::os::unix::fs::symlink("target", &last).unwrap();
    crate::disk::run("touch", &[&"-d", &"2001-01-01", &folder]);
    stage
}

#[test]
fn a_time_that_a_killed_conversion_gave_a_folder_of_many_entries_is_taken_for_nobodys_work() {
    if crate::stage::elsewhere() {
        return;
    }
    let (mut calls, mut replaced, mut given_back) = (0, false, None);
    run_watched(alone(in_parts().convert("mapped-xattr")), Meddling::Count, &mut |call| {
        calls += 1;
        replaced |= [libc::SYS_renameat, libc::SYS_renameat2].contains(&call);
        if replaced && call == libc::SYS_utimensat {
            given_back = given_back.or(Some(calls));
        }
    });
    let stage = in_parts();
    let before = stage.snapshot();
    let time = || stage.export().join("folder").metadata().unwrap().mtime();
    let was = time();
    kill_at(given_back.expect("times that are given back"), || stage.convert("mapped-xattr"), "in parts");
    assert_ne!(time(), was, "killed too early or too late");
    success(&mut stage.convert("mapped-xattr"));
    assert_eq!(time(), was);
    stage.verify("in parts");
    success(&mut stage.rollback());
    assert_same(&before, &stage.snapshot(), "in parts");
}

#[test]
fn a_conversion_that_the_quota_ends_gives_directories_their_times_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let calls = count(Stage::knotted().convert(model));
        each(&points(calls, POINTS / 2), |point| {
            let what = format!("{model}, quota reached at {point} of {calls}");
            let stage = Stage::knotted();
            let before = stage.snapshot();
            let times = directory_times(&stage.export(), &before);
            assert!(times.len() > 5, "{times:?}");
            let ended = run(alone(stage.convert(model)), Meddling::FailFrom(point, libc::EDQUOT));
            assert!(matches!(ended.status, Some(0 | 1 | 3)), "{what}: {ended:?}");
            assert_eq!(directory_times(&stage.export(), &before), times, "{what}: converted in part");
            if stage.journal().exists() {
                success(&mut stage.rollback());
            }
            assert_same(&before, &stage.snapshot(), &what);
        });
    }
}

#[test]
fn a_rollback_that_was_killed_goes_on() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        success(&mut stage.convert(model));
        let calls = count(stage.rollback());
        each(&points(calls, POINTS), |point| {
            let what = format!("{model}, rollback killed at {point} of {calls}");
            let stage = Stage::knotted();
            let before = stage.snapshot();
            success(&mut stage.convert(model));
            kill_at(point, || stage.rollback(), &what);
            success(&mut stage.rollback());
            assert_same(&before, &stage.snapshot(), &what);
            stage.verify(&what);
        });
    }
}

/// Cuts the power at a run's call number `point`: of the journal only what was put on stable storage is left, with rubbish
/// behind it; all that was done to the export is there.
pub fn cut_power(point: usize, command: Command, journal: &Path) -> Run {
    let length = || std::fs::metadata(journal).map_or(0, |file| file.len());
    let (mut stable, mut asked) = (length(), None);
    let cut = run_watched(alone(command), Meddling::Kill(point), &mut |call| {
        stable = asked.take().unwrap_or(stable);
        if [libc::SYS_fdatasync, libc::SYS_fsync].contains(&call) {
            asked = Some(length());
        }
    });
    if cut.status.is_none() && journal.exists() {
        let file = std::fs::File::options().write(true).open(journal).unwrap();
        file.set_len(stable).unwrap();
        // What was never on the disk reads as zeros; in the middle of a file anything may stand.
        let rubbish = if stable == 0 || point.is_multiple_of(3) { [0; 300] } else { [0xa5; 300] };
        file.write_all_at(&rubbish[..point * 7 % 300], stable).unwrap();
    }
    cut
}

#[test]
fn a_power_cut_loses_nothing_but_what_nothing_relies_on() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let calls = count(Stage::knotted().convert(model));
        for (number, point) in points(calls, POINTS).into_iter().enumerate() {
            let what = format!("{model}, power cut at {point} of {calls}");
            let stage = Stage::knotted();
            let before = stage.snapshot();
            let cut = cut_power(point, stage.convert(model), &stage.journal());
            must_be_killed(&cut, point, &what);
            if number % 2 == 0 {
                // Once more, on the way on, unless that is shorter.
                cut_power(point / 2 + 10, stage.convert(model), &stage.journal());
            }
            if number % 4 == 1 && stage.journal().exists() {
                success(&mut stage.rollback());
                assert_same(&before, &stage.snapshot(), &format!("{what}, rolled back"));
            }
            success(&mut stage.convert(model));
            stage.verify(&what);
            cut_power(point.min(90), stage.rollback(), &stage.journal());
            success(&mut stage.rollback());
            assert_same(&before, &stage.snapshot(), &what);
        }
    }
}

#[test]
fn killed_again_and_again_it_gets_there() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        let before = stage.snapshot();
        let mut point = 7;
        while run(alone(stage.convert(model)), Meddling::Kill(point)).status.is_none() {
            point += 13;
        }
        stage.verify(model);
        let mut point = 5;
        while run(alone(stage.rollback()), Meddling::Kill(point)).status.is_none() {
            point += 11;
        }
        assert_same(&before, &stage.snapshot(), model);
    }
}

#[test]
fn an_error_at_any_call_loses_nothing() {
    if crate::stage::elsewhere() {
        return;
    }
    for (number, error) in [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EPERM].into_iter().enumerate() {
        let model = MODELS[number % 2];
        let calls = count(Stage::knotted().convert(model));
        each(&points(calls, POINTS / 2), |point| {
            let what = format!("{model}, error {error} at {point} of {calls}");
            let stage = Stage::knotted();
            let before = stage.snapshot();
            let Run { status, .. } = run(alone(stage.convert(model)), Meddling::Fail(point, error));
            // Where it was overcome, all is well; otherwise it is said, and the same command goes on.
            match status {
                Some(0) => stage.verify(&what),
                Some(1) => {}
                // There seems to be no room, and it is said so beforehand.
                Some(3) if !stage.journal().exists() => assert_same(&before, &stage.snapshot(), &what),
                other => panic!("{what}: ended with {other:?}"),
            }
            success(&mut stage.convert(model));
            stage.verify(&what);
            let Run { status, .. } = run(alone(stage.rollback()), Meddling::Fail(point, error));
            assert!(matches!(status, Some(0 | 1)), "{what}: the rollback ended with {status:?}");
            success(&mut stage.rollback());
            assert_same(&before, &stage.snapshot(), &what);
        });
    }
}

#[test]
fn the_times_that_a_guest_gave_to_directories_survive_a_killed_rollback() {
    if crate::stage::elsewhere() {
        return;
    }
    let begin = |model| {
        let stage = Stage::knotted();
        success(&mut stage.convert(model));
        for name in GUESTS {
            let given = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1_234_567_890_123);
            let times = std::fs::FileTimes::new().set_modified(given);
            std::fs::File::open(stage.export().join(name)).unwrap().set_times(times).unwrap();
        }
        stage
    };
    for model in MODELS {
        let calls = count(begin(model).rollback());
        each(&points(calls, POINTS / 2), |point| {
            let what = format!("{model}, rollback killed at {point} of {calls}");
            let stage = begin(model);
            kill_at(point, || stage.rollback(), &what);
            kill_at(point.min(20), || stage.rollback(), &what);
            success(&mut stage.rollback());
            for name in GUESTS {
                let now = std::fs::metadata(stage.export().join(name)).unwrap();
                assert_eq!((now.mtime(), now.mtime_nsec()), (1234, 567_890_123), "{what}: {name}");
            }
            assert!(!stage.snapshot().contains("virtfs"), "{what}: something is left behind");
        });
    }
}

#[test]
fn the_hard_links_that_a_guest_made_survive_a_killed_rollback() {
    if crate::stage::elsewhere() {
        return;
    }
    let begin = |model| {
        let stage = Stage::knotted();
        success(&mut stage.convert(model));
        for (from, to, moves) in [
            ("closed/link", "d/e/again", false),
            ("d/e/fifo", "empty/fifo", false),
            ("link", "empty/third", false),
            ("null", "empty/null", false),
            ("d/null", "empty/moved", true),
        ] {
            as_a_guest(&stage.export(), model, from, to, moves);
        }
        stage
    };
    for model in MODELS {
        let stage = begin(model);
        let calls = count(stage.rollback());
        let expected = stage.snapshot();
        for names in ["d/e/again", "empty/fifo", "empty/third", "empty/null", "empty/moved"] {
            let linked = expected.lines().find(|line| line.starts_with(&format!("./{names} ")));
            let is_linked = |line: &str| !line.contains(" links=1 ");
            assert!(linked.is_some_and(is_linked), "{model}: {names} lost its other names: {linked:?}");
        }
        each(&points(calls, POINTS), |point| {
            let what = format!("{model}, rollback killed at {point} of {calls}");
            let stage = begin(model);
            kill_at(point, || stage.rollback(), &what);
            run(alone(stage.rollback()), Meddling::Kill(point.min(30)));
            success(&mut stage.rollback());
            assert_same(&timeless(&expected), &timeless(&stage.snapshot()), &what);
        });
    }
}

/// Gives an entry another name, or moves it there, as QEMU does for a guest.
pub fn as_a_guest(export: &Path, model: &str, from: &str, to: &str, moves: bool) {
    let metadata = |name: &str| {
        let path = Path::new(name);
        export.join(path.parent().unwrap()).join(".virtfs_metadata").join(path.file_name().unwrap())
    };
    let mut pairs = vec![(export.join(from), export.join(to))];
    if model == "mapped-file" {
        std::fs::create_dir_all(metadata(to).parent().unwrap()).unwrap();
        pairs.push((metadata(from), metadata(to)));
    }
    for (from, to) in pairs {
        if moves { std::fs::rename(from, to).unwrap() } else { std::fs::hard_link(from, to).unwrap() }
    }
}

/// A snapshot without the times of the directory that the guest has just worked in.
pub fn timeless(snapshot: &str) -> String {
    snapshot
        .lines()
        .map(|line| {
            let words = line.split_inclusive(' ');
            let of_time = |word: &&str| word.starts_with("mtime=") || word.starts_with("atime=");
            words.filter(|word| !of_time(word)).collect::<String>() + "\n"
        })
        .collect()
}

/// Directories in which a guest has worked.
const GUESTS: [&str; 4] = ["", "d", "d/e", "closed"];
