//! Markdown as the README uses it: paragraphs, lists, tables and fenced blocks.

use super::roff::{Page, escape};

const README: &str = include_str!("../../../README.md");

/// The text of one of the README's sections.
fn body(name: &str) -> &'static str {
    let heading = format!("\n## {name}\n");
    let start = README.find(&heading).map_or(README.len(), |at| at + heading.len());
    let rest = &README[start..];
    rest.split("\n## ").next().unwrap_or(rest)
}

/// A section of the README, without its first `skipped` tables.
pub fn section(page: &mut Page, name: &str, skipped: usize) {
    let mut tables = 0;
    let mut lines = body(name).lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let code: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            page.code(&code);
        } else if line.starts_with('|') {
            let mut rows = vec![line];
            while let Some(row) = lines.next_if(|next| next.starts_with('|')) {
                rows.push(row);
            }
            tables += 1;
            if tables > skipped {
                table(page, &rows);
            }
        } else if !line.is_empty() {
            let mut paragraph = line.trim_start_matches("- ").to_owned();
            while let Some(more) = lines.next_if(|next| continues(next)) {
                paragraph = format!("{paragraph} {}", more.trim_start());
            }
            if line.starts_with("- ") {
                page.line(".IP \\(bu 2");
            } else {
                page.break_paragraph();
            }
            page.line(&inline(&paragraph));
        }
    }
}

fn continues(line: &str) -> bool {
    !line.is_empty() && !line.starts_with(['|', '`', '#']) && !line.starts_with("- ")
        || line.starts_with('`') && !line.starts_with("```")
}

/// Each row below the head as an item: the first cell, and what the others say of it.
fn table(page: &mut Page, rows: &[&str]) {
    for row in rows.iter().skip(2) {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let term = cells.next().unwrap_or_default().replace('`', "");
        let rest: Vec<&str> = cells.collect();
        page.raw_item(&format!("\\fB{}\\fR", escape(&term)), &inline(&rest.join("; ")));
    }
}

/// Code in bold, emphasis plain, and of links the text: files of the repository are not beside a page.
fn inline(text: &str) -> String {
    let mut roff = String::new();
    for (number, part) in links(text).split('`').enumerate() {
        let part = if number % 2 == 0 { part.replace("**", "") } else { part.to_owned() };
        let part = escape(&part);
        let (before, after) = if number % 2 == 0 { ("", "") } else { ("\\fB", "\\fR") };
        roff.extend([before, &part, after]);
    }
    if roff.starts_with('.') { format!("\\&{roff}") } else { roff }
}

fn links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, label, after)) = link(rest) {
        plain.push_str(before);
        plain.push_str(label);
        rest = after;
    }
    plain + rest
}

/// The first link of a text: what stands before it, its label and what comes after it.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let middle = text.find("](")?;
    let start = text[..middle].rfind('[')?;
    let end = middle + text[middle..].find(')')?;
    Some((&text[..start], &text[start + 1..middle], &text[end + 1..]))
}
