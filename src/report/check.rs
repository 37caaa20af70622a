//! The document of `migrate check`.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::finding;
use super::rows::{Counts, FindingRow};
use super::{Text, write_findings};
use crate::exit::Outcome;
use crate::text::counted;

/// What `migrate check` found out about an export. Unknown is null; bytes that are not UTF-8 and control
/// characters stand as `\\xNN`, a backslash is doubled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CheckDocument {
    /// The version of these fields: grows when a field goes or changes its meaning.
    pub schema: u32,
    /// The export, free of symbolic links.
    pub export: String,
    /// The security model that everything was judged for: `--security-model`, else the one that fits.
    pub security_model: String,
    /// The user that QEMU will run as: `--owner`, else libvirt's.
    pub owner: Option<String>,
    /// What the export lies on.
    pub filesystem: FilesystemRow,
    /// What it holds.
    pub entries: EntriesRow,
    /// Whose it is; the most first.
    pub owners: Vec<OwnerRow>,
    /// Who has it open now.
    pub in_use: Vec<UserRow>,
    /// What a conversion takes, as far as can be told beforehand.
    pub cost: CostRow,
    /// The share's configuration after a conversion; names and tags are examples.
    pub configuration: ConfigurationRow,
    /// What people should know.
    pub findings: Vec<FindingRow>,
    /// Findings of each severity.
    pub summary: Counts,
}

has_schema!(CheckDocument, "check");

/// A filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FilesystemRow {
    /// Its type.
    pub kind: String,
    /// Whether it is mounted for reading only.
    pub read_only: bool,
    /// Whether it is mounted with quotas.
    pub quota: bool,
    /// Bytes free; null where they are not counted.
    pub free_bytes: Option<u64>,
    /// Inodes free; null where they are made as they are needed.
    pub free_inodes: Option<u64>,
    /// Whether it keeps user xattrs.
    pub user_xattrs: bool,
    /// Whether that was tried; else it is deduced.
    pub tried: bool,
    /// Bytes that an inode with the mapped attributes has left for more.
    pub room: Option<u64>,
}

/// Counts of entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct EntriesRow {
    /// All of them, the export's root included.
    pub total: u64,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symbolic_links: u64,
    /// FIFOs.
    pub fifos: u64,
    /// Sockets.
    pub sockets: u64,
    /// Character devices.
    pub character_devices: u64,
    /// Block devices.
    pub block_devices: u64,
    /// Those that a regular file takes the place of.
    pub to_replace: u64,
    /// Those with an ACL.
    pub with_acl: u64,
    /// Those with a set-user-ID or set-group-ID bit.
    pub with_set_id: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

/// An owner of entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OwnerRow {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The user of this number on this host, who need not be the guest's.
    pub user: Option<String>,
    /// The group of this number on this host.
    pub group: Option<String>,
    /// How many entries.
    pub entries: u64,
}

/// Somebody who has the export open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct UserRow {
    /// The process; null for the kernel itself and for mounts.
    pub pid: Option<i32>,
    /// `helper`, `qemu`, `process`, `mount` or `kernel`.
    pub kind: String,
    /// Whether it must end before a conversion.
    pub busy: bool,
    /// How it uses the export.
    pub how: String,
}

/// What a conversion takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CostRow {
    /// Seconds.
    pub seconds: u64,
    /// Bytes on the export's filesystem, for good.
    pub bytes: u64,
    /// Inodes there, for good.
    pub inodes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Bytes that a rollback needs free on the export's filesystem, most of them for a time.
    #[serde(default)]
    pub rollback_bytes: u64,
    /// Inodes likewise.
    #[serde(default)]
    pub rollback_inodes: u64,
}

/// A configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ConfigurationRow {
    /// QEMU's arguments.
    pub qemu: Vec<String>,
    /// libvirt's element; null where libvirt can't say it.
    pub libvirt: Option<String>,
    /// Why libvirt can't say it.
    pub libvirt_unsayable: Option<String>,
    /// Whether the path in it is that of the container where the check ran: QEMU needs the host's.
    #[serde(default)]
    pub path_is_of_container: bool,
}

impl CheckDocument {
    /// How the check ended: anything above info needs a decision.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.summary.outcome() {
            Outcome::Clean if self.is_unseen() => Outcome::Unread,
            outcome => outcome,
        }
    }

    /// Whether something could not be looked at that may stand against a conversion.
    fn is_unseen(&self) -> bool {
        let unseen = [finding::PROCESSES_UNSEEN.id, finding::NOT_PRIVILEGED.id];
        self.findings.iter().any(|row| unseen.contains(&row.id.as_str()))
    }
}

impl Text for CheckDocument {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write_findings(&self.findings, out)?;
        if !self.findings.is_empty() {
            writeln!(out)?;
        }
        self.facts(out)?;
        self.verdict(out)?;
        self.configuration.text(out)
    }
}

impl CheckDocument {
    fn facts(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { entries, filesystem, .. } = self;
        writeln!(
            out,
            "{} on {}: {}, {}",
            self.export,
            filesystem.kind,
            counted(entries.total, "entry"),
            bytes(entries.bytes)
        )?;
        let kinds = [
            (entries.files, "regular file"),
            (entries.directories, "directory"),
            (entries.symbolic_links, "symbolic link"),
            (entries.fifos, "FIFO"),
            (entries.sockets, "socket"),
            (entries.character_devices, "character device"),
            (entries.block_devices, "block device"),
        ];
        let kinds: Vec<_> = kinds
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| counted(count, name))
            .collect();
        writeln!(out, "  {}", kinds.join(", "))?;
        writeln!(
            out,
            "  {} to be replaced by regular files, {} with ACLs, {} with set-id bits",
            entries.to_replace, entries.with_acl, entries.with_set_id
        )?;
        let shown = self.owners.iter().take(SHOWN_OWNERS).map(|owner| {
            let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".into());
            let names = format!("{}:{}", name(&owner.user), name(&owner.group));
            format!("{}:{} ({names}) {}", owner.uid, owner.gid, owner.entries)
        });
        let mut owners: Vec<_> = shown.collect();
        if self.owners.len() > SHOWN_OWNERS {
            owners.push(format!("{} more", self.owners.len() - SHOWN_OWNERS));
        }
        writeln!(out, "  owners: {}", owners.join(", "))?;
        let has = if filesystem.user_xattrs { "kept" } else { "not kept" };
        let how = if filesystem.tried { "tried" } else { "deduced, not tried" };
        let room =
            filesystem.room.map(|room| format!(", room for {room} bytes more an inode")).unwrap_or_default();
        writeln!(out, "  user xattrs: {has} ({how}){room}")?;
        for user in &self.in_use {
            writeln!(out, "  in use: {}", user.how)?;
        }
        Ok(())
    }

    fn verdict(&self, out: &mut dyn Write) -> io::Result<()> {
        let CostRow { seconds, bytes: space, inodes, journal_bytes, .. } = self.cost;
        let owner = self.owner.as_deref().unwrap_or("a user still to be named (--owner)");
        let is_converted = self.findings.iter().any(|row| row.id == finding::ALREADY_CONVERTED.id);
        let verdict = match (self.summary.errors, self.summary.warnings) {
            (0, 0) if self.is_unseen() => {
                "not known to be ready, for not all could be seen (run it as root on the host), to move"
            }
            (0, 0) => "ready to move",
            (0, _) => "can move, after a decision on the warnings above,",
            _ => "can't move yet",
        };
        if is_converted {
            writeln!(out, "converted already, or in part: see {} above", finding::ALREADY_CONVERTED.id)?;
        } else {
            writeln!(out, "{verdict} to {}, for QEMU as {owner}", self.security_model)?;
        }
        let time = if seconds <= 1 { "about a second".into() } else { format!("about {seconds} seconds") };
        writeln!(
            out,
            "  cost: {time}; {} and {} here, {} for the journal",
            bytes(space),
            counted(inodes, "inode"),
            bytes(journal_bytes)
        )?;
        writeln!(
            out,
            "  a rollback needs about {} and {} free here, also where a quota is set",
            bytes(self.cost.rollback_bytes),
            counted(self.cost.rollback_inodes, "inode")
        )?;
        let Counts { errors, warnings, infos } = self.summary;
        let [errors, warnings, infos] = [(errors, "error"), (warnings, "warning"), (infos, "info")]
            .map(|(count, noun)| counted(count, noun));
        writeln!(out, "{errors}, {warnings}, {infos}")
    }
}

/// How many owners the text names.
const SHOWN_OWNERS: usize = 8;

impl ConfigurationRow {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "\nthe share afterwards, its names being examples (`migrate config` rewrites what you have):\n"
        )?;
        if self.path_is_of_container {
            writeln!(out, "the path in it is this container's: write the host's in its place\n")?;
        }
        writeln!(out, "{}\n", self.qemu.join(" "))?;
        match (&self.libvirt, &self.libvirt_unsayable) {
            (Some(element), _) => write!(out, "{element}"),
            (None, Some(reason)) => writeln!(out, "no <filesystem> of libvirt's: {reason}"),
            (None, None) => Ok(()),
        }
    }
}

/// So many bytes, in the unit that people would take.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    // Tenths, in whole numbers: no float tells all of 64 bits.
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = units.iter();
    let mut name = unit.next();
    while tenths >= 10240 {
        let Some(next) = unit.next() else { break };
        tenths /= 1024;
        name = Some(next);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, name.copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_unit_that_people_would_take() {
        for (count, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
