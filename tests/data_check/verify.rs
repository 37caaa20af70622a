//! `migrate verify`: a clean conversion has no differences, and each kind of damage is found and named.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::program::{ours, scratch};

/// A small export with one entry of each sort.
struct Stage {
    scratch: tempfile::TempDir,
    export: PathBuf,
}

impl Stage {
    fn plain(scratch: tempfile::TempDir, export: PathBuf) -> Self {
        fs::create_dir_all(export.join("dir/sub")).unwrap();
        for name in ["file", "dir/file", "dir/sub/file"] {
            fs::write(export.join(name), name).unwrap();
        }
        fs::hard_link(export.join("file"), export.join("dir/linked")).unwrap();
        std::os::unix::fs::symlink("target", export.join("link")).unwrap();
        let stage = Self { scratch, export };
        stage.tool(&["mknod", "%device", "c", "1", "3"]);
        stage.tool(&["chmod", "4755", "%dir/file"]);
        stage.tool(&["setfacl", "-m", "u:7:rw", "%dir/sub/file"]);
        stage.tool(&["setfattr", "-n", "user.a", "-v", "1", "%dir/sub/file"]);
        stage
    }

    /// A converted export of which all times were known before.
    fn settled(model: &str) -> Self {
        let scratch = scratch();
        let export = scratch.path().join("export");
        let stage = Self::plain(scratch, export);
        for name in ["dir/file", "dir/sub/file", "file", "link", "device", "dir/sub", "dir", ""] {
            stage.tool(&["touch", "-h", "-d", "@100.5", &format!("%{name}")]);
        }
        stage.migrate(&["convert", "--apply", "--owner=12345:54321", "--security-model", model]);
        stage
    }

    /// Runs a step that must succeed.
    fn migrate(&self, words: &[&str]) {
        let mut command = Command::new(ours());
        command.arg("migrate").args(words).arg("--progress=never").arg(&self.export);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.export.join(name), text).unwrap();
    }

    /// Runs a tool; a word that starts with % is a path in the export.
    fn tool(&self, words: &[&str]) {
        let words: Vec<_> = words
            .iter()
            .map(|word| match word.strip_prefix('%') {
                Some(path) => self.export.join(path).into_os_string(),
                None => (*word).into(),
            })
            .collect();
        let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// Verifies: the findings (id, file in the export, message), the number of differences, the exit status.
    fn verify(&self) -> (Vec<(String, String, String)>, u64, i32) {
        let output = Command::new(ours())
            .args(["migrate", "verify", "--format=json"])
            .arg(&self.export)
            .output()
            .unwrap();
        let document: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let prefix = format!("{}/", self.export.display());
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let findings = document["findings"].as_array().unwrap().iter().map(|row| {
            let file = text(row, "file");
            let file = file.strip_prefix(&prefix).unwrap_or(&file).to_owned();
            (text(row, "id"), file, text(row, "message"))
        });
        (findings.collect(), document["differences"].as_u64().unwrap(), output.status.code().unwrap())
    }

    /// Asserts that verify finds exactly this.
    #[track_caller]
    fn finds(&self, expected: &[(&str, &str, &str)]) {
        let (mut findings, differences, status) = self.verify();
        // What another program added or gave another owner is counted besides.
        let is_added = |(id, _, message): &&(&str, &str, &str)| {
            *id == "entry-unusable" && (message.contains("belongs to") || message.contains("no mapped model"))
        };
        let counted = findings.len();
        findings.retain(|(id, ..)| id != "added-on-host");
        assert_eq!(counted - findings.len(), usize::from(expected.iter().any(|found| is_added(&found))));
        let short: Vec<_> = findings
            .iter()
            .map(|(id, file, message)| (id.as_str(), file.as_str(), message.as_str()))
            .collect();
        assert_eq!(short, expected);
        assert_eq!((differences, status), (expected.len() as u64, if expected.is_empty() { 0 } else { 3 }));
    }
}

/// Damage that is the same in both models: the tool that does it, and what is found.
type Case<'c> = (&'c [&'c str], &'c [(&'c str, &'c str, &'c str)]);

const IN_BOTH: &[Case<'_>] = &[
    (&["true"], &[]),
    (
        &["touch", "-d", "@5.25", "%dir/file"],
        &[
            (
                "entry-differs",
                "dir/file",
                "its time of access is 1970-01-01 00:00:05.250000000 UTC instead of 1970-01-01 00:01:40.500000000 UTC",
            ),
            (
                "entry-differs",
                "dir/file",
                "its time of modification is 1970-01-01 00:00:05.250000000 UTC instead of 1970-01-01 00:01:40.500000000 UTC",
            ),
        ],
    ),
    (
        &["chown", "1", "%dir/file"],
        &[("entry-unusable", "dir/file", "on disk it belongs to 1 instead of 12345")],
    ),
    (
        &["chmod", "400", "%dir/file"],
        &[("entry-unusable", "dir/file", "on disk its mode is 0400: its owner can't use it")],
    ),
    (
        &["chmod", "4600", "%dir/file"],
        &[("entry-unusable", "dir/file", "on disk its mode is 4600, with a set-id bit of QEMU's user")],
    ),
    (
        &["setfattr", "-n", "user.a", "-v", "2", "%dir/sub/file"],
        &[("entry-differs", "dir/sub/file", "its attribute user.a has another value")],
    ),
    (
        &["setfattr", "-x", "user.a", "%dir/sub/file"],
        &[("entry-differs", "dir/sub/file", "its attribute user.a is gone")],
    ),
    (
        &["setfattr", "-n", "user.b", "-v", "2", "%dir/sub/file"],
        &[("entry-differs", "dir/sub/file", "its attribute user.b is new")],
    ),
];

#[test]
fn every_damage_is_found_in_both_models() {
    for model in ["mapped-xattr", "mapped-file"] {
        for (damage, expected) in IN_BOTH {
            let stage = Stage::settled(model);
            stage.tool(damage);
            stage.finds(expected);
        }
    }
}

#[test]
fn what_mapped_xattr_keeps_is_compared() {
    let xattr = |name, value, file| ["setfattr", "-n", name, "-v", value, file];
    for (damage, file, message) in [
        (xattr("user.virtfs.uid", "0x07000000", "%dir/file"), "dir/file", "its owner is 7 instead of 0"),
        (xattr("user.virtfs.gid", "0x07000000", "%dir/file"), "dir/file", "its group is 7 instead of 0"),
        (
            xattr("user.virtfs.mode", "0xa4810000", "%dir/file"),
            "dir/file",
            "its mode is 0644 instead of 4755",
        ),
        (
            xattr("user.virtfs.rdev", "0x0501000000000000", "%device"),
            "device",
            "its device number is 1:5 instead of 1:3",
        ),
        (
            xattr("user.virtfs.system.posix_acl_access", "0x02000000", "%dir/sub/file"),
            "dir/sub/file",
            "its ACL is  instead of user::rw-,user:7:rw-,group::r--,mask::rw-,other::r--",
        ),
    ] {
        let stage = Stage::settled("mapped-xattr");
        stage.tool(&damage);
        stage.finds(&[("entry-differs", file, message)]);
    }
    let stage = Stage::settled("mapped-xattr");
    stage.tool(&["setfattr", "-x", "user.virtfs.mode", "%link"]);
    let (findings, ..) = stage.verify();
    assert!(findings.iter().any(|finding| finding.2 == "its type is regular file instead of symbolic link"));
}

#[test]
fn a_real_acl_on_a_converted_entry_is_found() {
    let stage = Stage::settled("mapped-xattr");
    // The mode stays what it was.
    stage.tool(&["setfacl", "-m", "u:4321:r,m::---", "%dir/file"]);
    stage.tool(&["setfacl", "-m", "d:u:4321:rwx", "%dir/sub"]);
    stage.finds(&[
        (
            "entry-exposed",
            "dir/file",
            "on disk it has an ACL, user::rw-,user:4321:r--,group::---,mask::---,other::---",
        ),
        (
            "entry-exposed",
            "dir/sub",
            "on disk it has a default ACL, user::rwx,user:4321:rwx,group::---,mask::rwx,other::---",
        ),
    ]);
    // Under mapped-file the guest sees the real one.
    let stage = Stage::settled("mapped-file");
    stage.tool(&["setfacl", "-m", "u:4321:r,m::---", "%dir/file"]);
    let message = "its ACL is user::rw-,user:4321:r--,group::---,mask::---,other::--- instead of none";
    stage.finds(&[("entry-differs", "dir/file", message)]);
}

#[test]
fn what_mapped_file_keeps_is_compared() {
    let stage = Stage::settled("mapped-file");
    stage.write("dir/.virtfs_metadata/file", "virtfs.uid=7\nvirtfs.gid=0\nvirtfs.mode=35309\n");
    stage.finds(&[("entry-differs", "dir/file", "its owner is 7 instead of 0")]);
    fs::remove_file(stage.export.join("dir/.virtfs_metadata/file")).unwrap();
    stage.finds(&[
        ("entry-differs", "dir/file", "its group is 54321 instead of 0"),
        ("entry-differs", "dir/file", "its mode is 0600 instead of 4755"),
        ("entry-differs", "dir/file", "its owner is 12345 instead of 0"),
    ]);
}

#[test]
fn what_is_gone_new_or_replaced_is_named() {
    let stage = Stage::settled("mapped-xattr");
    let keep_times = |what: &dyn Fn()| {
        what();
        settle_folders(&stage);
    };
    keep_times(&|| fs::write(stage.export.join("dir/new"), "").unwrap());
    let new = |name| ("entry-new", name, "the journal does not know it: it was made since");
    stage.finds(&[
        (
            "entry-unusable",
            "dir/new",
            "it was not converted, for it was made since: on disk it belongs to 0 instead of 12345",
        ),
        new("dir/new"),
    ]);
    // As QEMU makes it for the guest.
    keep_times(&|| chown(stage.export.join("dir/new"), Some(12345), Some(54321)).unwrap());
    stage.finds(&[new("dir/new")]);
    // And a whole folder by somebody else.
    keep_times(&|| {
        fs::create_dir(stage.export.join("dir/added")).unwrap();
        chown(stage.export.join("dir/added"), Some(12345), Some(54321)).unwrap();
        std::os::unix::fs::symlink("target", stage.export.join("dir/added/link")).unwrap();
    });
    stage.finds(&[
        new("dir/added"),
        (
            "entry-unusable",
            "dir/added/link",
            "it was not converted, for it was made since: on disk it is a symbolic link, which no mapped model can use",
        ),
        new("dir/new"),
    ]);
    keep_times(&|| fs::remove_dir_all(stage.export.join("dir/added")).unwrap());
    keep_times(&|| fs::rename(stage.export.join("dir/new"), stage.export.join("dir/sub/file")).unwrap());
    let (findings, ..) = stage.verify();
    assert!(findings.iter().all(|finding| finding.1 == "dir/sub/file"), "{findings:?}");
    keep_times(&|| fs::remove_file(stage.export.join("dir/sub/file")).unwrap());
    stage.finds(&[("entry-missing", "dir/sub/file", "it is gone, or something else has its name")]);
    fs::remove_dir_all(stage.export.join("dir/sub")).unwrap();
    settle_folders(&stage);
    stage.finds(&[("entry-missing", "dir/sub", "it is gone, or something else has its name")]);
}

/// Undoes what changes of names do to the times of folders.
fn settle_folders(stage: &Stage) {
    for name in ["dir/sub", "dir", ""] {
        let path = stage.export.join(name);
        if path.exists() {
            stage.tool(&["touch", "-d", "@100.5", &format!("%{name}")]);
        }
    }
}

#[test]
fn reading_is_told_and_is_no_difference() {
    let stage = Stage::settled("mapped-xattr");
    stage.tool(&["touch", "-a", "%dir/file"]);
    stage.tool(&["touch", "-a", "%dir/sub/file"]);
    let (findings, differences, status) = stage.verify();
    let read = ("entry-read".into(), "dir/file".into(), "it was read since (and 1 more entry)".into());
    assert_eq!((findings, differences, status), (vec![read], 0, 0));
}

#[test]
fn names_of_one_file_must_stay_names_of_one_file() {
    let stage = Stage::settled("mapped-xattr");
    stage.tool(&["cp", "-a", "%dir/linked", "%dir/copy"]);
    fs::rename(stage.export.join("dir/copy"), stage.export.join("dir/linked")).unwrap();
    settle_folders(&stage);
    let (findings, _, status) = stage.verify();
    assert_eq!(status, 3);
    let about = |file: &str, message: &str| {
        findings.iter().any(|finding| finding.1 == file && finding.2.contains(message))
    };
    assert!(about("file", "number of links is 1 instead of 2"), "{findings:?}");
    assert!(
        about("file", "no link to the same file") || about("dir/linked", "no link to the same file"),
        "{findings:?}"
    );
}

#[test]
fn a_real_link_or_device_on_disk_is_of_no_use() {
    let stage = Stage::settled("mapped-xattr");
    fs::remove_file(stage.export.join("link")).unwrap();
    std::os::unix::fs::symlink("target", stage.export.join("link")).unwrap();
    chown(stage.export.join("dir"), Some(12345), Some(54321)).unwrap();
    stage.tool(&["touch", "-h", "-d", "@100.5", "%link"]);
    settle_folders(&stage);
    let (findings, ..) = stage.verify();
    let unusable = ("entry-unusable", "link", "on disk it is a symbolic link, which no mapped model can use");
    assert!(
        findings.iter().any(|(id, file, message)| (id.as_str(), file.as_str(), message.as_str()) == unusable),
        "{findings:?}"
    );
}

#[test]
fn a_door_that_is_closed_to_the_owner_is_found() {
    let stage = Stage::settled("mapped-xattr");
    fs::set_permissions(stage.scratch.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let (findings, differences, status) = stage.verify();
    assert_eq!((findings.len(), differences, status), (1, 0, 3));
    assert_eq!((findings[0].0.as_str(), Path::new(&findings[0].1)), ("owner-kept-out", stage.scratch.path()));
}

#[test]
fn without_its_journal_or_with_another_ones_nothing_is_proved() {
    let stage = Stage::settled("mapped-xattr");
    let verify = |words: &[&str]| {
        let output = Command::new(ours()).args(["migrate", "verify"]).args(words).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let other = Stage::plain(scratch(), stage.scratch.path().join("other"));
    let (status, said) = verify(&[other.export.to_str().unwrap()]);
    assert!(status == 1 && said.contains("journal"), "{said}");
    let journal = format!("--journal={}.virtfs-journal", stage.export.display());
    let (status, said) = verify(&[&journal, other.export.to_str().unwrap()]);
    assert!(status == 1 && said.contains("of another directory"), "{said}");
    let (status, said) = verify(&[&journal, stage.export.to_str().unwrap()]);
    assert_eq!((status, said.as_str()), (0, ""));
    let (status, _) = verify(&[]);
    assert_eq!(status, 2);
}

#[test]
fn a_rollback_is_proved_with_attributes_of_every_namespace() {
    for model in ["mapped-xattr", "mapped-file"] {
        let scratch = scratch();
        let export = scratch.path().join("export");
        let stage = Stage::plain(scratch, export);
        stage.tool(&["setcap", "cap_net_raw+ep", "%file"]);
        stage.tool(&["setfattr", "-n", "trusted.x", "-v", "1", "%dir"]);
        let accept = "--accept=xattr-lost";
        stage.migrate(&["convert", "--apply", "--owner=12345:54321", accept, "--security-model", model]);
        stage.finds(&[]);
        stage.migrate(&["rollback", "--apply"]);
        stage.finds(&[]);
        stage.tool(&["setfattr", "-x", "trusted.x", "%dir"]);
        stage.finds(&[("entry-differs", "dir", "its attribute trusted.x is gone")]);
    }
}
