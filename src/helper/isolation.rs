//! Which isolation the command line asks for.

/// How the export is kept apart from the rest of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sandbox {
    /// Its own mount namespace with nothing but the export in it, nodev, nosuid and noexec.
    Namespace,
    /// The export as the root directory, with the host's mounts as they are, as the original helper.
    Chroot,
    /// No sandbox: paths are resolved beneath the export by openat2(2). For a run without privileges on one's own files.
    None,
}

/// What clients may do to the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anything.
    Full,
    /// Nothing that changes it (`--readonly`).
    Read,
}

impl Access {
    /// The mount attributes that enforce it.
    pub fn attributes(self) -> u64 {
        if self == Self::Read { libc::MOUNT_ATTR_RDONLY } else { 0 }
    }
}

/// What happens at a system call that is not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Seccomp {
    /// The process ends, with SIGSYS.
    Kill,
    /// The kernel logs it and lets it pass.
    Log,
    /// There is no filter.
    None,
}
