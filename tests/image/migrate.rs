//! `migrate` from the image on a host: what it finds and does is what the native binary finds and does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::container::{Engine, IMAGE, stdout_of};
use crate::program::{Launch, Running, ours, wait_until};
use crate::snapshot::{assert_same, snapshot};

/// `podman run` as the README has it for a verb of `migrate`, with other words after the verb's name, and with directories
/// of the test's mounted in place of the README's.
fn in_container(engine: &Engine, verb: &str, words: &[&str], places: &[(&str, &Path)]) -> Output {
    let readme = include_str!("../../README.md").replace("\\\n", " ");
    let command = readme
        .lines()
        .filter_map(|line| line.strip_prefix("podman run "))
        .find(|command| command.contains(&format!("migrate {verb} ")))
        .expect("a command of the README's");
    let (options, _) = command.split_once("localhost/").expect("the image");
    let mut all = vec!["run".to_owned()];
    all.extend(options.split_whitespace().map(|word| {
        let place = places.iter().find(|(known, _)| word.split(':').next() == Some(known));
        place.map_or_else(|| word.to_owned(), |(known, own)| word.replacen(known, own.to_str().unwrap(), 1))
    }));
    all.extend([IMAGE, "migrate"].into_iter().chain(words.iter().copied()).map(str::to_owned));
    engine.podman(all)
}

fn native(words: &[&str]) -> Output {
    Command::new(ours()).args(words).output().expect("our own binary")
}

/// A document, without what depends on the moment: other processes come and go.
fn audited(output: &Output, within: &Path) -> Value {
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mine = |rows: &Value| -> Vec<Value> {
        let ours = |row: &&Value| row.to_string().contains(within.to_str().unwrap());
        rows.as_array().unwrap().iter().filter(ours).cloned().collect()
    };
    json!({"shares": mine(&document["shares"]), "helpers": mine(&document["helpers"])})
}

#[test]
fn an_audit_of_the_host_from_the_container_is_the_native_one() {
    let engine = Engine::new();
    let export = engine.directory("export");
    let socket = engine.scratch().join("live.sock");
    let helper = Launch::new(&ours(), &export).by_socket(&socket);
    wait_until("the socket", || socket.exists());
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-S",
        "-nodefaults",
        "-display",
        "none",
        "-m",
        "64",
        "-accel",
        "tcg",
        "-name",
        "shop",
        "-fsdev",
    ]);
    command.arg(format!("proxy,id=fs0,socket={}", socket.display()));
    command.args(["-device", "virtio-9p-pci,fsdev=fs0,mount_tag=data"]);
    let qemu = Running::spawn(command.stdin(Stdio::null()));
    // QEMU takes the name away when it has connected.
    wait_until("QEMU's connection", || !socket.exists());

    let alone = audited(&native(&["migrate", "audit", "--format", "json"]), engine.scratch());
    let words = ["audit", "--root", "/host", "--format", "json"];
    assert_eq!(audited(&in_container(&engine, "audit", &words, &[]), engine.scratch()), alone);
    let share = &alone["shares"][0];
    assert_eq!((&share["pid"], &share["guest"]), (&json!(qemu.pid()), &json!("shop")), "{alone:#}");
    assert_eq!(share["export"], export.to_str().unwrap(), "{alone:#}");
    assert_eq!(alone["helpers"][0]["pid"], helper.pid(), "{alone:#}");
}

const GNARLY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gnarly-tree");

/// Makes the gnarly tree, and lets what was made now be of one time, so that two of them are equal. Looking for it changes
/// when directories were read: all of them are of one time.
fn gnarly(at: &Path, model: &str) {
    stdout_of("tests/gnarly-tree", &Command::new(GNARLY).arg(at).arg(model).output().unwrap());
    let touch = |options: &str| format!("-execdir touch -h {options} -d @1700000000 {{}} +");
    let find = format!("( -mtime -1 ! -newermt tomorrow {} ) , -type d {}", touch("-am"), touch("-a"));
    let output = Command::new("find").arg(at).arg("-depth").args(find.split(' ')).output();
    stdout_of("find", &output.unwrap());
}

/// What a conversion of the gnarly tree must be told to accept.
const ACCEPT: [&str; 3] = ["--accept=xattr-lost", "--accept=owner-kept-out", "--accept=acl-owner-rights"];

/// The same gnarly tree twice: one for the container, one for the native binary. The journals are beside them.
struct Twins {
    engine: Engine,
    contained: PathBuf,
    alone: PathBuf,
}

impl Twins {
    fn new(model: &str) -> Self {
        let engine = Engine::new();
        let [contained, alone] = ["contained", "alone"].map(|name| {
            let folder = engine.directory(name);
            gnarly(&export(&folder), model);
            folder
        });
        let twins = Self { engine, contained, alone };
        twins.assert_alike("before");
        twins
    }

    /// `migrate VERB WORD…` from the container, as the README has it, and by the native binary: their answers and trees
    /// must be equal.
    #[track_caller]
    fn both(&self, verb: &str, words: &[&str], status: i32) {
        let tree = export(&self.contained);
        let places = [("/srv/export", &*tree), ("/var/lib/virtfs", &*self.contained)];
        let contained = [&[verb, "/export", "--journal=/journal/journal"], words].concat();
        let contained = in_container(&self.engine, "convert", &contained, &places);

        let (tree, journal) = (export(&self.alone), format!("--journal={}/journal", self.alone.display()));
        let alone = native(&[&["migrate", verb, tree.to_str().unwrap(), &journal], words].concat());
        assert_same(&said(&contained, status), &said(&alone, status), &format!("what migrate {verb} says"));
        self.assert_alike(&format!("after {verb}"));
    }

    #[track_caller]
    fn assert_alike(&self, what: &str) {
        let [contained, alone] = [&self.contained, &self.alone].map(|folder| {
            let tree = snapshot(&export(folder));
            tree.lines().map(without_its_own_times).collect::<String>()
        });
        assert_same(&contained, &alone, what);
    }
}

/// A line of a snapshot, without the times of what mapped-file adds.
fn without_its_own_times(line: &str) -> String {
    // The mark on the export's root names the journal, and each has an id of its own.
    let line = match line.split_once(" trusted.virtfs-migrate.journal=") {
        Some((before, mark)) => format!("{before}{}", mark.find(" user.").map_or("", |at| &mark[at..])),
        None => line.to_owned(),
    };
    let added = line.split(' ').next().is_some_and(|path| path.contains(".virtfs_metadata"));
    let words = line.split(' ').filter(|word| !(added && (word.contains("time="))));
    words.collect::<Vec<_>>().join(" ") + "\n"
}

fn export(folder: &Path) -> PathBuf {
    folder.join("export")
}

/// What was printed, without places, and without what is measured or known by another name: times, room, users.
#[track_caller]
fn said(output: &Output, status: i32) -> String {
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}\n{errors}");
    let Ok(Value::Object(mut document)) = serde_json::from_str(&said) else { return String::new() };
    for measured in ["export", "journal", "cost"] {
        document.remove(measured);
    }
    if let Some(Value::Object(filesystem)) = document.get_mut("filesystem") {
        filesystem.retain(|field, _| !field.starts_with("free_"));
    }
    // What strangers' processes hold depends on the moment, and on the mounts by which it is looked for.
    if let Some(Value::Array(findings)) = document.get_mut("findings") {
        findings.retain(|finding| finding["id"] != "processes-unseen");
    }
    document.remove("summary");
    serde_json::to_string_pretty(&document).unwrap()
}

#[test]
fn convert_verify_and_rollback_through_the_container_are_the_native_ones() {
    for model in ["mapped-xattr", "mapped-file"] {
        let twins = Twins::new(model);
        let before = snapshot(&export(&twins.alone));
        let mut convert = vec!["--owner=107:107", "--security-model", model, "--progress=never", "--apply"];
        convert.extend(ACCEPT);
        twins.both("convert", &convert, 0);
        assert_ne!(snapshot(&export(&twins.contained)), before);
        twins.both("verify", &["--format=json"], 0);
        twins.both("rollback", &["--progress=never", "--apply"], 0);
        assert_same(&before, &snapshot(&export(&twins.contained)), "after the rollback");
    }
}

fn document_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Without the host's processes the path there is not known, and that is said.
#[test]
fn check_in_a_container_that_sees_no_host_says_whose_path_it_prints() {
    let engine = Engine::new();
    let export = engine.directory("export");
    let volume = format!("{}:/export", export.display());
    for (format, sense) in
        [("text", "the path in it is this container's"), ("json", "\"path_is_of_container\": true")]
    {
        let format = format!("--format={format}");
        let words = [
            "run",
            "--rm",
            "--network=none",
            "--volume",
            &volume,
            IMAGE,
            "migrate",
            "check",
            "/export",
            "--owner=107:107",
            &format,
        ];
        let said = String::from_utf8(engine.podman(words).stdout).unwrap();
        assert!(said.contains(sense) && said.contains("path=/export"), "{said}");
    }
}

#[test]
fn check_through_the_container_sees_what_the_native_one_sees() {
    let engine = Engine::new();
    let (export, journals) = (engine.directory("export"), engine.directory("journals"));
    gnarly(&export, "mapped-xattr");
    // Somebody on the host has a file of it open.
    let held = std::fs::File::open(export.join("at-root")).unwrap();
    let reader = Running::spawn(Command::new("sleep").arg("1000").stdin(held));
    for model in ["mapped-xattr", "mapped-file"] {
        let words = ["--owner=107:107", "--security-model", model, "--format=json"];
        let alone = native(&[&["migrate", "check", export.to_str().unwrap()], &words[..]].concat());
        let words = [&["check", "/export"], &words[..]].concat();
        let places = [("/srv/export", &*export), ("/var/lib/virtfs", &*journals)];
        let contained = in_container(&engine, "convert", &words, &places);
        let alone = said(&alone, 3).replace(export.to_str().unwrap(), "/export");
        // The configuration afterwards has the path of the host, where QEMU is.
        let path = format!("path={}", export.display());
        assert!(document_of(&contained)["configuration"]["qemu"].to_string().contains(&path), "{path}");
        assert_same(&said(&contained, 3).replace(export.to_str().unwrap(), "/export"), &alone, model);
        let document = document_of(&contained);
        assert_eq!(document["in_use"][0]["pid"], reader.pid(), "{document:#}");
        assert_eq!(document["in_use"][0]["busy"], true, "{document:#}");
    }
}
