//! Containers of the project's image, in a storage of their own: what the tests start touches nothing else, and goes
//! with its owner.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::resource::{Resource, getrlimit};
use tempfile::TempDir;

use crate::program::{scratch, wait_until};

/// What podman calls the image.
pub const IMAGE: &str = "localhost/virtfs-proxy-helper:test";

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// A script of the project's.
pub fn script(name: &str) -> PathBuf {
    Path::new(HERE).join("scripts").join(name)
}

/// An image that scripts/build-image made.
#[derive(Debug)]
pub struct Built {
    /// As an OCI archive.
    pub archive: PathBuf,
    /// What it is made of.
    pub sbom: PathBuf,
    /// What the script printed.
    pub said: String,
}

impl Built {
    /// One of the values that the script printed.
    #[track_caller]
    pub fn value(&self, name: &str) -> &str {
        let value = self.said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name} in:\n{}", self.said)).trim()
    }
}

/// Runs scripts/build-image offline on what is committed; panics with what it says when it fails.
pub fn build(directory: &Path, options: &[&str]) -> Built {
    for program in ["podman", "git"] {
        need(program);
    }
    fs::create_dir_all(directory).expect("a directory for the image");
    let built = Built {
        archive: directory.join("image.tar"),
        sbom: directory.join("sbom.json"),
        said: String::new(),
    };
    let output = Command::new(script("build-image"))
        .args(["--offline", "--tag", IMAGE, "--archive"])
        .arg(&built.archive)
        .arg("--sbom")
        .arg(&built.sbom)
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("scripts/build-image");
    Built { said: stdout_of("scripts/build-image", &output), ..built }
}

/// The image of this run, built once.
pub fn image() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| build(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("image"), &[]))
}

/// Panics where a program is missing.
#[track_caller]
pub fn need(program: &str) {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).exists()));
    assert!(
        found,
        "{program} is missing. Install what is missing of: apt-get install podman buildah runc catatonit uidmap \
         slirp4netns python3-venv"
    );
}

/// Where the programs of scripts/lib/tools are.
pub fn tools() -> PathBuf {
    let output = Command::new(script("lib/tools")).stdin(Stdio::null()).output().expect("scripts/lib/tools");
    stdout_of("scripts/lib/tools", &output).trim().into()
}

/// What a command printed; panics with all it said where it failed.
#[track_caller]
pub fn stdout_of(what: &str, output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n--- output\n{stdout}\n--- errors\n{stderr}", output.status);
    stdout.into_owned()
}

/// A podman with a storage of its own, which holds the image.
pub struct Engine {
    directory: TempDir,
    #[expect(dead_code, reason = "it is held")]
    alone: MutexGuard<'static, ()>,
}

/// Containers that start hold on to the mounts of those that end, where the host's mounts are not shared: one test at a
/// time.
static ALONE: Mutex<()> = Mutex::new(());

impl Engine {
    /// An engine as root.
    pub fn new() -> Self {
        let engine = Self::empty();
        engine.load();
        engine
    }

    /// One without the image.
    pub fn empty() -> Self {
        for program in ["podman", "runc", "catatonit"] {
            need(program);
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = scratch();
        configure(directory.path());
        Self { directory, alone }
    }

    /// Takes the image in.
    pub fn load(&self) {
        self.run(
            ["load", "--quiet", "--input"].map(OsStr::new).into_iter().chain([image().archive.as_os_str()]),
        );
    }

    /// A directory for what a test needs.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a directory of that name below the scratch directory.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path
    }

    /// Lets a command's podman be this one.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        command.env("CONTAINERS_CONF", self.directory.path().join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.directory.path().join("storage.conf"));
        command
    }

    /// Runs `podman WORD…`.
    pub fn podman<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Output {
        self.command("podman").args(words).output().expect("podman")
    }

    /// Runs `podman WORD…`, and says what it printed; panics where it fails.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        let words: Vec<_> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        stdout_of(&format!("podman {words:?}"), &self.podman(&words))
    }

    /// Runs `podman WORD…` that removes something, again where another process on this machine still sees a mount of it.
    #[track_caller]
    pub fn remove<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) {
        let words: Vec<_> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        wait_until(&format!("podman {words:?}"), || self.podman(&words).status.success());
    }

    /// Runs scripts/run-sidecar with this engine and the test's image.
    pub fn sidecar<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Output {
        let mut command = self.command(script("run-sidecar"));
        command
            .args(["--engine", "podman", "--image", IMAGE])
            .args(words)
            .output()
            .expect("scripts/run-sidecar")
    }

    /// What a container has printed.
    pub fn log(&self, name: &str) -> String {
        let output = self.podman(["logs", name]);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// The container's first process, as the host sees it; 0 while it does not run.
    pub fn pid(&self, name: &str) -> u32 {
        self.run(["inspect", "--format", "{{.State.Pid}}", name]).trim().parse().expect("a process's id")
    }

    /// Whether the helper of a container says that it serves.
    pub fn healthy(&self, name: &str) -> bool {
        self.podman(["exec", name, "/virtfs-proxy-helper", "healthcheck"]).status.success()
    }

    /// Waits until the helper of a container says that it serves.
    #[track_caller]
    pub fn wait_healthy(&self, name: &str) {
        wait_until(&format!("container {name} to serve; it says:\n{}", self.log(name)), || {
            self.healthy(name)
        });
    }

    /// What a reboot leaves: the storage, but no process, no mount and nothing of /run.
    pub fn reboot(&self) {
        let ids = self.run(["ps", "--all", "--quiet", "--no-trunc"]);
        let root = self.directory.path().as_os_str().as_encoded_bytes();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let is_conmon = line.windows(7).any(|part| part == b"/conmon")
                && line.windows(root.len()).any(|part| part == root);
            if is_conmon {
                kill_with_children(pid);
            }
        }
        for name in ["run", "tmp"] {
            let path = self.directory.path().join(name);
            unmount_below(&path);
            fs::remove_dir_all(&path).expect("the runtime directory");
            fs::create_dir(&path).expect("the runtime directory");
        }
        unmount_below(&self.directory.path().join("root"));
        // The runtime's own state is in the host's /run, for all engines.
        for id in ids.lines() {
            let _ = Command::new("runc").args(["delete", "--force", id]).output().expect("runc");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.podman(["pod", "rm", "--all", "--force", "--time", "2"]);
        let _ = self.podman(["rm", "--all", "--force", "--time", "2"]);
        let _ = self.podman(["volume", "rm", "--all", "--force"]);
        unmount_below(self.directory.path());
    }
}

/// Writes podman's configuration for a storage below `directory`. What depends on the machine is asked from it: limits
/// that may not be raised, no systemd to make control groups.
fn configure(directory: &Path) {
    // Podman asks for a million, and may not always raise what it has.
    let limit = |what| getrlimit(what).expect("a limit").1.min(20_000);
    let (files, processes) = (limit(Resource::RLIMIT_NOFILE), limit(Resource::RLIMIT_NPROC));
    let root = directory.display();
    let containers = format!(
        "[containers]\ndefault_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nlock_type = \"file\"\nevents_logger = \"file\"\ntmp_dir = \"{root}/tmp\"\nruntime = \"runc\"\n"
    );
    let storage =
        format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"{root}/root\"\nrunroot = \"{root}/run\"\n");
    fs::write(directory.join("containers.conf"), containers).expect("containers.conf");
    fs::write(directory.join("storage.conf"), storage).expect("storage.conf");
    for name in ["run", "tmp"] {
        fs::create_dir(directory.join(name)).expect("a directory for podman");
    }
}

fn kill_with_children(pid: i32) {
    let children = crate::process::children(u32::try_from(pid).expect("a pid"));
    // The monitor first: it would start what it watches again.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    for child in children {
        kill_with_children(i32::try_from(child).expect("a pid"));
    }
}

fn unmount_below(path: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let mut points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    points.retain(|point| Path::new(point).starts_with(path));
    points.sort_unstable();
    for point in points.into_iter().rev() {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}
