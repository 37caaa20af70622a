//! Bytes of any origin → text that is safe on a terminal and in a report.
//!
//! File names, configuration files and sockets carry any byte. [`escape`] is the one way from such bytes to text
//! that people see: it is reversible, and no control character passes it raw. [`markup`] is the one way into XML and HTML.

pub(crate) mod packed;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Makes `bytes` printable: valid UTF-8 without control characters passes unchanged; a control character, a
/// byte that is not UTF-8 and a character that changes the direction of text become `\xNN` (each byte of it),
/// and a backslash is doubled. [`unescape`] takes it back.
pub(crate) fn escape(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.chars().any(needs_escape)
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                out.push_str(r"\\");
            } else if needs_escape(c) {
                push_hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                out.push(c);
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    Cow::Owned(out)
}

/// Text that [`escape`] has been over, on another machine perhaps: what could still harm a terminal is escaped, and the
/// escapes that are there stay as they are.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let harms = |c: char| c != '\\' && needs_escape(c);
    if !text.chars().any(harms) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harms(c) {
            push_hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// [`escape`] for a path.
pub(crate) fn escape_path(path: &Path) -> Cow<'_, str> {
    escape(path.as_os_str().as_bytes())
}

/// [`escape`] for a string of the operating system's.
pub(crate) fn escape_os(text: &OsStr) -> Cow<'_, str> {
    escape(text.as_bytes())
}

/// Takes [`escape`] back. Text that `escape` does not make (a lone backslash, say) stands for itself.
pub fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = bytes.get(at + 1..).unwrap_or_default();
        match rest {
            [b'\\', ..] if byte == b'\\' => {
                out.push(b'\\');
                at += 2;
            }
            [b'x', high, low, ..] if byte == b'\\' => {
                let digits = char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16));
                if let Some((high, low)) = digits {
                    out.push(u8::try_from(high * 16 + low).unwrap_or(0));
                    at += 4;
                } else {
                    out.push(byte);
                    at += 1;
                }
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Text as XML and HTML hold it, in an element or between either kind of quotes. A line break or a tab stays one, also in an
/// attribute. A character that no markup can hold becomes U+FFFD.
pub(crate) fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' | '\u{7f}'..='\u{9f}' => {
                // Writing to a String does not fail.
                let _ = write!(out, "&#{};", u32::from(c));
            }
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A word as a POSIX shell takes it: as it is where nothing in it means something to a shell, else quoted.
pub(crate) fn shell_word(bytes: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/.,:=@%+-_".contains(byte) || *byte >= 0x80;
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return bytes.to_vec();
    }
    let mut out = vec![b'\''];
    for &byte in bytes {
        if byte == b'\'' {
            out.extend_from_slice(br"'\''");
        } else {
            out.push(byte);
        }
    }
    out.push(b'\'');
    out
}

/// Whether `c` could change what a reader sees of the text around it: control characters, a backslash (it
/// would be ambiguous), and Unicode's direction marks and line separators.
fn needs_escape(c: char) -> bool {
    c == '\\'
        || c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// So many of something: `1 entry`, `2 entries`, `2 days`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let stem = noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u']));
    match (count, stem) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nouns_go_with_their_numbers() {
        for (count, noun, text) in [
            (0, "entry", "0 entries"),
            (1, "entry", "1 entry"),
            (1, "file", "1 file"),
            (2, "file", "2 files"),
            (2, "day", "2 days"),
        ] {
            assert_eq!(counted(count, noun), text);
        }
    }

    #[test]
    fn text_is_spelt_for_its_readers() {
        assert_eq!(escape(b"/srv/caf\xc3\xa9"), "/srv/café");
        assert_eq!(escape(b"a\x1b[2Jb\xff"), r"a\x1b[2Jb\xff");
        assert_eq!(markup("a<b> & 'c'\n"), "a&lt;b&gt; &amp; &apos;c&apos;&#10;");
        assert_eq!(shell_word(b"/srv/a,b"), b"/srv/a,b");
        assert_eq!(shell_word(b"it's"), br"'it'\''s'");
    }

    #[test]
    fn control_characters_and_direction_marks_are_escaped() {
        for (raw, shown) in [
            (&b"plain"[..], "plain"),
            (b"tab\there", r"tab\x09here"),
            (b"line\nbreak", r"line\x0abreak"),
            (b"back\\slash", r"back\\slash"),
            ("rtl\u{202e}x".as_bytes(), r"rtl\xe2\x80\xaex"),
            (b"\xc3", r"\xc3"),
            ("c1\u{9b}".as_bytes(), r"c1\xc2\x9b"),
        ] {
            assert_eq!(escape(raw), shown);
        }
    }

    #[test]
    fn escapes_that_are_there_stay() {
        assert_eq!(printable(r"a\\b\xff c"), r"a\\b\xff c");
        assert_eq!(printable("a\x1b[2J\\x1b"), r"a\x1b[2J\x1b");
    }

    proptest! {
        #[test]
        fn unescape_takes_escape_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(unescape(&escape(&bytes)), bytes);
        }

        #[test]
        fn xml_reads_markup_back(text in any::<String>()) {
            let held = |c: char| c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}') || "\t\n\r".contains(c);
            let expected: String = text.chars().map(|c| if held(c) { c } else { '\u{fffd}' }).collect();
            for document in [format!("<a b='{}'/>", markup(&text)), format!("<a b=\"{}\"/>", markup(&text))] {
                let read = roxmltree::Document::parse(&document).unwrap();
                prop_assert_eq!(read.root_element().attribute("b"), Some(expected.as_str()));
            }
            let document = format!("<a>{}</a>", markup(&text));
            let read = roxmltree::Document::parse(&document).unwrap();
            prop_assert_eq!(read.root_element().text().unwrap_or_default(), expected);
        }

        #[test]
        fn nothing_raw_passes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(!escape(&bytes).chars().any(char::is_control));
        }
    }
}
