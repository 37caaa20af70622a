//! What is YAML or JSON but for what other programs take out first: JSON with comments, and Helm's and Ansible's
//! templates. All of it becomes text of the same length, so that every place stays.

use crate::sources::chars::Char;
use crate::sources::lexed::Lexed;

/// JSON without its comments; `None` where there are none.
pub(super) fn without_comments(text: &str) -> Option<String> {
    let first = text.trim_start_matches('\u{feff}').trim_start().bytes().next();
    let json = matches!(first, Some(b'{' | b'[' | b'/')) && text.contains('"');
    changed(text, if json { comments } else { return None })
}

/// YAML without the lines that are a template's, and with text for its values; `None` where there are none.
pub(super) fn without_templates(text: &str) -> Option<String> {
    changed(text, templates)
}

fn changed(text: &str, change: fn(&mut [u8])) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    change(&mut bytes);
    String::from_utf8(bytes).ok().filter(|plain| plain != text)
}

/// Gives what stood for a template its own text again: it is not known, and messages show it as the file has it.
pub(super) fn restore(file: &[u8], lexed: &mut Lexed) {
    let words = lexed.commands.iter_mut().flat_map(|command| &mut command.words);
    let chars = words.flat_map(|word| &mut word.chars);
    for c in chars.filter(|c| !c.known && c.end - c.start == 1) {
        let byte = file.get(c.start as usize).copied().unwrap_or(c.byte);
        *c = Char { byte, ..*c };
    }
}

/// `// …` and `/* … */`, outside strings.
fn comments(bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        match bytes.get(at..).unwrap_or_default() {
            [b'"', ..] => at = string_end(bytes, at),
            // Not `http://x`, which YAML takes without quotes.
            [b'/', b'/', rest @ ..] if at == 0 || bytes.get(at - 1) != Some(&b':') => {
                let end = at + 2 + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                blank(bytes, at, end);
                at = end;
            }
            [b'/', b'*', rest @ ..] => {
                let end = at + 2 + memchr::memmem::find(rest, b"*/").map_or(rest.len(), |length| length + 2);
                blank(bytes, at, end);
                at = end;
            }
            _ => at += 1,
        }
    }
}

/// Where the string ends that opens at `open`.
fn string_end(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    loop {
        match bytes.get(at) {
            None => return at,
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// Lines that are a template's alone, and templates that stand where a value starts.
fn templates(bytes: &mut [u8]) {
    let mut start = 0;
    while start < bytes.len() {
        let rest = bytes.get(start..).unwrap_or_default();
        let end = start + memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = bytes.get(start..end).unwrap_or_default().trim_ascii();
        let directive = [(&b"{{"[..], &b"}}"[..]), (b"{%", b"%}"), (b"{#", b"#}")]
            .iter()
            .any(|(open, close)| line.starts_with(open) && line.ends_with(close));
        if directive {
            blank(bytes, start, end);
        } else {
            values(bytes, start, end);
        }
        start = end + 1;
    }
}

/// `key: {{ … }}` → `key: $( … )`, which is text to YAML and unknown to us.
fn values(bytes: &mut [u8], start: usize, end: usize) {
    let mut at = start;
    while let Some(open) = memchr::memmem::find(bytes.get(at..end).unwrap_or_default(), b"{{") {
        let open = at + open;
        let Some(length) = memchr::memmem::find(bytes.get(open..end).unwrap_or_default(), b"}}") else {
            return;
        };
        let close = open + length;
        let before = bytes.get(start..open).unwrap_or_default().trim_ascii_end().last().copied();
        at = close + 2;
        if !matches!(before, Some(b':' | b'-' | b'[' | b',')) {
            continue;
        }
        for (index, byte) in bytes.iter_mut().enumerate().take(at).skip(open) {
            *byte = match index - open {
                0 => b'$',
                1 => b'(',
                _ if index + 1 == at => b')',
                _ => b'_',
            };
        }
    }
}

fn blank(bytes: &mut [u8], start: usize, end: usize) {
    for byte in bytes.iter_mut().take(end).skip(start) {
        if !matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_templates_become_text_of_the_same_length() {
        for (text, expected) in [
            ("{\"a\": \"//x\" /* ü */, // y\n\"b\": 1}", Some("{\"a\": \"//x\"         ,     \n\"b\": 1}")),
            ("{{- if .x }}\na: {{ .y }}\nb: c{{ .z }}\n", Some("            \na: $(_____)\nb: c{{ .z }}\n")),
            ("- {{ a }}-x\n", Some("- $(____)-x\n")),
            ("{\"a\": 1}", None),
            ("{\"a\": http://x}", None),
            ("a: [\n", None),
        ] {
            let plain = without_comments(text).or_else(|| without_templates(text));
            assert_eq!(plain.as_deref(), expected, "{text}");
            assert!(plain.is_none_or(|plain| plain.len() == text.len()));
        }
    }
}
