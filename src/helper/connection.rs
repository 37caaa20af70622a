//! One client: bytes off its socket → requests → replies.
//!
//! One receive takes a request that arrives whole, and whatever else has arrived with it; one send takes its
//! reply. Both buffers live as long as the connection, and nothing else is allocated.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeSpec, TimeVal};

use super::busy_poll::BusyPoll;
use super::operations::{Answer, Operations, REPLY};
use super::privileges::OPEN_FILES;
use super::protocol::{FD_FOLLOWS, Form, Frame, HEADER, MAX_PAYLOAD, Malformed, Request, encode_error};
use super::settings::Settings;
use super::sys::{self, Wait};
use super::{counters, signals};
use crate::text::escape;

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client closed it between two requests.
    Left,
    /// The client was idle for longer than it may be.
    Idle,
    /// This process was asked to stop.
    Stopped,
    /// The client closed it in the middle of a request, with so many bytes received.
    CutOff(usize),
    /// The client sent what is no request.
    Malformed(Malformed),
    /// The socket failed.
    Broken(Errno),
}

/// What one client may use up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long it may send nothing, or read nothing.
    idle: Option<Duration>,
    /// How many descriptors may be on their way to it. The kernel bounds those of all processes of one user together, so that one
    /// client that takes none would cost the others theirs.
    descriptors: usize,
}

impl Limits {
    /// A client's share of what there is. QEMU, which takes a reply before it asks again, needs one descriptor at a time.
    pub(crate) fn of(settings: &Settings) -> Self {
        let all = settings.rlimit_nofile.unwrap_or(OPEN_FILES);
        let clients = u64::try_from(settings.shared).unwrap_or(u64::MAX);
        let share = usize::try_from(all / clients.saturating_mul(4)).unwrap_or(usize::MAX);
        Self { idle: settings.idle_timeout, descriptors: share.clamp(1, MOST_DESCRIPTORS) }
    }
}

/// How many descriptors may be on their way to one client, however many the helper may have open.
const MOST_DESCRIPTORS: usize = 16;

/// The descriptors that were sent and that the client may not have received yet.
///
/// The kernel does not count them. It says how much of what was sent is unread (`SIOCOUTQ`, unix(7)), in the memory that the messages
/// take. A client receives replies in order. So a descriptor has been received when all that was sent since, itself included,
/// takes more memory than what is unread.
struct OnTheirWay {
    most: usize,
    /// The least memory that the replies so far have taken, in bytes.
    sent: u64,
    /// `sent` before each of the last descriptors, the oldest first.
    starts: VecDeque<u64>,
}

/// The least memory that the kernel takes for a message, besides its bytes: `struct sk_buff` and `struct skb_shared_info`. On
/// x86-64 a message of four bytes takes 768.
const MESSAGE: u64 = 512;

impl OnTheirWay {
    fn new(most: usize) -> Self {
        Self { most, sent: 0, starts: VecDeque::with_capacity(most.min(MOST_DESCRIPTORS)) }
    }

    /// Whether one more descriptor may be sent on `socket`.
    fn has_room(&mut self, socket: BorrowedFd<'_>) -> bool {
        if self.starts.len() >= self.most {
            let unread = sys::unread(socket).map_or(u64::MAX, u64::from);
            while self.starts.front().is_some_and(|start| self.sent - start > unread) {
                self.starts.pop_front();
            }
        }
        self.starts.len() < self.most
    }

    /// Notes that a reply of so many bytes is about to be sent.
    fn reply(&mut self, length: usize) {
        self.sent = self.sent.saturating_add(MESSAGE).saturating_add(length as u64);
    }

    /// Notes that a descriptor is about to be sent.
    fn descriptor(&mut self) {
        self.starts.push_back(self.sent);
        self.reply(FD_FOLLOWS.to_ne_bytes().len());
    }
}

/// One client's connection.
pub(crate) struct Connection {
    socket: OwnedFd,
    input: Box<[u8]>,
    /// The bytes of `input` that have arrived and are not yet served: `start..end`.
    start: usize,
    end: usize,
    reply: Box<[u8]>,
    busy_poll: BusyPoll,
    limits: Limits,
    on_their_way: OnTheirWay,
}

impl Connection {
    /// A connection on a connected stream socket.
    pub(crate) fn new(socket: OwnedFd, busy_poll: BusyPoll, limits: Limits) -> Self {
        if let Some(idle) = limits.idle {
            let time = TimeVal::new(idle.as_secs().try_into().unwrap_or(i64::MAX), 0);
            if let Err(errno) = setsockopt(&socket, sockopt::ReceiveTimeout, &time) {
                log::warn!("--idle-timeout can't be set: {}", errno.desc());
            }
        }
        Self {
            socket,
            input: vec![0; HEADER + MAX_PAYLOAD].into_boxed_slice(),
            start: 0,
            end: 0,
            reply: vec![0; REPLY].into_boxed_slice(),
            busy_poll,
            limits,
            on_their_way: OnTheirWay::new(limits.descriptors),
        }
    }

    /// Serves requests until one side ends it.
    pub(crate) fn serve(&mut self, operations: &mut Operations) -> Ending {
        loop {
            match self.serve_next(operations) {
                Ok(()) => {}
                Err(ending) => return ending,
            }
        }
    }

    fn serve_next(&mut self, operations: &mut Operations) -> Result<(), Ending> {
        let frame = loop {
            match Frame::peek(&self.input[self.start..self.end]).map_err(Ending::Malformed)? {
                Some(frame) if self.end - self.start >= HEADER + frame.size => break frame,
                _ => self.receive()?,
            }
        };
        let from = self.start + HEADER;
        let to = from + frame.size;
        self.start = to;
        let request = Request::decode(frame.number, &self.input[from..to]).map_err(Ending::Malformed)?;
        let answer = operations.perform(request, &mut self.reply);
        let error = answer.as_ref().err().copied();
        counters::count(frame.number, error);
        if let Some(errno) = error.filter(|errno| is_refusal(*errno)) {
            log_refusal(&request, errno);
        }
        log::trace!("{request:?}: {error:?}");
        let sent = self.send_reply(request.form(), answer);
        self.busy_poll.replied();
        sent.map_err(|errno| match errno {
            Errno::EPIPE | Errno::ECONNRESET => Ending::Left,
            STOPPED => Ending::Stopped,
            Errno::ETIMEDOUT => Ending::Idle,
            errno => Ending::Broken(errno),
        })
    }

    /// Receives what has arrived; looks for it a while before it sleeps, if the client is busy.
    fn wait_for_bytes(&mut self) -> Result<usize, Errno> {
        let (socket, room) = (self.socket.as_fd(), &mut self.input[self.end..]);
        if self.busy_poll.is_busy() {
            loop {
                match sys::recv(socket, room, Wait::No) {
                    Err(Errno::EAGAIN) if self.busy_poll.again() => {}
                    Err(Errno::EAGAIN) => break,
                    result => return result,
                }
            }
        }
        sys::recv(socket, room, Wait::Yes)
    }

    /// Receives more bytes behind those that are there. There is always room: a request that is not whole is
    /// shorter than the buffer.
    fn receive(&mut self) -> Result<(), Ending> {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let since = self.limits.idle.map(|limit| (Instant::now(), limit));
        loop {
            let received = signals::while_idle(|| self.wait_for_bytes());
            match received {
                None => return Err(Ending::Stopped),
                Some(Ok(0) | Err(Errno::ECONNRESET)) if self.end == 0 => return Err(Ending::Left),
                Some(Ok(0) | Err(Errno::ECONNRESET)) => return Err(Ending::CutOff(self.end)),
                Some(Ok(count)) => {
                    self.busy_poll.received();
                    self.end += count;
                    return Ok(());
                }
                Some(Err(Errno::EAGAIN)) => return Err(Ending::Idle),
                Some(Err(Errno::EINTR)) if since.is_some_and(|(start, limit)| start.elapsed() >= limit) => {
                    return Err(Ending::Idle);
                }
                Some(Err(Errno::EINTR)) => {}
                Some(Err(errno)) => return Err(Ending::Broken(errno)),
            }
        }
    }

    /// Sends what `form` makes of `answer`. Descriptors are closed only when the reply is on its way.
    fn send_reply(&mut self, form: Form, answer: Result<Answer, Errno>) -> Result<(), Errno> {
        let (socket, idle) = (self.socket.as_fd(), self.limits.idle);
        match answer {
            Ok(Answer::Bytes(length)) => {
                self.on_their_way.reply(length);
                send_all(socket, &self.reply[..length], idle)
            }
            Ok(Answer::File(file, pin)) => {
                let bytes = FD_FOLLOWS.to_ne_bytes();
                let sent = if self.on_their_way.has_room(socket) {
                    self.on_their_way.descriptor();
                    patiently(socket, idle, || sys::send_with_fd(socket, &bytes, file.as_fd()))
                } else {
                    Err(Errno::ETOOMANYREFS)
                };
                match pin {
                    Some(pin) => sys::close_both(pin, file),
                    None => drop(file),
                }
                match sent {
                    // Too many descriptors are on their way, to this client or to all: that is a limit, not the end.
                    Err(Errno::ETOOMANYREFS) => {
                        send_all(socket, &(-(Errno::EMFILE as i32)).to_ne_bytes(), idle)
                    }
                    sent => send_all(socket, &bytes[sent?..], idle),
                }
            }
            Err(errno) => {
                self.on_their_way.reply(0);
                match form {
                    Form::Fd => send_all(socket, &(-(errno as i32)).to_ne_bytes(), idle),
                    _ => send_all(socket, &encode_error(errno), idle),
                }
            }
        }
    }
}

/// Whether an error may come from what confines this process, or from a path that would lead out of the export.
fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::ELOOP | Errno::EXDEV | Errno::EACCES)
}

#[cold]
fn log_refusal(request: &Request<'_>, errno: Errno) {
    if log::log_enabled!(log::Level::Debug) {
        let words: Vec<_> = request.strings().map(|word| format!("'{}'", escape(word))).collect();
        log::debug!("refused {} {}: {errno:?} ({})", request.name(), words.join(" "), errno.desc());
    }
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8], idle: Option<Duration>) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let sent = patiently(socket, idle, || sys::send(socket, bytes))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// What [`patiently`] says when this process was asked to stop.
const STOPPED: Errno = Errno::ECANCELED;

/// Sends, and waits for a client that does not read; that wait, like the one for a request, ends when this process is asked to
/// stop. `ETIMEDOUT` where the client does not read for as long as it may be idle.
fn patiently<T>(
    socket: BorrowedFd<'_>,
    idle: Option<Duration>,
    mut send: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let since = idle.map(|limit| (Instant::now(), limit));
    loop {
        match send() {
            Err(Errno::EAGAIN) => {}
            Err(Errno::EINTR) => continue,
            result => return result,
        }
        let mut fds = [PollFd::new(socket, PollFlags::POLLOUT)];
        let left = since.map(|(start, limit)| limit.saturating_sub(start.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Errno::ETIMEDOUT);
        }
        match signals::while_idle(|| ppoll(&mut fds, left.map(TimeSpec::from), None)) {
            None => return Err(STOPPED),
            Some(Ok(_) | Err(Errno::EINTR)) => {}
            Some(Err(errno)) => return Err(errno),
        }
    }
}
