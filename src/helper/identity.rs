//! Whose files are made: the file system identity of the one serving thread.
//!
//! A request that creates carries the guest process's uid and gid. `setfsuid(2)` and `setfsgid(2)` lend them to
//! this thread for that one operation: two system calls there, two back, and none where the identity already
//! fits. They report no errors, so whether they can succeed is decided beforehand: from the capabilities held and
//! from the user namespace's id maps, read once at start.
//!
//! While a thread whose file system uid is 0 takes another one, the kernel removes the file system capabilities from its
//! effective set; it restores them from the permitted set when the uid is 0 again (capabilities(7), "Effect of user ID
//! changes"). That is wanted: as an ordinary guest user the kernel should clear a foreign group's setgid bit and refuse devices.
//! Where this thread's own uid is not 0, or the `NO_SETUID_FIXUP` secure bit is set, the kernel does not do that, or does
//! it at the wrong moment: from 1000 to 0 and back the capabilities are lost. There [`Identity::with_fsids`] sets the effective
//! set itself, by one capset(2) before the operation and one after it ([`Capabilities::ByHand`]).
//!
//! What must stay is `CAP_DAC_OVERRIDE`, because the guest's kernel has already decided who may create here and the wire
//! carries no supplementary groups. Hardly any create needs it, so it is raised only after an `EACCES`, and the operation
//! done again.

use std::fs;

use anyhow::{Context, Result};
use caps::{CapSet, Capability};
use nix::errno::Errno;

use super::sys::{self, EffectiveSet};

/// "Leave this id as it is", on the wire and in the kernel.
pub(crate) const NO_CHANGE: u32 = u32::MAX;

/// The identity of the serving thread.
pub struct Identity {
    uid: Id,
    gid: Id,
    capabilities: Capabilities,
}

/// Who takes the file system capabilities out of effect while a guest's user creates, and puts them back.
enum Capabilities {
    /// The kernel does, as the thread leaves uid 0 and comes back.
    ByKernel,
    /// This thread does. It holds none of them where both sets are the same.
    ByHand {
        /// What is in effect between requests.
        own: EffectiveSet,
        /// The same without the file system capabilities.
        reduced: EffectiveSet,
    },
}

impl Capabilities {
    /// Those of this thread, which rests at the file system uid `base`.
    fn of_this_thread(base: u32) -> Result<Self> {
        if base == ROOT && !sys::no_setuid_fixup().context("cannot read this process's secure bits")? {
            return Ok(Self::ByKernel);
        }
        let own = EffectiveSet::of_this_thread().context("cannot read this process's capabilities")?;
        Ok(Self::ByHand { reduced: own.without_file_system(), own })
    }
}

/// The user whose creates keep the file system capabilities.
const ROOT: u32 = 0;

/// One half of an identity.
struct Id {
    /// What the thread rests at.
    base: u32,
    /// What this user namespace can name: first id, how many.
    map: Vec<(u32, u32)>,
    /// Whether the capability to switch is held.
    may_switch: bool,
}

impl Id {
    /// Whether `id` asks for a switch, and if so whether it can be done.
    fn wants(&self, id: u32) -> Result<bool, Errno> {
        if id == NO_CHANGE || id == self.base {
            Ok(false)
        } else if !self.may_switch {
            Err(Errno::EPERM)
        } else if !self.names(id) {
            Err(Errno::EINVAL)
        } else {
            Ok(true)
        }
    }

    fn names(&self, id: u32) -> bool {
        self.map.iter().any(|&(first, count)| id.checked_sub(first).is_some_and(|offset| offset < count))
    }
}

impl Identity {
    /// Takes stock of this thread: call it before `/proc` goes out of reach and after the capabilities are
    /// final.
    ///
    /// In a user namespace that has no name for the thread's own ids (LXD and Incus start the helper so) it moves to the
    /// first ids that the namespace can name: it could not come back to the others.
    pub fn of_this_thread(maps: IdMaps) -> Result<Self> {
        let held = caps::read(None, CapSet::Effective).context("cannot read this process's capabilities")?;
        let mut uid = Id {
            base: nix::unistd::geteuid().as_raw(),
            map: maps.uid,
            may_switch: held.contains(&Capability::CAP_SETUID),
        };
        let mut gid = Id {
            base: nix::unistd::getegid().as_raw(),
            map: maps.gid,
            may_switch: held.contains(&Capability::CAP_SETGID),
        };
        for (id, switch) in [(&mut gid, sys::setfsgid as fn(u32) -> u32), (&mut uid, sys::setfsuid)] {
            if let Some(&(first, _)) = id.map.first()
                && !id.names(id.base)
                && id.may_switch
            {
                switch(first);
                id.base = first;
            }
        }
        let capabilities = Capabilities::of_this_thread(uid.base)?;
        Ok(Self { uid, gid, capabilities })
    }

    /// The file system uid that `operation` of [`Self::with_fsids`] has for this `uid`.
    pub fn fsuid(&self, uid: u32) -> u32 {
        if uid == NO_CHANGE { self.uid.base } else { uid }
    }

    /// Runs `operation` as `uid:gid`, and is itself again when it returns. `EPERM` where this process may not
    /// switch, `EINVAL` where its user namespace has no such id.
    pub fn with_fsids<T>(
        &self,
        uid: u32,
        gid: u32,
        mut operation: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (switch_uid, switch_gid) = (self.uid.wants(uid)?, self.gid.wants(gid)?);
        let by_hand = self.sets_for(uid);
        if !switch_uid && !switch_gid && by_hand.is_none() {
            return operation();
        }
        if switch_gid {
            sys::setfsgid(gid);
        }
        if switch_uid {
            sys::setfsuid(uid);
        }
        if let Some((_, during)) = by_hand
            && during.apply().is_err()
        {
            lost("capabilities of uid", uid);
        }
        let mut result = operation();
        let reduced = switch_uid || by_hand.is_some();
        if reduced && matches!(result, Err(Errno::EACCES)) && raise_dac_override() {
            result = operation();
        }
        if switch_uid && sys::setfsuid(self.uid.base) != uid {
            lost("uid", uid);
        }
        if switch_gid && sys::setfsgid(self.gid.base) != gid {
            lost("gid", gid);
        }
        if let Some((own, _)) = by_hand
            && own.apply().is_err()
        {
            lost("capabilities of uid", self.uid.base);
        }
        result
    }

    /// The effective sets between requests and during an operation as `uid`. `None` where the kernel changes them, or nothing
    /// is to be changed.
    fn sets_for(&self, uid: u32) -> Option<(&EffectiveSet, &EffectiveSet)> {
        match &self.capabilities {
            Capabilities::ByHand { own, reduced } if uid != NO_CHANGE && own != reduced => {
                Some((own, if uid == ROOT { own } else { reduced }))
            }
            Capabilities::ByHand { .. } | Capabilities::ByKernel => None,
        }
    }
}

/// Puts `CAP_DAC_OVERRIDE` back into effect. False where it was in effect, or is not permitted.
fn raise_dac_override() -> bool {
    sys::raise_capability(Capability::CAP_DAC_OVERRIDE.index()).unwrap_or(false)
}

/// A switch that was checked beforehand did not happen, or did not hold: whatever this thread does next, it would
/// do as somebody it does not know. It ends instead.
fn lost(which: &str, id: u32) -> ! {
    log::error!("the thread did not have the file system {which} {id} that it had switched to; stopping");
    std::process::abort()
}

/// The ids this process's user namespace can name.
pub struct IdMaps {
    uid: Vec<(u32, u32)>,
    gid: Vec<(u32, u32)>,
}

impl IdMaps {
    /// Reads them from `/proc`.
    pub fn read() -> Result<Self> {
        let read = |path| -> Result<_> {
            let text =
                fs::read_to_string(path).with_context(|| format!("cannot read {path}; is /proc mounted?"))?;
            Ok(parse_map(&text))
        };
        Ok(Self { uid: read("/proc/self/uid_map")?, gid: read("/proc/self/gid_map")? })
    }
}

/// Reads a map (user_namespaces(7)): lines of first id inside, first id outside, how many.
fn parse_map(text: &str) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let first = words.next()?.parse().ok()?;
            let count = words.nth(1)?.parse().ok()?;
            Some((first, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(base: u32, map: &str, may_switch: bool) -> Id {
        Id { base, map: parse_map(map), may_switch }
    }

    #[test]
    fn a_switch_is_judged_before_it_is_made() {
        let whole = "         0          0 4294967295\n";
        for (id, wanted, judged) in [
            (id(0, whole, true), 0, Ok(false)),
            (id(0, whole, true), NO_CHANGE, Ok(false)),
            (id(0, whole, true), 1000, Ok(true)),
            (id(0, whole, false), 1000, Err(Errno::EPERM)),
            (id(0, whole, false), 0, Ok(false)),
            (id(0, "0 100000 65536\n", true), 65_535, Ok(true)),
            (id(0, "0 100000 65536\n", true), 65_536, Err(Errno::EINVAL)),
            (id(1000, "1000 1000 1\n", true), 0, Err(Errno::EINVAL)),
            (id(1000, "1000 1000 1\n", true), 1000, Ok(false)),
        ] {
            assert_eq!(id.wants(wanted), judged, "{wanted}");
        }
    }

    #[test]
    fn maps_are_read_line_by_line() {
        assert_eq!(parse_map("0 1 2\n  5  6   7\nnonsense\n1 2\n"), [(0, 2), (5, 7)]);
    }
}
