//! Files of `[section]`s whose settings hold command lines: supervisord's programs, desktop entries, and the like. A
//! line that is indented goes on with the one before.

use std::ops::Range;

use crate::sources::chars::{Char, Chars, Embedded, bytes, verbatim};
use crate::sources::commands;
use crate::sources::lexed::Lexed;
use crate::sources::quote_style::QuoteStyle;

/// Takes the settings of a file; `None` where it is no such file.
pub(super) fn lex(file: &[u8]) -> Option<Lexed> {
    let lines = lines(file);
    let mut said = lines.iter().filter_map(|line| Some((line, file.get(line.clone())?)));
    let said = said.by_ref().filter(|(_, text)| !is_idle(text)).collect::<Vec<_>>();
    let is_section = |text: &[u8]| text.starts_with(b"[") && text.trim_ascii_end().ends_with(b"]");
    if !said.first().is_some_and(|(_, text)| is_section(text)) {
        return None;
    }
    let mut lexed = Lexed::default();
    // The setting that the next line may go on with: only those that can hold something are kept.
    let mut setting: Option<Chars> = None;
    let mut spelt = QuoteStyle::Verbatim;
    for (line, text) in said {
        if is_section(text) {
            spelt = spelling(text);
            continue;
        }
        let own = |range: Range<usize>| own(file, range, spelt);
        if text.first().is_some_and(u8::is_ascii_whitespace) {
            let setting = setting.as_mut()?;
            let gap = setting.last().map_or(line.start, |last| last.end as usize);
            let indent = text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            setting.push(Char::new(b' ', gap..line.start + indent, spelt));
            setting.extend(own(line.start + indent..line.end));
        } else {
            let next = own(value(text).map_or(line.clone(), |at| line.start + at..line.end));
            lexed.embedded.extend(setting.replace(next).and_then(candidate));
        }
    }
    lexed.embedded.extend(setting.and_then(candidate));
    Some(lexed)
}

/// A setting that can hold something.
fn candidate(chars: Chars) -> Option<Embedded> {
    commands::is_candidate(&bytes(&chars)).then_some(Embedded { chars, name: None, guest: None })
}

/// How the settings of a section are spelt.
fn spelling(section: &[u8]) -> QuoteStyle {
    let is = |starts: &[&[u8]]| starts.iter().any(|start| section.starts_with(start));
    if is(&[b"[Desktop Entry]", b"[Desktop Action "]) {
        QuoteStyle::Desktop
    } else if is(&[b"[program:", b"[eventlistener:", b"[fcgi-program:", b"[supervisord]"]) {
        QuoteStyle::Supervisor
    } else {
        QuoteStyle::Verbatim
    }
}

/// A piece of a setting. Where `%` is doubled, `%%` is one.
fn own(file: &[u8], range: Range<usize>, spelt: QuoteStyle) -> Chars {
    let mut chars = verbatim(file, range, spelt);
    if matches!(spelt, QuoteStyle::Desktop | QuoteStyle::Supervisor) {
        let mut at = 0;
        while at + 1 < chars.len() {
            if let Some([first, second]) = chars.get_mut(at..at + 2)
                && (first.byte, second.byte) == (b'%', b'%')
            {
                first.end = second.end;
                chars.remove(at + 1);
            }
            at += 1;
        }
    }
    chars
}

/// Where a setting's value starts: behind the first `=`, if that ends a single word.
fn value(line: &[u8]) -> Option<usize> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let name = line.get(..equals)?.trim_ascii();
    let single = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    let rest = line.get(equals + 1..)?;
    let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    single.then_some(equals + 1 + blanks)
}

fn is_idle(line: &[u8]) -> bool {
    matches!(line.trim_ascii_start().first(), None | Some(b'#' | b';'))
}

/// The lines, without what ends them.
fn lines(file: &[u8]) -> Vec<Range<usize>> {
    let mut at = 0;
    let each = file.split(|byte| *byte == b'\n').map(|line| {
        let start = at;
        at += line.len() + 1;
        start..start + line.strip_suffix(b"\r").unwrap_or(line).len()
    });
    each.collect()
}
