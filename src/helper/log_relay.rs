//! Log lines of processes that serve, where standard error is a pipe.
//!
//! A pipe can be opened anew through `/proc/self/fd`, for reading too: a worker that was taken over could take other processes'
//! lines out of it. A socket can't be opened so. A process that serves writes to one end of a socket pair; the supervisor, or
//! the cleaner, reads the other and writes to the pipe. Neither waits for the other: what has no room is lost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::fstat;
use nix::unistd::dup2_stderr;

use super::sys::{self, Wait};
use super::{logging, stderr};

/// How many datagrams are passed on before the supervisor looks after its clients again.
const AT_ONCE: usize = 64;

/// Both ends.
pub(crate) struct LogRelay {
    reader: LogReader,
    workers: OwnedFd,
}

/// The end of the process that writes to the pipe. It is ready for reading when a worker has written.
pub(crate) struct LogReader {
    socket: OwnedFd,
    buffer: Box<[u8]>,
}

impl LogRelay {
    /// Makes the socket pair. `None` where standard error is no pipe.
    pub(crate) fn where_needed() -> Result<Option<Self>> {
        let stderr = fstat(io::stderr()).context("cannot look at standard error")?;
        if stderr.st_mode & libc::S_IFMT != libc::S_IFIFO {
            return Ok(None);
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (socket, workers) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags)
            .context("cannot make a socket pair for log lines")?;
        let reader = LogReader { socket, buffer: vec![0; 64 << 10].into_boxed_slice() };
        Ok(Some(Self { reader, workers }))
    }

    /// In a process that serves: standard error is this end from now on.
    pub(crate) fn use_in_worker(self) -> Result<()> {
        dup2_stderr(&self.workers).context("cannot set standard error")?;
        stderr::prepare();
        logging::set_relayed();
        Ok(())
    }

    /// In a process that only passes lines on.
    pub(crate) fn into_reader(self) -> LogReader {
        self.reader
    }

    /// In the supervisor, which keeps the other end for its workers.
    pub(crate) fn reader(&mut self) -> &mut LogReader {
        &mut self.reader
    }
}

impl LogReader {
    /// Passes on what has been written. True where there may be more.
    pub(crate) fn forward(&mut self) -> bool {
        for _ in 0..AT_ONCE {
            match sys::recv(self.socket.as_fd(), &mut self.buffer, Wait::No) {
                Ok(length) => pass_on(&self.buffer[..length]),
                Err(_) => return false,
            }
        }
        true
    }

    /// Passes on everything, once the processes that write have ended.
    pub(crate) fn drain(&mut self) {
        while self.forward() {}
    }
}

impl AsFd for LogReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for LogRelay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// Writes what a worker wrote, a line as a rule.
fn pass_on(bytes: &[u8]) {
    logging::report_lost();
    for piece in bytes.chunks(stderr::LINE) {
        if !stderr::write_line(piece) {
            logging::count_lost(1);
            return;
        }
    }
}
