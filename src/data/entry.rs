//! An entry as the guest sees it, and the inode that carries it.
//!
//! The same [`Entry`] is made of a passthrough tree ([`super::passthrough`]) and of the two mapped forms
//! ([`super::mapped_xattr`], [`super::mapped_file`]): where two of them are equal, the guest sees no difference.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::identity::Id;
pub(crate) use super::time::Time;

/// What an entry is: its type bits, `mode & S_IFMT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket's file.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

/// The type bits of a mode.
const TYPE: u32 = libc::S_IFMT;

impl Kind {
    /// Every kind there is.
    pub const ALL: [Self; 7] = [
        Self::File,
        Self::Directory,
        Self::Symlink,
        Self::Fifo,
        Self::Socket,
        Self::CharacterDevice,
        Self::BlockDevice,
    ];

    /// The kind that a mode's type bits say; `None` where no kind has such bits.
    pub fn of(mode: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.bits() == mode & TYPE)
    }

    /// Its type bits.
    pub const fn bits(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::CharacterDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
        }
    }

    /// Its letter, as `find -printf %y` has it.
    pub const fn letter(self) -> char {
        match self {
            Self::File => 'f',
            Self::Directory => 'd',
            Self::Symlink => 'l',
            Self::Fifo => 'p',
            Self::Socket => 's',
            Self::CharacterDevice => 'c',
            Self::BlockDevice => 'b',
        }
    }

    /// Its name in a sentence.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "regular file",
            Self::Directory => "directory",
            Self::Symlink => "symbolic link",
            Self::Fifo => "FIFO",
            Self::Socket => "socket",
            Self::CharacterDevice => "character device",
            Self::BlockDevice => "block device",
        }
    }

    /// Whether it has a device number.
    pub const fn is_device(self) -> bool {
        matches!(self, Self::CharacterDevice | Self::BlockDevice)
    }

    /// Whether a mapped model keeps it as a regular file that only stands for it.
    pub const fn is_replaced(self) -> bool {
        !matches!(self, Self::File | Self::Directory)
    }
}

/// An extended attribute: its name and its value.
pub(crate) type Xattr = (Vec<u8>, Vec<u8>);

/// An entry as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Type bits, set-id bits, sticky bit and permissions: `st_mode`.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// A device's number, as `st_rdev` gives it; 0 for everything else.
    pub rdev: u64,
    /// A symbolic link's target. `None` for everything else, and for a link that the guest can't read: one that
    /// stands on disk as a symbolic link under a mapped model.
    pub target: Option<Vec<u8>>,
    /// The value of `system.posix_acl_access`.
    pub access_acl: Option<Vec<u8>>,
    /// The value of `system.posix_acl_default`.
    pub default_acl: Option<Vec<u8>>,
    /// Every other extended attribute that the guest sees, in the order of their names.
    pub xattrs: Vec<Xattr>,
    /// Its size in bytes. A directory's is the file system's own affair.
    pub size: u64,
    /// How many names it has.
    pub links: u64,
    /// When it was last read.
    pub accessed: Time,
    /// When its content last changed.
    pub modified: Time,
}

impl Entry {
    /// What `inode` shows by itself: no target, no extended attributes.
    pub fn of(inode: &Inode) -> Self {
        Self {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            rdev: if inode.kind().is_some_and(Kind::is_device) { inode.rdev } else { 0 },
            target: None,
            access_acl: None,
            default_acl: None,
            xattrs: Vec::new(),
            size: inode.size,
            links: inode.links,
            accessed: inode.accessed,
            modified: inode.modified,
        }
    }

    /// What it is; `None` where the type bits say nothing, which only a damaged mapped attribute does.
    pub fn kind(&self) -> Option<Kind> {
        Kind::of(self.mode)
    }

    /// Its set-id bits, sticky bit and permissions.
    pub fn permissions(&self) -> u32 {
        self.mode & !TYPE
    }

    /// Adds an extended attribute, an ACL to its own place. XFS's own form of an ACL is left out: given back, it would take the place of
    /// an ACL that has changed since.
    pub fn push_xattr(&mut self, name: &[u8], value: Vec<u8>) {
        match name {
            _ if XFS_ACLS.contains(&name) => {}
            ACCESS_ACL => self.access_acl = Some(value),
            DEFAULT_ACL => self.default_acl = Some(value),
            _ => {
                let place =
                    self.xattrs.partition_point(|(other, _)| other.as_slice().cmp(name) == Ordering::Less);
                self.xattrs.insert(place, (name.to_vec(), value));
            }
        }
    }
}

/// How XFS shows its ACLs besides: its own form of them.
pub(crate) const XFS_ACLS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];
/// The extended attribute of an access ACL.
pub(crate) const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// The extended attribute of a directory's default ACL.
pub(crate) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// The extended attribute of file capabilities, which a change of owner clears.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Which inode, among all of this machine's until it restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The file system's device number.
    pub device: u64,
    /// The inode's number there.
    pub number: u64,
}

/// An inode as the kernel tells it, whatever a mapped model makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// Which one, until this machine restarts.
    pub identity: Identity,
    /// Which one of its file system, for as long as that exists.
    pub id: Id,
    /// The mount it was reached through: its unique id from Linux 6.8 on, the id of mountinfo before; 0 on kernels that don't say (before
    /// Linux 5.8).
    pub mount: u64,
    /// `st_mode`.
    pub mode: u32,
    /// `st_uid`.
    pub uid: u32,
    /// `st_gid`.
    pub gid: u32,
    /// `st_rdev`.
    pub rdev: u64,
    /// How many names it has.
    pub links: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes that it takes.
    pub blocks: u64,
    /// When it was last read.
    pub accessed: Time,
    /// When its content last changed.
    pub modified: Time,
    /// When anything about it last changed.
    pub changed: Time,
    /// `chattr +i`: nothing about it can be changed.
    pub immutable: bool,
    /// `chattr +a`: its content can only grow.
    pub append_only: bool,
}

impl Inode {
    /// What it is on disk.
    pub fn kind(&self) -> Option<Kind> {
        Kind::of(self.mode)
    }

    /// Whether it is the empty directory that a Btrfs snapshot has in the place of a subvolume that it does not contain. Such
    /// directories are not on the disk: they have no attributes, and their owner is that of the directory around them.
    pub fn is_absent_subvolume(&self) -> bool {
        /// `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`; the first inode of a subvolume has number 256.
        const EMPTY: u64 = 2;
        self.id.volume != 0 && self.id.number == EMPTY && self.kind() == Some(Kind::Directory)
    }

    /// Its set-id bits, sticky bit and permissions.
    pub fn permissions(&self) -> u32 {
        self.mode & !TYPE
    }

    /// Whether its permissions give its owner what QEMU's user needs: to read and write, and to enter a directory.
    pub fn suits_owner(&self) -> bool {
        let needed = if self.kind() == Some(Kind::Directory) { 0o700 } else { 0o600 };
        self.mode & needed == needed
    }

    /// Whether it has other names besides the one it was found by: the same inode is met again, or stands outside.
    pub fn is_linked(&self) -> bool {
        self.links > 1 && self.kind() != Some(Kind::Directory)
    }
}

/// An entry for tests.
#[cfg(test)]
pub(crate) fn sample() -> Entry {
    Entry {
        mode: libc::S_IFREG | 0o4755,
        uid: 1000,
        gid: 100,
        rdev: 0,
        target: None,
        access_acl: None,
        default_acl: None,
        xattrs: Vec::new(),
        size: 7,
        links: 1,
        accessed: Time { seconds: 1, nanoseconds: 5 },
        modified: Time { seconds: -2, nanoseconds: 1 },
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_told_as_people_read_them() {
        // As `date -u -d @SECONDS` tells them.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_799, "2000-02-29 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (7_000_000_000, "2191-10-27 12:26:40"),
            (-62_135_596_800, "0001-01-01 00:00:00"),
        ] {
            assert_eq!(Time { seconds, nanoseconds: 7 }.utc(), format!("{text}.000000007 UTC"));
        }
        // No time is too far.
        for seconds in [i64::MIN / 2, i64::MAX / 2] {
            assert!(Time { seconds, nanoseconds: 0 }.utc().ends_with("UTC"));
        }
    }

    use super::*;

    #[test]
    fn every_kind_has_its_own_bits_and_letter() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.bits() | 0o7777), Some(kind));
            assert_eq!(Kind::ALL.iter().filter(|other| other.letter() == kind.letter()).count(), 1);
        }
        assert_eq!(Kind::of(0o644), None);
        assert_eq!(Kind::of(TYPE), None);
    }

    #[test]
    fn extended_attributes_are_kept_in_order_and_acls_apart() {
        let inode = Inode {
            identity: Identity { device: 1, number: 2 },
            id: Id { volume: 0, number: 2, stamp: super::super::identity::Stamp::None },
            mount: 3,
            mode: libc::S_IFREG | 0o4755,
            uid: 4,
            gid: 5,
            rdev: 6,
            links: 2,
            size: 7,
            blocks: 8,
            accessed: Time::default(),
            modified: Time::default(),
            changed: Time::default(),
            immutable: false,
            append_only: false,
        };
        let mut entry = Entry::of(&inode);
        assert_eq!((entry.rdev, entry.permissions()), (0, 0o4755));
        for name in [&b"user.b"[..], ACCESS_ACL, b"user.a", DEFAULT_ACL, b"user.c"] {
            entry.push_xattr(name, name.to_vec());
        }
        assert_eq!(entry.access_acl.as_deref(), Some(ACCESS_ACL));
        assert_eq!(entry.default_acl.as_deref(), Some(DEFAULT_ACL));
        let names: Vec<_> = entry.xattrs.iter().map(|(name, _)| name.as_slice()).collect();
        assert_eq!(names, [b"user.a", b"user.b", b"user.c"]);
    }
}
