//! The loop: the front-end's messages, the guest's requests, and threads for requests that wait.
//!
//! The first thread takes requests off the queue and does them, but for those that would wait for a disk or for another program: another
//! thread does these, so that no request is delayed by one that waits. A reply may come before that of an earlier request.
//!
//! A flush is answered behind the request that it takes back: what waits for a disk cannot be interrupted.

use std::collections::{HashMap, VecDeque};
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::time::TimeSpec;
use vhost::vhost_user::{BackendReqHandler, Error as FrontEndError};
use virtio_queue::{DescriptorChain, QueueOwnedT as _, QueueT as _};
use vm_memory::GuestMemoryMmap;

use super::device::{Device, Ring, new_ring};
use super::memory::Buffers;
use super::requests::{Context, Done, Patience};
use super::session::{Export, Session};
use super::wire::{self, HEAD, Head, LONGEST_REQUEST, Reply, Request, WRITE, WRITE_HEAD};
use crate::helper::busy_poll::BusyPoll;
use crate::helper::seccomp::Filter;
use crate::helper::{privileges, signals, sys};

/// How many threads do requests that wait.
pub(crate) const THREADS: usize = 4;
/// How long a front-end may take for the rest of a message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a process that was asked to stop looks whether the requests in hand are done.
const LOOK: TimeSpec = TimeSpec::new(0, 100_000_000);

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The front-end closed it.
    Left,
    /// This process was asked to stop.
    Stopped,
    /// The front-end sent what is no message, or one that cannot be.
    Malformed(FrontEndError),
    /// Waiting failed.
    Broken(Errno),
}

type Chain = DescriptorChain<Arc<GuestMemoryMmap>>;

/// A request that was taken off the queue.
struct Job {
    chain: Chain,
    memory: Arc<GuestMemoryMmap>,
    kind: u8,
    tag: u16,
    body: Vec<u8>,
}

/// The requests in hand.
#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// How many are waiting or being done by other threads, by their tags, and the flushes to be answered behind them.
    by_tag: HashMap<u16, (usize, Vec<Job>)>,
    count: usize,
}

/// What the threads share.
struct Shared {
    session: Session,
    ring: Arc<Mutex<Ring>>,
    jobs: Mutex<Jobs>,
    /// There is something to do.
    work: Condvar,
    /// Nothing is in hand any more.
    idle: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device, ready to be served.
pub(crate) struct Server {
    shared: Arc<Shared>,
    handler: BackendReqHandler<Mutex<Device>>,
    socket: OwnedFd,
    busy_poll: BusyPoll,
    body: Vec<u8>,
    reply: Vec<u8>,
}

impl Server {
    /// A device with the mount tag `tag`, set up by the front-end at the other end of `socket`.
    pub(crate) fn new(socket: OwnedFd, tag: &[u8], export: Export, busy_poll: BusyPoll) -> Result<Self> {
        sys::accept_descriptors(socket.as_fd());
        let ring = new_ring().context("cannot make a queue")?;
        let shared = Arc::new(Shared {
            session: Session::new(export),
            ring: Arc::clone(&ring),
            jobs: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
        });
        let drain = Arc::clone(&shared);
        let device = Device::new(tag, ring, Box::new(move || drain.drain()));
        let stream = UnixStream::from(socket.try_clone().context("cannot copy a descriptor")?);
        stream.set_read_timeout(Some(MESSAGE_TIMEOUT)).context("cannot set the socket's timeout")?;
        stream.set_write_timeout(Some(MESSAGE_TIMEOUT)).context("cannot set the socket's timeout")?;
        let handler = BackendReqHandler::from_stream(stream, Arc::new(Mutex::new(device)));
        Ok(Self { shared, handler, socket, busy_poll, body: Vec::new(), reply: Vec::new() })
    }

    /// Starts the threads and installs the filter on all of them and on this one. They take no signals.
    pub(crate) fn start(&self, filter: &Arc<Filter>) -> Result<()> {
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
            .context("cannot block signals")?;
        let ready = Arc::new(Barrier::new(THREADS + 1));
        for _ in 0..THREADS {
            let (shared, filter, ready) = (Arc::clone(&self.shared), Arc::clone(filter), Arc::clone(&ready));
            let run = move || {
                if let Err(error) = filter.install() {
                    log::error!("cannot serve a guest: {error:#}");
                    std::process::abort();
                }
                ready.wait();
                shared.work_off();
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn(run).context("cannot start a thread")?;
        }
        ready.wait();
        privileges::forbid_processes()?;
        filter.install()?;
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).context("cannot unblock signals")
    }

    /// Serves until one side ends it.
    pub(crate) fn serve(&mut self) -> Ending {
        loop {
            let kick = {
                let ring = lock(&self.shared.ring);
                ring.kick.clone().filter(|_| ring.is_running())
            };
            if kick.is_some() {
                self.serve_queue();
            }
            let is_idle = lock(&self.shared.jobs).count == 0;
            let mut fds = vec![PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            fds.extend(kick.as_ref().map(|kick| PollFd::new(kick.as_fd(), PollFlags::POLLIN)));
            let polled = if is_idle {
                match signals::while_idle(|| ppoll(&mut fds, None, None)) {
                    None => return Ending::Stopped,
                    Some(polled) => polled,
                }
            } else {
                ppoll(&mut fds, Some(LOOK), None)
            };
            match polled {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Ending::Broken(errno),
            }
            let is_ready = |at: usize| fds.get(at).is_some_and(|fd| fd.any() == Some(true));
            let (message, kicked) = (is_ready(0), is_ready(1));
            if kicked && let Some(kick) = kick {
                self.busy_poll.received();
                let _ = (&*kick).read(&mut [0; 8]);
            }
            if message && let Err(error) = self.handler.handle_request() {
                self.shared.drain();
                self.shared.session.end();
                return match error {
                    FrontEndError::Disconnected => Ending::Left,
                    FrontEndError::SocketBroken(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
                        Ending::Left
                    }
                    error => Ending::Malformed(error),
                };
            }
            if signals::asked_to_stop() && lock(&self.shared.jobs).count == 0 {
                return Ending::Stopped;
            }
        }
    }

    /// Does what is in the queue, and what comes meanwhile.
    fn serve_queue(&mut self) {
        loop {
            while let Some((chain, memory)) = self.shared.take() {
                self.serve_chain(chain, memory);
                self.busy_poll.replied();
            }
            if self.looks_again() {
                self.busy_poll.received();
                continue;
            }
            let ring = &mut *lock(&self.shared.ring);
            if !ring.is_running() || !ring.queue.enable_notification(&*ring.memory).unwrap_or(false) {
                return;
            }
        }
    }

    /// Looks for the next request a while before sleeping, if the guest is busy.
    fn looks_again(&mut self) -> bool {
        while self.busy_poll.is_busy() {
            let ring = lock(&self.shared.ring);
            let next = ring.queue.avail_idx(&*ring.memory, Ordering::Acquire).map_or(0, |it| it.0);
            if ring.is_running() && next != ring.queue.next_avail() {
                return true;
            }
            drop(ring);
            if !self.busy_poll.again() {
                return false;
            }
        }
        false
    }

    fn serve_chain(&mut self, chain: Chain, memory: Arc<GuestMemoryMmap>) {
        let head_index = chain.head_index();
        let shared = Arc::clone(&self.shared);
        let buffers = match Buffers::of(&memory, chain.clone()) {
            Ok(buffers) => buffers,
            Err(errno) => {
                log::warn!("the guest sent a request that is no request: {}", errno.desc());
                lock(&shared.ring).give_back(&memory, head_index, 0);
                return;
            }
        };
        let (kind, tag) = match read_request(&buffers, &mut self.body, shared.session.msize()) {
            Ok(read) => read,
            Err((tag, errno)) => {
                let length = put_error(&buffers, tag, errno);
                lock(&shared.ring).give_back(&memory, head_index, length);
                return;
            }
        };
        let decoded = Request::decode(kind, &self.body);
        match decoded {
            Ok(Request::Version { .. }) => shared.drain(),
            Ok(Request::Flush { oldtag }) => {
                let job = || Job {
                    chain: chain.clone(),
                    memory: Arc::clone(&memory),
                    kind,
                    tag,
                    body: self.body.clone(),
                };
                if shared.waits_for(oldtag, job) {
                    return;
                }
            }
            _ => {}
        }
        let result = decoded.and_then(|request| {
            let mut reply = Reply::new(&mut self.reply, kind, tag);
            let (session, patience) = (&shared.session, Patience::No);
            Context { session, buffers: &buffers, reply: &mut reply, patience }.perform(&request)
        });
        if result == Ok(Done::WouldWait) {
            let body = self.body.clone();
            drop(buffers);
            shared.enqueue(Job { chain, memory, kind, tag, body });
            return;
        }
        let length = put_reply(&buffers, &mut self.reply, kind, tag, result);
        lock(&shared.ring).give_back(&memory, head_index, length);
    }
}

impl Shared {
    /// Takes the next request off the queue.
    fn take(&self) -> Option<(Chain, Arc<GuestMemoryMmap>)> {
        let ring = &mut *lock(&self.ring);
        if !ring.is_running() {
            return None;
        }
        let memory = Arc::clone(&ring.memory);
        // An error means a queue that the guest has damaged: there is nothing to be had from it.
        let chain = ring.queue.iter(Arc::clone(&memory)).ok()?.next()?;
        Some((chain, memory))
    }

    fn enqueue(&self, job: Job) {
        let mut jobs = lock(&self.jobs);
        jobs.by_tag.entry(job.tag).or_default().0 += 1;
        jobs.count += 1;
        jobs.waiting.push_back(job);
        self.work.notify_one();
    }

    /// Whether a request with this tag is in hand: then the flush is answered behind it.
    fn waits_for(&self, tag: u16, flush: impl FnOnce() -> Job) -> bool {
        let mut jobs = lock(&self.jobs);
        let Some((_, flushes)) = jobs.by_tag.get_mut(&tag) else { return false };
        flushes.push(flush());
        jobs.count += 1;
        true
    }

    /// Returns when nothing is in hand.
    fn drain(&self) {
        let mut jobs = lock(&self.jobs);
        while jobs.count > 0 {
            jobs = self.idle.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does requests that wait, for ever.
    fn work_off(&self) {
        let mut reply = Vec::new();
        loop {
            let job = {
                let mut jobs = lock(&self.jobs);
                loop {
                    if let Some(job) = jobs.waiting.pop_front() {
                        break job;
                    }
                    jobs = self.work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                }
            };
            self.finish(&job, &mut reply);
            let flushes = {
                let mut jobs = lock(&self.jobs);
                let (count, _) = jobs.by_tag.entry(job.tag).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    jobs.by_tag.remove(&job.tag).map_or_else(Vec::new, |it| it.1)
                } else {
                    Vec::new()
                }
            };
            for flush in &flushes {
                self.finish(flush, &mut reply);
            }
            let mut jobs = lock(&self.jobs);
            jobs.count = jobs.count.saturating_sub(1 + flushes.len());
            if jobs.count == 0 {
                self.idle.notify_all();
            }
        }
    }

    /// Does one request, however long it takes, and gives it back.
    fn finish(&self, job: &Job, reply: &mut Vec<u8>) {
        let length = match Buffers::of(&job.memory, job.chain.clone()) {
            Err(_) => 0,
            Ok(buffers) => {
                let result = Request::decode(job.kind, &job.body).and_then(|request| {
                    let mut reply = Reply::new(reply, job.kind, job.tag);
                    let (session, patience) = (&self.session, Patience::Yes);
                    Context { session, buffers: &buffers, reply: &mut reply, patience }.perform(&request)
                });
                put_reply(&buffers, reply, job.kind, job.tag, result)
            }
        };
        lock(&self.ring).give_back(&job.memory, job.chain.head_index(), length);
    }
}

/// Copies a request, without the data of a write, to `body`, and returns its type and tag; where it is none, the tag and the error of the
/// reply.
fn read_request(buffers: &Buffers<'_>, body: &mut Vec<u8>, msize: usize) -> Result<(u8, u16), (u16, Errno)> {
    let mut head = [0; HEAD];
    buffers.take(0, &mut head).map_err(|errno| (u16::MAX, errno))?;
    let Head { size, kind, tag } = Head::decode(head);
    let failed = |errno| (tag, errno);
    if size < HEAD || size > buffers.data_behind(0) {
        return Err(failed(Errno::EPROTO));
    }
    let length = if kind == WRITE { WRITE_HEAD - HEAD } else { size - HEAD };
    // Before a session has begun there is no bound yet.
    if (msize > 0 && size > msize) || length > LONGEST_REQUEST {
        return Err(failed(Errno::EMSGSIZE));
    }
    if kind == WRITE && size < WRITE_HEAD {
        return Err(failed(Errno::EPROTO));
    }
    body.clear();
    body.resize(length, 0);
    buffers.take(HEAD, body).map_err(failed)?;
    Ok((kind, tag))
}

/// Puts a reply into the guest's memory. Returns its length.
fn put_reply(
    buffers: &Buffers<'_>,
    reply: &mut [u8],
    kind: u8,
    tag: u16,
    result: Result<Done, Errno>,
) -> usize {
    log::trace!("request {kind}, tag {tag}: {result:?}");
    match result {
        Ok(Done::Reply(data)) => {
            let size = u32::try_from(reply.len() + data).unwrap_or(u32::MAX);
            if let Some(place) = reply.first_chunk_mut() {
                *place = size.to_le_bytes();
            }
            match buffers.put(0, reply) {
                Ok(()) => reply.len() + data,
                Err(_) => put_error(buffers, tag, Errno::EMSGSIZE),
            }
        }
        Ok(Done::WouldWait) => put_error(buffers, tag, Errno::EIO),
        Err(errno) => put_error(buffers, tag, errno),
    }
}

/// Puts an error reply into the guest's memory. Returns its length: 0 where it has no room.
fn put_error(buffers: &Buffers<'_>, tag: u16, errno: Errno) -> usize {
    buffers.put(0, &wire::error(tag, errno)).map_or(0, |()| wire::ERROR)
}
