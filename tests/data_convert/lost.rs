//! Converted entries of which another program took away what says what the guest sees of them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::crash::{as_a_guest, timeless};
use crate::injector::{Meddling, run};
use crate::snapshot::assert_same;
use crate::stage::{MODELS, Stage, ended, success};

/// Entries of every kind that a rollback restores on its own: of several names, with capabilities, ACLs, devices, links.
const ENTRIES: [&str; 7] = ["acl", "set-id", "d", "d/e", "d/e/fifo", "null", "closed/link"];

/// The user attributes of a file, by their names.
fn attributes(path: &Path) -> Vec<OsString> {
    let mut names = vec![0_u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let all = names[..length].split(|&byte| byte == 0);
    all.filter(|name| name.starts_with(b"user."))
        .map(|name| std::ffi::OsStr::from_bytes(name).to_owned())
        .collect()
}

fn metadata(path: &Path) -> PathBuf {
    path.parent().unwrap().join(".virtfs_metadata").join(path.file_name().unwrap())
}

/// Takes away what says what the guest sees of an entry.
fn strip(path: &Path, model: &str) {
    if model == "mapped-file" {
        return fs::remove_file(metadata(path)).unwrap();
    }
    let names = attributes(path);
    assert!(names.len() >= 3, "{}: {names:?}", path.display());
    for name in names {
        rustix::fs::lremovexattr(path, &*name).unwrap();
    }
}

/// Takes the mode away, and leaves the owner.
fn strip_mode(path: &Path, model: &str) {
    if model == "mapped-file" {
        let text = fs::read_to_string(metadata(path)).unwrap();
        let left: Vec<_> = text.lines().filter(|line| !line.contains("mode")).chain([""]).collect();
        return fs::write(metadata(path), left.join("\n")).unwrap();
    }
    rustix::fs::lremovexattr(path, "user.virtfs.mode").unwrap();
}

#[test]
fn entries_that_lost_what_the_guest_sees_of_them_are_restored_from_the_journal() {
    for model in MODELS {
        for (what, strip) in [("all", strip as fn(&Path, &str)), ("mode", strip_mode)] {
            let stage = Stage::knotted();
            let before = stage.snapshot();
            success(&mut stage.convert(model));
            for entry in ENTRIES {
                strip(&stage.export().join(entry), model);
            }
            let differs = ended(&mut stage.command("verify"), 3);
            let said = success(&mut stage.rollback());
            assert!(said.contains(" entries had lost all or part of the "), "{model}, {what}: {said}");
            for entry in ENTRIES {
                // Under mapped-file an ACL is the real one, and the mode that it is a part of.
                let is_seen = (model, what, entry) != ("mapped-file", "mode", "acl");
                assert_eq!(
                    differs.contains(&format!("/{entry}: error: ")),
                    is_seen,
                    "{model}, {what}: {entry}: {differs}"
                );
                // What has another name, with metadata of its own there, may be told by that or need nothing.
                let is_told = said.contains(&format!("'{entry}'"));
                assert!(is_told || entry == "set-id", "{model}, {what}: {entry}: {said}");
            }
            // Metadata files were taken away by this test, which the times of their directories show.
            assert_same(&timeless(&before), &timeless(&stage.snapshot()), &format!("{model}, {what}"));
        }
    }
}

#[test]
fn an_entry_that_the_guest_moved_and_that_lost_its_attributes_is_restored_from_the_journal() {
    for model in MODELS {
        let stage = Stage::knotted();
        let at = |name: &str| stage.export().join(name);
        let was = stage.manifest("passthrough");
        success(&mut stage.convert(model));
        as_a_guest(&stage.export(), model, "files/a", "empty/moved", true);
        strip(&at("empty/moved"), model);
        let said = success(&mut stage.rollback());
        assert!(said.contains("1 entry had lost") && said.contains("'empty/moved'"), "{model}: {said}");
        assert_eq!(line(&was, "files/a"), line(&stage.manifest("passthrough"), "empty/moved"), "{model}");
    }
}

#[test]
fn what_the_guest_gave_to_qemus_user_is_not_taken_for_lost_by_a_rollback_that_goes_on() {
    let begin = || {
        let stage = Stage::knotted();
        success(&mut stage.convert("mapped-xattr"));
        for (name, value) in [("uid", 64055_u32), ("gid", 64056), ("mode", 0o100_600)] {
            for file in ["set-id", "files/a"] {
                let name = format!("user.virtfs.{name}");
                let file = stage.export().join(file);
                rustix::fs::lsetxattr(file, &*name, &value.to_le_bytes(), XattrFlags::empty()).unwrap();
            }
        }
        stage
    };
    let expected = {
        let stage = begin();
        let said = success(&mut stage.rollback());
        assert!(!said.contains("had lost"), "{said}");
        stage.snapshot()
    };
    let calls = crate::crash::count(begin().rollback());
    for point in [calls / 2, calls - 12] {
        let stage = begin();
        assert_eq!(run(crate::crash::alone(stage.rollback()), Meddling::Kill(point)).status, None);
        let said = success(&mut stage.rollback());
        assert!(!said.contains("had lost"), "killed at {point} of {calls}: {said}");
        assert_same(&timeless(&expected), &timeless(&stage.snapshot()), &format!("killed at {point}"));
    }
}

/// What follows a name in a manifest.
fn line(manifest: &str, name: &str) -> String {
    let start = format!("./{name} ");
    let line = manifest.lines().find_map(|line| line.strip_prefix(&*start).map(str::to_owned));
    line.unwrap_or_else(|| panic!("{name} is not in {manifest}"))
}

#[test]
fn links_and_special_files_that_the_guest_moved_and_that_lost_their_attributes_are_restored_from_the_journal()
{
    const MOVED: [(&str, &str); 5] = [
        ("closed/link", "empty/link"),
        ("d/e/fifo", "files/fifo"),
        ("socket", "empty/socket"),
        ("d/disk", "empty/disk"),
        ("files/terminal", "d/e/terminal"),
    ];
    for model in MODELS {
        for (what, strip) in [("all", strip as fn(&Path, &str)), ("mode", strip_mode)] {
            let stage = Stage::knotted();
            for (name, kind, number, owner) in [
                ("d/disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000), 6),
                ("files/terminal", FileType::CharacterDevice, rustix::fs::makedev(5, 1), 5),
            ] {
                let path = stage.export().join(name);
                rustix::fs::mknodat(CWD, &path, kind, Mode::RUSR | Mode::WGRP, number).unwrap();
                std::os::unix::fs::chown(&path, Some(0), Some(owner)).unwrap();
                // Of two that look the same none is guessed.
                let time = rustix::fs::Timespec { tv_sec: 1000 + i64::from(owner), tv_nsec: 0 };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
            }
            let was = stage.manifest("passthrough");
            success(&mut stage.convert(model));
            for (from, to) in MOVED {
                as_a_guest(&stage.export(), model, from, to, true);
                strip(&stage.export().join(to), model);
            }
            let said = success(&mut stage.rollback());
            assert!(said.contains("5 entries had lost"), "{model}, {what}: {said}");
            let now = stage.manifest("passthrough");
            for (from, to) in MOVED {
                assert!(said.contains(&format!("'{to}'")), "{model}, {what}: {said}");
                assert_eq!(line(&was, from), line(&now, to), "{model}, {what}: {from}");
            }
        }
    }
}

#[test]
fn of_links_that_look_the_same_none_is_guessed() {
    for model in MODELS {
        let stage = Stage::in_memory();
        fs::create_dir_all(stage.export().join("d")).unwrap();
        let at = |name: &str| stage.export().join(name);
        let time = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        for (name, owner) in [("one", 1000), ("other", 2000)] {
            std::os::unix::fs::symlink("target", at(name)).unwrap();
            std::os::unix::fs::lchown(at(name), Some(owner), None).unwrap();
            rustix::fs::utimensat(rustix::fs::CWD, at(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .unwrap();
        }
        success(&mut stage.convert(model));
        for name in ["one", "other"] {
            as_a_guest(&stage.export(), model, name, &format!("d/{name}"), true);
            strip(&at("d").join(name), model);
        }
        let said = ended(&mut stage.rollback(), 3);
        assert!(
            said.contains("2 entries without") && said.contains("'d/one'") && said.contains("by hand"),
            "{model}: {said}"
        );
        assert_eq!(fs::read(at("d/one")).unwrap(), b"target", "{model}");
    }
}
