//! Makefiles: recipes and variables as a shell's text, in which make's own expansions are not known, and `$$` is a `$`.

use crate::sources::chars::{Char, Embedded, unknown, verbatim};
use crate::sources::format::path_of;
use crate::sources::lexed::Lexed;
use crate::sources::quote_style::QuoteStyle;
use crate::sources::templates::dollar;

/// Whether a file of that name is a makefile.
pub(super) fn is_one(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    ["makefile", "gnumakefile"].iter().any(|it| lower == *it || lower.starts_with(&format!("{it}.")))
        || [".mk", ".mak", ".make"].iter().any(|suffix| lower.ends_with(suffix))
}

/// Takes the text of a makefile as make hands it to a shell.
pub(super) fn lex(file: &[u8]) -> Lexed {
    let mut chars = Vec::with_capacity(file.len());
    let mut at = 0;
    while let Some(found) = file.get(at..).and_then(|rest| memchr::memchr(b'$', rest)) {
        let start = at + found;
        chars.extend(verbatim(file, at..start, QuoteStyle::Make));
        let rest = file.get(start..).unwrap_or_default();
        at = match rest.get(1) {
            Some(b'$') => {
                chars.push(Char::new(b'$', start..start + 2, QuoteStyle::Make));
                start + 2
            }
            Some(b'(' | b'{') => start + dollar(rest).max(1),
            // Any other name has one character.
            Some(byte) if !byte.is_ascii_whitespace() => start + 2,
            _ => start + 1,
        };
        if rest.get(1) != Some(&b'$') {
            chars.extend(unknown(file, start..at, QuoteStyle::Make));
        }
    }
    chars.extend(verbatim(file, at..file.len(), QuoteStyle::Make));
    // A name that no format claims, so that the text is taken for what it is.
    Lexed {
        embedded: vec![Embedded { chars, name: Some(path_of(b"text.lines")), guest: None }],
        ..Lexed::default()
    }
}
