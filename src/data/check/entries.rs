//! The findings about single entries of an export.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::data::form::Model;
use crate::data::survey::{Group, Survey};
use crate::report::finding::{self, Finding, Kind};
use crate::share::Place;
use crate::text;
use crate::text::counted;

/// The findings about entries of `export` that a survey has seen. `writable` says whether their file system is.
pub(crate) fn entry_findings(export: &Path, survey: &Survey, writable: bool, model: Model) -> Vec<Finding> {
    let mut entries = Entries { export, found: Vec::new() };
    entries.judge(survey, writable, model);
    entries.found
}

/// Findings about single entries.
pub(super) struct Entries<'e> {
    pub(super) export: &'e Path,
    pub(super) found: Vec<Finding>,
}

impl Entries<'_> {
    /// A finding about some entries; none where there are none.
    pub(super) fn some(&mut self, kind: &'static Kind, group: &Group, what: &str) {
        self.some_with(kind, group, what, None);
    }

    pub(super) fn some_with(
        &mut self,
        kind: &'static Kind,
        group: &Group,
        what: &str,
        remedy: Option<String>,
    ) {
        let Some(first) = &group.first else { return };
        let file = if first.is_empty() {
            self.export.to_path_buf()
        } else {
            self.export.join(OsStr::from_bytes(first))
        };
        let more = match group.count {
            1 => String::new(),
            count => format!(" (and {})", counted(count - 1, "more entry")),
        };
        let place = Place { file: Some(file), ..Place::default() };
        let message = format!("{what}{more}");
        self.found.push(Finding { kind, place, message, remedy, subject: None });
    }

    fn judge(&mut self, survey: &Survey, writable: bool, model: Model) {
        self.some(&finding::MOUNT_INSIDE, &survey.mounts, "something else is mounted here");
        let subvolume = "it is a Btrfs subvolume or snapshot of its own";
        self.some(&finding::SUBVOLUME_INSIDE, &survey.subvolumes, subvolume);
        let absent =
            "a Btrfs snapshot has this empty directory in the place of a subvolume that it does not contain";
        self.some(&finding::ABSENT_SUBVOLUME, &survey.absent, absent);
        // Where the whole file system is read-only, that is a finding of its own.
        if writable {
            let read_only = "this part of the Btrfs is read-only: a conversion can't change its files";
            self.some(&finding::READ_ONLY_SUBVOLUME, &survey.read_only, read_only);
        }
        self.some(&finding::IMMUTABLE_FILE, &survey.immutable, "it is immutable (chattr +i)");
        self.some(&finding::APPEND_ONLY_FILE, &survey.append_only, "it is append-only (chattr +a)");
        self.some(&finding::ALREADY_MAPPED, &survey.mapped, "it has user.virtfs.* attributes already");
        for (name, group) in &survey.lost {
            let shown = text::escape(name);
            if let Some(advice) = lost_advice(name) {
                let id = finding::XATTR_LOST.id;
                let remedy = format!(
                    "{advice}; agree with --accept={id} or, to this one alone, --accept={id}:{shown}"
                );
                let what = format!("the guest loses the attribute {shown}");
                self.some_with(&finding::XATTR_LOST, group, &what, Some(remedy));
                if let Some(finding) = self.found.last_mut() {
                    finding.subject = Some(name.clone());
                }
            } else {
                self.some(
                    &finding::XATTR_NOT_PASSED,
                    group,
                    &format!("the guest is not shown the attribute {shown}"),
                );
            }
        }
        self.some(&finding::XATTR_LOST, &survey.other_lost, "the guest loses attributes of many other names");
        let unmapped = "its owner or group is not in the id map of the mount: nothing can be changed of it";
        self.some(&finding::IDS_NOT_MAPPED, &survey.unmapped, unmapped);
        let unmapped = "its ACL names users or groups that are not in the id map of the mount, or of the user namespace: they would be lost";
        self.some(&finding::IDS_NOT_MAPPED, &survey.unmapped_acls, unmapped);
        let breaking = "it has several names in a lower layer of the overlay, which are copied up one by one: they become \
                        different files";
        self.some(&finding::LINKS_WOULD_BREAK, &survey.breaking, breaking);
        let outside = "it has names outside the export, and what they show changes with it";
        self.some(&finding::LINKS_OUTSIDE, &survey.leaving, outside);
        match model {
            Model::MappedXattr => {
                let tight = "its attributes leave no room for the mapped ones";
                self.some(&finding::NO_ROOM_FOR_ATTRIBUTES, &survey.tight, tight);
            }
            Model::MappedFile => {
                self.some(
                    &finding::RESERVED_NAME,
                    &survey.reserved,
                    "mapped-file keeps this name for itself",
                );
                let weak = "the guest sees more rights of the owner's in its ACL: QEMU's user needs them";
                self.some(&finding::ACL_OWNER_RIGHTS, &survey.weak_owners, weak);
                let far = "its device number does not fit mapped-file's 31 bits";
                self.some(&finding::DEVICE_NUMBER_TOO_LARGE, &survey.far_devices, far);
            }
        }
    }
}

/// What to do about the loss of an attribute that the guest's kernel acts on; `None` for all others: over the proxy no guest
/// saw `trusted.*`, and what is in `security.*` else, no guest has put there.
fn lost_advice(name: &[u8]) -> Option<&'static str> {
    match name {
        b"security.capability" => Some(
            "the programs lose their file capabilities in the guest: set them there at boot, or keep them on a disk image",
        ),
        b"security.ima" | b"security.evm" => {
            Some("the guest can't appraise these files any more; exclude the mount from its policy")
        }
        _ => None,
    }
}
