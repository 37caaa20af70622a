//! What `/proc` tells of a process under test.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A line of `/proc/PID/status`, without its name; panics when there is no such process or line.
#[track_caller]
pub fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(of(pid, "status")).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} is not in the status of process {pid}")).trim().into()
}

/// A set of capabilities of `/proc/PID/status`.
#[track_caller]
pub fn capabilities(pid: u32, name: &str) -> u64 {
    u64::from_str_radix(&status(pid, name), 16).expect("a set of capabilities")
}

/// A path below `/proc/PID`.
pub fn of(pid: u32, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

/// The open descriptors and what they are.
pub fn descriptors(pid: u32) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(of(pid, "fd")).expect("a process's descriptors") {
        let entry = entry.expect("a descriptor");
        let number = entry.file_name().to_string_lossy().parse().expect("a descriptor's number");
        // One that was closed meanwhile is none.
        if let Ok(target) = fs::read_link(entry.path()) {
            found.insert(number, target.to_string_lossy().into_owned());
        }
    }
    found
}

/// The processes that a process has started and that are still there, zombies too.
pub fn children(pid: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
        let number = entry.ok()?.file_name().to_string_lossy().parse::<u32>().ok()?;
        let text = fs::read_to_string(of(number, "stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let parent = text.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<u32>().ok()?;
        (parent == pid).then_some(number)
    });
    all.collect()
}

/// One mount that a process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: String,
    /// Its options, such as `nodev`.
    pub options: Vec<String>,
    /// The filesystem's type.
    pub kind: String,
}

/// Every mount that a process sees.
pub fn mounts(pid: u32) -> Vec<Mount> {
    let text = fs::read_to_string(of(pid, "mountinfo")).expect("a process's mounts");
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(4);
        let point = fields.next()?.into();
        let options = fields.next()?.split(',').map(Into::into).collect();
        Some(Mount { point, options, kind: right.split(' ').next()?.into() })
    };
    text.lines().filter_map(mount).collect()
}

/// The processes with a folder in their arguments, and these as one line; not this process.
pub fn naming(folder: &Path) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let is_own = u32::try_from(pid).is_ok_and(|pid: u32| pid == std::process::id());
        if line.contains(folder.to_str().unwrap()) && !is_own {
            found.push((pid, line));
        }
    }
    found
}
