//! A `virtfs-proxy-helper` invocation: what knows the exported path.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Place;

/// One invocation of the helper, as some configuration or a running process says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Helper {
    /// Where it stands.
    pub place: Place,
    /// `-p`: the directory that it serves. `None`: not statically known.
    #[serde(with = "crate::text::packed::optional_path")]
    pub export: Option<PathBuf>,
    /// `-s`: the socket that it listens on.
    #[serde(with = "crate::text::packed::optional_path")]
    pub socket: Option<PathBuf>,
    /// `-f`: the connected socket that it inherits.
    pub fd: Option<i32>,
    /// `-u`, as it is spelt.
    pub uid: Option<Vec<u8>>,
    /// `-g`, as it is spelt.
    pub gid: Option<Vec<u8>>,
    /// The running process.
    pub pid: Option<i32>,
    /// Its socket, if it makes one, and its directory as a template unit spells them, `%i` and all.
    pub template: Option<(Option<Vec<u8>>, Vec<u8>)>,
}
