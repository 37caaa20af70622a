//! Standard error: one write for each line, and never a wait for whoever reads it.
//!
//! The open file behind descriptor 2 belongs to whoever started this process, and others write to it. So it can't be made
//! non-blocking. A pipe or a terminal is opened anew instead; a socket is sent to without waiting.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::stat::{Mode, fstat};
use nix::sys::time::TimeSpec;
use nix::unistd::{dup2_stderr, write};

use super::sys;

/// The most bytes of a line, its end among them. A pipe takes so many at once or none (`PIPE_BUF`, pipe(7)).
pub(crate) const LINE: usize = 4096;

/// write(2) does not wait: an open file of this process's own, or a regular file.
const OWN: u8 = 0;
/// A socket: send(2) can be told not to wait.
const SOCKET: u8 = 1;
/// An open file that blocks and can't be opened anew: looked at before each write.
const SHARED: u8 = 2;

/// One of the above.
static KIND: AtomicU8 = AtomicU8::new(OWN);

/// Sees to it that writing to standard error does not wait. Needs `/proc`.
pub(crate) fn prepare() {
    let Ok(stat) = fstat(stderr()) else { return };
    let kind = match stat.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => SOCKET,
        libc::S_IFIFO | libc::S_IFCHR if reopen().is_err() => SHARED,
        _ => OWN,
    };
    KIND.store(kind, Ordering::Relaxed);
}

fn reopen() -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    dup2_stderr(open("/proc/self/fd/2", flags, Mode::empty())?)
}

/// Writes a line, which ends with a newline. False where nobody took it.
pub(crate) fn write_line(line: &[u8]) -> bool {
    loop {
        let written = match KIND.load(Ordering::Relaxed) {
            SOCKET => sys::send(stderr(), line),
            SHARED if !takes_more() => return false,
            _ => write(stderr(), line),
        };
        match written {
            Err(Errno::EINTR) => {}
            written => return written == Ok(line.len()),
        }
    }
}

/// Whether a write of [`LINE`] bytes would not wait now. Another process that writes at the same moment can change that.
fn takes_more() -> bool {
    let mut fds = [PollFd::new(stderr(), PollFlags::POLLOUT)];
    ppoll(&mut fds, Some(TimeSpec::new(0, 0)), None) == Ok(1)
}

fn stderr() -> BorrowedFd<'static> {
    // SAFETY: the descriptor is only written to or replaced, never closed; where it is not open, that is an error of the call's.
    unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }
}
