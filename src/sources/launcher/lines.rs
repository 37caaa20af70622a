//! Lines, with those that a backslash continues.

use std::ops::Range;

/// The bytes of each line with its continuations, but for comments.
pub(super) fn logical_lines(file: &[u8]) -> Vec<Range<usize>> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let start = at;
        loop {
            let rest = file.get(at..).unwrap_or_default();
            let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = rest.get(..length).unwrap_or_default();
            at += length + 1;
            if at >= file.len() || !line.trim_ascii_end().ends_with(b"\\") {
                break;
            }
        }
        let end = at.min(file.len());
        let text = file.get(start..end).unwrap_or_default();
        if !matches!(text.trim_ascii_start().first(), Some(b'#' | b';')) {
            all.push(start..end);
        }
    }
    all
}
