//! The document of `migrate journal`.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::Text;
use super::check::bytes;
use crate::exit::Outcome;
use crate::text::counted;

/// What a conversion's journal says. Bytes that are not UTF-8 and control characters stand as `\\\\xNN`, a backslash is doubled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct JournalDocument {
    /// The version of these fields: grows when a field goes or changes its meaning.
    pub schema: u32,
    /// The journal's file.
    pub journal: String,
    /// Its format.
    pub format: u32,
    /// Which journal it is; empty in format 1.
    pub id: String,
    /// The program that wrote it, with its version.
    pub program: String,
    /// The host that it was written on; empty in format 1.
    pub host: String,
    /// When it was begun, in UTC.
    pub begun: String,
    /// The export's path there.
    pub export: String,
    /// The type, the device and the id of the export's file system; empty in format 1.
    pub file_system: [String; 3],
    /// The security model of the conversion.
    pub security_model: String,
    /// QEMU's user and group: numbers.
    pub owner: String,
    /// The modes of files and of directories on the host, in octal.
    pub modes: [String; 2],
    /// The findings that were agreed to.
    pub accepted: Vec<String>,
    /// Whether nothing was converted: it is of `migrate unmap`, and its stages are those of a rollback.
    pub unmaps: bool,
    /// How far it got: `recording`, `converting`, `converted`, `adopting` (what was added since), `rolling-back`, `rolled-back`; empty where it is damaged.
    pub state: String,
    /// When all was recorded, when it was converted, and when a rollback began, in UTC, as far as it got.
    pub times: [Option<String>; 3],
    /// How many entries are recorded, later ones included.
    pub entries: u64,
    /// Directories among them.
    pub directories: u64,
    /// How many bytes of the file count.
    pub bytes: u64,
    /// How many bytes a crash left behind them.
    pub torn: u64,
    /// What is wrong with it; null where every record is good.
    pub damage: Option<String>,
}

has_schema!(JournalDocument, "journal");

impl JournalDocument {
    /// How it ended.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.damage.is_some() { Outcome::Failure } else { Outcome::Clean }
    }
}

impl Text for JournalDocument {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.journal)?;
        let [kind, source, id] = &self.file_system;
        let file_system =
            if kind.is_empty() { String::new() } else { format!("{kind} on {source}, id {id}") };
        let [recorded, converted, rollback] = &self.times;
        // A journal of an unmapping is made with all that a conversion has before its rollback.
        let (recorded, converted) = if self.unmaps { (&None, &None) } else { (recorded, converted) };
        let (begun, state) = match self.state.as_str() {
            "rolling-back" if self.unmaps => ("unmap begun", "unmapping"),
            "rolled-back" if self.unmaps => ("unmap begun", "unmapped"),
            "recording" | "converting" | "converted" if self.unmaps => {
                ("unmap begun", "nothing is unmapped yet")
            }
            state => ("rollback begun", state),
        };
        for (name, value) in [
            ("format", &self.format.to_string()),
            ("id", &self.id),
            ("written by", &self.program),
            ("host", &self.host),
            ("begun", &self.begun),
            ("export", &self.export),
            ("file system", &file_system),
            ("model", &self.security_model),
            ("owner", &self.owner),
            ("modes", &self.modes.join(", directories ")),
            ("accepted", &self.accepted.join(", ")),
            ("recorded", recorded.as_ref().unwrap_or(&String::new())),
            ("converted", converted.as_ref().unwrap_or(&String::new())),
            (begun, rollback.as_ref().unwrap_or(&String::new())),
            ("state", &state.to_owned()),
        ] {
            if !value.is_empty() {
                writeln!(out, "  {:<16}{value}", format!("{name}:"))?;
            }
        }
        let torn = match self.torn {
            0 => String::new(),
            torn => format!("; {} at the end, which a crash tore, do not count", bytes(torn)),
        };
        let entries = counted(self.entries, "entry");
        match &self.damage {
            None => writeln!(out, "Every record is good: {entries}, {}{torn}.", bytes(self.bytes)),
            Some(damage) => writeln!(out, "Damaged: {damage}. {entries} could be read before that."),
        }
    }
}
