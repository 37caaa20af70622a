//! Where elements go in and out without disturbing the text around them.

use std::ops::Range;

use roxmltree::Node;

use super::arguments::elements;

/// What libvirt writes before a domain's file systems, so that they come behind it.
const BEFORE_FILESYSTEMS: [&str; 4] = ["emulator", "disk", "controller", "lease"];

/// What libvirt writes before `<memoryBacking>`.
const SIZES: [&str; 3] = ["maxMemory", "memory", "currentMemory"];

/// The ranges of text by which the elements at `ranges` go, and with them the lines that they leave empty.
/// Neighbours with nothing but white space between them go in one piece.
pub(super) fn removals(text: &str, mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut runs: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(run) if text.get(run.end..range.start).is_some_and(|gap| gap.trim().is_empty()) => {
                run.end = range.end;
            }
            _ => runs.push(range),
        }
    }
    runs.into_iter().map(|run| with_its_line(text, run)).collect()
}

/// A range with the rest of its lines, where nothing else stands on them.
fn with_its_line(text: &str, range: Range<usize>) -> Range<usize> {
    let before = text.get(..range.start).unwrap_or_default();
    let after = text.get(range.end..).unwrap_or_default();
    let start = before.trim_end_matches([' ', '\t']);
    let blanks_after = after.len() - after.trim_start_matches([' ', '\t']).len();
    let rest = after.get(blanks_after..).unwrap_or_default();
    let newline = ["\r\n", "\n"].into_iter().find(|newline| rest.starts_with(newline));
    let begins_line = start.is_empty() || start.ends_with('\n');
    match newline {
        Some(newline) if begins_line => start.len()..range.end + blanks_after + newline.len(),
        // Behind something else on its line.
        Some(_) => start.len()..range.end,
        None if begins_line => range.start..range.end + blanks_after,
        None => range,
    }
}

/// A place for new elements, and how they are laid out there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// What the new text takes the place of; empty for a mere insertion.
    pub span: Range<usize>,
    pub indent: String,
    pub unit: String,
    pub newline: &'static str,
    /// What goes before and behind the lines of the new elements.
    pub around: (String, String),
}

impl Slot {
    /// The slot for one more `<filesystem>` of a domain: behind its file systems, so that those keep their numbers.
    pub(super) fn of(text: &str, domain: Node) -> Self {
        let style = Style::of(text, domain);
        let Some(devices) = elements(domain, "devices").next() else {
            return style.new_devices(text, domain);
        };
        let filesystems = elements(devices, "filesystem").last();
        let earlier =
            || devices.children().rfind(|node| BEFORE_FILESYSTEMS.contains(&node.tag_name().name()));
        if let Some(anchor) = filesystems.or_else(earlier) {
            return style.behind(text, anchor);
        }
        if let Some(first) = devices.first_element_child() {
            return style.before(text, first);
        }
        style.inside(text, devices)
    }

    /// The slot for one more element at the end of `parent`, which is in `domain`.
    pub(super) fn last_in(text: &str, domain: Node, parent: Node) -> Self {
        let style = Style::of(text, domain);
        match parent.last_element_child() {
            Some(last) => style.behind(text, last),
            None => style.inside(text, parent),
        }
    }

    /// The slot for what says how a domain's memory is made: behind its size, else before the domain's first element.
    pub(super) fn behind_memory(text: &str, domain: Node) -> Self {
        let style = Style::of(text, domain);
        let size = domain.children().rfind(|node| SIZES.contains(&node.tag_name().name()));
        match (size, domain.first_element_child()) {
            (Some(anchor), _) => style.behind(text, anchor),
            (None, Some(first)) => style.before(text, first),
            (None, None) => style.inside(text, domain),
        }
    }
}

/// How a domain's text is laid out.
struct Style {
    newline: &'static str,
    unit: String,
}

impl Style {
    fn of(text: &str, domain: Node) -> Self {
        let own = text.get(domain.range()).unwrap_or_default();
        let newline = match own.find('\n') {
            Some(at) if own.get(..at).is_some_and(|line| line.ends_with('\r')) => "\r\n",
            Some(_) => "\n",
            None => "",
        };
        let child = domain.first_element_child().and_then(|child| indent_of(text, child.range().start));
        let parent = indent_of(text, domain.range().start).unwrap_or_default();
        let unit = child.and_then(|child| child.strip_prefix(parent)).filter(|unit| !unit.is_empty());
        let unit = if newline.is_empty() { "" } else { unit.unwrap_or("  ") };
        Self { newline, unit: unit.to_owned() }
    }

    fn slot(self, span: Range<usize>, indent: &str, before: String, after: String) -> Slot {
        Slot {
            span,
            indent: indent.to_owned(),
            unit: self.unit,
            newline: self.newline,
            around: (before, after),
        }
    }

    /// Behind an element, and behind the comments on its line.
    fn behind(self, text: &str, anchor: Node) -> Slot {
        let at = behind_comments(text, anchor.range().end);
        let Some(indent) = indent_of(text, anchor.range().start) else {
            return Self { newline: "", unit: String::new() }.slot(at..at, "", String::new(), String::new());
        };
        // The lines end with a line's end; the text behind the anchor brings one.
        let newline = self.newline;
        let follows = text.get(at..).unwrap_or_default();
        let blanks = follows.len() - follows.trim_start_matches([' ', '\t']).len();
        let rest = follows.get(blanks..).unwrap_or_default();
        if !newline.is_empty() && rest.starts_with(newline) {
            let at = at + blanks + newline.len();
            return self.slot(at..at, indent, String::new(), String::new());
        }
        self.slot(at..at, indent, newline.to_owned(), indent.to_owned())
    }

    fn before(self, text: &str, first: Node) -> Slot {
        let start = first.range().start;
        match indent_of(text, start) {
            Some(indent) => {
                let at = start - indent.len();
                self.slot(at..at, indent, String::new(), String::new())
            }
            None => {
                Self { newline: "", unit: String::new() }.slot(start..start, "", String::new(), String::new())
            }
        }
    }

    /// Into an element without elements.
    fn inside(self, text: &str, parent: Node) -> Slot {
        let name = parent.tag_name().name();
        let range = parent.range();
        let own = text.get(range.clone()).unwrap_or_default();
        let outer = indent_of(text, range.start).unwrap_or_default().to_owned();
        let indent = format!("{outer}{}", self.unit);
        let newline = self.newline.to_owned();
        if let Some(open) = own.strip_suffix("/>") {
            let start = range.start + open.trim_end().len();
            return self.slot(start..range.end, &indent, format!(">{newline}"), format!("{outer}</{name}>"));
        }
        let end = range.start + own.rfind("</").unwrap_or(own.len());
        // What blanks stand before the end tag are its own.
        let blank = text.get(..end).map_or(end, |before| before.trim_end_matches([' ', '\t']).len());
        if text.get(..blank).is_some_and(|before| before.ends_with('\n')) {
            return self.slot(blank..blank, &indent, String::new(), String::new());
        }
        self.slot(end..end, &indent, newline, outer)
    }

    /// A domain without `<devices>`: they come before its command line.
    fn new_devices(self, text: &str, domain: Node) -> Slot {
        let anchor = super::arguments::commandlines(domain).next().unwrap_or(domain);
        let start = anchor.range().start;
        let Some(outer) = indent_of(text, start).filter(|_| !self.newline.is_empty()) else {
            let (before, after) = ("<devices>".to_owned(), "</devices>".to_owned());
            return Self { newline: "", unit: String::new() }.slot(start..start, "", before, after);
        };
        let at = start - outer.len();
        let newline = self.newline;
        let indent = format!("{outer}{}", self.unit);
        let before = format!("{outer}<devices>{newline}");
        let after = format!("{outer}</devices>{newline}");
        self.slot(at..at, &indent, before, after)
    }
}

/// Behind the comments that follow `at` on its line.
fn behind_comments(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let comment = rest.trim_start_matches([' ', '\t']);
    let line = comment.lines().next().unwrap_or_default();
    match line.find("-->").filter(|_| line.starts_with("<!--")) {
        Some(end) => behind_comments(text, at + rest.len() - comment.len() + end + 3),
        None => at,
    }
}

/// The blanks before `at`, where nothing else stands before it on its line.
fn indent_of(text: &str, at: usize) -> Option<&str> {
    let before = text.get(..at)?;
    let line = before.rfind('\n').map_or(0, |newline| newline + 1);
    let indent = before.get(line..)?;
    indent.chars().all(|c| c == ' ' || c == '\t').then_some(indent)
}
