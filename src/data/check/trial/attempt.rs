//! The process that tries: it becomes QEMU's user where QEMU is, takes one step after the other, and says how each ended.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use caps::CapSet;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, chroot, fchdir, setgroups, setresgid, setresuid};
use rustix::fs::{Access as RustixAccess, AtFlags, CWD, XattrFlags, accessat};

use super::subject::Trial;

/// How the names of what a try makes begin.
pub(super) const PREFIX: &str = ".virtfs-check-";

/// The attribute that is set: one of those that a mapped share sets.
const ATTRIBUTE: &str = "user.virtfs.uid";

/// How many of the export's own entries are tried.
const MOST_ENTRIES: usize = 1000;

/// statfs(2).
const PROC_SUPER_MAGIC: libc::c_long = 0x9fa0;

/// Tries what `trial` says on `export`, and prints a line for each step: its name, a tabulator, the error.
pub(crate) fn run(export: &Path, trial: &OsStr) -> anyhow::Result<()> {
    let trial = Trial::parse(trial.to_str().context("the try's words")?)?;
    let wanted = Wanted::of(export, &trial)?;
    enter(&trial)?;
    let place = wanted.find();
    become_user(&trial)?;
    let steps = if let Some(place) = place {
        steps(&place, &trial)
    } else {
        let other = io::Error::other("another directory is there, or none, and no mount shows it elsewhere");
        vec![("see the export at its path".to_owned(), Err(other))]
    };
    for (name, result) in steps {
        let error = result.err().map(|error| shown(&error)).unwrap_or_default();
        say!("{name}\t{error}")?;
        if !error.is_empty() {
            break;
        }
    }
    Ok(())
}

fn shown(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!(
            "{:?} ({})",
            nix::errno::Errno::from_raw(number),
            nix::errno::Errno::from_raw(number).desc()
        ),
        None => error.to_string(),
    }
}

/// The export, by what tells a directory from all others, and the places at which it may be seen.
struct Wanted {
    export: PathBuf,
    /// The export and the directories above it, with their numbers.
    way: Vec<(PathBuf, (u64, u64))>,
    /// Where the process has something mounted.
    mounts: Vec<PathBuf>,
}

impl Wanted {
    fn of(export: &Path, trial: &Trial) -> anyhow::Result<Self> {
        let way = export.ancestors().map(|path| Ok((path.to_owned(), number(path)?)));
        let way = way.collect::<io::Result<_>>().context("looking at the export")?;
        let mounts = trial.pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok());
        let mounts = mounts.unwrap_or_default();
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped).collect();
        Ok(Self { export: export.to_owned(), way, mounts })
    }

    /// Its path here; `None`: it can't be seen.
    fn find(&self) -> Option<PathBuf> {
        let own = self.way.first()?.1;
        let places = self.mounts.iter().filter_map(|mount| {
            let at = number(mount).ok()?;
            let (above, _) = self.way.iter().find(|(_, number)| *number == at)?;
            let below = self.export.strip_prefix(above).ok()?;
            Some(if below.as_os_str().is_empty() { mount.clone() } else { mount.join(below) })
        });
        std::iter::once(self.export.clone())
            .chain(places)
            .find(|place| number(place).is_ok_and(|it| it == own))
    }
}

fn number(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A path of mountinfo: proc_pid_mountinfo(5) writes blanks and backslashes as `\\` and three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let digits =
            tail.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        let value = digits.filter(|_| *byte == b'\\');
        out.push(value.unwrap_or(*byte));
        rest = if value.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    PathBuf::from(OsStr::from_bytes(&out))
}

/// Goes where the process is: its user namespace, its mounts, its root.
fn enter(trial: &Trial) -> anyhow::Result<()> {
    let Some(pid) = trial.pid else { return Ok(()) };
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let open =
        |name: &str| File::open(folder.join(name)).with_context(|| format!("opening /proc/{pid}/{name}"));
    let is_same = |name: &str| {
        fs::read_link(folder.join(name)).ok() == fs::read_link(Path::new("/proc/self").join(name)).ok()
    };
    let root = open("root/.")?;
    let mounts = open("ns/mnt")?;
    let users = open("ns/user")?;
    let (same_users, same_mounts) = (is_same("ns/user"), is_same("ns/mnt"));
    if !same_users {
        setns(users, CloneFlags::CLONE_NEWUSER)
            .with_context(|| format!("entering the user namespace of process {pid}"))?;
    }
    if !same_mounts {
        setns(mounts, CloneFlags::CLONE_NEWNS)
            .with_context(|| format!("entering the mounts of process {pid}"))?;
    }
    fchdir(&root)?;
    chroot(".").with_context(|| format!("entering the root of process {pid}"))?;
    Ok(())
}

fn become_user(trial: &Trial) -> anyhow::Result<()> {
    let groups: Vec<Gid> = trial.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(trial.uid), Gid::from_raw(trial.gid));
    if uid == Uid::effective() && gid == Gid::effective() && !uid.is_root() {
        return Ok(());
    }
    // A user namespace may refuse the call: then there are no other groups in it.
    let refused = setgroups(&groups);
    if trial.pid.is_none() {
        refused.context("taking the user's groups, which takes root")?;
    }
    setresgid(gid, gid, gid).context("taking the user's group")?;
    setresuid(uid, uid, uid).context("taking the user")?;
    if let Some(kept) = trial.capabilities {
        let own = caps::read(None, CapSet::Effective)?;
        let kept = own.into_iter().filter(|capability| kept & capability.bitmask() != 0).collect();
        caps::set(None, CapSet::Effective, &kept)?;
    }
    Ok(())
}

type Steps = Vec<(String, io::Result<()>)>;

fn steps(export: &Path, trial: &Trial) -> Steps {
    let mut steps = Steps::new();
    let mut way: Vec<&Path> = export.ancestors().collect();
    way.reverse();
    for folder in way {
        let what = if folder == export {
            "enter the export".to_owned()
        } else {
            format!("enter {}", crate::text::escape_path(folder))
        };
        let entered = nix::unistd::chdir(folder).map_err(io::Error::from);
        let failed = entered.is_err();
        steps.push((what, entered));
        if failed {
            return steps;
        }
    }
    let folder = match &trial.scratch {
        Some(name) => export.join(name),
        None => export.to_owned(),
    };
    if trial.pid.is_some() {
        steps.push(("find /proc, by which QEMU sets attributes".into(), proc_is_there()));
    }
    steps.push(("list the export".into(), fs::read_dir(&folder).map(drop)));
    steps.push(("read an attribute of the export".into(), attribute_of(&folder)));
    steps.extend(barred(&folder, trial.read_only));
    // Nothing is made where something is in the way already.
    if trial.read_only || steps.iter().any(|(_, result)| result.is_err()) {
        return steps;
    }
    let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(&folder);
    match file {
        Err(error) => steps.push(("make a file in the export".into(), Err(error_of(error)))),
        Ok(mut file) => {
            steps.push(("make a file in the export".into(), Ok(())));
            steps.push((
                "write the file".into(),
                file.write_all(b"virtfs").and_then(|()| file.as_file().sync_all()),
            ));
            let mut text = String::new();
            let read = File::open(file.path()).and_then(|mut file| file.read_to_string(&mut text)).map(drop);
            steps.push(("read the file".into(), read));
            let set = rustix::fs::fsetxattr(file.as_file().as_fd(), ATTRIBUTE, &[0; 4], XattrFlags::empty());
            steps.push(("set a user.* attribute of the file".into(), set.map_err(io::Error::from)));
            let mut value = [0; 4];
            let got = rustix::fs::fgetxattr(file.as_file().as_fd(), ATTRIBUTE, value.as_mut_slice());
            steps
                .push(("read a user.* attribute of the file".into(), got.map(drop).map_err(io::Error::from)));
            steps.push(("remove the file".into(), file.close()));
        }
    }
    steps
}

/// Whether a process file system is mounted at /proc. What it says of this process is of no account: it may be another
/// process namespace's.
fn proc_is_there() -> io::Result<()> {
    let is_it = rustix::fs::statfs("/proc").is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC);
    if is_it { Ok(()) } else { Err(io::Error::other("no process file system is mounted there")) }
}

/// The first of the export's own entries that can't be read, or written. What is further down is for the guest to find out.
fn barred(folder: &Path, read_only: bool) -> Option<(String, io::Result<()>)> {
    let entries = fs::read_dir(folder).ok()?.take(MOST_ENTRIES).filter_map(Result::ok);
    for entry in entries {
        let Ok(kind) = entry.file_type() else { continue };
        // The file system's own folder is root's.
        if !(kind.is_file() || kind.is_dir()) || entry.file_name() == "lost+found" {
            continue;
        }
        let mut wanted = RustixAccess::READ_OK;
        wanted.set(RustixAccess::WRITE_OK, !read_only);
        wanted.set(RustixAccess::EXEC_OK, kind.is_dir());
        if let Err(errno) = accessat(CWD, entry.path(), wanted, AtFlags::EACCESS) {
            let name = crate::text::escape_os(&entry.file_name()).into_owned();
            let verb = if read_only { "read" } else { "read and write" };
            return Some((format!("{verb} {name} in the export"), Err(errno.into())));
        }
    }
    None
}

/// The system call's own error, without the path that a library adds.
fn error_of(error: io::Error) -> io::Error {
    let own = error
        .get_ref()
        .and_then(std::error::Error::source)
        .and_then(|source| source.downcast_ref::<io::Error>());
    let number = error.raw_os_error().or_else(|| own.and_then(io::Error::raw_os_error));
    let by_kind = match error.kind() {
        io::ErrorKind::PermissionDenied => Some(libc::EACCES),
        io::ErrorKind::ReadOnlyFilesystem => Some(libc::EROFS),
        io::ErrorKind::NotFound => Some(libc::ENOENT),
        _ => None,
    };
    number.or(by_kind).map_or(error, io::Error::from_raw_os_error)
}

fn attribute_of(folder: &Path) -> io::Result<()> {
    let mut value = [0; 16];
    match rustix::fs::getxattr(folder, ATTRIBUTE, value.as_mut_slice()) {
        Ok(_) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::RANGE) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
