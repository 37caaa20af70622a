//! Where log lines go: standard error in the foreground, syslog as `virtfs-proxy-helper[pid]`, facility daemon,
//! otherwise.
//!
//! The connection to syslog is made once, before the sandbox closes, and lines are dropped rather than waited
//! for: a syslog daemon that has stopped must not stop the guest. libc's syslog(3) does neither.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// The name in each line.
const IDENT: &str = "virtfs-proxy-helper";
/// Where a syslog daemon listens.
const SYSLOG: &str = "/dev/log";
/// `LOG_DAEMON` (syslog(3)), shifted to where a priority carries it.
const FACILITY_DAEMON: u8 = 3 << 3;

/// The pid in syslog's lines; 0: this process's own.
static PID: AtomicU32 = AtomicU32::new(0);

/// Sets the pid that this process is known by outside its PID namespace.
pub fn set_pid(pid: u32) {
    PID.store(pid, Ordering::Relaxed);
}

enum Sink {
    Stderr,
    Syslog(UnixDatagram),
    /// A daemon without a syslog daemon: nobody would see it.
    Nowhere,
}

struct Logger(Sink);

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match &self.0 {
            Sink::Stderr => {
                let label = match record.level() {
                    Level::Error => "error: ",
                    Level::Warn => "warning: ",
                    Level::Info | Level::Debug | Level::Trace => "",
                };
                let _ = writeln!(std::io::stderr().lock(), "{IDENT}: {label}{}", record.args());
            }
            Sink::Syslog(socket) => {
                let severity = match record.level() {
                    Level::Error => 3,
                    Level::Warn => 4,
                    Level::Info => 6,
                    Level::Debug | Level::Trace => 7,
                };
                let mut line = String::new();
                let pid = match PID.load(Ordering::Relaxed) {
                    0 => std::process::id(),
                    outside => outside,
                };
                let _ = write!(line, "<{}>{IDENT}[{pid}]: {}", FACILITY_DAEMON | severity, record.args());
                let _ = socket.send(line.as_bytes());
            }
            Sink::Nowhere => {}
        }
    }

    fn flush(&self) {}
}

/// Starts logging. Says so where a daemon's lines will be lost.
pub fn start(level: LevelFilter, syslog: bool) -> Result<()> {
    let sink = if syslog {
        match connect() {
            Ok(socket) => Sink::Syslog(socket),
            Err(error) => {
                complain!(
                    "{IDENT}: warning: no syslog daemon at {SYSLOG} ({error}): what the daemon logs is lost"
                );
                Sink::Nowhere
            }
        }
    } else {
        Sink::Stderr
    };
    log::set_max_level(level);
    log::set_boxed_logger(Box::new(Logger(sink))).context("logging was started twice")
}

fn connect() -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SYSLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
