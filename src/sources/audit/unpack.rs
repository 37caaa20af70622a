//! Compressed texts: gzip is unpacked, up to the length that is read of any file; others are told.

#![forbid(unsafe_code)]

use std::io::{self, Read};

use super::host::MAX_FILE;

/// How a gzip file begins.
const GZIP: &[u8] = b"\x1f\x8b";

/// How other compressed files and containers begin, what they are, and the program that unpacks a single compressed file.
const OTHERS: &[(&[u8], &str, Option<&str>)] = &[
    (b"\xfd7zXZ\0", "compressed by xz", Some("xz")),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", Some("zstd")),
    (b"BZh", "compressed by bzip2", Some("bzip2")),
    (b"PK\x03\x04", "a ZIP archive", None),
    (b"\x04\x22\x4d\x18", "compressed by lz4", Some("lz4")),
    (b"\x5d\x00\x00", "compressed by lzma", Some("xz")),
    (b"LZIP", "compressed by lzip", Some("lzip")),
    (b"\x89LZO\0", "compressed by lzop", Some("lzop")),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", None),
    (b"Rar!", "a RAR archive", None),
    (b"!<arch>\n", "an archive of ar, such as a Debian package", None),
    (b"\xed\xab\xee\xdb", "an RPM package", None),
    (b"hsqs", "a SquashFS image", None),
    (b"QFI\xfb", "a qcow2 disk image", None),
    (b"KDMV", "a VMDK disk image", None),
];

/// What a file's bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Packed {
    /// Not compressed.
    Not,
    /// Compressed: what it holds.
    Text(Vec<u8>),
    /// Compressed, and why it is not read.
    Unread(String),
}

/// Unpacks a file.
pub fn unpack(bytes: &[u8]) -> Packed {
    if !bytes.starts_with(GZIP) {
        let other = OTHERS.iter().find(|(magic, ..)| bytes.starts_with(magic));
        return other.map_or(Packed::Not, |(_, what, tool)| Packed::Unread(told(what, *tool)));
    }
    let unpacked = read_bounded(flate2::read::MultiGzDecoder::new(bytes));
    match unpacked {
        Ok(text) => Packed::Text(text),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Packed::Unread(format!("unpacked, it is longer than {} MiB", MAX_FILE >> 20))
        }
        Err(error) => Packed::Unread(format!("it can't be unpacked: {error}")),
    }
}

/// Why a file is not read, and how its content can be.
fn told(what: &str, tool: Option<&str>) -> String {
    match tool {
        Some(tool) => {
            format!(
                "it is {what}: audit its content with `{tool} -dc FILE | virtfs-proxy-helper migrate audit -`"
            )
        }
        None => format!("it is {what}: unpack it into an empty folder, and audit that folder"),
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
    fn other_compressed_files_are_told() {
        for (program, name) in [(&["xz", "-c"][..], "xz"), (&["zstd", "-c", "-q"], "zstd")] {
            let Packed::Unread(reason) = unpack(&packed(program, b"x")) else { panic!("{name}") };
            let command = format!("`{name} -dc FILE | virtfs-proxy-helper migrate audit -`");
            assert_eq!(reason, format!("it is compressed by {name}: audit its content with {command}"));
        }
        assert!(matches!(unpack(b"BZh91AY"), Packed::Unread(_)));
        let Packed::Unread(reason) = unpack(b"PK\x03\x04") else { panic!("a ZIP archive") };
        assert_eq!(reason, "it is a ZIP archive: unpack it into an empty folder, and audit that folder");
    }
}
