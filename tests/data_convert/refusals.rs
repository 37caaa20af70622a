//! What is refused, and in which words: a dry run and `--apply` agree, and whatever is refused is left as it was.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::snapshot::assert_same;
use crate::stage::{MODELS, OWNER, Stage, ended, success};

#[test]
fn a_rollback_of_an_export_in_use_is_refused_dry_or_not() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let converted = stage.snapshot();
    let open = std::fs::File::open(stage.export().join("d/caps")).unwrap();
    for apply in [&["--apply"][..], &[]] {
        let said = ended(stage.command("rollback").args(apply), 3);
        assert!(said.contains("live-export") && said.contains("d/caps"), "{said}");
    }
    drop(open);
    assert_same(&converted, &stage.snapshot(), "refused rollbacks");
    let said = success(&mut stage.command("rollback"));
    assert!(said.contains("Run the same command with --apply"), "{said}");
}

#[test]
fn a_refused_conversion_leaves_the_journal_of_the_earlier_one_in_its_place() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    success(&mut stage.rollback());
    let journal = std::fs::read(stage.journal()).unwrap();
    let aside = stage.folder().join("export.virtfs-journal.1");
    // By a finding, and by somebody who uses it.
    let said = ended(stage.command("convert").args([OWNER, "--apply", "--progress=never"]), 3);
    assert!(said.contains("nothing was changed"), "{said}");
    let open = std::fs::File::open(stage.export().join("d/caps")).unwrap();
    ended(&mut stage.convert("mapped-xattr"), 3);
    drop(open);
    assert_eq!((std::fs::read(stage.journal()).unwrap(), aside.exists()), (journal.clone(), false));
    success(&mut stage.convert("mapped-xattr"));
    assert_eq!(std::fs::read(&aside).unwrap(), journal);
    success(&mut stage.rollback());
}

#[test]
fn an_ordinary_user_is_told_to_run_it_as_root() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::new();
    crate::knot::tie(&stage.export());
    // Where that user can read it.
    let program = stage.folder().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_virtfs-proxy-helper"), &program).unwrap();
    std::fs::set_permissions(stage.export(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let before = stage.snapshot();
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command.arg("migrate").args(words).arg(stage.export());
        command
    };
    let convert = ["convert", OWNER, "--apply", "--accept=owner-kept-out"];
    let said = ended(&mut as_nobody(&convert), 1);
    assert!(said.contains("as root"), "{said}");
    success(&mut stage.convert("mapped-xattr"));
    for words in [&["rollback"][..], &["rollback", "--apply"]] {
        let said = ended(&mut as_nobody(words), 1);
        assert!(said.contains("as root"), "{said}");
    }
    success(&mut stage.rollback());
    assert_same(&before, &stage.snapshot(), "refused to an ordinary user");
}

#[test]
fn what_a_rolled_back_tree_differs_in_is_no_reason_to_take_a_conversion_back() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        success(&mut stage.convert(model));
        success(&mut stage.rollback());
        let file = std::fs::File::options().write(true).open(stage.export().join("acl")).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(951_782_400_000_000_005);
        file.set_times(std::fs::FileTimes::new().set_modified(time)).unwrap();
        let said = ended(&mut stage.command("verify"), 3);
        assert!(said.contains("is 2000-02-29 00:00:00.000000005 UTC instead of"), "{said}");
        assert!(said.contains("backup") && !said.contains("take the conversion back"), "{said}");
    }
}

#[test]
fn the_loss_of_one_attribute_can_be_accepted_by_its_name_and_labels_stay() {
    const LABEL: &[u8] = b"system_u:object_r:svirt_image_t:s0\0";
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        let labelled = |name: &str| {
            let mut value = [0; 64];
            let path = stage.export().join(name);
            let length = rustix::fs::lgetxattr(path, c"security.selinux", &mut value[..]).unwrap();
            assert_eq!(&value[..length], LABEL, "{model}: {name}");
        };
        for name in ["link", "null", "d/e/fifo", "acl"] {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(stage.export().join(name), c"security.selinux", LABEL, flags).unwrap();
        }
        let before = stage.snapshot();
        let convert = |accept: &str| {
            let mut command = stage.command("convert");
            command.args([OWNER, "--apply", "--progress=never", "--security-model", model]);
            let rest = crate::knot::ACCEPT.iter().filter(|option| !option.starts_with("--accept=xattr-lost"));
            command.args(rest).args(["--accept=acl-owner-rights", accept]);
            command
        };
        let said = ended(&mut convert("--accept=xattr-lost:security.selinux"), 3);
        assert!(said.contains("--accept=xattr-lost:security.capability"), "{said}");
        ended(&mut convert("--accept=immutable-file:security.selinux"), 2);
        success(&mut convert("--accept=xattr-lost:security.capability"));
        for name in ["link", "null", "d/e/fifo", "acl"] {
            labelled(name);
        }
        stage.verify("labelled");
        success(&mut stage.rollback());
        assert_same(&before, &stage.snapshot(), model);
    }
}

/// Fills a file system to the last byte.
fn fill(root: &std::path::Path) -> std::path::PathBuf {
    use std::io::Write as _;
    let path = root.join("fill");
    let mut file = std::fs::File::create(&path).unwrap();
    for block in [1 << 16, 1 << 10, 1] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
    file.sync_all().unwrap();
    path
}

#[test]
fn a_full_disk_of_the_journal_is_told_before_anything_changes_and_stops_no_rollback() {
    use std::os::unix::fs::MetadataExt as _;
    if crate::stage::elsewhere() {
        return;
    }
    let disk = |mebibytes| crate::disk::Disk::format("ext4", mebibytes, "defaults");
    let stage = Stage::on(crate::stage::Disks { export: disk(32), journal: Some(disk(8)) });
    let export = stage.export();
    crate::knot::tie(&export);
    let before = stage.snapshot();
    let full = fill(stage.journal().parent().unwrap());
    let said = ended(&mut stage.convert("mapped-xattr"), 1);
    assert!(said.contains("full") && said.contains("Make room"), "{said}");
    assert_same(&before, &stage.snapshot(), "the journal's disk is full");
    std::fs::remove_file(&full).unwrap();
    success(&mut stage.convert("mapped-xattr"));
    let journal = std::fs::metadata(stage.journal()).unwrap();
    assert!(journal.blocks() * 512 > journal.len() + 50_000, "nothing is reserved: {journal:?}");
    fill(stage.journal().parent().unwrap());
    success(&mut stage.rollback());
    assert_same(&before, &stage.snapshot(), "rolled back with a full disk");
    // The journal of the conversion that was rolled back keeps its name where no other comes of it.
    let earlier = std::fs::read(stage.journal()).unwrap();
    let said = ended(&mut stage.convert("mapped-xattr"), 1);
    assert!(said.contains("full") && said.contains("Make room"), "{said}");
    let aside = stage.journal().with_file_name("journal.1");
    assert_eq!((std::fs::read(stage.journal()).unwrap() == earlier, aside.exists()), (true, false), "{said}");
    crate::knot::untie(&export);
}

/// The limit of a quota group of Btrfs, which counts all that is touched once more before it gives room back.
#[test]
fn a_rollback_that_a_quota_stops_says_how_much_it_needs_and_goes_on_with_that() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let disk = |kind, mebibytes| crate::disk::Disk::format(kind, mebibytes, "defaults");
        let stage =
            Stage::on(crate::stage::Disks { export: disk("btrfs", 256), journal: Some(disk("ext4", 8)) });
        let (export, root) = (stage.export(), stage.folder());
        let btrfs = |words: &[&str]| success(Command::new("btrfs").args(words).arg(&root));
        success(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&export));
        for number in 0..2000 {
            let name = export.join(number.to_string());
            if number % 8 > 0 {
                std::os::unix::fs::symlink(format!("target {number:080}"), name).unwrap();
                continue;
            }
            std::fs::write(&name, "a file").unwrap();
            std::os::unix::fs::chown(&name, Some(1000 + number), Some(2000)).unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(&name, c"system.posix_acl_access", crate::knot::ACL, flags).unwrap();
        }
        let before = stage.snapshot();
        success(&mut stage.convert(model));
        btrfs(&["quota", "enable"]);
        btrfs(&["quota", "rescan", "-w"]);
        stage.disks().export.sync();
        let groups = btrfs(&["qgroup", "show", "--raw"]);
        let used = groups
            .lines()
            .find_map(|line| line.strip_prefix("0/256")?.split_whitespace().next()?.parse().ok());
        let used: u64 = used.expect("what the group uses");
        btrfs(&["qgroup", "limit", &(used + 4096).to_string(), "0/256"]);
        let said = ended(&mut stage.rollback(), 1);
        let (_, needs) = said.split_once("needs about ").unwrap_or_else(|| panic!("{said}"));
        assert!(needs.contains("(btrfs, /dev/loop") && said.contains("quota group"), "{said}");
        let mut words = needs.split(' ');
        let number: f64 = words.next().unwrap().parse().unwrap();
        assert_eq!(words.next(), Some("MiB"), "{said}");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few MiB")]
        let needed = (number * f64::from(1 << 20)) as u64;
        btrfs(&["qgroup", "limit", &(used + needed).to_string(), "0/256"]);
        // What was said is enough, in one run, though Btrfs reserves more than it needs until its changes are on the disk.
        success(&mut stage.rollback());
        assert_same(&before, &stage.snapshot(), model);
    }
}

/// The options of a conversion whose every property is another than the default.
const WANTED: [&str; 4] = ["--security-model=mapped-file", OWNER, "--fmode=0640", "--dmode=0750"];

/// What a second run is given, its end on a converted export, and what it says.
const SECOND_RUNS: [(&[&str], i32, &str); 9] = [
    (&[], 0, "used again: --owner=64055:64056 --security-model=mapped-file --fmode=0640 --dmode=0750"),
    (&[OWNER], 0, "used again: --security-model=mapped-file --fmode=0640 --dmode=0750"),
    (&WANTED, 0, "nothing to do"),
    (&["--owner=1:2"], 3, "with --owner=64055:64056 and not --owner=1:2."),
    (&["--owner=64055:2"], 3, "with --owner=64055:64056 and not --owner=64055:2."),
    (
        &["--security-model=mapped-xattr"],
        3,
        "with --security-model=mapped-file and not --security-model=mapped-xattr.",
    ),
    (&["--fmode=0600"], 3, "with --fmode=0640 and not --fmode=0600."),
    (&["--dmode=0700"], 3, "with --dmode=0750 and not --dmode=0700."),
    (
        &["--owner=1:2", "--fmode=0600", "--dmode=0700"],
        3,
        "with --owner=64055:64056 and not --owner=1:2, --fmode=0640 and not --fmode=0600, --dmode=0750 and not --dmode=0700.",
    ),
];

#[test]
fn a_second_conversion_takes_what_is_left_open_from_the_first_and_refuses_what_differs() {
    if crate::stage::elsewhere() {
        return;
    }
    let first = |stage: &Stage| {
        let mut command = stage.command("convert");
        command.args(WANTED).args(["--apply", "--progress=never"]).args(crate::knot::ACCEPT);
        command.arg("--accept=acl-owner-rights");
        command
    };
    for is_interrupted in [false, true] {
        let stage = Stage::knotted();
        let before = stage.snapshot();
        if is_interrupted {
            let calls = crate::crash::count(first(&Stage::knotted()));
            let killed = crate::injector::Meddling::Kill(calls * 3 / 4);
            assert_eq!(crate::injector::run(crate::crash::alone(first(&stage)), killed).status, None);
        } else {
            success(&mut first(&stage));
        }
        let converted = stage.snapshot();
        for apply in [&[][..], &["--apply", "--progress=never"]] {
            for (options, status, words) in SECOND_RUNS {
                // An interrupted one goes on, below.
                if is_interrupted && status == 0 && !apply.is_empty() {
                    continue;
                }
                let status = if is_interrupted { 3 } else { status };
                let said = ended(stage.command("convert").args(options).args(apply), status);
                let is_about_state = is_interrupted && words == "nothing to do";
                let words = if is_about_state { "--apply goes on" } else { words };
                assert!(said.contains(words), "{options:?}: {said}");
                assert_same(&converted, &stage.snapshot(), &format!("{options:?} {apply:?}"));
            }
        }
        if is_interrupted {
            let said = success(stage.command("convert").args(["--apply", "--progress=never"]));
            assert!(said.contains("used again: --owner=64055:64056"), "{said}");
        }
        stage.verify("converted with what was left open");
        success(&mut stage.rollback());
        assert_same(&before, &stage.snapshot(), "rolled back");
        // What was rolled back is no reason for anything.
        let said = success(stage.command("convert").args(["--owner=1:2"]).args(crate::knot::ACCEPT));
        assert!(said.contains("with mode 0600 (directories 0700)") && said.contains("1:2"), "{said}");
    }
}

#[test]
fn where_the_journal_is_lost_each_command_says_what_is_left_to_do() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    std::fs::remove_file(stage.journal()).unwrap();
    let converted = stage.snapshot();
    let mut convert = stage.command("convert");
    convert.args([OWNER]).args(crate::knot::ACCEPT);
    let mut check = stage.command("check");
    check.arg(OWNER);
    for (mut command, status) in [
        (stage.command("verify"), 1),
        (stage.command("rollback"), 1),
        (stage.rollback(), 1),
        (convert, 1),
        (stage.convert("mapped-xattr"), 1),
        (check, 3),
    ] {
        let said = ended(&mut command, status);
        let is_told = ["there is no journal at", "which is not at"].iter().any(|words| said.contains(words));
        assert!(is_told && said.contains("`migrate unmap` makes the files what the guest sees"), "{said}");
        assert!(!said.contains("prove it by") && !said.contains("another journal"), "{said}");
    }
    assert_same(&converted, &stage.snapshot(), "without a journal");
}

#[test]
fn on_a_read_only_file_system_what_only_looks_works_and_nothing_is_said_to_be_ready() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let remount = |how: &str| crate::disk::run("mount", &[&"-o", &format!("remount,{how}"), &stage.folder()]);
    remount("ro");
    stage.verify("read-only");
    let said = ended(stage.command("check").arg(OWNER), 3);
    assert!(said.contains("its journal is '") && said.contains("[read-only-filesystem]"), "{said}");
    let mut adopt = stage.command("convert");
    adopt.arg("--adopt");
    let mut unmap = stage.command("unmap");
    unmap.args(["--from", "mapped-xattr"]);
    let copy = crate::disk::folder();
    let journal = copy.path().join("journal");
    std::fs::copy(stage.journal(), &journal).unwrap();
    let mut rollback = stage.command("rollback");
    rollback.arg("--journal").arg(&journal);
    for mut command in [adopt, unmap, rollback, stage.command("rollback"), stage.rollback()] {
        let said = ended(&mut command, 1);
        let is_told =
            ["is mounted read-only", "Read-only file system"].iter().any(|words| said.contains(words));
        assert!(is_told && !said.contains("Dry run"), "{said}");
    }
    remount("rw");
    success(&mut stage.rollback());
}

#[test]
fn modes_that_keep_the_owner_out_are_refused() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    for option in ["--fmode=0", "--fmode=0440", "--dmode=0600", "--dmode=0555"] {
        let said = ended(stage.command("convert").args([OWNER, option]), 2);
        assert!(said.contains("the owner needs"), "{option}: {said}");
    }
}

/// The journal is root's to read.
#[test]
fn others_are_told_to_run_it_as_root() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(stage.export(), open.clone()).unwrap();
    std::fs::set_permissions(stage.folder(), open).unwrap();
    let journal = stage.journal();
    let export = stage.export();
    let program = env!("CARGO_BIN_EXE_virtfs-proxy-helper");
    for words in
        [&["convert", OWNER][..], &["verify"], &["rollback"], &["journal"], &["unmap", "--from=mapped-xattr"]]
    {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program, "migrate"]).args(words);
        let said = ended(command.arg(if words == ["journal"] { &journal } else { &export }), 1);
        assert!(said.to_lowercase().contains("run the same command as root"), "{words:?}: {said}");
    }
}
