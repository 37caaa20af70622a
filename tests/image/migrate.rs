//! `migrate` from the image on a host: what it finds and does is what the native binary finds and does.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::container::{Engine, IMAGE, stdout_of};
use crate::program::{Launch, Running, ours, wait_until};

/// `podman run` as the README has it, with the image and the words after it.
fn in_container(engine: &Engine, options: &[&str], words: &[&str]) -> Output {
    let mut all = vec!["run", "--rm", "--network=host", "--pid=host", "--read-only"];
    all.extend(options);
    all.push(IMAGE);
    all.extend(words);
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
    let options = ["--cap-drop=ALL", "--cap-add=DAC_READ_SEARCH,SYS_PTRACE", "--volume=/:/host:ro,rslave"];
    let words = ["migrate", "audit", "--root", "/host", "--format", "json"];
    assert_eq!(audited(&in_container(&engine, &options, &words), engine.scratch()), alone);
    let share = &alone["shares"][0];
    assert_eq!((&share["pid"], &share["guest"]), (&json!(qemu.pid()), &json!("shop")), "{alone:#}");
    assert_eq!(share["export"], export.to_str().unwrap(), "{alone:#}");
    assert_eq!(alone["helpers"][0]["pid"], helper.pid(), "{alone:#}");
}

/// A small tree with a little of everything, made by root.
fn tree(at: &Path) {
    let script = "set -e; cd \"$0\"; mkdir -p d/e; echo one >d/file; ln -s file d/link; ln d/file d/hard; mkfifo d/fifo
        mknod d/null c 1 3; chown 1234:567 d/file; chmod 4755 d/file; chown -h 5:6 d/link; chmod 1777 d/e
        touch d/$(printf 'not \\377 UTF-8'); chown 1000:1000 d/e";
    stdout_of("a tree", &Command::new("sh").args(["-c", script]).arg(at).output().unwrap());
}

/// Everything that the host sees of a tree, its attributes too, in one text.
fn described(at: &Path) -> String {
    let script = "cd \"$0\"; find . -printf '%y %m %U:%G %s %l %p\\n' | sort; find . \\( -type f -o -type d \\) | sort | \
        while read -r f; do getfattr -h -d -m - -e hex -- \"$f\"; done";
    stdout_of("describing", &Command::new("sh").args(["-c", script]).arg(at).output().unwrap())
}

#[test]
fn convert_and_rollback_through_the_container_are_the_native_ones() {
    let engine = Engine::new();
    let (one, other) = (engine.directory("one"), engine.directory("other"));
    for place in [&one, &other] {
        tree(place);
    }
    let before = described(&one);
    assert_eq!(described(&other), before);
    let mount = format!("--volume={}:/export", one.display());
    let journals = format!("--volume={}:/journal", engine.directory("journal").display());
    let native_journal = engine.scratch().join("native-journal");
    let options = [
        "--cap-drop=ALL",
        "--cap-add=CHOWN,DAC_OVERRIDE,FOWNER,FSETID,MKNOD,SETFCAP,SETGID,SETUID,SYS_PTRACE",
        "--security-opt=no-new-privileges",
        &mount,
        &journals,
    ];
    let both = |verb: &str, words: &[&str]| {
        let mut contained = vec!["migrate", verb, "/export", "--journal", "/journal/journal"];
        contained.extend(words);
        let output = in_container(&engine, &options, &contained);
        stdout_of(&format!("migrate {verb} in the container"), &output);
        let mut alone =
            vec!["migrate", verb, other.to_str().unwrap(), "--journal", native_journal.to_str().unwrap()];
        alone.extend(words);
        stdout_of(&format!("migrate {verb}"), &native(&alone));
        assert_eq!(described(&one), described(&other), "after {verb}");
    };
    both("convert", &["--owner", "107:107", "--apply"]);
    assert_ne!(described(&one), before);
    both("rollback", &["--apply"]);
    assert_eq!(described(&one), before);
}
