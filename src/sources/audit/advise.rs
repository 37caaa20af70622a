//! What the installed QEMU and the target mean for the shares once they are local.

use std::fmt::Write as _;

use super::qemu::Installed;
use crate::report::finding::{self, Kind as FindingKind, Severity};
use crate::report::rows::{FindingRow, path};
use crate::share::version::Version;
use crate::share::version::advice::{Advice, Holds, Kind, TABLE};

/// One finding for each row of the table that is true of an installed QEMU or of the target. `as_root`: what runs QEMU as
/// root, where something does.
pub fn findings(target: Option<&Version>, installed: &[Installed], as_root: Option<&str>) -> Vec<FindingRow> {
    let judged = judged(target, installed);
    TABLE.iter().filter_map(|advice| finding(advice, &judged, as_root)).collect()
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
    let (kind, mut severity): (&FindingKind, _) = match advice.kind {
        Kind::Security => (&finding::QEMU_VULNERABILITY, finding::QEMU_VULNERABILITY.severity),
        Kind::Fault => (&finding::QEMU_FAULT, finding::QEMU_FAULT.severity),
        Kind::Difference => (&finding::QEMU_DIFFERENCE, finding::QEMU_DIFFERENCE.severity),
    };
    let (name, meaning, versions) = (advice.name, advice.meaning, said.join(" and "));
    let mut message = format!("{versions}: {name}: {meaning}");
    if advice.kind == Kind::Security {
        message += ": not fixed upstream in this version; see your distribution";
        if let Some(who) = as_root {
            severity = Severity::Error;
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
