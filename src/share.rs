//! What a share is: the model that every reader yields and every writer takes.

pub(crate) mod argv;
pub(crate) mod backend;
pub(crate) mod bounds;
pub(crate) mod edit;
pub(crate) mod helper;
pub(crate) mod invocation;
pub(crate) mod local;
pub(crate) mod memory;
pub(crate) mod qemu_opts;
pub(crate) mod rewrite;
pub(crate) mod target;
pub(crate) mod version;
pub(crate) mod view;
pub(crate) mod virtiofs;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use crate::report::finding::Place;
use crate::text;

/// One 9p share over the proxy backend, as some configuration describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The fsdev's id; `-virtfs` without one takes the mount tag. Empty: there is none, or it is not statically
    /// known.
    pub fsdev: Vec<u8>,
    /// What the guest mounts by. `None`: no device names this fsdev and the guest never sees it, or the tag is not
    /// statically known.
    pub mount_tag: Option<Vec<u8>>,
    /// How QEMU reaches its helper.
    pub transport: Transport,
    /// Where the host has the socket, where QEMU runs in a container that says so: a path of the host's, or `VOLUME/NAME`.
    #[serde(with = "crate::text::packed::optional_path")]
    pub socket_on_host: Option<PathBuf>,
    /// `security_model` of a share over the local backend, as it is spelt; `None`: it is not said, or not statically known.
    pub model: Option<Vec<u8>>,
    /// `readonly`, of the fsdev.
    pub readonly: bool,
    /// `writeout=immediate`, of the fsdev.
    pub writeout: bool,
    /// The guest's device.
    pub device: Option<Device>,
    /// Where it stands.
    pub place: Place,
    /// What it exports, where that could be found out.
    pub export: ExportPath,
    /// How its guest's memory is made, as far as the same argument list says it.
    pub memory: memory::Memory,
    /// What is peculiar about it.
    pub notes: Vec<Note>,
}

/// What is peculiar about a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// No device names its fsdev: the guest never sees it, and QEMU never connects.
    NoDevice,
    /// No device here names its fsdev, and what is here is not all of a command line.
    DeviceElsewhere,
    /// A part of its fsdev is not statically known: this text of the file.
    Unknown(Part, Vec<u8>),
    /// A part of its device is not statically known: this text of the file.
    UnknownOfDevice(Vec<u8>),
    /// QEMU refuses it as it stands, and why.
    Refused(String),
    /// It stands in a template unit, and in this instance it has this socket.
    OfInstance(Vec<u8>, #[serde(with = "crate::text::packed::path")] PathBuf),
    /// It stands in a file that a program writes by itself: that program's own configuration is what to change.
    Generated,
}

/// A part of an fsdev.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The name of QEMU's driver.
    Driver,
    /// `id`.
    Id,
    /// `mount_tag`.
    Tag,
    /// `socket` or `sock_fd`.
    Socket,
    /// `readonly`.
    Readonly,
    /// `writeout`.
    Writeout,
    /// Options of which not even the names are known.
    More,
}

/// Whether two texts expand the same variable: `$NAME`, `${NAME}` and `"$NAME"` are alike.
pub(crate) fn same_text(a: &[u8], b: &[u8]) -> bool {
    let bare = |text: &[u8]| -> Vec<u8> {
        text.iter().copied().filter(|byte| !matches!(byte, b'{' | b'}' | b'"' | b' ')).collect()
    };
    bare(a) == bare(b)
}

impl Share {
    /// The text of a part that is not statically known.
    pub fn unknown(&self, part: Part) -> Option<&[u8]> {
        self.notes.iter().find_map(|note| match note {
            Note::Unknown(of, text) if *of == part => Some(text.as_slice()),
            _ => None,
        })
    }

    /// The texts by which it can be called where it has no name that is known.
    fn unknown_names(&self) -> impl Iterator<Item = &[u8]> {
        let tag_of_device = self.notes.iter().find_map(|note| match note {
            Note::UnknownOfDevice(text) if self.mount_tag.is_none() => Some(text.as_slice()),
            _ => None,
        });
        [self.unknown(Part::Tag), self.unknown(Part::Id), self.unknown(Part::Socket), tag_of_device]
            .into_iter()
            .flatten()
            .filter(|text| !text.is_empty())
    }

    /// What to call it when speaking to people, and what `--export` takes: its tag, else its id. Not escaped.
    pub fn name(&self) -> &[u8] {
        self.mount_tag.as_deref().unwrap_or(&self.fsdev)
    }

    /// Whether `name` is its tag, its id or its socket's path, or the text that stands for one of them.
    pub fn is_called(&self, name: &[u8]) -> bool {
        self.fsdev == name
            || self.mount_tag.as_deref() == Some(name)
            || matches!(&self.transport, Transport::Socket(path) if path.as_os_str().as_bytes() == name)
            || self.unknown_names().any(|text| same_text(text, name))
    }

    /// What `--export` takes for it: its tag, its id, its socket's path, or else the text that stands for one of them.
    pub fn handle(&self) -> Option<Vec<u8>> {
        match &self.transport {
            _ if !self.name().is_empty() => Some(self.name().to_vec()),
            Transport::Socket(path) => Some(path.as_os_str().as_bytes().to_vec()),
            _ => self.unknown_names().next().map(<[u8]>::to_vec),
        }
    }

    /// An option about this share as a shell takes it, such as `--export NAME=PATH`; `None` where nothing names it.
    pub fn option(&self, option: &str, value: &str) -> Option<String> {
        let name = self.handle()?;
        let word = text::escape(&text::shell_word(&name)).into_owned();
        // What begins with a dash would be taken for an option.
        let gap = if name.starts_with(b"-") { '=' } else { ' ' };
        Some(format!("{option}{gap}{word}{value}"))
    }

    /// [`Share::name`], or the text that stands for it, safe to print.
    pub fn title(&self) -> String {
        let name = Some(self.name()).filter(|name| !name.is_empty());
        match name.or_else(|| self.unknown_names().next()) {
            Some(name) => text::escape(name).into_owned(),
            None => "without a name".into(),
        }
    }
}

impl Note {
    /// The socket of an instance of a template unit.
    pub fn socket_of_instance(&self) -> Option<&Path> {
        match self {
            Self::OfInstance(_, socket) => Some(socket),
            _ => None,
        }
    }

    /// Its stable name, for reports.
    pub fn id(&self) -> &'static str {
        match self {
            Self::NoDevice => "no-device",
            Self::DeviceElsewhere => "device-elsewhere",
            Self::Unknown(..) => "unknown-value",
            Self::UnknownOfDevice(_) => "unknown-device-value",
            Self::Refused(_) => "refused-by-qemu",
            Self::OfInstance(..) => "export-unknown",
            Self::Generated => "generated-file",
        }
    }
}

/// How QEMU reaches its helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// `socket=PATH`.
    Socket(#[serde(with = "crate::text::packed::path")] PathBuf),
    /// `sock_fd=N`, one end of a connected pair that QEMU inherits.
    Fd(i32),
    /// It stands there, but its value is not statically known (a variable, say): the text as it stands.
    Unknown(Vec<u8>),
}

/// The guest's device for a share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `virtio-9p-pci`, `virtio-9p-ccw`, `virtio-9p-device`, …
    pub driver: Vec<u8>,
    /// The bus it is plugged into, as QEMU names it.
    pub bus: Option<Vec<u8>>,
    /// Its address on the bus, as QEMU spells it: `05.0`, `0x5`.
    pub addr: Option<Vec<u8>>,
    /// The device's own id.
    pub id: Option<Vec<u8>>,
    /// Everything else, in order, but `fsdev` and `mount_tag`.
    pub properties: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a share exports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExportPath {
    /// The configuration of a proxy share never says it, and no helper that does was found.
    #[default]
    Unknown,
    /// Known, and how.
    Known {
        /// The directory, as on the audited host.
        #[serde(with = "crate::text::packed::path")]
        path: PathBuf,
        /// Who says so.
        from: ExportFrom,
    },
}

/// Who says what a share exports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExportFrom {
    /// `--export`, the admin.
    Argument,
    /// The `-p` of a helper that listens on the share's socket, found in a configuration.
    Helper(Place),
    /// The `-p` of the running helper at the other end of the share's socket.
    Process(i32),
    /// The manager's own configuration: the admin's true source path.
    Manager(Place),
}
