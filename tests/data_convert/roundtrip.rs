//! There and back again, undisturbed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags};

use crate::injector::{Meddling, run};
use crate::knot;
use crate::snapshot::assert_same;
use crate::stage::{MODELS, OWNER, Stage, ended, success};

/// The lines of a manifest without its title and without what no mapped model carries.
fn comparable(manifest: &str, model: &str) -> String {
    let lost = |word: &&str| !word.starts_with("xattr:security.") && !word.starts_with("xattr:trusted.");
    // Under mapped-file the owner's own rights in an ACL grow to what QEMU's user needs.
    let acl = |word: &&str| model == "mapped-xattr" || !word.starts_with("acl=");
    let lines = manifest.lines().skip(1);
    lines.map(|line| line.split(' ').filter(lost).filter(acl).collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[test]
fn the_guest_sees_no_difference_and_a_rollback_leaves_none() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::gnarly(model);
        let (before, shown) = (stage.snapshot(), stage.manifest("passthrough"));
        success(&mut stage.convert(model));
        let (before_it, now) = (comparable(&shown, model), comparable(&stage.manifest(model), model));
        assert_same(&before_it, &now, model);
        stage.verify(model);
        let said = success(&mut stage.rollback());
        assert!(
            said.contains(
                ", 0 as the guest changed them after the conversion, and 0 as the guest made or moved them"
            ),
            "{model}: {said}"
        );
        assert_same(&before, &stage.snapshot(), model);
        stage.verify("after the rollback");
    }
}

/// What was done to an entry of the small export below, under a model.
type Work = fn(&std::path::Path, &str);

#[test]
fn a_rollback_counts_what_the_guest_has_changed() {
    if crate::stage::elsewhere() {
        return;
    }
    let works: [(&str, Work); 7] = [
        ("mode", |file, model| {
            if model == "mapped-xattr" {
                crate::disk::run("setfattr", &[&"-n", &"user.virtfs.mode", &"-v", &"0xed810000", &file]);
            } else {
                let folder = file.parent().unwrap().join(".virtfs_metadata");
                let metadata = folder.join(file.file_name().unwrap());
                let said = fs::read_to_string(&metadata).unwrap().replace("virtfs.uid=0", "virtfs.uid=5");
                fs::write(metadata, said).unwrap();
            }
        }),
        ("content", |file, _| fs::write(file, "by the guest").unwrap()),
        ("time", |file, _| crate::disk::run("touch", &[&"-d", &"2001-01-01", &file])),
        ("link", |file, _| crate::disk::run("touch", &[&"-d", &"2001-01-01", &file])),
        ("attribute", |file, _| crate::disk::run("setfattr", &[&"-x", &"user.a", &file])),
        ("acl", |file, model| {
            let mapped = "user.virtfs.system.posix_acl_access";
            let is_mapped = model == "mapped-xattr";
            let [program, option] = if is_mapped { ["setfattr", "-x"] } else { ["setfacl", "-x"] };
            crate::disk::run(program, &[&option, &if is_mapped { mapped } else { "u:7" }, &file]);
        }),
        ("default-acl", |file, model| {
            let mapped = "user.virtfs.system.posix_acl_default";
            let is_mapped = model == "mapped-xattr";
            let [program, option] = if is_mapped { ["setfattr", "-x"] } else { ["setfacl", "-dx"] };
            crate::disk::run(program, &[&option, &if is_mapped { mapped } else { "u:7" }, &file]);
        }),
    ];
    for model in MODELS {
        let stage = Stage::in_memory();
        let export = stage.export();
        fs::create_dir_all(export.join("default-acl")).unwrap();
        for name in ["mode", "content", "time", "attribute", "acl", "untouched"] {
            fs::write(export.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("target", export.join("link")).unwrap();
        crate::disk::run("setfattr", &[&"-n", &"user.a", &"-v", &"b", &export.join("attribute")]);
        crate::disk::run("setfacl", &[&"-m", &"u:7:r", &export.join("acl"), &export.join("untouched")]);
        crate::disk::run("setfacl", &[&"-d", &"-m", &"u:7:r", &export.join("default-acl")]);
        success(&mut stage.convert(model));
        for (name, work) in works {
            work(&export.join(name), model);
        }
        let said = success(&mut stage.rollback());
        // The root and one file.
        let expected = "2 entries are as the journal has them, 7 as the guest changed them after the conversion, and 0 as the guest made";
        assert!(said.contains(expected), "{model}: {said}");
    }
}

#[test]
fn everything_belongs_to_the_owner_with_the_modes_asked_for() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        success(stage.convert(model).args(["--fmode=0640", "--dmode=0750"]));
        for path in ["", "d", "d/e", "closed", "closed/link", "null", "z\n\u{fe}", "d/caps"] {
            let metadata = fs::symlink_metadata(stage.export().join(path)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (64055, 64056), "{model} {path}");
            let mode = if metadata.is_dir() { 0o40_750 } else { 0o100_640 };
            assert_eq!(metadata.mode(), mode, "{model} {path}");
        }
    }
}

#[test]
fn nothing_changes_without_apply() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let before = stage.snapshot();
    let said = success(stage.command("convert").arg(OWNER).args(knot::ACCEPT));
    assert!(said.contains("--apply"), "{said}");
    assert_same(&before, &stage.snapshot(), "a dry conversion");
    assert!(!stage.journal().exists());
    success(&mut stage.convert("mapped-xattr"));
    let converted = stage.snapshot();
    success(&mut stage.command("rollback"));
    assert_same(&converted, &stage.snapshot(), "a dry rollback");
}

#[test]
fn losses_must_be_agreed_to_before_anything_changes() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let before = stage.snapshot();
    for finding in knot::ACCEPT.iter().filter(|finding| !finding.ends_with("owner-kept-out")) {
        let rest = knot::ACCEPT.iter().filter(|other| *other != finding);
        let said = ended(stage.command("convert").args([OWNER, "--apply"]).args(rest), 3);
        assert!(said.contains(finding), "{finding}: {said}");
        assert!(!stage.journal().exists(), "{finding}");
    }
    assert_same(&before, &stage.snapshot(), "refused conversions");
    let said = ended(stage.convert("mapped-xattr").arg("--accept=no-such-finding"), 2);
    assert!(said.contains("no-such-finding"), "{said}");
}

#[test]
fn a_second_time_there_is_nothing_to_do() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let before = stage.snapshot();
    success(&mut stage.convert("mapped-xattr"));
    let converted = stage.snapshot();
    let said = success(&mut stage.convert("mapped-xattr"));
    assert!(said.contains("nothing to do"), "{said}");
    assert_same(&converted, &stage.snapshot(), "a second conversion");
    success(&mut stage.rollback());
    let said = success(&mut stage.rollback());
    assert!(said.contains("nothing to do"), "{said}");
    assert_same(&before, &stage.snapshot(), "a second rollback");
    // And all over again.
    success(&mut stage.convert("mapped-file"));
    assert!(stage.folder().join("export.virtfs-journal.1").exists());
    stage.verify("converted again");
    success(&mut stage.rollback());
    assert_same(&before, &stage.snapshot(), "converted and rolled back again");
}

#[test]
fn a_journal_never_lies_in_the_export_nor_over_another_file() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let before = stage.snapshot();
    let inside = stage.export().join("d/journal");
    let said = ended(stage.convert("mapped-xattr").arg("--journal").arg(&inside), 2);
    assert!(said.contains("inside the export"), "{said}");
    let precious = stage.folder().join("precious");
    fs::write(&precious, "precious").unwrap();
    ended(stage.convert("mapped-xattr").arg("--journal").arg(&precious), 1);
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    assert_same(&before, &stage.snapshot(), "refused conversions");
}

#[test]
fn an_export_in_use_or_locked_is_left_alone() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let before = stage.snapshot();
    let open = fs::File::open(stage.export().join("d/caps")).unwrap();
    // The same by a dry run and with --apply.
    for apply in [&["--apply"][..], &[]] {
        let said = ended(stage.command("convert").args([OWNER]).args(knot::ACCEPT).args(apply), 3);
        assert!(said.contains("d/caps") && said.contains("live-export"), "{said}");
    }
    drop(open);
    let lock = fs::File::open(stage.export()).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let said = ended(stage.convert("mapped-xattr").arg("--in-use"), 1);
    assert!(said.contains("another conversion"), "{said}");
    assert_same(&before, &stage.snapshot(), "refused conversions");
    drop(lock);
    let open = fs::File::open(stage.export().join("d/caps")).unwrap();
    let said = ended(stage.convert("mapped-xattr").arg("--in-use"), 1);
    assert!(said.contains("run the same command again"), "{said}");
    drop(open);
    success(&mut stage.convert("mapped-xattr"));
}

#[test]
fn an_interrupted_conversion_goes_on_as_it_was_begun() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let whole = run(Stage::knotted().convert("mapped-xattr"), Meddling::Count);
    assert_eq!(run(stage.convert("mapped-xattr"), Meddling::Kill(whole.calls * 3 / 4)).status, None);
    others_are_refused(&stage);
    success(&mut stage.convert("mapped-xattr"));
    stage.verify("resumed");
    others_are_refused(&stage);
    success(&mut stage.convert("mapped-xattr"));
}

/// Each option that differs from those of the conversion is named, and nothing is changed, dry or not.
#[track_caller]
fn others_are_refused(stage: &Stage) {
    let before = stage.snapshot();
    for (option, value, was) in [
        ("--security-model", "mapped-file", "mapped-xattr"),
        ("--owner", "5:6", "64055:64056"),
        ("--fmode", "0644", "0600"),
        ("--dmode", "0755", "0700"),
    ] {
        for apply in [&["--apply"][..], &[]] {
            let mut command = stage.command("convert");
            if option != "--owner" {
                command.arg(OWNER);
            }
            let said = ended(command.args(knot::ACCEPT).arg(format!("{option}={value}")).args(apply), 3);
            assert!(said.contains(&format!("{option}={was} and not {option}={value}")), "{said}");
            assert_eq!(said.matches(" and not ").count(), 1, "{said}");
        }
    }
    assert_same(&before, &stage.snapshot(), "refused conversions");
}

/// What a guest does under a mapped model, done by hand: `mode`, `owner` and `device` of an entry.
fn show(model: &str, path: &Path, mode: u32, owner: u32, device: u32) {
    if model == "mapped-xattr" {
        for (name, value) in [("uid", owner), ("gid", owner), ("mode", mode)] {
            let name = format!("user.virtfs.{name}");
            rustix::fs::setxattr(path, &*name, &value.to_le_bytes(), XattrFlags::empty()).unwrap();
        }
        rustix::fs::setxattr(path, "user.virtfs.rdev", &u64::from(device).to_le_bytes(), XattrFlags::empty())
            .unwrap();
        return;
    }
    let folder = path.parent().unwrap().join(".virtfs_metadata");
    fs::create_dir_all(&folder).unwrap();
    let text = format!("virtfs.uid={owner}\nvirtfs.gid={owner}\nvirtfs.mode={mode}\nvirtfs.rdev={device}\n");
    fs::write(folder.join(path.file_name().unwrap()), text).unwrap();
}

#[test]
fn what_a_guest_made_or_changed_keeps_its_meaning() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        let at = |name: &str| stage.export().join(name);
        success(&mut stage.convert(model));
        fs::write(at("made"), "new").unwrap();
        show(model, &at("made"), 0o102_640, 4242, 0);
        fs::create_dir(at("d/made")).unwrap();
        show(model, &at("d/made"), 0o41_777, 4243, 0);
        fs::write(at("d/made/link"), "a/target").unwrap();
        show(model, &at("d/made/link"), 0o120_777, 4244, 0);
        fs::write(at("d/made/disk"), "").unwrap();
        show(model, &at("d/made/disk"), 0o60_660, 4245, 0x801);
        // chown and chmod of what was there.
        show(model, &at("set-id"), 0o100_700, 4246, 0);
        // A changed program loses its capabilities, and an unchanged one that was moved keeps them.
        fs::remove_file(at("acl")).unwrap();
        fs::rename(at("d/caps"), at("empty/moved")).unwrap();
        if model == "mapped-file" {
            fs::create_dir(at("empty/.virtfs_metadata")).unwrap();
            fs::rename(at("d/.virtfs_metadata/caps"), at("empty/.virtfs_metadata/moved")).unwrap();
        }
        success(&mut stage.rollback());
        for (name, mode, owner, device) in [
            ("made", 0o102_640, 4242, 0),
            ("d/made", 0o41_777, 4243, 0),
            ("d/made/link", 0o120_777, 4244, 0),
            ("d/made/disk", 0o60_660, 4245, 0x801),
            ("set-id", 0o100_700, 4246, 0),
            ("d/e/set-id", 0o100_700, 4246, 0),
            ("empty/moved", 0o100_644, 0, 0),
        ] {
            let metadata = fs::symlink_metadata(at(name)).unwrap();
            let now = (metadata.mode(), metadata.uid(), metadata.gid(), metadata.rdev());
            // Under mapped-file the two names' metadata files are one: the change by hand wrote into it.
            assert_eq!(now, (mode, owner, owner, device), "{model} {name}");
        }
        assert_eq!(fs::read_link(at("d/made/link")).unwrap(), Path::new("a/target"));
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(at("empty/moved"), c"security.capability", &mut value[..]).unwrap();
        assert_eq!(&value[..length], knot::CAPABILITY, "{model}");
        let left = stage.snapshot();
        assert!(
            !left.contains("virtfs"),
            "{model}: {}",
            left.lines().filter(|line| line.contains("virtfs")).collect::<String>()
        );
    }
}

#[test]
fn attributes_from_an_earlier_share_come_back_by_a_rollback() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    show("mapped-xattr", &stage.export().join("acl"), 0o100_600, 77, 0);
    let before = stage.snapshot();
    let said = ended(&mut stage.convert("mapped-xattr"), 3);
    assert!(said.contains("already-mapped"), "{said}");
    success(stage.convert("mapped-xattr").arg("--accept=already-mapped"));
    stage.verify("over old attributes");
    success(&mut stage.rollback());
    assert_same(&before, &stage.snapshot(), "old attributes");
}

#[test]
fn links_that_leave_the_export_must_be_agreed_to() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    fs::hard_link(stage.export().join("d/caps"), stage.folder().join("outside")).unwrap();
    let said = ended(&mut stage.convert("mapped-xattr"), 3);
    assert!(said.contains("--accept=links-outside"), "{said}");
    success(stage.convert("mapped-xattr").arg("--accept=links-outside"));
}

#[test]
fn a_name_that_qemu_keeps_for_itself_is_refused_under_mapped_file_alone() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    fs::create_dir(stage.export().join("d/.virtfs_metadata")).unwrap();
    let said = ended(stage.convert("mapped-file").arg("--accept=reserved-name"), 2);
    assert!(said.contains("only warnings can be accepted"), "{said}");
    let said = ended(&mut stage.convert("mapped-file"), 3);
    assert!(said.contains("reserved-name"), "{said}");
    success(&mut stage.convert("mapped-xattr"));
    stage.verify("a reserved name of the other model");
}

#[test]
fn a_damaged_journal_is_said_to_be_so() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let (whole, converted) = (fs::read(stage.journal()).unwrap(), stage.snapshot());
    // Where one copy of a note is damaged, the other one counts.
    for at in [40, whole.len() / 3, whole.len() / 2] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(stage.journal(), damaged).unwrap();
        for mut command in [stage.rollback(), stage.convert("mapped-xattr"), stage.command("verify")] {
            let said = ended(&mut command, 1);
            assert!(said.contains("damaged at byte"), "{at}: {said}");
        }
    }
    fs::write(stage.journal(), "something else").unwrap();
    let said = ended(&mut stage.rollback(), 1);
    assert!(said.contains("not a journal"), "{said}");
    assert_same(&converted, &stage.snapshot(), "damaged journals");
    fs::write(stage.journal(), whole).unwrap();
    stage.verify("the whole journal");
}

#[test]
fn special_files_are_replaced_without_being_opened() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    rustix::fs::mknodat(CWD, stage.export().join("d/blocks"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("/dev/zero", stage.export().join("d/zero")).unwrap();
    rustix::fs::linkat(
        CWD,
        stage.export().join("d/zero"),
        CWD,
        stage.export().join("zero"),
        AtFlags::empty(),
    )
    .unwrap();
    let before = stage.snapshot();
    success(&mut stage.convert("mapped-xattr"));
    stage.verify("special files");
    success(&mut stage.rollback());
    assert_same(&before, &stage.snapshot(), "special files");
}

#[test]
fn what_is_mounted_inside_is_left_alone() {
    const SCRIPT: &str = r#"
        mount -t tmpfs none "$1/d/e" && echo inside >"$1/d/e/inside" && chmod 4755 "$1/d/e/inside"
        export=$1
        shift
        "$@"
        status=$?
        stat -c 'inside: %a %u' "$export/d/e/inside"
        exit $status
    "#;
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let mounted = |extra: &[&str]| {
        let convert = stage.convert("mapped-xattr");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(stage.export());
        command.arg(convert.get_program()).args(convert.get_args()).args(extra);
        command
    };
    let said = ended(&mut mounted(&[]), 3);
    assert!(said.contains("--accept=mount-inside") && said.contains("inside: 4755 0"), "{said}");
    let said = success(&mut mounted(&["--accept=mount-inside", "--accept=links-outside"]));
    assert!(said.contains("inside: 4755 0"), "{said}");
    let below = fs::symlink_metadata(stage.export().join("d/e")).unwrap();
    assert_eq!(below.uid(), 0, "the mount point itself");
}

#[test]
fn where_qemu_runs_as_root_everything_is_roots() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        let before = stage.snapshot();
        let seen = stage.manifest("passthrough");
        let mut command = stage.command("convert");
        command.args(["--owner=root", "--apply", "--progress=never", "--security-model", model]);
        command.args(crate::knot::ACCEPT).arg("--accept=acl-owner-rights");
        let said = success(&mut command);
        assert!(said.contains("name an ordinary user"), "{said}");
        for name in ["", "set-id", "d/caps", "closed/file", "link", "null"] {
            let now = fs::symlink_metadata(stage.export().join(name)).unwrap();
            assert_eq!((now.uid(), now.gid()), (0, 0), "{model}: {name}");
        }
        assert_eq!(seen.lines().count(), stage.manifest(model).lines().count(), "{model}");
        stage.verify(model);
        success(&mut stage.rollback());
        assert_same(&before, &stage.snapshot(), model);
    }
}
