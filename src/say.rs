//! What is said to people: on standard output what they asked for, on standard error the rest. Nobody listening ends nothing:
//! unlike `println!` and `eprintln!`, these never panic.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, Result};

/// Writes a line to standard output. Whoever has stopped reading needs no more; any other error is the caller's to tell.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::on_output(::std::format_args!($($text)*)) };
}

/// Writes a line to standard error, for which there is no other place.
macro_rules! complain {
    ($($text:tt)*) => { $crate::say::on_error(::std::format_args!($($text)*)) };
}

/// [`say!`].
pub(crate) fn on_output(text: Arguments<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// [`complain!`].
pub(crate) fn on_error(text: Arguments<'_>) {
    // One write, so that lines of several processes stay whole; where it fails, nobody is left to be told.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}
