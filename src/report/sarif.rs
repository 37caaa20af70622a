//! An audit as SARIF 2.1.0, the format of code scanning.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use serde::ser::{Error as _, SerializeSeq as _, Serializer};
use serde_json::{Value, json};

use super::audit::AuditDocument;
use super::finding::{KINDS, Severity};
use super::rows::FindingRow;
use super::spool::Rows;
use crate::text::unescape;

/// Writes it. A file is named by its absolute URI; a finding of standard input or of the host itself has no file.
pub(super) fn write(document: &AuditDocument, out: &mut dyn Write) -> io::Result<()> {
    let mut ids = BTreeSet::new();
    for finding in document.findings.iter() {
        ids.insert(finding?.id);
    }
    let ids: Vec<String> = ids.into_iter().collect();
    let mut invocation = json!({"executionSuccessful": true, "exitCode": document.outcome().code()});
    for (key, value) in [("startTimeUtc", &document.origin.time), ("machine", &document.origin.host_name)] {
        if let Some(value) = value {
            invocation[key] = json!(value);
        }
    }
    let run = Run {
        column_kind: "utf16CodeUnits",
        invocations: json!([invocation]),
        properties: json!({
            "targetQemu": document.target_qemu,
            "kernel": document.origin.kernel,
            "summary": document.summary,
        }),
        results: Results { findings: &document.findings, ids: &ids },
        tool: json!({"driver": {
            "name": env!("CARGO_PKG_NAME"),
            "semanticVersion": env!("CARGO_PKG_VERSION"),
            "rules": ids.iter().map(|id| rule(id)).collect::<Vec<_>>(),
        }}),
    };
    let log = Log {
        schema: "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        runs: [run],
        version: "2.1.0",
    };
    serde_json::to_writer_pretty(&mut *out, &log)?;
    out.write_all(b"\n")
}

/// The whole of it.
#[derive(Serialize)]
struct Log<'a> {
    #[serde(rename = "$schema")]
    schema: &'a str,
    runs: [Run<'a>; 1],
    version: &'a str,
}

/// One audit.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run<'a> {
    column_kind: &'a str,
    invocations: Value,
    properties: Value,
    results: Results<'a>,
    tool: Value,
}

/// The findings, made one after the other: together they would take much more memory than they do as rows.
struct Results<'a> {
    findings: &'a Rows<FindingRow>,
    ids: &'a [String],
}

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.findings.len()))?;
        for finding in self.findings.iter() {
            list.serialize_element(&result(&finding.map_err(S::Error::custom)?, self.ids))?;
        }
        list.end()
    }
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

fn result(finding: &FindingRow, ids: &[String]) -> Value {
    let mut result = json!({
        "ruleId": finding.id,
        "ruleIndex": ids.binary_search(&finding.id).unwrap_or_default(),
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
