//! The isolation layers of a process that serves: which were asked for, and which it has.
//!
//! A layer that the kernel or the container forbids is left out, and the log names it. With `--strict` the helper does not start
//! without it, and a worker that cannot have it serves nobody.

use std::fmt;

use anyhow::{Result, ensure};

use super::isolation::{Access, Sandbox, Seccomp};
use super::settings::Settings;

/// One layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Nothing that was inherited by accident is open.
    Descriptors,
    /// A mount namespace with the export alone.
    MountNamespace,
    /// Each mount is nodev, nosuid and noexec.
    Restrictions,
    /// Each mount is read-only.
    ReadOnly,
    /// The export is the root directory.
    Chroot,
    /// Paths are resolved beneath the export by openat2(2).
    Beneath,
    /// `/proc/self/fd` is a mount that is attached to nothing.
    View,
    /// No network.
    Network,
    /// No System V IPC and POSIX message queues of the host's.
    Ipc,
    /// A host name of its own.
    Uts,
    /// No process of the host's has a number here.
    Pid,
    /// Capabilities that requests need, and no others.
    Capabilities,
    /// The bounding set holds no others either.
    BoundingSet,
    /// No supplementary groups.
    Groups,
    /// execve(2) gives nothing.
    NoNewPrivileges,
    /// Landlock.
    Landlock,
    /// A system call filter.
    SystemCalls,
    /// Limits of memory, descriptors and processes.
    Limits,
}

use Layer::{
    Beneath, BoundingSet, Capabilities, Chroot, Descriptors, Groups, Ipc, Landlock, Limits, MountNamespace,
    Network, NoNewPrivileges, Pid, ReadOnly, Restrictions, SystemCalls, Uts, View,
};

/// Every layer, and its name in the log.
const ALL: [(Layer, &str); 18] = [
    (Descriptors, "inherited descriptors closed"),
    (MountNamespace, "mount namespace"),
    (Restrictions, "mounts nodev,nosuid,noexec"),
    (ReadOnly, "read-only mounts"),
    (Chroot, "chroot"),
    (Beneath, "openat2 beneath the export"),
    (View, "private view of /proc/self/fd"),
    (Network, "network namespace"),
    (Ipc, "IPC namespace"),
    (Uts, "UTS namespace"),
    (Pid, "PID namespace"),
    (Capabilities, "reduced capabilities"),
    (BoundingSet, "reduced bounding set"),
    (Groups, "no supplementary groups"),
    (NoNewPrivileges, "no_new_privs"),
    (Landlock, "Landlock"),
    (SystemCalls, "seccomp"),
    (Limits, "resource limits"),
];

/// The layers that a helper takes once, before any process serves.
const AT_START: [Layer; 4] = [Descriptors, Network, Ipc, Uts];

/// Some layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layers(u64);

impl Layers {
    /// These.
    pub fn of(layers: &[Layer]) -> Self {
        layers.iter().fold(Self::default(), |all, &layer| all.with(layer, true))
    }

    /// Those that the settings ask for.
    pub fn wanted(settings: &Settings) -> Self {
        let mut wanted =
            Self::of(&[Descriptors, Capabilities, BoundingSet, Groups, NoNewPrivileges, Landlock, Limits])
                .with(SystemCalls, settings.seccomp != Seccomp::None);
        let for_sandbox: &[Layer] = match settings.sandbox {
            Sandbox::Namespace => &[MountNamespace, Restrictions, View, Network, Ipc, Uts],
            Sandbox::Chroot => &[Chroot],
            Sandbox::None => &[Beneath],
        };
        wanted = wanted.and(Self::of(for_sandbox));
        // A process that serves its one client itself keeps the pid that its starter knows.
        let workers = settings.sandbox == Sandbox::Namespace && settings.has_supervisor();
        let read_only = settings.sandbox != Sandbox::None && settings.access() == Access::Read;
        wanted.with(Pid, workers).with(ReadOnly, read_only)
    }

    /// These, and `layer` where `active`.
    #[must_use]
    pub fn with(self, layer: Layer, active: bool) -> Self {
        Self(self.0 | u64::from(active) << layer as u32)
    }

    /// These and `others`.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These without `others`.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As a number, for another process of this program.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The reverse of [`Self::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn has(self, layer: Layer) -> bool {
        self.0 & 1 << layer as u32 != 0
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = ALL.iter().filter(|(layer, _)| self.has(*layer)).map(|(_, name)| *name).collect();
        formatter.write_str(&names.join(", "))
    }
}

/// Logs which layers a process that serves has, and which were asked for and are missing. With `--strict` a missing one is an
/// error.
pub(crate) fn report(settings: &Settings, active: Layers) -> Result<()> {
    let missing = Layers::wanted(settings).without(active);
    require(settings, missing)?;
    log::info!("isolation layers: {active}");
    if !missing.is_empty() {
        log::warn!(
            "isolation layers that are missing here: {missing}. --log-level=debug says why; with --strict the helper does not \
             start without them"
        );
    }
    Ok(())
}

/// With `--strict`, an error where this process misses one of the layers that each process that serves takes.
pub(crate) fn require_confined(settings: &Settings, active: Layers) -> Result<()> {
    require(settings, Layers::wanted(settings).without(Layers::of(&AT_START)).without(active))
}

fn require(settings: &Settings, missing: Layers) -> Result<()> {
    ensure!(
        !settings.strict || missing.is_empty(),
        "isolation layers are missing: {missing} (--strict). Give the helper the privileges that they take, ask for other ones \
         (--sandbox, --seccomp), or leave --strict out; --log-level=debug says why"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::options::HelperArgs;

    use super::*;

    fn settings(options: &[&str]) -> Settings {
        let line = ["virtfs-proxy-helper", "-p", "/srv", "-s", "/s", "-u0", "-g0"];
        let line = line.iter().chain(options).copied();
        Settings::try_from(HelperArgs::read(line).unwrap()).unwrap()
    }

    #[test]
    fn each_layer_has_its_place_and_its_name() {
        for (index, (layer, _)) in ALL.iter().enumerate() {
            assert_eq!(*layer as usize, index);
        }
        let all = ALL.iter().fold(Layers::default(), |all, (layer, _)| all.with(*layer, true));
        assert_eq!(all.to_string().split(", ").count(), ALL.len());
        assert_eq!(Layers::from_bits(all.to_bits()), all);
    }

    #[test]
    fn what_is_asked_for_follows_from_the_options() {
        let always = [Descriptors, Capabilities, BoundingSet, Groups, NoNewPrivileges, Landlock, Limits];
        let namespace = [MountNamespace, Restrictions, View, Network, Ipc, Uts];
        for (options, more) in [
            (&[][..], [&namespace[..], &[SystemCalls]].concat()),
            (&["--persistent"], [&namespace[..], &[SystemCalls, Pid]].concat()),
            (&["--shared=2"], [&namespace[..], &[SystemCalls, Pid]].concat()),
            (&["--readonly", "--seccomp=none"], [&namespace[..], &[ReadOnly]].concat()),
            (&["--sandbox=chroot", "--persistent", "--seccomp=log"], vec![Chroot, SystemCalls]),
            (&["--sandbox=chroot", "--readonly"], vec![Chroot, SystemCalls, ReadOnly]),
            (&["--sandbox=none", "--readonly"], vec![Beneath, SystemCalls]),
        ] {
            let expected = Layers::of(&always).and(Layers::of(&more));
            assert_eq!(Layers::wanted(&settings(options)), expected, "{options:?}");
        }
    }

    #[test]
    fn strict_refuses_what_is_missing() {
        let strict = settings(&["--strict"]);
        let active = Layers::wanted(&strict);
        report(&strict, active).unwrap();
        require_confined(&strict, active.without(Layers::of(&AT_START))).unwrap();
        let error = report(&strict, active.without(Layers::of(&[Landlock]))).unwrap_err().to_string();
        assert!(error.starts_with("isolation layers are missing: Landlock (--strict)"), "{error}");
        require_confined(&strict, active.without(Layers::of(&[View]))).unwrap_err();
        report(&settings(&[]), Layers::default()).unwrap();
    }
}
