//! How a guest's memory is made. virtiofsd reads and writes the guest's memory, so all of it
//! must be shared.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Where a guest's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Memory {
    /// QEMU allocates it by itself, as far as the arguments say.
    Plain(Plain),
    /// All memory backends are there, and shared.
    Shared,
    /// It can't be shared as the arguments stand: why, and what to do; one sentence without a full stop.
    Conflict(String),
}

/// Memory that QEMU allocates by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plain {
    /// Its bytes; `None` where the size is not here, or not statically known.
    pub size: Option<u64>,
    /// The ids of the objects that are there: a new backend needs another one.
    pub objects: Vec<String>,
    /// What may say more of memory and is not read here, safe to print: `-readconfig /etc/vm.cfg`, `$OPTIONS`.
    pub elsewhere: Option<String>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::Plain(Plain::default())
    }
}
