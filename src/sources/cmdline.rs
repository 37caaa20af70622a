//! Argument lists whose arguments end with a NUL: what `/proc/PID/cmdline` holds, kept in a file.

#![forbid(unsafe_code)]

use super::chars::{Command, Word, verbatim};
use super::commands;
use super::format::{Beside, Document, Format, Reading, Unreadable};
use super::lexed::Lexed;
use super::quote_style::QuoteStyle;
use crate::share::rewrite::{Edits, Refusal, Rewrite};

/// NUL-separated arguments.
pub(super) struct Cmdline;

/// More than the kernel takes as arguments from anybody who hasn't raised its limits, in bytes.
const MAX_ARGUMENTS: usize = 2 << 20;

impl Format for Cmdline {
    fn name(&self) -> &'static str {
        "cmdline"
    }

    /// Text with NULs in it, and nothing else that text has not.
    fn recognises(&self, document: &Document) -> bool {
        let bytes = document.bytes;
        let text = |byte: &u8| *byte >= b' ' && *byte != 0x7f || matches!(byte, 0 | b'\t' | b'\n');
        bytes.len() <= MAX_ARGUMENTS
            && !matches!(bytes.first(), None | Some(0))
            && bytes.iter().take(4096).any(|byte| *byte == 0)
            && commands::is_candidate(bytes)
            && bytes.iter().all(text)
    }

    fn read_beside(&self, document: &Document, _beside: Option<&dyn Beside>) -> Result<Reading, Unreadable> {
        commands::refuse_long(document.bytes)?;
        Ok(commands::read(document, &lex(document.bytes)))
    }

    fn rewrite_beside(
        &self,
        _document: &Document,
        _how: &Rewrite,
        _beside: Option<&dyn Beside>,
    ) -> Result<Edits, Refusal> {
        // Nothing is started from it.
        Err(Refusal::at(None, "it lists the arguments of a running process", "rewrite what starts it"))
    }
}

fn lex(file: &[u8]) -> Lexed {
    let mut at = 0;
    let words = file.split(|byte| *byte == 0).map(|argument| {
        let range = at..at + argument.len();
        at = range.end + 1;
        Word { chars: verbatim(file, range.clone(), QuoteStyle::Verbatim), span: range }
    });
    Lexed { commands: vec![Command { words: words.collect(), guest: None }], ..Lexed::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn arguments_are_read_and_not_rewritten() {
        let file = b"qemu-system-x86_64\0-name\0web\0-fsdev\0proxy,id=f,socket=/run/my a\0-device\0virtio-9p-pci,fsdev=f,mount_tag=t\0";
        let document = Document { path: None, bytes: file };
        assert!(Cmdline.recognises(&document));
        let shares = Cmdline.read(&document).unwrap().shares;
        assert_eq!(shares.len(), 1);
        assert_eq!(shares[0].place.guest.as_deref(), Some(&b"web"[..]));
        let how = Rewrite { exports: vec![(b"t".to_vec(), "/it's $x".into())], ..Rewrite::default() };
        let refusal = Cmdline.rewrite(&document, &how).unwrap_err();
        assert_eq!(refusal.remedy, "rewrite what starts it");
    }

    #[test]
    fn other_files_are_none() {
        for bytes in [&b"-fsdev proxy"[..], b"\0-fsdev\0proxy,id=x\0", b"\x7fELF\0-fsdev\0proxy\0", b""] {
            assert!(!Cmdline.recognises(&Document { path: None, bytes }), "{bytes:?}");
        }
    }
}
