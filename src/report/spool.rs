//! Lists that take no more memory the longer they get: rows are kept packed, and from a bound on in an unnamed temporary
//! file. Where none can be written, they stay in memory.

#![forbid(unsafe_code)]

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::marker::PhantomData;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::ser::{Error as _, SerializeSeq as _, Serializer};

/// How many bytes of a list stay in memory.
const IN_MEMORY: usize = 512 << 10;

/// How much is read at once of the file, in bytes.
const PIECE: usize = 8 << 10;

/// How much is read at once where one row is read, in bytes.
const ROW: usize = 1 << 10;

/// Rows in the order in which they came.
#[derive(Debug)]
pub(crate) struct Rows<T> {
    tape: Tape,
    count: usize,
    of: PhantomData<T>,
}

/// Rows that are read in the order of their keys, in whatever order they came. Equal ones stay in the order in which they came.
#[derive(Debug)]
pub(crate) struct Sorted<T: Keyed> {
    /// Rows of which no run was made yet.
    waiting: Vec<(T::Key, Box<[u8]>)>,
    /// The bytes of these.
    weight: usize,
    limit: usize,
    runs: Vec<Run>,
    file: Option<Arc<File>>,
    end: u64,
    count: usize,
}

/// A row that has a place among others.
pub(crate) trait Keyed: Serialize + DeserializeOwned {
    /// What decides on the place.
    type Key: Ord + std::fmt::Debug;

    /// Its key.
    fn key(&self) -> Self::Key;
}

/// Packed rows, each behind its length.
#[derive(Debug)]
struct Tape {
    file: Option<Arc<File>>,
    end: u64,
    memory: Vec<u8>,
    limit: usize,
}

/// A part of a file.
#[derive(Debug, Clone)]
struct Run {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Run {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..left).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Default for Tape {
    fn default() -> Self {
        Self { file: None, end: 0, memory: Vec::new(), limit: IN_MEMORY }
    }
}

impl Tape {
    /// Adds a row, and says where it is.
    fn push(&mut self, row: &[u8]) -> u64 {
        let at = self.end + self.memory.len() as u64;
        frame(row, &mut self.memory);
        if self.memory.len() > self.limit {
            match write_out(&mut self.file, &mut self.end, &self.memory) {
                Ok(_) => self.memory.clear(),
                // A disk that is full must not cost a row.
                Err(_) => self.limit = usize::MAX,
            }
        }
        at
    }

    /// The row that is somewhere.
    fn get(&self, at: u64) -> io::Result<Option<Vec<u8>>> {
        if let Some(file) = self.file.as_ref().filter(|_| at < self.end) {
            return next(&mut BufReader::with_capacity(ROW, Run { file: file.clone(), at, end: self.end }));
        }
        let from = at.checked_sub(self.end).and_then(|from| usize::try_from(from).ok());
        next(&mut from.and_then(|from| self.memory.get(from..)).unwrap_or_default())
    }

    fn rows(&self) -> impl Iterator<Item = io::Result<Vec<u8>>> {
        let filed = self.file.as_ref().map(|file| Run { file: file.clone(), at: 0, end: self.end });
        let mut filed = filed.map(|run| BufReader::with_capacity(PIECE, run));
        let mut memory = self.memory.as_slice();
        std::iter::from_fn(move || {
            let row = filed.as_mut().and_then(|filed| next(filed).transpose());
            row.or_else(|| next(&mut memory).transpose())
        })
    }
}

/// Appends bytes to a temporary file, which is made if there is none yet. What could not be written is overwritten by what
/// comes next.
fn write_out(file: &mut Option<Arc<File>>, end: &mut u64, bytes: &[u8]) -> io::Result<Run> {
    let open = match file {
        Some(file) => file,
        None => file.insert(Arc::new(tempfile::tempfile()?)),
    };
    open.write_all_at(bytes, *end)?;
    let at = *end;
    *end += bytes.len() as u64;
    Ok(Run { file: open.clone(), at, end: *end })
}

/// Puts a row behind its length.
fn frame(row: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(row.len() as u64).to_le_bytes());
    out.extend_from_slice(row);
}

/// The next row of several; `None` at their end.
fn next(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 8];
    match from.read(&mut length)? {
        0 => return Ok(None),
        read => from.read_exact(length.get_mut(read..).unwrap_or_default())?,
    }
    let length = u64::from_le_bytes(length);
    let mut row = Vec::new();
    from.take(length).read_to_end(&mut row)?;
    if row.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(row))
}

fn pack<T: Serialize>(row: &T) -> Vec<u8> {
    // Packing into memory fails only for what has no length, and rows are made of strings, numbers and lists.
    postcard::to_stdvec(row).unwrap_or_default()
}

fn unpack<T: DeserializeOwned>(row: &[u8]) -> io::Result<T> {
    postcard::from_bytes(row).map_err(io::Error::other)
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { tape: Tape::default(), count: 0, of: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned> Rows<T> {
    /// Adds one, and says where it is.
    pub(crate) fn push(&mut self, row: &T) -> u64 {
        self.count += 1;
        self.tape.push(&pack(row))
    }

    /// The one that is somewhere. An error: the temporary file can't be read.
    pub(crate) fn get(&self, at: u64) -> io::Result<T> {
        unpack(&self.tape.get(at)?.unwrap_or_default())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each of them. An error: the temporary file can't be read.
    pub(crate) fn iter(&self) -> impl Iterator<Item = io::Result<T>> {
        self.tape.rows().map(|row| unpack(&row?))
    }
}

impl<T: Serialize + DeserializeOwned> Extend<T> for Rows<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, rows: I) {
        for row in rows {
            self.push(&row);
        }
    }
}

impl<T: Serialize + DeserializeOwned> FromIterator<T> for Rows<T> {
    fn from_iter<I: IntoIterator<Item = T>>(rows: I) -> Self {
        let mut all = Self::default();
        all.extend(rows);
        all
    }
}

impl<T: Serialize + DeserializeOwned> Serialize for Rows<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.count))?;
        for row in self.iter() {
            list.serialize_element(&row.map_err(S::Error::custom)?)?;
        }
        list.end()
    }
}

#[cfg(test)]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Rows<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        Vec::<T>::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Vec::<T>::json_schema(generator)
    }
}

impl<T: Keyed> Default for Sorted<T> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            weight: 0,
            limit: IN_MEMORY,
            runs: Vec::new(),
            file: None,
            end: 0,
            count: 0,
        }
    }
}

impl<T: Keyed> Sorted<T> {
    /// Adds one.
    pub(crate) fn push(&mut self, row: &T) {
        self.count += 1;
        self.wait(row.key(), pack(row).into());
    }

    fn wait(&mut self, key: T::Key, row: Box<[u8]>) {
        self.weight += row.len() + size_of::<(T::Key, Box<[u8]>)>();
        self.waiting.push((key, row));
        if self.weight > self.limit && self.write_run().is_err() {
            // A disk that is full must not cost a row.
            self.limit = usize::MAX;
        }
    }

    /// Makes what waits a run of the file.
    fn write_run(&mut self) -> io::Result<()> {
        self.waiting.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut bytes = Vec::with_capacity(self.weight);
        for (_, row) in &self.waiting {
            frame(row, &mut bytes);
        }
        self.runs.push(write_out(&mut self.file, &mut self.end, &bytes)?);
        self.waiting = Vec::new();
        self.weight = 0;
        Ok(())
    }

    /// Takes what another one has.
    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.runs.extend(other.runs);
        for (key, row) in other.waiting {
            self.wait(key, row);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each of them, by its key. An error: the temporary file can't be read.
    pub(crate) fn iter(&self) -> impl Iterator<Item = io::Result<T>> {
        let mut waiting: Vec<_> = self.waiting.iter().collect();
        waiting.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut waiting = waiting.into_iter().map(|(_, row)| row);
        let runs = self.runs.iter().cloned().map(|run| BufReader::with_capacity(PIECE, run));
        let mut runs: Vec<_> = runs.collect();
        // What waits came last.
        let last = runs.len();
        let mut pull = move |from: usize| -> io::Result<Option<Head<T>>> {
            let row: Option<T> = match runs.get_mut(from) {
                Some(run) => next(run)?.map(|row| unpack(&row)).transpose()?,
                None => waiting.next().map(|row| unpack(row)).transpose()?,
            };
            Ok(row.map(|row| Head { key: row.key(), from, row }))
        };
        let mut heads = BinaryHeap::new();
        let mut to_pull: Vec<usize> = (0..=last).collect();
        std::iter::from_fn(move || {
            for from in to_pull.drain(..) {
                match pull(from) {
                    Ok(head) => heads.extend(head.map(Reverse)),
                    Err(error) => return Some(Err(error)),
                }
            }
            let Reverse(head) = heads.pop()?;
            to_pull.push(head.from);
            Some(Ok(head.row))
        })
    }
}

/// The first row of a run.
struct Head<T: Keyed> {
    key: T::Key,
    from: usize,
    row: T,
}

impl<T: Keyed> Ord for Head<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key).then(self.from.cmp(&other.from))
    }
}

impl<T: Keyed> PartialOrd for Head<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Keyed> PartialEq for Head<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T: Keyed> Eq for Head<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Keyed for (u8, String) {
        type Key = u8;

        fn key(&self) -> u8 {
            self.0
        }
    }

    fn read<T>(rows: impl Iterator<Item = io::Result<T>>) -> Vec<T> {
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_long_list_is_in_the_file_and_none_of_it_is_lost() {
        let row = |n: usize| format!("{n} {}", "x".repeat(n % 5000));
        let mut rows = Rows::default();
        let places: Vec<_> = (0..2000).map(|n| rows.push(&row(n))).collect();
        for (n, at) in places.into_iter().enumerate() {
            assert_eq!(rows.get(at).unwrap(), row(n));
        }
        assert!(rows.tape.file.is_some());
        assert!(rows.tape.memory.len() <= IN_MEMORY);
        assert_eq!(rows.len(), 2000);
        assert_eq!(read(rows.iter()), (0..2000).map(row).collect::<Vec<_>>());
        assert_eq!(serde_json::to_string(&rows).unwrap(), serde_json::to_string(&read(rows.iter())).unwrap());
    }

    #[test]
    fn without_a_file_everything_stays_in_memory() {
        let full = || Some(Arc::new(File::open("/dev/null").unwrap()));
        let mut rows = Rows::default();
        rows.tape.file = full();
        let mut sorted = Sorted { file: full(), ..Sorted::default() };
        let all: Vec<_> = (0..200).map(|n: u8| (199 - n, "x".repeat(5000))).collect();
        for row in &all {
            rows.push(row);
            sorted.push(row);
        }
        assert_eq!(read(rows.iter()), all);
        assert_eq!(
            read(sorted.iter()).iter().map(|row| row.0).collect::<Vec<_>>(),
            (0..200).collect::<Vec<_>>()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_of_several_lists_are_read_in_order(
            lists in proptest::collection::vec(proptest::collection::vec((any::<u8>(), ".{0,20}"), 0..40), 0..4),
            limit in 0_usize..2000,
        ) {
            let mut all = Sorted { limit, ..Sorted::default() };
            let mut expected = Vec::new();
            for list in lists {
                let mut one = Sorted { limit, ..Sorted::default() };
                for row in &list {
                    one.push(row);
                }
                all.add(one);
                expected.extend(list);
            }
            expected.sort_by_key(Keyed::key);
            prop_assert_eq!(all.len(), expected.len());
            let found = read(all.iter());
            prop_assert_eq!(found.iter().map(Keyed::key).collect::<Vec<_>>(), expected.iter().map(Keyed::key).collect::<Vec<_>>());
            let (mut found, mut expected) = (found, expected);
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
