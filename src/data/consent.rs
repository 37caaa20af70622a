//! What stands in the way of a conversion, and what of it the admin has agreed to.
//!
//! One rule: an error must be dealt with, a warning may be agreed to by `--accept`, an info needs nothing. Two errors have
//! options of their own, which name the risk: `--in-use` and `--system-directory`.

use std::path::Path;

use anyhow::Result;

use crate::data::check;
use crate::data::live;
use crate::data::options::ConvertArgs;
use crate::exit::Outcome;
use crate::report::finding::{self, Finding, Kind, Severity};
use crate::report::{FindingRow, write_findings};
use crate::text;

/// What the admin has agreed to.
#[derive(Debug, Default)]
pub(super) struct Consent {
    /// Warnings, and what of each: all of it where nothing is named.
    accepted: Vec<(&'static Kind, Option<String>)>,
    in_use: bool,
    system_directory: bool,
}

impl Consent {
    /// Reads the options of a conversion of `export`. The error is one of usage.
    pub(super) fn of(args: &ConvertArgs, export: &Path) -> Result<Self, String> {
        let named = args.system_directory.as_ref().and_then(|named| named.canonicalize().ok());
        let accepted = args.accept.iter().map(|word| accepted(word)).collect::<Result<_, _>>()?;
        Ok(Self {
            accepted,
            in_use: args.in_use,
            system_directory: named.is_some_and(|named| named == export),
        })
    }

    /// Whether a finding does not stand in the way.
    pub(super) fn covers(&self, finding: &Finding) -> bool {
        match finding.kind.severity {
            Severity::Info => true,
            Severity::Error if *finding.kind == finding::LIVE_EXPORT => self.in_use,
            Severity::Error if *finding.kind == finding::SYSTEM_DIRECTORY => self.system_directory,
            Severity::Error => false,
            Severity::Warning => self.accepted.iter().any(|(kind, subject)| {
                *kind == finding.kind && subject.as_ref().is_none_or(|subject| is_about(finding, subject))
            }),
        }
    }

    /// The findings that stand in the way.
    pub(super) fn blockers<'f>(&self, findings: &'f [Finding]) -> Vec<&'f Finding> {
        findings.iter().filter(|finding| !self.covers(finding)).collect()
    }

    /// Refuses what stands in the way, and says so on standard error. Whether anything does.
    pub(super) fn refuses(&self, findings: &[Finding]) -> Result<bool> {
        let blockers = self.blockers(findings);
        if blockers.is_empty() {
            return Ok(false);
        }
        let rows: Vec<_> = blockers.iter().map(|finding| FindingRow::from(*finding)).collect();
        write_findings(&rows, &mut std::io::stderr().lock())?;
        complain!("virtfs-proxy-helper: nothing was changed: {}", decide(&blockers));
        Ok(true)
    }
}

/// Reads `ID` or `ID:SUBJECT`.
fn accepted(word: &str) -> Result<(&'static Kind, Option<String>), String> {
    let (id, subject) =
        word.split_once(':').map_or((word, None), |(id, subject)| (id, Some(subject.to_owned())));
    let shown = text::escape(word.as_bytes());
    let Some(kind) = finding::KINDS.iter().find(|kind| kind.id == id) else {
        return Err(format!(
            "--accept={shown}: there is no such finding; migrate check names those of this export"
        ));
    };
    if kind.severity == Severity::Error {
        return Err(format!(
            "--accept={shown}: only warnings can be accepted, this is an error: {}",
            kind.remedy
        ));
    }
    if subject.is_some() && **kind != finding::XATTR_LOST {
        return Err(format!(
            "--accept={shown}: only {} takes the name of an attribute",
            finding::XATTR_LOST.id
        ));
    }
    Ok((kind, subject))
}

fn is_about(finding: &Finding, subject: &str) -> bool {
    finding.subject.as_ref().is_some_and(|name| text::escape(name) == subject)
}

/// What the admin has to do about findings that stand in the way.
pub(super) fn decide(blockers: &[&Finding]) -> String {
    let (errors, warnings): (Vec<&Finding>, Vec<&Finding>) =
        blockers.iter().partition(|finding| finding.kind.severity == Severity::Error);
    let list = |findings: &[&Finding], say: &dyn Fn(&Finding) -> String| {
        let mut words: Vec<_> = findings.iter().map(|finding| say(finding)).collect();
        words.sort();
        words.dedup();
        words
    };
    let mut parts = Vec::new();
    if !errors.is_empty() {
        parts
            .push(format!("deal with {} first", list(&errors, &|finding| finding.kind.id.into()).join(", ")));
    }
    if !warnings.is_empty() {
        let option = |finding: &Finding| {
            let subject = finding.subject.as_ref().map(|name| format!(":{}", text::escape(name)));
            format!("--accept={}{}", finding.kind.id, subject.unwrap_or_default())
        };
        parts.push(format!(
            "deal with the warnings, or accept them with {}",
            list(&warnings, &option).join(" ")
        ));
    }
    format!("{}.", parts.join("; "))
}

/// Refuses an export that is in use, and says so on standard error, for a conversion and a rollback alike. Whether it does.
pub(super) fn refuses_live(export: &Path, in_use: bool) -> Result<bool> {
    let findings = check::live_findings(export, &live::look(export)?);
    Consent { in_use, ..Consent::default() }.refuses(&of_kind(findings, &finding::LIVE_EXPORT))
}

fn of_kind(mut findings: Vec<Finding>, kind: &Kind) -> Vec<Finding> {
    findings.retain(|finding| finding.kind == kind);
    findings
}

/// Says "run as root" where a conversion or a rollback would fail for want of that.
pub(super) fn ensure_root(what: &str) -> Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "only root can {what}: it changes owners and reads everybody's files. Run the same command as root."
    );
    Ok(())
}

/// Says what is wrong with the arguments.
pub(super) fn wrong_usage(message: &str) -> Outcome {
    complain!("virtfs-proxy-helper: {message}");
    Outcome::Usage
}
