//! Writes the man pages and shell completions: `cargo run --example manual -- FOLDER`.

mod pages;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(folder), None) = (args.next().map(PathBuf::from), args.next()) else {
        eprintln!("usage: cargo run --example manual -- FOLDER");
        return ExitCode::from(2);
    };
    match pages::write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: cannot write to '{}': {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
