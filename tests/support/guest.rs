//! A small real Linux guest in QEMU: given shares and a shell script, runs the script and says what it said.
//!
//! ```ignore
//! let answer = Guest::new()
//!     .share("work", format!("proxy,socket={}", socket.display()))
//!     .script("mkdir /mnt/work/d && stat -c '%u:%g %a' /mnt/work/d")
//!     .run();
//! assert_eq!(answer.success(), "0:0 755\n");
//! ```
//!
//! Each share is mounted at `/mnt/TAG` with 9p2000.L before the script starts. What the guest holds, and every
//! option in detail: `tests/guest/run --help`, which does the work. A boot takes about three seconds; the image is
//! made by the first test that needs it.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What boots guests.
const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/run");

/// A guest in the making.
#[derive(Debug, Default)]
pub struct Guest {
    options: Vec<OsString>,
    script: OsString,
    descriptors: Vec<FdMapping>,
}

impl Guest {
    /// A guest without shares.
    pub fn new() -> Self {
        Self::default()
    }

    fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.options.extend([name.into(), value.as_ref().into()]);
        self
    }

    /// Adds a share by its tag and its `-fsdev` without id, such as `proxy,socket=/run/p.sock`.
    pub fn share(self, tag: &str, fsdev: impl AsRef<OsStr>) -> Self {
        let mut value = OsString::from(format!("{tag}="));
        value.push(fsdev);
        self.option("--share", value)
    }

    /// Adds `-fsdev VALUE`.
    pub fn fsdev(self, value: impl AsRef<OsStr>) -> Self {
        self.qemu(["-fsdev".as_ref(), value.as_ref()])
    }

    /// Adds `-device VALUE`.
    pub fn device(self, value: impl AsRef<OsStr>) -> Self {
        self.qemu(["-device".as_ref(), value.as_ref()])
    }

    /// Adds arguments for QEMU as they stand.
    pub fn qemu<S: AsRef<OsStr>>(self, words: impl IntoIterator<Item = S>) -> Self {
        words.into_iter().fold(self, |guest, word| guest.option("--qemu-arg", word))
    }

    /// Gives QEMU a descriptor as number `number`, 3 to 9.
    pub fn descriptor(mut self, number: i32, descriptor: OwnedFd) -> Self {
        assert!((3..10).contains(&number), "descriptor {number} is not one that tests/guest/run passes on");
        self.descriptors.push(FdMapping { parent_fd: descriptor, child_fd: number });
        self
    }

    /// Mounts every share with further options, such as `access=any`.
    pub fn mount_options(self, list: &str) -> Self {
        self.option("--mount-options", list)
    }

    /// Mounts nothing: the script does, by `share TAG FOLDER [OPTIONS]`.
    pub fn no_mount(mut self) -> Self {
        self.options.push("--no-mount".into());
        self
    }

    /// Sets a variable for the script.
    pub fn variable(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut assignment = OsString::from(format!("{name}="));
        assignment.push(value);
        self.option("--env", assignment)
    }

    /// Puts a program of the host's on the guest's path.
    pub fn program(self, file: &Path) -> Self {
        self.option("--program", file)
    }

    /// Runs QEMU as this user, without further groups.
    pub fn user(self, name: &str) -> Self {
        self.option("--user", name)
    }

    /// Gives the guest so many MiB of memory instead of 512.
    pub fn memory(self, mebibytes: u32) -> Self {
        self.option("--memory", mebibytes.to_string())
    }

    /// Gives the guest so many processors instead of one.
    pub fn cpus(self, count: u32) -> Self {
        self.option("--cpus", count.to_string())
    }

    /// The script that the guest runs, for dash.
    pub fn script(mut self, text: impl AsRef<OsStr>) -> Self {
        self.script = text.as_ref().into();
        self
    }

    /// Boots the guest and returns at once.
    pub fn start(self) -> Booted {
        let stdout = tempfile::tempfile().expect("a file for the guest's output");
        let stderr = tempfile::tempfile().expect("a file for the guest's errors");
        let share = |file: &File| Stdio::from(file.try_clone().expect("the guest's output"));
        let mut command = Command::new(RUN);
        command.args(self.options).arg("-c").arg(self.script);
        command.stdin(Stdio::null()).stdout(share(&stdout)).stderr(share(&stderr));
        command.fd_mappings(self.descriptors).expect("numbers for the guest's descriptors");
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {RUN}: {error}"));
        Booted { child, stdout, stderr }
    }

    /// Boots the guest and waits for the script's end.
    pub fn run(self) -> Answer {
        self.start().wait()
    }
}

/// A guest that runs; it ends with its owner.
#[derive(Debug)]
pub struct Booted {
    child: Child,
    stdout: File,
    stderr: File,
}

impl Booted {
    /// The id of `tests/guest/run`, which QEMU runs below.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the guest still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("the guest's state").is_none()
    }

    /// What the script has printed until now.
    pub fn stdout(&self) -> String {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.stdout));
        String::from_utf8_lossy(&std::fs::read(path).expect("the guest's output")).into_owned()
    }

    /// Waits for the script's end.
    pub fn wait(mut self) -> Answer {
        let status = self.child.wait().expect("the guest's end").code().unwrap_or(-1);
        Answer { status, stdout: contents(&mut self.stdout), stderr: contents(&mut self.stderr) }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The script ends QEMU and takes its files away.
            let pid = i32::try_from(self.child.id()).expect("a pid");
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn contents(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().expect("the guest's output");
    file.read_to_end(&mut bytes).expect("the guest's output");
    bytes
}

/// What a guest's script said.
#[derive(Debug)]
pub struct Answer {
    /// The script's exit status; 124 when time ran out, 125 when the guest itself failed.
    pub status: i32,
    /// The script's standard output.
    pub stdout: Vec<u8>,
    /// The script's standard error, and what the rig has to say.
    pub stderr: Vec<u8>,
}

impl Answer {
    /// The output of a script that ended with 0; panics with everything it said otherwise.
    #[track_caller]
    pub fn success(&self) -> String {
        let (stdout, stderr) = (String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr));
        assert_eq!(self.status, 0, "the guest's script failed\n--- output\n{stdout}\n--- errors\n{stderr}");
        stdout.into_owned()
    }
}
