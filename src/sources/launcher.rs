//! Launchers in other languages, and settings that are nearly a shell's: Python, Nix, Ruby (Vagrant), HCL (packer),
//! Go, Rust, Java, C, JavaScript, Xen's xl.cfg and
//! others whose strings [`languages`] knows, makefiles, Dockerfiles, desktop entries, supervisord, avocado-vt's and Yocto's configurations. What asks for last.

mod avocado;
mod image;
mod languages;
mod lines;
mod listing;
mod literals;
mod makefile;
mod settings;

use self::lines::logical_lines;
use super::chars::{Command, Embedded, verbatim};
use super::commands;
use super::format::{Beside, Document, Format, Reading, Unreadable};
use super::lexed::Lexed;
use super::quote_style::QuoteStyle;
use super::templates::{Masked, all_expressions};
use crate::share::backend::Backend;
use crate::share::rewrite::{Edits, Refusal, Rewrite};
use crate::sources::shell;

/// Launchers in other languages.
pub(super) struct Launcher;

/// Files for people, not for machines.
const PROSE: &[&str] = &[
    "md", "markdown", "txt", "text", "rst", "log", "html", "htm", "adoc", "tex", "texi", "org", "csv", "eml",
    "mbox", "diff", "patch", "rej", "po", "pot", "hx",
];

/// Names of such files, alone or with an extension.
const PROSE_NAMES: &[&str] = &["README", "CHANGELOG", "NEWS", "COPYING", "LICENSE", "NOTES", "TODO"];

/// What no file of ours lacks.
const MARKS: &[&[u8]] =
    &[b"-fsdev", b"-virtfs", b"fsdriver", b"virtfs-proxy-helper", b"fs_driver", b"proxy,"];

impl Format for Launcher {
    fn name(&self) -> &'static str {
        "launcher"
    }

    fn recognises(&self, document: &Document) -> bool {
        let bytes = document.bytes;
        commands::is_candidate(bytes)
            && !is_prose(document)
            && !bytes.iter().take(4096).any(|byte| *byte == 0)
            && MARKS.iter().any(|mark| memchr::memmem::find(bytes, mark).is_some())
    }

    fn read_beside(&self, document: &Document, _beside: Option<&dyn Beside>) -> Result<Reading, Unreadable> {
        commands::refuse_long(document.bytes)?;
        let mut reading = commands::read(document, &lex(document));
        if Backend::sought() == Backend::Proxy {
            reading.shares.extend(avocado::shares(document));
        }
        Ok(reading)
    }

    fn rewrite_beside(
        &self,
        document: &Document,
        how: &Rewrite,
        _beside: Option<&dyn Beside>,
    ) -> Result<Edits, Refusal> {
        commands::refuse_long(document.bytes).map_err(Unreadable::refusal)?;
        if listing::is_one(document.bytes) {
            return Err(Refusal::at(None, "it lists running processes", "rewrite what starts them"));
        }
        if let Some(share) = avocado::shares(document).first() {
            return Err(Refusal::at(
                share.place.line,
                "avocado-vt makes the arguments from these settings",
                "set 9p_fs_driver = local and 9p_security_model = mapped-xattr by hand",
            ));
        }
        let edits = commands::rewrite(document, &lex(document), how)?;
        shell::cron::refuse_percent(document, &edits)?;
        Ok(edits)
    }
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map(|(_, extension)| extension).unwrap_or_default()
}

/// The name that tells the format.
fn name_of(document: &Document) -> String {
    let path = document.telling_path().unwrap_or_default();
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a file of that name is of a programming language's.
pub(super) fn is_language(name: &str) -> bool {
    languages::of(name, b"").is_some()
}

/// Whether a document is for people, by its name.
pub(super) fn is_prose(document: &Document) -> bool {
    let name = name_of(document);
    // cloud-init keeps what it runs as user-data.txt.
    let is_run = [&b"#!"[..], b"#cloud-config"].iter().any(|start| document.bytes.starts_with(start));
    if is_language(&name) || is_run {
        return false;
    }
    let is_named = PROSE_NAMES.iter().any(|own| {
        let rest = name.get(..own.len()).filter(|start| start.eq_ignore_ascii_case(own)).map(|_| own.len());
        // In lower case it may be the first part of a program's name.
        rest.and_then(|at| name.get(at..))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || name.starts_with(own))
    });
    PROSE.contains(&extension(&name).to_ascii_lowercase().as_str())
        || name.ends_with("_history")
        || is_named
        || name.contains(".log.")
        || is_manual_page(&name, document.bytes)
}

/// Whether a file is a manual's page: its section is its extension, and it begins with a request of roff's.
fn is_manual_page(name: &str, text: &[u8]) -> bool {
    let section = extension(name).as_bytes();
    section.first().is_some_and(u8::is_ascii_digit) && matches!(text.first(), Some(b'.' | b'\''))
}

fn lex(document: &Document) -> Lexed {
    let masked = Masked::of(document);
    masked.restore(lex_plain(&Document { bytes: masked.bytes(), ..*document }))
}

fn lex_plain(document: &Document) -> Lexed {
    let name = name_of(document);
    let first = document.bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // xl reads its guests' configuration as lists of strings.
    let is_xen = memchr::memmem::find(document.bytes, b"device_model_args").is_some();
    let language = languages::of(&name, first).or(is_xen.then_some(&languages::PYTHON));
    if let Some(language) = language {
        return literals::lex(document.bytes, language);
    }
    if makefile::is_one(&name) {
        return makefile::lex(document.bytes);
    }
    if image::is_one(&name) {
        return image::lex(document.bytes);
    }
    if let Some(lexed) = settings::lex(document.bytes) {
        return lexed;
    }
    if let Some(lexed) = bare_arguments(document.bytes) {
        return lexed;
    }
    // Nearly a shell's, as a whole or line by line.
    shell::lex_text(document.bytes).unwrap_or_else(|_| by_lines(document.bytes))
}

/// A file of nothing but arguments, on as many lines as it pleases.
fn bare_arguments(file: &[u8]) -> Option<Lexed> {
    let mut lines = file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"))?;
    if !first.starts_with(b"-") || first.starts_with(b"---") || first.starts_with(b"- ") {
        return None;
    }
    // Nobody says who expands a variable here, or whether anybody does.
    let masked = Masked::hiding(file, all_expressions(file));
    let words = super::proxmox::words(masked.bytes(), 0..file.len()).ok()?;
    let lexed = Lexed { commands: vec![Command { words, guest: None }], ..Lexed::default() };
    Some(masked.restore(lexed))
}

/// Each line that could hold something, with its continuations, as a shell's.
fn by_lines(file: &[u8]) -> Lexed {
    let mut lexed = Lexed::default();
    for line in logical_lines(file) {
        if commands::is_candidate(file.get(line.clone()).unwrap_or_default()) {
            let chars = verbatim(file, line, QuoteStyle::Verbatim);
            lexed.embedded.push(Embedded { chars, name: None, guest: None });
        }
    }
    lexed
}

#[cfg(test)]
mod tests;
