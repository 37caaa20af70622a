//! Compressed texts: gzip, xz and zstd are unpacked, up to the length that is read of any file; others are told.

#![forbid(unsafe_code)]

use std::io::{self, BufReader, Read, Write};

use super::host::MAX_FILE;

/// How other compressed files and containers begin, and what they are.
const OTHERS: &[(&[u8], &str)] = &[
    (b"BZh", "compressed by bzip2"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x04\x22\x4d\x18", "compressed by lz4"),
    (b"\x5d\x00\x00", "compressed by lzma"),
    (b"LZIP", "compressed by lzip"),
    (b"\x89LZO\0", "compressed by lzop"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"!<arch>\n", "an archive of ar, such as a Debian package"),
    (b"\xed\xab\xee\xdb", "an RPM package"),
    (b"hsqs", "a SquashFS image"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"KDMV", "a VMDK disk image"),
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
    let unpacked = match bytes {
        [0x1f, 0x8b, ..] => read_bounded(flate2::read::MultiGzDecoder::new(bytes)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unpack_xz(bytes),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => unpack_zstd(bytes),
        _ => {
            let other = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic));
            return other.map_or(Packed::Not, |(_, what)| {
                Packed::Unread(format!("it is {what}: unpack it, and audit what it holds"))
            });
        }
    };
    match unpacked {
        Ok(text) => Packed::Text(text),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Packed::Unread(format!("unpacked, it is longer than {} MiB", MAX_FILE >> 20))
        }
        Err(error) => Packed::Unread(format!("it can't be unpacked: {error}")),
    }
}

fn unpack_xz(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Bounded::default();
    let mut input = BufReader::new(bytes);
    lzma_rs::xz_decompress(&mut input, &mut out).map_err(|error| match error {
        lzma_rs::error::Error::IoError(error) => error,
        other => io::Error::other(format!("{other:?}")),
    })?;
    Ok(out.0)
}

fn unpack_zstd(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut rest = bytes;
    let mut all = Vec::new();
    // Frames follow each other.
    while !rest.is_empty() {
        let decoder = ruzstd::decoding::StreamingDecoder::new(&mut rest);
        all.extend(read_bounded(decoder.map_err(|error| io::Error::other(error.to_string()))?)?);
        if all.len() as u64 > MAX_FILE {
            return Err(too_long());
        }
    }
    Ok(all)
}

fn read_bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE { Err(too_long()) } else { Ok(text) }
}

fn too_long() -> io::Error {
    io::Error::from(io::ErrorKind::FileTooLarge)
}

/// Takes what is unpacked, up to the bound.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > MAX_FILE {
            return Err(too_long());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        for program in
            [&["gzip", "-c"][..], &["xz", "-c"], &["xz", "-0", "-c", "--check=crc32"], &["zstd", "-c", "-q"]]
        {
            let once = packed(program, &text);
            assert_eq!(unpack(&once), Packed::Text(text.clone()), "{program:?}");
            let cut = unpack(&once[..once.len() / 2]);
            assert!(matches!(cut, Packed::Unread(_)), "{program:?}");
            let Packed::Unread(reason) = unpack(&packed(program, &long)) else { panic!("{program:?}") };
            assert_eq!(reason, "unpacked, it is longer than 16 MiB", "{program:?}");
        }
        for program in [&["gzip", "-c"][..], &["zstd", "-c", "-q"]] {
            let twice = packed(program, &text).repeat(2);
            assert_eq!(unpack(&twice), Packed::Text(text.repeat(2)), "{program:?}");
        }
        assert_eq!(unpack(&text), Packed::Not);
        assert!(matches!(unpack(b"BZh91AY"), Packed::Unread(_)));
    }
}
