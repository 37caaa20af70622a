//! Asking a running helper how it is: what a container's health check runs, for want of a shell.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::errno::Errno;
use nix::sys::socket::UnixAddr;

use super::socket::{Life, probe};
use crate::cli::{Cli, HealthcheckArgs, HelperArgs};
use crate::exit::Outcome;
use crate::text::escape_path;

/// What a helper calls itself.
const PROGRAM: &[u8] = b"virtfs-proxy-helper";

/// Says on standard output how the helper is; [`Outcome::Failure`] where it does not serve.
pub fn run(args: HealthcheckArgs) -> Outcome {
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
    /// Whether it stops listening as soon as its one client is there.
    single: bool,
}

impl Subject {
    /// The socket that was named; that of process 1, where it is a helper; that of the environment.
    fn find(args: HealthcheckArgs) -> Result<Self> {
        if let Some(socket) = args.socket {
            return Ok(Self { socket, single: false });
        }
        let first = fs::read("/proc/1/cmdline").ok().and_then(|line| helper_arguments(&line));
        if let Some(HelperArgs { socket: Some(socket), persistent, shared, .. }) = first {
            return Ok(Self { socket, single: !persistent && shared == 1 });
        }
        match std::env::var_os("VIRTFS_SOCKET") {
            Some(socket) => Ok(Self { socket: socket.into(), single: false }),
            None => {
                bail!(
                    "no socket to ask at: process 1 is no helper, and VIRTFS_SOCKET is not set; name it with -s PATH"
                )
            }
        }
    }

    fn check(&self) -> Result<&'static str> {
        let shown = escape_path(&self.socket);
        let address =
            UnixAddr::new(&*self.socket).with_context(|| format!("'{shown}' is too long for a socket"))?;
        match probe(&address) {
            Ok(Life::Listening) => Ok("listening"),
            Ok(Life::Stale | Life::Datagram) | Err(Errno::ENOENT) if self.single => {
                Ok("serving its one client")
            }
            Ok(Life::Stale) => bail!("nobody listens on '{shown}' any more"),
            Ok(Life::Datagram) => bail!("'{shown}' is not a helper's socket: it takes datagrams"),
            Err(errno) => Err(errno).with_context(|| format!("cannot reach '{shown}'")),
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
    let cli = Cli::try_parse_from(words).ok()?;
    cli.command.is_none().then_some(cli.helper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

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

    #[test]
    fn the_answer_is_the_sockets_state() {
        let place = tempfile::tempdir().unwrap();
        let ask = |name: &str, single| {
            let subject = Subject { socket: place.path().join(name), single };
            subject.check().map_err(|error| format!("{error:#}"))
        };
        let listener = UnixListener::bind(place.path().join("stream")).unwrap();
        let _datagram = UnixDatagram::bind(place.path().join("datagram")).unwrap();
        assert_eq!(ask("stream", false).unwrap(), "listening");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "the question must not look like a client");
        drop(listener);
        assert!(ask("stream", false).unwrap_err().contains("any more"));
        assert!(ask("datagram", false).unwrap_err().contains("datagrams"));
        assert!(ask("missing", false).unwrap_err().contains("No such file"));
        assert_eq!(ask("missing", true).unwrap(), "serving its one client");
        assert!(ask(&"x".repeat(200), true).unwrap_err().contains("too long"));
    }
}
