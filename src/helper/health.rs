//! Asking a running helper how it is: what a container's health check runs, for want of a shell.
//!
//! The helper itself answers, on its health socket. A process that is stopped, one that can serve no client and another program's
//! are failures.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt};

use super::health_socket;
use super::options::{HealthcheckArgs, HelperArgs};
use super::socket::{Life, probe};
use crate::exit::Outcome;
use crate::text::{escape, escape_path};

/// What a helper calls itself.
const PROGRAM: &[u8] = health_socket::PROGRAM.as_bytes();

/// Says on standard output how the helper is; [`Outcome::Failure`] where it does not serve.
pub(crate) fn run(args: HealthcheckArgs) -> Outcome {
    let what = match Subject::find(args) {
        Ok(what) => what,
        Err(error) => {
            complain!("virtfs-proxy-helper: {error:#}");
            return Outcome::Usage;
        }
    };
    match what.check().and_then(|how| say!("{how}")) {
        Ok(()) => Outcome::Clean,
        Err(error) => {
            complain!("virtfs-proxy-helper: {error:#}");
            Outcome::Failure
        }
    }
}

/// The helper that is asked about.
struct Subject {
    socket: PathBuf,
    timeout: Duration,
}

impl Subject {
    /// The socket that was named; that of process 1, where it is a helper; that of the environment.
    fn find(args: HealthcheckArgs) -> Result<Self> {
        let timeout = Duration::from_secs(args.timeout);
        let of_first = || {
            let first = fs::read("/proc/1/cmdline").ok().and_then(|line| helper_arguments(&line));
            first.and_then(|args| args.socket)
        };
        let of_environment = || std::env::var_os("VIRTFS_SOCKET").map(PathBuf::from);
        match args.socket.or_else(of_first).or_else(of_environment) {
            Some(socket) => Ok(Self { socket, timeout }),
            None => {
                bail!(
                    "no socket to ask at: process 1 is no helper, and VIRTFS_SOCKET is not set; name it with -s PATH"
                )
            }
        }
    }

    /// Asks the helper, and returns what it says where that is good.
    fn check(&self) -> Result<String> {
        let deadline = Instant::now() + self.timeout;
        let path = health_socket::beside(&self.socket);
        let shown = escape_path(&path);
        let address = UnixAddr::new(&*path).with_context(|| format!("'{shown}' is too long for a socket"))?;
        let socket = match connect_until(&address, deadline) {
            Ok(socket) => socket,
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => {
                bail!("no helper answers at '{shown}'{}", self.who_listens())
            }
            Err(errno) => return Err(errno).with_context(|| format!("cannot ask at '{shown}'")),
        };
        let peer = getsockopt(&socket, sockopt::PeerCredentials).context("cannot tell who answers")?;
        // Somebody else who may write to the directory could answer anything.
        let me = nix::unistd::geteuid().as_raw();
        if peer.uid() != 0 && peer.uid() != me {
            bail!(
                "uid {} listens on '{shown}', neither root nor this user (uid {me}); run healthcheck as the helper's user",
                peer.uid()
            );
        }
        let answer = read_until(&socket, deadline)
            .with_context(|| format!("no answer at '{shown}' in {} s", self.timeout.as_secs()))?;
        match health_socket::read_line(&answer) {
            Some((true, text)) => Ok(text.into()),
            Some((false, text)) => bail!("{}", escape(text.as_bytes())),
            None => bail!("what listens on '{shown}' is not a helper"),
        }
    }

    /// What can be said of the socket for clients where no helper answers.
    fn who_listens(&self) -> String {
        let shown = escape_path(&self.socket);
        match UnixAddr::new(&*self.socket).and_then(|address| probe(&address)) {
            Ok(Life::Listening | Life::Datagram) => {
                format!("; another program, or a helper without health checks, listens on '{shown}'")
            }
            Ok(Life::Stale) => format!("; nobody listens on '{shown}' any more"),
            Err(errno) => format!("; '{shown}': {}", errno.desc()),
        }
    }
}

/// How long to wait for a place in the queue of a socket.
const PAUSE: Duration = Duration::from_millis(20);

/// Connects by `deadline`: a helper that is stopped leaves its queue full.
fn connect_until(address: &UnixAddr, deadline: Instant) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    loop {
        match connect(socket.as_raw_fd(), address) {
            Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            connected => return connected.map(|()| socket),
        }
    }
}

/// Reads all that comes before the other side hangs up, by `deadline`.
fn read_until(socket: &OwnedFd, deadline: Instant) -> Result<Vec<u8>, Errno> {
    let mut answer = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
        let mut bytes = [0; health_socket::ANSWER];
        match nix::unistd::read(socket, &mut bytes) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&bytes[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        if answer.len() > health_socket::ANSWER {
            return Ok(answer);
        }
    }
}

/// A helper's own arguments, from the command line of a process as /proc shows it. `None` where it is another program,
/// or a helper that does something else. What the line does not say is taken from this process's environment, which
/// in a container is the helper's.
fn helper_arguments(line: &[u8]) -> Option<HelperArgs> {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    let words: Vec<_> = line.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.into())).collect();
    let name = Path::new(words.first()?).file_name()?;
    if name.as_encoded_bytes() != PROGRAM {
        return None;
    }
    HelperArgs::read(words).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_helpers_command_line_is_read() {
        let socket = |line: &[u8]| helper_arguments(line).and_then(|args| args.socket);
        assert_eq!(
            socket(b"/virtfs-proxy-helper\0-np/x\0-s\0/run/a\xff\0").unwrap().into_os_string().into_vec(),
            b"/run/a\xff"
        );
        for other in [
            &b""[..],
            b"\0",
            b"/sbin/init\0-s\0/run/a\0",
            b"/virtfs-proxy-helper\0migrate\0audit\0",
            b"/virtfs-proxy-helper\0--no-such-option\0-s\0/run/a\0",
        ] {
            assert_eq!(socket(other), None, "{other:?}");
        }
    }
}
