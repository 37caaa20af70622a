//! The document of `migrate plan`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::exit::Outcome;
use crate::report::FindingRow;
use crate::text::{escape, shell_word, unescape};

/// The version of a plan's fields. It grows when a field goes or changes its meaning.
pub(super) const SCHEMA: u32 = 2;

/// How the guests of a host leave the proxy backend. Unknown is null; bytes that are not UTF-8 and control characters stand as
/// `\\xNN`, a backslash is doubled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct PlanDocument {
    /// The version of these fields: grows when a field goes or changes its meaning.
    pub schema: u32,
    /// The host that it was made on.
    pub host: String,
    /// The folder where that host's file system was mounted (`--root`): `migrate apply` and `migrate undo` refuse such a plan. Null for a
    /// plan that was made on the host itself. With it, no process of the host is known, and every guest may run.
    #[serde(default)]
    pub root: Option<String>,
    /// The version of this program.
    pub tool: String,
    /// The paths and options that it was made with: `migrate apply` makes it again, and compares.
    #[serde(default)]
    pub answers: Answers,
    /// What moves; guests that share an export move together.
    pub moves: Vec<Move>,
    /// What could not be read: a guest may be in there.
    pub unread: Vec<String>,
}

has_schema!(PlanDocument, "plan");

/// The paths and options that a plan was made with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Answers {
    /// The files and folders, from the root; this machine where there is none.
    pub paths: Vec<String>,
    /// Every option but those of the form and the place of the plan, one word each.
    pub options: Vec<String>,
}

/// Guests that move together, for they share exports; most often one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Move {
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum Manager {
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Guest {
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
    /// The shell command that shuts it down, where the admin has to name it.
    #[serde(default)]
    pub stop: Option<String>,
    /// The shell command that starts it.
    #[serde(default)]
    pub start: Option<String>,
    /// The shell command that exits with 0 while it runs, and with 1 while it does not.
    #[serde(default)]
    pub running: Option<String>,
}

/// A share over the proxy backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Share {
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

impl Share {
    /// What people call it.
    pub(super) fn called(&self) -> &str {
        let name = self.mount_tag.as_ref().or(self.fsdev.as_ref()).or(self.socket.as_ref());
        name.map_or("TAG", String::as_str)
    }
}

/// A directory to convert.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Export {
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
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Helper {
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
    /// The arguments of the running process, its program first: it is started again by these where no unit does it.
    #[serde(default)]
    pub command: Vec<String>,
    /// When the process was started, in clock ticks since the boot: another process with its number was started at another time.
    #[serde(default)]
    pub started: Option<u64>,
}

/// Something that has to be answered or dealt with before the steps are carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Question {
    /// The guest or the export that it is about.
    pub about: String,
    /// What is not known, or stands in the way.
    pub text: String,
    /// The option of `migrate plan` that answers it; null where something has to be done first.
    pub option: Option<String>,
}

/// What a step does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Shuts a guest down.
    StopGuest,
    /// Keeps a guest from being started with the host, or at all, until its configuration and its files fit.
    #[default]
    Hold,
    /// Stops a helper, and keeps its unit from being started.
    StopHelper,
    /// Runs the command of `--before`.
    Before,
    /// Converts an export.
    Convert,
    /// Adopts what the host added to a converted export.
    Adopt,
    /// Verifies an export.
    Verify,
    /// Changes a guest's configuration.
    Configure,
    /// Lets a guest be started again.
    Release,
    /// Starts a guest, and waits until it is up.
    StartGuest,
    /// Runs the command of `--probe` until it succeeds.
    Probe,
    /// Disables a helper for good.
    DisableHelper,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Step {
    /// What kind of step it is.
    pub kind: Kind,
    /// The guest, unit or directory that it is about.
    pub about: String,
    /// Where that is, from 0, in the list of guests, helpers or exports.
    pub index: usize,
    /// What it does.
    pub what: String,
    /// The commands; none where the admin has to do it by hand.
    pub run: Vec<Command>,
    /// The commands that take it back.
    pub undo: Vec<Command>,
    /// The documents whose shares change, for a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<Source>,
}

/// A command, as a program gets it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Command {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// The file that takes its standard output, for root's eyes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Whether there is no such command, and the words say what the admin has to do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
}

impl Command {
    /// A command of these words.
    pub(super) fn of<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Self {
        Self { words: words.into_iter().map(|word| word.as_ref().to_owned()).collect(), ..Self::default() }
    }

    /// A command that the admin wrote, for a shell.
    pub(super) fn shell(text: &str) -> Self {
        Self::of(["sh", "-c", &*escape(text.as_bytes())])
    }

    /// What the admin has to do.
    pub(super) fn by_hand(text: impl Into<String>) -> Self {
        Self { words: vec![text.into()], by_hand: true, ..Self::default() }
    }

    /// As a line for a POSIX shell.
    pub(super) fn line(&self) -> String {
        let line = |words: &[String]| words.iter().map(|word| shell(word)).collect::<Vec<_>>().join(" ");
        match (self.words.as_slice(), &self.output) {
            ([text], _) if self.by_hand => format!("# {text}"),
            ([sh, c, text], None) if sh == "sh" && c == "-c" => {
                String::from_utf8_lossy(&unescape(text)).into_owned()
            }
            (words, Some(output)) => format!("(umask 077; {} > {})", line(words), shell(output)),
            (words, None) => line(words),
        }
    }
}

/// A word of a document as a word for a shell.
pub(super) fn shell(text: &str) -> String {
    String::from_utf8(shell_word(&unescape(text)))
        .unwrap_or_else(|_| format!("$'{}'", text.replace('\'', "\\'")))
}

/// A document in which shares are configured: a file, or what a command of the manager's prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Source {
    /// The file. Where a command prints the document, the name of the file that takes it.
    pub file: String,
    /// How people call it.
    pub shown: String,
    /// The command that prints it; none for a file.
    pub dump: Vec<String>,
    /// The command that hands a file with the document back to the manager, before that file's name.
    pub define: Vec<String>,
    /// The options of `migrate config` that change it.
    pub options: Vec<String>,
    /// The SHA-256 of what it holds, in hexadecimal digits.
    pub sha256: String,
}

impl PlanDocument {
    /// How planning ended: something is open, else something unread, else clean.
    pub(super) fn outcome(&self) -> Outcome {
        if self.moves.iter().any(|one| !one.questions.is_empty()) {
            Outcome::Findings
        } else if !self.unread.is_empty() {
            Outcome::Unread
        } else {
            Outcome::Clean
        }
    }
}

/// A path as the audit shows it, and the same path as bytes.
pub(super) fn path_of(text: &str) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(text)))
}

/// Whether a helper is started by a file of its guest's own.
pub(super) fn is_of_guest(helper: &Helper, guests: &[Guest]) -> bool {
    let file = helper.place.as_deref().and_then(|place| place.rsplit_once(':')).map(|(file, _)| file);
    guests.iter().any(|guest| guest.files.iter().any(|own| Some(own.as_str()) == file))
}
