//! Whether a QEMU with a proxy share runs as root, or is started as root.

use std::io;
use std::path::Path;

use super::host::{Content, Host};
use super::proc::proc;
use super::processes::Processes;
use super::scan::Scan;
use crate::share::Share;
use crate::sources::format::Format as _;
use crate::sources::libvirt::Libvirt;
use crate::sources::proxmox::Proxmox;
use crate::sources::systemd::Systemd;
use crate::text::escape_path;

/// Where libvirt's user is configured.
const QEMU_CONF: &str = "/etc/libvirt/qemu.conf";

/// What runs QEMU as root, safe to print; `None` where nothing is known to.
pub(super) fn find(host: &Host, scan: &Scan, processes: &Processes) -> io::Result<Option<String>> {
    let roots = |share: &Share| share.place.pid.filter(|pid| is_roots(host, *pid));
    let mut starter = None;
    // What libvirt does is said once, for all of its guests.
    let mut libvirt_is_asked = false;
    for file in scan.readings.iter() {
        let file = file?;
        if let Some(pid) = file.reading.shares.iter().find_map(roots) {
            return Ok(Some(format!("process {pid}")));
        }
        let is_libvirts = file.kind == Libvirt.name();
        if starter.is_some() || file.reading.shares.is_empty() || is_libvirts && libvirt_is_asked {
            continue;
        }
        if let Some(path) = &file.path {
            libvirt_is_asked |= is_libvirts;
            starter = starts_as_root(host, &file.kind, path);
        }
    }
    let running = processes.shares.iter().find_map(roots).map(|pid| format!("process {pid}"));
    Ok(running.or(starter))
}

/// Whether a process has root's identity, on this host or in its user namespace.
fn is_roots(host: &Host, pid: i32) -> bool {
    let Ok(Content::Whole(status)) = host.read(&proc(pid, "status"), true) else { return false };
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"));
    let mut numbers = line.unwrap_or_default().split(u8::is_ascii_whitespace).filter(|text| !text.is_empty());
    // Real, effective, saved, of the file system.
    numbers.nth(1) == Some(b"0")
}

fn starts_as_root(host: &Host, kind: &str, path: &Path) -> Option<String> {
    let text = |path: &Path| host.read_small(path).unwrap_or_default();
    if kind == Proxmox.name() {
        return Some("Proxmox starts it so".to_owned());
    }
    if kind == Libvirt.name() && has_setting(&text(Path::new(QEMU_CONF)), b"user", is_root) {
        return Some(QEMU_CONF.to_owned());
    }
    if kind == Systemd.name() {
        let unit = text(path);
        let drops =
            [&b"-runas"[..], b"-run-with"].iter().any(|word| memchr::memmem::find(&unit, word).is_some());
        let names_user = has_setting(&unit, b"User", |user| !is_root(user))
            || has_setting(&unit, b"DynamicUser", |value| !matches!(value, b"no" | b"false" | b"off" | b"0"));
        let of_a_user = path.components().any(|part| part.as_os_str() == "user");
        // Drop-ins and the unit that a drop-in belongs to may name a user.
        let mut drop_ins = path.as_os_str().to_owned();
        drop_ins.push(".d");
        let is_whole = path.extension().is_some_and(|ending| ending == "service")
            && !matches!(host.list(Path::new(&drop_ins)), Ok(Some(_)));
        if is_whole && !drops && !names_user && !of_a_user {
            return Some(format!("{} names no User=", escape_path(path)));
        }
    }
    None
}

fn is_root(user: &[u8]) -> bool {
    matches!(user, b"root" | b"0" | b"+0")
}

/// Whether the last `key = value` of a file, its quotes removed, is as `wanted`.
fn has_setting(text: &[u8], key: &[u8], wanted: impl Fn(&[u8]) -> bool) -> bool {
    let value = |line: &[u8]| {
        let value = line.trim_ascii_start().strip_prefix(key)?.trim_ascii_start().strip_prefix(b"=")?;
        let value = value.trim_ascii();
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value).to_vec())
    };
    text.split(|byte| *byte == b'\n').filter_map(value).next_back().is_some_and(|value| wanted(&value))
}
