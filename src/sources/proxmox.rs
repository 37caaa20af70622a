//! Proxmox VE's guest configurations: `args:`, in the guest's own section, the pending one and each snapshot's.

use super::chars::{Char, Chars, Command, Lines, Word, verbatim};
use super::commands;
use super::format::{Beside, Document, Format, Reading, Unreadable};
use super::lexed::Lexed;
use super::quote_style::QuoteStyle;
use super::templates::Masked;
use crate::share::rewrite::{Edits, Refusal, Rewrite};

/// Guest configurations below /etc/pve/qemu-server.
pub(super) struct Proxmox;

/// Settings by which a guest's configuration is told from other files of `key: value` lines.
const SETTINGS: &[&[u8]] = &[
    b"name: ",
    b"memory: ",
    b"cores: ",
    b"sockets: ",
    b"ostype: ",
    b"scsihw: ",
    b"net0: ",
    b"boot: ",
    b"smbios1: ",
    b"vmgenid: ",
    b"bios: ",
    b"machine: ",
    b"cpu: ",
    b"onboot: ",
    b"scsi0: ",
    b"virtio0: ",
    b"meta: ",
    b"parent: ",
];

impl Format for Proxmox {
    fn name(&self) -> &'static str {
        "proxmox"
    }

    fn recognises(&self, document: &Document) -> bool {
        let path = document.telling_path().unwrap_or_default();
        let path = path.to_string_lossy();
        if path.ends_with(".conf") && path.contains("/qemu-server/") {
            return true;
        }
        let named = path.is_empty() || path.ends_with(".conf");
        let mut args = false;
        let mut settings = 0;
        for (_, line) in lines(document.bytes).take(512) {
            args |= line.starts_with(b"args:");
            settings += usize::from(SETTINGS.iter().any(|setting| line.starts_with(setting)));
        }
        named && args && settings > 0
    }

    fn read_beside(&self, document: &Document, _beside: Option<&dyn Beside>) -> Result<Reading, Unreadable> {
        if !commands::is_candidate(document.bytes) {
            return Ok(Reading::default());
        }
        Ok(commands::read(document, &lex(document)?))
    }

    fn rewrite_beside(
        &self,
        document: &Document,
        how: &Rewrite,
        _beside: Option<&dyn Beside>,
    ) -> Result<Edits, Refusal> {
        commands::rewrite(document, &lex(document).map_err(Unreadable::refusal)?, how)
    }
}

/// The lines with their offsets, without what ends them.
fn lines(file: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    file.split(|byte| *byte == b'\n').map(move |line| {
        let start = at;
        at += line.len() + 1;
        (start, line.strip_suffix(b"\r").unwrap_or(line))
    })
}

fn lex(document: &Document) -> Result<Lexed, Unreadable> {
    let masked = Masked::of_bracketed(document, false);
    let file = masked.bytes();
    commands::refuse_long(file)?;
    let mut lexed = Lexed::default();
    let path = document.telling_path().unwrap_or_default();
    let number = path.file_stem().and_then(|stem| stem.to_str());
    let number = number.filter(|stem| stem.bytes().all(|byte| byte.is_ascii_digit()));
    let mut name: Option<Vec<u8>> = number.map(|number| number.as_bytes().to_vec());
    // The name may stand behind the arguments.
    let mut named = lines(file).take_while(|(_, line)| !line.starts_with(b"["));
    if let Some(value) = named.find_map(|(_, line)| line.strip_prefix(b"name:")) {
        name = Some(value.trim_ascii().to_vec());
    }
    for (start, line) in lines(file) {
        if let Some(value) = line.strip_prefix(b"args:") {
            let words = words(file, start + line.len() - value.len()..start + line.len())?;
            lexed.commands.push(Command { words, guest: name.clone() });
        }
    }
    Ok(masked.restore(lexed))
}

/// Takes a line apart the way Perl's shellwords does: quotes and backslashes, no variables.
pub(super) fn words(file: &[u8], range: std::ops::Range<usize>) -> Result<Vec<Word>, Unreadable> {
    let mut words = Vec::new();
    let mut chars: Chars = Vec::new();
    let mut start: Option<usize> = None;
    let mut quote: Option<(u8, usize)> = None;
    let mut at = range.start;
    while at < range.end {
        let byte = file.get(at).copied().unwrap_or_default();
        let spelt = match quote {
            Some((b'\'', _)) => QuoteStyle::ShellSingle,
            Some(_) => QuoteStyle::ShellDouble,
            None => QuoteStyle::ShellBare,
        };
        match (byte, quote) {
            (byte, None) if byte.is_ascii_whitespace() => {
                if let Some(start) = start.take() {
                    words.push(Word { chars: std::mem::take(&mut chars), span: start..at });
                }
            }
            (b'\'' | b'"', None) => {
                quote = Some((byte, at));
                start.get_or_insert(at);
            }
            (byte, Some((open, _))) if byte == open => quote = None,
            (b'\\', _) if spelt != QuoteStyle::ShellSingle && at + 1 < range.end => {
                start.get_or_insert(at);
                let escaped = file.get(at + 1).copied().unwrap_or_default();
                chars.push(Char::new(escaped, at..at + 2, spelt));
                at += 1;
            }
            _ => {
                start.get_or_insert(at);
                chars.extend(verbatim(file, at..at + 1, spelt));
            }
        }
        at += 1;
    }
    if let Some((_, open)) = quote {
        let line = Some(Lines::new(file).line(open));
        return Err(Unreadable { line, reason: "the quote that opens here is not closed".to_owned() });
    }
    if let Some(start) = start {
        words.push(Word { chars, span: start..range.end });
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::rewrite::apply;
    use std::path::Path;

    const GUEST: &str = "#the web server\nargs: -fsdev 'proxy,id=fs0,socket=/run/a.sock' -device \
                         virtio-9p-pci,fsdev=fs0,mount_tag=t\nmemory: 512\nname: web\n\n[PENDING]\nargs: -virtfs \
                         proxy,id=p,mount_tag=p,socket=/b\n\n[before]\nargs: -virtfs \
                         \"proxy,id=s,mount_tag=s,socket=/c d\"\nsnaptime: 1\n";

    #[test]
    fn every_section_is_read_and_rewritten() {
        let path = Path::new("/etc/pve/qemu-server/100.conf");
        let document = Document { path: Some(path), bytes: GUEST.as_bytes() };
        assert!(Proxmox.recognises(&document));
        let shares = Proxmox.read(&document).unwrap().shares;
        let found: Vec<_> =
            shares.iter().map(|share| (share.place.line, share.place.guest.clone())).collect();
        assert_eq!(found, [2, 7, 10].map(|line| (Some(line), Some(b"web".to_vec()))));
        let exports = [(&b"fs0"[..], "/x"), (b"p", "/y"), (b"s", "/z z")];
        let exports = exports.map(|(name, path)| (name.to_vec(), path.into())).to_vec();
        let how = Rewrite { exports, ..Rewrite::default() };
        let edits = Proxmox.rewrite(&document, &how).unwrap();
        let new = String::from_utf8(apply(GUEST.as_bytes(), &edits.edits)).unwrap();
        let model = "security_model=mapped-xattr";
        let expected = GUEST
            .replace("proxy", "local")
            .replace("socket=/run/a.sock", &format!("path=/x,{model}"))
            .replace("socket=/b", &format!("path=/y,{model}"))
            .replace("socket=/c d", &format!("path=/z z,{model}"));
        assert_eq!(new, expected);
    }

    #[test]
    fn other_files_are_none() {
        for (path, text) in
            [("/x.conf", "args: -v\n"), ("/etc/x.yaml", "args: x\nname: y\n"), ("/y.conf", "")]
        {
            let document = Document { path: Some(Path::new(path)), bytes: text.as_bytes() };
            assert!(!Proxmox.recognises(&document), "{path}");
        }
    }
}
