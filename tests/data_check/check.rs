//! `migrate check`: one case a finding, on real trees and real filesystems.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::program::{ours, scratch};

/// A scratch directory with an export in it.
struct Stage {
    scratch: tempfile::TempDir,
    export: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let scratch = scratch();
        let export = scratch.path().join("export");
        fs::create_dir(&export).unwrap();
        Self { scratch, export }
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.export.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        path
    }

    /// Runs a tool on a path of the export.
    fn tool(&self, words: &[&str], name: &str) {
        let path = self.export.join(name);
        let output = Command::new(words[0]).args(&words[1..]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// Checks the export in a mount namespace of its own, after `setup`, which has the export as `$0`.
    fn check_after(&self, setup: &str, options: &[&str]) -> Report {
        let mut command = Command::new("unshare");
        let script = format!("{setup}\nexec \"$@\"");
        command.args(["-m", "--propagation", "private", "sh", "-ec", &script]).arg(&self.export);
        Report::of(self.words(&mut command, options))
    }

    fn check(&self, options: &[&str]) -> Report {
        self.check_after("", options)
    }

    /// Checks the export as nobody.
    fn check_as_nobody(&self) -> Report {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        Report::of(self.words(&mut command, &[]))
    }

    fn words<'c>(&self, command: &'c mut Command, options: &[&str]) -> &'c mut Command {
        command.arg(ours()).args(["migrate", "check", "--format=json"]).args(options).arg(&self.export)
    }
}

/// A document and the exit status that came with it.
struct Report {
    document: Value,
    status: i32,
}

impl Report {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let document = serde_json::from_slice(&stdout).unwrap_or_else(|error| {
            panic!("{error}: {}\n{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
        });
        let mut report = Self { document, status: status.code().unwrap() };
        // Who else runs on this machine, and what of them can't be seen, is not this test's affair.
        let ids = report.findings().iter().map(|finding| finding.0.to_owned()).collect::<Vec<_>>();
        if report.status == 4 && !ids.iter().any(|id| id == "not-privileged") {
            report.status = 0;
        }
        report
    }

    /// The findings but for those that depend on who else runs on this machine: id, file, message.
    fn findings(&self) -> Vec<(&str, &str, &str)> {
        let text = |row: &'_ Value, key: &str| row[key].as_str().map(str::to_owned).unwrap_or_default();
        let rows = self.document["findings"].as_array().unwrap();
        let of_machine = |row: &&Value| text(row, "id") != "processes-unseen";
        rows.iter()
            .filter(of_machine)
            .map(|row| {
                (row["id"].as_str().unwrap(), row["file"].as_str().unwrap(), row["message"].as_str().unwrap())
            })
            .collect()
    }

    /// Asserts that there is exactly one finding, and what it says.
    #[track_caller]
    fn says(&self, id: &str, file: &Path, message: &str, status: i32) {
        let findings = self.findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!((findings[0].0, findings[0].1), (id, file.to_str().unwrap()), "{findings:?}");
        assert!(findings[0].2.contains(message), "{findings:?}");
        assert_eq!(self.status, status, "{findings:?}");
    }
}

const ME: &str = "--owner=12345:12345";
const MAPPED_FILE: &str = "--security-model=mapped-file";

#[test]
fn a_plain_export_is_ready() {
    let stage = Stage::new();
    stage.file("a/b");
    let report = stage.check(&[ME]);
    assert_eq!((report.findings(), report.status), (vec![], 0));
    assert_eq!(report.document["security_model"], "mapped-xattr");
    assert_eq!(report.document["entries"]["total"], 3);
    assert_eq!(report.document["filesystem"]["tried"], true);
    let libvirt = report.document["configuration"]["libvirt"].as_str().unwrap();
    assert!(
        libvirt.contains("accessmode='mapped'") && libvirt.contains(stage.export.to_str().unwrap()),
        "{libvirt}"
    );
    let qemu = report.document["configuration"]["qemu"][1].as_str().unwrap();
    let path = stage.export.display();
    assert_eq!(qemu, format!("local,id=export,path={path},security_model=mapped-xattr,multidevs=warn"));
}

#[test]
fn an_open_file_and_a_working_directory_are_told_apart() {
    // Each on an export of its own: the process of the last case may still be about to end.
    let checked = |setup: &str| {
        let stage = Stage::new();
        stage.file("file");
        let report = stage.check_after(setup, &[ME]);
        (stage, report)
    };
    let (_, own) = checked("exec 5<\"$0/file\"");
    assert_eq!(own.findings(), vec![], "our own descriptors do not count");
    let (stage, open) =
        checked("exec 5<\"$0/file\"; setpriv --pdeathsig KILL sleep 100 >/dev/null 2>&1 & exec 5<&-");
    open.says("live-export", &stage.export, "has 'file' open", 3);
    let (stage, cwd) = checked("cd \"$0\"; setpriv --pdeathsig KILL sleep 100 >/dev/null 2>&1 & cd /");
    cwd.says("export-in-use", &stage.export, "works in the export itself", 3);
}

#[test]
fn attributes_that_the_guest_loses_are_counted_by_name() {
    let stage = Stage::new();
    for name in ["b", "a", "c"] {
        stage.file(name);
    }
    for name in ["a", "b"] {
        stage.tool(&["setcap", "cap_net_raw+ep"], name);
    }
    stage.check(&[ME]).says(
        "xattr-lost",
        &stage.export.join("a"),
        "the guest loses the attribute security.capability (and 1 more entry)",
        3,
    );
    let cases = [
        ("trusted.x", "xattr-not-passed", 0),
        ("security.x", "xattr-not-passed", 0),
        ("security.ima", "xattr-lost", 3),
    ];
    for (name, id, status) in cases {
        let stage = Stage::new();
        stage.file("c");
        stage.tool(&["setfattr", "-n", name, "-v", "0x01020304"], "c");
        stage.check(&[ME]).says(id, &stage.export.join("c"), name, status);
    }
}

#[test]
fn an_acl_on_xfs_is_no_loss() {
    let stage = Stage::new();
    let image = stage.scratch.path().join("image");
    let setup = format!(
        "truncate -s 320M {image}; mkfs.xfs -q {image}; mount -o loop {image} \"$0\"; : >\"$0/a\"; mkdir \"$0/d\"; \
         setfacl -m u:5:rw \"$0/a\"; setfacl -m d:u:5:rwx \"$0/d\"; getfattr -m- \"$0/a\" 2>/dev/null | grep -q SGI_ACL_FILE",
        image = image.display()
    );
    let report = stage.check_after(&setup, &[ME]);
    assert_eq!((report.findings(), report.status), (vec![], 0));
    assert_eq!(report.document["entries"]["with_acl"], 2);
}

#[test]
fn earlier_mappings_and_reserved_names_are_found() {
    let stage = Stage::new();
    stage.file("a/x");
    stage.tool(&["setfattr", "-n", "user.virtfs.uid", "-v", "1"], "a/x");
    stage.check(&[ME]).says("already-mapped", &stage.export.join("a/x"), "user.virtfs", 3);
    stage.tool(&["setfattr", "-x", "user.virtfs.uid"], "a/x");
    stage.file("a/.virtfs_metadata");
    assert_eq!(stage.check(&[ME]).findings(), vec![], "mapped-xattr has no reserved names");
    stage.check(&[ME, MAPPED_FILE]).says("reserved-name", &stage.export.join("a/.virtfs_metadata"), "", 3);
}

#[test]
fn a_conversion_is_known_by_its_journal() {
    for model in ["mapped-xattr", "mapped-file"] {
        let stage = Stage::new();
        stage.file("a");
        let migrate = |words: &[&str]| {
            let mut command = Command::new(ours());
            command.arg("migrate").args(words).args(["--apply", "--progress=never"]).arg(&stage.export);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        migrate(&["convert", ME, "--security-model", model]);
        let message = format!("it is converted, to {model}: its journal is '{}", stage.export.display());
        stage.check(&[ME]).says("already-converted", &stage.export, &message, 3);
        migrate(&["rollback"]);
        assert_eq!(stage.check(&[ME]).findings(), vec![]);
    }
}

#[test]
fn acls_whose_owner_has_few_rights_matter_to_mapped_file() {
    let stage = Stage::new();
    stage.file("a");
    stage.tool(&["setfacl", "-m", "u:5:r"], "a");
    assert_eq!(stage.check(&[ME, MAPPED_FILE]).findings(), vec![]);
    stage.tool(&["chmod", "440"], "a");
    assert_eq!(stage.check(&[ME]).findings(), vec![]);
    stage.check(&[ME, MAPPED_FILE]).says("acl-owner-rights", &stage.export.join("a"), "owner's", 3);
}

#[test]
fn device_numbers_must_fit_mapped_file() {
    let stage = Stage::new();
    let device = stage.export.join("device");
    let make = |minor: &str| {
        let output = Command::new("mknod").arg(&device).args(["c", "1", minor]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    make("524287");
    assert_eq!(stage.check(&[ME, MAPPED_FILE]).findings(), vec![]);
    fs::remove_file(&device).unwrap();
    make("524288");
    assert_eq!(stage.check(&[ME]).findings(), vec![]);
    stage.check(&[ME, MAPPED_FILE]).says("device-number-too-large", &device, "31 bits", 3);
}

#[test]
fn flags_that_forbid_changes_are_found() {
    let stage = Stage::new();
    stage.file("a");
    for (flag, id) in [("i", "immutable-file"), ("a", "append-only-file")] {
        stage.tool(&["chattr", &format!("+{flag}")], "a");
        let report = stage.check(&[ME]);
        stage.tool(&["chattr", &format!("-{flag}")], "a");
        report.says(id, &stage.export.join("a"), "chattr", 3);
    }
}

#[test]
fn links_that_leave_the_export_are_found_and_others_are_not() {
    let stage = Stage::new();
    let (a, b) = (stage.file("a"), stage.file("b"));
    fs::hard_link(&a, stage.export.join("c")).unwrap();
    assert_eq!(stage.check(&[ME]).findings(), vec![]);
    fs::hard_link(&b, stage.scratch.path().join("outside")).unwrap();
    stage.check(&[ME]).says("links-outside", &b, "names outside the export", 3);
}

#[test]
fn mounts_inside_are_found_and_not_entered() {
    let stage = Stage::new();
    fs::create_dir(stage.export.join("m")).unwrap();
    let report = stage.check_after("mount -t tmpfs none \"$0/m\"; : >\"$0/m/file\"", &[ME]);
    report.says("mount-inside", &stage.export.join("m"), "something else is mounted here", 3);
    assert_eq!(report.document["entries"]["files"], 0);
    assert!(report.document["configuration"]["qemu"][1].as_str().unwrap().ends_with(",multidevs=remap"));
}

#[test]
fn mounts_elsewhere_of_the_same_files_are_found() {
    let stage = Stage::new();
    fs::create_dir_all(stage.export.join("sub")).unwrap();
    let elsewhere = stage.scratch.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let report = stage.check_after("mount --bind \"$0/sub\" \"$0/../elsewhere\"", &[ME]);
    let message = format!("its part 'sub' is also mounted at '{}'", elsewhere.display());
    report.says("export-in-use", &stage.export, &message, 3);
}

#[test]
fn units_that_name_the_export_are_found() {
    let stage = Stage::new();
    stage.file("a");
    let setup = "mount -t tmpfs none /etc/systemd/system
        printf '[Service]\nExecStart=/usr/bin/tar -C %s -cf /backup.tar .\n' \"$0\" >/etc/systemd/system/backup.service";
    let report = stage.check_after(setup, &[ME]);
    let unit = Path::new("/etc/systemd/system/backup.service");
    report.says("export-in-use", unit, &format!("a systemd unit uses '{}'", stage.export.display()), 3);
    assert_eq!(report.document["findings"][0]["line"], 2);
}

#[test]
fn a_filesystem_without_user_xattrs_means_mapped_file() {
    let stage = Stage::new();
    let report = stage.check_after("mount -t ramfs none \"$0\"", &[ME]);
    report.says("no-user-xattrs", &stage.export, "ramfs does not keep user xattrs", 3);
    assert_eq!(report.document["security_model"], "mapped-file");
    assert!(report.document["configuration"]["libvirt"].is_null());
    let asked = stage.check_after("mount -t ramfs none \"$0\"", &[ME, MAPPED_FILE]);
    assert_eq!((asked.findings(), asked.status), (vec![], 0));
}

#[test]
fn a_read_only_filesystem_is_found_and_support_is_deduced() {
    let stage = Stage::new();
    let report = stage.check_after("mount --bind \"$0\" \"$0\"; mount -o remount,bind,ro \"$0\"", &[ME]);
    let ids: Vec<_> = report.findings().iter().map(|finding| finding.0).collect();
    assert_eq!((ids, report.status), (vec!["read-only-filesystem", "xattrs-not-tried"], 3));
    assert_eq!(report.document["filesystem"]["tried"], false);
}

#[test]
fn room_is_counted_in_inodes_too() {
    let stage = Stage::new();
    let check = |inodes: u32| {
        let fill = "for i in $(seq 30); do : >\"$0/$i\"; done";
        let setup = format!("mount -t tmpfs -o size=1m,nr_inodes={inodes} none \"$0\"; {fill}");
        stage.check_after(&setup, &[ME, MAPPED_FILE])
    };
    assert_eq!(check(400).findings(), vec![]);
    let report = check(40);
    report.says("not-enough-space", &stage.export, "takes 32 inodes", 3);
}

#[test]
fn attributes_that_leave_no_room_are_tried_not_guessed() {
    let stage = Stage::new();
    stage.file("large");
    stage.file("small");
    let room = stage.check(&[ME]).document["filesystem"]["room"].as_u64().unwrap();
    stage.tool(&["setfattr", "-n", "user.small", "-v", &"x".repeat(1000)], "small");
    // As large as it can be: where an inode's attributes share one block, the mapped ones don't fit.
    let mut length = 65000;
    let set = |length: usize| {
        let value = "x".repeat(length);
        let mut command = Command::new("setfattr");
        command.args(["-n", "user.large", "-v", &value]).arg(stage.export.join("large"));
        command.output().unwrap().status.success()
    };
    while !set(length) {
        length = length * 99 / 100;
    }
    let report = stage.check(&[ME]);
    if room > 60000 {
        assert_eq!(report.findings(), vec![], "this filesystem has room for everything");
    } else {
        report.says("no-room-for-attributes", &stage.export.join("large"), "no room", 3);
        assert_eq!(stage.check(&[ME, MAPPED_FILE]).findings(), vec![]);
    }
}

#[test]
fn a_closed_door_on_the_way_is_found() {
    let stage = Stage::new();
    fs::set_permissions(stage.scratch.path(), fs::Permissions::from_mode(0o700)).unwrap();
    stage.check(&[ME]).says("owner-kept-out", stage.scratch.path(), "12345:12345 can't enter", 3);
    assert_eq!(stage.check(&["--owner=root"]).findings(), vec![]);
}

#[test]
fn files_of_host_accounts_are_counted() {
    let stage = Stage::new();
    chown(stage.file("a"), Some(1), Some(0)).unwrap();
    chown(stage.file("b"), Some(54321), Some(0)).unwrap();
    stage.check(&[ME]).says("host-accounts", &stage.export, "daemon (1, 1 changed in the last 7 days)", 0);
    // An account is named once, whatever groups its files are of.
    chown(stage.file("c"), Some(1), Some(54321)).unwrap();
    stage.check(&[ME]).says("host-accounts", &stage.export, ": daemon (2, 2 changed in the last 7 days)", 0);
    assert_eq!(stage.check(&["--owner=daemon"]).findings(), vec![], "these are QEMU's own");
}

#[test]
fn nobody_is_told_what_nobody_can_not_see() {
    let stage = Stage::new();
    stage.file("closed/file");
    fs::set_permissions(stage.export.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let report = stage.check_as_nobody();
    let ids: Vec<_> = report.findings().iter().map(|finding| finding.0).collect();
    assert_eq!((ids, report.status), (vec!["xattrs-not-tried", "unreadable-entry", "not-privileged"], 3));
    assert_eq!(report.findings()[1].1, stage.export.join("closed").to_str().unwrap());
}

#[test]
fn what_an_ordinary_user_can_not_see_is_not_ready() {
    let stage = Stage::new();
    let file = stage.file("file");
    chown(&stage.export, Some(65534), Some(65534)).unwrap();
    let open = fs::File::open(file).unwrap();
    let report = stage.check_as_nobody();
    drop(open);
    assert_eq!(report.status, 4, "{:?}", report.findings());
    let all = report.document["findings"].as_array().unwrap();
    assert!(all.iter().any(|row| row["id"] == "processes-unseen"), "{all:?}");
    // The same for people.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(ours());
    let output = command.args(["migrate", "check"]).arg(&stage.export).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("not known to be ready") && !said.contains("\nready"), "{said}");
}

#[test]
fn root_of_a_container_is_told_what_it_can_not_see() {
    let stage = Stage::new();
    let mut command = Command::new("setpriv");
    let report = Report::of(stage.words(command.arg("--bounding-set=-sys_admin"), &[ME]));
    report.says("not-privileged", &stage.export, "trusted.* attributes are not seen", 4);
}

#[test]
fn the_wrong_export_is_an_error_and_the_wrong_words_are_usage() {
    let stage = Stage::new();
    for (words, status) in [
        (&["/no/such/directory"][..], 1),
        (&["--owner=no-such-user", "/tmp"], 1),
        (&[], 2),
        (&["--format=nonsense", "/tmp"], 2),
        (&["--schema"], 0),
    ] {
        let output = Command::new(ours()).args(["migrate", "check"]).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {output:?}");
    }
    let file = stage.file("file");
    let output = Command::new(ours()).args(["migrate", "check"]).arg(file).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn names_of_any_byte_are_printed_safely() {
    use std::os::unix::ffi::OsStrExt;
    let stage = Stage::new();
    let odd = stage.export.join(OsStr::from_bytes(b"\x1b[31m\xff\n"));
    fs::write(&odd, "").unwrap();
    fs::hard_link(&odd, stage.scratch.path().join("outside")).unwrap();
    let output = Command::new(ours()).args(["migrate", "check", ME]).arg(&stage.export).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(r"/export/\x1b[31m\xff\x0a: warning: "), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

/// The text for people, as it stands in tests/golden/check.txt; numbers that are this filesystem's own are left out.
#[test]
fn the_text_is_as_agreed() {
    let stage = Stage::new();
    let file = stage.file("bin/tool");
    fs::hard_link(&file, stage.scratch.path().join("outside")).unwrap();
    std::os::unix::fs::symlink("tool", stage.export.join("bin/link")).unwrap();
    stage.tool(&["setfattr", "-n", "trusted.x", "-v", "1"], "bin");
    stage.tool(&["chmod", "4755"], "bin/tool");
    stage.tool(&["setcap", "cap_net_raw+ep"], "bin/tool");
    let output = Command::new(ours()).args(["migrate", "check", ME]).arg(&stage.export).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.replace(stage.scratch.path().to_str().unwrap(), "/srv");
    let mut lines = Vec::new();
    let mut skip = false;
    for line in text.lines() {
        // Who else runs on this machine, and the remedy below it.
        skip = line.ends_with("[processes-unseen]") || (skip && line.starts_with(' '));
        if skip {
            continue;
        }
        let line = if line.contains(" on ") && line.contains(" entries, ")
            || line.starts_with("  user xattrs: ")
            || line.starts_with("  cost: ")
            || line.starts_with("  a rollback needs ")
        {
            line.split_inclusive(' ')
                .map(|word| if word.starts_with(|c: char| c.is_ascii_digit()) { "N " } else { word })
                .collect()
        } else {
            line.to_owned()
        };
        // The number of infos is this machine's as well.
        lines.push(match line.split_once(" warnings, ") {
            Some((before, _)) => format!("{before} warnings"),
            None => line,
        });
    }
    // The file system of the temporary files is this machine's, too.
    let lines: Vec<_> = lines
        .iter()
        .map(|line| match (line.find(" on "), line.find(": N entries, ")) {
            (Some(start), Some(end)) => format!("{} on FS{}", &line[..start], &line[end..]),
            _ => line.clone(),
        })
        .collect();
    let text = lines.join("\n") + "\n";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(golden).unwrap());
}

/// MIGRATION.md has a table of what check and verify say: each row is a finding that exists, of that severity.
#[test]
fn the_documented_findings_are_those_that_there_are() {
    use virtfs_proxy_helper::internals::report::{KINDS, Severity};
    let page = include_str!("../../MIGRATION.md");
    let section = page.split_once("## What `check` and `verify` say").unwrap().1;
    let section = section.split_once("\n## ").unwrap().0;
    let mut documented = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.split(" | ");
        let id = cells.next().unwrap().trim_start_matches("| ").trim_matches('`');
        let severity = match cells.next().unwrap() {
            "error" => Severity::Error,
            "warning" => Severity::Warning,
            "info" => Severity::Info,
            other => panic!("{id}: {other}"),
        };
        let kind = KINDS.iter().find(|kind| kind.id == id).unwrap_or_else(|| panic!("there is no {id}"));
        assert_eq!(kind.severity, severity, "{id}");
        documented.push(id);
    }
    let source = [
        include_str!("../../src/data/added.rs"),
        include_str!("../../src/data/check/judgement.rs"),
        include_str!("../../src/data/check/earlier.rs"),
        include_str!("../../src/data/check/entries.rs"),
        include_str!("../../src/data/check/trial.rs"),
        include_str!("../../src/data/check/trial/subject.rs"),
        include_str!("../../src/data/verify.rs"),
        include_str!("../../src/data/verify/compare.rs"),
    ]
    .concat();
    for kind in KINDS {
        let name = format!("finding::{}", kind.id.replace('-', "_").to_uppercase());
        let is_said = source.match_indices(&name).any(|(at, _)| {
            !source[at + name.len()..].starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        });
        assert_eq!(documented.contains(&kind.id), is_said, "{}", kind.id);
    }
}
