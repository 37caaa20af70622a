//! The other way: a guest sees over virtiofs, with what `migrate config --backend virtiofs` prints, what it saw over the
//! proxy, and nothing is converted.
//!
//! The unit is for the virtiofsd that is installed: on Debian 12 QEMU's own, of 7.2.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::guest::Guest;
use crate::program::{Launch, ours, scratch, wait_until};
use crate::{CUT, MANIFEST, Manifest, TREE, done, listening};

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
        .arg("--export")
        .arg(format!("y={}", export.display()))
        .args(["--backend", "virtiofs", "--to", form])
        .stdin(Stdio::null())
        .output()
        .expect("the program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Starts what a unit starts, as the unit says, among the mounts that its ReadOnlyPaths= makes.
fn start(unit: &str, group: &str) -> Daemon {
    let setting = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key));
    let line = setting("ExecStart=").expect("a command").replace("GROUP", group);
    let locked = setting("ReadOnlyPaths=").map(|path| {
        format!("mount --bind '{path}' '{path}' && mount -o remount,bind,ro '{path}' || exit 1\n")
    });
    let socket = line.split(' ').find_map(|word| word.strip_prefix("--socket-path=")).expect("a socket");
    let socket = PathBuf::from(socket);
    // systemd makes it: RuntimeDirectory=.
    let folder = socket.parent().expect("a folder").to_owned();
    std::fs::create_dir_all(&folder).expect("the folder of the socket");
    let script = format!("{}exec {line}", locked.unwrap_or_default());
    let child = Command::new("unshare").args(["-m", "sh", "-c", &script]).stdin(Stdio::null()).spawn();
    let daemon = Daemon(child.unwrap_or_else(|error| panic!("{line}: {error}")), folder);
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
        "#!/bin/sh\nqemu-system-x86_64 -m 512 -fsdev proxy,id={id},socket={0} -device virtio-9p-pci,fsdev={id},mount_tag=x \\\n \
         -fsdev proxy,id=ro{id},socket={0},readonly=on -device virtio-9p-pci,fsdev=ro{id},mount_tag=y\n",
        socket.display()
    );
    std::fs::write(&script, text).unwrap();
    let units = printed(&script, &export, "virtiofsd-unit");
    let units: Vec<_> = units.split("# /etc/systemd/system/").skip(1).collect();
    let [writable, locked] = units[..] else { panic!("{units:?}") };
    assert!(!writable.contains("ReadOnlyPaths=") && locked.contains("ReadOnlyPaths="), "{units:?}");
    let _daemons = [start(writable, "root"), start(locked, "root")];
    let arguments = printed(&script, &export, "qemu-args");
    let answer = Guest::new()
        .qemu(arguments.split_whitespace())
        .no_mount()
        .script(format!(
            "mkdir /mnt/x /mnt/y && mount -t virtiofs x /mnt/x && mount -t virtiofs y /mnt/y || exit 1\n\
             if touch /mnt/y/new; then echo 'the read-only share was written' >&2; exit 1; fi\n\
             {list}touch /mnt/x/new && rm /mnt/x/new || exit 1\n"
        ))
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
