//! A second wall around the files, where the kernel has Landlock: whatever path a process that serves might
//! come by, it can open, make, remove and rename files only beneath the export, executes none, connects and signals
//! nowhere.
//!
//! Rules follow files, not paths, so that this wall stands where the others have a gap: in a chroot, outside of it.
//! (Landlock knows nothing of stat, chmod, chown and the like: it is no wall by itself.)

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use anyhow::Result;

use super::export::Reach;

/// The first version that lets a guest do all that it may: before Linux 5.19 there was no renaming or linking from one
/// directory to another.
const LEAST: ABI = ABI::V2;
/// The version whose further walls, against truncate, ioctls on devices, networks and signals, are taken as far as the kernel
/// has them.
const MOST: ABI = ABI::V6;

/// Confines this process to the files that `reach` reaches, for good. A kernel without Landlock, or with its first version, is
/// said to be one in the log, for those who look.
pub fn confine(reach: &Reach) -> Result<()> {
    match restrict(reach) {
        Ok(()) => Ok(()),
        Err(error @ (RulesetError::CreateRuleset(_) | RulesetError::HandleAccesses(_))) => {
            log::debug!("no Landlock here that a guest could work under: {error}");
            Ok(())
        }
        Err(error) => Err(anyhow::Error::new(error).context("cannot confine this process by Landlock")),
    }
}

fn restrict(reach: &Reach) -> Result<(), RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(MOST))?
        .handle_access(AccessNet::from_all(MOST))?
        .scope(Scope::from_all(MOST))?
        .create()?;
    let allowed = AccessFs::from_all(MOST) & !(AccessFs::Execute | AccessFs::IoctlDev);
    let ruleset = match reach {
        Reach::Rooted { .. } => match PathFd::new("/") {
            Ok(root) => ruleset.add_rule(PathBeneath::new(root, allowed))?,
            // The export itself was reached a moment ago.
            Err(_) => ruleset,
        },
        Reach::Beneath(root) => ruleset.add_rule(PathBeneath::new(root, allowed))?,
    };
    ruleset.restrict_self().map(drop)
}
