//! The socket that QEMU connects to: bind it, take over a stale one, bring it back, remove it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, bind, connect, getpeername,
    getsockname, getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod, fstatat};
use nix::unistd::{ForkResult, Gid, Uid, fchownat, fork, pipe2};
use rustix::fs::{RenameFlags, renameat_with};

use super::identity::Identity;
use super::logging;
use super::sys::{self, FileId};
use crate::text::escape_path;

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// This user.
    pub uid: u32,
    /// And this group.
    pub gid: u32,
}

/// The socket's permissions: its owner and group, nobody else.
const MODE: u32 = 0o660;
/// Clients that may wait to be served.
const BACKLOG: i32 = 64;
/// How often a stale socket is taken over: others can put another one there between two calls.
const TAKE_OVER_TRIES: u32 = 3;

/// A listening socket with a name in the file system.
pub(crate) struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// Its name; none for a socket that has none (an abstract one, passed by systemd).
    pub name: Option<Name>,
    admission: Admission,
}

/// Whom the kernel lets connect.
enum Admission {
    /// Whoever this inode's mode lets in: the owner and the group, as long as nobody has changed it.
    ByMode(OwnedFd, Owner),
    /// Nobody knows: somebody else made the socket. This owner is to be the only one, where one is named.
    Unknown(Option<Owner>),
}

/// A socket's name in the file system, and which inode it was given.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    path: PathBuf,
    owner: Owner,
    /// None where it was gone when this process was started.
    inode: Option<FileId>,
    /// Whether this process made it, and so is to remove it.
    ours: bool,
}

impl Listener {
    /// Makes a socket at `path` that only `owner` can connect to. One that nobody listens on any more is taken over; a live
    /// one is left alone and refused.
    pub(crate) fn bind(path: &Path, owner: Owner, identity: &Identity) -> Result<Self> {
        let path = std::path::absolute(path).context("cannot tell what directory the socket is in")?;
        let shown = escape_path(&path);
        let address = UnixAddr::new(path.as_path()).with_context(|| {
            format!("'{shown}' is too long for a socket: {} bytes, 107 are the most", path.as_os_str().len())
        })?;
        let socket = new_socket(SockType::Stream).context("cannot make a socket")?;
        // The new inode takes its mode from the socket: nobody but the owner from the first instant.
        fchmod(&socket, Mode::from_bits_truncate(0o600)).context("cannot set the socket's mode")?;
        // Where the owner may not write to the directory, and this process has no CAP_DAC_OVERRIDE, it may itself: the socket is
        // given away then before anybody else may connect.
        let bind_as_owner =
            || match identity.with_fsids(owner.uid, owner.gid, || bind(socket.as_raw_fd(), &address)) {
                Err(Errno::EACCES) => bind(socket.as_raw_fd(), &address),
                bound => bound,
            };
        let mut bound = bind_as_owner();
        for _ in 0..TAKE_OVER_TRIES {
            if bound != Err(Errno::EADDRINUSE) {
                break;
            }
            take_over(&path, &address)?;
            bound = bind_as_owner();
        }
        bound.with_context(|| match bound {
            Err(Errno::EPERM | Errno::EINVAL) => format!(
                "cannot give the socket '{shown}' to uid {} and gid {}: that needs CAP_SETUID and CAP_SETGID, and ids that \
                 this user namespace has",
                owner.uid, owner.gid
            ),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                format!("cannot bind the socket '{shown}': make its directory first, for QEMU's user to enter")
            }
            _ => format!("cannot bind the socket '{shown}'"),
        })?;
        let (inode, pin) = settle(&path, owner).with_context(|| {
            let _ = fs::remove_file(&path);
            format!("cannot give the socket '{shown}' to uid {} and gid {}", owner.uid, owner.gid)
        })?;
        listen(&socket, Backlog::new(BACKLOG)?).with_context(|| format!("cannot listen on '{shown}'"))?;
        let name = Some(Name { path, owner, inode: Some(inode), ours: true });
        Ok(Self { socket, name, admission: Admission::ByMode(pin, owner) })
    }

    /// Takes a listening socket that this process inherited as descriptor `fd`.
    pub(crate) fn adopt(fd: i32, owner: Option<Owner>) -> Result<Self> {
        let socket = adopt(fd)?;
        if !getsockopt(&socket, sockopt::AcceptConn).context("cannot look at the passed socket")? {
            bail!("descriptor {fd}, passed by LISTEN_FDS, is not a listening socket");
        }
        let address: UnixAddr =
            getsockname(socket.as_raw_fd()).context("cannot tell the passed socket's name")?;
        let name = address.path().and_then(|path| Name::adopt(path, owner));
        Ok(Self { socket, name, admission: Admission::Unknown(owner) })
    }

    /// The same without a descriptor of the socket's file: whoever the kernel lets connect is admitted.
    pub(crate) fn without_file(self) -> Self {
        Self { admission: Admission::Unknown(None), ..self }
    }

    /// Whether the client at the other end of `socket` may be served: the user or a member of the group that the socket is for,
    /// root, or this process's own user. Where the kernel has seen to that when the client connected, it is not asked again.
    pub(crate) fn admits(&self, socket: BorrowedFd<'_>) -> bool {
        let owner = match &self.admission {
            Admission::ByMode(pin, owner) => {
                let unchanged = nix::sys::stat::fstat(pin).is_ok_and(|stat| {
                    (stat.st_mode & 0o777, stat.st_uid, stat.st_gid) == (MODE, owner.uid, owner.gid)
                });
                if unchanged {
                    return true;
                }
                owner
            }
            Admission::Unknown(Some(owner)) => owner,
            Admission::Unknown(None) => return true,
        };
        let Ok(peer) = getsockopt(&socket, sockopt::PeerCredentials) else { return false };
        let users = [0, owner.uid, nix::unistd::geteuid().as_raw()];
        users.contains(&peer.uid())
            || peer.gid() == owner.gid
            || sys::peer_groups(socket).is_ok_and(|groups| groups.contains(&owner.gid))
    }

    /// Waits for a client.
    pub(crate) fn accept(&self) -> Result<OwnedFd, Errno> {
        accept(self.socket.as_fd())
    }
}

/// Takes a client off a listening socket.
pub(crate) fn accept(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let fd = nix::sys::socket::accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: accept4 returned it just now; nobody else has it.
    let client = unsafe { OwnedFd::from_raw_fd(fd) };
    sys::refuse_descriptors(client.as_fd());
    Ok(client)
}

/// Closes sockets whose queues may hold descriptors that clients sent. The last close of such a descriptor can take as long
/// as its sender likes, so a process does it that nobody waits for: at its end, where the kernel does not linger. The caller reaps it.
pub(crate) fn close_elsewhere<T>(sockets: Vec<T>) {
    let gate = (!sockets.is_empty()).then(|| pipe2(OFlag::O_CLOEXEC).ok());
    let Some((gate, open)) = gate.flatten() else { return drop(sockets) };
    // SAFETY: this process has one thread.
    if let Ok(ForkResult::Child) = unsafe { fork() } {
        drop(open);
        // Until the other process has closed them.
        let _ = nix::unistd::read(&gate, &mut [0]);
        // SAFETY: ends the forked process; nothing is left to unwind or flush.
        unsafe { libc::_exit(0) }
    }
    drop(sockets);
    drop(open);
}

impl Name {
    /// The name of a socket that somebody else made. The client that this process is started for may have removed it already:
    /// then only `owner` tells whose the next one is to be.
    fn adopt(path: &Path, owner: Option<Owner>) -> Option<Self> {
        let meta = fs::symlink_metadata(path).ok();
        let inode = FileId::at(path).ok();
        let found = meta.map(|meta| Owner { uid: meta.uid(), gid: meta.gid() });
        let Some(owner) = owner.or(found) else {
            // Before the log is open.
            logging::complain(format_args!(
                "warning: the passed socket '{}' was removed before this process started, and \
                 nobody says whose it was: it can't be made anew; add -u USER -g GROUP",
                escape_path(path)
            ));
            return None;
        };
        Some(Self { path: path.into(), owner, inode, ours: false })
    }

    /// Whose the socket is.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the name still leads to the socket: QEMU removes it as soon as it has connected.
    pub(crate) fn stands(&self) -> bool {
        FileId::at(&self.path).is_ok_and(|now| Some(now) == self.inode)
    }

    /// Removes the name, unless it leads to something else by now, or somebody else made it.
    pub(crate) fn remove(&self) {
        if self.ours && self.stands() {
            let _ = nix::unistd::unlinkat(AT_FDCWD, &self.path, nix::unistd::UnlinkatFlags::NoRemoveDir);
        }
    }

    /// Makes the socket anew after its name was removed.
    pub(crate) fn bind_again(&self, identity: &Identity) -> Result<Listener> {
        Listener::bind(&self.path, self.owner, identity)
    }
}

/// Has no call on this socket wait.
pub(crate) fn set_nonblocking(socket: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Takes a connected stream socket that this process inherited as descriptor `fd`.
pub(crate) fn adopt_connected(fd: i32) -> Result<OwnedFd> {
    let socket = adopt(fd)?;
    if getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false) {
        bail!(
            "-f {fd} is a listening socket; it must be a connected one (a listening one comes by LISTEN_FDS)"
        );
    }
    match getpeername::<UnixAddr>(socket.as_raw_fd()) {
        Ok(_) => Ok(socket),
        Err(Errno::ENOTCONN) => {
            bail!("-f {fd} is a socket that is not connected; pass one end of a connected pair")
        }
        Err(errno) => Err(errno).with_context(|| format!("cannot look at the socket -f {fd}")),
    }
}

/// Takes a unix stream socket that this process inherited as descriptor `fd`.
fn adopt(fd: i32) -> Result<OwnedFd> {
    if fd == libc::STDERR_FILENO {
        bail!("descriptor {fd} is standard error, where log lines go; pass the socket as another one");
    }
    // SAFETY: only looked at; a descriptor that is not open is an error of fstat's.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    match nix::sys::stat::fstat(borrowed) {
        Err(Errno::EBADF) => {
            bail!("descriptor {fd} is not open; pass a connected socket to this process as descriptor {fd}")
        }
        Err(errno) => return Err(errno).with_context(|| format!("cannot look at descriptor {fd}")),
        Ok(stat) if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK => bail!("descriptor {fd} is not a socket"),
        Ok(_) => {}
    }
    let address: nix::sys::socket::SockaddrStorage =
        getsockname(fd).with_context(|| format!("cannot look at the socket {fd}"))?;
    if address.family() != Some(AddressFamily::Unix)
        || getsockopt(&borrowed, sockopt::SockType) != Ok(SockType::Stream)
    {
        bail!("descriptor {fd} is not a unix stream socket");
    }
    // A copy, because a standard stream's number must stay taken.
    let copy = fcntl(borrowed, FcntlArg::F_DUPFD_CLOEXEC(libc::STDERR_FILENO + 1))?;
    // SAFETY: fcntl made it just now; nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(copy) };
    if fd > libc::STDERR_FILENO {
        // SAFETY: it was passed to this process to be its own, and nothing else here knows it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    sys::refuse_descriptors(socket.as_fd());
    // Some pass a socket that does not block; waiting is what this daemon does.
    let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
    fcntl(&socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(socket)
}

fn new_socket(kind: SockType) -> Result<OwnedFd, Errno> {
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    // What it accepts has this from it.
    sys::refuse_descriptors(socket.as_fd());
    Ok(socket)
}

/// Removes a socket that nobody listens on any more.
///
/// Several helpers can do this at once. They take no lock, because any user who can read the directory could hold it.
fn take_over(path: &Path, address: &UnixAddr) -> Result<()> {
    let shown = escape_path(path);
    let meta = fs::symlink_metadata(path).with_context(|| format!("cannot look at '{shown}'"))?;
    if meta.mode() & libc::S_IFMT != libc::S_IFSOCK {
        bail!("'{shown}' exists and is not a socket; remove it, or listen elsewhere with -s");
    }
    match probe(address) {
        Ok(Life::Stale) => {
            log::info!("taking over the socket '{shown}': nobody listens on it any more");
            let removed = remove_stale(path, (meta.dev(), meta.ino()));
            if removed.with_context(|| format!("cannot remove the stale socket '{shown}'"))? {
                Ok(())
            } else {
                bail!(in_use(&shown))
            }
        }
        Err(Errno::ENOENT) => Ok(()),
        Ok(Life::Listening | Life::Datagram) => bail!(in_use(&shown)),
        Err(errno) => Err(errno).with_context(|| format!("cannot tell whether anybody listens on '{shown}'")),
    }
}

fn in_use(shown: &str) -> String {
    format!("'{shown}' is in use: another process listens on it; stop that one, or listen elsewhere with -s")
}

/// A name that nothing has yet, for what is not in its place yet or no more.
pub(crate) fn name_aside() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!(".virtfs-proxy-helper.{}.{}", std::process::id(), now.as_nanos())
}

/// Removes the stale socket `inode` at `path`: moves it to a name of this process's own, looks at it again there, and only then
/// removes it. False where another process has put a live socket in its place meanwhile: that one goes back.
fn remove_stale(path: &Path, inode: (u64, u64)) -> Result<bool> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { bail!("it has no name") };
    // O_PATH waits for nothing, whatever has taken the directory's place.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(parent, flags, Mode::empty())?;
    let aside = name_aside();
    match rename_to_free_name(&directory, name.as_bytes(), aside.as_bytes()) {
        Err(Errno::ENOENT) => return Ok(true),
        moved => moved?,
    }
    let found = fstatat(&directory, aside.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    // By the descriptor, because the longer name may not fit a socket's address.
    let address = UnixAddr::new(format!("/proc/self/fd/{}/{aside}", directory.as_raw_fd()).as_str())?;
    if (found.st_dev, found.st_ino) == inode && probe(&address) == Ok(Life::Stale) {
        nix::unistd::unlinkat(&directory, aside.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir)?;
        return Ok(true);
    }
    rename_to_free_name(&directory, aside.as_bytes(), name.as_bytes())
        .with_context(|| format!("cannot move another process's socket back from '{aside}'"))?;
    Ok(false)
}

/// Renames within a directory, to a name that is free. A file system that can't tell (NFS) renames all the same.
fn rename_to_free_name(directory: &OwnedFd, from: &[u8], to: &[u8]) -> Result<(), Errno> {
    // Not nix's, which has it for glibc only.
    let renamed = renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE);
    match renamed.map_err(|errno| Errno::from_raw(errno.raw_os_error())) {
        Err(Errno::EINVAL | Errno::ENOSYS) => nix::fcntl::renameat(directory, from, directory, to),
        result => result,
    }
}

/// Who is behind a socket's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// A stream socket that is open.
    Listening,
    /// A datagram socket that is open: not one of ours.
    Datagram,
    /// Nobody any more.
    Stale,
}

/// Asks who is behind a socket's name, with a datagram socket: a stream socket that lives there answers 'wrong type', and
/// loses no place in its queue as it would to a real connection.
pub(crate) fn probe(address: &UnixAddr) -> Result<Life, Errno> {
    let socket = new_socket(SockType::Datagram)?;
    match connect(socket.as_raw_fd(), address) {
        Ok(()) => Ok(Life::Datagram),
        Err(Errno::EPROTOTYPE) => Ok(Life::Listening),
        Err(Errno::ECONNREFUSED) => Ok(Life::Stale),
        Err(errno) => Err(errno),
    }
}

/// Opens the new socket to its owner and group: a directory with the setgid bit gave it another one.
fn settle(path: &Path, owner: Owner) -> Result<(FileId, OwnedFd)> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let pin = nix::fcntl::open(path, flags, Mode::empty())?;
    let stat = nix::sys::stat::fstat(&pin)?;
    // As long as the pin is there, its number is given to no other file.
    let there = fs::symlink_metadata(path)?;
    let is_socket = stat.st_mode & libc::S_IFMT == libc::S_IFSOCK;
    if !is_socket || (stat.st_dev, stat.st_ino) != (there.dev(), there.ino()) {
        bail!("it was replaced");
    }
    if (stat.st_uid, stat.st_gid) != (owner.uid, owner.gid) {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        fchownat(&pin, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    let link = format!("/proc/self/fd/{}", pin.as_raw_fd());
    fs::set_permissions(link, std::os::unix::fs::PermissionsExt::from_mode(MODE))?;
    Ok((FileId::of(&pin)?, pin))
}

/// Who is at the other end of `socket`, for the log.
pub(crate) fn describe_peer(socket: BorrowedFd<'_>) -> String {
    match getsockopt(&socket, sockopt::PeerCredentials) {
        // What has no pid here is in another container.
        Ok(peer) if peer.pid() == 0 => {
            format!("a process of another PID namespace, uid {}, gid {}", peer.uid(), peer.gid())
        }
        Ok(peer) => format!("pid {}, uid {}, gid {}", peer.pid(), peer.uid(), peer.gid()),
        Err(_) => "an unknown process".into(),
    }
}
