//! What an export holds, as far as it matters for a conversion: one walk that changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use super::acl;
use super::entry::{ACCESS_ACL, DEFAULT_ACL, Identity, Inode, Kind, XFS_ACLS};
use super::filesystem::{self, Attributes, Filesystem};
use super::journal::SUFFIX as JOURNAL_SUFFIX;
use super::mapped_file;
use super::pin::Pin;
use super::tree::{Directory, Tree};
use super::walk::{self, Trouble, Visitor};

/// How many different things of a sort are told apart: owners, attribute names. What an export holds must not decide
/// how much memory it takes.
const DISTINCT: usize = 4096;

/// How many entries of a sort are looked at to find the one whose path comes first.
const COMPARED: u64 = 4096;

/// For how many days a change is recent.
pub(crate) const RECENT_DAYS: u64 = 7;

/// How many files that may be journals are looked at.
const JOURNALS: usize = 64;

/// Entries of one sort: how many, and one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// How many.
    pub count: u64,
    /// The path, from the export, of the first in the order of bytes (of those compared); empty for the export itself.
    pub first: Option<Vec<u8>>,
}

impl Group {
    /// Adds an entry. Its path is only asked for while that is worth it.
    pub(crate) fn add(&mut self, path: impl FnOnce() -> Vec<u8>) {
        self.count += 1;
        if self.count <= COMPARED {
            self.offer(path());
        }
    }

    fn offer(&mut self, path: Vec<u8>) {
        if self.first.as_ref().is_none_or(|first| path < *first) {
            self.first = Some(path);
        }
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        if let Some(path) = other.first {
            self.offer(path);
        }
    }
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Entries of each kind, in the order of [`Kind::ALL`]. The export itself counts.
    pub kinds: [u64; 7],
    /// Bytes that their blocks take, each inode's once where it has one name in the export.
    pub bytes: u64,
    /// Entries of each owner and group.
    pub owners: BTreeMap<(u32, u32), u64>,
    /// Files of each owner whose content changed in the last [`RECENT_DAYS`] days.
    pub recent: BTreeMap<u32, u64>,
    /// Entries of owners beyond those told apart.
    pub other_owners: u64,
    /// Entries with an ACL.
    pub acls: u64,
    /// Entries with an access ACL whose owner lacks rights that QEMU's user needs.
    pub weak_owners: Group,
    /// Entries with a set-user-ID or set-group-ID bit.
    pub set_id: u64,
    /// Entries with an attribute that no mapped model passes to the guest, by its name.
    pub lost: BTreeMap<Vec<u8>, Group>,
    /// Entries with attributes of names beyond those told apart.
    pub other_lost: Group,
    /// Entries with `user.virtfs.*` attributes.
    pub mapped: Group,
    /// Entries with names that mapped-file keeps for itself.
    pub reserved: Group,
    /// Entries with `chattr +i`.
    pub immutable: Group,
    /// Entries with `chattr +a`.
    pub append_only: Group,
    /// Devices whose number does not fit mapped-file's 31 bits.
    pub far_devices: Group,
    /// Entries whose attributes leave no room for the mapped ones.
    pub tight: Group,
    /// Entries where something else is mounted.
    pub mounts: Group,
    /// Directories that are the roots of Btrfs subvolumes, the export itself left out.
    pub subvolumes: Group,
    /// Those that can't be written, the export itself included.
    pub read_only: Group,
    /// Directories in the place of subvolumes that a snapshot does not contain.
    pub absent: Group,
    /// Entries that went away or were replaced while they were looked at.
    pub changed: Group,
    /// Entries that could not be looked at, by the reason.
    pub unread: BTreeMap<i32, Group>,
    /// Entries whose owner or group the mount's id map lacks.
    pub unmapped: Group,
    /// Entries with ACLs that name users or groups which the id map of the mount or of the user namespace lacks.
    pub unmapped_acls: Group,
    /// Names of files with several names that are in a lower layer of an overlay, which copies each name up by itself.
    pub breaking: Group,
    /// Entries that an overlay would copy up from a lower layer.
    pub lower: u64,
    /// Bytes that those take.
    pub lower_bytes: u64,
    /// Inodes with further names outside the export.
    pub leaving: Group,
    /// Files named as journals of conversions are, by their paths from the export: the first of them.
    pub journals: Vec<Vec<u8>>,
    /// Different sets of owner, group and mode: inodes of one set can share a block of attributes.
    pub sets: HashSet<(u32, u32, u32)>,
}

impl Survey {
    /// How many entries there are of a kind.
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        Kind::ALL.into_iter().zip(self.kinds).find(|(other, _)| *other == kind).map_or(0, |(_, count)| count)
    }

    /// How many entries there are.
    pub(crate) fn entries(&self) -> u64 {
        self.kinds.iter().sum()
    }

    /// How many entries a mapped model keeps as regular files in their place.
    pub(crate) fn replaced(&self) -> u64 {
        Kind::ALL
            .into_iter()
            .zip(self.kinds)
            .filter(|(kind, _)| kind.is_replaced())
            .map(|(_, count)| count)
            .sum()
    }

    fn merge(&mut self, other: Self) {
        for (count, more) in self.kinds.iter_mut().zip(other.kinds) {
            *count += more;
        }
        self.bytes += other.bytes;
        for (owner, count) in other.owners {
            *self.owners.entry(owner).or_default() += count;
        }
        self.other_owners += other.other_owners;
        for (owner, count) in other.recent {
            *self.recent.entry(owner).or_default() += count;
        }
        self.lower += other.lower;
        self.lower_bytes += other.lower_bytes;
        self.acls += other.acls;
        self.set_id += other.set_id;
        for (name, group) in other.lost {
            self.lost.entry(name).or_default().merge(group);
        }
        for (errno, group) in other.unread {
            self.unread.entry(errno).or_default().merge(group);
        }
        for (group, more) in [
            (&mut self.other_lost, other.other_lost),
            (&mut self.mapped, other.mapped),
            (&mut self.reserved, other.reserved),
            (&mut self.immutable, other.immutable),
            (&mut self.append_only, other.append_only),
            (&mut self.far_devices, other.far_devices),
            (&mut self.tight, other.tight),
            (&mut self.weak_owners, other.weak_owners),
            (&mut self.mounts, other.mounts),
            (&mut self.subvolumes, other.subvolumes),
            (&mut self.read_only, other.read_only),
            (&mut self.absent, other.absent),
            (&mut self.changed, other.changed),
            (&mut self.unmapped, other.unmapped),
            (&mut self.unmapped_acls, other.unmapped_acls),
            (&mut self.breaking, other.breaking),
        ] {
            group.merge(more);
        }
        self.journals.extend(other.journals);
        self.sets.extend(other.sets);
    }
}

/// Walks over a tree on `filesystem` with `jobs` workers.
pub(crate) fn survey(tree: &Tree, filesystem: &Filesystem, jobs: usize) -> Survey {
    let links = Links::default();
    let Ok(parts) = walk::parallel(tree, jobs, || Surveyor::new(tree, filesystem, &links));
    links.finish(parts)
}

/// What matters for a conversion of one entry: `directory` is the one it is in, or the entry itself where that is a directory.
/// Whether its inode has names elsewhere is not said.
pub(super) fn of_entry(
    tree: &Tree,
    filesystem: &Filesystem,
    directory: &Directory,
    name: &CStr,
    pin: &Pin,
) -> Survey {
    let links = Links::default();
    let mut surveyor = Surveyor::new(tree, filesystem, &links);
    surveyor.meet(directory, name, pin, true);
    surveyor.survey
}

/// Inodes of several names, of which not all have been met yet: shared by all surveyors of a walk.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<Identity, Link>>);

impl Links {
    /// What all surveyors of a walk saw, once it is over.
    pub(super) fn finish<'s>(&self, surveyors: impl IntoIterator<Item = Surveyor<'s>>) -> Survey {
        let mut survey = Survey::default();
        for surveyor in surveyors {
            survey.merge(surveyor.survey);
        }
        for (_, link) in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            survey.leaving.add(|| link.first);
        }
        survey
    }
}

/// An inode of several names that have not all been met yet.
#[derive(Debug)]
struct Link {
    /// How many are still to be met.
    left: u64,
    /// The first of those met.
    first: Vec<u8>,
}

/// One worker's part of a survey; [`Links::finish`] puts them together.
#[derive(Debug)]
pub(super) struct Surveyor<'s> {
    survey: Survey,
    tree: &'s Tree,
    filesystem: &'s Filesystem,
    links: &'s Links,
    /// From when on a change is recent: seconds since 1970.
    recently: i64,
}

impl<'s> Surveyor<'s> {
    /// A surveyor of `tree`, which lies on `filesystem`.
    pub(super) fn new(tree: &'s Tree, filesystem: &'s Filesystem, links: &'s Links) -> Self {
        let days = i64::try_from(RECENT_DAYS).unwrap_or_default();
        let now = i64::try_from(super::journal::now()).unwrap_or(i64::MAX);
        Self { survey: Survey::default(), tree, filesystem, links, recently: now - days * 86_400 }
    }
}

impl Visitor for Surveyor<'_> {
    type Error = Infallible;

    fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> Result<(), Infallible> {
        self.meet(directory, directory.name(), pin, true);
        Ok(())
    }

    fn entry(&mut self, directory: &Arc<Directory>, name: &CStr, pin: Pin) -> Result<(), Infallible> {
        self.meet(directory, name, &pin, true);
        Ok(())
    }

    fn trouble(
        &mut self,
        directory: &Arc<Directory>,
        name: &CStr,
        trouble: Trouble,
    ) -> Result<(), Infallible> {
        let group = match trouble {
            Trouble::Mount if directory.is_absent_subvolume(name) => &mut self.survey.absent,
            Trouble::Mount => &mut self.survey.mounts,
            Trouble::Changed => &mut self.survey.changed,
            Trouble::Failed(error) => self.survey.unread.entry(error.raw_os_error()).or_default(),
        };
        group.add(|| directory.path_of(name));
        Ok(())
    }
}

impl Surveyor<'_> {
    /// Counts an inode; `attributes` says whether it may have extended attributes. `name` is the name in `directory`, or the
    /// directory's own.
    pub(super) fn meet(&mut self, directory: &Directory, name: &CStr, pin: &Pin, attributes: bool) {
        let is_itself = pin.inode().kind() == Some(Kind::Directory);
        let path: &dyn Fn() -> Vec<u8> =
            &|| if is_itself { directory.path() } else { directory.path_of(name) };
        let inode = pin.inode();
        let survey = &mut self.survey;
        if let Some((count, _)) =
            survey.kinds.iter_mut().zip(Kind::ALL).find(|(_, kind)| Some(*kind) == inode.kind())
        {
            *count += 1;
        }
        let is_subvolume = is_itself && directory.is_in_other_volume();
        if is_subvolume {
            survey.subvolumes.add(path);
        }
        if (is_subvolume || is_itself && directory.is_root()) && is_read_only(pin) {
            survey.read_only.add(path);
        }
        let owner = (inode.uid, inode.gid);
        if survey.owners.len() < DISTINCT || survey.owners.contains_key(&owner) {
            *survey.owners.entry(owner).or_default() += 1;
        } else {
            survey.other_owners += 1;
        }
        let is_recent = inode.kind() == Some(Kind::File) && inode.modified.seconds > self.recently;
        if is_recent && (survey.recent.len() < DISTINCT || survey.recent.contains_key(&inode.uid)) {
            *survey.recent.entry(inode.uid).or_default() += 1;
        }
        if survey.sets.len() < DISTINCT {
            survey.sets.insert((inode.uid, inode.gid, inode.mode));
        }
        if inode.permissions() & 0o6000 != 0 {
            survey.set_id += 1;
        }
        if inode.immutable {
            survey.immutable.add(path);
        }
        if inode.append_only {
            survey.append_only.add(path);
        }
        if inode.kind().is_some_and(Kind::is_device) && i32::try_from(inode.rdev).is_err() {
            survey.far_devices.add(path);
        }
        let is_journal = inode.kind() == Some(Kind::File) && name.to_bytes().ends_with(JOURNAL_SUFFIX);
        if is_journal && survey.journals.len() < JOURNALS {
            survey.journals.push(path());
        }
        if mapped_file::is_reserved(directory, name) {
            survey.reserved.add(path);
        }
        if is_unmapped(pin) {
            survey.unmapped.add(path);
        }
        if let Some(overlay) = &self.filesystem.overlay
            && !overlay.has_copied_up(&path())
        {
            survey.lower += 1;
            if !overlay.metadata_alone {
                survey.lower_bytes += inode.blocks * 512;
            }
            if inode.is_linked() && !overlay.keeps_links {
                survey.breaking.add(path);
            }
        }
        if self.is_first_name(inode, path) {
            self.survey.bytes += inode.blocks * 512;
        }
        if attributes && let Err(error) = self.xattrs(pin, path) {
            self.survey.unread.entry(error.raw_os_error()).or_default().add(path);
        }
    }

    /// Whether this is the first of an inode's names that is met.
    fn is_first_name(&self, inode: &Inode, path: &dyn Fn() -> Vec<u8>) -> bool {
        if !inode.is_linked() {
            return true;
        }
        let mut links = self.links.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = links.get_mut(&inode.identity) else {
            links.insert(inode.identity, Link { left: inode.links - 1, first: path() });
            return true;
        };
        link.left = link.left.saturating_sub(1);
        link.first = path().min(std::mem::take(&mut link.first));
        if link.left == 0 {
            links.remove(&inode.identity);
        }
        false
    }

    fn xattrs(&mut self, pin: &Pin, path: &dyn Fn() -> Vec<u8>) -> rustix::io::Result<()> {
        let names = pin.xattr_names()?;
        if names.is_empty() {
            return Ok(());
        }
        let (mut acl, mut mapped, mut heavy, mut unmapped) = (false, false, false, false);
        for name in names.iter() {
            let bytes = name.to_bytes();
            if bytes == ACCESS_ACL || bytes == DEFAULT_ACL {
                acl = true;
                unmapped |= pin.xattr(name)?.is_some_and(|value| acl::names_unmapped(&value));
                if bytes == ACCESS_ACL && !pin.inode().suits_owner() {
                    self.survey.weak_owners.add(path);
                }
            } else if bytes.starts_with(b"user.virtfs.") {
                mapped = true;
            } else if bytes.starts_with(b"user.") {
                heavy = true;
            } else if bytes.starts_with(b"trusted.virtfs-") {
                // The mark of a conversion's journal, and what a rollback keeps: our own.
            } else if XFS_ACLS.contains(&bytes) {
                // The same ACL a second time.
                acl = true;
            } else {
                // A label of the host's is short: not worth a look.
                heavy |= bytes != b"security.selinux";
                self.survey.lose(bytes, path);
            }
        }
        self.survey.acls += u64::from(acl);
        if mapped {
            self.survey.mapped.add(path);
        }
        if unmapped {
            self.survey.unmapped_acls.add(path);
        }
        if (acl || heavy) && self.is_tight(pin)? {
            self.survey.tight.add(path);
        }
        Ok(())
    }

    /// Whether an inode's attributes leave no room for the mapped ones.
    fn is_tight(&self, pin: &Pin) -> rustix::io::Result<bool> {
        let Attributes::Tried { room, .. } = self.filesystem.attributes else { return Ok(false) };
        let mut wanted = Vec::new();
        for name in pin.xattr_names()?.iter() {
            let Some(value) = pin.xattr(name)? else { continue };
            let bytes = name.to_bytes();
            if bytes.starts_with(b"user.virtfs.") {
                continue;
            }
            wanted.push((stand_in(bytes, wanted.len()), value));
        }
        // A name takes up to 255 bytes beside its value, and an entry some more.
        let size: usize = wanted.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        if size < room / 2 {
            return Ok(false);
        }
        match filesystem::fits(self.tree.root().open()?, &wanted) {
            Ok(fits) => Ok(!fits),
            // No temporary inode any more: the sum has to do.
            Err(Errno::NOSPC | Errno::DQUOT) => Ok(size > room),
            Err(error) => Err(error),
        }
    }
}

/// Whether the mount's id map lacks an inode's owner or group: they show as the overflow ids, and not even root may write.
fn is_unmapped(pin: &Pin) -> bool {
    const OVERFLOW: u32 = 65534;
    let inode = pin.inode();
    (inode.uid == OVERFLOW || inode.gid == OVERFLOW)
        && nix::unistd::geteuid().is_root()
        && rustix::fs::access(pin.link(), Access::WRITE_OK) == Err(Errno::ACCESS)
}

/// Whether the kernel says of a directory that its file system, or its part of it, is read-only.
fn is_read_only(pin: &Pin) -> bool {
    rustix::fs::accessat(pin, c".", Access::WRITE_OK, AtFlags::EACCESS) == Err(Errno::ROFS)
}

/// A `user.*` attribute that takes the room of `name`, of which an inode holds `number` already: an ACL is kept as
/// `user.virtfs.system.posix_acl_*`, and others can't be set on a stranger.
fn stand_in(name: &[u8], number: usize) -> Vec<u8> {
    if name.starts_with(b"user.") {
        return name.to_vec();
    }
    if name == ACCESS_ACL || name == DEFAULT_ACL {
        return [b"user.virtfs.", name].concat();
    }
    let bare =
        name.iter().position(|&byte| byte == b'.').map_or(name, |dot| name.get(dot + 1..).unwrap_or(name));
    let unique = format!("user.{number:02}");
    let rest = bare.get(2..).unwrap_or_default();
    [unique.as_bytes(), rest].concat()
}

impl Survey {
    fn lose(&mut self, name: &[u8], path: &dyn Fn() -> Vec<u8>) {
        if self.lost.len() < DISTINCT || self.lost.contains_key(name) {
            self.lost.entry(name.to_vec()).or_default().add(path);
        } else {
            self.other_lost.add(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_keeps_the_path_that_comes_first() {
        let mut group = Group::default();
        for path in ["b", "a", "c"] {
            group.add(|| path.into());
        }
        let mut other = Group::default();
        other.add(|| b"A".to_vec());
        group.merge(other);
        assert_eq!(group, Group { count: 4, first: Some(b"A".to_vec()) });
    }

    #[test]
    fn a_stand_in_takes_as_much_room() {
        for (name, stand_in_name) in [
            ("user.x", "user.x"),
            ("system.posix_acl_access", "user.virtfs.system.posix_acl_access"),
            ("security.capability", "user.03pability"),
            ("trusted.a", "user.03"),
        ] {
            assert_eq!(stand_in(name.as_bytes(), 3), stand_in_name.as_bytes());
        }
    }
}
