//! The user that QEMU runs as, and what the kernel lets that user do.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, Gid, Group, Uid, User, access};

use crate::text;

/// A user and a group that a converted export belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The user's name, where it has one.
    name: Option<String>,
}

/// Where libvirt's user is configured.
const QEMU_CONF: &str = Owner::LIBVIRT;
/// libvirt's own users: Debian's and Ubuntu's, then everybody else's.
const LIBVIRT_USERS: [&str; 2] = ["libvirt-qemu", "qemu"];

impl Owner {
    /// Where libvirt's user is configured.
    pub(crate) const LIBVIRT: &str = "/etc/libvirt/qemu.conf";

    /// Reads `USER[:GROUP]`, names or numbers. Without a group it is the user's own.
    pub(crate) fn parse(text: &OsStr) -> anyhow::Result<Self> {
        let shown = text::escape_os(text);
        let Some(text) = text.to_str() else { bail!("no user is called '{shown}'") };
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let (number, account) = find_user(user)?;
        let gid = match group {
            Some(group) => find_group(group)?,
            None => account.as_ref().map(|account| account.gid.as_raw()).with_context(|| {
                format!(
                    "user {user} has no entry in the user database and so no group: give it as {user}:GROUP"
                )
            })?,
        };
        Ok(Self { uid: number, gid, name: account.map(|account| account.name) })
    }

    /// The user that this machine's libvirt runs QEMU as; `None` where there is no libvirt.
    pub(crate) fn of_libvirt() -> anyhow::Result<Option<Self>> {
        if let Some(owner) = configured(&fs::read_to_string(QEMU_CONF).unwrap_or_default()) {
            return Self::parse(OsStr::new(&owner))
                .with_context(|| format!("{QEMU_CONF} names QEMU's user"))
                .map(Some);
        }
        for name in LIBVIRT_USERS {
            if listed(User::from_name(name)).with_context(|| format!("looking for user {name}"))?.is_some() {
                // Debian's has another primary group (kvm) than the one that libvirt is built to use.
                let group = listed(Group::from_name(name)).ok().flatten().map(|_| format!("{name}:{name}"));
                return Self::parse(OsStr::new(group.as_deref().unwrap_or(name))).map(Some);
            }
        }
        Ok(None)
    }

    /// [`Owner::parse`] by the accounts of another host: the texts of its passwd(5) and group(5).
    pub(crate) fn parse_of(text: &OsStr, passwd: &str, group: &str) -> anyhow::Result<Self> {
        let shown = text::escape_os(text);
        let Some(text) = text.to_str() else { bail!("no user is called '{shown}'") };
        let (user, own) = text.split_once(':').map_or((text, None), |(user, own)| (user, Some(own)));
        let account = account_of(user, passwd);
        let uid = match (&account, user.parse()) {
            (Some(account), _) => account.uid,
            (None, Ok(number)) => number,
            (None, Err(_)) => bail!("no user is called '{}'", text::escape(user.as_bytes())),
        };
        let gid = match own {
            Some(own) => match own.parse() {
                Ok(number) => number,
                Err(_) => group
                    .lines()
                    .find_map(|line| number_of(line.strip_prefix(own)?.strip_prefix(':')?, 1))
                    .with_context(|| format!("no group is called '{}'", text::escape(own.as_bytes())))?,
            },
            None => account.as_ref().map(|account| account.gid).with_context(|| {
                format!("user {user} has no entry in the host's /etc/passwd and so no group: give it as {user}:GROUP")
            })?,
        };
        Ok(Self { uid, gid, name: account.and_then(|account| account.name) })
    }

    /// [`Owner::of_libvirt`] of another host: by the texts of its qemu.conf, passwd(5) and group(5).
    pub(crate) fn of_libvirt_of(
        configuration: &str,
        passwd: &str,
        group: &str,
    ) -> anyhow::Result<Option<Self>> {
        let parse = |owner: &str| Self::parse_of(OsStr::new(owner), passwd, group);
        if let Some(owner) = configured(configuration) {
            return parse(&owner).with_context(|| format!("{QEMU_CONF} names QEMU's user")).map(Some);
        }
        let known = LIBVIRT_USERS.iter().find(|name| account_of(name, passwd).is_some());
        known.map(|name| parse(&format!("{name}:{name}")).or_else(|_| parse(name))).transpose()
    }

    /// As `--owner` takes it.
    pub(crate) fn argument(&self) -> String {
        match &self.name {
            Some(name) => format!("{name}:{}", self.gid),
            None => format!("{}:{}", self.uid, self.gid),
        }
    }

    /// The first directory on the way to `directory` (absolute), itself included, that this user can't enter; `None`
    /// when all are open. Needs root: the kernel itself is asked, with this user's groups.
    pub(crate) fn barrier_to(&self, directory: &Path) -> anyhow::Result<Option<(PathBuf, Errno)>> {
        let path = directory.to_path_buf();
        self.acting(move || closed_door(&path))
    }

    /// What `ask` finds out as this user. It runs in a thread of its own, for who a thread acts as ends with it.
    fn acting<T: Send + 'static>(&self, ask: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let owner = self.clone();
        let asked = std::thread::spawn(move || owner.become_in_this_thread().map(|()| ask()));
        asked.join().unwrap_or(Err(Errno::EIO)).with_context(|| {
            format!("cannot act as {self}: that takes CAP_SETUID and CAP_SETGID, and an id that this user namespace has")
        })
    }

    /// Gives this thread, and no other, the user's identity.
    fn become_in_this_thread(&self) -> Result<(), Errno> {
        let mut groups = vec![self.gid];
        if let Some(name) = self.name.as_ref().and_then(|name| CString::new(name.as_str()).ok()) {
            let all = nix::unistd::getgrouplist(&name, Gid::from_raw(self.gid))?;
            groups.extend(all.into_iter().map(Gid::as_raw));
        }
        // SAFETY: the kernel reads `groups.len()` numbers from `groups`. The bare system calls change only the calling
        // thread; no memory is involved in the others.
        unsafe {
            done(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
            done(libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid))?;
            done(libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid))
        }
    }
}

/// The first directory on the way to `path`, itself included, that can't be entered.
fn closed_door(path: &Path) -> Option<(PathBuf, Errno)> {
    let mut way: Vec<_> = path.ancestors().collect();
    way.reverse();
    way.into_iter()
        .find_map(|directory| Some((directory.to_path_buf(), access(directory, AccessFlags::X_OK).err()?)))
}

fn done(result: libc::c_long) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(Errno::last()) }
}

impl fmt::Display for Owner {
    /// `libvirt-qemu (64055:64055)`, or the numbers alone.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(out, "{} ({}:{})", text::escape(name.as_bytes()), self.uid, self.gid),
            None => write!(out, "{}:{}", self.uid, self.gid),
        }
    }
}

/// What an account database says; one that is not there, as in an image, lists nobody.
fn listed<T>(answer: nix::Result<Option<T>>) -> nix::Result<Option<T>> {
    match answer {
        Err(Errno::ENOENT) => Ok(None),
        answer => answer,
    }
}

/// The account of a passwd(5) with this name or number.
fn account_of(user: &str, passwd: &str) -> Option<Owner> {
    passwd.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let (uid, gid) = (number_of(rest, 1)?, number_of(rest, 2)?);
        let is_it = name == user || user.parse() == Ok(uid);
        (is_it && !name.is_empty()).then(|| Owner { uid, gid, name: Some(name.to_owned()) })
    })
}

/// The number in a field of a line of an account database, counted from zero.
fn number_of(line: &str, field: usize) -> Option<u32> {
    line.split(':').nth(field)?.parse().ok()
}

fn find_user(user: &str) -> anyhow::Result<(u32, Option<User>)> {
    let shown = text::escape(user.as_bytes());
    if let Ok(number) = user.parse() {
        return Ok((
            number,
            listed(User::from_uid(Uid::from_raw(number)))
                .with_context(|| format!("looking for user {shown}"))?,
        ));
    }
    let account = listed(User::from_name(user))
        .with_context(|| format!("looking for user '{shown}'"))?
        .with_context(|| format!("no user is called '{shown}'"))?;
    Ok((account.uid.as_raw(), Some(account)))
}

fn find_group(group: &str) -> anyhow::Result<u32> {
    let shown = text::escape(group.as_bytes());
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let found = listed(Group::from_name(group)).with_context(|| format!("looking for group '{shown}'"))?;
    Ok(found.with_context(|| format!("no group is called '{shown}'"))?.gid.as_raw())
}

/// `USER[:GROUP]` of a qemu.conf's `user` and `group`; a plus in front of a number is libvirt's mark for one.
fn configured(text: &str) -> Option<String> {
    let setting = |key: &str| {
        let mut lines = text.lines().filter_map(|line| {
            let value = line.trim_start().strip_prefix(key)?.trim_start().strip_prefix('=')?.trim();
            let value = value.strip_prefix('"')?.split('"').next()?;
            Some(value.strip_prefix('+').unwrap_or(value).to_owned())
        });
        lines.next_back()
    };
    let user = setting("user")?;
    Some(setting("group").map_or_else(|| user.clone(), |group| format!("{user}:{group}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn users_and_groups_are_names_or_numbers() {
        for (text, uid, gid) in
            [("root", 0, 0), ("0:5", 0, 5), ("123456:7", 123_456, 7), ("daemon:root", 1, 0)]
        {
            let owner = Owner::parse(OsStr::new(text)).unwrap();
            assert_eq!((owner.uid, owner.gid), (uid, gid), "{text}");
        }
        for text in ["", "no such user", "123456", "root:no such group", "-1", "root:"] {
            assert!(Owner::parse(OsStr::new(text)).is_err(), "{text}");
        }
        assert!(Owner::parse(OsStr::from_bytes(b"\xff")).is_err());
        assert_eq!(Owner::parse(OsStr::new("root")).unwrap().to_string(), "root (0:0)");
    }

    #[test]
    fn another_host_has_accounts_of_its_own() {
        let (passwd, group) =
            ("root:x:0:0::/root:/bin/sh\nvm:x:777:778::/:\nbad\n", "vm:x:778:\nkvm:x:36:vm\n");
        for (text, expected) in [
            ("vm", Some("vm:778")),
            ("777", Some("vm:778")),
            ("vm:kvm", Some("vm:36")),
            ("5:6", Some("5:6")),
            ("vm:6", Some("vm:6")),
            ("5", None),
            ("daemon", None),
            ("vm:no such group", None),
            ("", None),
        ] {
            let owner = Owner::parse_of(OsStr::new(text), passwd, group).ok();
            assert_eq!(owner.map(|owner| owner.argument()).as_deref(), expected, "{text}");
        }
        let libvirt = |configuration, passwd, group| {
            Owner::of_libvirt_of(configuration, passwd, group).unwrap().map(|owner| owner.argument())
        };
        assert_eq!(libvirt("user = \"vm\"\n", passwd, group).as_deref(), Some("vm:778"));
        assert_eq!(libvirt("", passwd, group), None);
        let debian = "libvirt-qemu:x:64055:108::/:\n";
        assert_eq!(libvirt("", debian, "").as_deref(), Some("libvirt-qemu:108"));
        assert_eq!(libvirt("", debian, "libvirt-qemu:x:9:\n").as_deref(), Some("libvirt-qemu:9"));
    }

    #[test]
    fn qemu_conf_says_who_libvirt_runs_qemu_as() {
        for (text, found) in [
            ("", None),
            ("#user = \"x\"\n", None),
            ("user = \"q\"\n", Some("q")),
            ("  user=\"+64055\"\t# comment\ngroup = \"kvm\"\n", Some("64055:kvm")),
            ("user = \"a\"\nuser = \"b\"\n", Some("b")),
            ("username = \"q\"\n", None),
        ] {
            assert_eq!(configured(text).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn the_first_closed_door_is_named() {
        assert!(Uid::effective().is_root(), "this test acts as another user: run it as root");
        let scratch = tempfile::tempdir().unwrap();
        let (closed, export) = (scratch.path().join("closed"), scratch.path().join("closed/export"));
        fs::create_dir_all(&export).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let owner = Owner::parse(OsStr::new("54321:54321")).unwrap();
        let barrier = || owner.barrier_to(&export).unwrap();
        mode(scratch.path(), 0o711);
        mode(&closed, 0o700);
        assert_eq!(barrier(), Some((closed.clone(), Errno::EACCES)));
        mode(&closed, 0o711);
        assert_eq!(owner.barrier_to(&closed).unwrap(), None);
        mode(&export, 0o700);
        assert_eq!(barrier(), Some((export.clone(), Errno::EACCES)));
        std::os::unix::fs::chown(&export, Some(54321), Some(54321)).unwrap();
        assert_eq!(barrier(), None);
        assert!(Uid::effective().is_root(), "nobody else's identity has changed");
    }
}
