//! Runs audits, and reads what they print.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::program::ours;

/// An audit's end.
#[derive(Debug)]
pub struct Audit {
    pub status: i32,
    pub document: Value,
}

/// Runs an audit with JSON output.
pub fn audit<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Audit {
    let output = plain(
        [OsStr::new("--format=json")]
            .into_iter()
            .map(OsStr::to_owned)
            .chain(arguments.into_iter().map(|argument| argument.as_ref().to_owned())),
    );
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    Audit { status: output.status.code().unwrap_or(-1), document }
}

/// Runs an audit as it is asked for.
pub fn plain<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(ours()).args(["migrate", "audit"]).args(arguments).stdin(Stdio::null()).output().unwrap()
}

impl Audit {
    /// A list of the document.
    pub fn list(&self, name: &str) -> &[Value] {
        self.document[name].as_array().unwrap_or_else(|| panic!("no {name}: {}", self.document))
    }

    /// The share with this tag.
    pub fn share(&self, tag: &str) -> &Value {
        let share = self.list("shares").iter().find(|share| share["mount_tag"] == tag);
        share.unwrap_or_else(|| panic!("no share {tag}: {:#}", self.document))
    }

    /// The reasons for what is unread, as `FILE: REASON`, the folder left out.
    pub fn unread(&self, folder: &Path) -> Vec<String> {
        let folder = format!("{}/", folder.display());
        self.list("unread")
            .iter()
            .map(|row| {
                let file = row["file"].as_str().unwrap_or("-").replace(&folder, "");
                format!("{file}: {}", row["reason"].as_str().unwrap())
            })
            .collect()
    }
}

/// Writes a file with the folders around it.
pub fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A guest's definition with one share.
pub fn domain(name: &str, tag: &str, socket: &str) -> String {
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n  <name>{name}</name>\n  \
         <qemu:commandline>\n    <qemu:arg value='-fsdev'/>\n    <qemu:arg value='proxy,id=f,socket={socket}'/>\n    \
         <qemu:arg value='-device'/>\n    <qemu:arg value='virtio-9p-pci,fsdev=f,mount_tag={tag}'/>\n  \
         </qemu:commandline>\n</domain>\n"
    )
}
