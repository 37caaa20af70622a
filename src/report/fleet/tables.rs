//! A fleet's report as tables: CSV for a spreadsheet, Markdown for an issue.

use std::borrow::Cow;
use std::io::{self, Write};

use super::document::{Change, FleetDocument, FleetShare, HostRow};
use crate::report::fleet::options::By;
use crate::report::prometheus::severity;
use crate::text::counted;

/// How many columns the CSV has.
const WIDTH: usize = 25;

/// The columns of the CSV, for hosts and shares alike.
const COLUMNS: [&str; WIDTH] = [
    "host",
    "owner",
    "host_status",
    "reason",
    "target_qemu",
    "status",
    "change",
    "guest",
    "mount_tag",
    "fsdev",
    "export",
    "socket",
    "readonly",
    "file",
    "line",
    "kind",
    "notes",
    "host_notes",
    "severity",
    "next",
    "audit_time",
    "host_name",
    "tool_version",
    "kernel",
    "remarks",
];

/// Writes one record a share, and one for each host without any, so that no host is missing.
pub(super) fn csv(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    record(&COLUMNS.map(Cow::from), out)?;
    for host in &fleet.hosts {
        let mut alone = true;
        for share in fleet.shares_of(host) {
            alone = false;
            record(&cells(host, Some(share)), out)?;
        }
        if alone {
            record(&cells(host, None), out)?;
        }
    }
    Ok(())
}

fn cells<'a>(host: &'a HostRow, share: Option<&'a FleetShare>) -> [Cow<'a, str>; WIDTH] {
    let of_host = |text: &'a Option<String>| Cow::from(text.as_deref().unwrap_or_default());
    let of_share = |text: fn(&FleetShare) -> &Option<String>| {
        Cow::from(share.and_then(|share| text(share).as_deref()).unwrap_or_default())
    };
    [
        Cow::from(&host.host),
        of_host(&host.owner),
        host.status.word().into(),
        of_host(&host.reason),
        of_host(&host.target_qemu),
        share.map_or("", |share| share.status.word()).into(),
        share.and_then(|share| share.change).map_or("", Change::word).into(),
        of_share(|share| &share.guest),
        of_share(|share| &share.mount_tag),
        of_share(|share| &share.fsdev),
        of_share(|share| &share.export),
        of_share(|share| &share.socket),
        share.map_or(String::new(), |share| share.readonly.to_string()).into(),
        of_share(|share| &share.file),
        share.and_then(|share| share.line).map_or(String::new(), |line| line.to_string()).into(),
        share.map_or("", |share| &share.kind).into(),
        share.map_or(String::new(), |share| share.notes.join(" ")).into(),
        of_host(&host.notes),
        share.and_then(|share| share.severity).map_or("", severity).into(),
        of_share(|share| &share.next),
        of_host(&host.origin.time),
        of_host(&host.origin.host_name),
        of_host(&host.origin.tool_version),
        of_host(&host.origin.kernel),
        host.remarks.join("; ").into(),
    ]
}

/// Writes a record by RFC 4180. A cell that a spreadsheet would take for a formula gets an apostrophe: names come from
/// guests.
fn record(cells: &[Cow<'_, str>; WIDTH], out: &mut dyn Write) -> io::Result<()> {
    for (number, cell) in cells.iter().enumerate() {
        if number > 0 {
            out.write_all(b",")?;
        }
        let guard = if is_formula(cell) { "'" } else { "" };
        if cell.contains([',', '"', '\n', '\r']) {
            write!(out, "\"{guard}{}\"", cell.replace('"', "\"\""))?;
        } else {
            write!(out, "{guard}{cell}")?;
        }
    }
    out.write_all(b"\r\n")
}

/// Whether a spreadsheet may take a cell for a formula: it passes over spaces, and takes the full-width signs of East Asian
/// keyboards and the typographic minus for the plain ones.
fn is_formula(cell: &str) -> bool {
    const SIGNS: &[char] = &[
        '=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\u{fe66}', '\u{fe62}',
        '\u{fe63}', '\u{fe6b}', '\u{2212}',
    ];
    let ignored = |c: char| {
        c.is_whitespace() || c.is_control() || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
    };
    cell.trim_start_matches(ignored).starts_with(SIGNS)
}

/// Writes the counts, a table of the hosts, and one of the shares for each of what they are put together by.
pub(super) fn markdown(fleet: &FleetDocument, by: By, out: &mut dyn Write) -> io::Result<()> {
    let all = &fleet.summary;
    writeln!(out, "# Proxy shares\n")?;
    writeln!(
        out,
        "{} on {}: {} ready, {} with an unknown export, {} by hand.",
        counted(all.shares, "proxy share"),
        counted(all.hosts, "host"),
        all.ready,
        all.export_unknown,
        all.by_hand
    )?;
    writeln!(
        out,
        "Hosts: {} with proxy setups, {} not fully read, {} failed, {} clean.",
        all.proxy, all.unread, all.failed, all.clean
    )?;
    writeln!(out, "Made {}.", fleet.time)?;
    if let Some(since) = all.since {
        writeln!(
            out,
            "Since then: {} new, {} unchanged, {} gone, {} unknown.",
            since.new, since.unchanged, since.gone, since.unknown
        )?;
    }
    row(
        &[
            "\n## Hosts\n\n| Host",
            "Status",
            "Owner",
            "QEMU",
            "Shares",
            "Helpers",
            "Unread",
            "Audited",
            "Notes",
        ],
        out,
    )?;
    writeln!(out, "|---|---|---|---|---:|---:|---:|---|---|")?;
    for host in &fleet.hosts {
        let text = |text: &Option<String>| cell(text.as_deref().unwrap_or_default());
        let said = [&host.reason, &host.notes].into_iter().flatten().chain(&host.remarks);
        let notes: Vec<_> = said.map(|said| cell(said)).collect();
        row(
            &[
                &format!("| {}", cell(&host.host)),
                host.status.word(),
                &text(&host.owner),
                &text(&host.target_qemu),
                &host.shares.to_string(),
                &host.helpers.to_string(),
                &host.unread.to_string(),
                &text(&host.origin.time),
                &notes.join("; "),
            ],
            out,
        )?;
    }
    for (key, shares) in fleet.groups(by) {
        writeln!(out, "\n## {}\n", cell(&key))?;
        row(&["| Host", "Guest", "Share", "Export", "Where", "Status", "Severity", "Change"], out)?;
        writeln!(out, "|---|---|---|---|---|---|---|---|")?;
        for share in shares {
            row(
                &[
                    &format!("| {}", cell(&share.host)),
                    &cell(share.guest.as_deref().unwrap_or_default()),
                    &cell(share.name()),
                    &cell(share.export.as_deref().unwrap_or("unknown")),
                    &cell(&share.place()),
                    share.status.word(),
                    share.severity.map_or("", severity),
                    share.change.map_or("", Change::word),
                ],
                out,
            )?;
        }
    }
    Ok(())
}

/// Writes cells; the first brings its own bar.
fn row(cells: &[&str], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{} |", cells.join(" | "))
}

/// Text that is nothing but text in Markdown.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '#' | '~' | '!' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_a_cell_whatever_is_in_it() {
        let mut out = Vec::new();
        let mut cells = [const { Cow::Borrowed("") }; WIDTH];
        cells[0] = "=HYPERLINK(\"x\")".into();
        cells[1] = "a,b".into();
        cells[2] = "-1".into();
        record(&cells, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, format!("\"'=HYPERLINK(\"\"x\"\")\",\"a,b\",'-1{}\r\n", ",".repeat(WIDTH - 3)));
        for formula in
            ["＝1+1", "＋1", "－1", "＠SUM(1)", "﹦1", "−1", " =1", "\u{3000}＝1", "\u{200b}=1", "\t=1"]
        {
            assert!(is_formula(formula), "{formula:?}");
        }
        for text in ["a=1", "/srv/=x", "", "'=1", "virtio-9p"] {
            assert!(!is_formula(text), "{text:?}");
        }
        assert_eq!(cell("a|b<script>`x`"), r"a\|b&lt;script>\`x\`");
    }
}
