//! Compressed texts: gzip is unpacked, up to the length that is read of any file; others are told.

#![forbid(unsafe_code)]

use std::io::{self, Read};

use super::host::MAX_FILE;

/// How a gzip file begins.
const GZIP: &[u8] = b"\x1f\x8b";

/// How other compressed files and containers begin, what they are, and how their content is reached.
const OTHERS: &[(&[u8], &str, By)] = &[
    (b"\xfd7zXZ\0", "compressed by xz", By::Program("xz")),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", By::Program("zstd")),
    (b"BZh", "compressed by bzip2", By::Program("bzip2")),
    (b"PK\x03\x04", "a ZIP archive", By::Unpacking),
    (b"PK\x07\x08", "a ZIP archive", By::Unpacking),
    (b"\x04\x22\x4d\x18", "compressed by lz4", By::Program("lz4")),
    (b"\x02\x21\x4c\x18", "compressed by lz4", By::Program("lz4")),
    (b"\x5d\x00\x00", "compressed by lzma", By::Program("xz")),
    (b"\x1f\x9d", "compressed by compress", By::Program("gzip")),
    (b"\x1f\xa0", "compressed by compress", By::Program("gzip")),
    (b"\x1f\x1e", "compressed by pack", By::Program("gzip")),
    (b"LZIP", "compressed by lzip", By::Program("lzip")),
    (b"LRZI", "compressed by lrzip", By::Unpacking),
    (b"\x89LZO\0", "compressed by lzop", By::Program("lzop")),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", By::Unpacking),
    (b"Rar!", "a RAR archive", By::Unpacking),
    (b"MSCF\0\0", "a cabinet archive", By::Unpacking),
    (b"xar!", "a xar archive", By::Unpacking),
    (b"!<arch>\n", "an archive of ar, such as a Debian package", By::Unpacking),
    (b"\xed\xab\xee\xdb", "an RPM package", By::Unpacking),
    (b"hsqs", "a SquashFS image", By::Unpacking),
    (b"\x45\x3d\xcd\x28", "a cramfs image", By::Unpacking),
    (b"QFI\xfb", "a qcow2 disk image", By::Unpacking),
    (b"KDMV", "a VMDK disk image", By::Unpacking),
    (b"conectix", "a VHD disk image", By::Unpacking),
    (b"vhdxfile", "a VHDX disk image", By::Unpacking),
    (b"$ANSIBLE_VAULT;", "encrypted by ansible-vault", By::Decrypting),
    (b"-----BEGIN PGP MESSAGE-----", "encrypted by PGP", By::Decrypting),
    (b"age-encryption.org/", "encrypted by age", By::Decrypting),
    (b"Salted__", "encrypted by openssl", By::Decrypting),
];

/// The kind of zstd's frames that hold no data: the first byte may be one of sixteen.
const SKIPPABLE: &[u8] = b"\x2a\x4d\x18";

/// How archives that do not compress are known, where their names for it are, and how their files' contents are aligned.
const ARCHIVES: &[(usize, &[u8], usize)] = &[(257, b"ustar", 512), (0, b"070701", 4), (0, b"070702", 4)];

/// How the content of a file is reached.
#[derive(Debug, Clone, Copy)]
enum By {
    /// This program writes it to standard output.
    Program(&'static str),
    /// It holds files.
    Unpacking,
    /// Who has the key knows.
    Decrypting,
}

/// What a file's bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packed {
    /// Not compressed.
    Not,
    /// Compressed: what it holds.
    Text(Vec<u8>),
    /// Compressed, and why it is not read.
    Unread(String),
}

/// Unpacks a file.
pub(crate) fn unpack(bytes: &[u8]) -> Packed {
    if !bytes.starts_with(GZIP) {
        return match known(bytes) {
            Some((what, by)) => Packed::Unread(told(what, by)),
            None if holds_compressed(bytes) => {
                Packed::Unread(told("an archive of compressed files", By::Unpacking))
            }
            None => Packed::Not,
        };
    }
    let unpacked = read_bounded(flate2::read::MultiGzDecoder::new(bytes));
    match unpacked {
        Ok(text) => match unpack_once_more(&text) {
            Some(what) => Packed::Unread(format!("unpacked, it is {what}: unpack it, and audit the result")),
            None => Packed::Text(text),
        },
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Packed::Unread(format!("unpacked, it is longer than {} MiB", MAX_FILE >> 20))
        }
        Err(error) => Packed::Unread(format!("it can't be unpacked: {error}")),
    }
}

/// Whether a file that is longer than what is read of it is an archive: some of its files may be compressed.
pub(super) fn long_archive(start: &[u8]) -> Option<String> {
    archive(start).map(|_| told("an archive", By::Unpacking))
}

/// What compressed bytes are in which others were.
fn unpack_once_more(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(GZIP) {
        return Some("compressed by gzip once more");
    }
    let archive = || holds_compressed(bytes).then_some("an archive of compressed files");
    known(bytes).map(|(what, _)| what).or_else(archive)
}

fn known(bytes: &[u8]) -> Option<(&'static str, By)> {
    if bytes.first().is_some_and(|byte| byte >> 4 == 5) && bytes.get(1..4) == Some(SKIPPABLE) {
        return Some(("compressed by zstd", By::Program("zstd")));
    }
    OTHERS.iter().find(|(magic, ..)| bytes.starts_with(magic)).map(|(_, what, by)| (*what, *by))
}

/// How the files in an archive that does not compress are aligned.
fn archive(bytes: &[u8]) -> Option<usize> {
    let is_it = |at: usize, name: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(name));
    ARCHIVES.iter().find(|(at, name, _)| is_it(*at, name)).map(|(.., aligned)| *aligned)
}

/// Whether a file in an archive that does not compress is compressed itself: what it holds is in no byte of the archive.
fn holds_compressed(bytes: &[u8]) -> bool {
    archive(bytes).is_some_and(|aligned| {
        let begins =
            |chunk: &[u8]| chunk.starts_with(b"\x1f\x8b\x08") || chunk.len() > 8 && known(chunk).is_some();
        (0..bytes.len()).step_by(aligned).any(|at| bytes.get(at..).is_some_and(begins))
    })
}

/// Why a file is not read, and how its content can be.
fn told(what: &str, by: By) -> String {
    match by {
        By::Program(program) => format!(
            "it is {what}: audit its content with `{program} -dc FILE | virtfs-proxy-helper migrate audit -`"
        ),
        By::Unpacking => format!("it is {what}: unpack it into an empty folder, and audit that folder"),
        By::Decrypting => format!("it is {what}: decrypt it, and audit the result"),
    }
}

fn read_bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE { Err(too_long()) } else { Ok(text) }
}

fn too_long() -> io::Error {
    io::Error::from(io::ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// What a program makes of `text`.
    fn packed(program: &[&str], text: &[u8]) -> Vec<u8> {
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let text = text.to_vec();
        let writer = std::thread::spawn(move || input.write_all(&text).unwrap());
        let packed = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap();
        packed
    }

    #[test]
    fn texts_are_unpacked_up_to_the_bound() {
        let text = b"qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\n".repeat(5000);
        let long = vec![b' '; usize::try_from(MAX_FILE).unwrap() + 1];
        let gzip = &["gzip", "-c"][..];
        let once = packed(gzip, &text);
        assert_eq!(unpack(&once), Packed::Text(text.clone()));
        assert_eq!(unpack(&once.repeat(2)), Packed::Text(text.repeat(2)));
        assert!(matches!(unpack(&once[..once.len() / 2]), Packed::Unread(_)));
        let Packed::Unread(reason) = unpack(&packed(gzip, &long)) else { panic!("it is too long") };
        assert_eq!(reason, "unpacked, it is longer than 16 MiB");
        assert_eq!(unpack(&text), Packed::Not);
    }

    #[test]
    fn what_is_compressed_twice_and_archives_of_compressed_files_are_told() {
        let gzip = &["gzip", "-c"][..];
        let once = packed(gzip, b"qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\n");
        for (inner, what) in [
            (once.clone(), "compressed by gzip once more"),
            (packed(&["xz", "-c"], b"x"), "compressed by xz"),
            (b"QFI\xfb".to_vec(), "a qcow2 disk image"),
        ] {
            let told = format!("unpacked, it is {what}: unpack it, and audit the result");
            assert_eq!(unpack(&packed(gzip, &inner)), Packed::Unread(told));
        }
        let dir = tempfile::tempdir().unwrap();
        for (name, content, expected) in [("vm.sh.gz", &once[..], true), ("vm.sh", b"#!/bin/sh\n", false)] {
            std::fs::write(dir.path().join(name), content).unwrap();
            let mut tar = Command::new("tar");
            let tar = tar.args(["-c", "-C"]).arg(dir.path()).arg(name).output().unwrap().stdout;
            assert!(long_archive(&tar).is_some());
            assert_eq!(matches!(unpack(&tar), Packed::Unread(_)), expected, "{name}");
            let is_told = matches!(unpack(&packed(gzip, &tar)), Packed::Unread(_));
            assert_eq!(is_told, expected, "{name}");
        }
        let empty = packed(gzip, b"");
        assert_eq!(unpack(&empty), Packed::Text(Vec::new()));
        for cut in 2..empty.len() {
            assert!(matches!(unpack(&empty[..cut]), Packed::Unread(_)), "{cut}");
        }
    }

    #[test]
    fn other_compressed_files_are_told() {
        for (program, name) in [(&["xz", "-c"][..], "xz"), (&["zstd", "-c", "-q"], "zstd")] {
            let Packed::Unread(reason) = unpack(&packed(program, b"x")) else { panic!("{name}") };
            let command = format!("`{name} -dc FILE | virtfs-proxy-helper migrate audit -`");
            assert_eq!(reason, format!("it is compressed by {name}: audit its content with {command}"));
        }
        for start in
            [&b"BZh91AY"[..], b"\x1f\x9d\x90", b"\x5a\x2a\x4d\x18", b"PK\x07\x08", b"$ANSIBLE_VAULT;1.1"]
        {
            assert!(matches!(unpack(start), Packed::Unread(_)), "{}", start.escape_ascii());
        }
        let Packed::Unread(reason) = unpack(b"PK\x03\x04") else { panic!("a ZIP archive") };
        assert_eq!(reason, "it is a ZIP archive: unpack it into an empty folder, and audit that folder");
    }
}
