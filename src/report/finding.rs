//! Findings: stable ids, severities and remedies, in one table.

use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::text;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know. Asks for nothing.
    Info,
    /// Asks for a look.
    Warning,
    /// Must be dealt with before the migration, or before QEMU 9.2.
    Error,
}

/// One thing that people should know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finding {
    /// Which kind it is: a row of [`KINDS`].
    #[serde(with = "packed_kind")]
    pub kind: &'static Kind,
    /// Where.
    pub place: Place,
    /// What is wrong here, in one sentence.
    pub message: String,
    /// What to do about it here; the kind's own remedy otherwise.
    pub remedy: Option<String>,
    /// What of its kind it is about, where `--accept=ID:SUBJECT` may name that: an attribute's name.
    pub subject: Option<Vec<u8>>,
}

/// Where a share, a helper or a finding stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file, as on the audited host; `None` for standard input.
    #[serde(with = "crate::text::packed::optional_path")]
    pub file: Option<PathBuf>,
    /// The line, from 1.
    pub line: Option<u64>,
    /// The bytes of the file that say it.
    pub span: Option<Range<usize>>,
    /// The guest's name.
    pub guest: Option<Vec<u8>>,
    /// The process that says it.
    pub pid: Option<i32>,
}

/// How serde packs a kind of finding: by its id.
pub(crate) mod packed_kind {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{KINDS, Kind};

    /// Packs one.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field")]
    pub(crate) fn serialize<S: Serializer>(kind: &&'static Kind, serializer: S) -> Result<S::Ok, S::Error> {
        kind.id.serialize(serializer)
    }

    /// Unpacks one.
    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<&'static Kind, D::Error> {
        let id = String::deserialize(deserializer)?;
        KINDS.iter().copied().find(|kind| kind.id == id).ok_or_else(|| D::Error::custom("no kind of finding"))
    }
}

/// A kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Stable: scripts match on it, and `--accept` takes it.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What it is, in one sentence; behind a blank.
    pub about: &'static str,
    /// What to do about it in general.
    pub remedy: &'static str,
}

/// One row a kind: `NAME: "id", Severity, "remedy"`.
macro_rules! kinds {
    ($($(#[doc = $about:literal])+ $name:ident: $id:literal, $severity:ident, $remedy:literal;)*) => {
        $($(#[doc = $about])+ pub(crate) static $name: Kind =
            Kind { id: $id, severity: Severity::$severity, about: concat!($($about),+), remedy: $remedy };)*
        /// Every kind of finding there is.
        pub static KINDS: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    /// A share that goes over the proxy backend.
    PROXY_SHARE: "proxy-share", Error,
        "move it to the local backend: `migrate config` rewrites this file, `migrate convert` the export's files; or \
         to virtiofs, which converts nothing and changes the guest's mount: `migrate config --backend virtiofs`";
    /// A file with proxy shares that a program writes by itself.
    GENERATED_FILE: "generated-file", Warning,
        "change the program's own configuration: an edit of this file does not last";
    /// A share that stays an argument of QEMU's in a libvirt domain.
    KEPT_AS_ARGUMENT: "kept-as-argument", Info,
        "it works; AppArmor and SELinux must be told of the directory by hand";
    /// A libvirt domain as it is while it runs.
    LIVE_DUMP: "live-dump", Warning,
        "rewrite the guest's lasting configuration: `virsh dumpxml --inactive --security-info`";
    /// A device without an address whose slot another program chooses from now on.
    SLOT_MAY_CHANGE: "slot-may-change", Info,
        "nothing, as long as the guest mounts by tag";

    /// What QEMU does about the file systems below an export.
    MULTIDEVS: "multidevs", Info,
        "nothing, unless the guest's programs keep inode numbers";

    /// A file that `migrate config --in-place` kept.
    KEPT_ORIGINAL: "kept-original", Info,
        "remove it once the guest has run without the proxy for as long as you want a way back";

    // What surrounds QEMU: `migrate config`.
    /// An export that QEMU can't reach where it runs.
    EXPORT_HIDDEN: "export-hidden", Error,
        "show QEMU the directory where it runs: the share does not start without it";
    /// An export that QEMU can't write where it runs.
    EXPORT_LOCKED: "export-locked", Error,
        "make the directory writable where QEMU runs";
    /// Something else around QEMU that concerns the export.
    QEMU_CONFINED: "qemu-confined", Warning,
        "see that QEMU's user and confinement allow it to use the directory";
    /// A guest that is not started without its helper.
    HELPER_REQUIRED: "helper-required", Error,
        "take the helper out of what the guest requires: else it is not started once the helper is disabled";
    /// A helper that the same file starts.
    HELPER_STARTED: "helper-started", Warning,
        "remove the line: once the helper is not installed any more, it fails";

    // Where shares hide: `migrate audit`.
    /// An invocation of the helper.
    PROXY_HELPER: "proxy-helper", Error,
        "once its guests have moved to the local backend, stop it and disable what starts it";
    /// A share whose exported directory nobody says.
    EXPORT_UNKNOWN: "export-unknown", Warning,
        "pass it to `migrate config` by --export; the audit finds it where the helper runs (as root) or a file says how it is started";
    /// Several helpers claim a share's socket.
    EXPORT_AMBIGUOUS: "export-ambiguous", Warning,
        "find out which of them serves this guest, and pass its directory to `migrate config` by --export";
    /// An fsdev without a device.
    NO_DEVICE: "no-device", Info,
        "no device names this fsdev, so that the guest never sees it: remove it";
    /// An fsdev whose device is not where it is.
    DEVICE_ELSEWHERE: "device-elsewhere", Info,
        "look for its -device in what uses this text: a file that sources it, a variable, another program; keep it until that is certain";
    /// A part of an fsdev is not statically known.
    UNKNOWN_VALUE: "unknown-value", Warning,
        "it stays as it is in the file; `migrate config` takes --readonly and --writable where it must know";
    /// A socket that is not statically known may hold more than a path.
    UNKNOWN_SOCKET: "unknown-socket", Warning,
        "say with --readonly or --writable what the share is to be";
    /// A part of a device is not statically known.
    UNKNOWN_DEVICE_VALUE: "unknown-device-value", Info,
        "it stays as it is";
    /// QEMU doesn't take a share as it stands.
    REFUSED_BY_QEMU: "refused-by-qemu", Warning,
        "mend or remove it first";
    /// A share that can't be rewritten where it stands.
    NOT_REWRITABLE: "not-rewritable", Warning,
        "change it by hand: `migrate config --to qemu-args` prints what to say instead";
    /// Something that could not be read or parsed.
    UNREAD: "unread", Warning,
        "make it readable and audit it again: unread is not clean";
    /// What an unprivileged audit can't see.
    NOT_SEEN: "not-seen", Warning,
        "run the audit as root";
    /// A share whose helper maps the guest's ids through a user namespace.
    ID_MAP: "id-map", Error,
        "move it to virtiofs: over the local backend, mapped or passthrough, the guest could plant set-user-id files that run as the host's root";
    /// An installed QEMU, and whether it has the backend.
    QEMU_BACKEND: "qemu-backend", Info,
        "nothing, as long as no guest uses the proxy backend";

    /// A QEMU with a vulnerability that concerns a local share.
    QEMU_VULNERABILITY: "qemu-vulnerability", Warning,
        "update QEMU; a distribution may have mended it in its package without another version number";
    /// A QEMU in which something of a local share fails.
    QEMU_FAULT: "qemu-fault", Warning,
        "use another version where the guest's programs need it";
    /// A QEMU in which a local share is otherwise than in other versions.
    QEMU_DIFFERENCE: "qemu-difference", Info,
        "nothing, unless the guest's programs need it";

    // The files of an export: `migrate check` and `migrate convert`.
    /// An export that the host itself lives from.
    SYSTEM_DIRECTORY: "system-directory", Error,
        "convert a directory that holds nothing but the share; if the whole host may lose this one, name it by --system-directory=EXPORT";
    /// A process or the kernel holds an export so that its files must not change.
    LIVE_EXPORT: "live-export", Error,
        "shut the guest down and end what uses the export first; --in-use goes on in spite of it";
    /// Somebody besides the share uses an export, in a way that lets a conversion go on.
    EXPORT_IN_USE: "export-in-use", Warning,
        "after a conversion only QEMU's user can use these files on the host: see that nothing else needs them";
    /// The export's filesystem can't be written.
    READ_ONLY_FILESYSTEM: "read-only-filesystem", Error,
        "mount it read-write for the conversion; the share itself may be readonly afterwards";
    /// The export's filesystem keeps no user xattrs.
    NO_USER_XATTRS: "no-user-xattrs", Error,
        "use --security-model=mapped-file (which libvirt's <filesystem> can't say), or move the export to a filesystem that keeps them";
    /// The export's filesystem could not be tried.
    XATTRS_NOT_TRIED: "xattrs-not-tried", Info,
        "run the check as root, where the export can be written";
    /// There are attributes that leave no room for the mapped ones.
    NO_ROOM_FOR_ATTRIBUTES: "no-room-for-attributes", Error,
        "remove or shorten its attributes, turn on ext4's ea_inode feature, or use --security-model=mapped-file";
    /// There is not enough room for a conversion.
    NOT_ENOUGH_SPACE: "not-enough-space", Warning,
        "make room, or keep the journal elsewhere (--journal)";
    /// The filesystem counts what belongs to whom.
    QUOTA: "quota", Info,
        "give QEMU's user a quota that holds the whole export";
    /// QEMU's user can't reach the export.
    OWNER_KEPT_OUT: "owner-kept-out", Warning,
        "let that user through: chmod o+x, or setfacl -m u:USER:x, on this directory";
    /// Accounts of the host own files of an export.
    HOST_ACCOUNTS: "host-accounts", Info,
        "these numbers may be the guest's users alone; if the host's accounts work with the files, they lose them by a conversion";
    /// Something is mounted inside an export.
    MOUNT_INSIDE: "mount-inside", Warning,
        "what is mounted here is not converted: unmount it, or convert it by itself and run QEMU with multidevs=remap";
    /// A part of the export's Btrfs that is read-only.
    READ_ONLY_SUBVOLUME: "read-only-subvolume", Error,
        "make it writable (btrfs property set SUBVOLUME ro false) or delete it, if it is a snapshot that the guest does not need; or export another directory";
    /// A part of the export's Btrfs with inode numbers of its own.
    SUBVOLUME_INSIDE: "subvolume-inside", Info,
        "it is converted with the export: run QEMU with multidevs=remap, for its inode numbers repeat";
    /// A directory in the place of a subvolume that a snapshot does not contain.
    ABSENT_SUBVOLUME: "absent-subvolume", Warning,
        "remove it (rmdir); or agree with --accept=absent-subvolume: it is not converted, the guest sees it with the owner of the directory that it is in, and nothing can be put into it, as before";
    /// An entry that can't be changed.
    IMMUTABLE_FILE: "immutable-file", Warning,
        "chattr -i it; or agree with --accept=immutable-file: the flag is lifted while it is converted and set again, and neither QEMU nor the guest can change it, as before";
    /// An entry that can only grow.
    APPEND_ONLY_FILE: "append-only-file", Warning,
        "chattr -a it; or agree with --accept=append-only-file: the flag is lifted while it is converted and set again";
    /// An entry that has been mapped before.
    ALREADY_MAPPED: "already-mapped", Warning,
        "an earlier conversion, or a share that was mapped before: roll it back, or agree with --accept=already-mapped: the attributes are kept as they are, and the guest sees what they say";
    /// An export that is converted.
    ALREADY_CONVERTED: "already-converted", Error,
        "prove it by `migrate verify`, take it back by `migrate rollback`; if it was interrupted, the same command again goes on";
    /// An attribute that the guest's kernel acts on, and that no mapped model passes.
    XATTR_LOST: "xattr-lost", Warning,
        "no mapped model passes it to the guest; a rollback brings it back; agree with --accept=xattr-lost";
    /// An attribute that no mapped model passes, and that no guest depends on.
    XATTR_NOT_PASSED: "xattr-not-passed", Info,
        "nothing: over the proxy a guest never saw trusted.* and could only read security.*; a rollback brings it back";
    /// An ACL of which mapped-file can't keep the owner's rights.
    ACL_OWNER_RIGHTS: "acl-owner-rights", Warning,
        "the mode that the guest sees stays as it is; use --security-model=mapped-xattr, or agree with --accept=acl-owner-rights";
    /// Ids that the export's mount can't give to files.
    IDS_NOT_MAPPED: "ids-not-mapped", Error,
        "reach the export through a mount without an id map, outside of a user namespace; or give the map these ids";
    /// Hard links that an overlay would break.
    LINKS_WOULD_BREAK: "links-would-break", Error,
        "mount the overlay with index=on, or convert a copy of the export (cp -a) that is on no overlay";
    /// An inode with names outside its export.
    LINKS_OUTSIDE: "links-outside", Warning,
        "its owner and mode change under its other names too: copy it, or agree with --accept=links-outside";
    /// A name that mapped-file keeps for itself.
    RESERVED_NAME: "reserved-name", Error,
        "rename it, or use --security-model=mapped-xattr";
    /// A device that mapped-file can't describe.
    DEVICE_NUMBER_TOO_LARGE: "device-number-too-large", Error,
        "remove the device, or use --security-model=mapped-xattr";
    /// A try as QEMU that worked.
    EXPORT_TRIED: "export-tried", Info,
        "nothing";
    /// A try as QEMU that failed.
    EXPORT_UNUSABLE: "export-unusable", Error,
        "let QEMU's user enter every directory above the export, and let the unit, container or mount that QEMU is in show the export writable";
    /// A try as QEMU that fails only because the export is not converted yet.
    EXPORT_USABLE_LATER: "export-usable-later", Info,
        "nothing: a conversion gives the export to QEMU's user; try it again after that";
    /// What confines QEMU and could not be tried.
    CONFINEMENT_NOT_TRIED: "confinement-not-tried", Warning,
        "see that it allows QEMU to read and write the export";
    /// An export that SELinux may keep QEMU from.
    SELINUX_TYPE: "selinux-type", Warning,
        "give the tree a lasting label: semanage fcontext -a -t svirt_image_t 'EXPORT(/.*)?' && restorecon -R EXPORT";
    /// A process that may have few files open.
    FEW_DESCRIPTORS: "few-descriptors", Info,
        "raise LimitNOFILE= of its unit, or max_files in libvirt's qemu.conf, if the guest has many files open";
    /// An entry that could not be looked at.
    UNREADABLE_ENTRY: "unreadable-entry", Error,
        "run the check as root; if that does not help, the filesystem is damaged";
    /// An entry that changed while it was looked at.
    CHANGED_MEANWHILE: "changed-meanwhile", Info,
        "somebody works in the export: check it again when nobody does";
    /// Processes that could not be looked at.
    PROCESSES_UNSEEN: "processes-unseen", Info,
        "run this as root on the host itself to be sure that nobody uses the export";
    /// Not everything can be seen without root.
    NOT_PRIVILEGED: "not-privileged", Info,
        "run it as root on the host itself, or in a container with --cap-add=SYS_ADMIN and without a user namespace";
    /// A conversion or a rollback that was interrupted.
    CONVERSION_UNFINISHED: "conversion-unfinished", Error,
        "run `migrate convert --apply` again to go on, or `migrate rollback --apply` to take it back";
    /// The guest sees an entry otherwise than it was.
    ENTRY_DIFFERS: "entry-differs", Error,
        "if the guest has worked in the export since, this may be its work; else take the conversion back";
    /// An entry that was recorded is not there.
    ENTRY_MISSING: "entry-missing", Error,
        "if the guest has worked in the export since, this may be its work; else look for it before going on";
    /// An entry that was not recorded.
    ENTRY_NEW: "entry-new", Warning,
        "nothing, if the guest or somebody else made it since";
    /// An entry that somebody has read, which its time of access tells.
    ENTRY_READ: "entry-read", Info,
        "nothing: reading changes no more than this time";
    /// QEMU's user can't use an entry.
    ENTRY_UNUSABLE: "entry-unusable", Error,
        "if it was added on the host, or has another owner since: `migrate convert --adopt`; otherwise give it the modes of the conversion (chmod, chattr)";
    /// Others than QEMU's user can use an entry, by a real ACL.
    ENTRY_EXPOSED: "entry-exposed", Error,
        "remove the real ACL (setfacl -b): the guest's own is kept as an attribute and does not change";
    /// Entries that other programs of the host have put into a converted export, or given another owner.
    ADDED_ON_HOST: "added-on-host", Warning,
        "`migrate convert EXPORT --adopt` says what would be done, with --apply the guest can use them";
    /// An entry that was added on the host and is still being written.
    ADDED_BEING_WRITTEN: "added-being-written", Warning,
        "run `migrate convert --adopt` again when it is complete";
    /// An entry that was added on the host and that an adoption leaves as it is.
    ADDED_LEFT: "added-left", Warning,
        "give it to QEMU's user (chown) if the guest is to use it, or remove it";
    /// More owners than are told apart.
    MANY_OWNERS: "many-owners", Info,
        "nothing: they are converted as all others are";
}

impl Finding {
    /// The remedy that is shown.
    pub fn remedy(&self) -> &str {
        self.remedy.as_deref().unwrap_or(self.kind.remedy)
    }

    /// `file:line`, safe to print; empty where there is neither.
    pub fn location(&self) -> String {
        match (&self.place.file, self.place.line) {
            (Some(file), Some(line)) => format!("{}:{line}", text::escape_path(file)),
            (Some(file), None) => text::escape_path(file).into_owned(),
            (None, Some(line)) => format!("standard input:{line}"),
            (None, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_spelt_alike() {
        let ids: BTreeSet<_> = KINDS.iter().map(|kind| kind.id).collect();
        assert_eq!(ids.len(), KINDS.len());
        for id in ids {
            assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{id}");
        }
    }
}
