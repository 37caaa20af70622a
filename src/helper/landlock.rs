//! A second wall around the files, where the kernel has Landlock: whatever path a process that serves might
//! come by, it can open, make, remove and rename files only beneath the export (only read them, where the export is served
//! for reading), executes none, connects and signals
//! nowhere.
//!
//! Rules follow files, not paths, so that this wall stands where the others have a gap: in a chroot, outside of it.
//! (Landlock knows nothing of stat, chmod, chown and the like: it is no wall by itself.)

use std::os::fd::BorrowedFd;

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use anyhow::{Context as _, Result};

use super::export::ExportRoot;
use super::isolation;

/// The first version that lets a guest do all that it may: before Linux 5.19 there was no renaming or linking from one
/// directory to another.
const LEAST: ABI = ABI::V2;
/// The version whose further walls, against truncate, ioctls on devices, networks and signals, are taken as far as the kernel
/// has them.
const MOST: ABI = ABI::V6;

/// Confines this process to the files that `reach` reaches, for good. False on a kernel without Landlock, or with its first
/// version.
pub(crate) fn confine(reach: &ExportRoot, access: isolation::Access) -> Result<bool> {
    match restrict(reach, access) {
        Ok(()) => Ok(true),
        Err(error @ (RulesetError::CreateRuleset(_) | RulesetError::HandleAccesses(_))) => {
            log::debug!("no Landlock here that a guest could work under: {error}");
            Ok(false)
        }
        Err(error) => Err(error).context("cannot confine this process by Landlock"),
    }
}

/// For a process whose work takes files anywhere, or mounts, which Landlock forbids with any rule about files: keeps it from TCP,
/// abstract sockets and processes outside, for good, as far as the kernel knows these.
pub(crate) fn confine_but_files() -> Result<()> {
    let restrict = || -> Result<(), RulesetError> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessNet::from_all(MOST))?
            .scope(Scope::from_all(MOST))?
            .create()?;
        ruleset.restrict_self().map(drop)
    };
    restrict().context("cannot confine this process by Landlock")
}

/// For a process that only removes files: in `removing`, and reads files in `reading` besides. Does nothing on a kernel without
/// Landlock.
pub(crate) fn confine_to_removal(removing: &[BorrowedFd<'_>], reading: Option<BorrowedFd<'_>>) -> Result<()> {
    let restrict = || -> Result<(), RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(MOST))?
            .handle_access(AccessNet::from_all(MOST))?
            .scope(Scope::from_all(MOST))?
            .create()?;
        for directory in removing {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
        }
        if let Some(directory) = reading {
            let access = AccessFs::RemoveFile | AccessFs::ReadFile;
            ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?;
        }
        ruleset.restrict_self().map(drop)
    };
    restrict().context("cannot confine this process by Landlock")
}

fn restrict(reach: &ExportRoot, access: isolation::Access) -> Result<(), RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(MOST))?
        .handle_access(AccessNet::from_all(MOST))?
        .scope(Scope::from_all(MOST))?
        .create()?;
    let allowed = match access {
        isolation::Access::Full => AccessFs::from_all(MOST) & !(AccessFs::Execute | AccessFs::IoctlDev),
        isolation::Access::Read => AccessFs::ReadFile | AccessFs::ReadDir,
    };
    let ruleset = match reach {
        ExportRoot::Rooted { .. } => match PathFd::new("/") {
            Ok(root) => ruleset.add_rule(PathBeneath::new(root, allowed))?,
            // The export itself was reached a moment ago.
            Err(_) => ruleset,
        },
        ExportRoot::Beneath(root) => ruleset.add_rule(PathBeneath::new(root, allowed))?,
    };
    ruleset.restrict_self().map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn an_export_for_reading_can_only_be_read() {
        for (access, writes) in [(isolation::Access::Full, true), (isolation::Access::Read, false)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().to_owned();
            fs::write(path.join("file"), b"").unwrap();
            // Landlock confines the thread that asks for it.
            let confined = std::thread::spawn(move || {
                nix::sys::prctl::set_no_new_privs().unwrap();
                confine(&ExportRoot::Beneath(File::open(&path).unwrap().into()), access).unwrap();
                let read = fs::read(path.join("file")).is_ok() && fs::read_dir(&path).is_ok();
                let changes = [
                    File::options().write(true).open(path.join("file")).is_ok(),
                    fs::create_dir(path.join("dir")).is_ok(),
                    fs::rename(path.join("file"), path.join("moved")).is_ok(),
                    fs::remove_file(path.join("moved")).is_ok(),
                ];
                (read, changes)
            });
            assert_eq!(confined.join().unwrap(), (true, [writes; 4]), "{access:?}");
        }
    }
}
