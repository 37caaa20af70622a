//! Whether bytes can hold a proxy share or a helper at all, and whether they name one: a cheap look before any reader.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use memchr::memmem;

/// The word that every proxy share and every helper says.
const WORD: &[u8] = b"proxy";

/// What stands beside the word in every share and in every helper's command line.
const MARKS: &[&[u8]] = &[b"fsdev", b"virtfs", b"fsdriver", b"fs_driver"];

/// What all marks hold: one search for it takes a quarter of the time that one for each of them takes.
const CORE: &[u8] = b"fs";

/// What comes before the core and behind it in each mark.
const AROUND: &[(&[u8], &[u8])] = &[(b"", b"dev"), (b"virt", b""), (b"", b"driver"), (b"", b"_driver")];

/// The helper's name.
const HELPER: &[u8] = b"virtfs-proxy-helper";

/// The first keys of a proxy share's options: `proxy,KEY=`.
const KEYS: &[&[u8]] = &[b"id=", b"socket=", b"sock_fd=", b"mount_tag=", b"readonly", b"writeout="];

/// How far before the word a mark is looked for, in bytes.
const MARK_DISTANCE: usize = 16;

/// The longest escape, in bytes.
const ESCAPE: usize = 10;

/// How much of one piece is looked at again together with the next one, in bytes.
pub(super) const OVERLAP: usize = 64;

/// Why a file is unread that names a share and is of no format.
const NOT_KNOWN: &str = "it names a proxy share in a form that is not known: look at it yourself";

/// Why a file is unread whose characters have two or four bytes each.
const WIDE: &str = "it names a proxy share, and is in UTF-16 or UTF-32, which nothing reads that starts QEMU: convert it to UTF-8";

/// Why a file is unread that names a share.
pub(super) fn why_unread(text: &[u8]) -> &'static str {
    if narrow(text).is_some() { WIDE } else { NOT_KNOWN }
}

/// Whether a file's beginning is that of UTF-16 or UTF-32.
fn is_wide(start: &[u8]) -> bool {
    matches!(
        start,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [_, 0, _, 0, ..] | [0, _, 0, _, ..] | [0, 0, 0xfe, 0xff, ..]
    )
}

/// The ASCII characters of a text in UTF-16 or UTF-32; `None` where it is in neither.
fn narrow(text: &[u8]) -> Option<Vec<u8>> {
    is_wide(text).then(|| text.iter().copied().filter(|byte| *byte != 0).collect())
}

/// What the pieces of a file said so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mentions {
    word: bool,
    mark: bool,
    option: bool,
    helper: bool,
    entity: bool,
    wide: bool,
}

impl Mentions {
    /// Takes the next piece of a file, which begins with the last [`OVERLAP`] bytes of the one before.
    pub(super) fn take(&mut self, piece: &[u8], finders: &Finders) {
        if self.wide {
            let narrow: Vec<u8> = piece.iter().copied().filter(|byte| *byte != 0).collect();
            self.take_narrow(&narrow, finders);
        }
        self.take_narrow(piece, finders);
    }

    fn take_narrow(&mut self, piece: &[u8], finders: &Finders) {
        if finders.word.find(piece).is_some() {
            self.word = true;
            self.option |= has_option(piece) || has_marked_word(piece);
            self.helper |= memmem::find(piece, HELPER).is_some();
        }
        self.mark = self.mark || has_mark(piece, finders);
    }

    /// Looks at a file's beginning for what only some formats have: other encodings, and entities of libvirt's XML.
    pub(super) fn take_start(&mut self, start: &[u8]) {
        self.wide = is_wide(start);
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
        self.entity |= text.first() == Some(&b'<')
            && memmem::find(start, b"<!ENTITY").is_some()
            && [&b"<domain"[..], b":domain", b"inactiveDomain"]
                .iter()
                .any(|name| memmem::find(start, name).is_some());
    }

    /// Whether the file can hold something of ours, if no escape spells the word.
    pub(super) fn are_enough(self) -> bool {
        self.word && (self.mark || self.option) || self.entity
    }

    /// Whether the file names a share's options or the helper, and not the words alone.
    pub(super) fn are_certain(self) -> bool {
        self.option || self.helper
    }

    /// Whether the file could still spell the word by escapes.
    pub(super) fn may_be_escaped(self) -> bool {
        self.mark && !self.word
    }
}

/// The searchers for the words, which are worth keeping from file to file.
#[derive(Debug)]
pub(super) struct Finders {
    word: memmem::Finder<'static>,
    core: memmem::Finder<'static>,
}

impl Default for Finders {
    fn default() -> Self {
        Self { word: memmem::Finder::new(WORD), core: memmem::Finder::new(CORE) }
    }
}

/// Whether a mark stands in `piece`.
fn has_mark(piece: &[u8], finders: &Finders) -> bool {
    finders.core.find_iter(piece).any(|at| {
        let (before, rest) = piece.split_at_checked(at).unwrap_or_default();
        let after = rest.get(CORE.len()..).unwrap_or_default();
        AROUND.iter().any(|(start, end)| before.ends_with(start) && after.starts_with(end))
    })
}

/// Whether `bytes`, all of a file, can hold a share or a helper: they say the word and what stands beside it, or they
/// have an escape or an entity that could spell it.
pub(super) fn can_hold(bytes: &[u8]) -> bool {
    let mut mentions = Mentions::default();
    mentions.take_start(bytes);
    mentions.take(bytes, &Finders::default());
    mentions.are_enough() || mentions.may_be_escaped() && spells_word(bytes)
}

/// Whether the word stands in `bytes`, plainly or by escapes.
pub(super) fn says_word(bytes: &[u8]) -> bool {
    memmem::find(bytes, WORD).is_some() || spells_word(bytes)
}

/// Whether the word stands by itself in `bytes`, as no share says it otherwise, or an escape spells it: no `http-proxy`, no
/// `proxy-username`.
pub(super) fn stands_alone(bytes: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let alone = |at: usize| {
        let before = bytes.get(at.saturating_sub(ESCAPE)..at).unwrap_or_default();
        // The character before may be an escape's last: `\n`, `\x20`, `&#32;`, `%20`.
        let escaped = before.iter().any(|byte| matches!(byte, b'\\' | b'%' | b'&'));
        let behind = bytes.get(at + WORD.len());
        (escaped || !before.last().is_some_and(is_part)) && !behind.is_some_and(is_part)
    };
    memmem::find_iter(bytes, WORD).any(alone) || memmem::find(bytes, HELPER).is_some() || spells_word(bytes)
}

/// Whether escapes of any of the formats spell the word.
pub(super) fn spells_word(bytes: &[u8]) -> bool {
    unescaped(bytes).is_some_and(|plain| memmem::find(&plain, WORD).is_some())
}

/// The text with the escapes that spell the word's letters replaced by these; `None` where there is none.
fn unescaped(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut from = 0;
    for at in memchr::memchr3_iter(b'\\', b'&', b'%', bytes) {
        let Some((byte, length)) = bytes.get(at..).and_then(escape) else { continue };
        if at < from || !WORD.contains(&byte) {
            continue;
        }
        plain.extend_from_slice(bytes.get(from..at)?);
        plain.push(byte);
        from = at + length;
    }
    if from == 0 {
        return None;
    }
    plain.extend_from_slice(bytes.get(from..)?);
    Some(plain)
}

/// The byte that an escape at the start of `text` spells, and how long the escape is: `\x70`, `\u0070`, `\u{70}`,
/// `\160`, `&#112;`, `&#x70;`, `%70`.
pub(super) fn escape(text: &[u8]) -> Option<(u8, usize)> {
    let (prefix, radix, most, closed): (usize, u32, usize, Option<u8>) = match text {
        [b'&', b'#', b'x' | b'X', ..] => (3, 16, 8, Some(b';')),
        [b'&', b'#', ..] => (2, 10, 8, Some(b';')),
        [b'\\', b'u' | b'x', b'{', ..] => (3, 16, 8, Some(b'}')),
        [b'\\', b'x', ..] => (2, 16, 2, None),
        [b'\\', b'u', ..] => (2, 16, 4, None),
        [b'\\', b'U', ..] => (2, 16, 8, None),
        [b'\\', b'0', b'1', ..] => (2, 8, 3, None),
        [b'\\', b'1', ..] => (1, 8, 3, None),
        [b'%', ..] => (1, 16, 2, None),
        _ => return None,
    };
    let rest = text.get(prefix..)?;
    let digits = rest.iter().take(most).take_while(|byte| char::from(**byte).is_digit(radix)).count();
    let number = std::str::from_utf8(rest.get(..digits)?).ok()?;
    let byte = u32::from_str_radix(number, radix).ok().and_then(|number| u8::try_from(number).ok())?;
    let closing = usize::from(closed.is_some());
    let ends = closed.is_none_or(|close| rest.get(digits) == Some(&close));
    ends.then_some((byte, prefix + digits + closing))
}

/// Whether `proxy,KEY=` stands in `text`.
fn has_option(text: &[u8]) -> bool {
    memmem::find_iter(text, b"proxy,").any(|at| starts_option(text.get(at + 6..).unwrap_or_default()))
}

/// Whether a mark and the word stand side by side, as in `-fsdev proxy,$OPTIONS`.
fn has_marked_word(text: &[u8]) -> bool {
    memmem::find_iter(text, WORD).any(|at| {
        let before = text.get(at.saturating_sub(MARK_DISTANCE)..at).unwrap_or_default();
        MARKS.iter().any(|mark| {
            let between = memmem::rfind(before, mark).and_then(|found| before.get(found + mark.len()..));
            between.is_some_and(|between| {
                !between.iter().any(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'\n' | b'-'))
            })
        })
    })
}

fn starts_option(rest: &[u8]) -> bool {
    KEYS.iter().any(|key| rest.starts_with(key))
}

/// The lines on which `text` names a proxy share outside of comments, as a value and not as a synopsis: one entry for each
/// time, in order.
fn shares_named(text: &[u8]) -> Vec<u64> {
    let narrow = narrow(text);
    let text = narrow.as_deref().unwrap_or(text);
    let plain = if memmem::find(text, WORD).is_none() { unescaped(text) } else { None };
    let text = plain.as_deref().unwrap_or(text);
    let named = |at: &usize| {
        let rest = text.get(at + 6..).unwrap_or_default();
        starts_option(rest) && starts_word(text, *at) && !is_synopsis(rest) && !is_comment(text, *at)
    };
    let places = memmem::find_iter(text, b"proxy,").filter(named);
    let (mut line, mut counted) = (1, 0);
    places
        .map(|at| {
            line += memchr::memchr_iter(b'\n', text.get(counted..at).unwrap_or_default()).count() as u64;
            counted = at;
            line
        })
        .collect()
}

/// Whether `text` names a proxy share.
pub(super) fn names_share(text: &[u8]) -> bool {
    !shares_named(text).is_empty()
}

/// The first line that names a share which was not read, where `read` are the lines of those that were. A share that was
/// read on a line which names none stands for one that is named elsewhere: a command of several lines has one number.
pub(super) fn first_unread(text: &[u8], read: &[Option<u64>]) -> Option<u64> {
    let mut named: BTreeMap<u64, usize> = BTreeMap::new();
    for line in shares_named(text) {
        *named.entry(line).or_default() += 1;
    }
    let mut elsewhere = 0_usize;
    for line in read {
        match line.and_then(|line| named.get_mut(&line)) {
            Some(missing) => *missing = missing.saturating_sub(1),
            None => elsewhere += 1,
        }
    }
    for (line, missing) in named {
        elsewhere = match elsewhere.checked_sub(missing) {
            Some(left) => left,
            None => return Some(line),
        };
    }
    None
}

/// Whether the word at `at` is one by itself: no `http-proxy,`.
fn starts_word(text: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|at| text.get(at));
    before.is_none_or(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/')))
}

/// Whether an option string goes on as a manual writes it: `id=ID[,readonly=on]`, `socket=<path>`.
fn is_synopsis(rest: &[u8]) -> bool {
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'`');
    let length = rest.iter().position(ends).unwrap_or(rest.len());
    let value = rest.get(..length).unwrap_or_default();
    // `=<%` and `=<?` begin a template's expression.
    let placeholder = memmem::find_iter(value, b"=<")
        .any(|at| value.get(at + 2).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'));
    placeholder || [&b"[,"[..], b"][", b"=@var", b"]"].iter().any(|part| memmem::find(value, part).is_some())
}

/// Whether the line of `at` is a comment in most languages.
fn is_comment(text: &[u8], at: usize) -> bool {
    let start = text.get(..at).and_then(|before| memchr::memrchr(b'\n', before)).map_or(0, |at| at + 1);
    let line = text.get(start..at).unwrap_or_default().trim_ascii_start();
    let opens = [&b"#"[..], b"//", b";", b"*", b"/*", b"--", b"<!--", b"%", b"\"\"\"", b"REM "];
    opens.iter().any(|open| line.starts_with(open) && !line.starts_with(b"#{"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_told_from_other_words_that_hold_it() {
        for (text, expected) in [
            ("-fsdev proxy,id=f", true),
            ("\"proxy\"", true),
            ("9p_fs_driver=proxy", true),
            ("a\\nproxy,id=f", true),
            ("x%20proxy,id=f", true),
            ("x&#32;proxy,id=f", true),
            ("\\u0070roxy", true),
            ("/usr/lib/qemu/virtfs-proxy-helper", true),
            ("proxy-username, spapr-tpm-proxy, x-pci-proxy-dev, httpproxy, no_proxy", false),
            ("-fsdev local,id=f", false),
        ] {
            assert_eq!(stands_alone(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn words_and_escapes_that_spell_them_are_seen() {
        for (text, expected) in [
            ("-fsdev proxy,id=f,socket=/a", true),
            ("'proxy,id=f,socket=/a'", true),
            ("fsdriver = \"proxy\"", true),
            ("/usr/lib/qemu/virtfs-proxy-helper", true),
            ("\"-fsdev\", \"\\u0070roxy,id=f\"", true),
            ("-fsdev $'\\x70roxy,id=f'", true),
            ("-fsdev $'\\160roxy,id=f'", true),
            ("-fsdev p&#114;oxy,id=f", true),
            ("-fsdev p&#x72;oxy,id=f", true),
            ("-fsdev %70roxy,id=f", true),
            ("-fsdev \\u{70}roxy,id=f", true),
            ("<!DOCTYPE x [<!ENTITY e \"pro\">]><domain>", true),
            ("<!DOCTYPE x [<!ENTITY e \"pro\">]><refentry>", false),
            ("proxy_pass http://x;", false),
            ("use a proxy, which is", false),
            ("-fsdev local,id=f,path=/a", false),
            ("-fsdev local,id=f,path=/\\x70", false),
            ("&#112;&#114; %70 \\x70", false),
            ("", false),
        ] {
            assert_eq!(can_hold(text.as_bytes()), expected, "{text}");
        }
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        assert!(can_hold(&wide("\u{feff}<domain><fsdev>proxy</fsdev></domain>")));
        assert!(!can_hold(&wide("\u{feff}<domain><fsdev>local</fsdev></domain>")));
    }

    #[test]
    fn every_mark_is_found_by_its_core() {
        let finders = Finders::default();
        for mark in MARKS {
            for (before, after) in [("", ""), ("offset ", " fs"), ("fs", "fs")] {
                let text = [before.as_bytes(), mark, after.as_bytes()].concat();
                assert!(has_mark(&text, &finders), "{}", text.escape_ascii());
            }
        }
        for text in ["", "fs", "f", "offset", "fsde", "virt fs", "vfs_drive", "s_driver"] {
            assert!(!has_mark(text.as_bytes(), &finders), "{text}");
        }
    }

    #[test]
    fn pieces_say_what_the_whole_says() {
        let text = format!("{}-fsdev{}proxy,id=f", "x".repeat(100), " ".repeat(200));
        for cut in OVERLAP..text.len() {
            let mut mentions = Mentions::default();
            mentions.take(&text.as_bytes()[..cut], &Finders::default());
            mentions.take(&text.as_bytes()[cut - OVERLAP..], &Finders::default());
            assert!(mentions.are_enough(), "{cut}");
        }
    }

    #[test]
    fn a_share_is_named_by_a_value_outside_of_comments() {
        for (text, line) in [
            ("a\n-virtfs proxy,id=f,socket=/a", Some(2)),
            ("x(\"proxy,socket=/a,id=f\")", Some(1)),
            ("# -virtfs proxy,id=f,socket=/a", None),
            ("  // \"proxy,id=f\"", None),
            ("-fsdev proxy,id=ID[,readonly=on],socket=SOCKET", None),
            ("-fsdev proxy,id=<id>,socket=<socket>", None),
            ("http-proxy,id=4", None),
            ("a\n\"\\x70roxy,id=f\"", Some(2)),
            ("the proxy, which", None),
        ] {
            assert_eq!(first_unread(text.as_bytes(), &[]), line, "{text}");
        }
    }

    #[test]
    fn each_share_that_is_named_has_one_that_was_read() {
        let text = b"a proxy,id=f\nb\nc proxy,id=g proxy,id=h\n";
        for (read, line) in [
            (&[][..], Some(1)),
            (&[Some(1)], Some(3)),
            (&[Some(1), Some(1), Some(1)], Some(3)),
            (&[Some(1), Some(3)], Some(3)),
            (&[Some(1), Some(3), Some(3)], None),
            // A command that begins on another line.
            (&[Some(1), Some(2), Some(2)], None),
            (&[Some(2), Some(3), Some(3)], None),
            (&[None, None, None], None),
            (&[None, None], Some(3)),
        ] {
            assert_eq!(first_unread(text, read), line, "{read:?}");
        }
    }
}
