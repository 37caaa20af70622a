//! The socket on which a running helper answers health checks: beside the one for clients, with `.health` behind its name.
//!
//! To connect is to ask; nothing is read from whoever does. The answer is one line: the program's name, `ok` or `failing`, and a
//! sentence. The process that accepts clients gives it, or the process that serves where there is only one.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use super::identity::Identity;
use super::socket::{Listener, Name, set_nonblocking};
use super::sys;

/// What an answer begins with.
pub(crate) const PROGRAM: &str = "virtfs-proxy-helper";
/// The most bytes of an answer.
pub(crate) const ANSWER: usize = 512;

/// The health socket that belongs to a socket.
pub(crate) fn beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".health");
    path.into()
}

/// Makes the health socket of the socket `name`. None where there can't be one; the log says why.
pub(crate) fn bind(name: &Name, identity: &Identity) -> Option<Listener> {
    let bound = Listener::bind(&beside(name.path()), name.owner(), identity).and_then(|listener| {
        set_nonblocking(listener.socket.as_fd())?;
        // A process that serves has it, and no way to files outside the export.
        Ok(listener.without_file())
    });
    bound.inspect_err(|error| log::warn!("healthcheck can't ask this helper: {error:#}")).ok()
}

/// The line that says how a helper is.
pub(crate) fn line(ok: bool, text: &str) -> String {
    format!("{PROGRAM} {} {text}\n", if ok { "ok" } else { "failing" })
}

/// Reads such a line. `None` where it is none.
pub(crate) fn read_line(line: &[u8]) -> Option<(bool, &str)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (word, text) = line.strip_prefix(PROGRAM)?.strip_prefix(' ')?.split_once(' ')?;
    match word {
        "ok" => Some((true, text)),
        "failing" => Some((false, text)),
        _ => None,
    }
}

/// Answers, without waiting, and ends the connection. It is still to be closed.
pub(crate) fn answer(connection: BorrowedFd<'_>, ok: bool, text: &str) {
    let _ = sys::send(connection, line(ok, text).as_bytes());
    let _ = nix::sys::socket::shutdown(connection.as_raw_fd(), nix::sys::socket::Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_ours_is_read() {
        for ok in [false, true] {
            assert_eq!(read_line(line(ok, "text of words").as_bytes()), Some((ok, "text of words")));
        }
        for other in [
            &b""[..],
            b"\n",
            b"SSH-2.0 ok x\n",
            b"virtfs-proxy-helper ok x",
            b"virtfs-proxy-helper good x\n",
            b"\xff\n",
        ] {
            assert_eq!(read_line(other), None, "{other:?}");
        }
    }
}
