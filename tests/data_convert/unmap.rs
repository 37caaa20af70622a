//! What a conversion's journal is not needed for, or does not fit: trees that were mapped before, copies, lost journals.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use rustix::fs::XattrFlags;

use crate::crash::{alone, count, points};
use crate::injector::{Meddling, run};
use crate::snapshot::assert_same;
use crate::stage::{MODELS, Stage, ended, success};

pub fn unmap(stage: &Stage, model: &str) -> Command {
    let mut command = stage.command("unmap");
    command.args(["--from", model, "--progress=never"]);
    command
}

/// A manifest without what a mapped model does not keep.
pub fn kept(manifest: &str) -> String {
    let lost =
        |word: &&str| !["xattr:security", "xattr:trusted", "acl="].iter().any(|lost| word.starts_with(lost));
    manifest
        .lines()
        .skip(1)
        .map(|line| line.split(' ').filter(lost).collect::<Vec<_>>().join(" ") + "\n")
        .collect()
}

#[test]
fn a_tree_without_its_journal_becomes_what_the_guest_sees_and_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        let original = kept(&stage.manifest("passthrough"));
        success(&mut stage.convert(model));
        fs::remove_file(stage.journal()).unwrap();
        let (converted, seen) = (stage.snapshot(), stage.manifest(model));
        let said = success(&mut unmap(&stage, model));
        assert!(said.contains("--apply") && said.contains("entries are mapped"), "{said}");
        assert_same(&converted, &stage.snapshot(), &format!("{model}: a dry run"));
        success(unmap(&stage, model).arg("--apply"));
        assert_same(&original, &kept(&stage.manifest("passthrough")), model);
        let left = stage.snapshot();
        assert!(!left.contains("virtfs"), "{model}: something is left behind: {left}");
        let said = ended(unmap(&stage, model).arg("--apply"), 1);
        assert!(said.contains("is unmapped"), "{said}");
        let mut journal = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
        journal.args(["migrate", "journal"]).arg(stage.folder().join("export.virtfs-unmap-journal"));
        let said = success(&mut journal);
        assert!(
            said.contains(" unmapped\n") && !said.contains("converted") && !said.contains("roll"),
            "{said}"
        );
        // And back: the guest sees the same.
        success(&mut stage.convert(model));
        assert_same(&kept(&seen), &kept(&stage.manifest(model)), &format!("{model}: converted again"));
    }
}

#[test]
fn an_unmapping_that_was_killed_goes_on() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let begin = || {
            let stage = Stage::knotted();
            let original = kept(&stage.manifest("passthrough"));
            success(&mut stage.convert(model));
            fs::remove_file(stage.journal()).unwrap();
            (stage, original)
        };
        let apply = |stage: &Stage| {
            let mut command = unmap(stage, model);
            command.arg("--apply");
            command
        };
        let calls = count(apply(&begin().0));
        // At the second call the journal's file is there, and empty.
        for point in points(calls, 16).into_iter().chain([2]) {
            let what = format!("{model}, killed at {point} of {calls}");
            let (stage, original) = begin();
            run(alone(apply(&stage)), Meddling::Kill(point));
            let output = apply(&stage).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // Killed when all was done.
            assert!(output.status.success() || said.contains("is unmapped"), "{what}: {said}");
            assert_same(&original, &kept(&stage.manifest("passthrough")), &what);
        }
    }
}

#[test]
fn the_journal_of_a_conversion_is_not_for_unmapping() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let said = ended(unmap(&stage, "mapped-xattr").arg("--journal").arg(stage.journal()), 1);
    assert!(said.contains("migrate rollback"), "{said}");
}

#[test]
fn what_was_mapped_before_is_adopted_and_never_overwritten() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let at = |name: &str| stage.export().join(name);
    // A guest ran too early: it made a link, gave a file to another, and changed the mode of a third.
    let set = |name: &str, attribute: &str, value: u32| {
        let attribute = format!("user.virtfs.{attribute}");
        rustix::fs::setxattr(at(name), &*attribute, &value.to_le_bytes(), XattrFlags::empty()).unwrap();
    };
    fs::write(at("early"), "the/target").unwrap();
    for (attribute, value) in [("uid", 7), ("gid", 8), ("mode", 0o120_777)] {
        set("early", attribute, value);
    }
    set("acl", "uid", 77);
    set("set-id", "mode", 0o100_711);
    let (before, seen) = (stage.snapshot(), stage.manifest("mapped-xattr"));
    ended(&mut stage.convert("mapped-xattr"), 3);
    success(stage.convert("mapped-xattr").arg("--accept=already-mapped"));
    stage.verify("adopted");
    let line = |manifest: &str, name: &str| {
        let start = format!("./{name} ");
        manifest.lines().find(|line| line.starts_with(&start)).map(str::to_owned)
    };
    let now = stage.manifest("mapped-xattr");
    for name in ["early", "set-id", "d/e/set-id"] {
        assert!(line(&seen, name).is_some());
        assert_eq!(line(&seen, name), line(&now, name), "{name}");
    }
    assert!(line(&now, "acl").unwrap().contains("uid=77"), "{now}");
    // What the guest changes afterwards counts, as for all others.
    success(&mut stage.rollback());
    assert_same(&before, &stage.snapshot(), "rolled back");
    stage.verify("rolled back");
    success(stage.convert("mapped-xattr").arg("--accept=already-mapped"));
    set("early", "uid", 9);
    success(&mut stage.rollback());
    let early = fs::symlink_metadata(at("early")).unwrap();
    assert_eq!((early.file_type().is_symlink(), early.uid(), early.gid()), (true, 9, 8));
    assert_eq!(fs::read_link(at("early")).unwrap(), std::path::Path::new("the/target"));
}

#[test]
fn a_restored_copy_is_verified_and_rolled_back_by_paths() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        // No copy keeps when a file was read: here, some time in the future.
        let read = stage.export().join("read-in-2100");
        fs::write(&read, "").unwrap();
        crate::disk::run("touch", &[&"-a", &"-d", &"2100-01-01", &read]);
        let before = stage.snapshot();
        success(&mut stage.convert(model));
        let backup = stage.folder().join("backup");
        crate::disk::run("cp", &[&"-a", &stage.export(), &backup]);
        crate::disk::run("touch", &[&"-a", &backup.join("read-in-2100")]);
        crate::knot::untie(&stage.export());
        fs::rename(&backup, stage.export()).unwrap();
        for verb in ["verify", "rollback"] {
            let said = ended(&mut stage.command(verb), 1);
            assert!(said.contains("--by-path"), "{verb}: {said}");
        }
        // cp keeps no inode flags, and a special inode's several names it keeps.
        let said = stage.command("verify").arg("--by-path").output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let differs = said.lines().filter(|line| line.contains("entry-")).collect::<Vec<_>>();
        assert!(
            differs.iter().all(|line| ["immutable", "read since"].iter().any(|known| line.contains(known))),
            "{model}: {differs:#?}"
        );
        success(stage.rollback().arg("--by-path"));
        assert_same(&timeless(&before), &timeless(&stage.snapshot()), model);
    }
}

/// A snapshot without times of access, which a backup does not keep.
fn timeless(snapshot: &str) -> String {
    let lines = snapshot.lines().map(|line| {
        let words = line.split(' ').filter(|word| !word.starts_with("atime="));
        words.collect::<Vec<_>>().join(" ") + "\n"
    });
    lines.collect()
}

#[test]
fn a_journal_tells_where_it_comes_from_and_is_not_touched() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let whole = fs::read(stage.journal()).unwrap();
    let look = |format: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
        command.args(["migrate", "journal", "--format", format]).arg(stage.journal());
        command
    };
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let said = success(&mut look("text"));
    for part in [host.trim(), "converted", "64055:64056", "mapped-xattr", "Every record is good: "] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let document: serde_json::Value = serde_json::from_str(&success(&mut look("json"))).unwrap();
    assert_eq!((document["format"].as_u64(), document["state"].as_str()), (Some(2), Some("converted")));
    assert_eq!(document["export"].as_str(), stage.export().to_str());
    for at in [whole.len() / 2, whole.len() * 2 / 3] {
        let mut damaged = whole.clone();
        damaged[at] ^= 16;
        fs::write(stage.journal(), &damaged).unwrap();
        let said = ended(&mut look("text"), 1);
        assert!(said.contains("Damaged:") && said.contains(host.trim()), "{said}");
        assert_eq!(fs::read(stage.journal()).unwrap(), damaged);
    }
    fs::write(stage.journal(), "something else").unwrap();
    ended(&mut look("text"), 1);
}

#[test]
fn an_unmapping_that_lacks_room_says_how_much_it_needs() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let begin = || {
            let stage = Stage::knotted();
            success(&mut stage.convert(model));
            fs::remove_file(stage.journal()).unwrap();
            stage
        };
        let apply = |stage: &Stage| {
            let mut command = unmap(stage, model);
            command.arg("--apply");
            alone(command)
        };
        let calls = count(apply(&begin()));
        let stage = begin();
        let said = stage.folder().join("said");
        let mut command = apply(&stage);
        command.stderr(fs::File::create(&said).unwrap());
        let ended = run(command, Meddling::FailFrom(calls / 2, libc::ENOSPC));
        let said = fs::read_to_string(said).unwrap();
        assert_eq!(ended.status, Some(1), "{model}: {said}");
        let needs =
            said.split_once("needs about ").map(|(_, needs)| needs.split_once(" and ")).unwrap_or_default();
        assert!(needs.is_some_and(|(bytes, _)| bytes.contains("iB")), "{model}: {said}");
        success(&mut apply(&stage));
    }
}

#[test]
fn copies_without_attributes_and_other_models_are_not_said_to_be_rolled_back_or_unmapped() {
    if crate::stage::elsewhere() {
        return;
    }
    for (model, other) in [("mapped-xattr", "mapped-file"), ("mapped-file", "mapped-xattr")] {
        let stage = Stage::knotted();
        let before = stage.snapshot();
        success(&mut stage.convert(model));
        let (export, copy) = (stage.export(), stage.folder().join("copy"));
        fs::create_dir(&copy).unwrap();
        let migrate = |verb: &str, options: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
            command.args(["migrate", verb]).arg(&copy).args(["--apply", "--progress=never"]).args(options);
            command
        };
        let journal = stage.journal();
        let by_path = ["--by-path", "--journal", journal.to_str().unwrap()];
        for verb in ["rollback", "unmap"] {
            let options: &[&str] = if verb == "unmap" { &["--from", model] } else { &by_path };
            let said = ended(&mut migrate(verb, options), 1);
            assert!(said.contains("Nothing was changed"), "{model}: {verb}: {said}");
        }
        // A whole copy; the original and its journal are still there.
        fs::remove_dir(&copy).unwrap();
        crate::disk::run("cp", &[&"-a", &export, &copy]);
        let said = ended(&mut migrate("rollback", &by_path), 1);
        assert!(said.contains("still there") && said.contains("copy the journal"), "{model}: {said}");
        let mut dry = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
        dry.args(["migrate", "unmap", "--progress=never", "--from", other]).arg(&copy);
        for command in [&mut dry, &mut migrate("unmap", &["--from", other])] {
            let said = ended(command, 1);
            assert!(said.contains("nothing in") && said.contains(other), "{model}: {said}");
        }
        let copied = stage.folder().join("copy.virtfs-journal");
        fs::copy(&journal, copied).unwrap();
        success(&mut migrate("rollback", &["--by-path"]));
        // The original is none the wiser.
        stage.verify(model);
        success(&mut stage.rollback());
        // It was read to be copied.
        assert_same(&timeless(&before), &timeless(&stage.snapshot()), model);
    }
}
