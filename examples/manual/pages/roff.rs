//! A man page in the making: the few macros of man(7) that the pages need.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Text as roff takes it: no escape sequence, no ligature of hyphens or quotes, no control line.
pub fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    let text = text.replace('~', "\\(ti").replace('^', "\\(ha");
    // A full stop at the beginning of a line is a command.
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// A page.
#[derive(Debug)]
pub struct Page {
    text: String,
    /// Whether a paragraph may begin here: not right behind a heading.
    after_heading: bool,
}

impl Page {
    /// Begins a page. The date is that of SOURCE_DATE_EPOCH, or today.
    pub fn new(name: &str, section: &str, source: &str, manual: &str) -> Self {
        let title = escape(&name.to_uppercase());
        let text = format!(".TH \"{title}\" \"{section}\" \"{}\" \"{source}\" \"{manual}\"\n", date());
        Self { text, after_heading: true }
    }

    /// The whole page.
    pub fn end(self) -> String {
        self.text
    }

    /// A section.
    pub fn heading(&mut self, name: &str) {
        let _ = writeln!(self.text, ".SH \"{}\"", escape(name));
        self.after_heading = true;
    }

    /// One line that is roff already.
    pub fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{line}");
        self.after_heading = false;
    }

    /// Plain text of one paragraph.
    pub fn text(&mut self, text: &str) {
        self.line(&escape(text));
    }

    /// A paragraph of its own.
    pub fn paragraph(&mut self, text: &str) {
        self.break_paragraph();
        self.text(text);
    }

    /// Ends a paragraph.
    pub fn break_paragraph(&mut self) {
        if !self.after_heading {
            self.line(".PP");
        }
    }

    /// A term, which is roff already, and its text.
    pub fn item(&mut self, term: &str, text: &str) {
        self.raw_item(term, &escape(text));
    }

    /// A term and its text, both roff already.
    pub fn raw_item(&mut self, term: &str, text: &str) {
        self.line(".TP");
        self.line(term);
        self.line(if text.is_empty() { "\\&" } else { text });
    }

    /// What belongs to the item before.
    pub fn indented(&mut self, inner: impl FnOnce(&mut Self)) {
        self.line(".RS");
        inner(self);
        self.line(".RE");
    }

    /// Lines as they are.
    pub fn code(&mut self, lines: &[&str]) {
        self.break_paragraph();
        self.line(".RS 4\n.nf");
        for line in lines {
            if line.is_empty() {
                self.line(".sp");
            } else {
                self.text(line);
            }
        }
        self.line(".fi\n.RE");
    }

    /// Other pages.
    pub fn references(&mut self, pages: &[(String, String)]) {
        for (at, (page, section)) in pages.iter().enumerate() {
            let comma = if at + 1 < pages.len() { "," } else { "" };
            self.line(&format!(".BR {} ({section}){comma}", escape(page)));
        }
    }
}

/// The day of SOURCE_DATE_EPOCH, or today, as YYYY-MM-DD.
fn date() -> String {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    day(epoch.unwrap_or_else(now) / 86_400)
}

/// The date of a day, counted from 1970-01-01, in the Gregorian calendar.
fn day(mut days: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    format!("{year:04}-{:02}-{:02}", month + 1, days + 1)
}
