//! The lines of a `-readconfig` file, as QEMU 7.2 reads them.

use std::ops::Range;

/// A file's sections.
#[derive(Debug, Default)]
pub(super) struct Sections {
    pub list: Vec<Section>,
    /// The first line that QEMU refuses.
    pub refused: Option<u64>,
}

/// `[group "id"]` and the lines that belong to it.
#[derive(Debug)]
pub(super) struct Section {
    pub group: Vec<u8>,
    pub id: Option<Vec<u8>>,
    /// The header's line, from 1.
    pub line: u64,
    /// From the header to the end of its last pair.
    pub span: Range<usize>,
    pub pairs: Vec<Pair>,
}

/// `key = "value"`: ranges of the file.
#[derive(Debug)]
pub(super) struct Pair {
    /// With its end.
    pub line: Range<usize>,
    pub key: Range<usize>,
    pub value: Range<usize>,
}

impl Sections {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut sections = Self::default();
        let mut at = 0;
        if bytes.starts_with(b"\xef\xbb\xbf") {
            sections.refused = Some(1);
            at = 3;
        }
        for (number, line) in
            (1..).zip(bytes.get(at..).unwrap_or_default().split_inclusive(|&byte| byte == b'\n'))
        {
            let range = at..at + line.len();
            at = range.end;
            sections.add(number, line, range);
        }
        sections
    }

    fn add(&mut self, number: u64, line: &[u8], range: Range<usize>) {
        // A blank line of Windows is one that QEMU does not take.
        if line == b"\n" || line.starts_with(b"#") {
            return;
        }
        let text = line.trim_ascii();
        if let Some((group, id)) = header(text) {
            if !line.starts_with(b"[") {
                self.refuse(number);
            }
            let span = range.start..range.start + line.trim_ascii_end().len();
            self.list.push(Section { group, id, line: number, span, pairs: Vec::new() });
            return;
        }
        match (pair(line, range.clone()), self.list.last_mut()) {
            (Some((pair, as_wanted)), Some(section)) => {
                section.span.end = pair.value.end + 1;
                section.pairs.push(pair);
                if !as_wanted {
                    self.refuse(number);
                }
            }
            // Whatever it is, QEMU does not take it.
            _ => self.refuse(number),
        }
    }

    fn refuse(&mut self, line: u64) {
        self.refused.get_or_insert(line);
    }
}

/// `[group "id"]`, with blanks where QEMU allows them, and anything behind.
fn header(text: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let inside = text.strip_prefix(b"[")?.trim_ascii_start();
    let end = inside.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b']')?;
    let group = inside.get(..end)?.to_vec();
    let rest = inside.get(end..)?.trim_ascii_start();
    if rest.starts_with(b"]") {
        return Some((group, None));
    }
    let id = rest.strip_prefix(b"\"")?;
    let close = id.iter().position(|&byte| byte == b'"')?;
    Some((group, Some(id.get(..close)?.to_vec())))
}

/// `key = "value"` and whether QEMU takes it so: it wants a blank before the equals sign.
fn pair(line: &[u8], range: Range<usize>) -> Option<(Pair, bool)> {
    let start = line.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let equals = start + line.get(start..)?.iter().position(|&byte| byte == b'=')?;
    let key = line.get(start..equals)?.trim_ascii_end();
    let blanks = line.get(equals + 1..)?.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let open = equals + 1 + blanks;
    if key.is_empty() || key.contains(&b'"') || line.get(open) != Some(&b'"') {
        return None;
    }
    let length = line.get(open + 1..)?.iter().position(|&byte| byte == b'"')?;
    let as_wanted = line.get(equals - 1).is_some_and(u8::is_ascii_whitespace)
        && !key.iter().any(u8::is_ascii_whitespace)
        && line.len() < 1023;
    let at = |from: usize, to: usize| range.start + from..range.start + to;
    let pair = Pair {
        key: at(start, start + key.len()),
        value: at(open + 1, open + 1 + length),
        line: range.clone(),
    };
    Some((pair, as_wanted))
}
