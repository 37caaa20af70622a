//! A fleet's report as one page: tables that are complete without its script, which sorts and filters them and shows them in
//! parts. Nothing is loaded from anywhere.
//!
//! Each table is in a `<noscript>`: a browser that runs the script does not lay it out, and the script takes the rows from
//! there. A row is one line, so that the script finds it without parsing.

use std::io::{self, Write};

use super::document::{Change, FleetDocument, FleetShare, HostRow, HostStatus, count};
use crate::report::prometheus::severity;
use crate::text::counted;
use crate::text::markup;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Writes the page.
pub(super) fn write(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
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
<p>QEMU 9.2 removed this backend. Move the shares that are listed here before you install that version.</p>
<p>Report of {}, by virtfs-proxy-helper {}.</p>
</header>
<main>
"#,
        time(&fleet.time),
        markup(&fleet.tool_version)
    )?;
    state_of_fleet(fleet, out)?;
    super::progress::html(fleet, out)?;
    filters(fleet, out)?;
    shares(fleet, out)?;
    hosts(fleet, out)?;
    findings(fleet, out)?;
    write!(out, "</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n")
}

fn time(text: &str) -> String {
    let text = markup(text);
    format!("<time datetime=\"{text}\">{text}</time>")
}

fn state_of_fleet(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "<section aria-labelledby=\"state-title\">\n<h2 id=\"state-title\">State</h2>")?;
    progress(fleet, out)?;
    summary(fleet, out)?;
    writeln!(out, "</section>")
}

/// How far the migration is. A host counts as clean only if nothing is doubtful about its audit.
fn progress(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let all = &fleet.summary;
    let is_clean = |host: &&HostRow| host.status == HostStatus::Clean;
    let doubtful = fleet.hosts.iter().filter(is_clean).filter(|host| !host.remarks.is_empty());
    let doubtful = count(doubtful);
    let unknown = all.unread + all.failed;
    bar(
        "Hosts",
        &[
            (all.clean - doubtful, "clean", "clean"),
            (doubtful, "clean by a doubtful audit", "doubtful"),
            (unknown, "not fully read or failed", "unknown"),
            (all.proxy, "with proxy setups", "proxy"),
        ],
        out,
    )?;
    if let Some(since) = all.since {
        bar(
            "Shares of the earlier round",
            &[
                (since.gone, "gone", "gone"),
                (since.unknown, "not looked at", "unknown"),
                (since.unchanged, "still there", "unchanged"),
            ],
            out,
        )?;
    }
    Ok(())
}

/// A bar of parts with their numbers, for eyes and for readers.
fn bar(what: &str, parts: &[(u64, &str, &str)], out: &mut dyn Write) -> io::Result<()> {
    let all: u64 = parts.iter().map(|part| part.0).sum();
    if all == 0 {
        return Ok(());
    }
    let said: Vec<_> =
        parts.iter().filter(|part| part.0 > 0).map(|(number, said, _)| format!("{number} {said}")).collect();
    let said = format!("{what}: {} of {all}", said.join(", "));
    write!(out, "<figure><div class=\"bar\" role=\"img\" aria-label=\"{said}\">")?;
    for (number, _, class) in parts.iter().filter(|part| part.0 > 0) {
        write!(out, "<span class=\"{class}\" style=\"flex-grow: {number}\"></span>")?;
    }
    writeln!(out, "</div><figcaption>{said}</figcaption></figure>")
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
        (all.doubtful, "with a doubtful audit", "doubtful"),
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
    words.extend(fleet.shares.iter().filter_map(|share| share.change).map(Change::word));
    words.extend(fleet.shares.iter().filter_map(|share| share.severity).map(severity));
    words.extend((fleet.summary.doubtful > 0).then_some("doubtful"));
    words.sort_unstable();
    words.dedup();
    write!(
        out,
        "<form id=\"filter\" role=\"search\" aria-label=\"Filter of the tables\" hidden>\n<label>Filter <input type=\"search\" \
         id=\"text\" placeholder=\"host, guest, path …\" autocomplete=\"off\"></label>\n\
         <label>Status <select id=\"status\"><option value=\"\">all</option>"
    )?;
    for word in words {
        write!(out, "<option>{word}</option>")?;
    }
    writeln!(out, "</select></label>\n<output id=\"shown\"></output>\n</form>")
}

/// A column's title, and whether it holds numbers.
type Column = (&'static str, bool);

fn head(id: &str, title: &str, columns: &[Column], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "<section aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>")?;
    write!(
        out,
        "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-labelledby=\"{id}-title\"><noscript>"
    )?;
    write!(out, "<table id=\"{id}\">\n<thead><tr>")?;
    for (title, number) in columns {
        let class = if *number { " class=\"number\"" } else { "" };
        write!(out, "<th scope=\"col\"{class}>{title}</th>")?;
    }
    writeln!(out, "</tr></thead>\n<tbody>")
}

fn foot(empty: bool, nothing: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "</tbody></table></noscript></div>")?;
    if empty {
        writeln!(out, "<p>{nothing}</p>")?;
    }
    writeln!(out, "</section>")
}

fn shares(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    let mut columns: Vec<Column> =
        ["Host", "Owner", "Guest", "Share", "Export", "Where", "Kind", "QEMU", "Severity", "Status"]
            .map(|title| (title, false))
            .into();
    let compared = fleet.summary.since.is_some();
    if compared {
        columns.push(("Change", false));
    }
    columns.push(("Next command, on the host", false));
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
        write!(out, "<td>{}</td>", markup(text))?;
    }
    state(share.severity.map_or("", severity), out)?;
    state(share.status.word(), out)?;
    if compared {
        state(share.change.map_or("", Change::word), out)?;
    }
    match &share.next {
        Some(command) => write!(out, "<td><code>{}</code></td>", markup(command))?,
        None => write!(out, "<td></td>")?,
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
        ("Audited", false),
        ("Audit", false),
        ("Kernel", false),
        ("Notes", false),
    ];
    head("hosts", "Hosts", &columns, out)?;
    for host in &fleet.hosts {
        host_row(host, out)?;
    }
    foot(fleet.hosts.is_empty(), "No hosts.", out)
}

fn host_row(host: &HostRow, out: &mut dyn Write) -> io::Result<()> {
    let text = |text: &Option<String>| markup(text.as_deref().unwrap_or_default());
    let status = host.status.word();
    write!(out, "<tr class=\"{status}\"><td>{}</td>", markup(&host.host))?;
    state(status, out)?;
    write!(out, "<td>{}</td><td>{}</td>", text(&host.owner), text(&host.target_qemu))?;
    for number in [host.shares, host.helpers, host.errors, host.warnings, host.unread] {
        write!(out, "<td class=\"number\">{number}</td>")?;
    }
    write!(out, "<td>{}</td>", host.origin.time.as_deref().map(time).unwrap_or_default())?;
    state(if host.remarks.is_empty() { "" } else { "doubtful" }, out)?;
    let notes: Vec<_> = notes(host).iter().map(|note| markup(note)).collect();
    writeln!(out, "<td>{}</td><td>{}</td></tr>", text(&host.origin.kernel), notes.join("; "))
}

/// What there is to say of a host in sentences.
fn notes(host: &HostRow) -> Vec<String> {
    let mut notes: Vec<_> = [&host.reason, &host.notes].into_iter().flatten().cloned().collect();
    notes.extend(host.remarks.iter().cloned());
    let origin = &host.origin;
    notes.extend(
        origin.host_name.as_ref().filter(|name| **name != host.host).map(|name| format!("host name {name}")),
    );
    if let Some(before) = &host.before {
        notes.extend(before.time.as_ref().map(|time| format!("earlier audit {time}")));
        let kernel = before.kernel.as_ref().filter(|_| before.kernel != origin.kernel);
        notes.extend(kernel.map(|kernel| format!("kernel {kernel} then")));
    }
    notes
}

fn findings(fleet: &FleetDocument, out: &mut dyn Write) -> io::Result<()> {
    head(
        "findings",
        "Findings",
        &[("Finding", false), ("Severity", false), ("Count", true), ("Hosts", true)],
        out,
    )?;
    for finding in &fleet.findings {
        let severity = severity(finding.severity);
        write!(out, "<tr class=\"{severity}\"><td>{}</td>", markup(&finding.id))?;
        state(severity, out)?;
        let (count, hosts) = (finding.count, finding.hosts);
        writeln!(out, "<td class=\"number\">{count}</td><td class=\"number\">{hosts}</td></tr>")?;
    }
    let said = counted(count(fleet.findings.iter()), "kind");
    foot(fleet.findings.is_empty(), &format!("{said} of findings."), out)
}
