//! `migrate convert --adopt`: what the host adds to a converted export becomes what the guest sees of it, and a rollback brings it
//! back as the host had it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::crash::{as_a_guest, count_above, cut_power, kill_at, points};
use crate::knot;
use crate::snapshot::assert_same;
use crate::stage::{MODELS, Stage, ended, success};

/// QEMU's user in these tests.
const QEMU: (u32, u32) = (64055, 64056);

/// How many calls of a run are tried.
const POINTS: usize = 5;

pub fn adopt(stage: &Stage) -> Command {
    let mut command = stage.command("convert");
    command
        .args(["--adopt", "--apply", "--progress=never"])
        .args(knot::ACCEPT)
        .arg("--accept=acl-owner-rights");
    command
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Lets the guest see an inode as a model keeps it.
fn shown(path: &Path, model: &str, mode: u32, uid: u32, gid: u32) {
    lchown(path, Some(QEMU.0), Some(QEMU.1)).unwrap();
    if model == "mapped-xattr" {
        for (name, value) in [("uid", uid), ("gid", gid), ("mode", mode)] {
            attribute(path, &format!("user.virtfs.{name}"), &value.to_le_bytes());
        }
        return;
    }
    let folder = path.parent().unwrap().join(".virtfs_metadata");
    fs::create_dir_all(&folder).unwrap();
    lchown(&folder, Some(QEMU.0), Some(QEMU.1)).unwrap();
    let file = folder.join(path.file_name().unwrap());
    fs::write(&file, format!("virtfs.uid={uid}\nvirtfs.gid={gid}\nvirtfs.mode={mode}\n")).unwrap();
    lchown(&file, Some(QEMU.0), Some(QEMU.1)).unwrap();
}

fn times(path: &Path, seconds: i64) {
    let time = |tv_sec| Timespec { tv_sec, tv_nsec: 77 };
    let times = Timestamps { last_access: time(seconds + 1), last_modification: time(seconds) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What a guest has made in the converted export.
fn work_as_a_guest(export: &Path, model: &str) {
    for folder in ["guests", "guests/within"] {
        let folder = export.join(folder);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        shown(&folder, model, 0o040_751, 7, 8);
    }
    for folder in ["guests/within", "guests"] {
        times(&export.join(folder), 1_000_000);
    }
}

/// What the host adds: a whole tree, links and devices in recorded directories, in one that the guest has made, and in place of
/// recorded files.
fn add(export: &Path) {
    let at = |name: &str| export.join(name);
    knot::tie(&at("added"));
    for folder in ["empty", "d", "guests/within"] {
        let at = |name: &str| at(folder).join(name);
        fs::write(at("new"), folder).unwrap();
        fs::set_permissions(at("new"), fs::Permissions::from_mode(0o4754)).unwrap();
        lchown(at("new"), Some(1234), Some(5678)).unwrap();
        fs::set_permissions(at("new"), fs::Permissions::from_mode(0o4754)).unwrap();
        symlink("../target", at("new-link")).unwrap();
        lchown(at("new-link"), Some(4321), Some(8765)).unwrap();
        let device = rustix::fs::makedev(1, 5);
        rustix::fs::mknodat(CWD, at("new-zero"), FileType::CharacterDevice, Mode::RUSR, device).unwrap();
        for (number, name) in ["new", "new-link", "new-zero"].into_iter().enumerate() {
            times(&at(name), 2_000_000 + i64::try_from(number).unwrap());
        }
    }
    fs::write(at("files/.a"), "another file").unwrap();
    fs::rename(at("files/.a"), at("files/a")).unwrap();
    symlink("elsewhere", at("files/only/.b")).unwrap();
    fs::rename(at("files/only/.b"), at("files/only/b")).unwrap();
    for (number, folder) in
        ["guests/within", "guests", "empty", "d", "files/only", "files", ""].into_iter().enumerate()
    {
        times(&at(folder), 3_000_000 + i64::try_from(number).unwrap());
    }
}

fn by_path(snapshot: &str) -> BTreeMap<&str, &str> {
    snapshot.lines().map(|line| (line.split(' ').next().unwrap(), line)).collect()
}

/// What a rollback must bring back: what there was before the conversion, with what the guest and the host have added since, as
/// snapshots of the original, of the guest's work and of the additions tell.
fn expected(before: &str, converted: &str, added: &str, guests: &str) -> String {
    let (before, converted, added) = (by_path(before), by_path(converted), by_path(added));
    let mut lines: BTreeMap<&str, String> =
        before.iter().map(|(path, line)| (*path, (*line).to_owned())).collect();
    for (path, line) in &added {
        if path.contains(".virtfs_metadata") || converted.get(path) == Some(line) {
            continue;
        }
        let is_old_directory = line.contains(" mode=4") && before.contains_key(path);
        let old = if is_old_directory { before.get(path).copied() } else { None };
        lines.insert(path, old.map_or_else(|| (*line).to_owned(), |old| with_times_of(old, line)));
    }
    for line in guests.lines().filter(|line| line.starts_with("./guests")) {
        let path = line.split(' ').next().unwrap();
        if added.get(path).is_some_and(|line| line.contains(" mode=4")) {
            lines.insert(path, with_times_of(line, added[path]));
        }
    }
    lines.into_values().map(|line| line + "\n").collect()
}

/// A directory's line with the times that another one has.
fn with_times_of(line: &str, other: &str) -> String {
    let of = |word: &str| ["mtime=", "atime="].into_iter().find(|name| word.starts_with(name));
    let other: BTreeMap<_, _> = other.split(' ').filter_map(|word| Some((of(word)?, word))).collect();
    let words: Vec<_> = line.split(' ').map(|word| of(word).map_or(word, |name| other[name])).collect();
    words.join(" ")
}

/// A converted export in which the guest and the host have added something, and what a rollback must make of it.
pub fn with_additions(model: &str) -> (Stage, String) {
    let stage = Stage::knotted();
    let before = stage.snapshot();
    success(&mut stage.convert(model));
    work_as_a_guest(&stage.export(), model);
    let converted = stage.snapshot();
    add(&stage.export());
    let expected = expected(&before, &converted, &stage.snapshot(), &guests_work(model));
    (stage, expected)
}

/// Panics unless an export is as expected, the numbers of directories' links left out: one is added for each directory in it.
#[track_caller]
pub fn must_be(expected: &str, stage: &Stage, what: &str) {
    let without_links = |snapshot: &str| -> String {
        let line = |line: &str| {
            let is_directory = line.contains(" mode=4");
            let words =
                line.split_inclusive(' ').filter(|word| !(is_directory && word.starts_with("links=")));
            words.collect::<String>() + "\n"
        };
        snapshot.lines().map(line).collect()
    };
    assert_same(&without_links(expected), &without_links(&stage.snapshot()), what);
}

/// The guest's work alone, rolled back.
fn guests_work(model: &str) -> String {
    let stage = Stage::knotted();
    success(&mut stage.convert(model));
    work_as_a_guest(&stage.export(), model);
    success(&mut stage.rollback());
    stage.snapshot()
}

#[test]
fn what_the_host_adds_is_adopted_and_comes_back_by_a_rollback() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let (stage, expected) = with_additions(model);
        // The dry run changes nothing, and tells all of it.
        let before = stage.snapshot();
        let mut dry = stage.command("convert");
        dry.args(["--adopt", "--progress=never"]).args(knot::ACCEPT).arg("--accept=acl-owner-rights");
        let said = success(&mut dry);
        assert!(said.contains("37 entries added on the host would be adopted"), "{model}: {said}");
        assert_same(&before, &stage.snapshot(), "a dry run");
        let said = success(&mut adopt(&stage));
        assert!(said.contains("37 entries added on the host adopted"), "{model}: {said}");
        stage.verify(&format!("{model}, adopted"));
        // As the proxy showed it.
        let manifest = stage.manifest(model);
        for line in ["empty/new-link", "d/new-zero", "guests/within/new"] {
            assert!(manifest.contains(line), "{model}: {line}: {manifest}");
        }
        let adopted = stage.snapshot();
        let journal = fs::read(stage.journal()).unwrap();
        let said = success(&mut adopt(&stage));
        assert!(said.contains(": 0 entries added on the host adopted"), "{model}: {said}");
        assert_same(&adopted, &stage.snapshot(), "a second adoption");
        assert!(fs::read(stage.journal()).unwrap() == journal, "{model}: the journal grew");
        success(&mut stage.rollback());
        must_be(&expected, &stage, model);
    }
}

#[test]
fn an_adoption_that_was_killed_goes_on_or_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let (stage, _) = with_additions(model);
        let calls = count_above(50, adopt(&stage));
        for (number, point) in points(calls, POINTS).into_iter().enumerate() {
            let what = format!("{model}, killed at {point} of {calls}");
            let (stage, expected) = with_additions(model);
            kill_at(point, || adopt(&stage), &what);
            if number % 2 == 0 {
                success(&mut adopt(&stage));
                stage.verify(&what);
            }
            success(&mut stage.rollback());
            must_be(&expected, &stage, &what);
        }
    }
}

#[test]
fn a_power_cut_during_an_adoption_loses_nothing() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let (stage, _) = with_additions(model);
        let calls = count_above(50, adopt(&stage));
        for (number, point) in points(calls, POINTS / 2).into_iter().enumerate() {
            let what = format!("{model}, power cut at {point} of {calls}");
            let (stage, expected) = with_additions(model);
            cut_power(point, adopt(&stage), &stage.journal());
            if number % 2 == 1 {
                success(&mut adopt(&stage));
                stage.verify(&what);
            }
            success(&mut stage.rollback());
            must_be(&expected, &stage, &what);
        }
    }
}

/// A converted export of one directory and one file of a user's, `old`.
fn small(model: &str) -> Stage {
    let stage = Stage::new();
    fs::create_dir(stage.export()).unwrap();
    write(&stage, "old", 0o644, 1000);
    success(&mut stage.convert(model));
    stage
}

fn write(stage: &Stage, name: &str, mode: u32, owner: u32) {
    let path = stage.export().join(name);
    fs::write(&path, "content").unwrap();
    lchown(&path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What the guest sees of an entry: its mode and its owner.
fn seen(stage: &Stage, model: &str, name: &str) -> String {
    let manifest = stage.manifest(model);
    let line = manifest.lines().find(|line| line.starts_with(&format!("./{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {manifest}")).to_owned()
}

fn real(stage: &Stage, name: &str) -> (u32, u32, u32) {
    let told = stage.export().join(name).symlink_metadata().unwrap();
    (told.mode() & 0o7777, told.uid(), told.gid())
}

#[test]
fn entries_of_qemus_user_are_left_and_counted() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = small(model);
        write(&stage, "copied", 0o640, QEMU.0);
        write(&stage, "guests", 0o600, QEMU.0);
        shown(&stage.export().join("guests"), model, 0o100_640, 5, 6);
        let before = stage.snapshot();
        let said = success(&mut adopt(&stage));
        assert!(
            said.contains("1 entry of QEMU's user without mapped attributes (the first is 'copied')"),
            "{said}"
        );
        assert_same(&before, &stage.snapshot(), model);
    }
}

#[test]
fn attributes_that_came_with_a_file_are_what_the_guest_sees() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = small("mapped-xattr");
    write(&stage, "restored", 0o644, 0);
    shown(&stage.export().join("restored"), "mapped-xattr", 0o104_755, 7, 8);
    // A user of the host can't make a program of root's for the guest.
    lchown(stage.export().join("restored"), Some(1), Some(2)).unwrap();
    let before = stage.snapshot();
    let said = ended(&mut adopt(&stage), 3);
    assert!(said.contains("its mapped attributes are its owner's"), "{said}");
    assert_same(&before, &stage.snapshot(), "a user's attributes");
    lchown(stage.export().join("restored"), Some(0), Some(2)).unwrap();
    let before = stage.snapshot();
    success(&mut adopt(&stage));
    assert_eq!(real(&stage, "restored"), (0o600, QEMU.0, QEMU.1));
    assert!(seen(&stage, "mapped-xattr", "restored").contains("4755"), "{}", stage.manifest("mapped-xattr"));
    stage.verify("restored");
    success(&mut stage.rollback());
    let of =
        |snapshot: &str| snapshot.lines().find(|line| line.starts_with("./restored ")).unwrap().to_owned();
    assert_eq!(of(&before), of(&stage.snapshot()));

    // Under mapped-file such a file and its metadata file are two: who owns them decides, and is asked.
    let stage = small("mapped-file");
    write(&stage, "restored", 0o644, 0);
    shown(&stage.export().join("restored"), "mapped-file", 0o104_755, 7, 8);
    lchown(stage.export().join("restored"), Some(1), Some(2)).unwrap();
    let before = stage.snapshot();
    let said = ended(&mut adopt(&stage), 3);
    assert!(said.contains("[added-left]") && said.contains("metadata"), "{said}");
    assert_same(&before, &stage.snapshot(), "mapped-file");
}

#[test]
fn what_another_program_gave_another_owner_is_given_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = small(model);
        write(&stage, "new", 0o4755, 1001);
        fs::create_dir_all(stage.export().join("folder/inner")).unwrap();
        write(&stage, "folder/inner/file", 0o644, 1001);
        for name in ["folder", "folder/inner"] {
            lchown(stage.export().join(name), Some(1001), Some(1001)).unwrap();
            fs::set_permissions(stage.export().join(name), fs::Permissions::from_mode(0o2750)).unwrap();
        }
        success(&mut adopt(&stage));
        let shown_before = stage.manifest(model);
        let journal = fs::read(stage.journal()).unwrap();
        // As rsync does where only these differ.
        let directories = [("folder", 1001, 0o2750), ("folder/inner", 1001, 0o2750)];
        for (name, owner, mode) in
            [("old", 1000, 0o644), ("new", 1001, 0o4755)].into_iter().chain(directories)
        {
            lchown(stage.export().join(name), Some(owner), Some(owner)).unwrap();
            fs::set_permissions(stage.export().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        if model == "mapped-xattr" {
            // What its new owner has set is not what the guest is shown.
            attribute(&stage.export().join("new"), "user.virtfs.uid", &0_u32.to_le_bytes());
            let said = ended(&mut adopt(&stage), 3);
            assert!(said.contains("new: warning: its mapped attributes are not those"), "{said}");
            assert_eq!(real(&stage, "new"), (0o4755, 1001, 1001));
            attribute(&stage.export().join("new"), "user.virtfs.uid", &1001_u32.to_le_bytes());
            for (name, owner, mode) in [("old", 1000, 0o644)].into_iter().chain(directories) {
                lchown(stage.export().join(name), Some(owner), Some(owner)).unwrap();
                fs::set_permissions(stage.export().join(name), fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        let said = ended(&mut stage.command("verify"), 3);
        assert!(said.contains("4 entries were added on the host since the conversion"), "{said}");
        let said = success(&mut adopt(&stage));
        assert!(said.contains("0 entries added on the host adopted, 4 entries given back"), "{said}");
        stage.verify(model);
        assert_eq!(shown_before, stage.manifest(model), "{model}");
        assert_eq!(real(&stage, "new"), (0o600, QEMU.0, QEMU.1));
        assert_eq!(real(&stage, "folder/inner"), (0o700, QEMU.0, QEMU.1));
        assert!(fs::read(stage.journal()).unwrap() == journal, "{model}: the journal grew");
        success(&mut stage.rollback());
        assert_eq!(real(&stage, "new"), (0o4755, 1001, 1001), "{model}");
        assert_eq!(real(&stage, "old"), (0o644, 1000, 1000), "{model}");
        assert_eq!(real(&stage, "folder/inner"), (0o2750, 1001, 1001), "{model}");
    }
}

#[test]
fn what_is_still_being_written_is_left_until_it_is_complete() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = small(model);
        let folder = stage.export().join("incoming");
        fs::create_dir_all(folder.join("below")).unwrap();
        fs::create_dir(stage.export().join("done")).unwrap();
        write(&stage, "done/file", 0o640, 1000);
        write(&stage, "incoming/below/.file.aB3xYz", 0o600, 0);
        let open = fs::File::options().create(true).append(true).open(folder.join("open")).unwrap();
        let before = real(&stage, "incoming/open");
        let said = ended(&mut adopt(&stage), 3);
        assert!(
            said.contains("incoming/open: warning: it is still being written [added-being-written]"),
            "{said}"
        );
        assert!(said.contains("incoming: warning: something in it is still being written"), "{said}");
        assert!(said.contains("2 entries added on the host adopted"), "{said}");
        assert_eq!(real(&stage, "done/file"), (0o600, QEMU.0, QEMU.1), "{model}");
        assert_eq!(real(&stage, "incoming/open"), before, "{model}");
        drop(open);
        fs::rename(folder.join("below/.file.aB3xYz"), folder.join("below/file")).unwrap();
        // What changed a moment ago is left where that is asked for.
        let said = ended(adopt(&stage).arg("--settle=3600"), 3);
        assert!(
            said.contains("0 entries added on the host adopted") && said.contains("4 entries left"),
            "{said}"
        );
        let said = success(&mut adopt(&stage));
        assert!(said.contains("4 entries added on the host adopted"), "{said}");
        stage.verify(model);
    }
}

#[test]
fn what_needs_a_decision_is_left_and_the_rest_is_adopted() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = small(model);
        for name in ["capable", "linked", "plain"] {
            write(&stage, name, 0o755, 1000);
        }
        attribute(&stage.export().join("capable"), "security.capability", knot::CAPABILITY);
        fs::hard_link(stage.export().join("linked"), stage.folder().join("outside")).unwrap();
        let mut strict = stage.command("convert");
        strict.args(["--adopt", "--apply", "--progress=never"]);
        let said = ended(&mut strict, 3);
        for id in [
            "capable: warning: the guest loses the attribute security.capability [xattr-lost]",
            "[links-outside]",
        ] {
            assert!(said.contains(id), "{model}: {said}");
        }
        assert_eq!(real(&stage, "capable"), (0o755, 1000, 1000), "{model}");
        assert_eq!(real(&stage, "linked"), (0o755, 1000, 1000), "{model}");
        assert_eq!(real(&stage, "plain"), (0o600, QEMU.0, QEMU.1), "{model}");
        success(strict.args(["--accept=xattr-lost", "--accept=links-outside"]));
        stage.verify(model);
        success(&mut stage.rollback());
        let value =
            rustix::fs::getxattr(stage.export().join("capable"), "security.capability", &mut [0_u8; 64][..]);
        assert_eq!(value, Ok(knot::CAPABILITY.len()), "{model}");
        assert_eq!(real(&stage, "linked"), (0o755, 1000, 1000), "{model}");
    }
}

#[test]
fn what_the_guest_makes_of_adopted_entries_is_kept_by_a_rollback() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = small(model);
        write(&stage, "changed", 0o640, 1000);
        write(&stage, "moved", 0o604, 1001);
        symlink("there", stage.export().join("link")).unwrap();
        success(&mut adopt(&stage));
        shown(&stage.export().join("changed"), model, 0o100_711, 7, 8);
        as_a_guest(&stage.export(), model, "moved", "elsewhere", true);
        as_a_guest(&stage.export(), model, "link", "elsewhere-too", true);
        success(&mut stage.rollback());
        assert_eq!(real(&stage, "changed"), (0o711, 7, 8), "{model}");
        assert_eq!(real(&stage, "elsewhere"), (0o604, 1001, 1001), "{model}");
        assert_eq!(
            fs::read_link(stage.export().join("elsewhere-too")).unwrap(),
            Path::new("there"),
            "{model}"
        );
        assert!(!stage.snapshot().contains("virtfs"), "{model}: something is left behind");
    }
}

#[test]
fn an_export_that_is_not_converted_for_its_owner_is_refused() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::new();
    fs::create_dir(stage.export()).unwrap();
    assert!(ended(&mut adopt(&stage), 1).contains("without --adopt"));
    success(&mut stage.convert("mapped-xattr"));
    // As after `chown -R`: QEMU runs as another user now.
    lchown(stage.export(), Some(1234), Some(1234)).unwrap();
    let before = stage.snapshot();
    assert!(ended(&mut adopt(&stage), 1).contains("itself belongs to the user 1234"));
    assert_same(&before, &stage.snapshot(), "another owner");
    lchown(stage.export(), Some(QEMU.0), Some(QEMU.1)).unwrap();
    success(&mut stage.rollback());
    assert!(ended(&mut adopt(&stage), 1).contains("is rolled back"));
    let mut owned = adopt(&stage);
    ended(owned.arg("--owner=1000"), 2);
}

#[test]
fn check_and_verify_count_what_was_added() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = small(model);
        write(&stage, "one", 0o600, 1000);
        symlink("x", stage.export().join("two")).unwrap();
        for verb in ["check", "verify"] {
            let said = ended(&mut stage.command(verb), 3);
            let counted = "2 entries were added on the host since the conversion ('one')";
            assert!(said.contains(counted) && said.contains("[added-on-host]"), "{model}, {verb}: {said}");
        }
        success(&mut adopt(&stage));
        assert!(!ended(&mut stage.command("check"), 3).contains("added-on-host"), "{model}");
        stage.verify(model);
    }
}
