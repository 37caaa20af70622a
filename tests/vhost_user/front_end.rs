//! A vhost-user front-end of our own: it shares no code with the device, and can break every rule.
//!
//! The guest's memory is a memfd, which is read and written by its descriptor. Messages: QEMU's `docs/interop/vhost-user.rst`;
//! rings: the virtio specification, "Split Virtqueues".

use std::fs::File;
use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::wire::PATIENCE;

/// The bytes of the guest's memory.
pub const MEMORY: u64 = 8 << 20;
/// Where the front-end would have it mapped.
const FRONT_END: u64 = 0x7f00_0000_0000;
/// How many descriptors the ring has.
pub const RING: u16 = 64;
/// Where things are in the guest's memory.
pub const DESCRIPTORS: u64 = 0x1000;
pub const AVAILABLE: u64 = 0x4000;
pub const USED: u64 = 0x5000;
pub const INDIRECT: u64 = 0x8000;
pub const REQUEST: u64 = 0x10_0000;
pub const REPLY: u64 = 0x40_0000;
/// The room for replies.
pub const ROOM: u32 = 1 << 20;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const IS_INDIRECT: u16 = 4;

// The messages.
pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const SET_VRING_ENABLE: u32 = 18;
pub const GET_CONFIG: u32 = 24;

/// A descriptor of a chain.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    pub fn bytes(self) -> Vec<u8> {
        [
            &self.address.to_le_bytes()[..],
            &self.length.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.next.to_le_bytes(),
        ]
        .concat()
    }
}

/// A front-end with its guest's memory.
pub struct FrontEnd {
    socket: UnixStream,
    pub memory: File,
    kick: EventFd,
    call: EventFd,
    available: u16,
    used: u16,
}

fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|it| it.to_le_bytes()).collect()
}

fn vring(index: u32, number: u32) -> Vec<u8> {
    [index.to_le_bytes(), number.to_le_bytes()].concat()
}

impl FrontEnd {
    /// Connects, and does nothing else.
    pub fn connect(socket: &Path) -> Self {
        let start = Instant::now();
        let socket = loop {
            match UnixStream::connect(socket) {
                Ok(connected) => break connected,
                Err(error) => assert!(start.elapsed() < PATIENCE, "connecting: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let memory = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).expect("a memfd"));
        memory.set_len(MEMORY).expect("the guest's memory");
        let event = || EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).expect("an eventfd");
        Self { socket, memory, kick: event(), call: event(), available: 0, used: 0 }
    }

    /// Connects, and sets the device up as QEMU does.
    pub fn set_up(socket: &Path) -> Self {
        let mut this = Self::connect(socket);
        let features = this.ask(GET_FEATURES, &[]);
        assert_eq!(features & (1 << 32 | 1 << 28 | 1), 1 << 32 | 1 << 28 | 1, "{features:x}");
        let protocol = this.ask(GET_PROTOCOL_FEATURES, &[]);
        // REPLY_ACK and CONFIG.
        this.send(SET_PROTOCOL_FEATURES, &numbers(&[protocol & (1 << 3 | 1 << 9)]), &[]);
        this.send(SET_OWNER, &[], &[]);
        // Without EVENT_IDX: each request is a kick, and each reply a call.
        this.send(SET_FEATURES, &numbers(&[1 << 32 | 1 << 30 | 1 << 28 | 1]), &[]);
        this.give_memory();
        this.start_ring();
        this
    }

    /// Gives the guest's memory.
    pub fn give_memory(&mut self) {
        let table = [&1_u64.to_le_bytes()[..], &numbers(&[0, MEMORY, FRONT_END, 0])].concat();
        let memory = self.memory.as_raw_fd();
        assert_eq!(self.acknowledged(SET_MEM_TABLE, &table, &[memory]), 0, "the table of memory");
    }

    /// Sets the ring up and starts it.
    pub fn start_ring(&mut self) {
        for at in [AVAILABLE, USED] {
            self.memory.write_all_at(&[0; 4], at).expect("an empty ring");
        }
        (self.available, self.used) = (0, 0);
        let (kick, call) = (self.kick.as_raw_fd(), self.call.as_raw_fd());
        let addresses = numbers(&[0, FRONT_END + DESCRIPTORS, FRONT_END + USED, FRONT_END + AVAILABLE, 0]);
        self.send(SET_VRING_NUM, &vring(0, RING.into()), &[]);
        self.send(SET_VRING_BASE, &vring(0, 0), &[]);
        self.send(SET_VRING_ADDR, &addresses, &[]);
        self.send(SET_VRING_CALL, &numbers(&[0]), &[call]);
        self.send(SET_VRING_KICK, &numbers(&[0]), &[kick]);
        assert_eq!(self.acknowledged(SET_VRING_ENABLE, &vring(0, 1), &[]), 0, "enabling the ring");
    }

    /// Stops the ring, and returns where it stood.
    pub fn stop_ring(&mut self) -> u32 {
        (self.ask(GET_VRING_BASE, &vring(0, 0)) >> 32) as u32
    }

    /// Sends bytes that are no message.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    /// Sends a message.
    pub fn send(&mut self, request: u32, body: &[u8], descriptors: &[RawFd]) {
        self.send_with(request, 1, body, descriptors);
    }

    fn send_with(&mut self, request: u32, flags: u32, body: &[u8], descriptors: &[RawFd]) {
        let size = u32::try_from(body.len()).expect("a size");
        let head = [request, flags, size].map(u32::to_le_bytes).concat();
        let parts = [IoSlice::new(&head), IoSlice::new(body)];
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights };
        let sent = sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None);
        assert_eq!(sent.expect("a message to the device"), head.len() + body.len());
    }

    /// Sends a message and asks for its acknowledgement.
    pub fn acknowledged(&mut self, request: u32, body: &[u8], descriptors: &[RawFd]) -> u64 {
        self.send_with(request, 1 | 8, body, descriptors);
        self.answer(request)
    }

    /// Sends a message that is answered by a number.
    pub fn ask(&mut self, request: u32, body: &[u8]) -> u64 {
        self.send(request, body, &[]);
        self.answer(request)
    }

    fn answer(&mut self, request: u32) -> u64 {
        let mut head = [0; 12];
        self.socket.read_exact(&mut head).expect("an answer's head");
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        assert_eq!((word(0), word(4), word(8)), (request, 5, 8), "an answer of eight bytes");
        let mut number = [0; 8];
        self.socket.read_exact(&mut number).expect("an answer");
        u64::from_le_bytes(number)
    }

    /// The device's configuration space.
    pub fn configuration(&mut self, size: u32) -> Vec<u8> {
        let head = [0, size, 0].map(u32::to_le_bytes).concat();
        self.send(GET_CONFIG, &[head, vec![0; size as usize]].concat(), &[]);
        let mut answer = vec![0; 12 + 12 + size as usize];
        self.socket.read_exact(&mut answer).expect("the configuration");
        answer.split_off(24)
    }

    /// Whether the device has closed the connection; waits until it has.
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.socket.read(&mut [0; 256]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.raw_os_error() == Some(libc::ECONNRESET),
            }
        }
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).expect("the guest's memory");
    }

    pub fn read(&self, at: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read_exact_at(&mut bytes, at).expect("the guest's memory");
        bytes
    }

    fn read_u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().expect("two bytes"))
    }

    /// Writes descriptors from number `at` on.
    pub fn describe(&self, at: u16, chain: &[Descriptor]) {
        for (number, descriptor) in (u64::from(at)..).zip(chain) {
            self.write(DESCRIPTORS + number * 16, &descriptor.bytes());
        }
    }

    /// Makes the chain that begins with descriptor `head` available, and tells the device.
    pub fn offer(&mut self, head: u16) {
        self.write(AVAILABLE + 4 + u64::from(self.available % RING) * 2, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.announce(self.available);
    }

    /// Says how many chains have been made available, and tells the device.
    pub fn announce(&mut self, index: u16) {
        self.write(AVAILABLE + 2, &index.to_le_bytes());
        self.kick.write(1).expect("a kick");
    }

    /// Waits for the next chain that the device gives back: its head and the bytes of its reply. None where the connection has
    /// ended.
    pub fn next_used(&mut self) -> Option<(u32, u32)> {
        let start = Instant::now();
        while self.read_u16(USED + 2) == self.used {
            self.socket.set_nonblocking(true).expect("a socket that does not wait");
            let ended = matches!(self.socket.read(&mut [0; 1]), Ok(0));
            self.socket.set_nonblocking(false).expect("a socket that waits");
            if ended {
                return None;
            }
            assert!(start.elapsed() < PATIENCE, "the device gives no request back");
            std::thread::sleep(Duration::from_micros(200));
        }
        let at = USED + 4 + u64::from(self.used % RING) * 8;
        self.used = self.used.wrapping_add(1);
        let word = |at| u32::from_le_bytes(self.read(at, 4).try_into().expect("four bytes"));
        Some((word(at), word(at + 4)))
    }

    /// Gives the device a request in slot `slot`.
    pub fn post(&mut self, slot: u16, request: &[u8]) {
        let (from, to) = (REQUEST + u64::from(slot) * 0x2_0000, REPLY + u64::from(slot) * 0x2_0000);
        self.write(from, request);
        let length = u32::try_from(request.len()).expect("a length");
        self.describe(
            slot * 2,
            &[
                Descriptor { address: from, length, flags: NEXT, next: slot * 2 + 1 },
                Descriptor { address: to, length: 0x2_0000, flags: WRITE, next: 0 },
            ],
        );
        self.offer(slot * 2);
    }

    /// The next reply, and the slot of its request.
    pub fn take(&mut self) -> Option<(u16, Vec<u8>)> {
        let (head, length) = self.next_used()?;
        let slot = u16::try_from(head).expect("a head") / 2;
        Some((slot, self.read(REPLY + u64::from(slot) * 0x2_0000, length as usize)))
    }

    /// Sends a request and returns its reply.
    pub fn call(&mut self, request: &[u8]) -> Vec<u8> {
        self.post(0, request);
        let (slot, reply) = self.take().expect("a reply");
        assert_eq!(slot, 0);
        reply
    }

    /// Tells the device that there may be something.
    pub fn kick(&self) {
        self.kick.write(1).expect("a kick");
    }

    /// The socket's descriptor.
    pub fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
