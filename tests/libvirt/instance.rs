//! A libvirtd of the test's own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const INSTANCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libvirt/instance");

/// How long anything of libvirt's may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running libvirtd; it ends with its owner, and its guests with it.
pub struct Instance {
    child: Child,
    folder: TempDir,
}

impl Instance {
    /// Starts one; panics with what to install where libvirt is missing.
    pub fn start() -> Self {
        Self::start_as("root")
    }

    /// Starts one whose QEMUs run as a user.
    pub fn start_as(user: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("vph-libvirt-").tempdir().expect("a scratch folder");
        let log = std::fs::File::create(folder.path().join("log.txt")).expect("a log");
        let child = Command::new(INSTANCE)
            .arg(folder.path())
            .arg(user)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("bash");
        let mut instance = Self { child, folder };
        let start = Instant::now();
        while !instance.socket().exists() {
            let ended = instance.child.try_wait().expect("libvirtd's state");
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "libvirtd does not start:\n{}",
                std::fs::read_to_string(instance.folder.path().join("log.txt")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        instance
    }

    /// A folder to use.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/libvirt-sock")
    }

    /// libvirtd's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A command that sees the machine as libvirtd does: with its folders in their usual places.
    pub fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.child.id())).arg(program.as_ref());
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// How others reach it.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    /// Runs virsh.
    pub fn try_virsh(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        let mut command = Command::new("virsh");
        command.args(["-q", "-c", &self.uri()]);
        command.args(args).stdin(Stdio::null()).output().expect("virsh")
    }

    /// Runs virsh, and wants it to succeed.
    #[track_caller]
    pub fn virsh<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let output = self.try_virsh(&args);
        assert!(output.status.success(), "virsh {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text from virsh")
    }

    /// The arguments that libvirt starts a domain's QEMU with.
    #[track_caller]
    pub fn native(&self, file: &Path) -> Vec<String> {
        let line = self.virsh(["domxml-to-native".as_ref(), "qemu-argv".as_ref(), file.as_os_str()]);
        words(&line)
    }

    /// Waits until a domain is in that state.
    #[track_caller]
    pub fn wait_for(&self, domain: &str, state: &str) {
        let start = Instant::now();
        loop {
            let now = self.virsh(["domstate", domain]);
            if now.trim() == state {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{domain} is {} instead of {state}", now.trim());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a domain without a lasting configuration is no more.
    #[track_caller]
    pub fn wait_for_end(&self, domain: &str) {
        let start = Instant::now();
        while self.try_virsh(["domstate", domain]).status.success() {
            assert!(start.elapsed() < PATIENCE, "{domain} does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Guests outlive libvirtd unless they are told.
        let running = self.try_virsh(["list", "--name"]);
        for domain in String::from_utf8_lossy(&running.stdout).lines().filter(|name| !name.is_empty()) {
            self.try_virsh(["destroy", domain]);
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// A shell line's words; libvirt quotes with single quotes alone, or doubles around them.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = line.trim_end().chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None | Some('"'), '\\') => word.extend(chars.next()),
            (None, ' ') => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words
}
