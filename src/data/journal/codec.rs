//! Listings and records ↔ bytes, as the journal's documentation says.

use std::ffi::CString;

use super::records::{Format, Listing, NameSum, Record};
use crate::data::entry::{ACCESS_ACL, DEFAULT_ACL, Entry, Time};
use crate::data::identity::{Id, Stamp};

const SAME_MODE: u16 = 1;
const SAME_OWNER: u16 = 1 << 1;
const LINKS: u16 = 1 << 2;
const RDEV: u16 = 1 << 3;
const TARGET: u16 = 1 << 4;
const XATTRS: u16 = 1 << 5;
const SAME_ACCESSED: u16 = 1 << 6;
const SAME_CHANGED: u16 = 1 << 7;
const FLAGS: u16 = 1 << 8;
const BORN: u16 = 1 << 9;
const VOLUME: u16 = 1 << 10;
const HANDLE: u16 = 1 << 11;

/// Bits that no record of a format has.
const fn unknown(format: Format) -> u16 {
    match format {
        Format::One => !0x1ff,
        Format::Two => !0xfff,
    }
}

const LAST: u8 = 1;
const LATE: u8 = 1 << 1;

/// What follows an entry's name.
const RECORD: u8 = 0;
const DIRECTORY: u8 = 1;
const GONE: u8 = 2;

/// Bytes that no writer of this format makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged;

impl std::fmt::Display for Damaged {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the record is damaged")
    }
}

impl std::error::Error for Damaged {}

/// What the next record is told relative to.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    volume: u64,
    number: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: i64,
}

impl Before {
    fn of(record: &Record) -> Self {
        let Record { id: Id { volume, number, .. }, entry, .. } = record;
        let Entry { mode, uid, gid, modified, .. } = entry;
        Self {
            volume: *volume,
            number: *number,
            mode: *mode,
            uid: *uid,
            gid: *gid,
            modified: modified.seconds,
        }
    }
}

/// The entries of a listing in the making.
#[derive(Debug)]
pub(super) struct Entries {
    format: Format,
    bytes: Vec<u8>,
    count: u64,
    before: Before,
}

impl Entries {
    /// Those that follow the directory's own record.
    pub(super) fn after(own: &Record, format: Format) -> Self {
        Self { format, bytes: Vec::new(), count: 0, before: Before::of(own) }
    }

    /// The format of the journal that they are for.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Adds an entry; a directory without record.
    pub(super) fn push(&mut self, name: &[u8], record: Option<&Record>) {
        self.count += 1;
        put_bytes(&mut self.bytes, name);
        self.bytes.push(if record.is_some() { RECORD } else { DIRECTORY });
        if let Some(record) = record {
            put_record(&mut self.bytes, record, self.before, self.format);
            self.before = Before::of(record);
        }
    }

    /// Adds the name of an entry that is not there any more.
    pub(super) fn push_gone(&mut self, name: &[u8]) {
        self.count += 1;
        put_bytes(&mut self.bytes, name);
        self.bytes.push(GONE);
    }

    /// How many bytes they take.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A listing's head: everything but its entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) id: Option<u64>,
    pub(super) parent: Option<u64>,
    pub(super) name: &'a [u8],
    pub(super) late: bool,
    pub(super) own: &'a Record,
    pub(super) names: Option<NameSum>,
}

/// The payload of a listing's frame that starts at `offset`.
pub(super) fn encode(offset: u64, head: Head<'_>, entries: &Entries) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() + head.name.len() + 64);
    let back = |id: Option<u64>| id.map_or(0, |id| offset.wrapping_sub(id));
    bytes.push(if head.names.is_some() { LAST } else { 0 } | if head.late { LATE } else { 0 });
    put_varint(&mut bytes, back(head.id));
    put_varint(&mut bytes, back(head.parent));
    put_bytes(&mut bytes, head.name);
    put_record(&mut bytes, head.own, Before::default(), entries.format);
    if let Some(names) = head.names {
        put_varint(&mut bytes, names.count);
        bytes.extend_from_slice(&names.sum.to_le_bytes());
    }
    put_varint(&mut bytes, entries.count);
    bytes.extend_from_slice(&entries.bytes);
    bytes
}

fn put_record(bytes: &mut Vec<u8>, record: &Record, before: Before, format: Format) {
    let Record { id: Id { volume, number, stamp }, entry, changed, immutable, append_only } = record;
    let count = entry.xattrs.len()
        + usize::from(entry.access_acl.is_some())
        + usize::from(entry.default_acl.is_some());
    let bits = [
        (SAME_MODE, entry.mode == before.mode),
        (SAME_OWNER, (entry.uid, entry.gid) == (before.uid, before.gid)),
        (LINKS, entry.links != 1),
        (RDEV, entry.rdev != 0),
        (TARGET, entry.target.is_some()),
        (XATTRS, count != 0),
        (SAME_ACCESSED, entry.accessed == entry.modified),
        (SAME_CHANGED, *changed == entry.modified),
        (FLAGS, *immutable || *append_only),
        (BORN, matches!(stamp, Stamp::Born(_))),
        (VOLUME, *volume != before.volume),
        (HANDLE, matches!(stamp, Stamp::Handle(_))),
    ];
    let bits = bits.into_iter().filter(|(_, set)| *set).fold(0, |bits, (bit, _)| bits | bit);
    let bits = bits & !unknown(format);
    bytes.extend_from_slice(&bits.to_le_bytes());
    put_zigzag(bytes, number.wrapping_sub(before.number).cast_signed());
    if bits & VOLUME != 0 {
        put_varint(bytes, *volume);
    }
    if bits & SAME_MODE == 0 {
        put_varint(bytes, entry.mode.into());
    }
    if bits & SAME_OWNER == 0 {
        put_varint(bytes, entry.uid.into());
        put_varint(bytes, entry.gid.into());
    }
    if bits & LINKS != 0 {
        put_varint(bytes, entry.links);
    }
    if bits & RDEV != 0 {
        put_varint(bytes, entry.rdev);
    }
    put_varint(bytes, entry.size);
    put_time(bytes, entry.modified, before.modified);
    if bits & SAME_ACCESSED == 0 {
        put_time(bytes, entry.accessed, entry.modified.seconds);
    }
    if bits & SAME_CHANGED == 0 {
        put_time(bytes, *changed, entry.modified.seconds);
    }
    match stamp {
        Stamp::Born(born) if bits & BORN != 0 => put_time(bytes, *born, entry.modified.seconds),
        Stamp::Handle(handle) if bits & HANDLE != 0 => bytes.extend_from_slice(&handle.to_le_bytes()),
        _ => {}
    }
    if bits & FLAGS != 0 {
        bytes.push(u8::from(*immutable) | u8::from(*append_only) << 1);
    }
    if let Some(target) = &entry.target {
        put_bytes(bytes, target);
    }
    if bits & XATTRS != 0 {
        put_varint(bytes, count as u64);
        let acls = [(ACCESS_ACL, &entry.access_acl), (DEFAULT_ACL, &entry.default_acl)];
        let acls = acls.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let others = entry.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        for (name, value) in acls.chain(others) {
            put_bytes(bytes, name);
            put_bytes(bytes, value);
        }
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn put_zigzag(bytes: &mut Vec<u8>, number: i64) {
    put_varint(bytes, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

fn put_bytes(bytes: &mut Vec<u8>, content: &[u8]) {
    put_varint(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

fn put_time(bytes: &mut Vec<u8>, time: Time, before: i64) {
    put_zigzag(bytes, time.seconds.wrapping_sub(before));
    put_varint(bytes, time.nanoseconds.into());
}

/// Takes the payload of a listing's frame that starts at `offset` apart.
pub(super) fn decode(format: Format, offset: u64, payload: &[u8]) -> Result<Listing, Damaged> {
    let mut bytes = Bytes(payload);
    let (mut listing, last) = decode_head(format, offset, &mut bytes)?;
    if last {
        listing.names = Some(NameSum { count: bytes.varint()?, sum: u64::from_le_bytes(bytes.array()?) });
    }
    let mut before = Before::of(&listing.own);
    for _ in 0..bytes.varint()? {
        let name = bytes.name()?;
        let record = match bytes.byte()? {
            RECORD => Some(bytes.record(before, format)?),
            DIRECTORY => None,
            GONE => {
                listing.gone.push(name);
                continue;
            }
            _ => return Err(Damaged),
        };
        if let Some(record) = &record {
            before = Before::of(record);
        }
        listing.entries.push((name, record));
    }
    if bytes.0.is_empty() { Ok(listing) } else { Err(Damaged) }
}

/// The front of a listing, up to the directory's own record; and whether it is the directory's last part.
fn decode_head(format: Format, offset: u64, bytes: &mut Bytes<'_>) -> Result<(Listing, bool), Damaged> {
    let bits = bytes.byte()?;
    if bits & !(LAST | LATE) != 0 {
        return Err(Damaged);
    }
    let id = offset.checked_sub(bytes.varint()?).ok_or(Damaged)?;
    let parent = match bytes.varint()? {
        0 => None,
        back => Some(offset.checked_sub(back).ok_or(Damaged)?),
    };
    let name = if parent.is_none() { bytes.string()? } else { bytes.name()? };
    let own = bytes.record(Before::default(), format)?;
    if parent.is_none() != name.is_empty() || parent.is_some_and(|parent| parent >= id) {
        return Err(Damaged);
    }
    let late = bits & LATE != 0;
    let (names, entries, gone) = (None, Vec::new(), Vec::new());
    let listing = Listing { format, id, parent, name, late, own, names, entries, gone };
    Ok((listing, bits & LAST != 0))
}

/// The parent's id and the name of a listing of which `payload` is at least the front.
pub(super) fn decode_place(offset: u64, payload: &[u8]) -> Result<(Option<u64>, CString), Damaged> {
    let mut bytes = Bytes(payload);
    bytes.byte()?;
    let id = offset.checked_sub(bytes.varint()?).ok_or(Damaged)?;
    let parent = match bytes.varint()? {
        0 => return Ok((None, bytes.string()?)),
        back => offset.checked_sub(back).ok_or(Damaged)?,
    };
    if parent < id { Ok((Some(parent), bytes.name()?)) } else { Err(Damaged) }
}

/// Bytes that are taken from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        self.take(N)?.try_into().map_err(|_| Damaged)
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn varint(&mut self) -> Result<u64, Damaged> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Damaged);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Damaged)
    }

    fn short(&mut self) -> Result<u32, Damaged> {
        self.varint()?.try_into().map_err(|_| Damaged)
    }

    fn zigzag(&mut self) -> Result<i64, Damaged> {
        let number = self.varint()?;
        Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let length = self.varint()?.try_into().map_err(|_| Damaged)?;
        self.take(length)
    }

    fn string(&mut self) -> Result<CString, Damaged> {
        CString::new(self.bytes()?).map_err(|_| Damaged)
    }

    /// A name that may stand in a directory, and leads nowhere else.
    fn name(&mut self) -> Result<CString, Damaged> {
        let name = self.string()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Damaged),
            bytes if bytes.contains(&b'/') => Err(Damaged),
            _ => Ok(name),
        }
    }

    fn time(&mut self, before: i64) -> Result<Time, Damaged> {
        let seconds = before.wrapping_add(self.zigzag()?);
        let nanoseconds = self.short()?;
        if nanoseconds < 1_000_000_000 { Ok(Time { seconds, nanoseconds }) } else { Err(Damaged) }
    }

    fn record(&mut self, before: Before, format: Format) -> Result<Record, Damaged> {
        let bits = u16::from_le_bytes(self.array()?);
        let has = |bit| bits & bit != 0;
        if bits & unknown(format) != 0 || has(BORN) && has(HANDLE) {
            return Err(Damaged);
        }
        let number = before.number.wrapping_add(self.zigzag()?.cast_unsigned());
        let volume = match format {
            Format::One => Id::ANY_VOLUME,
            Format::Two if has(VOLUME) => self.varint()?,
            Format::Two => before.volume,
        };
        let mode = if has(SAME_MODE) { before.mode } else { self.short()? };
        let (uid, gid) =
            if has(SAME_OWNER) { (before.uid, before.gid) } else { (self.short()?, self.short()?) };
        let links = if has(LINKS) { self.varint()? } else { 1 };
        let rdev = if has(RDEV) { self.varint()? } else { 0 };
        let size = self.varint()?;
        let modified = self.time(before.modified)?;
        let accessed = if has(SAME_ACCESSED) { modified } else { self.time(modified.seconds)? };
        let changed = if has(SAME_CHANGED) { modified } else { self.time(modified.seconds)? };
        let stamp = if has(BORN) {
            Stamp::Born(self.time(modified.seconds)?)
        } else if has(HANDLE) {
            Stamp::Handle(u64::from_le_bytes(self.array()?))
        } else {
            Stamp::None
        };
        let id = Id { volume, number, stamp };
        let flags = if has(FLAGS) { self.byte()? } else { 0 };
        let target = if has(TARGET) { Some(self.bytes()?.to_vec()) } else { None };
        let (access_acl, default_acl, xattrs) = (None, None, Vec::new());
        let mut entry = Entry {
            mode,
            uid,
            gid,
            rdev,
            target,
            access_acl,
            default_acl,
            xattrs,
            size,
            links,
            accessed,
            modified,
        };
        if has(XATTRS) {
            for _ in 0..self.varint()? {
                let name = self.bytes()?;
                entry.push_xattr(name, self.bytes()?.to_vec());
            }
        }
        Ok(Record { id, entry, changed, immutable: flags & 1 != 0, append_only: flags & 2 != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    prop_compose! {
        fn time()(seconds in any::<i64>(), nanoseconds in 0..1_000_000_000_u32) -> Time {
            Time { seconds, nanoseconds }
        }
    }

    prop_compose! {
        fn entry()(
            (mode, uid, gid) in (prop_oneof![Just(0o100_644), any::<u32>()], 0..3_u32, any::<u32>()),
            (rdev, size, links) in (prop_oneof![Just(0), any::<u64>()], any::<u64>(), 0..3_u64),
            target in proptest::option::of(vec(any::<u8>(), 0..40)),
            (accessed, modified, same) in (time(), time(), any::<bool>()),
            xattrs in proptest::collection::btree_map(vec(any::<u8>(), 1..20), vec(any::<u8>(), 0..200), 0..4),
            acl in proptest::option::of(vec(any::<u8>(), 0..40)),
        ) -> Entry {
            let accessed = if same { modified } else { accessed };
            let (access_acl, default_acl) = (acl.clone(), acl);
            let xattrs = xattrs.into_iter().collect();
            Entry { mode, uid, gid, rdev, target, access_acl, default_acl, xattrs, size, links, accessed, modified }
        }
    }

    prop_compose! {
        fn record()(
            (volume, number) in (0..3_u64, any::<u64>()),
            stamp in prop_oneof![
                Just(Stamp::None), time().prop_map(Stamp::Born), any::<u64>().prop_map(Stamp::Handle),
            ],
            entry in entry(), changed in time(), flags in any::<(bool, bool)>(),
        ) -> Record {
            let id = Id { volume, number, stamp };
            Record { id, entry, changed, immutable: flags.0, append_only: flags.1 }
        }
    }

    fn name() -> impl Strategy<Value = CString> {
        let allowed = |name: &Vec<u8>| name != b"." && name != b"..";
        vec(prop_oneof![1..b'/', (b'/' + 1)..=255], 1..30)
            .prop_filter("dots", allowed)
            .prop_map(|name| CString::new(name).unwrap())
    }

    prop_compose! {
        fn listing()(
            (id, parent) in (1000..2000_u64, proptest::option::of(0..1000_u64)),
            (directory, late, own) in (name(), any::<bool>(), record()),
            names in proptest::option::of(any::<(u64, u64)>()),
            entries in vec((name(), proptest::option::of(record())), 0..8),
            gone in vec(name(), 0..3),
            format in prop_oneof![Just(Format::One), Just(Format::Two)],
        ) -> Listing {
            let name = if parent.is_none() { CString::default() } else { directory };
            let names = names.map(|(count, sum)| NameSum { count, sum });
            let mut listing = Listing { format, id, parent, name, late, own, names, entries, gone };
            if format == Format::One {
                let records = listing.entries.iter_mut().filter_map(|(_, record)| record.as_mut());
                for record in records.chain([&mut listing.own]) {
                    record.id = Id { volume: Id::ANY_VOLUME, stamp: Stamp::None, ..record.id };
                }
            }
            listing
        }
    }

    fn encoded(offset: u64, listing: &Listing) -> Vec<u8> {
        let mut entries = Entries::after(&listing.own, listing.format);
        for (name, record) in &listing.entries {
            entries.push(name.to_bytes(), record.as_ref());
        }
        for name in &listing.gone {
            entries.push_gone(name.to_bytes());
        }
        let Listing { id, parent, name, late, own, names, .. } = listing;
        let id = (*id != offset).then_some(*id);
        let head = Head { id, parent: *parent, name: name.to_bytes(), late: *late, own, names: *names };
        encode(offset, head, &entries)
    }

    proptest! {
        #[test]
        fn a_listing_comes_back_as_it_was(listing in listing(), offset in 2000..u64::MAX) {
            let payload = encoded(offset, &listing);
            prop_assert_eq!(decode(listing.format, offset, &payload), Ok(listing.clone()));
            prop_assert_eq!(decode_place(offset, &payload), Ok((listing.parent, listing.name)));
        }

        #[test]
        fn a_cut_listing_is_damaged(listing in listing(), cut in any::<proptest::sample::Index>()) {
            let payload = encoded(5000, &listing);
            let cut = cut.index(payload.len());
            prop_assert_eq!(decode(listing.format, 5000, &payload[..cut]), Err(Damaged));
        }

        #[test]
        fn decode_never_panics(payload in vec(any::<u8>(), 0..300)) {
            for format in Format::ALL {
                let _ = decode(format, 5000, &payload);
            }
            let _ = decode_place(5000, &payload);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            let mut bytes = Vec::new();
            put_bytes(&mut bytes, name);
            assert_eq!(Bytes(&bytes).name(), Err(Damaged), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_record_is_compact() {
        let time = Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
        let entry = Entry {
            mode: 0o100_644,
            uid: 1000,
            gid: 1000,
            rdev: 0,
            target: None,
            access_acl: None,
            default_acl: None,
            xattrs: Vec::new(),
            size: 20_000,
            links: 1,
            accessed: time,
            modified: time,
        };
        let id = Id { volume: 256, number: 1_000_000, stamp: Stamp::Born(time) };
        let record = Record { id, entry, changed: time, immutable: false, append_only: false };
        let next = Record { id: Id { number: id.number + 1, ..id }, ..record.clone() };
        for (format, most) in [(Format::One, 14), (Format::Two, 20)] {
            let mut entries = Entries::after(&record, format);
            entries.push(b"", Some(&next));
            assert!(entries.len() <= most, "{format:?}: {}", entries.len());
        }
    }
}
