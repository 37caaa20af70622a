//! Programs that a plan asks: this program's other verbs, and the managers' own commands. Never a shell.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

use crate::text::escape;

/// How often it is looked at whether a program has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// What a program printed, and how it ended.
#[derive(Debug)]
pub(super) struct Output {
    /// Its exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, safe to print.
    pub stderr: String,
}

impl Output {
    /// Its standard output as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// How it ended.
    pub(super) fn how(&self) -> String {
        self.status.map_or_else(|| "a signal ended it".to_owned(), |code| format!("exit status {code}"))
    }

    /// The last line of its standard error without this program's own name: the reason of a failure.
    pub(super) fn reason(&self) -> String {
        let last =
            self.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        last.strip_prefix("virtfs-proxy-helper: ").unwrap_or(last).to_owned()
    }
}

/// Runs a program with its messages in English, and waits for its end; not for those that it has started in the background, which may
/// have its standard output for as long as they run.
pub(super) fn run<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    words: impl IntoIterator<Item = S>,
) -> anyhow::Result<Output> {
    let mut started = Started::of(program, words, false)?;
    let status = started.child.wait().context("waiting for a program")?;
    started.output(status)
}

/// The same for a program that may take no longer than `limit` and print no more than `largest` bytes.
pub(super) fn run_within<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    words: impl IntoIterator<Item = S>,
    limit: Duration,
    largest: u64,
) -> anyhow::Result<Output> {
    let mut started = Started::of(program, words, false)?;
    let start = Instant::now();
    loop {
        let length = started.stdout.metadata().context("looking at a program's output")?.len();
        let is_over = length > largest || start.elapsed() >= limit;
        if let Some(status) = started.child.try_wait().context("waiting for a program")? {
            anyhow::ensure!(length <= largest, "the answer is too long");
            return started.output(status);
        }
        if is_over {
            // It may have ended meanwhile.
            let _ = started.child.kill();
            started.child.wait().context("waiting for a program")?;
            bail!("{}", if length > largest { "the answer is too long" } else { "no answer in time" });
        }
        std::thread::sleep(PAUSE);
    }
}

/// A program that has been started.
#[derive(Debug)]
pub(super) struct Started {
    child: Child,
    stdout: File,
    stderr: File,
}

impl Started {
    /// Starts a program. One that is `apart` is in a session of its own, and goes on after this program's end; another is ended with it.
    pub(super) fn of<S: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        words: impl IntoIterator<Item = S>,
        apart: bool,
    ) -> anyhow::Result<Self> {
        let program = program.as_ref();
        let (stdout, stderr) = (unnamed()?, unnamed()?);
        let mut command = Command::new(if apart { OsStr::new("setsid") } else { program });
        command.args(apart.then_some(program)).args(words).env("LC_ALL", "C").stdin(Stdio::null());
        command.stdout(stdout.try_clone().context("a file for output")?);
        command.stderr(stderr.try_clone().context("a file for messages")?);
        if !apart && std::env::current_exe().is_ok_and(|own| own.as_os_str() == program) {
            // Who goes on after an interruption must not meet the conversion that was going on.
            crate::kernel::end_with_parent(&mut command);
        }
        let child =
            command.spawn().with_context(|| format!("cannot run {}", escape(program.as_encoded_bytes())))?;
        Ok(Self { child, stdout, stderr })
    }

    /// What it has printed, if it has ended.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<Output>> {
        let status = self.child.try_wait().context("waiting for a program")?;
        status.map(|status| self.output(status)).transpose()
    }

    fn output(&mut self, status: ExitStatus) -> anyhow::Result<Output> {
        let read = |file: &mut File| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let stdout = read(&mut self.stdout).context("reading what a program printed")?;
        let stderr = read(&mut self.stderr).context("reading a program's messages")?;
        let lines: Vec<_> =
            stderr.split(|byte| *byte == b'\n').map(|line| escape(line).into_owned()).collect();
        Ok(Output { status: status.code(), stdout, stderr: lines.join("\n") })
    }
}

fn unnamed() -> anyhow::Result<File> {
    tempfile::tempfile().context("making a file for a program's output")
}

/// Runs one of this program's own verbs.
pub(super) fn verb<S: AsRef<OsStr>>(
    name: &str,
    words: impl IntoIterator<Item = S>,
) -> anyhow::Result<Output> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let all: Vec<_> = ["migrate", name]
        .into_iter()
        .map(|word| OsStr::new(word).to_owned())
        .chain(words.into_iter().map(|word| word.as_ref().to_owned()))
        .collect();
    run(own, all)
}

/// The document that one of this program's own verbs prints as JSON. Findings and unread files are for the caller to see.
pub(super) fn document<D: DeserializeOwned, S: AsRef<OsStr>>(
    name: &str,
    words: impl IntoIterator<Item = S>,
) -> anyhow::Result<D> {
    let output = verb(name, words)?;
    if !matches!(output.status, Some(0 | 3 | 4)) {
        bail!("migrate {name}: {}", output.reason());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("reading what migrate {name} printed"))
}
