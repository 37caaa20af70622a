//! The document of `migrate plan`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exit::Outcome;
use crate::report::FindingRow;

/// How the guests of a host leave the proxy backend. Unknown is null; bytes that are not UTF-8 and control characters stand as
/// `\\xNN`, a backslash is doubled. Commands are for a POSIX shell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanDocument {
    /// The version of these fields: grows when a field goes or changes its meaning.
    pub schema: u32,
    /// The host that it was made on.
    pub host: String,
    /// The version of this program.
    pub tool: String,
    /// What moves; guests that share an export move together.
    pub moves: Vec<Move>,
    /// What could not be read: a guest may be in there.
    pub unread: Vec<String>,
}

/// Guests that move together, for they share exports; most often one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Move {
    /// The guests.
    pub guests: Vec<Guest>,
    /// The directories that they export.
    pub exports: Vec<Export>,
    /// The helpers that serve these.
    pub helpers: Vec<Helper>,
    /// What has to be answered or dealt with first. When there is nothing, the steps can be carried out as they are.
    pub questions: Vec<Question>,
    /// The steps, in this order.
    pub steps: Vec<Step>,
}

/// Who stops and starts a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// libvirt's system daemon, by virsh.
    Libvirt,
    /// Proxmox VE, by qm.
    Proxmox,
    /// systemd: a unit runs QEMU.
    Systemd,
    /// LXD or Incus, which write QEMU's configuration themselves.
    Incus,
    /// A script, or whoever types the command.
    #[default]
    Commands,
}

/// A guest with shares over the proxy backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Guest {
    /// The name that its manager knows it by: a domain, a number of Proxmox's, a unit; else its own name or its file.
    pub name: String,
    /// Who stops and starts it.
    pub manager: Manager,
    /// Its running QEMU.
    pub pid: Option<i32>,
    /// The files that its shares are configured in.
    pub files: Vec<String>,
    /// The user that its QEMU runs as, as `--owner` takes it.
    pub owner: Option<String>,
    /// Who says so.
    pub owner_from: Option<String>,
    /// Its shares.
    pub shares: Vec<Share>,
    /// What changes in its configuration, as a unified diff.
    pub diff: String,
}

/// A share over the proxy backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// What the guest mounts by.
    pub mount_tag: Option<String>,
    /// The fsdev's id.
    pub fsdev: Option<String>,
    /// The helper's socket.
    pub socket: Option<String>,
    /// The exported directory, free of symbolic links.
    pub export: Option<String>,
    /// Who says so.
    pub export_from: Option<String>,
    /// Whether the guest may only read.
    pub readonly: bool,
}

/// A directory to convert.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Export {
    /// Where it is.
    pub path: String,
    /// The user that it will belong to, as `--owner` takes it.
    pub owner: Option<String>,
    /// The security model of the shares afterwards.
    pub security_model: String,
    /// How many entries it has.
    pub entries: u64,
    /// How long a conversion takes, in seconds.
    pub seconds: u64,
    /// How large its journal will be.
    pub journal_bytes: u64,
    /// Whether its journal says that it is converted already.
    pub converted: bool,
    /// Whether other programs of the host have put files into it since.
    pub added: bool,
    /// The warnings that are accepted.
    pub accept: Vec<String>,
    /// What `migrate check` says.
    pub findings: Vec<FindingRow>,
}

/// A helper that serves an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Helper {
    /// The systemd unit that starts it.
    pub unit: Option<String>,
    /// The running process.
    pub pid: Option<i32>,
    /// Where it is configured: `FILE:LINE`.
    pub place: Option<String>,
    /// The exported directory.
    pub export: Option<String>,
    /// The socket it listens on.
    pub socket: Option<String>,
}

/// Something that has to be answered or dealt with before the steps are carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// The guest or the export that it is about.
    pub about: String,
    /// What is not known, or stands in the way.
    pub text: String,
    /// The option of `migrate plan` that answers it; null where something has to be done first.
    pub option: Option<String>,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// What it does.
    pub what: String,
    /// The commands; none where the admin has to do it by hand.
    pub run: Vec<String>,
    /// The commands that take it back.
    pub undo: Vec<String>,
}

impl PlanDocument {
    /// How planning ended: something is open, else something unread, else clean.
    pub fn outcome(&self) -> Outcome {
        if self.moves.iter().any(|one| !one.questions.is_empty()) {
            Outcome::Findings
        } else if !self.unread.is_empty() {
            Outcome::Unread
        } else {
            Outcome::Clean
        }
    }
}
