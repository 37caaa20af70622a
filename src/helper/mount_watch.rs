//! The process that keeps the mounts of a serving process's namespace as the host's are below the export.
//!
//! The namespace's mounts are slaves of the host's. Where a mount of the host's is shared, the kernel itself mounts and unmounts
//! here what the host mounts and unmounts there, in the same system call: nothing waits for this process. A mount that
//! arrives so has the host's attributes. This process sets nodev, nosuid and noexec on it as soon as the kernel reports it.
//! Until then two other rules hold: no request opens a device ([`super::export`]), and the kernel ignores set-id bits on mounts of
//! another namespace than the caller's.
//!
//! Where a mount of the host's is private, the kernel propagates nothing. This process then compares both tables of mounts whenever
//! either changes. It copies what the host has mounted, with the attributes set before the copy is attached, and detaches
//! what the host has unmounted.
//!
//! It holds the export open in the host's namespace, so that the host cannot unmount the export while it is served.
//! It ends when the serving process does; if this process ends first, the serving process ends with status 1.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::capabilities::CapabilitySet;
use super::isolation::Seccomp;
use super::layer_switch::layer_enabled;
use super::mount_table::{Mount, parse};
use super::privileges;
use super::seccomp::Filter;
use super::{landlock, signals, sys};
use crate::text::escape;

/// How often the tables are compared in a row before this process waits again; the next change brings it back.
const ROUNDS: u32 = 64;

/// What the kernel sends the serving process when this one has ended.
const LOST: Signal = Signal::SIGUSR2;

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The host's side, taken before this process leaves the host's mount namespace.
pub struct Host {
    export: OwnedFd,
    table: File,
    namespace: OwnedFd,
    proc: OwnedFd,
}

impl Host {
    /// Takes it.
    pub fn take(export: BorrowedFd<'_>) -> Result<Self, Errno> {
        let proc = open("/proc", DIRECTORY, Mode::empty())?;
        Ok(Self {
            export: export.try_clone_to_owned().map_err(|_| Errno::EMFILE)?,
            table: table(&proc)?,
            namespace: namespace(&proc)?,
            proc,
        })
    }

    /// Where the export is now, in the host's namespace.
    fn path(&self) -> Result<Vec<u8>, Errno> {
        let name = format!("self/fd/{}", self.export.as_raw_fd());
        readlinkat(&self.proc, name.as_str()).map(OsStringExt::into_vec)
    }

    /// The host's mounts below the export.
    fn mounts(&self) -> Result<HostMounts> {
        let export = sys::mount_id(self.export.as_fd()).context("cannot look at the export")?;
        let path = self.path().context("cannot find the export")?;
        let all = parse(&read(&self.table)?);
        let is_private = |mount: &Mount| !mount.shared;
        let mut private = all.iter().any(|mount| mount.id == export && is_private(mount));
        let below: Vec<Mount> = all
            .into_iter()
            .filter_map(|mount| {
                let point = mount.below(&path)?.to_vec();
                (!point.is_empty()).then_some(Mount { point, ..mount })
            })
            .collect();
        private |= below.iter().any(is_private);
        Ok(HostMounts { mounts: below, private })
    }

    /// Whether a mount at or below the export is private, so that the kernel does not propagate what the host mounts there.
    pub fn has_private_mounts(&self) -> Result<bool> {
        self.mounts().map(|mounts| mounts.private)
    }
}

fn table(proc: &OwnedFd) -> Result<File, Errno> {
    openat(proc, "self/mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map(File::from)
}

fn namespace(proc: &OwnedFd) -> Result<OwnedFd, Errno> {
    openat(proc, "self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// The serving process's end of the connection to its watcher.
pub struct Watched {
    connection: OwnedFd,
    pid: Pid,
}

impl Watched {
    /// Starts the watcher. This process must have entered its own namespace, with `tree` as its root directory. Returns once
    /// the mounts are as the host's and each has `attributes`.
    pub fn start(host: Host, tree: OwnedFd, attributes: u64, seccomp: Seccomp) -> Result<Self> {
        let own = table(&host.proc).context("cannot read /proc/self/mountinfo")?;
        let own_namespace = namespace(&host.proc).context("cannot open /proc/self/ns/mnt")?;
        let (near, far) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .context("cannot make a socket pair")?;
        // A socket of its own: the kernel tells the receiver of a byte after the byte can be read. On the connection, that would
        // be taken for its end.
        let (answer, told) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .context("cannot make a socket pair")?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }.context("cannot fork")? {
            ForkResult::Parent { child: pid } => {
                drop((far, told));
                let mut ready = [0];
                let received = loop {
                    // A signal that asks this process to stop is heeded later.
                    match sys::recv(answer.as_fd(), &mut ready, sys::Wait::Yes) {
                        Err(Errno::EINTR) => {}
                        result => break result?,
                    }
                };
                anyhow::ensure!(received == 1, "the process that watches the export's mounts cannot start");
                signals::end_when_lost(LOST)?;
                sys::signal_on_event(near.as_fd(), LOST as i32).context("cannot watch a process")?;
                Ok(Self { connection: near, pid })
            }
            ForkResult::Child => {
                drop((near, answer));
                let (failed, known) = (HashSet::new(), HashSet::new());
                let mut watcher = Watcher { host, tree, own, own_namespace, attributes, failed, known };
                let status =
                    match watcher.confine([&far, &told], seccomp).and_then(|()| watcher.run(&far, told)) {
                        Ok(()) => 0,
                        Err(error) => {
                            log::error!("cannot follow the host's mounts below the export: {error:#}");
                            1
                        }
                    };
                // SAFETY: ends the process; nothing is left to unwind or flush.
                unsafe { libc::_exit(status) }
            }
        }
    }

    /// Moves the connection to the lowest descriptor that is free, so that the two of a pinned open are neighbours, which one
    /// system call closes.
    pub fn settle(&mut self) {
        if let Ok(lowest) = self.connection.try_clone()
            && lowest.as_raw_fd() < self.connection.as_raw_fd()
        {
            self.connection = lowest;
        }
    }

    /// Ends the watcher, for a process that does not go on to serve.
    pub fn end(self) {
        let Self { connection, pid } = self;
        drop(connection);
        let _ = waitpid(pid, None);
    }
}

/// What the forked process holds.
struct Watcher {
    host: Host,
    /// The root directory of the namespace.
    tree: OwnedFd,
    own: File,
    own_namespace: OwnedFd,
    attributes: u64,
    /// The host's mounts that could not be copied, so that each is reported once.
    failed: HashSet<u64>,
    /// The own mounts that the host has had too. No other is detached.
    known: HashSet<u64>,
}

impl Watcher {
    /// Gives up what watching does not take.
    fn confine(&self, [parent_death, told]: [&OwnedFd; 2], seccomp: Seccomp) -> Result<()> {
        signals::ignore_stop()?;
        let _ = nix::sys::prctl::set_name(c"virtfs-mounts");
        // Standard error is for the log.
        let stderr = std::io::stderr();
        let held = [
            stderr.as_fd(),
            self.host.export.as_fd(),
            self.host.table.as_fd(),
            self.host.namespace.as_fd(),
            self.host.proc.as_fd(),
            self.tree.as_fd(),
            self.own.as_fd(),
            self.own_namespace.as_fd(),
            parent_death.as_fd(),
            told.as_fd(),
        ];
        sys::close_all_from(0, &held).context("cannot close the serving process's descriptors")?;
        if layer_enabled("capabilities") {
            privileges::drop_all_but(&CapabilitySet::for_mount_watcher())?;
        }
        if layer_enabled("landlock") {
            landlock::confine_but_files()?;
        }
        privileges::limit_resources(None)?;
        Filter::for_mount_watcher(seccomp)?.install()
    }

    /// Follows the host until the serving process ends. Sends one byte through `told` when the mounts are as the host's.
    fn run(&mut self, parent_death: &OwnedFd, told: OwnedFd) -> Result<()> {
        nix::unistd::fchdir(&self.tree)?;
        let mut private = self.follow()?;
        sys::send(told.as_fd(), b"r").context("cannot tell that the mounts are followed")?;
        drop(told);
        loop {
            let change = PollFlags::POLLPRI | PollFlags::POLLERR;
            let mut fds = vec![
                PollFd::new(parent_death.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.own.as_fd(), change),
                PollFd::new(self.host.table.as_fd(), change),
            ];
            // What is mounted on shared mounts changes the own table too.
            fds.truncate(if private { 3 } else { 2 });
            match ppoll(&mut fds, None, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for mounts"),
            }
            if fds[0].any().unwrap_or(true) {
                return Ok(());
            }
            private = self.follow()?;
        }
    }

    /// Makes the own mounts as the host's. Returns whether a mount of the host's is private, so that the host's table must be watched.
    fn follow(&mut self) -> Result<bool> {
        let mut private = false;
        for _ in 0..ROUNDS {
            let host = self.host.mounts()?;
            let own = self.own_mounts()?;
            if own.iter().any(|mount| mount.attributes & self.attributes != self.attributes) {
                sys::set_mount_attributes(self.tree.as_fd(), self.attributes).context("mount_setattr")?;
                continue;
            }
            private = host.private;
            if !private {
                break;
            }
            self.learn(&own, &host.mounts);
            let mut changed = false;
            for mount in difference(&host.mounts, &own) {
                changed |= self.attach(mount)?;
            }
            // Read after the own table: what has been propagated since is in both.
            let host = self.host.mounts()?;
            for mount in difference(&own, &host.mounts).into_iter().rev() {
                changed |= self.known.contains(&mount.id) && self.detach(mount);
            }
            if !changed {
                break;
            }
        }
        Ok(private)
    }

    /// Remembers which own mounts the host has, and forgets those that are gone.
    fn learn(&mut self, own: &[Mount], host: &[Mount]) {
        let only_own: HashSet<u64> = difference(own, host).iter().map(|mount| mount.id).collect();
        let is_known = |id: &u64| self.known.contains(id) || !only_own.contains(id);
        self.known = own.iter().map(|mount| mount.id).filter(is_known).collect();
    }

    /// The own mounts, all but the root.
    fn own_mounts(&self) -> Result<Vec<Mount>> {
        let all = parse(&read(&self.own)?).into_iter();
        Ok(all
            .filter_map(|mount| {
                let point = mount.below(b"/")?.to_vec();
                Some(Mount { point, ..mount })
            })
            .collect())
    }

    /// Shows a mount of the host's. False where that is not possible; another change of the host's may make it so.
    fn attach(&mut self, mount: &Mount) -> Result<bool> {
        match self.copy(mount) {
            Ok(copy) => {
                self.failed.remove(&mount.id);
                self.known.insert(copy);
                Ok(true)
            }
            Err(Copying::Lost(errno)) => Err(errno).context("cannot return to the namespace"),
            Err(Copying::Failed(errno)) => {
                // Gone again, or beneath another mount.
                let expected = matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ELOOP);
                if self.failed.insert(mount.id) && !expected {
                    log::warn!(
                        "the mount '{}' below the export cannot be shown to clients: {}",
                        escape(&mount.point),
                        errno.desc()
                    );
                }
                Ok(false)
            }
        }
    }

    /// Copies a mount of the host's, and returns the copy's number.
    fn copy(&self, mount: &Mount) -> Result<u64, Copying> {
        let source = find(&self.host.export, &mount.point).map_err(Copying::Failed)?;
        if sys::mount_id(source.as_fd()).map_err(Copying::Failed)? != mount.id {
            return Err(Copying::Failed(Errno::ESTALE));
        }
        // A mount can be copied in its own namespace only.
        setns(&self.host.namespace, CloneFlags::CLONE_NEWNS).map_err(Copying::Failed)?;
        let copy = sys::clone_mount(source.as_fd(), c"", false);
        setns(&self.own_namespace, CloneFlags::CLONE_NEWNS)
            .and_then(|()| nix::unistd::fchdir(&self.tree))
            .map_err(Copying::Lost)?;
        let attach = || {
            let copy = copy?;
            sys::enslave_mounts(copy.as_fd(), self.attributes)?;
            sys::attach_mount(copy.as_fd(), find(&self.tree, &mount.point)?.as_fd())?;
            sys::mount_id(copy.as_fd())
        };
        attach().map_err(Copying::Failed)
    }

    /// Detaches an own mount. False where it is not on top, or gone.
    fn detach(&self, mount: &Mount) -> bool {
        let is_there =
            find(&self.tree, &mount.point).and_then(|fd| sys::mount_id(fd.as_fd())) == Ok(mount.id);
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        is_there
            && CString::new(mount.point.as_slice())
                .is_ok_and(|point| umount2(point.as_c_str(), flags).is_ok())
    }
}

/// The host's mounts below the export.
struct HostMounts {
    mounts: Vec<Mount>,
    /// Whether one of them, or the one that the export is on, is not shared.
    private: bool,
}

/// Why a mount was not copied.
enum Copying {
    Failed(Errno),
    /// This process is no longer where it belongs.
    Lost(Errno),
}

/// The mounts of `these` that `those` have not, by mount point and by what they show: as often as they are missing.
fn difference<'m>(these: &'m [Mount], those: &[Mount]) -> Vec<&'m Mount> {
    let mut matched = vec![false; those.len()];
    let mut different = Vec::new();
    for mount in these.iter().filter(|mount| !mount.point.is_empty()) {
        let same = |(index, other): &(usize, &Mount)| {
            !matched[*index] && other.point == mount.point && other.shows_same(mount)
        };
        match those.iter().enumerate().find(same) {
            Some((index, _)) => matched[index] = true,
            None => different.push(mount),
        }
    }
    different
}

/// What is at `path` below `directory`; no symbolic link is followed, so that nobody can lead this process elsewhere.
fn find(directory: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how =
        OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(directory, path, how)
}

/// Reads a table from its beginning.
fn read(mut table: &File) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    table.seek(SeekFrom::Start(0)).context("cannot read the mounts")?;
    table.read_to_end(&mut text).context("cannot read the mounts")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(list: &[(&str, &str)]) -> Vec<Mount> {
        let mount = |(id, (point, device)): (usize, &(&str, &str))| Mount {
            id: id as u64,
            device: device.as_bytes().to_vec(),
            root: b"/".to_vec(),
            point: point.as_bytes().to_vec(),
            attributes: 0,
            shared: false,
        };
        list.iter().enumerate().map(mount).collect()
    }

    #[test]
    fn mounts_are_missing_as_often_as_they_are_not_there() {
        for (these, those, expected) in [
            (vec![("a", "0:1")], vec![], vec![0]),
            (vec![("a", "0:1")], vec![("a", "0:1")], vec![]),
            (vec![("a", "0:1")], vec![("a", "0:2")], vec![0]),
            (vec![("a", "0:1"), ("a", "0:1")], vec![("a", "0:1")], vec![1]),
            (vec![("a", "0:1"), ("a", "0:2")], vec![("a", "0:2"), ("b", "0:1")], vec![0]),
            (vec![("", "0:1")], vec![], vec![]),
        ] {
            let (these, those) = (mounts(&these), mounts(&those));
            let found: Vec<u64> = difference(&these, &those).iter().map(|mount| mount.id).collect();
            assert_eq!(found, expected, "{these:?} {those:?}");
        }
    }
}
