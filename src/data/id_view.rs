//! By which maps a process sees the numbers of users and groups of a tree: its user namespace's, and the mount's where that is id-mapped.
//!
//! A journal has the numbers as they were seen. Through other maps the same numbers are other users, and a rollback would give files to
//! those.

use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use super::mounts::Mount;
use super::sys;

/// The maps by which a tree was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// The user namespace's, of users and of groups: the lines of `/proc/self/uid_map` and `/proc/self/gid_map`. Empty where they could
    /// not be read.
    pub namespace: [String; 2],
    /// The mount's, of users and of groups, a line of three numbers for each range: the first number in the file system, the first that
    /// is seen, how many. Empty where the kernel does not tell (before Linux 6.15). `None`: the mount is not id-mapped.
    pub mount: Option<[String; 2]>,
}

/// So many numbers.
#[derive(Debug, Clone, Copy)]
struct Range {
    seen: u64,
    real: u64,
    count: u64,
}

/// Every number, as it is.
const IDENTITY: Range = Range { seen: 0, real: 0, count: u32::MAX as u64 };

impl IdMaps {
    /// Those by which this process sees what is at `file`, which was opened through `mount`.
    pub(crate) fn of(file: BorrowedFd<'_>, mount: Option<&Mount>) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let is_mapped = mount.is_some_and(|mount| mount.has_option("idmapped"));
        Self {
            namespace: [read("/proc/self/uid_map"), read("/proc/self/gid_map")],
            mount: is_mapped.then(|| sys::mount_id_maps(file).unwrap_or_default()),
        }
    }

    /// Whether every number that both show is the same user or group. What is not known is taken to be the same.
    pub fn agrees(&self, other: &Self) -> bool {
        let namespaces = self.namespace.iter().zip(&other.namespace);
        namespaces.map(|(one, other)| (parse(one, false), parse(other, false))).all(agree)
            && match (&self.mount, &other.mount) {
                (None, None) => true,
                (Some(one), Some(other)) => one
                    .iter()
                    .zip(other)
                    .map(|(one, other)| (parse(one, true), parse(other, true)))
                    .all(agree),
                (Some(map), None) | (None, Some(map)) => {
                    map.iter().all(|map| !map.is_empty() && agree((parse(map, true), vec![IDENTITY])))
                }
            }
    }
}

/// The ranges of a map. `is_mount` says that the number in the file system is the first of a line.
fn parse(map: &str, is_mount: bool) -> Vec<Range> {
    map.lines()
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            let (one, two, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
            let (seen, real) = if is_mount { (two, one) } else { (one, two) };
            Some(Range { seen, real, count })
        })
        .collect()
}

fn agree((one, other): (Vec<Range>, Vec<Range>)) -> bool {
    one.iter().all(|one| {
        other.iter().all(|other| {
            let is_apart = one.seen.saturating_add(one.count) <= other.seen
                || other.seen.saturating_add(other.count) <= one.seen;
            // The difference is the same wherever the two overlap.
            is_apart || one.real.wrapping_sub(one.seen) == other.real.wrapping_sub(other.seen)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_agree_where_each_number_is_the_same_user_by_both() {
        let first = "         0          0 4294967295\n";
        let of = |namespace: &str, mount: Option<&str>| IdMaps {
            namespace: [namespace.into(), namespace.into()],
            mount: mount.map(|map| [map.into(), map.into()]),
        };
        for (one, other, agree) in [
            (of(first, None), of(first, None), true),
            (of(first, None), of("0 100000 65536\n", None), false),
            (of("0 0 1\n1 100000 65535\n", None), of("0 0 1\n", None), true),
            (of("", None), of(first, None), true),
            (of(first, None), of(first, Some("100000 0 65536")), false),
            (of(first, None), of(first, Some("0 0 1000")), true),
            // The kernel does not tell the map.
            (of(first, None), of(first, Some("")), false),
            (of(first, Some("100000 0 65536")), of(first, Some("")), true),
            (of(first, Some("100000 0 65536")), of(first, Some("100000 0 1000")), true),
            (of(first, Some("100000 0 65536")), of(first, Some("200000 0 65536")), false),
            // Parts of one range.
            (of(first, Some("100000 0 65536")), of(first, Some("100000 0 10\n100010 10 10")), true),
            (of(first, Some("100000 0 10\n500 500 1")), of(first, Some("500 500 1\n7 9 1")), false),
        ] {
            assert_eq!(one.agrees(&other), agree, "{one:?} {other:?}");
            assert_eq!(other.agrees(&one), agree, "{other:?} {one:?}");
        }
    }
}
