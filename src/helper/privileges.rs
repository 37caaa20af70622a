//! What this process may do: what it needs for the guest's requests, and nothing it could get back.

use std::collections::HashSet;

use anyhow::{Context, Result};
use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::capabilities::{CapabilitySet, NEEDED};
use super::layers::{Layer, Layers};

/// Gives up everything but `kept`: in the permitted, effective and bounding sets; nothing inheritable or ambient, no
/// supplementary groups, no new privileges by execve, no core dumps, no
/// look from outside, umask 0.
///
/// Returns which of these layers this process has now: what a container's runtime forbids is left as it was.
pub(crate) fn drop_all_but(kept: &CapabilitySet) -> Result<Layers> {
    let permitted = caps::read(None, CapSet::Permitted).context("cannot read this process's capabilities")?;
    // Group permissions must not be checked against the groups of whoever started us.
    let mut without_groups = true;
    if let Err(errno) = nix::unistd::setgroups(&[]) {
        let groups = nix::unistd::getgroups().unwrap_or_default();
        if !groups.is_empty() {
            log::debug!("cannot give up {} supplementary groups: {}", groups.len(), errno.desc());
            without_groups = false;
        }
    }
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::runtime::thread_all_supported() {
            if !kept.kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)
                    .with_context(|| format!("cannot drop {capability} from the bounding set"))?;
            }
        }
    } else {
        log::debug!("without CAP_SETPCAP the bounding set stays as it is; no_new_privs stands in for it");
    }
    let bounding = caps::read(None, CapSet::Bounding).context("cannot read the bounding set")?;
    nix::sys::prctl::set_no_new_privs().context("cannot set no_new_privs")?;
    caps::clear(None, CapSet::Ambient).context("cannot clear the ambient capabilities")?;
    caps::clear(None, CapSet::Inheritable).context("cannot clear the inheritable capabilities")?;
    let rest: HashSet<_> = permitted.intersection(&kept.kept).copied().collect();
    // Effective first: it may not exceed permitted at any moment.
    caps::set(None, CapSet::Effective, &rest).context("cannot reduce the effective capabilities")?;
    caps::set(None, CapSet::Permitted, &rest).context("cannot reduce the permitted capabilities")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("cannot forbid core dumps")?;
    // Neither may an unprivileged process of the same user look into this one.
    nix::sys::prctl::set_dumpable(false).context("cannot make this process undumpable")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    Ok(Layers::of(&[Layer::Capabilities, Layer::NoNewPrivileges])
        .with(Layer::Groups, without_groups)
        .with(Layer::BoundingSet, bounding.is_subset(&kept.kept)))
}

/// Takes from this process, and so from all that it starts, what `--modcaps` removes.
pub(crate) fn give_up_removed(kept: &CapabilitySet) -> Result<()> {
    let mut sets = vec![CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted];
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        sets.insert(0, CapSet::Bounding);
    }
    for set in sets {
        for capability in &kept.removed {
            if caps::has_cap(None, set, *capability)? {
                caps::drop(None, set, *capability)
                    .with_context(|| format!("cannot give up {capability} (--modcaps)"))?;
            }
        }
    }
    Ok(())
}

/// Says which requests will fail for want of a capability.
pub(crate) fn report_missing(kept: &CapabilitySet) -> Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).context("cannot read this process's capabilities")?;
    for (capability, fails) in NEEDED {
        if kept.kept.contains(&capability) && !permitted.contains(&capability) {
            log::warn!("{capability} is missing here: {fails}");
        }
    }
    Ok(())
}

/// Sets the limit of open files; as far as the hard limit allows where nobody named it.
pub(crate) fn limit_open_files(wanted: Option<u64>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).with_context(|| {
        format!("cannot set the limit of open files to {wanted} (--rlimit-nofile); the hard limit is {hard}")
    })
}

/// The address space of a process that serves, in bytes: its program, two buffers and a stack have room in it many times over.
const MEMORY: u64 = 64 << 20;
/// How many files a process that serves may have open. It needs a dozen; but descriptors that a client has not yet taken off its
/// socket count against this limit too, all those of one user together.
pub(crate) const OPEN_FILES: u64 = 8192;

/// Bounds what the supervisor can use up, for good: memory and open files. It must start processes. `open_files` is what the user
/// asked for.
///
/// The processes of a device map the guest's memory, which is not bounded here.
pub(crate) fn limit_supervisor(open_files: Option<u64>, maps_guests: bool) -> Result<()> {
    if !maps_guests {
        lower(Resource::RLIMIT_AS, MEMORY, "memory")?;
    }
    // One for each worker, and some.
    let files = open_files.unwrap_or(if maps_guests { DEVICE_FILES } else { OPEN_FILES });
    lower(Resource::RLIMIT_NOFILE, files, "open files")
}

/// How many files a device may have open: each file that the guest knows is one.
const DEVICE_FILES: u64 = 1 << 20;

/// Bounds what this process can use up, for good: memory, open files, processes. `open_files` is what the user asked for.
pub(crate) fn limit_resources(open_files: Option<u64>) -> Result<()> {
    lower(Resource::RLIMIT_AS, MEMORY, "memory")?;
    lower(Resource::RLIMIT_NOFILE, open_files.unwrap_or(OPEN_FILES), "open files")?;
    forbid_processes()
}

/// The same for a device, which has yet to start threads ([`forbid_processes`]) and to map the guest's memory.
pub(crate) fn limit_device(open_files: Option<u64>) -> Result<()> {
    lower(Resource::RLIMIT_NOFILE, open_files.unwrap_or(DEVICE_FILES), "open files")
}

/// Has this process start no more processes or threads.
pub(crate) fn forbid_processes() -> Result<()> {
    lower(Resource::RLIMIT_NPROC, 0, "processes")
}

/// Lowers a limit, the hard one too.
fn lower(resource: Resource, most: u64, name: &str) -> Result<()> {
    let (_, hard) = getrlimit(resource).with_context(|| format!("cannot read the limit of {name}"))?;
    let limit = hard.min(most);
    setrlimit(resource, limit, limit).with_context(|| format!("cannot set the limit of {name} to {limit}"))
}
