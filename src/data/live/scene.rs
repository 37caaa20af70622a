//! What the processes of this machine are compared with: the export, its mounts and its files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::data::mounts::{self, Location, Mounts};
use crate::kernel::open_path;
use crate::text;

use super::commands;
use super::user::{Held, Mounted, Role, Unseen, User};

/// How a file is opened as a mere name, which never waits.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// The export that we look for, and ourselves.
pub(super) struct Scene {
    /// Its path, absolute and free of symbolic links.
    pub(super) path: PathBuf,
    /// Where it lies.
    pub(super) location: Location,
    /// Where our own root directory lies: not always at a filesystem's root, as in a container or on a subvolume.
    pub(super) root: Option<Location>,
    /// `st_dev` of its files.
    pub(super) device: u64,
    /// Our own mounts.
    pub(super) own: Mounts,
    /// Our own mount namespace, as its link in `/proc` reads.
    pub(super) namespace: PathBuf,
}

/// The namespaces met, by their links in `/proc`.
#[derive(Default)]
pub(super) struct Namespaces {
    /// The mounts of each mount namespace, and of each root directory in it that hides some, with a process that sees them.
    pub(super) mounts: HashMap<(PathBuf, PathBuf), (i32, Rc<Mounts>)>,
    /// The paths that sockets of each network namespace are bound to, by the sockets' inodes.
    pub(super) sockets: HashMap<PathBuf, Rc<HashMap<u64, PathBuf>>>,
}

impl Namespaces {
    /// The mounts that a process sees.
    pub(super) fn of(&mut self, pid: i32) -> io::Result<Rc<Mounts>> {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt"))?;
        let root = fs::read_link(format!("/proc/{pid}/root"))?;
        // A process in a chroot sees fewer mounts, and those under other names.
        let key = (namespace, root);
        if let Some((_, mounts)) = self.mounts.get(&key) {
            return Ok(mounts.clone());
        }
        let mounts = Rc::new(Mounts::of(pid)?.seen_from_outside(&key.1));
        self.mounts.insert(key, (pid, mounts.clone()));
        Ok(mounts)
    }

    /// The mount of this number in any of the namespaces.
    pub(super) fn mount(&self, id: u64) -> Option<&mounts::Mount> {
        self.mounts.values().find_map(|(_, mounts)| mounts.by_id(id))
    }

    /// What the sockets that a process can have are bound to, unix(7).
    pub(super) fn sockets(&mut self, pid: i32) -> io::Result<Rc<HashMap<u64, PathBuf>>> {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/net"))?;
        if let Some(sockets) = self.sockets.get(&namespace) {
            return Ok(sockets.clone());
        }
        let text = fs::read(format!("/proc/{pid}/net/unix")).unwrap_or_default();
        let sockets: HashMap<_, _> = text.split(|&byte| byte == b'\n').filter_map(bound).collect();
        let sockets = Rc::new(sockets);
        self.sockets.insert(namespace, sockets.clone());
        Ok(sockets)
    }

    /// How many mount namespaces that a mount keeps no process that we have met is in.
    pub(super) fn without_processes(&self, own: &Mounts) -> u64 {
        let is_unmet = |mount: &&mounts::Mount| {
            mount.kind == b"nsfs"
                && mount.root.as_os_str().as_bytes().starts_with(b"mnt:")
                && !self.mounts.keys().any(|(namespace, _)| *namespace == mount.root)
        };
        u64::try_from(own.iter().filter(is_unmet).count()).unwrap_or(u64::MAX)
    }

    pub(super) fn foreign(&self, scene: &Scene) -> Vec<(i32, &Mounts)> {
        let foreign = self.mounts.iter().filter(|((namespace, _), _)| *namespace != scene.namespace);
        let mut found: Vec<_> = foreign.map(|(_, (pid, mounts))| (*pid, &**mounts)).collect();
        found.sort_by_key(|(pid, _)| *pid);
        found
    }
}

impl Scene {
    pub(super) fn new(export: &Path) -> anyhow::Result<Self> {
        let shown = text::escape_path(export);
        let path = fs::canonicalize(export).with_context(|| format!("finding '{shown}'"))?;
        let pin = open_path(&path, OFlags::empty()).with_context(|| format!("opening '{shown}'"))?;
        let own = Mounts::own()?;
        let id = mounts::mount_id(&pin).with_context(|| format!("asking for the mount of '{shown}'"))?;
        let location = own.by_id(id).and_then(|mount| mount.locate(&path)).with_context(|| {
            format!(
                "'{shown}' is on no mount that /proc/self/mountinfo tells of: run this outside the chroot"
            )
        })?;
        let slash = Path::new("/");
        let root = open_path(slash, OFlags::empty()).and_then(mounts::mount_id).ok();
        let root = root.and_then(|id| own.by_id(id)?.locate(slash));
        let device = pin.metadata().with_context(|| format!("asking after '{shown}'"))?.dev();
        let namespace = fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
        Ok(Self { path, location, root, device, own, namespace })
    }

    /// What one process has to do with the export; `None` for the kernel's own threads, and for one that has ended.
    pub(super) fn user(
        &self,
        pid: i32,
        namespaces: &mut Namespaces,
        unseen: &mut Unseen,
    ) -> io::Result<Option<User>> {
        let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        if !lives(pid) {
            return Ok(None);
        }
        let command = fs::read(of("cmdline"))?;
        let name = fs::read(of("comm"))?.trim_ascii_end().to_vec();
        let uid = fs::metadata(of(""))?.uid();
        // Its command line is everybody's to read, its environment is not: holds() counts it as unseen then.
        let environment = fs::read(of("environ")).unwrap_or_default();
        let (role, paths) = commands::role(&command, &environment, &name);
        let named = paths.iter().any(|path| self.is_named(pid, path, namespaces));
        let mut user = User {
            pid,
            name,
            uid,
            role,
            named,
            open: Held::default(),
            mapped: Held::default(),
            listens: Held::default(),
            cwd: None,
            root: None,
        };
        match self.holds(&mut user, namespaces, unseen) {
            Ok(()) => {}
            // Its command line is everybody's to read, its files are not. One that ends answers with the same error.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && lives(pid) => unseen.deny(pid),
            Err(error) => return Err(error),
        }
        Ok(Some(user))
    }

    /// Whether `path`, as the process `pid` spells it, is the export, a directory around it, or one in it.
    pub(super) fn is_named(&self, pid: i32, path: &Path, namespaces: &mut Namespaces) -> bool {
        let overlaps = |location: &Location| {
            self.way_to(location).is_some() || location.way_to(&self.location).is_some()
        };
        let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let cwd = fs::read_link(of("cwd")).unwrap_or_default();
        let path = cwd.join(path);
        let within = || {
            let root = open_path(&of("root"), OFlags::empty()).ok()?;
            let file =
                rustix::fs::openat2(root, &path, NAME_ONLY, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
            let target = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
            self.locate(&target, mounts::mount_id(&file).ok()?, namespaces)
        };
        if within().is_some_and(|location| overlaps(&location)) {
            return true;
        }
        // A helper that made its export its root can't find it by that name any more. The name is one of this mount
        // namespace, unless the process has another one.
        let foreign = fs::read_link(of("ns/mnt")).is_ok_and(|namespace| namespace != self.namespace);
        let own = fs::canonicalize(&path).unwrap_or(path);
        !foreign && own.is_absolute() && (own.starts_with(&self.path) || self.path.starts_with(&own))
    }

    /// Fills in what a process holds of the export, and counts what might be the export's or not.
    pub(super) fn holds(
        &self,
        user: &mut User,
        namespaces: &mut Namespaces,
        unseen: &mut Unseen,
    ) -> io::Result<()> {
        let pid = user.pid;
        let theirs = namespaces.of(pid)?;
        let mut unplaced = 0;
        let mut place = |link: &Path, id: Option<u64>| {
            let target = fs::read_link(link).ok()?;
            let location = self.locate(&target, id?, namespaces);
            if location.is_none() && fs::metadata(link).is_ok_and(|metadata| metadata.dev() == self.device) {
                unplaced += 1;
            }
            location
        };
        let mut sockets = Vec::new();
        let directory = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        for (name, to) in [("cwd", &mut user.cwd), ("root", &mut user.root)] {
            let link = directory(name);
            let id = open_path(&link, OFlags::empty()).and_then(mounts::mount_id).ok();
            let location = place(&link, id);
            *to = location.as_ref().and_then(|location| self.way_to(location));
            // A helper may serve more than this export: a directory around it, and be chrooted there.
            let serves = |location: &Location| {
                location.path != Path::new("/")
                    && Some(location) != self.root.as_ref()
                    && location.way_to(&self.location).is_some()
            };
            if name == "root" && user.role == Role::Helper && location.as_ref().is_some_and(serves) {
                user.named = true;
            }
        }
        for entry in fs::read_dir(directory("fd"))? {
            let link = entry?.path();
            // It may be closed meanwhile.
            let Ok(target) = fs::read_link(&link) else { continue };
            let socket = socket(&target);
            if socket.is_none() && !target.is_absolute() {
                // A pipe, say.
                continue;
            }
            let number = link.file_name().unwrap_or_default();
            let info = fs::read(directory("fdinfo").join(number)).unwrap_or_default();
            if let Some(socket) = socket {
                sockets.push(socket);
                unseen.in_flight += in_flight(&info);
                continue;
            }
            if let Some(location) = place(&link, mounts::mount_id_of(&info))
                && let Some(way) = self.way_to(&location)
            {
                user.open.add(way);
            }
        }
        for way in self.mappings(pid, &theirs, namespaces)? {
            user.mapped.add(way);
        }
        unseen.unplaced += unplaced;
        if !sockets.is_empty() {
            let bound = namespaces.sockets(pid)?;
            for path in sockets.iter().filter_map(|socket| bound.get(socket)) {
                if let Some(way) = self.socket(pid, path, namespaces) {
                    user.listens.add(way);
                }
            }
        }
        Ok(())
    }

    /// The way to a socket that a process has bound to a path.
    pub(super) fn socket(&self, pid: i32, path: &Path, namespaces: &Namespaces) -> Option<PathBuf> {
        let from = if path.is_absolute() { "root" } else { "cwd" };
        let path = path.strip_prefix("/").unwrap_or(path);
        let pin =
            open_path(&PathBuf::from(format!("/proc/{pid}/{from}")).join(path), OFlags::empty()).ok()?;
        let target = fs::read_link(format!("/proc/self/fd/{}", pin.as_raw_fd())).ok()?;
        self.way_to(&self.locate(&target, mounts::mount_id(&pin).ok()?, namespaces)?)
    }

    /// The files of the export that a process maps, each once.
    pub(super) fn mappings(
        &self,
        pid: i32,
        theirs: &Mounts,
        namespaces: &Namespaces,
    ) -> io::Result<Vec<PathBuf>> {
        let text = fs::read(format!("/proc/{pid}/maps"))?;
        let mut found = Vec::new();
        for line in text.split(|&byte| byte == b'\n') {
            // address permissions offset device inode, blanks, path
            let mut fields = line.splitn(6, |&byte| byte == b' ');
            let (Some(address), Some(path)) = (fields.next(), fields.nth(4)) else { continue };
            let path = path.trim_ascii_start();
            if !path.starts_with(b"/") {
                continue;
            }
            let link = PathBuf::from(format!("/proc/{pid}/map_files/{}", map_file(address)));
            let path = PathBuf::from(OsStr::from_bytes(&mounts::unescape(path)));
            let location = match open_path(&link, OFlags::empty()).and_then(mounts::mount_id) {
                Ok(id) => self.locate(&path, id, namespaces),
                // Only root may follow these links: then the path has to do.
                Err(_) => theirs
                    .showing(&path)
                    .or_else(|| self.own.showing(&path))
                    .and_then(|mount| mount.locate(&path)),
            };
            let way = location.as_ref().and_then(|location| self.way_to(location));
            found.extend(way.filter(|way| !found.contains(way)));
        }
        Ok(found)
    }

    /// Where a file lies that is reached through mount `id` and that the kernel calls `path`.
    pub(super) fn locate(&self, path: &Path, id: u64, namespaces: &Namespaces) -> Option<Location> {
        // The kernel tells paths as we see them where we can, else from the root of the mount's namespace.
        self.own.by_id(id).or_else(|| namespaces.mount(id))?.locate(path)
    }

    /// The way from the export to a file in it.
    pub(super) fn way_to(&self, location: &Location) -> Option<PathBuf> {
        let way = self.location.way_to(location)?;
        Some(
            way.as_os_str()
                .as_bytes()
                .strip_suffix(b" (deleted)")
                .map_or_else(|| way.to_path_buf(), |alive| PathBuf::from(OsStr::from_bytes(alive))),
        )
    }

    /// Adds the mounts of a list that show something of the export elsewhere.
    pub(super) fn mounted(&self, mounts: &Mounts, namespace_of: Option<i32>, to: &mut Vec<Mounted>) {
        for mount in mounts.iter() {
            let root = Location { device: mount.device.clone(), path: mount.root.clone() };
            // The export's own mount point, and its copy in another namespace, is no other place.
            let elsewhere = if namespace_of.is_some() {
                // A copy of one of our own mounts has come with the namespace.
                let is_copy = |own: &mounts::Mount| {
                    (&own.device, &own.root, &own.point) == (&mount.device, &mount.root, &mount.point)
                };
                !self.own.iter().any(is_copy)
            } else {
                !mount.point.starts_with(&self.path)
            };
            if let Some(part) = self.location.way_to(&root)
                && elsewhere
            {
                to.push(Mounted { point: mount.point.clone(), part: part.to_path_buf(), namespace_of });
            }
        }
    }
}

/// The inode of a socket, by which its link in `/proc/PID/fd` names it.
pub(super) fn socket(link: &Path) -> Option<u64> {
    let text = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    text.parse().ok()
}

/// How many open files wait in a socket, by its `fdinfo`: proc_pid_fdinfo(5).
pub(super) fn in_flight(fdinfo: &[u8]) -> u64 {
    let count = |line: &[u8]| std::str::from_utf8(line.strip_prefix(b"scm_fds:")?).ok()?.trim().parse().ok();
    fdinfo.split(|&byte| byte == b'\n').find_map(count).unwrap_or(0)
}

/// The inode and the path of a socket in a line of `/proc/net/unix`; `None` where it has no path in a file system.
pub(super) fn bound(line: &[u8]) -> Option<(u64, PathBuf)> {
    let mut rest = line;
    let mut field = || {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        rest = rest.get(start..)?;
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let field = rest.get(..end)?;
        rest = rest.get(end + 1..)?;
        Some(field)
    };
    // Num RefCount Protocol Flags Type St Inode Path
    let inode = (0..7).map(|_| field()).last()??;
    let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
    // An abstract name begins with @.
    (!rest.is_empty() && !rest.starts_with(b"@")).then(|| (inode, PathBuf::from(OsStr::from_bytes(rest))))
}

/// The name in `map_files` of a range of addresses in `maps`: the same without leading zeros.
pub(super) fn map_file(addresses: &[u8]) -> String {
    let text = String::from_utf8_lossy(addresses);
    let bare = text.split('-').map(|address| address.trim_start_matches('0'));
    bare.map(|address| if address.is_empty() { "0" } else { address }).collect::<Vec<_>>().join("-")
}

/// Whether a process is there, has not ended, and is no thread of the kernel's: proc_pid_stat(5).
pub(super) fn lives(pid: i32) -> bool {
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { return false };
    // The name, in parentheses, may hold anything.
    let after_name = stat.rsplit(|&byte| byte == b')').next().unwrap_or_default();
    let text = String::from_utf8_lossy(after_name);
    let mut fields = text.split_ascii_whitespace();
    let has_ended = matches!(fields.next(), None | Some("Z" | "X"));
    let flags: u64 = fields.nth(5).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    !has_ended && flags & KERNEL_THREAD == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bound_sockets_are_read_from_the_kernels_list() {
        for (line, expected) in [
            ("00000000a: 00000002 00000000 00010000 0001 01 23512 /run/a b", Some((23512, "/run/a b"))),
            ("00000000a: 00000002 00000000 00010000 0001 01    12 relative", Some((12, "relative"))),
            ("00000000a: 00000002 00000000 00010000 0001 01 23512 @abstract", None),
            ("00000000a: 00000003 00000000 00000000 0001 03 23512", None),
            ("Num       RefCount Protocol Flags    Type St Inode Path", None),
            ("", None),
        ] {
            let found = bound(line.as_bytes());
            assert_eq!(found, expected.map(|(inode, path)| (inode, PathBuf::from(path))), "{line}");
        }
        assert_eq!(socket(Path::new("socket:[77]")), Some(77));
        assert_eq!(socket(Path::new("pipe:[77]")), None);
        assert_eq!(in_flight(b"pos:\t0\nscm_fds: 3\n"), 3);
        assert_eq!(in_flight(b"pos:\t0\n"), 0);
    }

    proptest! {
        #[test]
        fn the_kernels_list_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (bound(&bytes), in_flight(&bytes));
        }
    }
}
