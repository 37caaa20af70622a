//! Who tries: a user, or whoever a process is.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use nix::unistd::{Gid, getgrouplist};

use crate::data::labels;
use crate::data::options::CheckArgs;
use crate::data::owner::Owner;
use crate::report::finding::{self, Finding, Kind};
use crate::share::Place;
use crate::text;

/// Below this many descriptors a guest with many open files meets the limit: QEMU keeps one for each.
const FEW_DESCRIPTORS: u64 = 1024;

/// Who QEMU is, and where.
#[derive(Debug)]
pub(super) struct Subject {
    /// The user, as this process numbers it.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    groups: Vec<u32>,
    /// The process whose namespaces and root are taken.
    pid: Option<i32>,
    capabilities: Option<u64>,
    name: String,
    /// What could not be taken over.
    notes: Vec<Finding>,
}

/// What the process that tries is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trial {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub pid: Option<i32>,
    pub capabilities: Option<u64>,
    pub read_only: bool,
    pub scratch: Option<String>,
}

impl Trial {
    /// Reads what [`Subject::as_trial`] wrote.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<_> = text.split(';').collect();
        let [uid, gid, groups, pid, capabilities, read_only, scratch] = parts.as_slice() else {
            bail!("this is for the program itself")
        };
        let groups = groups.split(',').filter(|group| !group.is_empty()).map(str::parse);
        ensure!(!scratch.contains('/') && *scratch != "..", "this is for the program itself");
        Ok(Self {
            uid: uid.parse()?,
            gid: gid.parse()?,
            groups: groups.collect::<Result<_, _>>()?,
            pid: Some(*pid).filter(|pid| !pid.is_empty()).map(str::parse).transpose()?,
            capabilities: Some(*capabilities).filter(|it| !it.is_empty()).map(str::parse).transpose()?,
            read_only: *read_only == "ro",
            scratch: Some((*scratch).to_owned()).filter(|scratch| !scratch.is_empty()),
        })
    }
}

impl Subject {
    /// Whom the admin names; `None` where nobody is to try anything.
    pub(super) fn of(args: &CheckArgs) -> anyhow::Result<Option<Self>> {
        if let Some(user) = &args.run_as {
            return Ok(Some(Self::of_owner(&Owner::parse(user)?)?));
        }
        if let Some(pid) = args.pid {
            return Ok(Some(Self::of_process(pid, format!("process {pid}"))?));
        }
        if let Some(unit) = &args.unit {
            return Ok(Some(Self::of_unit(unit)?));
        }
        match &args.domain {
            Some(domain) => Ok(Some(Self::of_domain(domain)?)),
            None => Ok(None),
        }
    }

    fn of_owner(owner: &Owner) -> anyhow::Result<Self> {
        let user = owner.argument();
        let name = user.split(':').next().unwrap_or_default();
        let groups = match CString::new(name) {
            Ok(name) if !name.as_bytes().iter().all(u8::is_ascii_digit) => {
                let all =
                    getgrouplist(&name, Gid::from_raw(owner.gid)).context("reading the user's groups")?;
                all.into_iter().map(Gid::as_raw).collect()
            }
            _ => vec![owner.gid],
        };
        Ok(Self {
            uid: owner.uid,
            gid: owner.gid,
            groups,
            pid: None,
            capabilities: None,
            name: owner.to_string(),
            notes: Vec::new(),
        })
    }

    fn of_process(pid: i32, name: String) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("looking at process {pid}"))?;
        let field = |key: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .with_context(|| format!("/proc/{pid}/status lacks {key}"))
        };
        let last = |key: &str| -> anyhow::Result<u32> {
            Ok(field(key)?.split_whitespace().next_back().context("an id")?.parse()?)
        };
        let (uid, gid) = (last("Uid:")?, last("Gid:")?);
        let groups = field("Groups:")?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let capabilities = u64::from_str_radix(field("CapEff:")?.trim(), 16)?;
        let mut notes = Vec::new();
        let filtered = field("Seccomp:").is_ok_and(|mode| mode.trim() == "2");
        // QEMU's own -sandbox allows what shares need.
        if filtered && !command_line(pid).iter().any(|word| word == "-sandbox") {
            let message = format!(
                "{name} has a system call filter, which the try has not: see that it allows system calls on extended attributes \
                 (a unit's SystemCallFilter= needs @file-system)"
            );
            notes.push(told(&finding::CONFINEMENT_NOT_TRIED, message));
        }
        let label = fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap_or_default();
        let label = label.trim_end_matches(['\0', '\n']);
        if !label.is_empty() && !label.starts_with("unconfined") {
            let message = format!(
                "{name} is confined as {}, which the try is not: see that this allows reading and writing the export",
                text::escape(label.as_bytes())
            );
            notes.push(told(&finding::CONFINEMENT_NOT_TRIED, message));
        }
        notes.extend(descriptors(pid));
        Ok(Self { uid, gid, groups, pid: Some(pid), capabilities: Some(capabilities), name, notes })
    }

    fn of_unit(unit: &OsStr) -> anyhow::Result<Self> {
        let shown = text::escape_os(unit).into_owned();
        let output = Command::new("systemctl")
            .args(["show", "--property=LoadState,MainPID,User,Group,DynamicUser", "--"])
            .arg(unit)
            .output()
            .context("asking systemctl about the unit")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = |key: &str| {
            let mut lines = said.lines().filter_map(|line| line.split_once('='));
            lines.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        ensure!(
            output.status.success(),
            "systemctl does not answer about {shown}: {}",
            text::escape(&output.stderr)
        );
        ensure!(value("LoadState") == "loaded", "systemd has no unit {shown}");
        match value("MainPID").parse() {
            Ok(pid) if pid > 0 => {
                let qemu = qemu_below(pid);
                let tried = qemu.unwrap_or(pid);
                let mut subject = Self::of_process(tried, format!("the unit {shown} (process {tried})"))?;
                if qemu.is_none() {
                    let name = text::escape(comm(pid).as_bytes()).into_owned();
                    let message = format!(
                        "process {pid} of the unit {shown} is {name}, and no QEMU runs below it: the user and the mounts that it gives QEMU \
                         were not tried"
                    );
                    subject.notes.push(told(&finding::CONFINEMENT_NOT_TRIED, message));
                }
                Ok(subject)
            }
            _ => {
                ensure!(
                    value("DynamicUser") != "yes",
                    "the unit {shown} has DynamicUser=, and does not run: it has no user now"
                );
                let user =
                    Some(value("User")).filter(|user| !user.is_empty()).unwrap_or_else(|| "root".to_owned());
                let group = value("Group");
                let owner = if group.is_empty() { user } else { format!("{user}:{group}") };
                let mut subject = Self::of_owner(&Owner::parse(OsStr::new(&owner))?)?;
                let message = format!(
                    "the unit {shown} does not run, so that only its user was tried, not its sandbox: `migrate config` reads that, and \
                     this try does where the unit runs"
                );
                subject.notes.push(told(&finding::CONFINEMENT_NOT_TRIED, message));
                Ok(subject)
            }
        }
    }

    fn of_domain(domain: &OsStr) -> anyhow::Result<Self> {
        let shown = text::escape_os(domain).into_owned();
        let name = domain
            .to_str()
            .filter(|name| !name.contains('/'))
            .with_context(|| format!("no domain is called {shown}"))?;
        let file = format!("/run/libvirt/qemu/{name}.pid");
        // The number in a file that was left over may be another process's now.
        let pid = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid.filter(|pid| is_qemu(*pid)) {
            return Self::of_process(pid, format!("the domain {shown} (process {pid})"));
        }
        let output = Command::new("virsh")
            .args(["dumpxml", "--inactive", "--"])
            .arg(domain)
            .output()
            .context("asking virsh about the domain")?;
        ensure!(
            output.status.success(),
            "libvirt has no domain {shown}: {}",
            text::escape(output.stderr.trim_ascii())
        );
        let owner = match dac_label(&String::from_utf8_lossy(&output.stdout)) {
            Some(label) => Owner::parse(OsStr::new(&label))?,
            None => Owner::of_libvirt()?.context("libvirt's QEMU user is not known: pass it by --as")?,
        };
        let mut subject = Self::of_owner(&owner)?;
        if labels::apparmor() {
            let message = format!(
                "AppArmor is in force: libvirt's profile for {shown} allows the directory of a <filesystem>, and not one in QEMU's own \
                 arguments; that was not tried, for the domain does not run"
            );
            subject.notes.push(told(&finding::CONFINEMENT_NOT_TRIED, message));
        }
        Ok(subject)
    }

    /// What could not be taken over.
    pub(super) fn notes(&self) -> Vec<Finding> {
        self.notes.clone()
    }

    /// As the process that tries is told.
    pub(super) fn as_trial(&self, read_only: bool, scratch: Option<&str>) -> String {
        let map = |kind: &str, id: u32| self.pid.map_or(id, |pid| inside(pid, kind, id));
        let groups: Vec<_> = self.groups.iter().map(|group| map("gid_map", *group).to_string()).collect();
        format!(
            "{};{};{};{};{};{};{}",
            map("uid_map", self.uid),
            map("gid_map", self.gid),
            groups.join(","),
            self.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            self.capabilities.map(|it| it.to_string()).unwrap_or_default(),
            if read_only { "ro" } else { "rw" },
            scratch.unwrap_or_default()
        )
    }
}

/// QEMU itself: the process or the first one that it started, over any number of others.
fn qemu_below(pid: i32) -> Option<i32> {
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(pid) = family.get(at).copied() {
        if is_qemu(pid) {
            return Some(pid);
        }
        family.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        at += 1;
    }
    None
}

fn parent_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// The process's name, of 15 bytes at most.
fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn is_qemu(pid: i32) -> bool {
    let comm = comm(pid);
    comm.starts_with("qemu") || comm == "kvm"
}

fn command_line(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// What a process's user namespace calls an id of this one.
fn inside(pid: i32, map: &str, id: u32) -> u32 {
    mapped(&fs::read_to_string(format!("/proc/{pid}/{map}")).unwrap_or_default(), id)
}

fn mapped(map: &str, id: u32) -> u32 {
    let rows = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let mut found = rows.filter_map(|(inside, outside, count)| {
        let at = id.checked_sub(outside)?;
        (at < count).then(|| inside + at)
    });
    found.next().unwrap_or(id)
}

/// `USER:GROUP` of a domain's DAC label.
fn dac_label(xml: &str) -> Option<String> {
    let labels = xml.split("<seclabel").skip(1);
    let mut dac = labels.filter(|label| {
        let head = label.split('>').next().unwrap_or_default();
        head.contains("model='dac'") || head.contains("model=\"dac\"")
    });
    let label = dac.next()?.split_once("<label>")?.1.split_once("</label>")?.0;
    Some(label.split(':').map(|part| part.trim_start_matches('+')).collect::<Vec<_>>().join(":"))
}

/// Tells of a process that may have few files open.
fn descriptors(pid: i32) -> Option<Finding> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft: u64 = line.split_whitespace().next()?.parse().ok()?;
    (soft <= FEW_DESCRIPTORS).then(|| {
        let message = format!("process {pid} may have {soft} files open (RLIMIT_NOFILE), and QEMU keeps one open for each of the guest's");
        told(&finding::FEW_DESCRIPTORS, message)
    })
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(_) => write!(out, "{}, as {}:{},", self.name, self.uid, self.gid),
            None => out.write_str(&self.name),
        }
    }
}

pub(super) fn told(kind: &'static Kind, message: String) -> Finding {
    Finding { kind, place: Place::default(), message, remedy: None, subject: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_namespace() {
        let map = "0 100000 65536\n70000 5 1\n";
        for (id, expected) in [(100_000, 0), (100_107, 107), (5, 70_000), (7, 7)] {
            assert_eq!(mapped(map, id), expected);
        }
    }

    #[test]
    fn a_trial_is_read_as_it_was_written() {
        let trial = Trial::parse("107;36;36,7;42;3;rw;x").unwrap();
        assert_eq!((trial.uid, trial.gid, trial.groups, trial.pid), (107, 36, vec![36, 7], Some(42)));
        assert_eq!(
            (trial.capabilities, trial.read_only, trial.scratch.as_deref()),
            (Some(3), false, Some("x"))
        );
        for text in ["", "1;2", "1;2;;;;rw;../x", "a;2;;;;rw;", "1;2;;x;;rw;"] {
            assert!(Trial::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_domains_label_names_its_user() {
        let xml = "<seclabel type='dynamic' model='selinux'/><seclabel type='static' model='dac'>\n<label>+107:+36</label></seclabel>";
        assert_eq!(dac_label(xml).as_deref(), Some("107:36"));
        assert_eq!(dac_label("<seclabel model='selinux'><label>a:b</label></seclabel>"), None);
    }
}
