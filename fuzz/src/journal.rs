//! A conversion's journal, as a crash, a bad disk or an attacker may have left it.

use std::io::Write as _;

use virtfs_proxy_helper::internals::data::{Journal, MAGIC};

/// Opens a journal and reads all of it. With a first byte of `#` the input is one; otherwise it is made of frames (kind,
/// length, payload) that get the checksums which let them pass.
pub fn journal(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a scratch file");
    let content = match bytes.split_first() {
        Some((b'#', rest)) => rest.to_vec(),
        _ => with_checksums(bytes),
    };
    file.write_all(&content).expect("a journal's bytes");
    let Ok(journal) = Journal::open(file.path()) else { return };
    assert!(journal.len() + journal.torn() == content.len() as u64);
    let Ok(listings) = journal.listings() else { return };
    // A listing that can't be read must not come again for good.
    for listing in listings.take(content.len()) {
        if listing.is_err() {
            return;
        }
    }
}

fn with_checksums(mut bytes: &[u8]) -> Vec<u8> {
    let mut journal = MAGIC.to_vec();
    while let Some(([kind, low, high], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        let length = u32::try_from(length).unwrap_or(0).to_le_bytes();
        let mut crc = crc32fast::Hasher::new();
        for part in [&length[..], &[*kind], payload] {
            crc.update(part);
        }
        journal.extend(length);
        journal.extend(crc.finalize().to_le_bytes());
        journal.push(*kind);
        journal.extend(payload);
        bytes = rest;
    }
    journal
}
