//! What each version of QEMU means for a share over the local backend with a mapped security model: one table.
//!
//! Sources: the change logs of QEMU's releases and of Debian's packages of them; the behaviour of 7.2.22, 10.0.13 and 11.1.3
//! was tried in a guest.

use super::Version;

/// A complete version: major, minor, micro.
pub(crate) type Release = (u32, u32, u32);

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    /// What it is called: a CVE's number, or what the row is about.
    pub name: &'static str,
    /// How much it matters.
    pub kind: Kind,
    /// The first version of each branch that it is true of; the last one begins it for all newer branches.
    pub since: &'static [Release],
    /// The first version of each branch that it is not true of any more; the last one ends it for all newer branches.
    pub until: &'static [Release],
    /// What it means, in one sentence without a full stop.
    pub meaning: &'static str,
    /// What to do, in one sentence without a full stop.
    pub remedy: &'static str,
}

/// How much a row matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A guest can harm the host.
    Security,
    /// A program in the guest can fail.
    Fault,
    /// Something is otherwise than in other versions.
    Difference,
}

/// Whether a row is true of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// It is.
    Yes,
    /// It depends on the third number, which is not said: it is in those before this one.
    Before(u32),
    /// It depends on the third number, which is not said: it is from this one on.
    From(u32),
    /// It is not.
    No,
}

/// True of the oldest version that the table knows, and of those before it.
const ALWAYS: &[Release] = &[(0, 0, 0)];

/// What to do about a fault of QEMU's that a newer version mends.
const UPDATE: &str =
    "update QEMU; a distribution may have mended it in its package without another version number";

/// The table: security first, newest first.
pub(crate) const TABLE: &[Advice] = &[
    Advice {
        name: "CVE-2026-93834",
        kind: Kind::Security,
        since: ALWAYS,
        until: &[(11, 1, 2)],
        meaning: "a guest can leave the share and use the host's files as QEMU's user (CVSS 8.8)",
        remedy: UPDATE,
    },
    Advice {
        name: "CVE-2026-63318",
        kind: Kind::Security,
        since: ALWAYS,
        until: &[(10, 0, 13), (11, 1, 0)],
        meaning: "a guest can truncate files of a read-only share",
        remedy: UPDATE,
    },
    Advice {
        name: "CVE-2026-9238",
        kind: Kind::Security,
        since: ALWAYS,
        until: &[(10, 0, 12), (11, 1, 0)],
        meaning: "a guest can make QEMU allocate too much memory by listing a directory",
        remedy: UPDATE,
    },
    Advice {
        name: "CVE-2026-8348",
        kind: Kind::Security,
        since: ALWAYS,
        until: &[(10, 0, 12), (11, 1, 0)],
        meaning: "a guest can use up the host's memory by extended attributes",
        remedy: UPDATE,
    },
    Advice {
        name: "CVE-2026-48004",
        kind: Kind::Security,
        since: ALWAYS,
        until: &[(10, 0, 11), (11, 0, 2)],
        meaning: "QEMU lists a directory without the lock that keeps it from being renamed meanwhile",
        remedy: UPDATE,
    },
    Advice {
        name: "CVE-2023-2861",
        kind: Kind::Security,
        since: ALWAYS,
        until: &[(7, 2, 4), (8, 0, 3), (8, 1, 0)],
        meaning: "a guest can open devices and FIFOs that lie in the export on the host",
        remedy: UPDATE,
    },
    Advice {
        name: "CVE-2021-20181",
        kind: Kind::Security,
        since: ALWAYS,
        until: &[(6, 0, 0)],
        meaning: "a guest can make QEMU use memory that it has freed",
        remedy: UPDATE,
    },
    Advice {
        name: "O_RDONLY|O_TRUNC",
        kind: Kind::Fault,
        since: &[(11, 1, 3)],
        until: &[],
        meaning: "a program in the guest that opens a file with O_RDONLY|O_TRUNC gets EINVAL",
        remedy: "look whether the guest's programs do so; `: > FILE` and O_WRONLY|O_TRUNC are not concerned",
    },
    Advice {
        name: "multidevs",
        kind: Kind::Difference,
        since: &[(10, 0, 0)],
        until: &[],
        meaning: "multidevs=remap is the default, and changes all inode numbers that the guest sees",
        remedy: "pass multidevs=warn, which keeps them, as `migrate config` does for an export on one file system",
    },
    Advice {
        name: "max_xattr",
        kind: Kind::Difference,
        since: &[(10, 0, 12), (11, 1, 0)],
        until: &[],
        meaning: "the guest can have a bounded number of extended attributes open at once; max_xattr= of the fsdev sets it",
        remedy: "nothing, unless QEMU logs that the limit is exceeded; libvirt has no word for max_xattr",
    },
    Advice {
        name: "fstat of an unlinked file",
        kind: Kind::Difference,
        since: ALWAYS,
        until: &[(7, 2, 16), (10, 0, 0)],
        meaning: "in the guest, fstat(2) of an open file that is unlinked fails with ENOENT",
        remedy: "use 10.0 or newer where the guest's programs need it",
    },
    Advice {
        name: "ftruncate of an unlinked file",
        kind: Kind::Difference,
        since: ALWAYS,
        until: &[(10, 1, 0)],
        meaning: "in the guest, ftruncate(2) and futimens(3) of an open file that is unlinked fail with ENOENT",
        remedy: "use 10.1 or newer where the guest's programs need it",
    },
    Advice {
        name: "fchmod of an unlinked file",
        kind: Kind::Difference,
        since: ALWAYS,
        until: &[],
        meaning: "in the guest, fchmod(2) and fchown(2) of an open file that is unlinked fail with ENOENT",
        remedy: "nothing mends it yet; over the proxy it is the same",
    },
];

impl Advice {
    /// Whether it is true of `version`.
    pub(crate) fn holds(&self, version: &Version) -> Holds {
        let (major, minor) = version.feature_release();
        // A release candidate counts as the release that it becomes.
        let micro = if (major, minor) == version.number { version.micro } else { Some(0) };
        let at = |micro| self.is_true_of((major, minor, micro));
        let bound = |list: &[Release]| {
            list.iter().find(|one| (one.0, one.1) == (major, minor)).map_or(0, |one| one.2)
        };
        match micro.map_or_else(|| (at(0), at(u32::MAX)), |micro| (at(micro), at(micro))) {
            (true, true) => Holds::Yes,
            (true, false) => Holds::Before(bound(self.until)),
            (false, true) => Holds::From(bound(self.since)),
            (false, false) => Holds::No,
        }
    }

    fn is_true_of(&self, version: Release) -> bool {
        reaches(self.since, version) && !reaches(self.until, version)
    }
}

/// Whether `version` is at or behind the release of its branch in `list`, or the last one.
fn reaches(list: &[Release], version: Release) -> bool {
    let same_branch = |one: &Release| (one.0, one.1) == (version.0, version.1);
    list.iter().any(|one| same_branch(one) && version >= *one)
        || list.last().is_some_and(|last| version >= *last)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The day on which the table was last compared with QEMU's releases.
    const DATE: &str = "2026-11-26";

    /// What libvirt can say of such a share in its own words, and since which version.
    const LIBVIRT: &[(&str, &str)] = &[
        ("6.2", "`multidevs=` of `<filesystem>`: `remap`, `forbid` and `warn`; older: QEMU's default"),
        ("6.10", "`fmode=` and `dmode=` of `<filesystem>`"),
        (
            "none yet",
            "`max_xattr`, and the security model mapped-file: an argument of QEMU's in `<qemu:commandline>` says them",
        ),
    ];

    /// The table as MIGRATION.md shows it.
    fn markdown() -> String {
        let mut out = format!(
            "QEMU's releases until {DATE}. \"All\": from 5.0 on.\n\n| what | in versions | not from | what it means for a local, \
             mapped share | what to do |\n|---|---|---|---|---|\n"
        );
        // Writing to a String does not fail.
        for row in TABLE {
            let remedy = if row.kind == Kind::Security { "update QEMU" } else { row.remedy };
            let cells = [row.name, &from(row.since), &releases(row.until), row.meaning, remedy];
            let _ = writeln!(out, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
        }
        out += "\n| libvirt | what it can say in its own words |\n|---|---|\n";
        for (version, words) in LIBVIRT {
            let _ = writeln!(out, "| {version} | {words} |");
        }
        out
    }

    fn from(list: &[Release]) -> String {
        if list == ALWAYS { "all".to_owned() } else { format!("from {}", releases(list)) }
    }

    fn releases(list: &[Release]) -> String {
        if list.is_empty() {
            return "–".to_owned();
        }
        let text = |(major, minor, micro): &Release| format!("{major}.{minor}.{micro}");
        list.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    fn named(name: &str) -> &'static Advice {
        TABLE.iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn each_version_is_judged_by_its_branch() {
        use Holds::{Before, From, No, Yes};
        for (name, judged) in [
            (
                "CVE-2026-48004",
                &[
                    ("9.2.0", Yes),
                    ("10.0.10", Yes),
                    ("10.0.11", No),
                    ("10.2.9", Yes),
                    ("11.0.1", Yes),
                    ("11.0.2", No),
                    ("11.1.0", No),
                    ("10.0", Before(11)),
                    ("10.1", Yes),
                    ("11.1", No),
                ][..],
            ),
            (
                "CVE-2026-8348",
                &[("10.0.11", Yes), ("10.0.12", No), ("11.0.9", Yes), ("11.1.0", No), ("11.0.90", No)],
            ),
            ("CVE-2026-9238", &[("10.0.11", Yes), ("10.0.12", No), ("11.0.9", Yes), ("11.1.0", No)]),
            ("CVE-2026-63318", &[("10.0.12", Yes), ("10.0.13", No), ("11.0.9", Yes), ("11.1.0", No)]),
            (
                "CVE-2026-93834",
                &[
                    ("5.0.0", Yes),
                    ("10.0.13", Yes),
                    ("11.1.1", Yes),
                    ("11.1.2", No),
                    ("11.2", No),
                    ("11.1", Before(2)),
                ],
            ),
            (
                "CVE-2023-2861",
                &[
                    ("7.2.3", Yes),
                    ("7.2.4", No),
                    ("8.0.2", Yes),
                    ("8.0.3", No),
                    ("8.1.0", No),
                    ("7.1.9", Yes),
                ],
            ),
            ("CVE-2021-20181", &[("4.2.1", Yes), ("5.2.0", Yes), ("6.0", No)]),
            (
                "O_RDONLY|O_TRUNC",
                &[("10.0.13", No), ("11.1.2", No), ("11.1.3", Yes), ("11.1", From(3)), ("12.0", Yes)],
            ),
            ("multidevs", &[("9.2.4", No), ("9.2.90", Yes), ("10.0", Yes), ("11.1.3", Yes)]),
            (
                "max_xattr",
                &[("10.0.11", No), ("10.0.12", Yes), ("10.1.5", No), ("10.0", From(12)), ("11.1", Yes)],
            ),
            ("fstat of an unlinked file", &[("7.2.15", Yes), ("7.2.16", No), ("9.2.3", Yes), ("10.0", No)]),
            ("ftruncate of an unlinked file", &[("10.0.13", Yes), ("10.1", No)]),
            ("fchmod of an unlinked file", &[("7.2", Yes), ("11.1.3", Yes)]),
        ] {
            for (version, expected) in judged {
                assert_eq!(named(name).holds(&version.parse().unwrap()), *expected, "{name} in {version}");
            }
        }
    }

    #[test]
    fn migration_md_shows_the_table() {
        let page = include_str!("../../../MIGRATION.md");
        assert!(page.contains(&markdown()), "MIGRATION.md must hold this:\n{}", markdown());
    }

    #[test]
    fn the_tables_lists_are_in_order() {
        for row in TABLE {
            assert!(row.since.is_sorted() && row.until.is_sorted(), "{}", row.name);
            assert!(!row.meaning.ends_with('.') && !row.remedy.ends_with('.'), "{}", row.name);
        }
    }
}
