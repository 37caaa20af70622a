//! What /proc of the audited host says of a process.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use super::host::{Content, Host};

/// A file that the kernel keeps of a process.
pub(super) fn proc(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// The sockets that a process has open, by descriptor.
pub(super) fn sockets_of(host: &Host, pid: i32) -> io::Result<HashMap<i32, u64>> {
    let mut sockets = HashMap::new();
    for entry in host.list_proc(&proc(pid, "fd"))? {
        let Some(fd) = entry.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(target) = host.read_link(&entry) else { continue };
        let inode =
            target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        sockets.extend(inode.map(|inode| (fd, inode)));
    }
    Ok(sockets)
}

/// The parent, from the text behind the program's name in /proc/PID/stat.
pub(super) fn parent(host: &Host, pid: i32) -> Option<i32> {
    let (Content::Whole(stat) | Content::TooLong(stat)) = host.read(&proc(pid, "stat"), true).ok()? else {
        return None;
    };
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}
