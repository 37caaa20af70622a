//! Shell scripts: launchers, init scripts, hooks, cron tables, files of settings.

pub(super) mod cron;
mod env;
mod lexer;
mod word;

pub(super) use env::split;

use std::path::Path;

use super::commands;
use super::containers::UserMap;
use super::format::{Beside, Document, Format, Reading, Unreadable};
use super::lexed::Lexed;
use super::templates::Masked;
use crate::share::rewrite::{Edits, Refusal, Rewrite};

/// Shell scripts.
pub(super) struct Shell;

/// Places whose files are a shell's, whatever they are called.
const PLACES: &[&str] = &[
    "/etc/default/",
    "/etc/sysconfig/",
    "/etc/init.d/",
    "/etc/rc.d/",
    "/etc/conf.d/",
    "/etc/local.d/",
    "/etc/libvirt/hooks/",
    "/etc/cron.d/",
    "/var/spool/cron/",
    "/etc/network/if-up.d/",
];

impl Format for Shell {
    fn name(&self) -> &'static str {
        "shell"
    }

    fn recognises(&self, document: &Document) -> bool {
        let path = document.telling_path().unwrap_or_default();
        let path = path.to_string_lossy();
        let name = path.rsplit('/').next().unwrap_or_default();
        let extension = name.rsplit_once('.').map(|(_, extension)| extension).unwrap_or_default();
        has_shebang(document.bytes)
            || matches!(
                extension,
                "sh" | "bash" | "ksh" | "zsh" | "dash" | "env" | "cron" | "crontab" | "initd"
            )
            || matches!(
                name,
                "rc.local" | "crontab" | ".env" | ".bashrc" | ".profile" | "profile" | "xinitrc"
            )
            || PLACES.iter().any(|place| path.contains(place))
    }

    fn read_beside(&self, document: &Document, beside: Option<&dyn Beside>) -> Result<Reading, Unreadable> {
        if !is_candidate(document, beside) {
            return Ok(Reading::default());
        }
        Ok(commands::read(document, &lex(document, beside)?))
    }

    fn rewrite_beside(
        &self,
        document: &Document,
        how: &Rewrite,
        beside: Option<&dyn Beside>,
    ) -> Result<Edits, Refusal> {
        if !is_candidate(document, beside) {
            return Ok(Edits::default());
        }
        let mut lexed = lex(document, beside).map_err(Unreadable::refusal)?;
        lexed.user_map = beside.and_then(|beside| UserMap::of_docker(document.bytes, beside));
        let edits = commands::rewrite(document, &lexed, how)?;
        cron::refuse_percent(document, &edits)?;
        Ok(edits)
    }
}

/// Whether a script can hold anything of ours: itself, or in a file that it sources and starts QEMU with.
fn is_candidate(document: &Document, beside: Option<&dyn Beside>) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(document.bytes, word).is_some();
    let sources = |line: &[u8]| {
        let line = line.trim_ascii_start();
        line.starts_with(b". ") || line.starts_with(b"source ")
    };
    commands::is_candidate(document.bytes)
        || beside.is_some()
            && (has(b"qemu") || has(b"kvm"))
            && document.bytes.split(|byte| *byte == b'\n').any(sources)
}

fn lex(document: &Document, beside: Option<&dyn Beside>) -> Result<Lexed, Unreadable> {
    let masked = Masked::of(document);
    let folder = document.path.and_then(Path::parent);
    Ok(masked.restore(lexer::lex(masked.bytes(), beside, folder)?))
}

/// Lexes text that is nearly a shell's.
pub(super) fn lex_text(text: &[u8]) -> Result<Lexed, Unreadable> {
    lexer::lex(text, None, None)
}

/// Whether the first line calls a shell.
fn has_shebang(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(interpreter) = line.strip_prefix(b"#!") else { return false };
    let interpreter =
        String::from_utf8_lossy(interpreter.get(..interpreter.len().min(256)).unwrap_or_default());
    interpreter.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or_default()).any(|word| {
        matches!(
            word,
            "sh" | "bash" | "dash" | "ksh" | "mksh" | "zsh" | "ash" | "busybox" | "openrc-run" | "runscript"
        )
    })
}

#[cfg(test)]
mod tests;
