//! Lists that take no more memory the longer they get: rows are kept packed, and from a bound on in an unnamed temporary
//! file. Where none can be written, they stay in memory.

#![forbid(unsafe_code)]

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

/// Rows in the order in which they came.
#[derive(Debug)]
pub struct Rows<T> {
    tape: Tape,
    count: usize,
    of: PhantomData<T>,
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
    /// Adds a row.
    fn push(&mut self, row: &[u8]) {
        frame(row, &mut self.memory);
        if self.memory.len() > self.limit {
            match write_out(&mut self.file, &mut self.end, &self.memory) {
                Ok(()) => self.memory.clear(),
                // A disk that is full must not cost a row.
                Err(_) => self.limit = usize::MAX,
            }
        }
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
fn write_out(file: &mut Option<Arc<File>>, end: &mut u64, bytes: &[u8]) -> io::Result<()> {
    let open = match file {
        Some(file) => file,
        None => file.insert(Arc::new(tempfile::tempfile()?)),
    };
    open.write_all_at(bytes, *end)?;
    *end += bytes.len() as u64;
    Ok(())
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
    /// Adds one.
    pub fn push(&mut self, row: &T) {
        self.count += 1;
        self.tape.push(&pack(row));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each of them. An error: the temporary file can't be read.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<T>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(rows: impl Iterator<Item = io::Result<T>>) -> Vec<T> {
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_long_list_is_in_the_file_and_none_of_it_is_lost() {
        let row = |n: usize| format!("{n} {}", "x".repeat(n % 5000));
        let mut rows = Rows::default();
        (0..2000).for_each(|n| rows.push(&row(n)));
        assert!(rows.tape.file.is_some());
        assert!(rows.tape.memory.len() <= IN_MEMORY);
        assert_eq!(rows.len(), 2000);
        assert_eq!(read(rows.iter()), (0..2000).map(row).collect::<Vec<_>>());
        assert_eq!(serde_json::to_string(&rows).unwrap(), serde_json::to_string(&read(rows.iter())).unwrap());
    }

    #[test]
    fn without_a_file_everything_stays_in_memory() {
        let mut rows = Rows::default();
        rows.tape.file = Some(Arc::new(File::open("/dev/null").unwrap()));
        let all: Vec<_> = (0..200).map(|n: u8| (199 - n, "x".repeat(5000))).collect();
        for row in &all {
            rows.push(row);
        }
        assert_eq!(read(rows.iter()), all);
    }
}
