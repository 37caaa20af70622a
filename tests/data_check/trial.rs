//! `migrate check --as`, `--pid`, `--unit`, `--domain`: the try, made for real. Needs root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const GAMES: u32 = 5;

struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let export = folder.path().join("export");
        fs::create_dir(&export).unwrap();
        fs::write(export.join("a"), "a").unwrap();
        Self { folder }
    }

    fn export(&self) -> PathBuf {
        self.folder.path().join("export")
    }

    fn owned(self) -> Self {
        chown(self.export(), Some(GAMES), Some(60)).unwrap();
        chown(self.export().join("a"), Some(GAMES), Some(60)).unwrap();
        fs::set_permissions(self.export(), fs::Permissions::from_mode(0o700)).unwrap();
        self
    }

    /// The messages of a try's findings, with their ids in front.
    fn tried(&self, options: &[&str]) -> Vec<String> {
        let before = fs::metadata(self.export()).unwrap();
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        let output = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"))
            .args(["migrate", "check", "--format", "json"])
            .args(options)
            .arg(self.export())
            .env("PATH", path)
            .output()
            .unwrap();
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let names: Vec<_> =
            fs::read_dir(self.export()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a"]);
        let after = fs::metadata(self.export()).unwrap();
        assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
        let ids = ["export-tried", "export-unusable", "export-usable-later", "confinement-not-tried"];
        let findings = document["findings"].as_array().unwrap().iter();
        findings
            .filter(|row| ids.contains(&row["id"].as_str().unwrap()))
            .map(|row| format!("{}: {}", row["id"].as_str().unwrap(), row["message"].as_str().unwrap()))
            .collect()
    }

    fn script(&self, name: &str, text: &str) {
        let file = self.folder.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A process that sleeps among mounts of its own.
struct Sleeper(Child);

impl Sleeper {
    fn new(unshare: &[&str], mounts: &str) -> Self {
        let ready = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "set -e\n{mounts}\necho ready >{}\nexec setpriv --reuid=5 --regid=60 --clear-groups sleep 600",
            ready.path().display()
        );
        let sleeper = Self(
            Command::new("unshare")
                .args(unshare)
                .args(["sh", "-c", &text])
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let is_there = |child: &Child| {
            let name = fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap_or_default();
            fs::read(ready.path()).is_ok_and(|text| !text.is_empty()) && name.trim() == "sleep"
        };
        for _ in 0..6000 {
            if is_there(&sleeper.0) {
                return sleeper;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("it did not begin to sleep")
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn one(found: &[String], id: &str, part: &str) {
    assert!(found.len() == 1 && found[0].starts_with(id) && found[0].contains(part), "{found:?}");
}

#[test]
fn a_user_tries_it() {
    one(&Stage::new().owned().tried(&["--as", "games"]), "export-tried", "it was tried");
    one(&Stage::new().tried(&["--as", "root"]), "export-tried", "");
    one(&Stage::new().tried(&["--as", "games"]), "export-usable-later", "belongs to 0:0");
    one(&Stage::new().tried(&["--as", "games", "--read-only"]), "export-tried", "enter and read the export:");
    let barred = Stage::new().owned();
    fs::set_permissions(barred.folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    one(&barred.tried(&["--as", "games"]), "export-unusable", "EACCES");
    let file = Stage::new();
    fs::set_permissions(file.export(), fs::Permissions::from_mode(0o700)).unwrap();
    one(&file.tried(&["--as", "games"]), "export-usable-later", "more can't be tried yet");
    one(&file.tried(&["--as", "games", "--read-only"]), "export-unusable", "can't enter the export");
}

#[test]
fn a_process_tries_it_among_its_mounts() {
    let stage = Stage::new().owned();
    let export = stage.export();
    let shown = export.display();
    let plain = Sleeper::new(&["-m"], "true");
    one(&stage.tried(&["--pid", &plain.pid()]), "export-tried", "as 5:60");
    let locked =
        Sleeper::new(&["-m"], &format!("mount --bind {shown} {shown}; mount -o remount,bind,ro {shown}"));
    one(&stage.tried(&["--pid", &locked.pid()]), "export-unusable", "EROFS");
    one(&stage.tried(&["--pid", &locked.pid(), "--read-only"]), "export-tried", "");
    let hidden = Sleeper::new(&["-m"], "mount -t tmpfs none /var/tmp");
    one(&stage.tried(&["--pid", &hidden.pid()]), "export-unusable", "can't see the export");
    let elsewhere = Sleeper::new(
        &["-m"],
        &format!("mount --bind {} /mnt; mount -t tmpfs none /var/tmp", stage.folder.path().display()),
    );
    one(&stage.tried(&["--pid", &elsewhere.pid()]), "export-tried", "as 5:60");
    // Nothing is left in this namespace's view either.
    assert_eq!(fs::read_dir(stage.folder.path()).unwrap().count(), 1);
}

#[test]
fn files_in_the_export_are_tried() {
    let stage = Stage::new().owned();
    chown(stage.export().join("a"), Some(0), Some(0)).unwrap();
    fs::set_permissions(stage.export().join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    one(
        &stage.tried(&["--as", "games", "--read-only"]),
        "export-unusable",
        "can't read a in the export: EACCES",
    );
    one(&stage.tried(&["--as", "games"]), "export-unusable", "can't read and write a in the export: EACCES");
    fs::set_permissions(stage.export().join("a"), fs::Permissions::from_mode(0o644)).unwrap();
    one(&stage.tried(&["--as", "games", "--read-only"]), "export-tried", "");
    one(&stage.tried(&["--as", "games"]), "export-unusable", "can't read and write a");
    chown(stage.export().join("a"), Some(GAMES), Some(60)).unwrap();
    one(&stage.tried(&["--as", "games"]), "export-tried", "");
}

#[test]
fn a_process_without_proc_can_set_no_attribute() {
    let stage = Stage::new().owned();
    let sleeper = Sleeper::new(&["-m"], "mount -t tmpfs none /proc");
    one(&stage.tried(&["--pid", &sleeper.pid()]), "export-unusable", "can't find /proc");
}

#[test]
fn the_unit_of_a_script_is_tried_as_its_qemu() {
    let stage = Stage::new().owned();
    // A script as root, whose QEMU is another user's.
    fs::copy("/bin/sleep", stage.folder.path().join("qemu-system-x")).unwrap();
    let program = stage.folder.path().join("qemu-system-x");
    let start =
        format!("setpriv --reuid=1 --regid=1 --clear-groups {} 600 & echo $!; wait", program.display());
    let mut script = Command::new("sh").args(["-c", &start]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(script.stdout.as_mut().unwrap()), &mut line)
        .unwrap();
    let qemu: i32 = line.trim().parse().unwrap();
    for _ in 0..6000 {
        if fs::read_to_string(format!("/proc/{qemu}/comm")).is_ok_and(|comm| comm.starts_with("qemu")) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    stage
        .script("systemctl", &format!("echo LoadState=loaded; echo MainPID={}; echo User=root", script.id()));
    let found = stage.tried(&["--unit", "vm.service"]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(qemu), nix::sys::signal::Signal::SIGKILL).unwrap();
    script.wait().unwrap();
    one(&found, "export-usable-later", &format!("(process {qemu}), as 1:1"));
}

#[test]
fn a_unit_and_a_domain_are_looked_up() {
    let stage = Stage::new().owned();
    let sleeper = Sleeper::new(&["-m"], &format!("mount -t tmpfs none {}", stage.export().display()));
    stage.script(
        "systemctl",
        &format!("echo LoadState=loaded; echo MainPID={}; echo User=games", sleeper.pid()),
    );
    let found = stage.tried(&["--unit", "vm.service"]);
    assert!(
        found.iter().any(|one| one.starts_with("export-unusable") && one.contains("the unit vm.service")),
        "{found:?}"
    );
    assert!(found.iter().any(|one| one.contains("is sleep, and no QEMU runs below it")), "{found:?}");
    stage.script("systemctl", "echo LoadState=loaded; echo MainPID=0; echo User=games");
    let found = stage.tried(&["--unit", "vm.service"]);
    assert!(
        found.len() == 2 && found[0].contains("does not run") && found[1].starts_with("export-tried"),
        "{found:?}"
    );
    stage.script("virsh", "echo \"<domain><seclabel model='dac'><label>+5:+60</label></seclabel></domain>\"");
    let found = stage.tried(&["--domain", "no-such-domain-runs"]);
    assert!(found.iter().any(|one| one.starts_with("export-tried")), "{found:?}");
}

#[test]
fn who_is_not_there_is_an_error() {
    let stage = Stage::new();
    stage.script("systemctl", "echo LoadState=not-found; echo MainPID=0");
    stage.script("virsh", "echo 'no domain' >&2; exit 1");
    for options in [["--as", "no-such-user"], ["--unit", "x"], ["--domain", "x"], ["--pid", "4194304"]] {
        let path = format!("{}:{}", stage.folder.path().display(), std::env::var("PATH").unwrap());
        let output = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"))
            .args(["migrate", "check"])
            .args(options)
            .arg(stage.export())
            .env("PATH", path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{options:?}");
    }
}
