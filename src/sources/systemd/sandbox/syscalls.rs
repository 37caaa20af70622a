//! `SystemCallFilter=` → the system calls that a share's mapped attributes need and a unit denies.
//!
//! Source: systemd.exec(5), "SystemCallFilter="; `systemd-analyze syscall-filter` for the groups. What QEMU calls for a mapped share
//! was traced in QEMU 7.2 with both models.

use crate::sources::systemd::setting::Setting;

/// What QEMU calls for a mapped share and not for its disks. Each is in the groups [`GROUPS`], and in no others.
const NEEDED: &[&str] = &[
    "lsetxattr",
    "lgetxattr",
    "llistxattr",
    "lremovexattr",
    "mkdirat",
    "mknodat",
    "linkat",
    "renameat",
    "unlinkat",
    "utimensat",
    "ftruncate",
    "fchmod",
];

/// The groups that hold all of them.
const GROUPS: &[&str] = &["@file-system", "@system-service", "@known"];

/// The needed calls that the settings deny, and the last setting that says so.
pub(super) fn denied<'a>(in_force: &[&'a Setting]) -> Option<(&'a Setting, Vec<&'static str>)> {
    let filters: Vec<_> = in_force.iter().filter(|setting| setting.key == b"SystemCallFilter").collect();
    let is_inverse = |setting: &Setting| setting.words.first().is_some_and(|word| word.starts_with(b"~"));
    // The first setting decides whether all others are allowed.
    let others_allowed = is_inverse(filters.first()?);
    let mut denied = Vec::new();
    let mut by = None;
    for call in NEEDED {
        let mut allowed = others_allowed;
        for filter in &filters {
            let first = filter.words.first().map(|word| word.strip_prefix(b"~").unwrap_or(word));
            let rest = filter.words.iter().skip(1).map(Vec::as_slice);
            if first.into_iter().chain(rest).any(|word| names(word, call)) {
                allowed = !is_inverse(filter);
                by = if allowed { by } else { Some(**filter) };
            }
        }
        if !allowed {
            denied.push(*call);
        }
    }
    let by = by.or_else(|| filters.last().map(|filter| **filter))?;
    (!denied.is_empty()).then_some((by, denied))
}

/// Whether a word of a filter, `NAME:ERROR`, names a call or a group with it.
fn names(word: &[u8], call: &str) -> bool {
    let name = word.split(|byte| *byte == b':').next().unwrap_or_default();
    name == call.as_bytes() || GROUPS.iter().any(|group| group.as_bytes() == name)
}
