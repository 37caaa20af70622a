//! The walls around a serving process: namespace, chroot or none.
//!
//! Each kind ends in the same place: the export is reached as [`ExportRoot`] says, and the working directory is a
//! view of this process's own `/proc/self/fd`. That view is what [`super::export`] opens pinned files through. Where the
//! kernel lets us clone the mount it is unattached to anything: `..` leads nowhere from it, and there is
//! no other way from it either, so that nothing of `/proc` but this process's own descriptors is in reach.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::OFlags;

use super::export::ExportRoot;
use super::isolation::{Access, Sandbox, Seccomp};
use super::layer_switch::layer_enabled;
use super::layers::{Layer, Layers};
use super::mount_watch::{Host, Watched};
use super::sys::{self, FileId};
use crate::kernel;
use crate::text::escape_path;

/// The directory to be served, found before anything is given up.
pub struct Directory {
    path: PathBuf,
    file: File,
}

impl Directory {
    /// Finds the directory; a symbolic link to one will do.
    pub fn find(path: &Path) -> Result<Self> {
        let shown = escape_path(path);
        let path = std::path::absolute(path)
            .with_context(|| format!("cannot tell what directory '{shown}' is in"))?;
        let file = match kernel::open_path(&path, OFlags::DIRECTORY) {
            Ok(file) => file,
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT) => {
                    bail!("'{shown}' does not exist; give the directory to export with -p")
                }
                Some(Errno::ENOTDIR) => {
                    bail!("'{shown}' is not a directory; only a directory can be exported (-p)")
                }
                _ => return Err(error).with_context(|| format!("cannot reach the export '{shown}'")),
            },
        };
        Ok(Self { path, file })
    }

    /// The directory's path, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the directory, so that the host can unmount it. It is found again by its path.
    pub fn close(self) -> Result<Export> {
        Ok(Export { first: self.id()?, path: self.path })
    }

    fn id(&self) -> Result<FileId> {
        FileId::of(&self.file).context("cannot look at the export")
    }

    /// Finds the directory again by its path, in the mount namespace this process is in now. Another one that took its place is
    /// refused.
    fn again(&self) -> Result<OwnedFd> {
        let again = Self::find(&self.path)?;
        if again.id()? != self.id()? {
            bail!("'{}' was replaced at this very moment; connect or start again", escape_path(&self.path));
        }
        Ok(again.file.into())
    }
}

/// The path of the directory to be served, and which directory was there at the start.
pub struct Export {
    path: PathBuf,
    first: FileId,
}

impl Export {
    /// Finds the directory that is there now, to look at it and no more.
    pub fn find_silently(&self) -> Result<Directory> {
        Directory::find(&self.path)
    }

    /// Finds the directory that is there now, be it another one than at the start, to serve it.
    pub fn find(&self) -> Result<Directory> {
        let directory = self.find_silently()?;
        if directory.id()? != self.first {
            log::info!(
                "'{}' is another directory than when the helper started: it was replaced, mounted or unmounted. \
                 Serving the directory that is there now",
                escape_path(&self.path)
            );
        }
        Ok(directory)
    }
}

/// How a process that is behind its walls reaches the export.
pub struct Entered {
    /// How paths become files.
    pub reach: ExportRoot,
    /// The sandbox that it got.
    pub sandbox: Sandbox,
    /// The layers of it.
    pub layers: Layers,
    /// What keeps its mounts as the host's, where it has mounts of its own.
    pub watched: Option<Watched>,
}

/// Puts this process, and it alone, behind the walls of `sandbox`. Where it can't have a namespace it falls back to chroot,
/// and says so. Where `access` is for reading only, so is each mount of a namespace of its own. `seccomp` is for the
/// process that watches the mounts. Returns how the export is reached now, and by which layers.
pub fn enter(sandbox: Sandbox, directory: &Directory, access: Access, seccomp: Seccomp) -> Result<Entered> {
    let (descriptors, is_private) = own_descriptors()?;
    let mut entered = match sandbox {
        Sandbox::Namespace => match enter_namespace(directory, RESTRICTIONS | access.attributes(), seccomp) {
            Ok(watched) => {
                let reach = ExportRoot::Rooted { nodev: true };
                let layers =
                    Layers::of(&[Layer::MountNamespace, Layer::Restrictions]).and(read_only_layer(access));
                Entered { reach, sandbox: Sandbox::Namespace, layers, watched: Some(watched) }
            }
            Err(NamespaceError::Forbidden(step, errno)) => {
                log::warn!(
                    "no mount namespace here ({step}: {}): falling back to --sandbox=chroot",
                    errno.desc()
                );
                enter_chroot(directory)?
            }
            Err(NamespaceError::Failed(error)) => return Err(error),
        },
        Sandbox::Chroot => enter_chroot_in_namespace(directory, access, seccomp)?,
        Sandbox::None => Entered {
            reach: beneath(directory)?,
            sandbox: Sandbox::None,
            layers: Layers::of(&[Layer::Beneath]),
            watched: None,
        },
    };
    entered.layers = entered.layers.with(Layer::View, is_private);
    nix::unistd::fchdir(&descriptors).context("cannot change to /proc/self/fd")?;
    Ok(entered)
}

/// The attributes of each mount in the namespace.
const RESTRICTIONS: u64 = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;

/// Leaves the host's network, IPC and UTS namespaces: a process that serves has no use for any of them. Making a
/// network namespace takes the kernel milliseconds, so this is done once, not for every client. Where it is forbidden it
/// is left undone. Returns those that were left.
pub(crate) fn leave_shared_namespaces(sandbox: Sandbox) -> Layers {
    let mut left = Layers::default();
    if sandbox != Sandbox::Namespace {
        return left;
    }
    for (flag, layer) in [
        (CloneFlags::CLONE_NEWNET, Layer::Network),
        (CloneFlags::CLONE_NEWIPC, Layer::Ipc),
        (CloneFlags::CLONE_NEWUTS, Layer::Uts),
    ] {
        match unshare(flag) {
            Ok(()) => left = left.with(layer, true),
            Err(errno) => log::debug!("no {}: {}", Layers::of(&[layer]), errno.desc()),
        }
    }
    left
}

/// `/proc/self/fd`, as a mount of its own where the kernel allows it; and whether it is one.
fn own_descriptors() -> Result<(OwnedFd, bool)> {
    let path = c"/proc/self/fd";
    let tree =
        if layer_enabled("view") { sys::clone_mount(AT_FDCWD, path, false) } else { Err(Errno::ENOSYS) };
    match tree {
        Ok(tree) => Ok((tree, true)),
        Err(errno @ (Errno::EPERM | Errno::ENOSYS | Errno::EINVAL)) => {
            log::debug!("no {}: {}", Layers::of(&[Layer::View]), errno.desc());
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty()).map(|plain| (plain, false))
        }
        Err(errno) => Err(errno),
    }
    .context("cannot reach /proc/self/fd; mount /proc where the helper runs")
}

enum NamespaceError {
    /// The kernel or the container does not let us: this step, with this error.
    Forbidden(&'static str, Errno),
    Failed(anyhow::Error),
}

impl NamespaceError {
    /// Sorts a step's error.
    fn at(step: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| match errno {
            Errno::EPERM | Errno::ENOSYS | Errno::EACCES | Errno::EINVAL | Errno::ENOSPC => {
                Self::Forbidden(step, errno)
            }
            errno => {
                Self::Failed(anyhow::Error::new(errno).context(format!("cannot enter the sandbox ({step})")))
            }
        }
    }
}

/// A mount namespace with the export as its root, whose mounts follow the host's and have `attributes` besides. The steps before pivot_root change nothing
/// that a fall-back to chroot would miss.
fn enter_namespace(
    directory: &Directory,
    attributes: u64,
    seccomp: Seccomp,
) -> Result<Watched, NamespaceError> {
    let host = Host::take(directory.file.as_fd()).map_err(NamespaceError::at("/proc/self"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(NamespaceError::at("unshare"))?;
    // What happens here must not reach the host; what the host mounts and unmounts below the export must come here.
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(NamespaceError::at("mount --make-rslave"))?;
    let export = directory.again().map_err(NamespaceError::Failed)?;
    let tree = sys::clone_mount(export.as_fd(), c"", true).map_err(NamespaceError::at("open_tree"))?;
    sys::enslave_mounts(tree.as_fd(), attributes).map_err(NamespaceError::at("mount_setattr"))?;
    sys::attach_mount(tree.as_fd(), export.as_fd()).map_err(NamespaceError::at("move_mount"))?;
    nix::unistd::fchdir(&tree).map_err(NamespaceError::at("fchdir"))?;
    // With both arguments the working directory the old root ends up on top of the new one (pivot_root(2)), and one umount
    // takes it away with all that is mounted below.
    nix::unistd::pivot_root(".", ".").map_err(NamespaceError::at("pivot_root"))?;
    let failed = |step| move |errno| NamespaceError::Failed(anyhow::Error::new(errno).context(step));
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("cannot let go of the host's root directory"))?;
    nix::unistd::chdir("/").map_err(failed("cannot change to the export"))?;
    Watched::start(host, tree, attributes, seccomp).map_err(NamespaceError::Failed)
}

/// `--sandbox=chroot`: the export as the root of a mount namespace, with the host's own attributes, so that no directory's
/// descriptor leads out of it, and none can be written through if the export is served for reading. (Who is sent a descriptor is
/// outside of any chroot of this process's.) Where that is forbidden, a plain chroot; and where a mount is private and clients
/// may write, because only a process in the host's namespace sees at once what the host mounts there.
fn enter_chroot_in_namespace(directory: &Directory, access: Access, seccomp: Seccomp) -> Result<Entered> {
    let follows = || {
        Host::take(directory.file.as_fd()).is_ok_and(|host| matches!(host.has_private_mounts(), Ok(false)))
    };
    if layer_enabled("mounts") && (access == Access::Read || follows()) {
        match enter_namespace(directory, access.attributes(), seccomp) {
            Ok(watched) => {
                let reach = ExportRoot::Rooted { nodev: false };
                let layers = Layers::of(&[Layer::MountNamespace, Layer::Chroot]).and(read_only_layer(access));
                return Ok(Entered { reach, sandbox: Sandbox::Chroot, layers, watched: Some(watched) });
            }
            Err(NamespaceError::Forbidden(step, errno)) => {
                log::debug!("no mount namespace for the chroot ({step}: {})", errno.desc());
            }
            Err(NamespaceError::Failed(error)) => return Err(error),
        }
    }
    enter_chroot(directory)
}

fn enter_chroot(directory: &Directory) -> Result<Entered> {
    nix::unistd::fchdir(&directory.again()?).context("cannot change to the export")?;
    match nix::unistd::chroot(".") {
        // Its mounts are the host's, with devices or without.
        Ok(()) => Ok(Entered {
            reach: ExportRoot::Rooted { nodev: false },
            sandbox: Sandbox::Chroot,
            layers: Layers::of(&[Layer::Chroot]),
            watched: None,
        }),
        Err(Errno::EPERM) => bail!(
            "cannot chroot into '{}': CAP_SYS_CHROOT is missing. Start the helper as root, give it the capability, \
             or use --sandbox=none on files of your own",
            escape_path(directory.path())
        ),
        Err(errno) => {
            Err(errno).with_context(|| format!("cannot chroot into '{}'", escape_path(directory.path())))
        }
    }
}

fn beneath(directory: &Directory) -> Result<ExportRoot> {
    let root = directory.again()?;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    match openat2(&root, ".", how) {
        Ok(_) => Ok(ExportRoot::Beneath(root)),
        Err(Errno::ENOSYS) => {
            bail!("--sandbox=none needs openat2 (Linux 5.6); use --sandbox=chroot on this kernel")
        }
        Err(errno) => Err(errno).context("cannot resolve paths beneath the export"),
    }
}

/// The layer that read-only mounts are.
fn read_only_layer(access: Access) -> Layers {
    Layers::default().with(Layer::ReadOnly, access == Access::Read)
}
