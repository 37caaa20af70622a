//! Where log lines go: standard error in the foreground, syslog as `virtfs-proxy-helper[pid]`, facility daemon,
//! otherwise.
//!
//! A line is one write, and no line is waited for: a reader that has stopped must not stop the guest. Lines that nobody took
//! are counted, over all processes of this helper, and the number is logged as soon as somebody reads again. The connection to
//! syslog is made once, before the sandbox closes. libc's syslog(3) does none of this.

use std::fmt::{Arguments, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::{stderr, sys};

/// The name in each line.
const IDENT: &str = "virtfs-proxy-helper";
/// Where a syslog daemon listens.
const SYSLOG: &str = "/dev/log";
/// `LOG_DAEMON` (syslog(3)), shifted to where a priority carries it.
const FACILITY_DAEMON: u8 = 3 << 3;

/// The pid in syslog's lines; 0: this process's own.
static PID: AtomicU32 = AtomicU32::new(0);
/// Where lines go, once logging has started.
static SINK: OnceLock<Sink> = OnceLock::new();
/// How many lines nobody took: shared by all processes that are forked after logging has started.
static LOST: OnceLock<&'static AtomicU64> = OnceLock::new();

/// Whether another process of this helper reads this one's lines, writes them, and reports lost ones.
static RELAYED: AtomicBool = AtomicBool::new(false);

/// Another process of this helper reads this one's lines from now on. It alone reports lost lines: it alone knows whether the
/// report was taken.
pub(crate) fn set_relayed() {
    RELAYED.store(true, Ordering::Relaxed);
}

/// Sets the pid that this process is known by outside its PID namespace.
pub(crate) fn set_pid(pid: u32) {
    PID.store(pid, Ordering::Relaxed);
}

/// The connection to syslog, for a process that closes all other descriptors.
pub(crate) fn descriptor() -> Option<BorrowedFd<'static>> {
    match SINK.get() {
        Some(Sink::Syslog(socket)) => Some(socket.as_fd()),
        _ => None,
    }
}

enum Sink {
    Stderr,
    Syslog(UnixDatagram),
    /// A daemon without a syslog daemon: nobody would see it.
    Nowhere,
}

impl Sink {
    /// Writes one line. False where nobody took it.
    fn write(&self, level: Level, text: Arguments<'_>) -> bool {
        match self {
            Self::Stderr => {
                let label = match level {
                    Level::Error => "error: ",
                    Level::Warn => "warning: ",
                    Level::Info | Level::Debug | Level::Trace => "",
                };
                stderr::write_line(line(format_args!("{IDENT}: {label}{text}")).as_bytes())
            }
            Self::Syslog(socket) => {
                let severity = match level {
                    Level::Error => 3,
                    Level::Warn => 4,
                    Level::Info => 6,
                    Level::Debug | Level::Trace => 7,
                };
                let pid = match PID.load(Ordering::Relaxed) {
                    0 => std::process::id(),
                    outside => outside,
                };
                let priority = FACILITY_DAEMON | severity;
                let line = line(format_args!("<{priority}>{IDENT}[{pid}]: {text}"));
                socket.send(line.trim_end().as_bytes()).is_ok()
            }
            Self::Nowhere => true,
        }
    }
}

/// A line with its end, cut where it is longer than one write can carry.
fn line(text: Arguments<'_>) -> String {
    const CUT: &str = " [cut]";
    let mut line = String::new();
    let _ = line.write_fmt(text);
    if line.len() >= stderr::LINE {
        let mut end = stderr::LINE - 1 - CUT.len();
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push_str(CUT);
    }
    line.push('\n');
    line
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let Some(sink) = SINK.get().filter(|_| self.enabled(record.metadata())) else { return };
        // First what is missing before it.
        report_lost();
        if !sink.write(record.level(), *record.args()) {
            count_lost(1);
        }
    }

    fn flush(&self) {}
}

/// A line in memory of a fixed size. What does not fit is cut.
struct FixedLine {
    bytes: [u8; stderr::LINE],
    length: usize,
}

impl std::fmt::Write for FixedLine {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // Room for the end.
        let room = self.bytes.len() - 1 - self.length;
        let count = text.len().min(room);
        self.bytes[self.length..self.length + count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        Ok(())
    }
}

/// Logs a line of weight info from a signal handler: allocates nothing and takes no lock. `text` must not allocate either.
pub(crate) fn log_from_handler(text: Arguments<'_>) {
    let Some(sink) = SINK.get().filter(|_| log::max_level() >= LevelFilter::Info) else { return };
    let mut line = FixedLine { bytes: [0; stderr::LINE], length: 0 };
    let taken = match sink {
        Sink::Stderr => {
            let _ = write!(line, "{IDENT}: {text}");
            line.bytes[line.length] = b'\n';
            stderr::write_line(&line.bytes[..=line.length])
        }
        Sink::Syslog(socket) => {
            let pid = match PID.load(Ordering::Relaxed) {
                0 => std::process::id(),
                outside => outside,
            };
            let _ = write!(line, "<{}>{IDENT}[{pid}]: {text}", FACILITY_DAEMON | 6);
            socket.send(&line.bytes[..line.length]).is_ok()
        }
        Sink::Nowhere => true,
    };
    if !taken {
        count_lost(1);
    }
}

/// Counts lines that nobody took.
pub(crate) fn count_lost(lines: u64) {
    if let Some(lost) = LOST.get() {
        lost.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Whether lines were lost and nobody was told yet.
pub(crate) fn has_lost() -> bool {
    !RELAYED.load(Ordering::Relaxed) && LOST.get().is_some_and(|lost| lost.load(Ordering::Relaxed) > 0)
}

/// Logs how many lines were lost, if any were.
pub(crate) fn report_lost() {
    let (Some(sink), Some(lost), true) = (SINK.get(), LOST.get(), has_lost()) else { return };
    let count = lost.swap(0, Ordering::Relaxed);
    let lines = if count == 1 { "line was" } else { "lines were" };
    let text = format_args!("{count} log {lines} lost here: nobody read the log");
    if count > 0 && !sink.write(Level::Warn, text) {
        count_lost(count);
    }
}

/// Writes a line to standard error, wherever the log goes: for what keeps a helper from starting.
pub(crate) fn complain(text: Arguments<'_>) {
    if !stderr::write_line(line(format_args!("{IDENT}: {text}")).as_bytes()) {
        count_lost(1);
    }
}

/// Starts logging. Says so where a daemon's lines will be lost.
pub(crate) fn start(level: LevelFilter, syslog: bool) -> Result<()> {
    let sink = if syslog {
        match connect() {
            Ok(socket) => Sink::Syslog(socket),
            Err(error) => {
                complain(format_args!(
                    "warning: no syslog daemon at {SYSLOG} ({error}): what the daemon logs is lost"
                ));
                Sink::Nowhere
            }
        }
    } else {
        Sink::Stderr
    };
    let _ = SINK.set(sink);
    let _ = LOST.set(sys::shared_counter().context("cannot allocate a counter")?);
    log::set_max_level(level);
    log::set_logger(&Logger).context("logging was started twice")
}

fn connect() -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SYSLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_fixed_size_is_cut_where_it_is_full() {
        let mut line = FixedLine { bytes: [0; stderr::LINE], length: 0 };
        for _ in 0..3 {
            line.write_str(&"x".repeat(stderr::LINE / 2)).unwrap();
        }
        assert_eq!(line.length, stderr::LINE - 1);
    }

    #[test]
    fn a_line_fits_one_write_whatever_its_text() {
        assert_eq!(line(format_args!("{IDENT}: short")), "virtfs-proxy-helper: short\n");
        for text in ["x".repeat(stderr::LINE), "é".repeat(stderr::LINE), "x".repeat(stderr::LINE - 1)] {
            let line = line(format_args!("{text}"));
            assert!(line.len() <= stderr::LINE && line.ends_with('\n'), "{}", line.len());
            assert_eq!(line.ends_with(" [cut]\n"), text.len() >= stderr::LINE, "{}", text.len());
        }
    }
}
