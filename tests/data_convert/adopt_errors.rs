//! Adoptions that errors end, and copies of exports in which entries were adopted.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::adopt::{adopt, must_be, with_additions};
use crate::crash::{alone, count_above, kill_at, points};
use crate::errors::{CAUSES, by_path};
use crate::injector::run;
use crate::stage::{MODELS, Stage, ended, success};

/// How many calls of a run are tried for each cause.
const POINTS: usize = 1;

#[test]
fn an_adoption_that_errors_end_goes_on_or_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let calls = count_above(50, adopt(&with_additions(model).0));
        for (number, (cause, meddling)) in CAUSES.into_iter().enumerate() {
            for (turn, point) in points(calls, POINTS).into_iter().enumerate() {
                // Each cause begins in another part of the run.
                let point = (point + (number + 1) * calls / 4) % calls + 1;
                let what = format!("{model}, {cause} from {point} of {calls}");
                let (stage, expected) = with_additions(model);
                match run(alone(adopt(&stage)), meddling(point)).status {
                    Some(0) => stage.verify(&what),
                    Some(1 | 3) => {}
                    other => panic!("{what}: ended with {other:?}"),
                }
                if turn % 2 == number % 2 {
                    success(&mut adopt(&stage));
                    stage.verify(&what);
                }
                success(&mut stage.rollback());
                must_be(&expected, &stage, &what);
            }
        }
    }
}

/// Restores a copy of an export in its place.
fn restore_copy(stage: &Stage) {
    let backup = stage.folder().join("backup");
    crate::disk::run("cp", &[&"-a", &stage.export(), &backup]);
    for knot in [stage.export().join("added"), stage.export()] {
        crate::knot::untie(&knot);
    }
    crate::disk::run("rm", &[&"-rf", &stage.export()]);
    std::fs::rename(&backup, stage.export()).unwrap();
}

#[test]
fn a_copy_of_an_export_with_adopted_entries_is_rolled_back_by_paths() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let (stage, expected) = with_additions(model);
        success(&mut adopt(&stage));
        restore_copy(&stage);
        success(&mut by_path(&stage));
        must_be(&expected, &stage, &format!("{model}, adopted"));
        let calls = count_above(50, adopt(&with_additions(model).0));
        for point in points(calls, POINTS) {
            let point = (point + calls / 2) % calls + 1;
            let what = format!("{model}, adoption killed at {point} of {calls}");
            let (stage, expected) = with_additions(model);
            kill_at(point, || adopt(&stage), &what);
            restore_copy(&stage);
            // The copy has no inode flags, and what is not recorded yet gets none.
            for (name, flag) in [("fixed", "+i"), ("grows", "+a")] {
                crate::disk::run("chattr", &[&flag, &stage.export().join("added").join(name)]);
            }
            success(&mut by_path(&stage));
            must_be(&expected, &stage, &what);
        }
    }
}

#[test]
fn names_of_one_inode_are_adopted_together_or_left_together() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        success(&mut stage.convert(model));
        let at = |name: &str| stage.export().join(name);
        fs::create_dir(at("busy")).unwrap();
        crate::disk::run("mknod", &[&at("zero"), &"c", &"1", &"5"]);
        fs::hard_link(at("zero"), at("busy/zero")).unwrap();
        // A name of rsync's temporary files, which is left with the directory around it.
        fs::write(at("busy/.file.aB3xYz"), "a part").unwrap();
        for _ in 0..2 {
            let said = ended(&mut adopt(&stage), 3);
            assert!(said.contains("another of its names is left"), "{model}: {said}");
            assert_eq!(fs::symlink_metadata(at("zero")).unwrap().nlink(), 2, "{model}");
        }
        fs::rename(at("busy/.file.aB3xYz"), at("busy/file")).unwrap();
        success(&mut adopt(&stage));
        let number = |name: &str| fs::symlink_metadata(at(name)).unwrap().ino();
        assert_eq!(number("zero"), number("busy/zero"), "{model}: parted");
        stage.verify(model);
    }
}
