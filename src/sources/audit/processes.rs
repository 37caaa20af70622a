//! Running QEMU and helper processes, and which helper is at the other end of a share's socket.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::exports;
use super::host::{Content, Host, why};
use super::listening::Bound;
use super::proc::{parent, proc, sockets_of};
use super::sockets::{self, Names, Peers};
use super::started::Started;
use crate::report::finding::{self, Finding};
use crate::share::argv::{self, Arg};
use crate::share::backend::Backend;
use crate::share::helper::Helper;
use crate::share::invocation::{self, is_helper};
use crate::share::{ExportFrom, ExportPath, Place, Share, Transport};
use crate::sources::format::path_of;
use crate::sources::join::plain;
use crate::text::escape;

/// Programs that run others: their arguments hold the other's, which has a process of its own.
const WRAPPERS: &[&str] = &[
    "sudo",
    "su",
    "doas",
    "runuser",
    "setpriv",
    "env",
    "nice",
    "timeout",
    "strace",
    "ltrace",
    "gdb",
    "sh",
    "bash",
    "dash",
    "busybox",
    "time",
    "setsid",
    "nohup",
    "systemd-run",
    "unshare",
    "nsenter",
    "ip",
    "numactl",
    "taskset",
    "chrt",
    "ionice",
    "screen",
    "tmux",
    "script",
    "xargs",
    "watch",
    "perf",
    "valgrind",
    "podman",
    "docker",
    "crun",
    "runc",
    "conmon",
    "virsh",
    "ssh",
    "grep",
    "pgrep",
    "vim",
    "vi",
    "nano",
    "less",
    "python3",
    "perl",
    "make",
    "virtfs-proxy-helper",
];

/// How many of a process's arguments may name the file that it was started with.
const MOST_WORDS: usize = 8;

/// What runs.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// Shares of running QEMUs, joined with their helpers where the sockets say so.
    pub shares: Vec<Share>,
    /// Shares of running QEMUs over the local backend.
    pub local: Vec<Share>,
    /// Running helpers.
    pub helpers: Vec<Helper>,
    /// Running QEMUs that read their configuration from a file.
    pub configured: Vec<Configured>,
    /// What else there is to say.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub unread: Vec<(Option<PathBuf>, Option<u64>, String)>,
    /// How many processes were looked at.
    pub looked_at: u64,
    /// The files that they were started with.
    pub started: Started,
}

/// A running QEMU that reads its configuration from a file.
#[derive(Debug, Clone)]
pub(super) struct Configured {
    /// The process.
    pub pid: i32,
    /// The file.
    pub file: PathBuf,
    /// The guest's name.
    pub guest: Option<Vec<u8>>,
}

/// A running helper.
struct Running {
    helper: Helper,
    pid: i32,
    parent: Option<i32>,
    command: Vec<Vec<u8>>,
    /// Whether its ids are others on the host.
    mapped: bool,
}

/// Everything about the processes that joining needs.
pub(super) struct Live<'a> {
    host: &'a Host,
    running: Vec<Running>,
    /// Which helper holds a socket, by the socket's inode.
    holders: HashMap<u64, usize>,
    peers: HashMap<PathBuf, Result<(Peers, Names), String>>,
    /// Which process holds a socket, of all there are: asked only where a helper goes by another name.
    everybody: Option<HashMap<u64, i32>>,
    /// Which file a socket is bound to.
    bound: Bound,
}

/// Looks at every process of `host`.
pub(super) fn look(host: &Host) -> (Processes, Live<'_>) {
    let mut found = Processes::default();
    let mut live = Live {
        host,
        running: Vec::new(),
        holders: HashMap::new(),
        peers: HashMap::new(),
        everybody: None,
        bound: Bound::default(),
    };
    let entries = match host.list_proc(Path::new("/proc")) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                found.unread.push((Some("/proc".into()), None, why(&error)));
            }
            return (found, live);
        }
    };
    let mut emulators = Vec::new();
    for entry in entries {
        let Some(pid) = entry.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else {
            continue;
        };
        match command_line(host, pid) {
            Ok(None) => {}
            Ok(Some(command)) => {
                found.looked_at += 1;
                note_started(host, pid, &command, &mut found.started);
                live.classify(pid, command, &mut emulators);
            }
            // It ended meanwhile.
            Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESRCH)) => {}
            Err(error) => found.unread.push((Some(entry), None, why(&error))),
        }
    }
    live.drop_workers();
    live.find_holders();
    for (pid, args) in emulators {
        live.emulator(pid, &args, &mut found);
    }
    found.helpers = live.helpers();
    (found, live)
}

/// A process's arguments; `None` for the kernel's own threads.
fn command_line(host: &Host, pid: i32) -> io::Result<Option<Vec<Vec<u8>>>> {
    let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
    let (Content::Whole(bytes) | Content::TooLong(bytes)) = host.read(&path, true)? else { return Ok(None) };
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    Ok(Some(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()))
}

/// Notes the files among a process's first arguments: a script's is behind its interpreter. What is given to `migrate`, by sudo or a
/// shell, too, is looked at and not started.
fn note_started(host: &Host, pid: i32, command: &[Vec<u8>], started: &mut Started) {
    let migrate = command.windows(2).position(|pair| {
        pair[1] == b"migrate" && memchr::memmem::find(&pair[0], b"virtfs-proxy-helper").is_some()
    });
    let command = &command[..migrate.unwrap_or(command.len())];
    let words: Vec<_> = command.iter().take(MOST_WORDS).filter(|word| word.contains(&b'/')).collect();
    if words.is_empty() || !exports::sees_the_host(host, pid) {
        return;
    }
    let cwd = host.read_link(&proc(pid, "cwd")).unwrap_or_else(|_| "/".into());
    for word in words {
        started.add(&cwd.join(path_of(word)));
    }
}

impl Live<'_> {
    fn classify(&mut self, pid: i32, command: Vec<Vec<u8>>, emulators: &mut Vec<(i32, Vec<Arg>)>) {
        let telling = |word: &Vec<u8>| {
            [&b"proxy"[..], b"local", b"-readconfig"]
                .iter()
                .any(|mark| memchr::memmem::find(word, mark).is_some())
        };
        if !command.iter().any(telling) {
            return;
        }
        let exe = self.host.read_link(&proc(pid, "exe")).ok();
        let program = exe.as_deref().and_then(Path::file_name).map(|name| name.as_bytes().to_vec());
        let program = program.map(|name| name.strip_suffix(b" (deleted)").unwrap_or(&name).to_vec());
        let first = command.first().cloned().unwrap_or_default();
        if is_helper(&first) || program.as_deref().is_some_and(is_helper) {
            self.running.extend(self.helper(pid, command));
            return;
        }
        let name =
            program.unwrap_or_else(|| first.rsplit(|byte| *byte == b'/').next().unwrap_or(&first).to_vec());
        let wraps = WRAPPERS.iter().any(|wrapper| wrapper.as_bytes() == name) || name.starts_with(b"python");
        if !wraps {
            let args = command.into_iter().map(|value| Arg { value, ..Arg::default() });
            emulators.push((pid, args.collect()));
        }
    }

    fn helper(&self, pid: i32, command: Vec<Vec<u8>>) -> Option<Running> {
        // A container's helper has its options from the environment.
        let environment = match self.host.read(&proc(pid, "environ"), true) {
            Ok(Content::Whole(text)) => text,
            _ => Vec::new(),
        };
        let arguments = command.iter().skip(1).map(Vec::as_slice);
        let invocation = invocation::of_process(arguments, &environment)?;
        let mut helper = invocation.helper(None);
        helper.export = helper.export.and_then(|export| exports::on_host(self.host, pid, &export));
        let export = helper.export.as_deref();
        helper.socket = helper.socket.map(|socket| self.bound.on_host(self.host, pid, &socket, export));
        helper.pid = Some(pid);
        helper.place = Place { file: Some(proc(pid, "cmdline")), pid: Some(pid), ..Place::default() };
        Some(Running { helper, pid, parent: parent(self.host, pid), command, mapped: self.is_mapped(pid) })
    }

    /// Whether the process's ids are others than this machine's: a user namespace that maps them.
    fn is_mapped(&self, pid: i32) -> bool {
        let read = |path: &Path| match self.host.read(path, true) {
            Ok(Content::Whole(text)) => {
                Some(String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" "))
            }
            _ => None,
        };
        let own = read(Path::new("/proc/1/uid_map")).unwrap_or_else(|| "0 0 4294967295".to_owned());
        read(&proc(pid, "uid_map")).is_some_and(|map| map != own && map != "0 0 4294967295")
    }

    /// A helper's own children are the same helper.
    fn drop_workers(&mut self) {
        let heads: Vec<_> = self.running.iter().map(|one| (one.pid, one.command.clone())).collect();
        let is_worker = |one: &Running| {
            heads.iter().any(|(pid, command)| Some(*pid) == one.parent && *command == one.command)
        };
        let (workers, heads): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(is_worker);
        self.running = heads;
        for worker in workers {
            let head = self.running.iter().position(|one| Some(one.pid) == worker.parent);
            let sockets = sockets_of(self.host, worker.pid).unwrap_or_default();
            if let Some(head) = head {
                self.holders.extend(sockets.into_values().map(|inode| (inode, head)));
            }
        }
    }

    fn find_holders(&mut self) {
        for (index, running) in self.running.iter().enumerate() {
            let sockets = sockets_of(self.host, running.pid).unwrap_or_default();
            self.holders.extend(sockets.into_values().map(|inode| (inode, index)));
        }
    }

    fn emulator(&mut self, pid: i32, args: &[Arg], found: &mut Processes) {
        let guest = argv::guest_name(args);
        let shares = argv::shares(args);
        let alone = shares.len() == 1;
        for share in shares {
            let mut share = share.share;
            share.place = Place {
                file: Some(proc(pid, "cmdline")),
                pid: Some(pid),
                guest: guest.clone(),
                ..Place::default()
            };
            found.findings.extend(self.join(&mut share, alone));
            found.shares.push(share);
        }
        found.local.extend(self.local(pid, args, guest.as_ref()));
        let cwd = || self.host.read_link(&proc(pid, "cwd")).unwrap_or_else(|_| "/".into());
        for pair in args.windows(2) {
            if let [option, file] = pair
                && matches!(option.value.as_slice(), b"-readconfig" | b"--readconfig")
                && file.value != b"-"
            {
                let file = cwd().join(path_of(&file.value));
                found.configured.push(Configured { pid, file, guest: guest.clone() });
            }
        }
    }

    /// A running QEMU's shares over the local backend, with their directories as the host names them.
    fn local(&self, pid: i32, args: &[Arg], guest: Option<&Vec<u8>>) -> Vec<Share> {
        let shares = Backend::Local.seek(|| argv::shares(args)).into_iter().map(|found| found.share);
        let placed = shares.map(|mut share| {
            if let Transport::Socket(path) = &share.transport {
                let path = exports::on_host(self.host, pid, path);
                share.transport = path.map_or(Transport::Unknown(Vec::new()), Transport::Socket);
            }
            let (file, guest) = (Some(proc(pid, "cmdline")), guest.cloned());
            share.place = Place { file, pid: Some(pid), guest, ..Place::default() };
            share
        });
        placed.collect()
    }

    /// Joins a running QEMU's share with the helper at the other end of its socket. What can't be seen is told.
    /// `alone`: it is that QEMU's only one.
    pub(super) fn join(&mut self, share: &mut Share, alone: bool) -> Vec<Finding> {
        let Some(pid) = share.place.pid else { return Vec::new() };
        let sockets = match sockets_of(self.host, pid) {
            Ok(sockets) => sockets,
            Err(error) => return vec![not_seen(share, &format!("its descriptors: {}", why(&error)))],
        };
        let (peers, names) = match self.peers_of(pid) {
            Ok(found) => found,
            Err(reason) => {
                return vec![not_seen(share, &format!("who its sockets are connected to: {reason}"))];
            }
        };
        let end = match &share.transport {
            Transport::Fd(fd) => sockets.get(fd).and_then(|inode| peers.get(inode)).copied(),
            Transport::Socket(path) => {
                let cwd = self.host.read_link(&proc(pid, "cwd")).unwrap_or_default();
                let spellings = [plain(path), plain(&cwd.join(path))];
                let is_it =
                    |inode: &&u64| names.get(inode).is_some_and(|name| spellings.contains(&plain(name)));
                sockets.values().filter_map(|inode| peers.get(inode)).find(is_it).copied()
            }
            Transport::Unknown(_) => return Vec::new(),
        };
        let joined = end.and_then(|end| self.holder_of(end, pid)).or_else(|| {
            let Transport::Socket(path) = &share.transport else { return None };
            let helper_at = |inode: &u64| self.holders.get(peers.get(inode)?).copied();
            let connected: BTreeSet<usize> = sockets.values().filter_map(helper_at).collect();
            let serves = |index: &&usize| {
                let socket = self.running.get(**index).and_then(|one| one.helper.socket.as_deref());
                socket.is_some_and(|socket| plain(socket) == plain(path))
            };
            // In a container its socket may have another name: one share and one helper belong together.
            let only = connected.first().filter(|_| alone && connected.len() == 1);
            connected.iter().find(serves).or(only).copied()
        });
        let Some(running) = joined.and_then(|index| self.running.get(index)) else { return Vec::new() };
        if let Some(path) = running.helper.export.clone().filter(|path| path.is_absolute()) {
            share.export = ExportPath::Known { path, from: ExportFrom::Process(running.pid) };
        }
        if running.mapped {
            return vec![Finding {
                kind: &finding::ID_MAP,
                place: share.place.clone(),
                message: format!(
                    "the helper of the share {} (process {}) runs in a user namespace that maps the guest's ids",
                    share.title(),
                    running.pid
                ),
                remedy: None,
                subject: None,
            }];
        }
        Vec::new()
    }

    /// Every helper that runs.
    pub(super) fn helpers(&self) -> Vec<Helper> {
        self.running.iter().map(|running| running.helper.clone()).collect()
    }

    /// The helper that holds the other end of a socket of the process `pid`, under whatever name it runs.
    fn holder_of(&mut self, end: u64, pid: i32) -> Option<usize> {
        if let Some(known) = self.holders.get(&end) {
            return Some(*known);
        }
        let host = self.host;
        let everybody = self.everybody.get_or_insert_with(|| everybody(host));
        let holder = *everybody.get(&end).filter(|holder| **holder != pid)?;
        let known = self.running.iter().position(|running| running.pid == holder);
        let index = known.or_else(|| {
            let command = command_line(host, holder).ok()??;
            let running = self.helper(holder, command)?;
            self.running.push(running);
            Some(self.running.len() - 1)
        })?;
        self.holders.insert(end, index);
        Some(index)
    }

    /// The sockets' peers in the network namespace of a process, and what they are called.
    fn peers_of(&mut self, pid: i32) -> Result<(Peers, Names), String> {
        let link = |path: &Path| std::fs::read_link(path).ok();
        let theirs = self.host.read_link(&proc(pid, "ns/net")).map_err(|error| why(&error))?;
        let ours = link(Path::new("/proc/self/ns/net"));
        let host = self.host;
        let peers = || {
            if ours.as_deref() == Some(theirs.as_path()) {
                return sockets::peers().map_err(|error| why(&error));
            }
            let namespace: io::Result<File> = host.open_namespace(&proc(pid, "ns/net"));
            namespace.and_then(|namespace| sockets::peers_in(&namespace)).map_err(|error| why(&error))
        };
        let names = || match host.read(&proc(pid, "net/unix"), true) {
            Ok(Content::Whole(text)) => sockets::names(&text),
            _ => Names::new(),
        };
        self.peers.entry(theirs.clone()).or_insert_with(|| Ok((peers()?, names()))).clone()
    }
}

/// Which process holds which socket, of all there are.
fn everybody(host: &Host) -> HashMap<u64, i32> {
    let mut holders = HashMap::new();
    for entry in host.list_proc(Path::new("/proc")).unwrap_or_default() {
        let Some(pid) = entry.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else {
            continue;
        };
        let sockets = sockets_of(host, pid).unwrap_or_default();
        holders.extend(sockets.into_values().map(|inode| (inode, pid)));
    }
    holders
}

fn not_seen(share: &Share, what: &str) -> Finding {
    Finding {
        kind: &finding::NOT_SEEN,
        place: share.place.clone(),
        message: format!(
            "of the process {} with the share {} can't be seen {what}",
            share.place.pid.unwrap_or(0),
            escape(share.name())
        ),
        remedy: None,
        subject: None,
    }
}
