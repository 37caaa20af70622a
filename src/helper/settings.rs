//! What the command line asks for, checked.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::capabilities::CapabilitySet;
use super::isolation::{Access, Sandbox, Seccomp};
use super::options::HelperArgs;
use super::socket::Owner;
use crate::text::{escape, escape_path};

/// What one run of the daemon is to do.
#[derive(Debug)]
pub struct Settings {
    /// The export.
    pub path: PathBuf,
    /// Where clients come from.
    pub endpoint: Endpoint,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Keep serving after a client has left.
    pub persistent: bool,
    /// How many clients at once.
    pub shared: usize,
    /// Refuse every change.
    pub readonly: bool,
    /// The mount tag of the 9p device that this is over vhost-user; None for QEMU's proxy helper.
    pub device: Option<String>,
    /// The walls around a serving process.
    pub sandbox: Sandbox,
    /// What happens at a system call that no request needs.
    pub seccomp: Seccomp,
    /// The capabilities of a serving process.
    pub kept: CapabilitySet,
    /// Start with all isolation layers that were asked for, or not at all.
    pub strict: bool,
    /// How long to look for a busy client's next request before sleeping.
    pub busy_poll: Duration,
    /// How long a client may send nothing, or read nothing; without end where `None`.
    pub idle_timeout: Option<Duration>,
    /// The limit of open files; as it is where `None`.
    pub rlimit_nofile: Option<u64>,
    /// Where the process's id goes.
    pub pid_file: Option<PathBuf>,
    /// Log to syslog.
    pub syslog: bool,
    /// What is logged.
    pub log_level: LevelFilter,
}

impl Settings {
    /// What clients may do to the export.
    pub fn access(&self) -> Access {
        if self.readonly { Access::Read } else { Access::Full }
    }

    /// Whether each client is served by a process of its own.
    pub fn has_supervisor(&self) -> bool {
        self.persistent || self.shared > 1
    }
}

/// Where clients come from.
#[derive(Debug)]
pub enum Endpoint {
    /// A connected socket that this process inherited.
    Connected(i32),
    /// A socket to listen on.
    Listen {
        /// Its path.
        path: PathBuf,
        /// Its owner.
        owner: Owner,
    },
    /// A listening socket that systemd passed (`sd_listen_fds(3)`), and whose it is to be if it must be made anew.
    Inherited(i32, Option<Owner>),
}

/// The first descriptor that systemd passes.
const LISTEN_FDS_START: i32 = 3;

impl TryFrom<HelperArgs> for Settings {
    type Error = String;

    fn try_from(args: HelperArgs) -> Result<Self, String> {
        let Some(path) = args.path else {
            return Err("no directory to export; give one with -p DIR".into());
        };
        let owner = match (&args.uid, &args.gid) {
            (Some(user), Some(group)) => Some(Owner {
                uid: lookup("-u", "user", user, "/etc/passwd")?,
                gid: lookup("-g", "group", group, "/etc/group")?,
            }),
            (None, None) => None,
            (Some(_), None) => return Err("-u without -g; name the socket's group too, with -g GROUP".into()),
            (None, Some(_)) => return Err("-g without -u; name the socket's user too, with -u USER".into()),
        };
        let endpoint = match (args.socket, args.fd, listen_fds()?) {
            (Some(_), Some(_), _) => {
                return Err(
                    "both -s and -f; give the socket to listen on or the connected one, not both".into()
                );
            }
            (Some(path), None, _) => {
                let owner = owner.ok_or_else(|| {
                    format!(
                        "the socket '{}' needs an owner: name the user and the group that QEMU runs as, by -u USER -g GROUP",
                        escape_path(&path)
                    )
                })?;
                Endpoint::Listen { path, owner }
            }
            (None, Some(fd), _) if fd < 0 => {
                return Err(format!("-f {fd} is no descriptor; descriptors are numbered from 0"));
            }
            (None, Some(fd), _) => Endpoint::Connected(fd),
            (None, None, Some(fd)) => Endpoint::Inherited(fd, owner),
            (None, None, None) => {
                return Err(
                    "no socket; listen on one with -s PATH -u USER -g GROUP, or inherit one with -f N".into(),
                );
            }
        };
        if matches!(endpoint, Endpoint::Connected(_)) && (args.persistent || args.shared > 1) {
            return Err("--persistent and --shared need a socket to listen on: use -s instead of -f".into());
        }
        #[cfg(feature = "vhost-user")]
        let device = device_tag(args.vhost_user, args.tag)?;
        #[cfg(not(feature = "vhost-user"))]
        let device = None;
        Ok(Self {
            path,
            endpoint,
            foreground: args.nodaemon,
            persistent: args.persistent,
            shared: usize::try_from(args.shared).unwrap_or(1),
            readonly: args.readonly,
            device,
            sandbox: args.sandbox,
            seccomp: args.seccomp,
            kept: if args.readonly { args.modcaps.for_reading() } else { args.modcaps },
            strict: args.strict,
            busy_poll: Duration::from_micros(args.busy_poll),
            idle_timeout: (args.idle_timeout > 0).then(|| Duration::from_secs(args.idle_timeout)),
            rlimit_nofile: args.rlimit_nofile,
            pid_file: args.pid_file,
            syslog: args.syslog || !args.nodaemon,
            log_level: args.log_level.parse().unwrap_or(LevelFilter::Info),
        })
    }
}

/// The mount tag, which is there where it is needed, and there alone.
#[cfg(feature = "vhost-user")]
fn device_tag(vhost_user: bool, tag: Option<String>) -> Result<Option<String>, String> {
    match (vhost_user, tag) {
        (false, None) => Ok(None),
        (true, Some(tag)) if (1..=255).contains(&tag.len()) => Ok(Some(tag)),
        (true, Some(_)) => Err("--tag takes 1 to 255 bytes".into()),
        (true, None) => {
            Err("--vhost-user needs the mount tag that the guest mounts; give it with --tag TAG".into())
        }
        (false, Some(_)) => {
            Err("--tag is for --vhost-user; over the proxy, QEMU's own arguments name the tag".into())
        }
    }
}

/// A number, or a name from the system's own file. Read here: a static binary has no other name service.
fn lookup(option: &str, what: &str, name: &str, file: &str) -> Result<u32, String> {
    if name.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() {
        return name
            .parse()
            .ok()
            .filter(|&id| id != u32::MAX)
            .ok_or_else(|| format!("{option} {name}: ids go from 0 to {}", u32::MAX - 1));
    }
    let database = fs::read(file).map_err(|error| {
        format!(
            "{option} {}: cannot read {file} ({error}); give the {what}'s number",
            escape(name.as_bytes())
        )
    })?;
    database
        .split(|&byte| byte == b'\n')
        .find_map(|line| {
            let mut fields = line.split(|&byte| byte == b':');
            (fields.next()? == name.as_bytes()).then_some(())?;
            std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()
        })
        .ok_or_else(|| {
            format!(
                "{option} {}: there is no such {what} in {file}; give its number",
                escape(name.as_bytes())
            )
        })
}

/// The listening socket that systemd passed to this very process, if any.
fn listen_fds() -> Result<Option<i32>, String> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(1)) if pid == std::process::id() => Ok(Some(LISTEN_FDS_START)),
        (Some(pid), Some(count)) if pid == std::process::id() && count > 1 => {
            Err(format!("systemd passed {count} sockets; the helper serves one (one .socket unit an export)"))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Result<Settings, String> {
        let line = std::iter::once("virtfs-proxy-helper").chain(args.iter().copied());
        Settings::try_from(HelperArgs::read(line).map_err(|error| error.to_string())?)
    }

    #[test]
    fn the_originals_options_mean_what_they_meant() {
        for args in [
            &["-n", "-p", "/srv", "-s", "/run/s", "-u", "0", "-g", "0"][..],
            &["-np", "/srv", "-s/run/s", "-u0", "-g0"],
            &["--nodaemon", "--path=/srv", "--socket", "/run/s", "--uid=root", "--gid", "root"],
            &["--no", "--pa=/srv", "--so", "/run/s", "--u=0", "--gi", "0"],
            &["--n", "--p=/srv", "--s=/run/s", "--uid=0", "--g=0"],
            &["-n", "-p", "/other", "-p", "/srv", "-s", "/run/s", "-u", "1", "-u", "0", "-g", "0"],
        ] {
            let settings = settings(args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
            assert!(settings.foreground && !settings.syslog, "{args:?}");
            assert_eq!(settings.path, PathBuf::from("/srv"), "{args:?}");
            let Endpoint::Listen { path, owner } = settings.endpoint else { panic!("{args:?}") };
            assert_eq!((path, owner), (PathBuf::from("/run/s"), Owner { uid: 0, gid: 0 }), "{args:?}");
        }
        let settings = settings(&["--nodaemon", "--fd", "3", "--path", "/srv"]).unwrap();
        assert!(matches!(settings.endpoint, Endpoint::Connected(3)));
    }

    #[test]
    fn misuse_is_said_in_a_sentence() {
        for (args, sense) in [
            (&["-n"][..], "-p DIR"),
            (&["-p", "/srv"], "no socket"),
            (&["-p", "/srv", "-s", "/run/s", "-f", "3", "-u", "0", "-g", "0"], "both -s and -f"),
            (&["-p", "/srv", "-s", "/run/s"], "-u USER -g GROUP"),
            (&["-p", "/srv", "-s", "/run/s", "-u", "0"], "-u without -g"),
            (&["-p", "/srv", "-s", "/run/s", "-g", "0"], "-g without -u"),
            (&["-p", "/srv", "-s", "/run/s", "-u", "no such user", "-g", "0"], "no such user in /etc/passwd"),
            (&["-p", "/srv", "-s", "/run/s", "-u", "", "-g", "0"], "no such user"),
            (&["-p", "/srv", "-s", "/run/s", "-u", "4294967295", "-g", "0"], "0 to 4294967294"),
            (&["-p", "/srv", "-s", "/run/s", "-u", "0", "-g", "99999999999"], "0 to 4294967294"),
            (&["-p", "/srv", "-f", "x"], "invalid value 'x'"),
            (&["-p", "/srv", "-f", "99999999999"], "invalid value"),
            (&["-p", "/srv", "--fd=-1"], "no descriptor"),
            (&["-p", "/srv", "-f", "3", "--persistent"], "-s instead of -f"),
            (&["-p", "/srv", "-f", "3", "--shared=2"], "-s instead of -f"),
            (&["-p", "/srv", "-f", "3", "--shared=0"], "invalid value"),
        ] {
            let error = settings(args).expect_err("must be refused");
            assert!(error.contains(sense), "{args:?}: {error}");
        }
    }
}
