//! An audit as SARIF 2.1.0, the format of code scanning.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::audit::AuditDocument;
use super::finding::{KINDS, Severity};
use super::rows::FindingRow;
use crate::text::unescape;

/// Writes it. A file is named by its absolute URI; a finding of standard input or of the host itself has no file.
pub fn write(document: &AuditDocument, out: &mut dyn Write) -> io::Result<()> {
    let mut ids: Vec<&str> = document.findings.iter().map(|finding| finding.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let results: Vec<_> = document.findings.iter().map(|finding| result(finding, &ids)).collect();
    let mut invocation = json!({"executionSuccessful": true, "exitCode": document.outcome().code()});
    for (key, value) in [("startTimeUtc", &document.origin.time), ("machine", &document.origin.host_name)] {
        if let Some(value) = value {
            invocation[key] = json!(value);
        }
    }
    let log = json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": env!("CARGO_PKG_NAME"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": ids.iter().map(|id| rule(id)).collect::<Vec<_>>(),
            }},
            "invocations": [invocation],
            "columnKind": "utf16CodeUnits",
            "results": results,
            "properties": {"targetQemu": document.target_qemu, "kernel": document.origin.kernel, "summary": document.summary},
        }],
    });
    serde_json::to_writer_pretty(&mut *out, &log)?;
    out.write_all(b"\n")
}

fn rule(id: &str) -> Value {
    let Some(kind) = KINDS.iter().find(|kind| kind.id == id) else { return json!({"id": id}) };
    json!({
        "id": id,
        "shortDescription": {"text": kind.about.trim()},
        "fullDescription": {"text": kind.about.trim()},
        "help": {"text": kind.remedy},
        "defaultConfiguration": {"level": level(kind.severity)},
    })
}

fn result(finding: &FindingRow, ids: &[&str]) -> Value {
    let mut result = json!({
        "ruleId": finding.id,
        "ruleIndex": ids.binary_search(&finding.id.as_str()).unwrap_or_default(),
        "level": level(finding.severity),
        "message": {"text": format!("{}. {}", finding.message, finding.remedy)},
        "partialFingerprints": {"finding/v1": fingerprint(finding)},
    });
    if let Some(location) = location(finding) {
        result["locations"] = json!([location]);
    }
    result
}

fn location(finding: &FindingRow) -> Option<Value> {
    let mut physical = if let Some(file) = &finding.file {
        json!({"artifactLocation": {"uri": uri(file)}})
    } else {
        // Standard input has no name; a finding of the host itself has no line either.
        finding.line?;
        json!({"artifactLocation": {"uri": "-", "description": {"text": "standard input"}}})
    };
    if let Some(line) = finding.line {
        physical["region"] = json!({"startLine": line.max(1)});
    }
    Some(json!({"physicalLocation": physical}))
}

/// What a finding is known by in the next audit: all but its line, which moves when the file is edited.
fn fingerprint(finding: &FindingRow) -> String {
    let file = finding.file.as_deref().unwrap_or_default();
    let text = [finding.id.as_str(), file, finding.message.as_str()].join("\0");
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

/// The `file` URI of a path as a document holds it: its bytes, with those that a URI can't hold percent-encoded.
fn uri(path: &str) -> String {
    let bytes = unescape(path);
    let mut out = String::from(if bytes.starts_with(b"/") { "file://" } else { "" });
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_holds_every_byte() {
        for (path, expected) in [
            ("/etc/a b.xml", "file:///etc/a%20b.xml"),
            (r"/srv/\xff\\x", "file:///srv/%FF%5Cx"),
            ("/srv/ü%", "file:///srv/%C3%BC%25"),
        ] {
            assert_eq!(uri(path), expected);
        }
    }
}
