//! Programs that a plan asks: this program's other verbs, and the managers' own commands. Never a shell.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

use crate::text::escape;

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, safe to print.
    pub stderr: String,
}

impl Output {
    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The last line of its standard error without this program's own name: the reason of a failure.
    pub fn reason(&self) -> String {
        let last =
            self.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        last.strip_prefix("virtfs-proxy-helper: ").unwrap_or(last).to_owned()
    }
}

/// Runs a program with its messages in English.
pub fn run<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    words: impl IntoIterator<Item = S>,
) -> anyhow::Result<Output> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(words)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", escape(program.as_encoded_bytes())))?;
    let lines: Vec<_> =
        output.stderr.split(|byte| *byte == b'\n').map(|line| escape(line).into_owned()).collect();
    Ok(Output { status: output.status.code(), stdout: output.stdout, stderr: lines.join("\n") })
}

/// Runs one of this program's own verbs.
pub fn verb<S: AsRef<OsStr>>(name: &str, words: impl IntoIterator<Item = S>) -> anyhow::Result<Output> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let all: Vec<_> = ["migrate", name]
        .into_iter()
        .map(|word| OsStr::new(word).to_owned())
        .chain(words.into_iter().map(|word| word.as_ref().to_owned()))
        .collect();
    run(own, all)
}

/// The document that one of this program's own verbs prints as JSON. Findings and unread files are for the caller to see.
pub fn document<D: DeserializeOwned, S: AsRef<OsStr>>(
    name: &str,
    words: impl IntoIterator<Item = S>,
) -> anyhow::Result<D> {
    let output = verb(name, words)?;
    if !matches!(output.status, Some(0 | 3 | 4)) {
        bail!("migrate {name}: {}", output.reason());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("reading what migrate {name} printed"))
}
