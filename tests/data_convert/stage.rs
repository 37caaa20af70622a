//! An export in a scratch directory, and the program at work on it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::disk::Disk;
use crate::{knot, snapshot};

/// Says to a process that it runs one test alone.
const ALONE: &str = "VIRTFS_TEST_ALONE";

/// Runs the calling test in a process of its own, and returns `true`; in that process it returns `false`, and the test goes on.
///
/// What another test starts holds copies of this process's descriptors until it executes, and an export that was just looked at
/// would seem to be in use.
#[must_use]
#[track_caller]
pub fn elsewhere() -> bool {
    if std::env::var_os(ALONE).is_some() {
        return false;
    }
    let thread = std::thread::current();
    let name = thread.name().expect("the test's name");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("this program again");
    let said = said(&output);
    assert!(output.status.success() && said.contains("1 passed"), "in a process of its own:\n{said}");
    true
}

/// QEMU's user in these tests.
pub const OWNER: &str = "--owner=64055:64056";

/// The mapped models.
pub const MODELS: [&str; 2] = ["mapped-xattr", "mapped-file"];

/// An export.
pub struct Stage {
    place: Place,
}

enum Place {
    Scratch(TempDir),
    Disks(Disks),
}

/// File systems of their own.
pub struct Disks {
    /// The export's.
    pub export: Disk,
    /// The journal's, unless it is on the export's.
    pub journal: Option<Disk>,
}

impl Disks {
    pub fn each(&self) -> impl Iterator<Item = &Disk> {
        self.journal.iter().chain([&self.export])
    }
}

impl Stage {
    /// An export that does not exist yet, beside which there is room for a journal.
    pub fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests convert trees with owners, devices and capabilities: run them as root"
        );
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(scratch.path(), open).expect("a mode");
        Self { place: Place::Scratch(scratch) }
    }

    /// One on file systems of its own.
    pub fn on(disks: Disks) -> Self {
        Self { place: Place::Disks(disks) }
    }

    /// One on a file system in memory: most of a conversion's time is waiting for the disk.
    pub fn in_memory() -> Self {
        Self::on(Disks { export: Disk::format("ext4", 12, "noatime"), journal: None })
    }

    /// One in memory that holds a [`knot`].
    pub fn knotted() -> Self {
        let stage = Self::in_memory();
        knot::tie(&stage.export());
        stage
    }

    /// One that holds the gnarly tree.
    pub fn gnarly(model: &str) -> Self {
        let stage = Self::new();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gnarly-tree");
        let status = Command::new(script).arg(stage.export()).arg(model).status().expect("tests/gnarly-tree");
        assert!(status.success(), "tests/gnarly-tree failed");
        stage
    }

    pub fn folder(&self) -> PathBuf {
        match &self.place {
            Place::Scratch(scratch) => scratch.path().to_owned(),
            Place::Disks(disks) => disks.export.root(),
        }
    }

    /// The file systems that it is on.
    pub fn disks(&self) -> &Disks {
        match &self.place {
            Place::Scratch(_) => panic!("this stage has no file system of its own"),
            Place::Disks(disks) => disks,
        }
    }

    pub fn export(&self) -> PathBuf {
        self.folder().join("export")
    }

    pub fn journal(&self) -> PathBuf {
        match &self.place {
            Place::Disks(Disks { journal: Some(disk), .. }) => disk.root().join("journal"),
            _ => self.folder().join("export.virtfs-journal"),
        }
    }

    pub fn snapshot(&self) -> String {
        snapshot::snapshot(&self.export())
    }

    /// `migrate VERB EXPORT`, without progress.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
        command.args(["migrate", verb]).arg(self.export()).stdin(Stdio::null());
        if matches!(&self.place, Place::Disks(Disks { journal: Some(_), .. })) && verb != "manifest" {
            command.arg("--journal").arg(self.journal());
        }
        command
    }

    /// `migrate convert EXPORT --apply` to a model.
    pub fn convert(&self, model: &str) -> Command {
        let mut command = self.command("convert");
        command.args([OWNER, "--apply", "--progress=never", "--security-model", model]);
        command.args(knot::ACCEPT).arg("--accept=acl-owner-rights");
        command
    }

    pub fn rollback(&self) -> Command {
        let mut command = self.command("rollback");
        command.args(["--apply", "--progress=never"]);
        command
    }

    /// `migrate manifest EXPORT`.
    pub fn manifest(&self, form: &str) -> String {
        let mut command = self.command("manifest");
        command.args(["--as", form, "--atime"]);
        success(&mut command)
    }

    /// Panics unless `migrate verify` finds no difference.
    #[track_caller]
    pub fn verify(&self, what: &str) {
        let output = self.command("verify").output().expect("migrate verify");
        assert!(
            output.status.code() == Some(0),
            "{what}: migrate verify finds differences\n{}",
            said(&output)
        );
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let export = self.export();
        for knot in [export.join("added"), export.clone()] {
            if matches!(self.place, Place::Scratch(_)) && knot.join("fixed").exists() {
                knot::untie(&knot);
            }
        }
    }
}

/// The output of a command that ended with 0.
#[track_caller]
pub fn success(command: &mut Command) -> String {
    ended(command, 0)
}

/// What a command that ended with `status` said.
#[track_caller]
pub fn ended(command: &mut Command, status: i32) -> String {
    let output = command.output().expect("the program");
    let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(status), "{}\n{said}", arguments.join(" "));
    said
}

fn said(output: &Output) -> String {
    [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat()
}
