//! One entry, compared to its record.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::data::acl;
use crate::data::entry::{self, Entry, Identity, Inode, Time, Xattr};
use crate::data::form::{Form, Model};
use crate::data::goal::ConversionTarget;
use crate::data::identity::Key;
use crate::data::journal::Record;
use crate::data::mapped_xattr;
use crate::data::owner::Owner;
use crate::data::pin::Pin;
use crate::report::finding::{self, Kind};
use crate::text::escape;

/// How entries are compared.
pub(super) struct Comparison<'c> {
    /// What the tree is read as.
    pub form: Form,
    /// What the conversion makes of entries, while they are converted.
    pub goal: Option<ConversionTarget>,
    /// Who must be able to use every entry.
    pub owner: Option<&'c Owner>,
    /// The tree is a copy: tools that copy set no times of access.
    pub is_copy: bool,
    /// What inodes of several names are now, by the number that the journal has for them.
    pub inodes: &'c Mutex<HashMap<Key, Identity>>,
}

/// What is wrong with an entry.
pub(super) type Problem = (&'static Kind, String);

impl Comparison<'_> {
    /// Everything that is wrong with an entry, as far as it could be read at all.
    pub(super) fn entry(&self, record: &Record, found: Result<(Entry, Pin), Errno>) -> Vec<Problem> {
        let (entry, pin) = match found {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::LOOP) => {
                return vec![(&finding::ENTRY_MISSING, "it is gone, or something else has its name".into())];
            }
            Err(Errno::XDEV) => {
                return vec![(&finding::ENTRY_MISSING, "something is mounted over it".into())];
            }
            Err(errno) => {
                let why = nix::errno::Errno::from_raw(errno.raw_os_error()).desc();
                return vec![(&finding::UNREADABLE_ENTRY, format!("it could not be read: {why}"))];
            }
        };
        let mut wanted = expected(&record.entry, self.form);
        if let Some(adopted) = self.goal.and_then(|goal| goal.adopted(&record.entry)) {
            wanted = Entry { xattrs: wanted.xattrs, ..adopted };
            if wanted.kind() == Some(entry::Kind::Symlink) {
                // It is the file's content, which no conversion touches.
                wanted.target.clone_from(&entry.target);
            }
        }
        if self.is_copy {
            wanted.accessed = wanted.accessed.min(entry.accessed);
        }
        let mut problems: Vec<_> = differences(&wanted, &entry)
            .into_iter()
            .map(|message| (&finding::ENTRY_DIFFERS, message))
            .collect();
        if entry.accessed > record.entry.accessed {
            problems.push((&finding::ENTRY_READ, "it was read since".into()));
        }
        if let Some(other) = self.other_inode(record, pin.inode()) {
            problems.push((&finding::ENTRY_DIFFERS, other));
        }
        if let Some(owner) = self.owner {
            // What refused changes before refuses them still.
            let flags = (record.immutable, record.append_only);
            problems.extend(unusable(owner, pin.inode(), flags).map(|why| (&finding::ENTRY_UNUSABLE, why)));
            if self.form == Form::Mapped(Model::MappedXattr) {
                problems.extend(exposed(&pin).map(|why| (&finding::ENTRY_EXPOSED, why)));
            }
        }
        problems
    }

    /// Whether names of one inode are of one inode still.
    fn other_inode(&self, record: &Record, inode: &Inode) -> Option<String> {
        if record.entry.links < 2 || record.entry.kind() == Some(entry::Kind::Directory) {
            return None;
        }
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *inodes.entry(record.id.recorded_key()).or_insert(inode.identity);
        (first != inode.identity).then(|| "it is no link to the same file as its other names any more".into())
    }
}

/// What the guest should see of an entry that was recorded, in this form of the tree.
pub(super) fn expected(original: &Entry, form: Form) -> Entry {
    let mut entry = original.clone();
    let passed = |(name, _): &Xattr| match form {
        Form::Passthrough => true,
        Form::Mapped(Model::MappedXattr) => mapped_xattr::is_passed(name),
        Form::Mapped(Model::MappedFile) => name.starts_with(b"user."),
    };
    entry.xattrs.retain(passed);
    if form == Form::Mapped(Model::MappedFile) {
        // The ACL is the real inode's, and its owner's rights are those of QEMU's user.
        let rights = if entry.kind() == Some(entry::Kind::Directory) { 7 } else { 6 };
        entry.access_acl = entry.access_acl.map(|acl| acl::with_owner_rights(&acl, rights));
    }
    entry
}

/// The differences between what the guest should see and what it sees, one sentence each.
fn differences(expected: &Entry, found: &Entry) -> Vec<String> {
    let mut out = Vec::new();
    let mut field = |name: &str, expected: String, found: String| {
        if expected != found {
            out.push(format!("{name} is {found} instead of {expected}"));
        }
    };
    let kind = |entry: &Entry| entry.kind().map_or("unknown".into(), |kind| kind.name().to_owned());
    field("its type", kind(expected), kind(found));
    field("its mode", format!("{:04o}", expected.permissions()), format!("{:04o}", found.permissions()));
    field("its owner", expected.uid.to_string(), found.uid.to_string());
    field("its group", expected.gid.to_string(), found.gid.to_string());
    field("its device number", device(expected), device(found));
    field("its target", bytes(expected.target.as_deref()), bytes(found.target.as_deref()));
    field("its ACL", acl_text(expected.access_acl.as_deref()), acl_text(found.access_acl.as_deref()));
    field(
        "its default ACL",
        acl_text(expected.default_acl.as_deref()),
        acl_text(found.default_acl.as_deref()),
    );
    if expected.kind() != Some(entry::Kind::Directory) {
        field("its size", expected.size.to_string(), found.size.to_string());
        field("its number of links", expected.links.to_string(), found.links.to_string());
    }
    field("its time of modification", time(expected.modified), time(found.modified));
    // Reading moves it forward, and nothing else does: that is told apart.
    let accessed = found.accessed.min(expected.accessed);
    field("its time of access", time(expected.accessed), time(accessed));
    attributes(&expected.xattrs, &found.xattrs, &mut out);
    out
}

/// The differences between two lists of attributes, both in the order of names.
fn attributes(expected: &[Xattr], found: &[Xattr], out: &mut Vec<String>) {
    let value = |list: &[Xattr], name: &[u8]| {
        list.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    };
    for (name, wanted) in expected {
        match value(found, name) {
            None => out.push(format!("its attribute {} is gone", escape(name))),
            Some(value) if value != *wanted => {
                out.push(format!("its attribute {} has another value", escape(name)));
            }
            Some(_) => {}
        }
    }
    let new = found.iter().filter(|(name, _)| value(expected, name).is_none());
    out.extend(new.map(|(name, _)| format!("its attribute {} is new", escape(name))));
}

fn device(entry: &Entry) -> String {
    format!("{}:{}", libc::major(entry.rdev), libc::minor(entry.rdev))
}

fn bytes(value: Option<&[u8]>) -> String {
    value.map_or_else(|| "none".into(), |value| format!("'{}'", escape(value)))
}

fn acl_text(value: Option<&[u8]>) -> String {
    value
        .map_or_else(|| "none".into(), |value| acl::text(value).unwrap_or_else(|| escape(value).into_owned()))
}

fn time(time: Time) -> String {
    time.utc()
}

/// Why QEMU's user can't use an inode that was, or was not, immutable and append-only. An owner's rights are the mode's first three bits whatever ACL there is.
pub(super) fn unusable(owner: &Owner, inode: &Inode, flags: (bool, bool)) -> Option<String> {
    if !matches!(inode.kind(), Some(entry::Kind::File | entry::Kind::Directory)) {
        let name = inode.kind().map_or("something unknown", entry::Kind::name);
        return Some(format!("on disk it is a {name}, which no mapped model can use"));
    }
    if inode.uid != owner.uid {
        return Some(format!("on disk it belongs to {} instead of {}", inode.uid, owner.uid));
    }
    if !inode.suits_owner() {
        return Some(format!("on disk its mode is {:04o}: its owner can't use it", inode.permissions()));
    }
    if inode.permissions() & 0o6000 != 0 {
        return Some(format!(
            "on disk its mode is {:04o}, with a set-id bit of QEMU's user",
            inode.permissions()
        ));
    }
    if (inode.immutable, inode.append_only) != flags {
        return Some("on disk it is immutable or append-only and was not, or is not and was".into());
    }
    None
}

/// What real ACL an inode has. Under mapped-xattr the guest's ACL is an attribute, and a real one lets others of this host in.
/// Under mapped-file the real ACL is the guest's.
fn exposed(pin: &Pin) -> Option<String> {
    let acl = |name, what| match pin.xattr(name) {
        Ok(Some(value)) => Some(format!("on disk it has {what}, {}", acl_text(Some(&value)))),
        Ok(None) | Err(Errno::OPNOTSUPP) => None,
        Err(errno) => Some(format!("on disk, {what} could not be read: {errno}")),
    };
    acl(c"system.posix_acl_access", "an ACL").or_else(|| acl(c"system.posix_acl_default", "a default ACL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            xattrs: vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), b"2".to_vec())],
            ..crate::data::entry::sample()
        }
    }

    #[test]
    fn every_field_that_differs_is_named() {
        type Damage = fn(&mut Entry);
        let cases: &[(Damage, &[&str])] = &[
            (|_| {}, &[]),
            (|entry| entry.mode ^= 0o4000, &["its mode is 0755 instead of 4755"]),
            (|entry| entry.mode = libc::S_IFIFO | 0o4755, &["its type is FIFO instead of regular file"]),
            (|entry| entry.uid = 0, &["its owner is 0 instead of 1000"]),
            (|entry| entry.gid = 0, &["its group is 0 instead of 100"]),
            (|entry| entry.rdev = libc::makedev(1, 3), &["its device number is 1:3 instead of 0:0"]),
            (|entry| entry.target = Some(b"x\n".to_vec()), &[r"its target is 'x\x0a' instead of none"]),
            (|entry| entry.access_acl = Some(vec![2, 0, 0, 0]), &["its ACL is  instead of none"]),
            (|entry| entry.default_acl = Some(b"?".to_vec()), &["its default ACL is ? instead of none"]),
            (|entry| entry.size = 8, &["its size is 8 instead of 7"]),
            (|entry| entry.links = 2, &["its number of links is 2 instead of 1"]),
            (
                |entry| entry.modified.nanoseconds = 2,
                &[
                    "its time of modification is 1969-12-31 23:59:58.000000002 UTC instead of 1969-12-31 23:59:58.000000001 UTC",
                ],
            ),
            (
                |entry| entry.accessed.seconds = 0,
                &[
                    "its time of access is 1970-01-01 00:00:00.000000005 UTC instead of 1970-01-01 00:00:01.000000005 UTC",
                ],
            ),
            (|entry| entry.accessed.seconds = 2, &[]),
            (|entry| entry.xattrs[0].1 = b"x".to_vec(), &["its attribute user.a has another value"]),
            (
                |entry| entry.xattrs[1].0 = b"user.\xff".to_vec(),
                &["its attribute user.b is gone", r"its attribute user.\xff is new"],
            ),
        ];
        for (damage, messages) in cases {
            let mut found = entry();
            damage(&mut found);
            assert_eq!(differences(&entry(), &found), *messages);
        }
    }

    #[test]
    fn the_guest_is_expected_to_see_what_the_model_passes() {
        let mut original = entry();
        for name in ["security.capability", "trusted.x", "user.virtfs.uid", "system.nfs4_acl"] {
            original.push_xattr(name.as_bytes(), vec![1]);
        }
        let names = |form| expected(&original, form).xattrs.len();
        assert_eq!(names(Form::Passthrough), 6);
        assert_eq!(names(Form::Mapped(Model::MappedXattr)), 2);
        assert_eq!(names(Form::Mapped(Model::MappedFile)), 3);
    }
}
