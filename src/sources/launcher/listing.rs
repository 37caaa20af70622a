//! Listings of running processes (`ps`, `pgrep -a`, `systemd-cgls`): shares are found in them, and none is rewritten.

use crate::sources::commands;

/// Whether a text lists processes.
pub(super) fn is_one(text: &[u8]) -> bool {
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let Some(first) = lines.clone().next() else { return false };
    let words: Vec<_> = first.split(u8::is_ascii_whitespace).collect();
    let has = |names: &[&[u8]]| words.iter().any(|word| names.contains(word));
    if has(&[b"PID"]) && has(&[b"CMD", b"COMMAND", b"ARGS"]) {
        return true;
    }
    let mut told = lines.by_ref().filter(|line| commands::is_candidate(line)).peekable();
    told.peek().is_some() && told.all(is_entry)
}

/// `PID COMMAND …`, behind the lines of a tree.
fn is_entry(line: &[u8]) -> bool {
    let start =
        line.iter().position(|byte| byte.is_ascii_alphanumeric() || *byte == b'/').unwrap_or(line.len());
    let rest = line.get(start..).unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let behind = rest.get(digits..).unwrap_or_default();
    let program = behind.trim_ascii_start().split(u8::is_ascii_whitespace).next().unwrap_or_default();
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    digits > 0
        && behind.first().is_some_and(u8::is_ascii_whitespace)
        && (name.starts_with(b"qemu") || name == b"kvm" || name == b"virtfs-proxy-helper")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_told_from_scripts() {
        for (text, expected) in [
            ("USER PID COMMAND\nroot 1 qemu -virtfs proxy,x\n", true),
            ("UID          PID    PPID  C STIME TTY          TIME CMD\nroot 1 0 0 x ? 0 qemu proxy\n", true),
            ("12 /usr/bin/qemu-system-x86_64 -virtfs proxy,socket=/a\n", true),
            ("├─vm.service\n│ └─812 /usr/bin/qemu-system-x86_64 -fsdev proxy,id=a\n", true),
            ("qemu -virtfs proxy,x\n", false),
            ("#!/bin/sh\necho $PID COMMAND\nqemu -virtfs proxy,x\n", false),
            ("1 some text about proxy\n", false),
            ("", false),
        ] {
            assert_eq!(is_one(text.as_bytes()), expected, "{text}");
        }
    }
}
