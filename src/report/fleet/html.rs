//! A fleet's report as one page: tables that are complete without its script, which sorts and filters them. Nothing is loaded
//! from anywhere.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::{FleetDocument, FleetShare, HostRow, plural};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Writes the page.
pub fn write(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    write!(
        out,
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Proxy shares</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>Shares over QEMU's proxy backend</h1>
<p>QEMU removed it in 9.2. What is listed here must move to the local backend before that.</p>
</header>
"#
    )?;
    summary(fleet, out)?;
    filters(fleet, out)?;
    shares(fleet, out)?;
    hosts(fleet, out)?;
    findings(fleet, out)?;
    write!(out, "<script>\n{SCRIPT}</script>\n</body>\n</html>\n")
}

fn summary(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let all = &fleet.summary;
    let mut tiles = vec![
        (all.shares, "proxy shares", ""),
        (all.ready, "ready to rewrite", "ready"),
        (all.export_unknown, "export unknown", "export-unknown"),
        (all.by_hand, "by hand", "by-hand"),
        (all.hosts, "hosts", ""),
        (all.proxy, "with proxy setups", "proxy"),
        (all.unread, "not fully read", "unread"),
        (all.failed, "failed", "failed"),
        (all.clean, "clean", "clean"),
    ];
    if let Some(since) = all.since {
        tiles.extend([
            (since.new, "new", "new"),
            (since.unchanged, "unchanged", "unchanged"),
            (since.gone, "gone", "gone"),
            (since.unknown, "not looked at", "unknown"),
        ]);
    }
    writeln!(out, "<ul class=\"tiles\">")?;
    for (number, what, class) in tiles {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        writeln!(out, "<li{class}><b>{number}</b> {what}</li>")?;
    }
    writeln!(out, "</ul>")
}

fn filters(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let mut words: Vec<_> = fleet.shares.iter().map(|share| share.status.word()).collect();
    words.extend(fleet.hosts.iter().map(|host| host.status.word()));
    words.extend(fleet.shares.iter().filter_map(|share| share.change).map(super::Change::word));
    words.sort_unstable();
    words.dedup();
    write!(
        out,
        "<form id=\"filter\" hidden>\n<label>Filter <input type=\"search\" id=\"text\" placeholder=\"host, guest, path …\" \
         autocomplete=\"off\"></label>\n<label>Status <select id=\"status\"><option value=\"\">all</option>"
    )?;
    for word in words {
        write!(out, "<option>{word}</option>")?;
    }
    writeln!(out, "</select></label>\n<output id=\"shown\"></output>\n</form>")
}

/// A column's title, and whether it holds numbers.
type Column = (&'static str, bool);

fn head(id: &str, title: &str, columns: &[Column], out: &mut dyn Write) -> io::Result<()> {
    write!(out, "<section>\n<h2>{title}</h2>\n<div class=\"wide\"><table id=\"{id}\">\n<thead><tr>")?;
    for (title, number) in columns {
        let class = if *number { " class=\"number\"" } else { "" };
        write!(out, "<th scope=\"col\"{class}>{title}</th>")?;
    }
    writeln!(out, "</tr></thead>\n<tbody>")
}

fn shares(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let mut columns: Vec<Column> =
        ["Host", "Owner", "Guest", "Share", "Export", "Where", "Kind", "QEMU", "Status"]
            .map(|title| (title, false))
            .into();
    let compared = fleet.summary.since.is_some();
    if compared {
        columns.push(("Change", false));
    }
    head("shares", "Shares", &columns, out)?;
    for share in &fleet.shares {
        share_row(share, compared, out)?;
    }
    foot(fleet.shares.is_empty(), "No shares over the proxy backend.", out)
}

fn share_row(share: &FleetShare, compared: bool, out: &mut dyn Write) -> io::Result<()> {
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    write!(out, "<tr class=\"{}\">", share.status.word())?;
    for text in [
        &share.host,
        &or_empty(&share.owner),
        &or_empty(&share.guest),
        &share.name().to_owned(),
        &or_empty(&share.export),
        &share.place(),
        &share.kind,
        &or_empty(&share.target_qemu),
    ] {
        write!(out, "<td>{}</td>", escape(text))?;
    }
    state(share.status.word(), out)?;
    if compared {
        state(share.change.map_or("", super::Change::word), out)?;
    }
    writeln!(out, "</tr>")
}

/// A cell by which rows are filtered and coloured.
fn state(word: &str, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "<td class=\"status {word}\">{word}</td>")
}

fn hosts(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let columns = [
        ("Host", false),
        ("Status", false),
        ("Owner", false),
        ("QEMU", false),
        ("Shares", true),
        ("Helpers", true),
        ("Errors", true),
        ("Warnings", true),
        ("Unread", true),
        ("Notes", false),
    ];
    head("hosts", "Hosts", &columns, out)?;
    for host in &fleet.hosts {
        host_row(host, out)?;
    }
    foot(fleet.hosts.is_empty(), "No hosts.", out)
}

fn host_row(host: &HostRow, out: &mut dyn Write) -> io::Result<()> {
    let text = |text: &Option<String>| escape(text.as_deref().unwrap_or_default());
    let notes: Vec<_> = [&host.reason, &host.notes].into_iter().flatten().map(|said| escape(said)).collect();
    let status = host.status.word();
    write!(out, "<tr class=\"{status}\"><td>{}</td>", escape(&host.host))?;
    state(status, out)?;
    write!(out, "<td>{}</td><td>{}</td>", text(&host.owner), text(&host.target_qemu))?;
    for number in [host.shares, host.helpers, host.errors, host.warnings, host.unread] {
        write!(out, "<td class=\"number\">{number}</td>")?;
    }
    writeln!(out, "<td>{}</td></tr>", notes.join("; "))
}

fn findings(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    head(
        "findings",
        "Findings",
        &[("Finding", false), ("Severity", false), ("Count", true), ("Hosts", true)],
        out,
    )?;
    for finding in &fleet.findings {
        let severity = format!("{:?}", finding.severity).to_lowercase();
        write!(out, "<tr class=\"{severity}\"><td>{}</td>", escape(&finding.id))?;
        state(&severity, out)?;
        let (count, hosts) = (finding.count, finding.hosts);
        writeln!(out, "<td class=\"number\">{count}</td><td class=\"number\">{hosts}</td></tr>")?;
    }
    let said = plural(super::count(fleet.findings.iter()), "kind");
    foot(fleet.findings.is_empty(), &format!("{said} of findings."), out)
}

fn foot(empty: bool, nothing: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "</tbody></table></div>")?;
    if empty {
        writeln!(out, "<p>{nothing}</p>")?;
    }
    writeln!(out, "</section>")
}

/// Text as HTML shows it, in an element or in a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Writing to a String does not fail.
            c if c.is_control() => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}
