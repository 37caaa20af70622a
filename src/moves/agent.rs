//! Asks the agent of a guest what is mounted in the guest.
//!
//! An agent is the guest's, and the guest may be hostile: each answer has a limit of size and of time, and nothing of it is relied on but
//! that a share which was mounted is mounted again. Protocol: QEMU, `docs/interop/qemu-ga-ref`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use serde_json::{Value, json};

use super::document::Guest;
use super::{qemu, tool};
use crate::share::qemu_opts;
use crate::text::escape;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long all answers together may take.
const ALL: Duration = Duration::from_secs(30);
/// How often an agent is asked after its guest's start.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// The longest answer that is read, in bytes.
const LARGEST: u64 = 4 << 20;
/// How much of a file is asked for at a time, and how often.
const PIECE: usize = 64 << 10;
const MOST_PIECES: usize = 16;
/// The file of the guest that names its mounts.
const MOUNTS: &str = "/proc/self/mounts";
/// The name of an agent's port.
const PORT: &[u8] = b"org.qemu.guest_agent.0";

/// The way to a guest's agent.
pub(super) trait Channel {
    /// Sends a request, and returns the agent's answer to it: an object with `return` or `error`.
    fn ask(&mut self, request: &Value) -> anyhow::Result<Value>;
}

/// The devices of a guest's 9p mounts: their mount tags. Blanks and backslashes are written as `\040` (proc(5)).
pub(super) fn tags(mounts: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut tags = BTreeSet::new();
    for line in mounts.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        if let (Some(device), Some(_), Some(b"9p")) = (fields.next(), fields.next(), fields.next()) {
            tags.insert(plain(device));
        }
    }
    tags
}

fn plain(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}

/// The text of the guest's list of mounts, by an agent that lets files be read, or else programs be run.
pub(super) fn read_mounts(channel: &mut dyn Channel) -> anyhow::Result<Vec<u8>> {
    call(channel, "guest-ping", None)?;
    match read_file(channel) {
        Ok(text) => Ok(text),
        Err(error) => run_cat(channel).with_context(|| format!("{error:#}; and to run a program")),
    }
}

fn read_file(channel: &mut dyn Channel) -> anyhow::Result<Vec<u8>> {
    let handle = call(channel, "guest-file-open", Some(json!({ "path": MOUNTS, "mode": "r" })))?;
    let handle = handle.as_i64().context("guest-file-open: no number of a file was returned")?;
    let mut text = Vec::new();
    let mut is_whole = false;
    for _ in 0..MOST_PIECES {
        let piece = call(channel, "guest-file-read", Some(json!({ "handle": handle, "count": PIECE })))?;
        let bytes = decoded(piece.get("buf-b64"))?;
        is_whole = bytes.is_empty() || piece.get("eof").and_then(Value::as_bool) == Some(true);
        text.extend(bytes);
        if is_whole {
            break;
        }
    }
    let _ = call(channel, "guest-file-close", Some(json!({ "handle": handle })));
    ensure!(is_whole, "{MOUNTS} of the guest is too long");
    Ok(text)
}

fn run_cat(channel: &mut dyn Channel) -> anyhow::Result<Vec<u8>> {
    let what = json!({ "path": "cat", "arg": [MOUNTS], "capture-output": true });
    let started = call(channel, "guest-exec", Some(what))?;
    let pid = started.get("pid").and_then(Value::as_i64).context("guest-exec: no process was returned")?;
    let start = Instant::now();
    loop {
        let said = call(channel, "guest-exec-status", Some(json!({ "pid": pid })))?;
        if said.get("exited").and_then(Value::as_bool) == Some(true) {
            ensure!(
                said.get("exitcode").and_then(Value::as_i64) == Some(0),
                "cat {MOUNTS} failed in the guest"
            );
            return decoded(said.get("out-data"));
        }
        ensure!(start.elapsed() < ANSWER, "cat {MOUNTS} does not end in the guest");
        sleep(PAUSE);
    }
}

fn decoded(text: Option<&Value>) -> anyhow::Result<Vec<u8>> {
    let text = text.and_then(Value::as_str).unwrap_or_default();
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| anyhow::anyhow!("the agent's answer is not base64"))
}

/// One request, and what its answer returns.
fn call(channel: &mut dyn Channel, name: &str, arguments: Option<Value>) -> anyhow::Result<Value> {
    let mut request = json!({ "execute": name });
    if let (Some(object), Some(arguments)) = (request.as_object_mut(), arguments) {
        object.insert("arguments".to_owned(), arguments);
    }
    let answer = channel.ask(&request).with_context(|| name.to_owned())?;
    if let Some(value) = answer.get("return") {
        return Ok(value.clone());
    }
    let why = answer.get("error").and_then(|error| error.get("desc")?.as_str()).unwrap_or("no answer to it");
    bail!("{name}: {}", escape(shortened(why).as_bytes()))
}

/// As much of an agent's words as a message has room for.
fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The agent of a libvirt domain.
pub(super) struct Virsh<'a> {
    domain: &'a str,
    end: Instant,
}

impl<'a> Virsh<'a> {
    pub(super) fn of(domain: &'a str) -> Self {
        Self { domain, end: Instant::now() + ALL }
    }
}

impl Channel for Virsh<'_> {
    fn ask(&mut self, request: &Value) -> anyhow::Result<Value> {
        let (limit, text) = (ANSWER.as_secs().to_string(), request.to_string());
        let words = ["qemu-agent-command", "--timeout", &limit, "--", self.domain, &text];
        let left = self.end.saturating_duration_since(Instant::now());
        answer(&tool::run_within("virsh", words, left, LARGEST)?)
    }
}

/// What Proxmox VE says that `cat` printed in a guest.
pub(super) fn mounts_by_qm(id: &str) -> anyhow::Result<Vec<u8>> {
    let limit = ANSWER.as_secs().to_string();
    let words = ["guest", "exec", id, "--timeout", &limit, "--", "cat", MOUNTS];
    let said = answer(&tool::run_within("qm", words, ALL, LARGEST)?)?;
    ensure!(said.get("exitcode").and_then(Value::as_i64) == Some(0), "cat {MOUNTS} failed in the guest");
    let text = said.get("out-data").and_then(Value::as_str).unwrap_or_default();
    ensure!(
        said.get("out-truncated").is_none_or(|cut| cut.as_u64() == Some(0)),
        "{MOUNTS} of the guest is too long"
    );
    Ok(text.as_bytes().to_vec())
}

/// A program's standard output as JSON. serde_json refuses what is nested too deep.
fn answer(said: &tool::Output) -> anyhow::Result<Value> {
    ensure!(said.status == Some(0), "{}", shortened(&said.reason()));
    serde_json::from_slice(&said.stdout).context("the answer is not JSON")
}

/// The agent of a QEMU that nobody manages: its port's socket is on the command line.
pub(super) struct Socket {
    stream: BufReader<UnixStream>,
    end: Instant,
    /// How long an answer may take.
    limit: Duration,
    is_synchronised: bool,
}

impl Socket {
    /// Connects to the agent of a guest's running QEMU.
    pub(super) fn of(guest: &Guest) -> anyhow::Result<Self> {
        let running = qemu::of(guest)?;
        let pid = running.first().map(|qemu| qemu.pid).context("its QEMU was not found")?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).context("reading QEMU's arguments")?;
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let path = port(&line, &cwd).context("QEMU has no port for an agent with a socket")?;
        Self::at(&path, ANSWER)
    }

    /// Connects to a socket. Only a full backlog would keep one waiting, and then it is refused.
    fn at(path: &Path, limit: Duration) -> anyhow::Result<Self> {
        let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket::socket(AddressFamily::Unix, SockType::Stream, kind, None).context("making a socket")?;
        let address = UnixAddr::new(path).context("the name of the agent's socket")?;
        socket::connect(socket.as_raw_fd(), &address).context("connecting to the agent's socket")?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false).context("the agent's socket")?;
        Ok(Self { stream: BufReader::new(stream), end: Instant::now() + ALL, limit, is_synchronised: false })
    }

    /// Reads an answer: a line. The agent sends the byte 0xff before that of `guest-sync-delimited`.
    fn line(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut byte = [0; 1];
        loop {
            if self.stream.buffer().is_empty() {
                let left = self.end.saturating_duration_since(Instant::now());
                ensure!(!left.is_zero(), "no answer in time");
                self.stream
                    .get_ref()
                    .set_read_timeout(Some(left.min(self.limit)))
                    .context("the agent's socket")?;
            }
            match self.stream.read(&mut byte) {
                Ok(0) => bail!("the agent's socket was closed"),
                Ok(_) if byte == [b'\n'] && !line.is_empty() => return Ok(line),
                Ok(_) if byte == [0xff] => line.clear(),
                Ok(_) => line.extend(byte),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => bail!("no answer in time"),
            }
            ensure!((line.len() as u64) < LARGEST, "the answer is too long");
        }
    }

    fn send(&mut self, request: &Value) -> anyhow::Result<()> {
        self.stream.get_ref().set_write_timeout(Some(ANSWER)).context("the agent's socket")?;
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).context("sending to the agent")
    }

    /// Passes over what the agent has said to others before.
    fn synchronise(&mut self) -> anyhow::Result<()> {
        let id = u64::from(std::process::id());
        self.stream.get_mut().write_all(&[0xff]).context("sending to the agent")?;
        self.send(&json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } }))?;
        loop {
            let line = self.line()?;
            let said: Option<Value> = serde_json::from_slice(&line).ok();
            if said.and_then(|said| said.get("return")?.as_u64()) == Some(id) {
                return Ok(());
            }
        }
    }
}

impl Channel for Socket {
    fn ask(&mut self, request: &Value) -> anyhow::Result<Value> {
        if !self.is_synchronised {
            self.synchronise()?;
            self.is_synchronised = true;
        }
        self.send(request)?;
        serde_json::from_slice(&self.line()?).context("the answer is not JSON")
    }
}

/// The socket of the agent's port on a QEMU's command line.
fn port(line: &[u8], cwd: &Path) -> Option<PathBuf> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let values = |name: &'static [u8]| {
        let pairs = words.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?)));
        pairs
            .filter(move |(option, _)| {
                option
                    .strip_prefix(b"-")
                    .is_some_and(|rest| rest == name || rest.strip_prefix(b"-") == Some(name))
            })
            .map(|(_, value)| value)
    };
    let get = |opts: &[qemu_opts::Opt], key: &[u8]| qemu_opts::last(opts, key).map(|opt| opt.value.clone());
    let chardev = values(b"device").find_map(|value| {
        let opts = qemu_opts::parse(value, &[], Some(b"driver"));
        let is_port = get(&opts, b"driver").as_deref() == Some(b"virtserialport")
            && get(&opts, b"name").as_deref() == Some(PORT);
        get(&opts, b"chardev").filter(|_| is_port)
    })?;
    values(b"chardev").find_map(|value| {
        let opts = qemu_opts::parse(value, &[], Some(b"backend"));
        let is_its = get(&opts, b"backend").as_deref() == Some(b"socket")
            && get(&opts, b"id").as_deref() == Some(chardev.as_slice());
        get(&opts, b"path").filter(|_| is_its).map(|path| cwd.join(OsStr::from_bytes(&path)))
    })
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    const TEXT: &str = "proc /proc proc rw 0 0\na\\040b /mnt/a 9p rw 0 0\nb /b 9p rw 0 0\nc /c ext4 rw 0 0\n";

    fn base64(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    /// What a well-behaved agent says.
    fn usual(name: &str, asked: &Value) -> String {
        let value = match name {
            "guest-sync-delimited" => {
                return format!("junk\u{0}\n{{\"return\":1}}\n{}", json!({ "return": asked["id"] }));
            }
            "guest-ping" | "guest-file-close" => json!({}),
            "guest-file-open" => json!(7),
            "guest-file-read" => json!({ "count": 1, "buf-b64": base64(TEXT), "eof": true }),
            "guest-exec" => json!({ "pid": 5 }),
            "guest-exec-status" => json!({ "exited": true, "exitcode": 0, "out-data": base64(TEXT) }),
            _ => return json!({ "error": { "desc": "unknown" } }).to_string(),
        };
        json!({ "return": value }).to_string()
    }

    /// Asks an agent that answers one request in another way; an empty answer is none.
    fn ask(special: &'static str, answer: String, limit: Duration) -> anyhow::Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut to = stream.try_clone().unwrap();
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { return };
                let line = line.strip_prefix(b"\xff").unwrap_or(&line);
                let request: Value = serde_json::from_slice(line).unwrap();
                let name = request["execute"].as_str().unwrap();
                let said = if name == special { answer.clone() } else { usual(name, &request["arguments"]) };
                if !said.is_empty() && to.write_all(format!("{said}\n").as_bytes()).is_err() {
                    return;
                }
            }
        });
        let said = Socket::at(&path, limit).and_then(|mut socket| read_mounts(&mut socket));
        server.join().unwrap();
        said
    }

    #[test]
    fn an_agent_tells_the_mounts_by_a_file_or_by_a_program() {
        let patient = Duration::from_secs(60);
        for refused in ["none", "guest-file-open", "guest-file-read"] {
            let text = ask(refused, json!({ "error": { "desc": "disabled" } }).to_string(), patient).unwrap();
            assert_eq!(tags(&text), BTreeSet::from([b"a b".to_vec(), b"b".to_vec()]), "{refused}");
        }
    }

    #[test]
    fn what_an_agent_says_is_not_relied_on() {
        let (patient, short) = (Duration::from_secs(60), Duration::from_millis(100));
        let deep = "[".repeat(100_000);
        let long = "x".repeat(usize::try_from(LARGEST).unwrap() + 1);
        for (request, answer, limit, reason) in [
            ("guest-ping", String::new(), short, "no answer in time"),
            ("guest-sync-delimited", String::new(), short, "no answer in time"),
            ("guest-ping", deep, patient, "the answer is not JSON"),
            ("guest-ping", long, patient, "the answer is too long"),
            ("guest-ping", "{}".to_owned(), patient, "no answer to it"),
            (
                "guest-ping",
                json!({ "error": { "desc": "\u{1b}[2J" } }).to_string(),
                patient,
                "guest-ping: \\x1b[2J",
            ),
        ] {
            let error = ask(request, answer.clone(), limit).unwrap_err();
            let shown: String = answer.chars().take(20).collect();
            assert!(format!("{error:#}").contains(reason), "{request} {shown}: {error:#}");
        }
        // Both ways to the list of mounts end.
        for answer in [
            json!({ "return": { "count": 1, "buf-b64": "!", "eof": true } }),
            json!({ "return": { "count": 1, "buf-b64": base64("x"), "eof": false } }),
        ] {
            assert!(ask("guest-file-read", answer.to_string(), patient).is_ok(), "{answer}");
        }
    }

    #[test]
    fn a_command_line_names_the_socket_of_the_agent() {
        let chardev = "-chardev\0socket,id=q,path=a,,b,server=on,wait=off\0";
        for (line, expected) in [
            (
                format!("qemu\0{chardev}-device\0virtserialport,chardev=q,name=org.qemu.guest_agent.0\0"),
                Some("/run/a,b"),
            ),
            (
                format!("qemu\0-{chardev}--device\0virtserialport,name=org.qemu.guest_agent.0,chardev=q\0"),
                Some("/run/a,b"),
            ),
            (format!("qemu\0{chardev}-device\0virtserialport,chardev=q,name=other\0"), None),
            (format!("qemu\0{chardev}-device\0virtserialport,chardev=r,name=org.qemu.guest_agent.0\0"), None),
            ("qemu\0-device".to_owned(), None),
        ] {
            assert_eq!(port(line.as_bytes(), Path::new("/run")), expected.map(PathBuf::from), "{line:?}");
        }
    }
}
