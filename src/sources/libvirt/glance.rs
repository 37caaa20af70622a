//! A glance at XML: most files hold nothing of ours, and parsing them into a tree would be most of an audit's time.

/// Whether `text` is whole and can't hold a proxy share. `false` says nothing: parse it.
///
/// Every proxy share spells the driver's name. It could only be hidden by a character reference or an entity, so
/// that a text with either is parsed, as is one with a document type or a CDATA section. What could still be wrong
/// with a text is that a part of it is missing: its elements must be closed, each by its own name.
pub(super) fn holds_nothing(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"proxy").is_none() && is_whole(text)
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
            [b'<', b'/', tail @ ..] => {
                let Some(end) = memchr::memchr(b'>', tail) else { return false };
                let name = tail.get(..end).unwrap_or_default().trim_ascii_end();
                if open.pop() != Some(name) {
                    return false;
                }
                Some(end + 3)
            }
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

/// Each place in `text` where a reference starts.
fn references(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    memchr::memchr_iter(b'&', text).filter_map(|at| text.get(at..))
}

/// The end of a start tag, the element's name, and whether it is empty. Attributes' values may hold a `>`.
fn start_tag(tail: &[u8]) -> Option<(usize, &[u8], bool)> {
    let name = tail.iter().position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/'))?;
    if name == 0 {
        return None;
    }
    let mut at = name;
    loop {
        let next = at + memchr::memchr3(b'>', b'"', b'\'', tail.get(at..)?)?;
        match tail.get(next)? {
            b'>' => {
                let empty = tail.get(next.checked_sub(1)?) == Some(&b'/');
                return Some((next + 1, tail.get(..name)?, empty));
            }
            quote => {
                let value = tail.get(next + 1..)?;
                let end = memchr::memchr(*quote, value)?;
                // A reference may hide a name.
                let value = value.get(..end)?;
                if value.contains(&b'<') || references(value).any(|at| predefined(at).is_none()) {
                    return None;
                }
                at = next + 1 + end + 1;
            }
        }
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
            "<a:domain b = \"it's\" ><c  /></a:domain >",
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
}
