//! A guest of a script: a real QEMU without a kernel, with two shares and their helpers. Whoever starts it while its files and its
//! configuration do not fit is told, and the guest is not started.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::naming;
use crate::program::{ours, ours_for_all, reference, scratch, wait_until};
use crate::snapshot::{assert_same, snapshot};

/// The exports.
const EXPORTS: [&str; 2] = ["a", "b"];

/// Starts the guest, after a look at whether its files and its configuration fit.
const START: &str = r#"#!/bin/sh
cd HERE
./die start
for export in a b; do
    if grep -q "proxy,id=$export" vm.sh; then [ -L $export/link ]; else [ ! -L $export/link ]; fi || {
        echo "MISMATCH $export" >>log
        exit 9
    }
done
echo start >>log
exec ./vm.sh
"#;

/// Asks the guest to shut down.
const STOP: &str = "#!/bin/sh\ncd HERE\n./die stop\nkill $(cat pid)\n./die stopped\n";

/// Kills the `migrate` that runs a command, once, where a test has asked for it at this point.
const DIE: &str = r#"#!/bin/sh
rm "die-$1" 2>/dev/null || exit 0
until [ -s migrate.pid ]; do sleep 0.1; done
kill -9 "$(cat migrate.pid)"
"#;

/// The guest's script.
const SCRIPT: &str = r"#!/bin/sh
# Starts the guest and its helpers.
REFERENCE -p HERE/a -s HERE/a.sock -u nobody -g nogroup
OURS -p HERE/b -s HERE/b.sock -u nobody -g nogroup
exec qemu-system-x86_64 NAME -accel tcg -S -display none -m 16 -nodefaults -runas nobody DAEMONIZE -pidfile HERE/pid \
    -fsdev proxy,id=a,socket=HERE/a.sock -device virtio-9p-pci,fsdev=a,mount_tag=a \
    -fsdev proxy,id=b,socket=HERE/b.sock -device virtio-9p-pci,fsdev=b,mount_tag=b
";

/// The guest, its exports and all that belongs to them.
pub struct Host {
    folder: tempfile::TempDir,
    /// The trees before anything was done.
    before: Vec<String>,
    script: String,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub is_killed: bool,
    pub text: String,
}

impl Host {
    /// A host with its guest, which runs.
    pub fn new() -> Self {
        Self::with(|script| script.replace("NAME", "-name toy").replace("DAEMONIZE", "-daemonize"))
    }

    /// The same with another script.
    pub fn with(change: impl Fn(&str) -> String) -> Self {
        let folder = scratch();
        let here = folder.path();
        for export in EXPORTS {
            let export = here.join(export);
            fs::create_dir_all(export.join("d/e")).unwrap();
            for (number, name) in ["file", "d/one", "d/e/two"].into_iter().enumerate() {
                fs::write(export.join(name), name).unwrap();
                let id = 1000 + u32::try_from(number).unwrap();
                chown(export.join(name), Some(id), Some(id)).unwrap();
            }
            fs::set_permissions(export.join("d/one"), fs::Permissions::from_mode(0o4755)).unwrap();
            symlink("file", export.join("link")).unwrap();
        }
        let helper = ours_for_all(here);
        let fill = |text: &str| {
            text.replace("HERE", here.to_str().unwrap())
                .replace("REFERENCE", reference().to_str().unwrap())
                .replace("OURS", helper.to_str().unwrap())
        };
        let script = fill(&change(SCRIPT));
        let files =
            [("vm.sh", script.as_str()), ("start", &fill(START)), ("stop", &fill(STOP)), ("die", DIE)];
        for (name, text) in files {
            fs::write(here.join(name), text).unwrap();
            fs::set_permissions(here.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let before = EXPORTS.map(|export| without_access(&here.join(export))).to_vec();
        Self { folder, before, script }
    }

    /// A host whose script starts the guest alone, and whose helpers somebody has started by hand.
    pub fn with_helpers_by_hand() -> Self {
        let host = Self::with(|script| {
            let is_kept = |line: &&str| !line.starts_with("REFERENCE") && !line.starts_with("OURS");
            let script: Vec<_> = script.lines().filter(is_kept).collect();
            format!("{}\n", script.join("\n")).replace("NAME", "-name toy").replace("DAEMONIZE", "-daemonize")
        });
        for (export, program) in EXPORTS.iter().zip([reference(), host.path("virtfs-proxy-helper")]) {
            let mut command = Command::new(program);
            command.arg("-p").arg(host.path(export)).arg("-s").arg(host.path(&format!("{export}.sock")));
            assert!(command.args(["-u", "nobody", "-g", "nogroup"]).status().unwrap().success(), "{export}");
            wait_until("the helper listens", || host.path(&format!("{export}.sock")).exists());
        }
        host
    }

    /// A host whose guest has an agent: QEMU and `migrate` connect to a server of the test's. It says that the shares are mounted while
    /// `is_mounted` says so of the backend that the script has; without an answer it hangs up.
    pub fn with_agent(is_mounted: fn(&str) -> Option<bool>) -> Self {
        let host = Self::with(|script| {
            let port = "-chardev socket,id=q,path=HERE/agent -device virtio-serial-pci \
                        -device virtserialport,chardev=q,name=org.qemu.guest_agent.0";
            script.replace("NAME", &format!("-name toy {port}")).replace("DAEMONIZE", "-daemonize")
        });
        let (socket, script) = (host.path("agent"), host.path("vm.sh"));
        let listener = UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, script) = (stream.unwrap(), script.clone());
                std::thread::spawn(move || serve_agent(stream, &script, is_mounted));
            }
        });
        host
    }

    /// Ends the helper of an export as a crash does.
    pub fn end_helper(&self, export: &str) {
        let end = format!("/{export}");
        let is_its =
            |line: &str| line.contains("virtfs-proxy-helper -p ") && line.contains(&format!("{end} "));
        let of = || naming(self.folder.path()).into_iter().filter(|(_, line)| is_its(line));
        for (pid, _) in of() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        wait_until("the helper ends", || of().next().is_none());
    }

    /// Starts the guest, as the admin does.
    pub fn start(&self) {
        let started = Command::new(self.path("start")).status().expect("the start script");
        assert!(started.success(), "{}", self.log());
        self.expect_up("proxy");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the start script has noted.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs a verb of `migrate`.
    pub fn migrate(&self, words: &[&str], crash: Option<&str>) -> Said {
        let mut command = Command::new(ours());
        command.arg("migrate").args(words).current_dir(self.folder.path());
        command.env("VIRTFS_STATE", self.path("state"));
        if let Some(crash) = crash {
            command.env("VIRTFS_TEST_CRASH", crash);
        }
        let _ = fs::remove_file(self.path("migrate.pid"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("migrate");
        fs::write(self.path("migrate.pid"), child.id().to_string()).unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().expect("migrate");
        let text = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        Said {
            status: status.code(),
            is_killed: std::os::unix::process::ExitStatusExt::signal(&status) == Some(9),
            text,
        }
    }

    /// Makes the plan of the script; nothing is open.
    pub fn plan(&self, words: &[&str]) -> Value {
        let stop = self.path("stop").to_str().unwrap().to_owned();
        let start = self.path("start").to_str().unwrap().to_owned();
        let file = self.path("vm.sh").to_str().unwrap().to_owned();
        let mut all = vec!["plan", "--stop", &stop, "--start", &start, "--output", "plan.yaml"];
        all.extend(words);
        all.push(&file);
        let said = self.migrate(&all, None);
        let text = fs::read(self.path("plan.yaml")).unwrap();
        let plan: Value = serde_yaml::from_slice(&text).unwrap();
        // Processes of other tests, which end meanwhile, can't be seen.
        let is_unread = said.status == Some(4) && plan["unread"] != serde_json::json!([]);
        assert!(said.status == Some(0) || is_unread, "{}{plan:#}", said.text);
        plan
    }

    /// Runs a verb, which succeeds, and returns which of these system calls it makes itself.
    pub fn traced(&self, verb: &str, calls: &str) -> Vec<String> {
        let trace = self.path("trace");
        let mut command = Command::new("strace");
        command.args(["-o", trace.to_str().unwrap(), "-e", &format!("trace={calls}")]).arg(ours());
        command.args(["migrate", verb, "plan.yaml", "--yes", "--settle", "0"]);
        command.current_dir(self.folder.path()).env("VIRTFS_STATE", self.path("state"));
        let output = command.output().expect("strace");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect()
    }

    /// Runs a verb until a condition is met, and kills it then; it may have ended.
    pub fn killed_when(&self, verb: &str, condition: impl Fn() -> bool) {
        let mut command = Command::new(ours());
        command.args(["migrate", verb, "plan.yaml", "--yes", "--settle", "0"]);
        command.current_dir(self.folder.path()).env("VIRTFS_STATE", self.path("state"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("migrate");
        while !condition() && child.try_wait().expect("migrate").is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().expect("migrate");
    }

    /// Carries the plan out.
    pub fn apply(&self, crash: Option<&str>) -> Said {
        self.migrate(&["apply", "plan.yaml", "--yes", "--settle", "0"], crash)
    }

    /// Takes it back.
    pub fn undo(&self, crash: Option<&str>) -> Said {
        self.migrate(&["undo", "plan.yaml", "--yes", "--settle", "0"], crash)
    }

    /// The phases of the shares, and the exit status.
    pub fn phases(&self) -> (Vec<String>, Option<i32>) {
        let file = self.path("vm.sh");
        let said = self.migrate(&["status", "--format", "json", file.to_str().unwrap()], None);
        let document: Value =
            serde_json::from_str(&said.text).unwrap_or_else(|error| panic!("{error}: {}", said.text));
        let rows = document["shares"].as_array().unwrap();
        (rows.iter().map(|row| row["phase"].as_str().unwrap().to_owned()).collect(), said.status)
    }

    /// The command lines of the guest's QEMUs that run.
    fn emulators(&self) -> Vec<String> {
        self.running_emulators().into_iter().map(|(_, line)| line).collect()
    }

    fn running_emulators(&self) -> Vec<(i32, String)> {
        let mut found = naming(self.folder.path());
        found.retain(|(_, line)| line.starts_with("qemu-system"));
        found
    }

    /// Waits until one QEMU has both shares over a backend, and panics where the files do not fit it.
    #[track_caller]
    pub fn expect_up(&self, backend: &str) {
        let has = |line: &String| line.matches(&format!("{backend},id=")).count() == EXPORTS.len();
        wait_until(&format!("the guest is up over {backend}"), || {
            let running = self.running_emulators();
            running.len() == 1 && running.iter().all(|(pid, line)| has(line) && has_left_root(*pid))
        });
        self.assert_fits();
    }

    /// Whatever runs has files that fit, and nobody has started anything else.
    #[track_caller]
    pub fn assert_fits(&self) {
        assert!(
            !self.log().contains("MISMATCH"),
            "a guest was started over files that do not fit: {}",
            self.log()
        );
        for line in self.emulators() {
            for export in EXPORTS {
                let is_link = self.path(export).join("link").is_symlink();
                assert_eq!(line.contains(&format!("proxy,id={export}")), is_link, "{export}: {line}");
            }
        }
    }

    /// Everything is over local.
    #[track_caller]
    pub fn expect_moved(&self) {
        self.expect_up("local");
        assert_eq!(self.phases(), (vec!["verified".to_owned(); 2], Some(0)));
    }

    /// Everything is as it was, and the guest runs.
    #[track_caller]
    pub fn expect_as_before(&self) {
        self.expect_back();
        assert_eq!(self.phases(), (vec!["undone".to_owned(); 2], Some(3)));
    }

    /// The files are as they were, and the guest runs.
    #[track_caller]
    pub fn expect_back(&self) {
        self.expect_up("proxy");
        for (export, before) in EXPORTS.iter().zip(&self.before) {
            assert_same(before, &without_access(&self.path(export)), export);
        }
        assert_eq!(fs::read_to_string(self.path("vm.sh")).unwrap(), self.script);
    }

    /// The move's journal.
    pub fn journal(&self) -> PathBuf {
        let mut folders = fs::read_dir(self.path("state")).unwrap();
        folders.next().unwrap().unwrap().path().join("journal")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for (pid, _) in naming(self.folder.path()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A tree without the times of access: `status` reads directories.
fn without_access(tree: &Path) -> String {
    let line = |line: &str| {
        let words = line.split(' ').filter(|word| !word.starts_with("atime="));
        words.collect::<Vec<_>>().join(" ") + "\n"
    };
    snapshot(tree).lines().map(line).collect()
}

/// Answers as a guest agent that lets files be read.
fn serve_agent(stream: UnixStream, script: &Path, is_mounted: fn(&str) -> Option<bool>) {
    let mut to = stream.try_clone().unwrap();
    for line in BufReader::new(stream).split(b'\n') {
        let Ok(line) = line else { return };
        let request: Value = serde_json::from_slice(line.strip_prefix(b"\xff").unwrap_or(&line)).unwrap();
        let backend =
            if fs::read_to_string(script).unwrap().contains("proxy,id=") { "proxy" } else { "local" };
        let Some(is_mounted) = is_mounted(backend) else { return };
        // base64 of "a /a 9p rw 0 0" and the same with b; of one blank line.
        let mounts = if is_mounted { "YSAvYSA5cCBydyAwIDAKYiAvYiA5cCBydyAwIDAK" } else { "Cg==" };
        let value = match request["execute"].as_str().unwrap() {
            "guest-sync-delimited" => request["arguments"]["id"].clone(),
            "guest-file-open" => 7.into(),
            "guest-file-read" => serde_json::json!({ "buf-b64": mounts, "eof": true }),
            _ => serde_json::json!({}),
        };
        let answer = serde_json::json!({ "return": value });
        if to.write_all(format!("{answer}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// Whether a process has become another user. QEMU does so late in its start, after its arguments can be seen.
fn has_left_root(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(1) != Some("0"))
}
