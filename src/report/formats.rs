//! The formats of an audit.

use std::io::{self, Write};

use clap::ValueEnum;

use super::audit::AuditDocument;
use super::{Format, junit, prometheus, sarif, write};

/// How an audit is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// One YAML document: the same fields.
    Yaml,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// JUnit XML, one test a finding, for CI.
    Junit,
    /// Counts for Prometheus, by node_exporter's textfile collector.
    Prometheus,
}

/// Writes an audit in a format.
pub(crate) fn write_audit(
    document: &AuditDocument,
    format: AuditFormat,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        AuditFormat::Text => write(document, Format::Text, out),
        AuditFormat::Json => write(document, Format::Json, out),
        AuditFormat::Yaml => document.yaml(out),
        AuditFormat::Sarif => sarif::write(document, out),
        AuditFormat::Junit => junit::write(document, out),
        AuditFormat::Prometheus => prometheus::write(document, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::audit::tests::document;

    #[test]
    fn json_and_yaml_hold_the_same() {
        let document = document();
        let [json, yaml] = [AuditFormat::Json, AuditFormat::Yaml].map(|format| {
            let mut out = Vec::new();
            write_audit(&document, format, &mut out).unwrap();
            out
        });
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["shares"][0]["file"], "/srv/a.sh");
        assert_eq!(json["summary"]["unread"], 1);
        assert_eq!(crate::yaml::from_slice::<serde_json::Value>(&yaml).unwrap(), json);
        let mut whole = Vec::new();
        write(&document, Format::Yaml, &mut whole).unwrap();
        assert_eq!(String::from_utf8(yaml).unwrap(), String::from_utf8(whole).unwrap());
    }
}
