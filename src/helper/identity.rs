//! Whose files are made: the file system identity of the one serving thread.
//!
//! A request that creates carries the guest process's uid and gid. `setfsuid(2)` and `setfsgid(2)` lend them to
//! this thread for that one operation: two system calls there, two back, and none where the identity already
//! fits. They report no errors, so whether they can succeed is decided beforehand: from the capabilities held and
//! from the user namespace's id maps, read once at start.
//!
//! Leaving file system uid 0 costs the thread its effective file system capabilities (capabilities(7), "Effect of
//! user ID changes"); coming back restores them from the permitted set. That is wanted: as an ordinary guest user
//! the kernel should clear a foreign group's setgid bit and refuse devices. What must stay is
//! `CAP_DAC_OVERRIDE`, because the guest's kernel has already decided who may create here and the wire carries no
//! supplementary groups. Hardly any create needs it, so it is raised only after an `EACCES`, and the operation
//! done again.

use std::fs;

use anyhow::{Context, Result};
use caps::{CapSet, Capability};
use nix::errno::Errno;

use super::sys;

/// "Leave this id as it is", on the wire and in the kernel.
pub const LEAVE: u32 = u32::MAX;

/// The identity of the serving thread.
pub struct Identity {
    uid: Id,
    gid: Id,
}

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
        if id == LEAVE || id == self.base {
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
        let mut identity = Self {
            uid: Id {
                base: nix::unistd::geteuid().as_raw(),
                map: maps.uid,
                may_switch: held.contains(&Capability::CAP_SETUID),
            },
            gid: Id {
                base: nix::unistd::getegid().as_raw(),
                map: maps.gid,
                may_switch: held.contains(&Capability::CAP_SETGID),
            },
        };
        for (id, switch) in
            [(&mut identity.gid, sys::setfsgid as fn(u32) -> u32), (&mut identity.uid, sys::setfsuid)]
        {
            if let Some(&(first, _)) = id.map.first()
                && !id.names(id.base)
                && id.may_switch
            {
                switch(first);
                id.base = first;
            }
        }
        Ok(identity)
    }

    /// Runs `operation` as `uid:gid`, and is itself again when it returns. `EPERM` where this process may not
    /// switch, `EINVAL` where its user namespace has no such id.
    pub fn lend<T>(
        &self,
        uid: u32,
        gid: u32,
        mut operation: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (switch_uid, switch_gid) = (self.uid.wants(uid)?, self.gid.wants(gid)?);
        if !switch_uid && !switch_gid {
            return operation();
        }
        if switch_gid {
            sys::setfsgid(gid);
        }
        if switch_uid {
            sys::setfsuid(uid);
        }
        let mut result = operation();
        if switch_uid && matches!(result, Err(Errno::EACCES)) && raise_dac_override() {
            result = operation();
        }
        if switch_uid && sys::setfsuid(self.uid.base) != uid {
            lost("uid", uid);
        }
        if switch_gid && sys::setfsgid(self.gid.base) != gid {
            lost("gid", gid);
        }
        result
    }
}

/// Puts `CAP_DAC_OVERRIDE` back into effect. False where it was in effect, or is not permitted.
fn raise_dac_override() -> bool {
    sys::raise_capability(Capability::CAP_DAC_OVERRIDE.index()).unwrap_or(false)
}

/// A switch that was checked beforehand did not happen, or did not hold: whatever this thread does next, it would
/// do as somebody it does not know. It ends instead.
fn lost(which: &str, id: u32) -> ! {
    log::error!("the thread was not file system {which} {id} after it had switched there; stopping");
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
            (id(0, whole, true), LEAVE, Ok(false)),
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
