//! What an audit found of a guest.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::report::audit::ShareRow;
use crate::text::escape;

/// A guest as the audit found it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its shares, in each place where they were seen.
    pub rows: Vec<ShareRow>,
    /// Its running QEMU.
    pub pid: Option<i32>,
}

/// Whether a share is meant by a name: its tag, its fsdev's id or its socket's path.
pub(super) fn is_called(share: &ShareRow, name: &OsStr) -> bool {
    let name = escape(name.as_bytes());
    [&share.mount_tag, &share.fsdev, &share.socket].into_iter().flatten().any(|own| *own == name)
}
