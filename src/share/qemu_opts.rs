//! QEMU's option strings: `driver,key=value,flag`, as `-fsdev`, `-virtfs`, `-device` and `-global` take them.
//!
//! The first word without `=` has an implied key; a comma in a value is doubled; a word without `=` further on is a
//! flag, on or, with `no` before it, off. Facts tried on QEMU 7.2.

#![forbid(unsafe_code)]

use std::ops::Range;

/// One `key=value` of an option string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opt {
    /// The key, implied or spelt; of a flag `noFOO` it is `FOO`.
    pub key: Vec<u8>,
    /// The value as QEMU gets it, commas single; `on` or `off` for a flag.
    pub value: Vec<u8>,
    /// How it is written.
    pub form: Form,
    /// Its bytes in the option string, without the commas around it.
    pub range: Range<usize>,
    /// The value's bytes in the option string; empty for a flag.
    pub value_range: Range<usize>,
    /// Whether a part of it is not statically known.
    pub unknown: bool,
}

/// How an option is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `key=value`.
    Keyed,
    /// `value`, the first word.
    Implied,
    /// `key` or `nokey`.
    Flag,
}

/// Parses an option string. `implied` is the first word's key; `unknown` are the ranges of `raw` that are not
/// statically known: they stand as they are, whatever characters they have.
///
/// # Example
/// ```
/// use virtfs_proxy_helper::internals::share::qemu_opts::{last, parse};
/// let opts = parse(b"proxy,id=f,socket=/run/a,,b,readonly", &[], Some(b"fsdriver"));
/// assert_eq!(last(&opts, b"fsdriver").unwrap().value, b"proxy");
/// assert_eq!(last(&opts, b"socket").unwrap().value, b"/run/a,b");
/// assert_eq!(last(&opts, b"readonly").unwrap().value, b"on");
/// ```
pub fn parse(raw: &[u8], unknown: &[Range<usize>], implied: Option<&[u8]>) -> Vec<Opt> {
    let reader = Reader { raw, unknown };
    let mut opts = Vec::new();
    let mut at = 0;
    let mut implied = implied;
    while at < raw.len() {
        let opt = reader.opt(at, implied.take());
        at = opt.range.end + 1;
        opts.push(opt);
    }
    opts
}

/// The option of that key that counts: the last.
pub fn last<'a>(opts: &'a [Opt], key: &[u8]) -> Option<&'a Opt> {
    opts.iter().rev().find(|opt| opt.key == key)
}

/// The id that counts: the first.
pub fn id(opts: &[Opt]) -> Option<&Opt> {
    opts.iter().find(|opt| opt.key == b"id")
}

/// Whether QEMU takes `id` as an id.
pub(crate) fn is_id(id: &[u8]) -> bool {
    id.first().is_some_and(u8::is_ascii_alphabetic)
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte))
}

/// A boolean as QEMU reads it; `None` for what it refuses.
pub fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        b"on" | b"yes" | b"true" | b"y" => Some(true),
        b"off" | b"no" | b"false" | b"n" => Some(false),
        _ => None,
    }
}

/// A number as QEMU reads it: decimal, `0x` or octal with a leading `0`.
pub(crate) fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if text.len() > 1 && text.starts_with('0') {
        return u64::from_str_radix(text, 8).ok();
    }
    text.parse().ok()
}

/// A value as it is spelt in an option string: with its commas doubled.
///
/// # Example
/// ```
/// use virtfs_proxy_helper::internals::share::qemu_opts::escape;
/// assert_eq!(escape(b"/srv/a,b"), b"/srv/a,,b");
/// ```
pub fn escape(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for &byte in value {
        out.push(byte);
        if byte == b',' {
            out.push(b',');
        }
    }
    out
}

/// An option string under the reader.
struct Reader<'a> {
    raw: &'a [u8],
    unknown: &'a [Range<usize>],
}

impl Reader<'_> {
    fn opt(&self, start: usize, implied: Option<&[u8]>) -> Opt {
        let name_end = self.find(start, |byte| byte == b'=' || byte == b',');
        if self.raw.get(name_end) == Some(&b'=') {
            let key = self.slice(start..name_end).to_vec();
            return self.valued(key, Form::Keyed, start, name_end + 1);
        }
        if let Some(key) = implied {
            return self.valued(key.to_vec(), Form::Implied, start, start);
        }
        let word = self.slice(start..name_end);
        let (key, value) = match word.strip_prefix(b"no") {
            Some(rest) if !rest.is_empty() => (rest, &b"off"[..]),
            _ => (word, &b"on"[..]),
        };
        Opt {
            key: key.to_vec(),
            value: value.to_vec(),
            form: Form::Flag,
            range: start..name_end,
            value_range: name_end..name_end,
            unknown: self.has_unknown(&(start..name_end)),
        }
    }

    fn valued(&self, key: Vec<u8>, form: Form, start: usize, value_start: usize) -> Opt {
        let mut value = Vec::new();
        let mut at = value_start;
        let end = loop {
            let comma = self.find(at, |byte| byte == b',');
            value.extend_from_slice(self.slice(at..comma));
            if self.is_known_comma(comma + 1) && comma < self.raw.len() {
                value.push(b',');
                at = comma + 2;
            } else {
                break comma;
            }
        };
        let unknown = self.has_unknown(&(start..end));
        Opt { key, value, form, range: start..end, value_range: value_start..end, unknown }
    }

    fn slice(&self, range: Range<usize>) -> &[u8] {
        self.raw.get(range).unwrap_or_default()
    }

    fn is_known_comma(&self, at: usize) -> bool {
        self.raw.get(at) == Some(&b',') && !self.is_unknown(at)
    }

    /// The first known byte from `start` on that `wanted` says yes to, or the end.
    fn find(&self, start: usize, wanted: impl Fn(u8) -> bool) -> usize {
        (start..self.raw.len())
            .find(|&at| self.raw.get(at).is_some_and(|&byte| wanted(byte)) && !self.is_unknown(at))
            .unwrap_or(self.raw.len())
    }

    fn is_unknown(&self, at: usize) -> bool {
        self.unknown.iter().any(|range| range.contains(&at))
    }

    fn has_unknown(&self, part: &Range<usize>) -> bool {
        self.unknown.iter().any(|range| range.start < part.end && part.start < range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(raw: &str) -> Vec<(String, String)> {
        parse(raw.as_bytes(), &[], Some(b"fsdriver"))
            .into_iter()
            .map(|opt| (String::from_utf8(opt.key).unwrap(), String::from_utf8(opt.value).unwrap()))
            .collect()
    }

    #[test]
    fn option_strings_read_as_qemu_reads_them() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("proxy", &[("fsdriver", "proxy")]),
            ("proxy,id=f", &[("fsdriver", "proxy"), ("id", "f")]),
            ("id=f,proxy", &[("id", "f"), ("proxy", "on")]),
            ("id=f,fsdriver=proxy", &[("id", "f"), ("fsdriver", "proxy")]),
            ("proxy,socket=/a,,b,id=f", &[("fsdriver", "proxy"), ("socket", "/a,b"), ("id", "f")]),
            ("proxy,socket=/a,,,id=f", &[("fsdriver", "proxy"), ("socket", "/a,"), ("id", "f")]),
            ("proxy,socket=/a,,", &[("fsdriver", "proxy"), ("socket", "/a,")]),
            ("proxy,,id=f", &[("fsdriver", "proxy,id=f")]),
            ("proxy,readonly", &[("fsdriver", "proxy"), ("readonly", "on")]),
            ("proxy,noreadonly", &[("fsdriver", "proxy"), ("readonly", "off")]),
            ("proxy,id=f,", &[("fsdriver", "proxy"), ("id", "f")]),
            ("proxy,a=b=c", &[("fsdriver", "proxy"), ("a", "b=c")]),
            ("proxy,readonly,,x=1", &[("fsdriver", "proxy"), ("readonly", "on"), ("", "on"), ("x", "1")]),
            (",id=f", &[("fsdriver", ""), ("id", "f")]),
        ];
        for (raw, expected) in table {
            let expected: Vec<_> = expected.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
            assert_eq!(pairs(raw), expected, "{raw}");
        }
    }

    #[test]
    fn an_unknown_part_is_opaque() {
        let raw = b"proxy,id=f,socket=${S:-/a,b=c},readonly";
        let opts = parse(raw, std::slice::from_ref(&(18..30)), Some(b"fsdriver"));
        let socket = last(&opts, b"socket").unwrap();
        assert!(socket.unknown);
        assert_eq!(socket.value, b"${S:-/a,b=c}");
        assert!(!last(&opts, b"readonly").unwrap().unknown);
    }

    #[test]
    fn numbers_and_booleans_are_qemus() {
        for (text, expected) in
            [("3", Some(3)), ("0x1f", Some(31)), ("010", Some(8)), ("x", None), ("", None)]
        {
            assert_eq!(number(text.as_bytes()), expected, "{text}");
        }
        for (text, expected) in
            [("on", Some(true)), ("n", Some(false)), ("1", None), ("ON", None), ("", None)]
        {
            assert_eq!(boolean(text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_value_reads_as_itself(value in proptest::collection::vec(any::<u8>(), 0..32)) {
            let mut raw = b"local,id=f,path=".to_vec();
            raw.extend(escape(&value));
            raw.extend_from_slice(b",readonly=on");
            let opts = parse(&raw, &[], Some(b"fsdriver"));
            prop_assert_eq!(&last(&opts, b"path").unwrap().value, &value);
            prop_assert_eq!(opts.len(), 4);
        }

        #[test]
        fn any_bytes_parse_and_ranges_are_apart(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut at = 0;
            for opt in parse(&raw, &[], Some(b"fsdriver")) {
                prop_assert!(opt.range.start >= at && opt.range.end <= raw.len());
                prop_assert!(opt.value_range.end == opt.range.end);
                at = opt.range.end;
            }
        }
    }
}
