//! Dockerfiles and Containerfiles: `ENTRYPOINT` and `CMD` make one command line, each as a list or as a shell's text.

use super::lines::logical_lines;
use super::literals;
use crate::sources::chars::{Command, Embedded, Word, verbatim};
use crate::sources::lexed::Lexed;
use crate::sources::quote_style::QuoteStyle;

/// The instructions that run something, and those that set a variable for it.
const INSTRUCTIONS: &[&str] = &["ENTRYPOINT", "CMD", "RUN", "HEALTHCHECK", "SHELL", "ENV", "ARG"];

/// Whether a file of that name describes an image.
pub(super) fn is_one(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["dockerfile", "containerfile"].iter().any(|it| name.starts_with(it) || name.ends_with(&format!(".{it}")))
}

/// Takes the commands of an image.
pub(super) fn lex(file: &[u8]) -> Lexed {
    let mut lexed = Lexed::default();
    let mut together: Vec<Word> = Vec::new();
    for line in logical_lines(file) {
        let text = file.get(line.clone()).unwrap_or_default();
        let Some((instruction, skip)) = instruction(text) else { continue };
        let rest = line.start + skip..line.end;
        if text.get(skip) == Some(&b'[') {
            let words = literals::words(file, rest);
            for word in words.iter().filter(|word| word.has_blank()) {
                lexed.embedded.push(Embedded::script(&word.chars));
            }
            if instruction != "RUN" {
                together.extend(words.clone());
            }
            lexed.commands.push(Command { words, guest: None });
        } else {
            let chars = verbatim(file, rest, QuoteStyle::Verbatim);
            lexed.embedded.push(Embedded { chars, name: None, guest: None });
        }
    }
    lexed.commands.push(Command { words: together, guest: None });
    lexed
}

/// The instruction that a line starts with, and where its arguments begin.
fn instruction(line: &[u8]) -> Option<(&'static str, usize)> {
    let blank = |from: usize| {
        let rest = line.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
    };
    let start = blank(0);
    let rest = line.get(start..)?;
    let name = INSTRUCTIONS.iter().find(|name| {
        rest.get(..name.len()).is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
            && rest.get(name.len()).is_some_and(u8::is_ascii_whitespace)
    })?;
    Some((name, blank(start + name.len())))
}
