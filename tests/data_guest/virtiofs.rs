//! The other way: a guest sees over virtiofs, with what `migrate config --backend virtiofs` prints, what it saw over the
//! proxy, and nothing is converted.
//!
//! Debian 12 has QEMU's own virtiofsd of 7.2, which spells the printed unit's options otherwise: `-o` before each.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::guest::Guest;
use crate::program::{Launch, ours, scratch, wait_until};
use crate::{CUT, MANIFEST, Manifest, TREE, done, listening};

/// QEMU 7.2's, of Debian's package qemu-system-common.
const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// What no mapped model passes is passed here, but for these: they need privileges that virtiofsd drops.
const NEEDS_PRIVILEGES: &str = "trusted.";

/// virtiofsd, which ends with its owner.
struct Daemon(Child, PathBuf);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

/// What `migrate config` prints of a script.
fn printed(script: &Path, export: &Path, form: &str) -> String {
    let output = Command::new(ours())
        .args(["migrate", "config"])
        .arg(script)
        .arg("--export")
        .arg(format!("x={}", export.display()))
        .args(["--backend", "virtiofs", "--to", form])
        .stdin(Stdio::null())
        .output()
        .expect("the program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Starts what the unit starts, by QEMU 7.2's spelling of the options.
fn start(unit: &str, group: &str) -> Daemon {
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let mut words = Vec::new();
    let mut socket = PathBuf::new();
    for word in line.split(' ').skip(1) {
        match word.split_once('=') {
            Some(("--socket-path", path)) => {
                socket = path.into();
                words.push(word.to_owned());
            }
            Some(("--socket-group", _)) => words.push(format!("--socket-group={group}")),
            Some(("--shared-dir", path)) => words.extend(["-o".into(), format!("source={path}")]),
            _ => words.extend([
                "-o".into(),
                word.trim_start_matches('-')
                    .replacen("posix-acl", "posix_acl", 1)
                    .replace("announce-submounts", "announce_submounts"),
            ]),
        }
    }
    // systemd makes it: RuntimeDirectory=.
    let folder = socket.parent().expect("a folder").to_owned();
    std::fs::create_dir_all(&folder).expect("the folder of the socket");
    let child = Command::new(VIRTIOFSD).args(&words).stdin(Stdio::null()).spawn();
    let daemon = Daemon(child.unwrap_or_else(|error| panic!("{VIRTIOFSD}: {error}")), folder);
    wait_until("virtiofsd's socket", || socket.exists());
    daemon
}

#[test]
fn a_guest_sees_no_difference_over_virtiofs() {
    let scratch = scratch();
    let export = scratch.path().join("x");
    done(Command::new(TREE).arg(&export));
    // No guest ever saw what is beyond PATH_MAX over the proxy.
    let deep = (0..30).fold(export.join("deep"), |path, _| path.join("e".repeat(90)));
    std::fs::remove_dir_all(deep).unwrap();
    let socket = scratch.path().join("p.sock");
    let list = format!("{MANIFEST}\nmanifest /mnt/x\necho '{CUT}'\n");
    let manifest = |answer: &str| Manifest::of(answer.split(CUT).next().expect("a manifest"));

    let mut helper = listening(&Launch::new(&ours(), &export), &socket);
    let answer = Guest::new()
        .share("x", format!("proxy,socket={}", socket.display()))
        .mount_options("posixacl")
        .script(&list)
        .run()
        .success();
    assert!(helper.wait().success(), "{}", helper.log());
    let before = manifest(&answer);

    // The rig gives QEMU 512 MiB; ids are this test's own, for the socket is in /run.
    let id = format!("test{}", std::process::id());
    let script = scratch.path().join("start-vm");
    let text = format!(
        "#!/bin/sh\nqemu-system-x86_64 -m 512 -fsdev proxy,id={id},socket={} -device virtio-9p-pci,fsdev={id},mount_tag=x\n",
        socket.display()
    );
    std::fs::write(&script, text).unwrap();
    let _daemon = start(&printed(&script, &export, "virtiofsd-unit"), "root");
    let arguments = printed(&script, &export, "qemu-args");
    let answer = Guest::new()
        .qemu(arguments.split_whitespace())
        .no_mount()
        .script(format!("mkdir /mnt/x && mount -t virtiofs x /mnt/x || exit 1\n{list}"))
        .run()
        .success();
    let now = manifest(&answer);
    assert_eq!(before.difference(&now), "", "the guest sees a difference over virtiofs");
    for (name, count) in &before.lost {
        if !name.starts_with(NEEDS_PRIVILEGES) {
            assert_eq!(now.lost.get(name), Some(count), "{name}: {:?}", now.lost);
        }
    }
}
