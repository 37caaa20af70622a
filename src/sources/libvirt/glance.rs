//! A glance at XML: most files hold nothing of ours, and parsing them into a tree would be most of an audit's time.

use std::ops::Range;

/// More than any start tag of libvirt's has, in bytes.
const MOST_ATTRIBUTES: usize = 4096;

/// Whether `text` is whole and can't hold a proxy share. `false` says nothing: parse it.
///
/// Every proxy share spells the driver's name. It could only be hidden by a character reference or an entity, so
/// that a text with either is parsed, as is one with a document type or a CDATA section. What could still be wrong
/// with a text is that a part of it is missing: its elements must be closed, each by its own name.
pub(super) fn holds_nothing(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"proxy").is_none() && is_whole(text)
}

/// How often the documents of a text are looked for again behind one that is broken.
const MOST_BROKEN: usize = 64;

/// Where each document of a text begins and ends, where several follow each other. A broken one ends where the next one seems to
/// begin: at the start of a line.
pub(super) fn documents(text: &[u8]) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    let mut from = 0;
    for round in 0..=MOST_BROKEN {
        let rest = text.get(from..).unwrap_or_default();
        let (whole, end) = whole_documents(rest);
        all.extend(whole.into_iter().map(|part| from + part.start..from + part.end));
        let tail = rest.get(end..).unwrap_or_default();
        let behind = without_prolog(tail);
        let is_over = behind.is_empty();
        // What follows the last one belongs to it, if it is nothing but comments and blanks.
        if let Some(last) = all.last_mut().filter(|_| is_over) {
            last.end = text.len();
        }
        if is_over {
            break;
        }
        let blanks = tail.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let start = from + end + blanks;
        let next = next_beginning(tail.get(blanks..).unwrap_or_default());
        let Some(next) = next.filter(|_| round < MOST_BROKEN && !behind.starts_with(b"<!")) else {
            all.push(start..text.len());
            break;
        };
        all.push(start..start + next);
        from = start + next;
    }
    all
}

/// A text behind the comments, instructions and blanks that it begins with.
fn without_prolog(text: &[u8]) -> &[u8] {
    let mut rest = text.trim_ascii_start();
    let skipped = [(&b"<!--"[..], &b"-->"[..]), (b"<?", b"?>")];
    while let Some((_, end)) = skipped.iter().find(|(begin, _)| rest.starts_with(begin)) {
        let Some(length) = memchr::memmem::find(rest, end) else { return rest };
        rest = rest.get(length + end.len()..).unwrap_or_default().trim_ascii_start();
    }
    rest
}

/// Where behind its first line a text has the beginning of one of libvirt's documents.
fn next_beginning(text: &[u8]) -> Option<usize> {
    let is_one = |line: &[u8]| line.starts_with(b"<domain") || line.starts_with(b"<?xml");
    memchr::memchr_iter(b'\n', text).map(|at| at + 1).find(|at| text.get(*at..).is_some_and(is_one))
}

/// The documents that are whole at the beginning of a text, and where the last of them ends.
fn whole_documents(text: &[u8]) -> (Vec<Range<usize>>, usize) {
    let mut all: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    let mut end = 0;
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(open) = text.get(at..).and_then(|rest| memchr::memchr(b'<', rest)) {
        let markup = at + open;
        let rest = text.get(markup..).unwrap_or_default();
        let skipped = [(&b"<!--"[..], &b"-->"[..]), (b"<![CDATA[", b"]]>"), (b"<?", b"?>"), (b"</", b">")];
        if let Some((begin, close)) = skipped.iter().find(|(begin, _)| rest.starts_with(begin)) {
            let Some(length) = memchr::memmem::find(rest, close) else { break };
            at = markup + length + close.len();
            if *begin != b"</" {
                continue;
            }
            depth = depth.saturating_sub(1);
        } else {
            let Some(tail) = rest.get(1..).filter(|tail| tail.first() != Some(&b'!')) else { break };
            let Some((length, empty)) = tag_end(tail) else { break };
            at = markup + 1 + length;
            depth += usize::from(!empty);
        }
        if depth == 0 {
            all.push(start..at);
            end = at;
            let gap = text.get(at..).unwrap_or_default();
            start = at + gap.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        }
    }
    (all, end)
}

/// Where a start tag ends, and whether its element is empty.
fn tag_end(tail: &[u8]) -> Option<(usize, bool)> {
    let mut quote = None;
    for (at, &byte) in tail.iter().enumerate() {
        match quote {
            Some(open) if open == byte => quote = None,
            None if matches!(byte, b'"' | b'\'') => quote = Some(byte),
            None if byte == b'>' => {
                return Some((at + 1, at.checked_sub(1).and_then(|at| tail.get(at)) == Some(&b'/')));
            }
            _ => {}
        }
    }
    None
}

/// Whether every element is closed, and nothing stands in the text that takes more than that to understand.
fn is_whole(text: &[u8]) -> bool {
    let mut open: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    let mut roots = 0;
    for markup in memchr::memchr2_iter(b'<', b'&', text) {
        if markup < at {
            continue;
        }
        let Some(rest) = text.get(markup..) else { return false };
        let length = match rest {
            [b'&', ..] => predefined(rest),
            [b'<', b'/', tail @ ..] => open.pop().and_then(|name| end_tag(tail, name)).map(|end| end + 2),
            [b'<', b'!', b'-', b'-', tail @ ..] => memchr::memmem::find(tail, b"-->").map(|end| end + 7),
            [b'<', b'?', tail @ ..] => memchr::memmem::find(tail, b"?>").map(|end| end + 4),
            [_, tail @ ..] if tail.first() != Some(&b'!') => start_tag(tail).map(|(end, name, empty)| {
                roots += usize::from(open.is_empty());
                if !empty {
                    open.push(name);
                }
                end + 1
            }),
            _ => None,
        };
        let Some(length) = length else { return false };
        at = markup + length;
    }
    open.is_empty() && roots == 1
}

/// How long the reference to a predefined entity is that `text` starts with.
fn predefined(text: &[u8]) -> Option<usize> {
    let names = [&b"&amp;"[..], b"&lt;", b"&gt;", b"&quot;", b"&apos;"];
    names.iter().find(|name| text.starts_with(name)).map(|name| name.len())
}

/// The end of an end tag of the element `name`.
fn end_tag(tail: &[u8], name: &[u8]) -> Option<usize> {
    let behind = tail.strip_prefix(name)?;
    let blanks = behind.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    (behind.get(blanks) == Some(&b'>')).then_some(name.len() + blanks + 1)
}

/// The end of a start tag's name, that name, and whether the element is empty. What stands in its attributes is for the
/// caller to go on with: an ampersand there may hide a name, and a `<` is none of XML's.
fn start_tag(tail: &[u8]) -> Option<(usize, &[u8], bool)> {
    let length = tail.iter().position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/'))?;
    let name = tail.get(..length).filter(|name| !name.is_empty())?;
    let mut end = length;
    loop {
        // A `>` inside a value leaves a quote open.
        end += memchr::memchr(b'>', tail.get(end..)?)?;
        let attributes = tail.get(length..end)?;
        let count = |quote: u8| memchr::memchr_iter(quote, attributes).count();
        if count(b'"') % 2 == 0 && count(b'\'') % 2 == 0 {
            return Some((length, name, attributes.last() == Some(&b'/')));
        }
        if end - length > MOST_ATTRIBUTES {
            return None;
        }
        end += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_without_the_driver_hold_nothing() {
        for text in [
            "<domain/>",
            "<?xml version='1.0'?>\n<!-- a > b & c -->\n<domain a='x>y'><name>a &amp; b</name></domain>\n",
            "<a:domain b = 'a &gt; b' ><c  /></a:domain >",
        ] {
            assert!(holds_nothing(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn all_else_is_parsed() {
        for text in [
            "",
            "text",
            "<domain>",
            "<domain><name></domain>",
            "<domain><a></b></domain>",
            "<domain a='",
            "<domain a='x",
            "<domain>proxy</domain>",
            "<domain a='pro&#120;y'/>",
            "<domain>pro&#120;y</domain>",
            "<domain>&other;</domain>",
            "<!DOCTYPE x><domain/>",
            "<domain><![CDATA[x]]></domain>",
            "<domain/><domain/>",
            "<!-- <domain/>",
        ] {
            assert!(!holds_nothing(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn documents_in_a_row_are_told_apart() {
        for (text, expected) in [
            ("<a/>", vec!["<a/>"]),
            ("<a><b/></a>\n<!-- end -->\n", vec!["<a><b/></a>\n<!-- end -->\n"]),
            (
                "<?xml version='1.0'?>\n<a x='>'></a>\n\n<?xml version='1.0'?>\n<b/>\n",
                vec!["<?xml version='1.0'?>\n<a x='>'></a>", "<?xml version='1.0'?>\n<b/>\n"],
            ),
            ("<a><![CDATA[</a>]]></a><b/>", vec!["<a><![CDATA[</a>]]></a>", "<b/>"]),
            ("<!DOCTYPE a><a/><b/>", vec!["<!DOCTYPE a><a/><b/>"]),
            ("<a/><b", vec!["<a/>", "<b"]),
            ("<a><b>", vec!["<a><b>"]),
            // A document type is for what comes behind it.
            ("<!DOCTYPE a []>\n<domain/>\n", vec!["<!DOCTYPE a []>\n<domain/>\n"]),
            ("<a/>\n<a><b></a>\n<domain/>\n", vec!["<a/>", "<a><b></a>\n", "<domain/>\n"]),
            ("<a/><!-- x", vec!["<a/>", "<!-- x"]),
            ("error\n<domain/>", vec!["error\n<domain/>"]),
        ] {
            let found: Vec<_> = documents(text.as_bytes()).into_iter().map(|part| &text[part]).collect();
            assert_eq!(found, expected, "{text}");
        }
        assert!(documents(b" \n").is_empty());
    }
}
