//! What the installed QEMU and the target mean for the shares once they are local.

use std::fmt::Write as _;

use super::qemu::Installed;
use crate::report::audit::AdvisoryBlock;
use crate::report::finding::{self, Kind as FindingKind, Severity};
use crate::report::rows::{FindingRow, path};
use crate::share::version::Version;
use crate::share::version::advice::{Advice, Holds, Kind, TABLE};

/// One finding for each row of the table that is true of an installed QEMU or of the target. `as_root`: what runs QEMU as
/// root, where something does.
pub(super) fn findings(
    target: Option<&Version>,
    installed: &[Installed],
    as_root: Option<&str>,
) -> Vec<FindingRow> {
    let judged = judged(target, installed);
    TABLE.iter().filter_map(|advice| finding(advice, &judged, as_root)).collect()
}

/// The same for people: one block for each QEMU, with what matters most first.
pub(super) fn blocks(
    target: Option<&Version>,
    installed: &[Installed],
    as_root: Option<&str>,
) -> Vec<AdvisoryBlock> {
    let judged = judged(target, installed);
    judged.iter().filter_map(|one| block(one, as_root)).collect()
}

fn block(one: &Judged, as_root: Option<&str>) -> Option<AdvisoryBlock> {
    let mut rows: Vec<(Severity, String)> = Vec::new();
    let mut has_vulnerability = false;
    for advice in TABLE {
        let condition = match advice.holds(one.version) {
            Holds::Yes => String::new(),
            Holds::Before(micro) => format!(" (unless it is {}.{micro} or newer)", one.version.text),
            Holds::From(micro) => format!(" (if it is {}.{micro} or newer)", one.version.text),
            Holds::No => continue,
        };
        let (kind, severity) = kind_of(advice, as_root);
        let is_security = advice.kind == Kind::Security;
        has_vulnerability |= is_security;
        let remedy = if is_security { String::new() } else { format!("; {}", advice.remedy) };
        let (name, meaning) = (advice.name, advice.meaning);
        rows.push((severity, format!("{name}{condition}: {meaning}{remedy} [{}]", kind.id)));
    }
    if rows.is_empty() {
        return None;
    }
    // Stable: equals stay in the order of the table.
    rows.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
    let place = one.program.map(|program| format!("{}: ", path(&program.path))).unwrap_or_default();
    let mut heading = format!(
        "{place}QEMU {} ({}): what it means for shares over the local backend",
        one.version.text, one.role
    );
    if has_vulnerability {
        heading += ". Update QEMU; the CVEs are not fixed upstream in this version, see your distribution";
        if let Some(who) = as_root {
            // Writing to a String does not fail.
            let _ = write!(heading, ". QEMU runs as root here ({who})");
        }
    }
    Some(AdvisoryBlock { heading, rows })
}

/// The kind of a row, and how much it matters here.
fn kind_of(advice: &Advice, as_root: Option<&str>) -> (&'static FindingKind, Severity) {
    let kind: &FindingKind = match advice.kind {
        Kind::Security => &finding::QEMU_VULNERABILITY,
        Kind::Fault => &finding::QEMU_FAULT,
        Kind::Difference => &finding::QEMU_DIFFERENCE,
    };
    let is_worse = advice.kind == Kind::Security && as_root.is_some();
    (kind, if is_worse { Severity::Error } else { kind.severity })
}

/// A version, what it is here, and the first of its programs.
struct Judged<'a> {
    version: &'a Version,
    role: &'static str,
    program: Option<&'a Installed>,
}

/// Each version once: those installed, and the target.
fn judged<'a>(target: Option<&'a Version>, installed: &'a [Installed]) -> Vec<Judged<'a>> {
    let mut all: Vec<Judged> = Vec::new();
    for program in installed {
        if all.iter().all(|one| one.version != &program.version) {
            all.push(Judged { version: &program.version, role: "installed", program: Some(program) });
        }
    }
    if let Some(target) = target
        && all.iter().all(|one| one.version != target)
    {
        all.push(Judged { version: target, role: "the target", program: None });
    }
    all
}

fn finding(advice: &Advice, judged: &[Judged], as_root: Option<&str>) -> Option<FindingRow> {
    let mut said = Vec::new();
    let mut program = None;
    for one in judged {
        let (version, role) = (&one.version.text, one.role);
        said.push(match advice.holds(one.version) {
            Holds::Yes => format!("QEMU {version} ({role})"),
            Holds::Before(micro) => {
                format!("QEMU {version} ({role}; unless it is {version}.{micro} or newer)")
            }
            Holds::From(micro) => format!("QEMU {version} ({role}; if it is {version}.{micro} or newer)"),
            Holds::No => continue,
        });
        program = program.or(one.program);
    }
    if said.is_empty() {
        return None;
    }
    let (kind, severity) = kind_of(advice, as_root);
    let (name, meaning, versions) = (advice.name, advice.meaning, said.join(" and "));
    let mut message = format!("{versions}: {name}: {meaning}");
    if advice.kind == Kind::Security {
        message += ": not fixed upstream in this version; see your distribution";
        if let Some(who) = as_root {
            // Writing to a String does not fail.
            let _ = write!(message, ". QEMU runs as root here ({who})");
        }
    }
    Some(FindingRow {
        id: kind.id.to_owned(),
        severity,
        file: program.map(|program| path(&program.path)),
        line: None,
        message,
        remedy: advice.remedy.to_owned(),
    })
}
