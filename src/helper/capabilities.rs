//! Sets of capabilities, as `--modcaps` changes them.

use std::collections::HashSet;
use std::str::FromStr;

use anyhow::{Result, bail};
use caps::Capability;

use crate::text::escape;

/// The capabilities that requests need, and what happens without each.
pub(crate) const NEEDED: [(Capability, &str); 7] = [
    (Capability::CAP_CHOWN, "EPERM for chown by the guest"),
    (Capability::CAP_DAC_OVERRIDE, "EACCES for files that this user may not reach"),
    (Capability::CAP_FOWNER, "EPERM for chmod, utime and xattrs on other users' files"),
    (
        Capability::CAP_FSETID,
        "the setgid bit is dropped at chmod of a file of another group, the setuid and setgid bits at truncate",
    ),
    (Capability::CAP_SETGID, "EPERM for creating files with another group"),
    (Capability::CAP_MKNOD, "EPERM for mknod of devices"),
    (Capability::CAP_SETUID, "EPERM for creating files as another user"),
];

/// The capabilities a serving process keeps: the seven that requests need, and what `--modcaps` makes of them.
#[derive(Debug, Clone)]
pub struct CapabilitySet {
    pub(super) kept: HashSet<Capability>,
    /// What `--modcaps` takes from every process of the helper.
    pub(super) removed: HashSet<Capability>,
}

impl Default for CapabilitySet {
    fn default() -> Self {
        Self::of(NEEDED.iter().map(|(capability, _)| *capability))
    }
}

impl CapabilitySet {
    fn of(capabilities: impl IntoIterator<Item = Capability>) -> Self {
        Self { kept: capabilities.into_iter().collect(), removed: HashSet::new() }
    }

    /// Those of these that reading takes: of the seven, the one that opens files to this process.
    pub fn for_reading(self) -> Self {
        let changes = |capability: &Capability| {
            *capability != Capability::CAP_DAC_OVERRIDE
                && NEEDED.iter().any(|(needed, _)| needed == capability)
        };
        let kept = self.kept.into_iter().filter(|capability| !changes(capability)).collect();
        Self { kept, ..self }
    }

    /// What removing a file in somebody else's directory takes.
    pub fn for_cleaner() -> Self {
        Self::of([Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER])
    }

    /// What following the host's mounts takes: to change mounts and namespaces, and to find mount points in closed directories.
    pub fn for_mount_watcher() -> Self {
        Self::of([Capability::CAP_DAC_OVERRIDE, Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_CHROOT])
    }

    /// These, and what confining a worker takes.
    pub fn for_supervisor(&self) -> Self {
        let mut all = self.clone();
        all.kept.extend([Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_CHROOT, Capability::CAP_SETPCAP]);
        all.kept.retain(|capability| !all.removed.contains(capability));
        all
    }
}

impl FromStr for CapabilitySet {
    type Err = anyhow::Error;

    /// Reads `+NAME` and `-NAME`, separated by colons, names without `CAP_` and in any case.
    fn from_str(list: &str) -> Result<Self> {
        let mut kept = Self::default();
        for change in list.split(':') {
            let (add, name) = match (change.strip_prefix('+'), change.strip_prefix('-')) {
                (Some(name), _) => (true, name),
                (_, Some(name)) => (false, name),
                _ => bail!("'{}' is neither +CAPABILITY nor -CAPABILITY", escape(change.as_bytes())),
            };
            let full = format!("CAP_{}", name.to_ascii_uppercase().trim_start_matches("CAP_"));
            let capability = Capability::from_str(&full)
                .map_err(|_| anyhow::anyhow!("there is no capability '{}'", escape(name.as_bytes())))?;
            let (to, from) =
                if add { (&mut kept.kept, &mut kept.removed) } else { (&mut kept.removed, &mut kept.kept) };
            from.remove(&capability);
            to.insert(capability);
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modcaps_adds_and_removes() {
        let kept: CapabilitySet = "+sys_admin:-MKNOD:-cap_chown".parse().unwrap();
        assert!(kept.kept.contains(&Capability::CAP_SYS_ADMIN));
        assert!(!kept.kept.contains(&Capability::CAP_MKNOD));
        assert!(!kept.kept.contains(&Capability::CAP_CHOWN));
        assert_eq!(kept.kept.len(), 6);
        for wrong in ["", "chown", "+nonsense", "+chown,-mknod"] {
            assert!(CapabilitySet::from_str(wrong).is_err(), "{wrong}");
        }
    }
}
