//! How a guest's memory is made. virtiofsd reads and writes the guest's memory, so all of it
//! must be shared.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Where a guest's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Memory {
    /// QEMU allocates it by itself: so many bytes; `None` where the size is not here, or not statically known.
    Plain(Option<u64>),
    /// All memory backends are there, and shared.
    Shared,
    /// It can't be shared as the arguments stand: why, and what to do; one sentence without a full stop.
    Conflict(String),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Plain(None)
    }
}
