//! `migrate plan`, `apply` and `undo` on domains of a libvirtd, with two shares and their helpers by socket.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::guests::Machine;
use crate::instance::Instance;
use crate::process::naming;
use crate::program::{ours_for_all, reference, wait_until};

/// Tells what the guest sees, and then answers libvirt as a guest agent that can shut the guest down.
const SCRIPT: &str = r#"
(cd /mnt && find . -exec stat -c '%n %F %a %u:%g' {} + | sort; cat a/file b/file; readlink a/link b/link)
echo ready
exec 7<>"$(port org.qemu.guest_agent.0)"
while :; do
    # Nobody is at the other end yet.
    read -r line <&7 || { usleep 50000; continue; }
    id=$(echo "$line" | sed -n 's/.*"id": *\([0-9]*\).*/\1/p')
    case $line in
    *guest-sync-delimited*) printf '\377{"return":%s}\n' "$id" >&7 ;;
    *guest-sync*) printf '{"return":%s}\n' "$id" >&7 ;;
    *guest-shutdown*) exit 0 ;;
    *guest-ping* | *guest-file-close*) echo '{"return":{}}' >&7 ;;
    *guest-file-open*) echo '{"return":1}' >&7 ;;
    *guest-file-read*)
        printf '{"return":{"count":1,"eof":true,"buf-b64":"%s"}}\n' "$(base64 </proc/mounts | tr -d '\n')" >&7
        ;;
    *execute*) echo '{"error":{"class":"CommandNotFound","desc":"unknown"}}' >&7 ;;
    esac
done
"#;

/// A host with a domain, its exports and their helpers.
struct Host {
    libvirt: Instance,
    /// The domain. Other tests have others: a plan looks at the whole machine.
    name: &'static str,
    /// Whether the guest has an operating system, which shuts it down when asked to.
    boots: bool,
}

impl Host {
    fn new(name: &'static str, boots: bool) -> Self {
        let libvirt = Instance::start_as("libvirt-qemu");
        let here = libvirt.scratch().to_owned();
        fs::set_permissions(&here, fs::Permissions::from_mode(0o755)).unwrap();
        if boots {
            Machine::new(&here.join("guest"), SCRIPT);
        }
        ours_for_all(&here);
        let host = Self { libvirt, name, boots };
        let ran = host.libvirt.inside("mkdir").arg("-p").arg(here.join("srv")).status().unwrap();
        assert!(ran.success());
        let mount = ["-t", "tmpfs", "-o", "size=2m,mode=755", "vph"];
        let ran = host.libvirt.inside("mount").args(mount).arg(here.join("srv")).status().unwrap();
        assert!(ran.success(), "a file system for the exports");
        for export in ["a", "b"] {
            let export = host.path(&format!("srv/{export}"));
            fs::create_dir_all(export.join("d")).unwrap();
            for (number, name) in ["file", "d/one"].into_iter().enumerate() {
                fs::write(export.join(name), format!("{name}\n")).unwrap();
                let id = 1000 + u32::try_from(number).unwrap();
                chown(export.join(name), Some(id), Some(id)).unwrap();
            }
            symlink("file", export.join("link")).unwrap();
        }
        fs::write(here.join("vm.xml"), host.domain()).unwrap();
        host.libvirt.virsh(["define".as_ref(), here.join("vm.xml").as_os_str()]);
        host
    }

    /// A path as this process reaches it: the exports are on a file system that only libvirtd's namespace has.
    fn path(&self, name: &str) -> PathBuf {
        let here = self.libvirt.scratch().join(name);
        Path::new(&format!("/proc/{}/root", self.libvirt.pid())).join(here.strip_prefix("/").unwrap())
    }

    fn domain(&self) -> String {
        let at = |name: &str| self.libvirt.scratch().join(name).display().to_string();
        let (mut os, mut devices) = (String::new(), String::new());
        if self.boots {
            write!(
                os,
                "<kernel>{}</kernel><initrd>{}</initrd><cmdline>console=ttyS0 quiet panic=-1 mitigations=off nokaslr \
                 tsc=reliable audit=0</cmdline>",
                at("guest/vmlinux"),
                at("guest/initramfs.cpio")
            )
            .unwrap();
            write!(devices, "<serial type='file'><source path='{}'/></serial>", at("console")).unwrap();
            for name in ["out", "err", "status"] {
                let path = at(name);
                write!(
                    devices,
                    "<channel type='file'><source path='{path}'/><target type='virtio' name='{name}'/></channel>"
                )
                .unwrap();
            }
            devices += "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
        }
        let mut arguments = String::new();
        for (name, slot) in [("a", "1d"), ("b", "1e")] {
            for word in [
                "-fsdev".to_owned(),
                format!("proxy,id={name},socket={}", at(&format!("{name}.sock"))),
                "-device".to_owned(),
                format!("virtio-9p-pci,fsdev={name},mount_tag={name},addr={slot}.0"),
            ] {
                writeln!(arguments, "<qemu:arg value='{word}'/>").unwrap();
            }
        }
        let memory = if self.boots { 512 } else { 16 };
        format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>{}</name>\
             <memory unit='MiB'>{memory}</memory><os><type arch='x86_64' machine='pc'>hvm</type>{os}</os>\
             <features><acpi/></features><on_poweroff>destroy</on_poweroff><devices>\
             <emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}<memballoon model='none'/></devices>\
             <qemu:commandline>{arguments}</qemu:commandline></domain>\n",
            self.name
        )
    }

    /// Starts the helpers, QEMU's own and ours, and the guest.
    fn start(&self) {
        self.start_helpers();
        self.libvirt.virsh(["start", self.name]);
        self.expect_up("proxy");
    }

    fn start_helpers(&self) {
        let scratch = self.libvirt.scratch();
        for (program, name) in [(reference(), "a"), (scratch.join("virtfs-proxy-helper"), "b")] {
            // QEMU's own helper leaves its socket, and does not start over it.
            let socket = scratch.join(format!("{name}.sock"));
            let _ = fs::remove_file(&socket);
            let mut command = self.libvirt.inside(program);
            command.arg("-p").arg(scratch.join(format!("srv/{name}"))).arg("-s");
            command.arg(&socket).args(["-u", "64055", "-g", "64055"]);
            assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
            wait_until("the helper listens", || socket.exists());
        }
    }

    /// Waits until the helpers have ended, as they do with their guest.
    fn expect_no_helpers(&self) {
        wait_until("the helpers end with their guest", || {
            !naming(self.libvirt.scratch()).iter().any(|(_, line)| line.contains("virtfs-proxy-helper"))
        });
    }

    /// Runs a verb of `migrate` where libvirtd sees it.
    fn migrate(&self, words: &[&str]) -> (Option<i32>, String) {
        let scratch = self.libvirt.scratch();
        let mut command = self.libvirt.inside(scratch.join("virtfs-proxy-helper"));
        command.arg("migrate").args(words).env("VIRTFS_STATE", scratch.join("state"));
        let output = command.output().unwrap();
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.code(), text)
    }

    /// The move's journal.
    fn journal(&self) -> String {
        let state = self.libvirt.scratch().join("state");
        let mut folders = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
        fs::read_to_string(folders.next().unwrap().join("journal")).unwrap()
    }

    fn plan(&self, words: &[&str]) -> Value {
        let file = self.libvirt.scratch().join("plan.yaml");
        let mut all = vec!["plan", "--guest", self.name, "--output", file.to_str().unwrap()];
        all.extend(words);
        let (status, text) = self.migrate(&all);
        let plan: Value = serde_yaml::from_slice(&fs::read(&file).expect(&text)).unwrap();
        // Processes of other tests can't be seen.
        assert!(
            status == Some(0) || status == Some(4) && plan["unread"] != serde_json::json!([]),
            "{text}{plan:#}"
        );
        plan
    }

    fn verb(&self, verb: &str, words: &[&str]) -> (Option<i32>, String) {
        let file = self.libvirt.scratch().join("plan.yaml");
        let mut all = vec![verb, file.to_str().unwrap(), "--yes", "--settle", "0"];
        if !self.boots {
            all.extend(["--force-stop", "--stop-timeout", "1"]);
        }
        all.extend(words);
        self.migrate(&all)
    }

    /// The guest runs, has both shares over a backend, and its files fit that.
    #[track_caller]
    fn expect_up(&self, backend: &str) {
        self.libvirt.wait_for(self.name, "running");
        let line = naming(self.libvirt.scratch()).into_iter().map(|(_, line)| line);
        let emulators: Vec<_> = line.filter(|line| line.contains("qemu-system")).collect();
        let [line] = emulators.as_slice() else { panic!("{emulators:#?}") };
        let shares = line.matches("-fsdev proxy,").count();
        assert_eq!(shares, if backend == "proxy" { 2 } else { 0 }, "{line}");
        for export in ["a", "b"] {
            assert_eq!(self.path(&format!("srv/{export}/link")).is_symlink(), backend == "proxy", "{export}");
        }
    }

    /// What the guest sees, once it has seen it.
    fn seen(&self) -> String {
        let out = self.libvirt.scratch().join("out");
        let read = || fs::read_to_string(&out).unwrap_or_default();
        wait_until("the guest sees its shares", || read().ends_with("ready\n"));
        let text = read();
        fs::write(&out, "").unwrap();
        text
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.libvirt.try_virsh(["destroy", self.name]);
        for (pid, line) in naming(self.libvirt.scratch()) {
            if line.contains("virtfs-proxy-helper") || line.contains("keep-helper") {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

#[test]
#[ignore = "minutes: scripts/test slow"]
fn a_running_guest_is_moved_and_moved_back() {
    let host = Host::new("moved", true);
    host.start();
    let original = host.seen();
    let plan = host.plan(&[]);
    let one = &plan["moves"][0];
    assert_eq!(one["guests"][0]["manager"], "libvirt", "{plan:#}");
    assert_eq!(
        (one["exports"].as_array().unwrap().len(), one["helpers"].as_array().unwrap().len()),
        (2, 2),
        "{plan:#}"
    );
    let (status, text) = host.verb("apply", &[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(!text.contains("agent"), "{text}");
    host.expect_up("local");
    assert_eq!(host.seen(), original);
    let journal = host.journal();
    assert!(journal.contains(r#""note":"[\"a\",\"b\"]""#), "the agent says what is mounted: {journal}");
    let (status, text) = host.migrate(&["status", "/etc/libvirt/qemu"]);
    assert_eq!(text.matches(": verified (since ").count(), 2, "{status:?} {text}");
    let (status, text) = host.verb("undo", &[]);
    assert_eq!(status, Some(0), "{text}");
    host.expect_up("proxy");
    assert_eq!(host.seen(), original);
}

/// A domain with a saved image and a snapshot, which hold its shares once more.
#[test]
#[ignore = "minutes: scripts/test slow"]
fn a_saved_guest_and_a_snapshot_move_with_their_domain() {
    let host = Host::new("saved", false);
    let saved = |host: &Host| host.libvirt.virsh(["dominfo", host.name]).contains("Managed save:   yes");
    // Without a disk there is nothing that libvirt would take: it gets the snapshot's document.
    let snapshot = host.libvirt.scratch().join("snapshot.xml");
    let inner = host.libvirt.virsh(["dumpxml", "--inactive", host.name]);
    let head = "<domainsnapshot><name>before</name><state>shutoff</state><creationTime>1</creationTime><memory snapshot='no'/>";
    fs::write(&snapshot, format!("{head}{inner}</domainsnapshot>")).unwrap();
    let redefine = ["snapshot-create", host.name, snapshot.to_str().unwrap(), "--redefine"];
    host.libvirt.virsh(redefine);
    // Saves the running guest, and makes the plan of it.
    let save_and_plan = || {
        host.libvirt.virsh(["managedsave", host.name]);
        host.expect_no_helpers();
        host.start_helpers();
        let plan = host.plan(&[]);
        let steps = plan["moves"][0]["steps"].as_array().unwrap();
        let documents =
            steps.iter().flat_map(|step| step["documents"].as_array().cloned().unwrap_or_default());
        let mut shown: Vec<_> =
            documents.map(|document| document["shown"].as_str().unwrap().to_owned()).collect();
        shown.sort();
        assert_eq!(
            shown,
            ["domain saved", "saved image of saved", "snapshot before of saved"],
            "{:#}",
            plan["moves"][0]["guests"]
        );
    };
    host.start();
    save_and_plan();
    let (status, text) = host.verb("apply", &[]);
    assert_eq!(status, Some(0), "{text}");
    // The guest was not running. It is restored from its image.
    host.libvirt.virsh(["start", host.name]);
    host.expect_up("local");
    assert!(!saved(&host));
    let moved = host.libvirt.virsh(["dumpxml", "--inactive", "--security-info", host.name]);
    let define = |text: &str| {
        let file = host.libvirt.scratch().join("moved.xml");
        fs::write(&file, text).unwrap();
        host.libvirt.virsh(["define", file.to_str().unwrap()]);
    };
    define(&moved.replace("</name>", "</name><description>edited</description>"));
    // The domain is another one now, and what it was before the move is not put in its place.
    let (status, text) = host.verb("undo", &[]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("nothing is taken back: domain saved has changed since the move"), "{text}");
    assert!(text.contains("(`virsh edit saved`)"), "{text}");
    host.expect_up("local");
    define(&moved);
    // Saved with the same configuration, it is restored over the proxy.
    host.libvirt.virsh(["managedsave", host.name]);
    let (status, text) = host.verb("undo", &[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(saved(&host));
    host.libvirt.virsh(["start", host.name]);
    host.expect_up("proxy");
    assert!(!saved(&host));
    host.libvirt.virsh(["destroy", host.name]);
    host.expect_no_helpers();
    host.start_helpers();
    host.libvirt.virsh(["snapshot-revert", host.name, "before"]);
    host.libvirt.virsh(["start", host.name]);
    host.expect_up("proxy");
    // An image that the move does not know is not restored over files as they were.
    host.plan(&[]);
    let (status, text) = host.verb("apply", &[]);
    assert_eq!(status, Some(0), "{text}");
    host.expect_up("local");
    host.libvirt.virsh(["managedsave", host.name]);
    let (status, text) = host.verb("undo", &[]);
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains("nothing is taken back: saved has a saved image with its shares over local"),
        "{text}"
    );
    host.libvirt.virsh(["start", host.name]);
    host.expect_up("local");
    // A domain that is reverted to the snapshot, which has moved, becomes what the snapshot was.
    host.libvirt.virsh(["destroy", host.name]);
    host.libvirt.virsh(["snapshot-revert", host.name, "before"]);
    host.libvirt.virsh(["start", host.name]);
    host.expect_up("local");
    let (status, text) = host.verb("undo", &[]);
    assert_eq!(status, Some(0), "{text}");
    host.expect_up("proxy");
}

/// Each of these is taken back, and the old guest runs.
#[test]
#[ignore = "minutes: scripts/test slow"]
fn what_fails_is_taken_back_and_the_old_guest_runs() {
    let host = Host::new("failing", false);
    let scratch = host.libvirt.scratch().to_owned();
    let close = format!("chmod 700 {}", scratch.join("srv").display());
    let fill = format!(
        "dd if=/dev/zero of={} bs=4k status=none 2>/dev/null; true",
        scratch.join("srv/fill").display()
    );
    host.start();
    for (what, plan, apply, reason) in [
        ("QEMU's user can't enter the directory", vec!["--before", close.as_str()], vec![], "step"),
        ("the disk fills up", vec!["--before", fill.as_str()], vec![], "Convert"),
        (
            "a probe fails",
            vec![],
            vec!["--probe", "false", "--up-timeout", "60"],
            "the probe did not succeed",
        ),
    ] {
        host.plan(&plan);
        let (status, text) = host.verb("apply", &apply);
        assert_eq!(status, Some(1), "{what}: {text}");
        assert!(text.contains(reason) && text.contains("Nothing is lost."), "{what}: {text}");
        let _ = fs::remove_file(host.path("srv/fill"));
        fs::set_permissions(host.path("srv"), fs::Permissions::from_mode(0o755)).unwrap();
        host.expect_up("proxy");
    }
    // A guest that does not shut down is not forced to.
    host.plan(&[]);
    let file = scratch.join("plan.yaml");
    let (status, text) = host.migrate(&["apply", file.to_str().unwrap(), "--yes", "--stop-timeout", "1"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("failing does not shut down within 1 seconds, and is left running"), "{text}");
    host.expect_up("proxy");
}

/// A helper that somebody starts again and again, as a unit with `Restart=always` that is not known as one.
#[test]
#[ignore = "minutes: scripts/test slow"]
fn a_helper_that_comes_back_stops_the_move() {
    let host = Host::new("comes-back", false);
    let scratch = host.libvirt.scratch().to_owned();
    let at = |name: &str| scratch.join(name).display().to_string();
    host.start();
    host.libvirt.virsh(["destroy", host.name]);
    host.expect_no_helpers();
    let mut keepers = Vec::new();
    for name in ["a", "b"] {
        let keep = format!(
            "while :; do rm -f {socket}; {} -n -p {} -s {socket} -u 64055 -g 64055; sleep 0.05; done >/dev/null 2>&1 # keep-helper",
            reference().display(),
            at(&format!("srv/{name}")),
            socket = at(&format!("{name}.sock")),
        );
        let mut command: Command = host.libvirt.inside("sh");
        keepers
            .push(command.args(["-c", &keep]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_until("the helper listens", || scratch.join(format!("{name}.sock")).exists());
    }
    host.libvirt.virsh(["start", host.name]);
    host.expect_up("proxy");
    host.plan(&[]);
    let (status, text) = host.verb("apply", &[]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("Nothing is lost."), "{text}");
    host.expect_up("proxy");
    for mut keeper in keepers {
        let _ = keeper.kill();
        keeper.wait().unwrap();
    }
}
