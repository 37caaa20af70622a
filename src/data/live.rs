//! Who has an export open now, as far as `/proc` tells: processes in it, helpers and QEMUs with it, and what the
//! kernel itself does with its files.
//!
//! Nothing here needs privileges. What an unprivileged process can't see is counted in [`Unseen`], for "nobody uses
//! it" is only worth something together with "and I could look everywhere".

mod commands;
mod kernel;
mod scene;
mod user;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::Context;

use super::mounts::{self, Mounts};
pub(crate) use kernel::KernelUse;
use scene::{Namespaces, Scene, lives};
pub(crate) use user::{Mounted, Unseen};
pub use user::{Role, User};

/// Who uses an export.
#[derive(Debug, Default)]
pub struct Live {
    /// Processes, by number.
    pub users: Vec<User>,
    /// Where it, a directory around it or something in it is mounted besides: a container's volume, a bind mount.
    pub mounts: Vec<Mounted>,
    /// What the kernel does with its files by itself.
    pub kernel: Vec<KernelUse>,
    /// What could not be seen.
    pub unseen: Unseen,
}

impl Live {
    /// The processes that must end before the export's files may change: they serve it, hold files of it open or
    /// map them, or have their root directory in it.
    pub fn busy(&self) -> impl Iterator<Item = &User> {
        self.users.iter().filter(|user| user.is_busy())
    }

    /// Whether anything holds the export so that its files must not change now.
    pub fn is_busy(&self) -> bool {
        self.busy().next().is_some() || !self.kernel.is_empty()
    }
}

/// Looks for everybody who uses the export, an existing directory.
pub fn look(export: &Path) -> anyhow::Result<Live> {
    let scene = Scene::new(export)?;
    let mut live = Live { unseen: blindness(&scene.own), ..Live::default() };
    let mut namespaces = Namespaces::default();
    let processes = processes()?;
    // A descriptor that was opened in one namespace stays open in a process that goes to another one: all are known before the
    // first file is placed. What ends meanwhile, or may not be looked at, is told of below.
    for &pid in &processes {
        let _ = namespaces.of(pid);
    }
    for pid in processes {
        if pid == nix::unistd::getpid().as_raw() {
            continue;
        }
        match scene.user(pid, &mut namespaces, &mut live.unseen) {
            Ok(user) => live.users.extend(user.filter(User::touches)),
            // It has ended meanwhile.
            Err(error) if is_gone(&error) || !lives(pid) => {}
            Err(_) => live.unseen.deny(pid),
        }
    }
    live.users.sort_by_key(|user| user.pid);
    scene.mounted(&scene.own, None, &mut live.mounts);
    let foreign = namespaces.foreign(&scene);
    for (pid, mounts) in &foreign {
        scene.mounted(mounts, Some(*pid), &mut live.mounts);
    }
    live.kernel = kernel::uses(&scene, &foreign, &mut live.unseen);
    live.unseen.namespaces = namespaces.without_processes(&scene.own);
    Ok(live)
}

/// Whether an error says that a process has ended.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Every process that `/proc` shows.
fn processes() -> anyhow::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc").context("reading /proc: is it mounted?")?;
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
}

/// What this process can't see whoever it looks at.
fn blindness(own: &Mounts) -> Unseen {
    // The number of the first PID namespace, the same on every Linux: include/linux/proc_ns.h.
    const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let hides = |mount: &mounts::Mount| {
        let option = |option: &&[u8]| option.starts_with(b"hidepid=") && **option != *b"hidepid=off";
        mount.filesystem_options.split(|&byte| byte == b',').any(|word| option(&word))
    };
    Unseen {
        contained: namespace != Path::new(FIRST_PID_NAMESPACE),
        hidden: !nix::unistd::geteuid().is_root() && own.showing(Path::new("/proc")).is_some_and(hides),
        ..Unseen::default()
    }
}
