//! The promise itself: a real guest sees the same through the proxy, through `local` + mapped after a conversion, and
//! through the proxy again after a rollback, with what it did in between.
//!
//! A boot is dear, so each guest has two exports: one is converted to mapped-xattr, the other to mapped-file.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::guest::Guest;
use crate::program::{Launch, Running, ours, scratch, wait_until};

mod virtiofs;

#[path = "../support/guest.rs"]
mod guest;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/wire.rs"]
mod wire;

const MANIFEST: &str = include_str!("../guest/manifest.sh");
const WORK: &str = include_str!("../guest/work-mapped.sh");
const ADOPT: &str = include_str!("../guest/adopt.sh");
const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gnarly-tree");

/// Who QEMU runs as: an ordinary user that owns nothing of the tree.
const QEMU_USER: &str = "games";

/// The exports and what each is converted to.
const MODELS: [(&str, &str); 2] = [("x", "mapped-xattr"), ("f", "mapped-file")];

/// What separates the manifests of the two exports.
const CUT: &str = "==== end of manifest ====";

/// Attributes that the proxy passes to the guest and no mapped model does.
const LOST: [&str; 2] = ["security.", "trusted."];

struct Stage {
    scratch: tempfile::TempDir,
}

impl Stage {
    /// Two gnarly trees of a size that a guest can list in a while.
    fn new() -> Self {
        let stage = Self { scratch: scratch() };
        for (tag, _) in MODELS {
            let export = stage.export(tag);
            done(Command::new(TREE).arg(&export));
            // The proxy's protocol carries whole paths: what is beyond PATH_MAX no guest ever saw.
            let deep = (0..30).fold(export.join("deep"), |path, _| path.join("e".repeat(90)));
            fs::remove_dir_all(deep).unwrap();
            // What is there in numbers, is there for other tests.
            for number in 10..=2500 {
                for name in ["wide/file", "wide/link", "wide/folder", "hard-links/b/"] {
                    let dash = if name.ends_with('/') { "" } else { "-" };
                    let path = export.join(format!("{name}{dash}{number}"));
                    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
                }
            }
        }
        // mapped-file has no room for this number, and `migrate check` says so.
        fs::remove_file(stage.export("f").join("special/largest")).unwrap();
        stage
    }

    fn export(&self, tag: &str) -> PathBuf {
        self.scratch.path().join(tag)
    }

    /// Runs a step of the migration on both exports.
    fn migrate(&self, step: &str, options: impl Fn(&str) -> Vec<String>) {
        for (tag, model) in MODELS {
            done(Command::new(ours()).args(["migrate", step]).arg(self.export(tag)).args(options(model)));
        }
    }

    /// What a guest sees of both exports through the proxy.
    fn through_proxy(&self) -> [Manifest; 2] {
        let mut helpers = Vec::new();
        let guest = MODELS.iter().fold(Guest::new(), |guest, (tag, _)| {
            let socket = self.scratch.path().join(format!("{tag}.socket"));
            helpers.push(listening(&Launch::new(&ours(), &self.export(tag)), &socket));
            guest.share(tag, format!("proxy,socket={}", socket.display()))
        });
        let answer = guest.mount_options("posixacl").script(script("")).run().success();
        for helper in &mut helpers {
            assert!(helper.wait().success(), "{}", helper.log());
        }
        let [x, f] = manifests(&answer);
        [x, f]
    }

    /// Adds to both exports while a guest runs, and adopts that.
    fn add_and_adopt(&self, guest: &mut guest::Booted) {
        let first = self.export("x");
        let mut appears = |name: &str| {
            while !first.join(name).exists() {
                assert!(guest.is_alive(), "the guest ended before it made {name}: {}", guest.stdout());
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        };
        appears("ready");
        for (tag, _) in MODELS {
            add(&self.export(tag).join("added"));
        }
        fs::write(first.join("all-added"), "").unwrap();
        appears("tried");
        self.migrate("convert", |_| vec!["--adopt".into(), "--apply".into(), "--progress=never".into()]);
        fs::write(first.join("all-adopted"), "").unwrap();
    }

    /// What a guest sees of both exports through `local`, QEMU being an ordinary user, and what it sees after its work.
    fn through_local(&self) -> [Manifest; 4] {
        let guest = MODELS.iter().fold(Guest::new(), |guest, (tag, model)| {
            guest.share(tag, format!("local,path={},security_model={model}", self.export(tag).display()))
        });
        let work = "for tag in x f; do FOLDER=/mnt/$tag; (work) || exit 1; done";
        let adopt = "FOLDERS='/mnt/x /mnt/f'; (adopted) || exit 1";
        let script = format!("{}\n{WORK}\n{ADOPT}\n{work}\n{adopt}\n{}", script(""), script(""));
        let mut guest = guest.user(QEMU_USER).mount_options("posixacl").script(script).start();
        self.add_and_adopt(&mut guest);
        manifests(&guest.wait().success())
    }
}

/// A folder that the host adds.
fn add(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (name, mode, owner) in [("file", 0o640, (1234, 1235)), ("second", 0o600, (0, 0))] {
        fs::write(folder.join(name), "by the host\n").unwrap();
        fs::set_permissions(folder.join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::lchown(folder.join(name), Some(owner.0), Some(owner.1)).unwrap();
    }
    std::os::unix::fs::symlink("../somewhere", folder.join("link")).unwrap();
    std::os::unix::fs::lchown(folder.join("link"), Some(77), Some(78)).unwrap();
    done(Command::new("mknod").arg(folder.join("null")).args(["c", "1", "3"]));
}

/// A script that prints the manifest of both exports.
fn script(before: &str) -> String {
    let each = |tag| format!("manifest /mnt/{tag}\necho '{CUT}'");
    format!("{MANIFEST}\n{before}\n{}\n{}", each("x"), each("f"))
}

fn listening(launch: &Launch, socket: &Path) -> Running {
    let helper = launch.by_socket(socket);
    wait_until("the socket", || socket.exists());
    helper
}

/// Runs a command that must succeed.
fn done(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("a command");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// What a guest said about a tree.
struct Manifest {
    /// Every line but those of attributes that are lost.
    lines: BTreeSet<String>,
    /// How many attributes of each name no mapped model passes.
    lost: BTreeMap<String, usize>,
}

fn manifests<const N: usize>(answer: &str) -> [Manifest; N] {
    let texts: Vec<_> = answer.split(&format!("{CUT}\n")).filter(|text| !text.is_empty()).collect();
    assert_eq!(texts.len(), N, "{answer}");
    std::array::from_fn(|number| Manifest::of(texts[number]))
}

impl Manifest {
    fn of(text: &str) -> Self {
        let mut manifest = Self { lines: BTreeSet::new(), lost: BTreeMap::new() };
        let mut file = String::new();
        for line in text.lines() {
            if line.starts_with("# file: ") {
                // Attributes follow; the name alone says nothing.
                line.clone_into(&mut file);
            } else if LOST.iter().any(|prefix| line.starts_with(prefix)) {
                let name = line.split('=').next().unwrap().to_owned();
                *manifest.lost.entry(name).or_default() += 1;
            } else if line.starts_with("user.") || line.starts_with("system.") {
                manifest.lines.insert(format!("{file} {line}"));
            } else {
                manifest.lines.insert(line.to_owned());
            }
        }
        assert!(manifest.lines.len() > 500, "a manifest of {} lines:\n{text}", manifest.lines.len());
        manifest
    }

    /// The lines in which another manifest differs, attributes that are lost left out.
    fn difference(&self, other: &Self) -> String {
        let mut text = String::new();
        for (sign, ours, theirs) in [("-", &self.lines, &other.lines), ("+", &other.lines, &self.lines)] {
            for line in ours.difference(theirs) {
                writeln!(text, "{sign} {line}").unwrap();
            }
        }
        text
    }
}

#[test]
fn a_guest_sees_no_difference_through_local_works_there_and_finds_its_work_after_a_rollback() {
    let stage = Stage::new();
    let before = stage.through_proxy();
    stage.migrate("convert", |model| {
        let mut words = vec!["--apply".into(), "--progress=never".into()];
        words.extend([format!("--owner={QEMU_USER}"), format!("--security-model={model}")]);
        words.extend(["xattr-lost", "acl-owner-rights"].map(|finding| format!("--accept={finding}")));
        words
    });
    stage.migrate("verify", |_| Vec::new());
    let [x, f, x_after, f_after] = stage.through_local();
    assert_eq!(before[0].difference(&x), "", "the guest sees a difference through mapped-xattr");
    let weak = ["acls/nothing", "attributes/all", "special/fifo", "special/elsewhere/fifo"];
    assert_acl_owner_rights(&before[1].difference(&f), &weak);
    for now in [&x, &f] {
        assert_eq!(now.lost, BTreeMap::new(), "what is lost is lost");
    }
    stage.migrate("rollback", |_| vec!["--apply".into(), "--progress=never".into()]);
    let after = stage.through_proxy();
    assert_eq!(x_after.difference(&after[0]), "", "the guest's work through mapped-xattr is not what it was");
    // The rights come back, for the guest has not changed these ACLs; it has moved two of the files.
    let weak = ["acls/nothing", "attributes/all", "special/fifo", "special/there/fifo", "new/fifo-too"];
    assert_acl_owner_rights(&f_after.difference(&after[1]), &weak);
    for (before, after) in before.iter().zip(&after) {
        assert!(before.lost.keys().eq(after.lost.keys()), "lost: {:?}, back: {:?}", before.lost, after.lost);
    }
}

/// The documented difference of mapped-file, in these files: what QEMU's user needs is added to the owner's rights in
/// an ACL.
#[track_caller]
fn assert_acl_owner_rights(difference: &str, files: &[&str]) {
    for line in difference.lines() {
        let known = files
            .iter()
            .any(|file| line[2..].starts_with(&format!("# file: {file} system.posix_acl_access=")));
        assert!(known, "the guest sees a difference through mapped-file:\n{difference}");
    }
    assert_eq!(difference.lines().count(), 2 * files.len(), "{difference}");
}
