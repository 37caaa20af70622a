//! Helper processes: the C reference's and ours, started in every way there is and never left behind.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::{NamedTempFile, TempDir};

use crate::wire::{Client, PATIENCE};

/// The helper that QEMU 7.2 ships: what ours is compared to.
const REFERENCE: &str = "/usr/lib/qemu/virtfs-proxy-helper";

/// Runs its arguments with its standard input as descriptor 3, as LXD and Incus start a helper.
const STDIN_AS_FD_3: &str = r#"exec "$@" 3<&0 0</dev/null"#;

/// The C reference; panics with what to install where it is missing.
pub fn reference() -> PathBuf {
    let path = PathBuf::from(REFERENCE);
    assert!(
        path.exists(),
        "{REFERENCE} is missing: these tests compare against QEMU's own helper. Install Debian's or Ubuntu's \
         qemu-system-common of QEMU 9.1 or older."
    );
    path
}

/// Our own helper, as cargo has just built it; another build of it, the image's say, where VPH_HELPER names one.
pub fn ours() -> PathBuf {
    std::env::var_os("VPH_HELPER")
        .map_or_else(|| env!("CARGO_BIN_EXE_virtfs-proxy-helper").into(), PathBuf::from)
}

/// The same where every user can run it: the build's folder may be closed to others.
pub fn ours_for_all(folder: &Path) -> PathBuf {
    let path = folder.join("virtfs-proxy-helper");
    fs::copy(ours(), &path).expect("a copy of the helper");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode for the copy");
    path
}

/// Panics unless this process is root with what these tests need: they chown, mknod and chroot.
pub fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests serve trees with owners, devices and a sandbox: run them as root"
    );
}

/// A scratch directory that everybody may enter.
pub fn scratch() -> TempDir {
    need_root();
    let dir = tempfile::Builder::new().prefix("vph-").tempdir().expect("a scratch directory");
    open_to_all(dir.path());
    dir
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode for the scratch directory");
}

/// A process under test: ended with its owner, whatever happens to the test.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: NamedTempFile,
}

impl Running {
    /// Starts `command` with what it prints going to a file.
    pub fn spawn(command: &mut Command) -> Self {
        let log = NamedTempFile::new().expect("a file for the helper's output");
        // Appending: standard output and standard error have a file position each.
        let append = || Stdio::from(File::options().append(true).open(log.path()).expect("the output file"));
        let child = command.stdout(append()).stderr(append()).spawn();
        let child =
            child.unwrap_or_else(|error| panic!("starting {}: {error}", command.get_program().display()));
        Self { child, log }
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process's id, as nix calls it.
    pub fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.nix_pid(), signal).expect("a signal to the helper");
    }

    /// What the process has printed until now.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log.path()).expect("the helper's output")).into_owned()
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("the helper's state").is_none()
    }

    /// Waits for the process's end; panics when it does not come.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the helper's state") {
                return status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "process {} does not end; it said:\n{}",
                self.pid(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the output holds `text`; panics when it does not come.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the log to say {text:?}; it says:\n{}", self.log()), || {
            self.log().contains(text)
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // A supervisor takes its workers with it when it is asked to end, not when it is shot.
        let _ = kill(self.nix_pid(), Signal::SIGTERM);
        for _ in 0..30_000 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `done` says so; panics with `what` when it does not.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A helper in the making.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    root: PathBuf,
    wrapper: Vec<OsString>,
    options: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
}

impl Launch {
    /// Serves `root` with `program`, in the foreground.
    pub fn new(program: &Path, root: &Path) -> Self {
        Self {
            program: program.into(),
            root: root.into(),
            wrapper: Vec::new(),
            options: Vec::new(),
            variables: Vec::new(),
        }
    }

    /// Takes another program.
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Puts a command before the helper, such as `unshare --user`.
    pub fn under<S: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper.extend(wrapper.into_iter().map(|word| word.as_ref().into()));
        self
    }

    /// Adds an option.
    pub fn option(mut self, option: impl AsRef<OsStr>) -> Self {
        self.options.push(option.as_ref().into());
        self
    }

    /// Sets an environment variable.
    pub fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// The helper's words, from the wrapper on.
    fn words(&self, transport: &[&OsStr]) -> Vec<OsString> {
        let mut words = self.wrapper.clone();
        words.extend([self.program.clone().into(), "-n".into(), "-p".into(), self.root.clone().into()]);
        words.extend(transport.iter().map(|&word| word.into()));
        words.extend(self.options.iter().cloned());
        words
    }

    /// Starts with one end of a connected pair as descriptor 3, and keeps the other.
    pub fn by_fd(&self) -> (Running, Client) {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        (self.on_descriptor(far.into()), Client::new(near))
    }

    /// Starts with a connected socket as descriptor 3.
    pub fn on_descriptor(&self, connected: OwnedFd) -> Running {
        let words = self.words(&["-f".as_ref(), "3".as_ref()]);
        let mut command = Command::new("sh");
        command.args(["-c", STDIN_AS_FD_3, "sh"]).args(words).stdin(connected);
        command.envs(self.variables.iter().cloned());
        Running::spawn(&mut command)
    }

    /// Starts on the socket path given, for root; the caller connects.
    pub fn by_socket(&self, socket: &Path) -> Running {
        let mut transport: Vec<&OsStr> = vec!["-s".as_ref(), socket.as_os_str()];
        transport.extend(["-u", "0", "-g", "0"].map(OsStr::new));
        let words = self.words(&transport);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).envs(self.variables.iter().cloned());
        Running::spawn(&mut command)
    }
}
