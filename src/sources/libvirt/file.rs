//! A file's bytes → the XML in it: plain, or in the header of a saved image.

use std::ops::Range;

use roxmltree::{Document as Xml, ParsingOptions};

use super::super::format::{Document, Unreadable};
use super::glance;
use crate::share::rewrite::{Edit, Refusal};
use crate::sources::chars::offset;
use crate::text::escape;

/// What a saved image begins with; another word stands there while it is being written.
const SAVED: [&[u8; 16]; 2] = [b"LibvirtQemudSave", b"LibvirtQemudPart"];

/// A saved image's header: the magic, then 32-bit numbers of the host's byte order, of which the second says how
/// many bytes of XML follow the header, and the fifth where in them a cookie begins. Source: libvirt 9.0's
/// virQEMUSaveHeader.
const HEADER: usize = 16 + 19 * 4;
const LENGTH_AT: usize = 16 + 4;
const COOKIE_AT: usize = 16 + 4 * 4;

/// More than any domain has, and a bound to the memory that a hostile file takes.
const MOST_NODES: u32 = 100_000;

/// More than any document has, in bytes: a tree takes many times as much.
const MAX_DOCUMENT: usize = 4 << 20;

/// How long the parts of a text are whose lines are counted beforehand, in bytes.
const PART: usize = 4096;

/// More attributes than any element has, and more namespaces than any file. The XML library takes time by the square
/// of the first, and memory by the square of the second.
const MOST_ATTRIBUTES: usize = 256;
const MOST_NAMESPACES: usize = 4096;

/// How far into a file the look goes that tells what it is.
const FIRST_BYTES: usize = 64 * 1024;

/// Whether a document is libvirt's, by its first bytes and its name.
pub(super) fn recognises(document: &Document) -> bool {
    let bytes = document.bytes;
    if SAVED.iter().any(|magic| bytes.starts_with(*magic)) {
        return true;
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let wide =
        [&b"\xff\xfe<"[..], b"\xfe\xff\0<", b"<\0", b"\0<"].iter().any(|start| text.starts_with(start));
    if !wide && text.trim_ascii_start().first() != Some(&b'<') {
        return false;
    }
    let named =
        document.telling_path().is_some_and(|path| path.extension().is_some_and(|ending| ending == "xml"));
    let start = text.get(..FIRST_BYTES).unwrap_or(text);
    named
        || wide
        || [&b"<domain"[..], b":domain", b"inactiveDomain", b"libvirt.org/schemas/domain/qemu"]
            .iter()
            .any(|name| contains(start, name))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// A file that holds domain XML.
#[derive(Debug, Clone)]
pub(super) struct File<'a> {
    bytes: &'a [u8],
    /// The XML, without a byte order mark.
    pub text: &'a str,
    /// Where in the file the XML begins.
    base: usize,
    /// The room that a saved image has for its XML.
    saved: Option<Saved>,
    /// How many lines end before each part of the text of [`PART`] bytes.
    line_ends: Vec<u32>,
    /// The line of the file on which the text begins, from 1.
    first_line: u64,
}

/// A saved image's room: XML, a NUL, perhaps a cookie and a NUL, and NULs to its end.
#[derive(Debug, Clone)]
struct Saved {
    room: Range<usize>,
    cookie: u32,
}

/// Whether that is a saved image's beginning.
pub(crate) fn is_saved_image(bytes: &[u8]) -> bool {
    SAVED.iter().any(|magic| bytes.starts_with(*magic))
}

impl<'a> File<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        if is_saved_image(bytes) {
            return Self::open_saved(bytes);
        }
        let base = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self::with_text(bytes, base..bytes.len(), None)
    }

    fn open_saved(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let number =
            |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
        let end = number(LENGTH_AT).and_then(|length| HEADER.checked_add(usize::try_from(length).ok()?));
        let (Some(end), Some(cookie)) = (end, number(COOKIE_AT)) else { return Err(truncated()) };
        let room = bytes.get(HEADER..end).ok_or_else(truncated)?;
        let length = room.iter().position(|&byte| byte == 0).ok_or_else(truncated)?;
        Self::with_text(bytes, HEADER..HEADER + length, Some(Saved { room: HEADER..end, cookie }))
    }

    fn with_text(bytes: &'a [u8], range: Range<usize>, saved: Option<Saved>) -> Result<Self, Unreadable> {
        let base = range.start;
        let text = utf8(bytes.get(range).unwrap_or_default())?;
        refuse_excess(text)?;
        Ok(Self { bytes, text, base, saved, line_ends: line_ends(text), first_line: 1 })
    }

    /// The file as one for each of its documents: `virsh dumpxml` in a loop prints several.
    pub(super) fn documents(&self) -> Vec<Self> {
        let parts = glance::documents(self.text.as_bytes());
        if parts.len() < 2 || self.saved.is_some() {
            return vec![self.clone()];
        }
        let each = parts.into_iter().filter_map(|part| {
            let text = self.text.get(part.clone())?;
            Some(Self {
                bytes: self.bytes,
                text,
                base: self.base + part.start,
                saved: None,
                line_ends: line_ends(text),
                first_line: self.line(part.start),
            })
        });
        each.collect()
    }

    /// The XML's nodes, with document types and entities refused.
    pub(super) fn parse(&self) -> Result<Xml<'a>, Unreadable> {
        if self.text.len() > MAX_DOCUMENT {
            let reason = "it is a document of more than 4 MiB".to_owned();
            return Err(Unreadable { line: None, reason });
        }
        let options = ParsingOptions { nodes_limit: MOST_NODES, ..ParsingOptions::default() };
        Xml::parse_with_options(self.text, options).map_err(|error| {
            let line = Some(u64::from(error.pos().row) + self.first_line - 1);
            let reason = match error {
                roxmltree::Error::DtdDetected => {
                    "it has a document type, which libvirt's own files never have".to_owned()
                }
                roxmltree::Error::NodesLimitReached => "it has more than 100,000 nodes".to_owned(),
                other => format!("it is no well-formed XML: {}", escape(other.to_string().as_bytes())),
            };
            Unreadable { line, reason }
        })
    }

    /// The file as it is.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn is_saved_image(&self) -> bool {
        self.saved.is_some()
    }

    /// Where in the file a place in the text is.
    pub(super) fn at(&self, range: Range<usize>) -> Range<usize> {
        range.start + self.base..range.end + self.base
    }

    /// The line of a place in the text, from 1.
    pub(super) fn line(&self, at: usize) -> u64 {
        let part = at / PART;
        let before = self.line_ends.get(part).copied().unwrap_or_default();
        let rest = self.text.as_bytes().get(part * PART..at).unwrap_or_default();
        self.first_line + u64::from(before) + memchr::memchr_iter(b'\n', rest).count() as u64
    }

    /// Makes the edits, which are the file's, fit what is around the XML.
    pub(super) fn close(&self, edits: &mut Vec<Edit>) -> Result<(), Refusal> {
        let Some(saved) = &self.saved else { return Ok(()) };
        if edits.is_empty() {
            return Ok(());
        }
        let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
        let removed: usize = edits.iter().map(|edit| edit.span.len()).sum();
        let room = self.bytes.get(saved.room.clone()).unwrap_or_default();
        // Each text's own NUL stays.
        let free = room.iter().rev().take_while(|&&byte| byte == 0).count().saturating_sub(1);
        let moved_cookie = i64::from(saved.cookie) + signed(added) - signed(removed);
        if added > removed + free {
            return Err(Refusal::at(
                None,
                "the saved image has no room for the new configuration",
                "`virsh save-image-dumpxml FILE`, rewrite that with --in-place-args, `virsh restore --xml`",
            ));
        }
        if added >= removed {
            let shrink = added - removed;
            edits.push(Edit { span: saved.room.end - shrink..saved.room.end, with: Vec::new() });
        } else {
            edits.push(Edit { span: saved.room.end..saved.room.end, with: vec![0; removed - added] });
        }
        if saved.cookie != 0 {
            let cookie = u32::try_from(moved_cookie).unwrap_or(saved.cookie);
            edits.push(Edit { span: COOKIE_AT..COOKIE_AT + 4, with: cookie.to_ne_bytes().to_vec() });
        }
        Ok(())
    }
}

/// Stops at what no configuration has, and what would take long to parse.
/// How many lines end before each part of a text.
fn line_ends(text: &str) -> Vec<u32> {
    let mut ends = 0;
    let parts = text.as_bytes().chunks(PART);
    parts
        .map(|part| {
            let before = ends;
            ends += offset(memchr::memchr_iter(b'\n', part).count());
            before
        })
        .collect()
}

fn refuse_excess(text: &str) -> Result<(), Unreadable> {
    let excess =
        |what| Err(Unreadable { line: None, reason: format!("it has too many {what} to be libvirt's") });
    if memchr::memmem::find_iter(text.as_bytes(), b"xmlns").nth(MOST_NAMESPACES).is_some() {
        return excess("namespaces");
    }
    if has_crowded_tag(text.as_bytes()) { excess("attributes") } else { Ok(()) }
}

/// Whether a start tag has more than [`MOST_ATTRIBUTES`]. What is no well-formed XML may be called either.
fn has_crowded_tag(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(open) = text.get(at..).and_then(|rest| memchr::memchr(b'<', rest)) {
        at += open + 1;
        let tag = text.get(at..).unwrap_or_default();
        let skipped = [(&b"!--"[..], &b"-->"[..]), (b"![CDATA[", b"]]>")];
        if let Some((_, end)) = skipped.iter().find(|(start, _)| tag.starts_with(start)) {
            at += memchr::memmem::find(tag, end).unwrap_or(tag.len());
            continue;
        }
        let mut quote = None;
        let mut values = 0;
        for &byte in tag {
            at += 1;
            match quote {
                Some(open) if open == byte => {
                    quote = None;
                    values += 1;
                }
                None if byte == b'\'' || byte == b'"' => quote = Some(byte),
                None if byte == b'>' => break,
                _ => {}
            }
        }
        if values > MOST_ATTRIBUTES {
            return true;
        }
    }
    false
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn truncated() -> Unreadable {
    Unreadable { line: None, reason: "the saved image is truncated".into() }
}

/// Text as libvirt reads it: UTF-8 alone.
fn utf8(bytes: &[u8]) -> Result<&str, Unreadable> {
    let wide = [&b"\xff\xfe"[..], b"\xfe\xff", b"<\0", b"\0<"].iter().any(|start| bytes.starts_with(start));
    if wide {
        let reason = "it is UTF-16, which libvirt does not read: convert it to UTF-8".into();
        return Err(Unreadable { line: None, reason });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().fold(1, |line, &byte| line + u64::from(byte == b'\n'));
        Unreadable { line: Some(line), reason: "it is not UTF-8".into() }
    })?;
    match declared_encoding(text) {
        Some(name)
            if !["utf-8", "utf8", "us-ascii", "ascii"].contains(&name.to_ascii_lowercase().as_str()) =>
        {
            let reason = format!(
                "it says that it is {}, which libvirt does not read: convert it to UTF-8",
                escape(name.as_bytes())
            );
            Err(Unreadable { line: Some(1), reason })
        }
        _ => Ok(text),
    }
}

/// The encoding that the XML declaration names.
fn declared_encoding(text: &str) -> Option<&str> {
    let declaration = text.strip_prefix("<?xml")?.split("?>").next()?;
    let (_, rest) = declaration.split_once("encoding")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    rest.get(1..)?.split(quote).next()
}
