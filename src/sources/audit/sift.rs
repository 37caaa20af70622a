//! Which files are worth a reader: a look through the bytes of each, in pieces, into one buffer that is kept.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::host::{Host, MAX_FILE};
use crate::sources::libvirt::is_saved_image;
use crate::sources::mention::{Finders, Mentions, OVERLAP, can_hold, spells_word};

/// How much is read at first, in bytes. Most files end there.
const FIRST: usize = 64 << 10;

/// How much is read at once of a longer file, in bytes.
const PIECE: usize = 256 << 10;

/// How much of a file says whether it is text, in bytes.
const TELLING: usize = 4096;

/// The longest file that is handed to a reader for its words alone, in bytes. A longer one must name a share's options or
/// the helper.
const WORDS_TELL: u64 = 1 << 20;

/// What a program begins with.
pub(super) const PROGRAM: &[u8] = b"\x7fELF";

/// Looks through files, one after the other.
#[derive(Debug)]
pub(super) struct Sieve {
    finders: Finders,
    buffer: Vec<u8>,
    /// How long the file is whose every byte is at the buffer's beginning.
    whole: usize,
}

/// What a look through a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sifted {
    /// It can hold nothing of ours.
    Nothing,
    /// A program, a picture, a disk, an archive: it was not looked through to its end.
    Binary,
    /// It may hold something: a reader has to see.
    Candidate,
    /// It may hold something, and is longer than any reader takes.
    TooLong,
    /// Not a regular file.
    Special,
}

impl Default for Sieve {
    fn default() -> Self {
        Self { finders: Finders::default(), buffer: vec![0; PIECE + OVERLAP], whole: 0 }
    }
}

impl Sieve {
    /// Looks through a file. `listed`: a folder's listing just said that it is a regular one.
    pub(super) fn sift(&mut self, host: &Host, path: &Path, listed: bool) -> io::Result<Sifted> {
        self.whole = 0;
        let Some(mut file) = host.open_listed(path, listed)? else { return Ok(Sifted::Special) };
        let mut filled = self.fill(&mut file, 0, FIRST)?;
        let mut ended = filled < FIRST;
        let start = self.buffer.get(..filled).unwrap_or_default();
        if start.starts_with(PROGRAM) {
            return Ok(Sifted::Binary);
        }
        if is_saved_image(start) {
            return Ok(Sifted::Candidate);
        }
        if ended {
            self.whole = filled;
            if is_socket_unit(path) {
                return Ok(Sifted::Candidate);
            }
        } else if is_binary(start) {
            return Ok(Sifted::Binary);
        }
        let mut mentions = Mentions::default();
        mentions.take_start(start);
        let mut length = None;
        loop {
            mentions.take(self.buffer.get(..filled).unwrap_or_default(), &self.finders);
            if mentions.are_enough() {
                let length = match length {
                    None if ended => 0,
                    None => *length.insert(file.metadata()?.len()),
                    Some(known) => known,
                };
                // A long list of words holds these, too.
                if length <= WORDS_TELL || mentions.are_certain() {
                    return Ok(if length > MAX_FILE { Sifted::TooLong } else { Sifted::Candidate });
                }
            }
            if ended {
                break;
            }
            let kept = filled.min(OVERLAP);
            self.buffer.copy_within(filled - kept..filled, 0);
            let read = self.fill(&mut file, kept, PIECE)?;
            ended = read < PIECE;
            filled = kept + read;
        }
        if !mentions.may_be_escaped() {
            return Ok(Sifted::Nothing);
        }
        match self.whole() {
            Some(bytes) => Ok(if can_hold(bytes) { Sifted::Candidate } else { Sifted::Nothing }),
            None => self.sift_escapes(file),
        }
    }

    /// Whether escapes in a file of several pieces spell the word.
    fn sift_escapes(&mut self, mut file: File) -> io::Result<Sifted> {
        file.rewind()?;
        let mut kept = 0;
        let mut total = 0;
        let mut spelt = false;
        loop {
            let read = self.fill(&mut file, kept, PIECE)?;
            total += read as u64;
            spelt = spelt || spells_word(self.buffer.get(..kept + read).unwrap_or_default());
            if read < PIECE || total > MAX_FILE && spelt {
                break;
            }
            let filled = kept + read;
            kept = OVERLAP;
            self.buffer.copy_within(filled - kept..filled, 0);
        }
        Ok(match spelt {
            false => Sifted::Nothing,
            true if total > MAX_FILE => Sifted::TooLong,
            true => Sifted::Candidate,
        })
    }

    /// Whether a file can hold something of ours, binary or not, by all of its bytes.
    pub(super) fn sift_all(&mut self, host: &Host, path: &Path) -> io::Result<bool> {
        let Some(mut file) = host.open_listed(path, false)? else { return Ok(false) };
        let mut mentions = Mentions::default();
        let mut kept = 0;
        loop {
            let read = self.fill(&mut file, kept, PIECE)?;
            let piece = self.buffer.get(..kept + read).unwrap_or_default();
            if kept == 0 {
                mentions.take_start(piece);
            }
            mentions.take(piece, &self.finders);
            if mentions.are_certain() || read < PIECE {
                return Ok(mentions.are_enough());
            }
            let filled = kept + read;
            kept = OVERLAP;
            self.buffer.copy_within(filled - kept..filled, 0);
        }
    }

    /// All of the file that was looked at last, if it is short.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        self.buffer.get(..self.whole).filter(|bytes| !bytes.is_empty())
    }

    /// Reads up to `most` bytes to the place `at` of the buffer; fewer at the file's end only.
    fn fill(&mut self, file: &mut File, at: usize, most: usize) -> io::Result<usize> {
        let room = self.buffer.get_mut(at..at + most).unwrap_or_default();
        let mut filled = 0;
        while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Whether a file says on which socket systemd listens for a helper: it need not name the helper.
fn is_socket_unit(path: &Path) -> bool {
    let ends_with = |path: &Path, end: &[u8]| path.as_os_str().as_bytes().ends_with(end);
    ends_with(path, b".socket") || path.parent().is_some_and(|folder| ends_with(folder, b".socket.d"))
}

/// Whether a file's beginning is that of a binary one: it has NULs, and other bytes that no text has. Arguments that end
/// with NULs are text, and so is UTF-16.
pub(super) fn is_binary(start: &[u8]) -> bool {
    let start = start.get(..start.len().min(TELLING)).unwrap_or_default();
    let is_wide = [&b"\xff\xfe"[..], b"\xfe\xff", b"<\0", b"\0<"].iter().any(|mark| start.starts_with(mark));
    let is_control = |byte: &u8| *byte < b' ' && !matches!(byte, 0 | b'\t' | b'\n' | b'\r' | 0x0c | 0x1b);
    !is_wide && start.contains(&0) && (start.first() == Some(&0) || start.iter().any(is_control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn sifted(bytes: &[u8]) -> Sifted {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, bytes).unwrap();
        Sieve::default().sift(&Host::new(None).unwrap(), &path, false).unwrap()
    }

    #[test]
    fn files_of_every_length_are_looked_through() {
        let share = "-fsdev proxy,id=f";
        for length in [0, FIRST - 8, FIRST, FIRST + PIECE - 8, FIRST + PIECE, FIRST + 3 * PIECE] {
            let text = [vec![b'x'; length], share.into(), vec![b'x'; length]].concat();
            assert_eq!(sifted(&text), Sifted::Candidate, "{length}");
            assert_eq!(sifted(&vec![b'x'; length]), Sifted::Nothing, "{length}");
            let escaped = [vec![b'x'; length], b"-fsdev \\x70roxy,id=f".to_vec()].concat();
            assert_eq!(sifted(&escaped), Sifted::Candidate, "{length}");
        }
        let long = usize::try_from(MAX_FILE).unwrap();
        assert_eq!(sifted(&[share.into(), vec![b'x'; long]].concat()), Sifted::TooLong);
        assert_eq!(sifted(&vec![b'x'; long + 1]), Sifted::Nothing);
        let words = b"list of packages: http-proxy virtfs\n".repeat(long / 30);
        assert_eq!(sifted(&words), Sifted::Nothing);
        for share in ["-fsdev proxy,id=f", "-fsdev proxy,$OPTIONS", "fsdriver = \"proxy\""] {
            let text = [words.clone(), share.into()].concat();
            assert_eq!(sifted(&text), Sifted::TooLong, "{share}");
        }
    }

    #[test]
    fn programs_and_long_binary_files_are_left() {
        assert_eq!(sifted(b"\x7fELF -fsdev proxy,id=f"), Sifted::Binary);
        let tail = vec![b' '; FIRST];
        assert_eq!(sifted(&[b"PNG\0\x01 -fsdev proxy,id=f", &tail[..]].concat()), Sifted::Binary);
        assert_eq!(sifted(b"qemu\0-fsdev\0proxy,id=f\0"), Sifted::Candidate);
        assert_eq!(sifted(&[b"qemu\0-fsdev\0proxy,id=f\0", &tail[..]].concat()), Sifted::Candidate);
    }
}
