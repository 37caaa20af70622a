//! `--output`, of every verb that has it: a regular file is replaced in one step, everything else is written into.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::program::ours;
use crate::run::write;

/// The verbs, with what they read in the folder.
const VERBS: &[&[&str]] = &[&["audit", "--exit-zero", "a.sh"], &["report", "--exit-zero", "host.json"]];

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.sh"), "qemu -virtfs proxy,id=f,mount_tag=t,socket=/run/a.sock\n");
    write(&dir.path().join("host.json"), "{\"schema\":1,\"shares\":[]}");
    dir
}

fn run(folder: &Path, verb: &[&str], output: &str, stdout: Stdio) -> Output {
    let mut command = Command::new(ours());
    command.arg("migrate").args(verb).args(["--output", output]).current_dir(folder);
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).output().unwrap()
}

/// What the verb prints without `--output`.
fn expected(folder: &Path, verb: &[&str]) -> String {
    let output = run(folder, verb, "-", Stdio::piped());
    assert!(output.status.success(), "{verb:?}: {output:?}");
    assert!(!folder.join("-").exists(), "{verb:?}: a file called -");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().count() > 2, "{text}");
    untimed(&text)
}

/// A document without the line that says when it was made.
fn untimed(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with("audited: ")).collect()
}

/// A document in a file, as [`expected`] has it.
fn read(file: &Path) -> String {
    untimed(&fs::read_to_string(file).unwrap())
}

#[test]
fn a_regular_file_or_a_free_name_is_replaced_in_one_step() {
    for verb in VERBS {
        let dir = folder();
        let said = expected(dir.path(), verb);
        assert!(run(dir.path(), verb, "new", Stdio::null()).status.success());
        assert_eq!(read(&dir.path().join("new")), said);

        let old = dir.path().join("old");
        fs::write(&old, "x".repeat(1 << 20)).unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o640)).unwrap();
        chown(&old, Some(1234), Some(1235)).unwrap();
        let before = fs::metadata(&old).unwrap();
        assert!(run(dir.path(), verb, "old", Stdio::null()).status.success());
        let after = fs::metadata(&old).unwrap();
        assert_eq!(read(&old), said);
        assert_ne!(before.ino(), after.ino(), "it was written in place");
        assert_eq!((after.mode() & 0o7777, after.uid(), after.gid()), (0o640, 1234, 1235));
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 4, "a temporary file is left");
    }
}

#[test]
fn links_devices_and_fifos_stay_what_they_are() {
    for verb in VERBS {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        let said = expected(dir.path(), verb);

        // A link to a file, to a name that is free, and to another link.
        fs::write(at("target"), "x".repeat(1 << 20)).unwrap();
        symlink("target", at("link")).unwrap();
        symlink(at("free"), at("dangling")).unwrap();
        symlink("link", at("second")).unwrap();
        for (link, target) in [("link", "target"), ("dangling", "free"), ("second", "target")] {
            assert!(run(dir.path(), verb, link, Stdio::null()).status.success(), "{link}");
            assert!(at(link).is_symlink(), "{link} was replaced");
            assert_eq!(read(&at(target)), said, "{link}");
        }

        // /dev/full and /dev/null, of our own.
        for (name, minor, status) in [("full", 7, 1), ("null", 3, 0)] {
            let mode = Mode::from_bits_truncate(0o666);
            mknod(&at(name), SFlag::S_IFCHR, mode, makedev(1, minor)).unwrap();
            let output = run(dir.path(), verb, name, Stdio::null());
            assert_eq!(output.status.code(), Some(status), "{name}: {output:?}");
            assert!(
                fs::symlink_metadata(at(name)).unwrap().file_type().is_char_device(),
                "{name} was replaced"
            );
        }

        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        let fifo = at("fifo");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            File::open(fifo).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        let output = run(dir.path(), verb, "fifo", Stdio::null());
        let is_fifo = fs::symlink_metadata(at("fifo")).unwrap().file_type().is_fifo();
        assert!(output.status.success() && is_fifo, "{output:?}");
        assert_eq!(untimed(&reader.join().unwrap()), said);

        for name in [".", "missing/file"] {
            assert_eq!(run(dir.path(), verb, name, Stdio::null()).status.code(), Some(1), "{name:?}");
        }
    }
}

/// `/dev/stdout` is a link to `/proc/self/fd/1`: what is in the file there already must stay.
#[test]
fn a_link_to_a_descriptor_is_that_descriptor() {
    for verb in VERBS {
        let dir = folder();
        let said = expected(dir.path(), verb);
        symlink("/proc/self/fd/1", dir.path().join("stdout")).unwrap();
        for name in ["stdout", "/proc/self/fd/1", "/dev/fd/1"] {
            let log = dir.path().join("log");
            fs::write(&log, "before\n").unwrap();
            let appending = File::options().append(true).open(&log).unwrap();
            assert!(run(dir.path(), verb, name, appending.into()).status.success(), "{name}");
            assert_eq!(read(&log), format!("before\n{said}"), "{name}");
        }
        assert!(dir.path().join("stdout").is_symlink());
    }
}

#[test]
fn a_file_that_is_mounted_is_written_into() {
    let dir = folder();
    fs::write(dir.path().join("outside"), "").unwrap();
    fs::write(dir.path().join("inside"), "").unwrap();
    let script = "mount --bind outside inside && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]).arg(ours());
    command.args(["migrate", "audit", "--exit-zero", "a.sh", "-o", "inside"]).current_dir(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(read(&dir.path().join("outside")), expected(dir.path(), VERBS[0]));
}
