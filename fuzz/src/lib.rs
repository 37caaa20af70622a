//! Hostile input: one function for each kind of it, which panics where something is wrong.
//!
//! ```text
//! cargo install cargo-fuzz
//! mkdir -p fuzz/corpus/requests
//! cargo +nightly fuzz run requests $PWD/fuzz/corpus/requests $PWD/fuzz/seeds/requests   # or, on stable, with -s none
//! cargo test --manifest-path fuzz/Cargo.toml          # the seeds, and some thousand changes of each, on any toolchain
//! ```
//!
//! Paths are absolute because the process that serves changes its working directory.

mod formats;
mod journal;
mod requests;

pub use formats::{formats, options};
pub use journal::journal;
pub use requests::requests;

/// Runs `target` on each file that this process was given as an argument.
pub fn replay(target: fn(&[u8])) {
    let files: Vec<_> = std::env::args_os().skip(1).map(std::path::absolute).collect();
    for file in files.into_iter().flatten() {
        let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        target(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// A small generator (xorshift64*): a failure must come again.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % sides.max(1)
        }

        /// One small change, of the kinds that break readers.
        fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
            let at = self.roll(bytes.len() + 1);
            let length = self.roll(9);
            let end = (at + length).min(bytes.len());
            match self.roll(7) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => bytes[at..end].iter_mut().for_each(|byte| *byte ^= 1 << (length % 8)),
                3 => {
                    let strange = [
                        &b"\0"[..],
                        b"\xff",
                        b"\xff\xff",
                        b"'",
                        b"\"",
                        b"<",
                        b"${",
                        b",,",
                        b"\n",
                        b"..",
                        b"/",
                    ];
                    let insert = strange[self.roll(strange.len())];
                    bytes.splice(at..at, insert.iter().copied());
                }
                4 => {
                    let copy = bytes[at..end].to_vec();
                    let to = self.roll(bytes.len() + 1);
                    bytes.splice(to..to, copy);
                }
                5 => {
                    let from = self.roll(other.len());
                    let to = (from + self.roll(60)).min(other.len());
                    bytes.splice(at..end, other[from..to].iter().copied());
                }
                _ => {
                    let value = self.roll(256);
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = u8::try_from(value).unwrap();
                    }
                }
            }
        }
    }

    /// The seeds as they are, then `count` changed ones; `FUZZ_COUNT` says how many instead.
    fn fuzz(name: &str, target: fn(&[u8]), count: usize) {
        let count = std::env::var("FUZZ_COUNT").map_or(count, |text| text.parse().unwrap());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (file, seed) in files.iter().zip(&seeds) {
            println!("{}", file.display());
            target(seed);
        }
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for _ in 0..count {
            let mut input = seeds[dice.roll(seeds.len())].clone();
            for _ in 0..=dice.roll(6) {
                let other = dice.roll(seeds.len());
                dice.change(&mut input, &seeds[other]);
            }
            let run = std::panic::catch_unwind(|| target(&input));
            assert!(run.is_ok(), "{name}: {:?}", input.escape_ascii().to_string());
        }
    }

    #[test]
    fn requests() {
        fuzz("requests", crate::requests, 4000);
    }

    #[test]
    fn formats() {
        fuzz("formats", crate::formats, 6000);
    }

    #[test]
    fn options() {
        fuzz("options", crate::options, 20_000);
    }

    #[test]
    fn journal() {
        fuzz("journal", crate::journal, 10_000);
    }
}
