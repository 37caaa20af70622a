//! Cron tables, in which a `%` ends the command.

use crate::share::rewrite::{Edits, Refusal};
use crate::sources::format::Document;

/// Stops at a new `%` in a cron table.
pub(crate) fn refuse_percent(document: &Document, edits: &Edits) -> Result<(), Refusal> {
    let table = is_named(document);
    let ends = |at: usize| table || is_job(line_at(document.bytes, at));
    match edits.edits.iter().find(|edit| edit.with.contains(&b'%') && ends(edit.span.start)) {
        Some(edit) => Err(Refusal::at(
            Some(crate::sources::chars::Lines::new(document.bytes).line(edit.span.start)),
            "a % in the directory's name would end the command of a cron table",
            "give the directory another name, or start the guest from a script",
        )),
        None => Ok(()),
    }
}

/// Whether a file is a cron table by its name.
fn is_named(document: &Document) -> bool {
    let path = document.telling_path().unwrap_or_default();
    let path = path.to_string_lossy();
    ["/etc/cron.d/", "/var/spool/cron/"].iter().any(|place| path.contains(place))
        || [".cron", ".crontab", "/crontab"].iter().any(|suffix| path.ends_with(suffix))
}

fn line_at(bytes: &[u8], at: usize) -> &[u8] {
    let (before, behind) = bytes.split_at(at.min(bytes.len()));
    let start = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
    let end = memchr::memchr(b'\n', behind).map_or(bytes.len(), |end| at + end);
    bytes.get(start..end).unwrap_or_default()
}

/// Whether a line is a job: `crontab -l` prints them to a file of any name.
fn is_job(line: &[u8]) -> bool {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let times = |word: &[u8]| {
        word.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b'*')
            && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"*/,-~".contains(byte))
    };
    let shortcuts: [&[u8]; 8] =
        [b"@reboot", b"@yearly", b"@annually", b"@monthly", b"@weekly", b"@daily", b"@midnight", b"@hourly"];
    let mut first = words.clone();
    first.next().is_some_and(|word| shortcuts.contains(&word))
        || words.by_ref().take(3).filter(|word| times(word)).count() == 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_told_from_commands() {
        for (line, expected) in [
            ("@reboot qemu -virtfs x", true),
            ("*/5 * * * * qemu", true),
            ("0 4 1,15 * mon-fri root qemu", true),
            ("  0 4 * * * qemu", true),
            ("qemu -m 1 2 3", false),
            ("# 0 4 * * *", false),
            ("", false),
        ] {
            assert_eq!(is_job(line.as_bytes()), expected, "{line}");
        }
    }
}
