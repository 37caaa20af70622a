//! POSIX ACLs as their extended attributes hold them, and as people write them.

use std::fmt::Write as _;

/// The version of the attribute's layout, its first four bytes: `include/uapi/linux/posix_acl_xattr.h`.
const VERSION: u32 = 2;

/// The text of an ACL attribute's value, numbers for users and groups: `user::rw-,user:1000:r--,group::r--,mask::r--,other::---`.
/// `None` where the value is not one.
pub(crate) fn text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return None;
    }
    let mut out = String::new();
    for entry in entries {
        if !out.is_empty() {
            out.push(',');
        }
        push_entry(&mut out, *entry)?;
    }
    Some(out)
}

/// The same ACL with these rights of the owner's (4 to read, 2 to write, 1 to execute) added to its own; what is no ACL
/// stays as it is.
pub(crate) fn with_owner_rights(value: &[u8], rights: u16) -> Vec<u8> {
    const OWNER: u16 = 0x01;
    let mut out = value.to_vec();
    let entries = out.get_mut(4..).unwrap_or_default().chunks_exact_mut(8);
    for entry in entries {
        if let [t0, t1, p0, ..] = entry
            && u16::from_le_bytes([*t0, *t1]) == OWNER
        {
            *p0 |= rights.to_le_bytes()[0];
        }
    }
    out
}

/// Whether an ACL names a user or group that the reader's user namespace, or the id map of the mount, lacks: the kernel shows it as −1,
/// and takes no such ACL back.
pub(crate) fn names_unmapped(value: &[u8]) -> bool {
    let (entries, _) = value.get(4..).unwrap_or_default().as_chunks::<8>();
    entries.iter().any(|[t0, t1, _, _, id @ ..]| {
        matches!(u16::from_le_bytes([*t0, *t1]), 0x02 | 0x08) && u32::from_le_bytes(*id) == u32::MAX
    })
}

/// Adds one entry: a tag, permissions and a number, all little-endian.
fn push_entry(out: &mut String, [t0, t1, p0, p1, i0, i1, i2, i3]: [u8; 8]) -> Option<()> {
    let permissions = u16::from_le_bytes([p0, p1]);
    let id = u32::from_le_bytes([i0, i1, i2, i3]);
    let (name, has_id) = match u16::from_le_bytes([t0, t1]) {
        0x01 => ("user", false),
        0x02 => ("user", true),
        0x04 => ("group", false),
        0x08 => ("group", true),
        0x10 => ("mask", false),
        0x20 => ("other", false),
        _ => return None,
    };
    out.push_str(name);
    out.push(':');
    if has_id {
        // Writing to a String does not fail.
        let _ = write!(out, "{id}");
    }
    out.push(':');
    for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
        out.push(if permissions & bit == 0 { '-' } else { letter });
    }
    (permissions <= 7).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(tag: u16, permissions: u16, id: u32) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    }

    #[test]
    fn acls_read_as_setfacl_takes_them() {
        let none = u32::MAX;
        let entries = [(1, 6, none), (2, 4, 1000), (4, 5, none), (8, 7, 2000), (16, 4, none), (32, 0, none)];
        let mut value = 2u32.to_le_bytes().to_vec();
        value.extend(entries.iter().flat_map(|&(tag, permissions, id)| entry(tag, permissions, id)));
        assert_eq!(
            text(&value).as_deref(),
            Some("user::rw-,user:1000:r--,group::r-x,group:2000:rwx,mask::r--,other::---")
        );
        assert_eq!(text(&2u32.to_le_bytes()).as_deref(), Some(""));
    }

    #[test]
    fn the_owner_gets_rights_and_nobody_else_does() {
        let acl = |owner| {
            [2u32.to_le_bytes().to_vec(), entry(1, owner, u32::MAX), entry(2, 0, 7), entry(32, 0, u32::MAX)]
                .concat()
        };
        assert_eq!(with_owner_rights(&acl(0), 6), acl(6));
        assert_eq!(with_owner_rights(&acl(5), 2), acl(7));
        assert_eq!(with_owner_rights(b"no", 6), b"no");
    }

    #[test]
    fn an_unmapped_user_or_group_is_found() {
        let acl = |entries: &[Vec<u8>]| [2u32.to_le_bytes().to_vec(), entries.concat()].concat();
        let owners =
            [entry(1, 6, u32::MAX), entry(4, 0, u32::MAX), entry(16, 7, u32::MAX), entry(32, 0, u32::MAX)];
        assert!(!names_unmapped(&acl(&owners)));
        for (tag, id, is) in [(2, 7, false), (8, 65534, false), (2, u32::MAX, true), (8, u32::MAX, true)] {
            assert_eq!(names_unmapped(&acl(&[&owners[..], &[entry(tag, 4, id)]].concat())), is, "{tag} {id}");
        }
        assert!(!names_unmapped(b"no"));
    }

    #[test]
    fn what_is_no_acl_has_no_text() {
        let good = [2u32.to_le_bytes().to_vec(), entry(1, 6, 0)].concat();
        assert!(text(&good).is_some());
        for bad in [
            vec![],
            1u32.to_le_bytes().to_vec(),
            good[..good.len() - 1].to_vec(),
            [2u32.to_le_bytes().to_vec(), entry(3, 6, 0)].concat(),
            [2u32.to_le_bytes().to_vec(), entry(1, 8, 0)].concat(),
        ] {
            assert_eq!(text(&bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = text(&bytes);
        }
    }
}
