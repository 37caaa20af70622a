//! `migrate plan --root` and `migrate status --root`: a host whose file system is mounted elsewhere, and nothing of this machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::program::{need_root, ours, scratch};

/// A unit whose socket is in a file of that host's, and whose user this machine does not have.
const UNIT: &str = "[Service]\nUser=vm-of-far\nEnvironmentFile=/etc/default/vm\n\
     ExecStart=/usr/bin/qemu-system-x86_64 -name vm -fsdev proxy,id=u,socket=${SOCKET} -device virtio-9p-pci,fsdev=u,mount_tag=unit\n";

const SCRIPT: &str = "#!/bin/sh\nvirtfs-proxy-helper -p /srv/link -s /run/script.sock -u 4321 -g 4322\n\
     qemu-system-x86_64 -name script -runas vm-of-far -fsdev proxy,id=s,socket=/run/script.sock -device virtio-9p-pci,fsdev=s,mount_tag=script\n";

/// Says that it was run.
const SPY: &str = "#!/bin/sh\necho \"$0 $*\" >>SPIED\nexit 1\n";

fn write(root: &Path, name: &str, text: &str) {
    let file = root.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

fn domain(name: &str, inside: &str, after: &str) -> String {
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n  <name>{name}</name>\n  <memory>65536</memory>\n  \
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\n  <devices>\n{inside}  </devices>\n{after}</domain>\n"
    )
}

/// The file system of a small host with a guest of libvirt's, one of a unit's and one of a script's, and an export that was converted.
fn far(root: &Path) {
    let arguments =
        ["-fsdev", "proxy,id=w,socket=/run/web.sock", "-device", "virtio-9p-pci,fsdev=w,mount_tag=web"];
    let arguments = arguments.map(|word| format!("    <qemu:arg value='{word}'/>\n")).concat();
    let arguments = format!("  <qemu:commandline>\n{arguments}  </qemu:commandline>\n");
    let local = "    <filesystem type='mount' accessmode='mapped'>\n      <source dir='/srv/done'/>\n      <target dir='done'/>\n    </filesystem>\n";
    let helper = |name: &str| {
        format!("[Service]\nExecStart=virtfs-proxy-helper -n -p /srv/{name} -s /run/{name}.sock -u 0 -g 0\n")
    };
    for (name, text) in [
        ("etc/hostname", "far\n"),
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nvm-of-far:x:4321:4322::/:/bin/false\nlibvirt-qemu:x:64066:1::/:/bin/false\n",
        ),
        ("etc/group", "vm-of-far:x:4322:\nlibvirt-qemu:x:64067:\n"),
        ("etc/default/vm", "SOCKET=/run/unit.sock\n"),
        ("etc/systemd/system/vm.service", UNIT),
        ("etc/systemd/system/help-unit.service", &helper("unit")),
        ("etc/systemd/system/help-web.service", &helper("web")),
        ("etc/libvirt/qemu/web.xml", &domain("web", "", &arguments)),
        ("etc/libvirt/qemu/done.xml", &domain("done", local, "")),
        ("usr/local/bin/start-vm", SCRIPT),
        ("srv/unit/file", "1"),
        ("srv/web/file", "2"),
        ("srv/script/file", "3"),
        ("srv/done/file", "4"),
    ] {
        write(root, name, text);
    }
    // An absolute link leads nowhere else than below the root.
    symlink("/srv/script", root.join("srv/link")).unwrap();
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir(&wants).unwrap();
    symlink("/etc/systemd/system/help-unit.service", wants.join("help-unit.service")).unwrap();
    let done = root.join("srv/done");
    let output = Command::new(ours())
        .args(["migrate", "convert", "--owner=64066:64067", "--apply"])
        .arg(&done)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The host, and programs that note whether they were run: that host's and this machine's.
struct Far {
    folder: tempfile::TempDir,
}

impl Far {
    fn new() -> Self {
        need_root();
        let far = Self { folder: scratch() };
        let root = far.root();
        far_and_spies(&root, far.folder.path());
        far
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }

    fn migrate(&self, words: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap();
        let spies = self.folder.path().join("bin");
        let output = Command::new(ours())
            .arg("migrate")
            .args(words)
            .env("PATH", format!("{}:{path}", spies.display()))
            .output()
            .unwrap();
        let spied = fs::read_to_string(self.folder.path().join("spied")).unwrap_or_default();
        assert_eq!(spied, "", "migrate {words:?} ran programs");
        output
    }

    fn look(&self, verb: &str, words: &[&str]) -> (Option<i32>, Value) {
        let root = self.root();
        let output =
            self.migrate(&[&[verb, "--format=json", "--root", root.to_str().unwrap()], words].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let document = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        (output.status.code(), document)
    }
}

fn far_and_spies(root: &Path, folder: &Path) {
    far(root);
    let spy = SPY.replace("SPIED", folder.join("spied").to_str().unwrap());
    for name in ["virsh", "systemctl", "qm", "qemu-system-x86_64"] {
        write(folder, &format!("bin/{name}"), &spy);
        write(root, &format!("usr/bin/{name}"), &spy);
    }
}

fn texts<'a>(rows: &'a Value, keys: &[&str]) -> Vec<Vec<&'a str>> {
    let row = |row: &'a Value| {
        keys.iter().map(|key| row.pointer(key).and_then(Value::as_str).unwrap_or("-")).collect()
    };
    rows.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_plan_for_another_root_knows_that_hosts_accounts_and_files() {
    let far = Far::new();
    let (code, plan) = far.look("plan", &[]);
    assert_eq!(code, Some(4), "{plan:#}");
    let mut root = far.root().canonicalize().unwrap().to_str().unwrap().to_owned();
    assert_eq!(
        texts(
            &plan["moves"],
            &[
                "/guests/0/name",
                "/guests/0/manager",
                "/guests/0/owner",
                "/exports/0/path",
                "/exports/0/owner"
            ]
        ),
        [
            ["web", "libvirt", "libvirt-qemu:64067", "/srv/web", "libvirt-qemu:64067"],
            ["vm.service", "systemd", "vm-of-far:4322", "/srv/unit", "vm-of-far:4322"],
            ["script", "commands", "vm-of-far:4322", "/srv/script", "vm-of-far:4322"],
        ]
    );
    for (number, line) in [
        (0, "+      <source dir='/srv/web'/>"),
        (1, "+ExecStart=/usr/bin/qemu-system-x86_64 -name vm -fsdev local,id=u,path=/srv/unit,"),
        (2, "path=/srv/link,security_model=mapped-xattr,multidevs=warn"),
    ] {
        let diff = plan["moves"][number]["guests"][0]["diff"].as_str().unwrap();
        assert!(diff.contains(line), "{diff}");
    }
    // Each guest may run, so that each is shut down first; a helper's unit that is started with the host is disabled.
    let kinds = |number: usize| texts(&plan["moves"][number]["steps"], &["/kind"]).concat().join(" ");
    assert!(
        kinds(0).starts_with("stop_guest stop_helper convert verify configure start_guest"),
        "{}",
        kinds(0)
    );
    let unit = plan["moves"][1]["steps"].to_string();
    assert!(unit.contains(r#"["systemctl","disable","help-unit.service"]"#), "{unit}");
    let unread = plan["unread"].to_string();
    assert!(unread.contains("seen only on the host itself"), "{unread}");
    assert_eq!((plan["host"].as_str(), plan["root"].as_str()), (Some("far"), far.root().to_str()));
    root.push('/');
    assert!(!plan.to_string().contains(&root), "paths are as on the host: {plan:#}");
    let text =
        String::from_utf8(far.migrate(&["plan", "--root", far.root().to_str().unwrap()]).stdout).unwrap();
    assert!(text.contains("guest web (libvirt, it is not known whether it runs)"), "{text}");
    assert!(!text.contains("can be carried out") && !text.contains("shut down)"), "{text}");
}

#[test]
fn what_another_host_lives_from_and_unknown_users_are_questions() {
    let far = Far::new();
    for (name, old, new, question) in [
        ("etc/systemd/system/help-unit.service", "-p /srv/unit", "-p /etc/default", "system-directory"),
        ("etc/passwd", "vm-of-far:x", "other:x", "which is not known"),
    ] {
        let file = far.root().join(name);
        let before = fs::read_to_string(&file).unwrap();
        assert!(before.contains(old));
        fs::write(&file, before.replace(old, new)).unwrap();
        let (code, plan) = far.look("plan", &["--guest=vm.service"]);
        let questions = plan["moves"][0]["questions"].to_string();
        assert!(code == Some(3) && questions.contains(question), "{code:?} {questions}");
        fs::write(&file, before).unwrap();
    }
}

#[test]
fn apply_and_undo_refuse_a_plan_for_another_root() {
    let far = Far::new();
    let (root, file) = (far.root(), far.folder.path().join("plan.yaml"));
    let (root, file) = (root.to_str().unwrap(), file.to_str().unwrap());
    let output = far.migrate(&["plan", "--root", root, "--output", file]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    for verb in ["apply", "undo"] {
        let output = far.migrate(&[verb, file, "--yes"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("a plan of another root: it was made for the host far"), "{said}");
        assert!(said.contains("need the host itself"), "{said}");
    }
}

#[test]
fn the_status_of_another_root_knows_that_hosts_guests_and_journals() {
    let far = Far::new();
    let (code, status) = far.look("status", &[]);
    assert_eq!(code, Some(3), "{status:#}");
    let mut rows = texts(&status["shares"], &["/guest", "/export", "/phase"]);
    rows.sort();
    assert_eq!(
        rows,
        [
            ["done", "/srv/done", "converted"],
            ["script", "/srv/script", "proxy"],
            ["vm", "/srv/unit", "proxy"],
            ["web", "/srv/web", "proxy"],
        ]
    );
    assert_eq!(status["exports"][0]["journal"], "/srv/done.virtfs-journal", "{status:#}");
    assert!(
        !status.to_string().contains(far.root().to_str().unwrap()),
        "paths are as on the host: {status:#}"
    );
}
