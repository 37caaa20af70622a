//! A guest and a front-end that break the rules: their device may end, no other may, and nothing may be read or written that is not theirs.

use std::os::fd::AsRawFd as _;

use crate::Device;
use crate::front_end::{
    AVAILABLE, DESCRIPTORS, Descriptor, FrontEnd, INDIRECT, IS_INDIRECT, MEMORY, NEXT, REPLY, REQUEST, RING,
    ROOM, SET_MEM_TABLE, SET_VRING_ADDR, SET_VRING_NUM, WRITE,
};
use crate::guest::{Guest, Message, ROOT, body};

/// Whether a new front-end is served.
fn serves(device: &mut Device) {
    assert!(device.process.is_alive(), "{}", device.process.log());
    let mut guest = Guest::attach(&device.socket(), 0);
    assert_eq!(guest.status(ROOT).unwrap().0 & 0o170_000, 0o040_000);
}

#[test]
fn broken_chains_are_given_back_and_the_next_request_is_served() {
    let mut device = Device::start(&[]);
    let getattr = Message::new(24, 7).u32(ROOT).u64(0x7ff).finish();
    let length = getattr.len() as u32;
    let request = Descriptor { address: REQUEST, length, flags: NEXT, next: 1 };
    let reply = Descriptor { address: REPLY, length: ROOM, flags: WRITE, next: 0 };
    let at = |address, length, flags, next| Descriptor { address, length, flags, next };
    let chains: &[(&str, Vec<Descriptor>)] = &[
        ("a loop", vec![request, at(REPLY, 16, WRITE | NEXT, 0)]),
        ("itself", vec![at(REQUEST, length, NEXT, 0)]),
        ("outside of memory", vec![at(MEMORY + 4096, length, NEXT, 1), reply]),
        ("over the end of memory", vec![at(MEMORY - 4, length, NEXT, 1), reply]),
        ("at the end of addresses", vec![at(u64::MAX - 2, length, NEXT, 1), reply]),
        ("a length that overflows", vec![at(REQUEST, u32::MAX, NEXT, 1), reply]),
        ("a reply outside of memory", vec![request, at(u64::MAX / 2, ROOM, WRITE, 0)]),
        ("no request", vec![reply]),
        ("no reply", vec![at(REQUEST, length, 0, 0)]),
        ("nothing at all", vec![at(REQUEST, 0, 0, 0)]),
        ("a next that is none", vec![at(REQUEST, length, NEXT, 60_000)]),
        ("an indirect table outside of memory", vec![at(MEMORY, 32, IS_INDIRECT, 0)]),
        ("an indirect table of half a descriptor", vec![at(INDIRECT, 24, IS_INDIRECT, 0)]),
        ("an indirect table of 4 GiB", vec![at(INDIRECT, u32::MAX - 15, IS_INDIRECT, 0)]),
        ("an indirect table in an indirect table", vec![at(INDIRECT, 32, IS_INDIRECT, 0)]),
        ("an indirect table with a next", vec![at(INDIRECT, 32, IS_INDIRECT | NEXT, 1), reply]),
        ("no room for an error", vec![request, at(REPLY, 10, WRITE, 0)]),
        ("a reply byte by byte", {
            let mut chain = vec![request];
            chain.extend((1..40_u16).map(|it| at(REPLY + u64::from(it), 1, WRITE | NEXT, it + 1)));
            chain.push(at(REPLY + 100, ROOM - 100, WRITE, 0));
            chain
        }),
    ];
    let mut guest = Guest::attach(&device.socket(), 0);
    for (what, chain) in chains {
        guest.front_end.write(REQUEST, &getattr);
        guest.front_end.write(INDIRECT, &at(INDIRECT, 32, IS_INDIRECT, 0).bytes());
        guest.front_end.describe(0, chain);
        guest.front_end.offer(0);
        assert!(guest.front_end.next_used().is_some(), "{what}: {}", device.process.log());
        assert_eq!(guest.status(ROOT).unwrap().0 & 0o170_000, 0o040_000, "{what}");
    }
    serves(&mut device);
}

#[test]
fn a_ring_that_lies_ends_its_own_device_at_most() {
    let mut device = Device::start(&[]);
    for (what, head, index) in [
        ("a head that is no descriptor", 60_000, 1),
        ("the last descriptor", RING - 1, 1),
        ("more requests than the ring holds", 0, RING + 1),
        ("very many more", 0, 40_000),
    ] {
        let mut front_end = FrontEnd::set_up(&device.socket());
        front_end.write(AVAILABLE + 4, &head.to_le_bytes());
        front_end.announce(index);
        drop(front_end);
        assert!(device.process.is_alive(), "{what}");
        serves(&mut device);
    }
}

#[test]
fn requests_of_every_length_are_answered() {
    let mut device = Device::start(&[]);
    let mut guest = Guest::attach(&device.socket(), 0);
    // Each type with bodies that are too short, too long, and full of ones: lengths of strings and counts among them.
    for kind in 0..=u8::MAX {
        if kind == 100 {
            continue;
        }
        for length in [0, 1, 2, 3, 4, 7, 8, 12, 16, 20, 24, 30, 60, 100, 1000, 20_000] {
            for fill in [0, 0xff] {
                let message = Message::new(kind, 7).bytes(&vec![fill; length]).finish();
                let reply = guest.front_end.call(&message);
                if let Ok(body) = body(&reply, kind, 7) {
                    // A flush, or a clunk of the root: it is taken hold of again.
                    assert!(body.len() < 200, "{kind}: {body:?}");
                }
            }
        }
        guest.begin(0);
    }
    // A size that is not the request's.
    for size in [0_u32, 6, 7, 8, 100_000, u32::MAX] {
        let mut message = Message::new(24, 7).u32(ROOT).u64(0).finish();
        message[..4].copy_from_slice(&size.to_le_bytes());
        let reply = guest.front_end.call(&message);
        assert!(body(&reply, 24, 7).is_err(), "{size}");
    }
    // More data than there are.
    guest.walk(ROOT, 1, &[]).unwrap();
    guest.create(1, b"file", 2, 0o600, 0).unwrap();
    let short = guest.ask(118, |it| it.u32(1).u64(0).u32(1000).bytes(b"few"));
    assert_eq!(short, Err(libc::EPROTO));
    serves(&mut device);
}

#[test]
fn messages_that_cannot_be_end_their_own_device() {
    let mut device = Device::start(&[]);
    let numbers = |values: &[u64]| values.iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<_>>();
    let head = |request: u32, flags: u32, size: u32| [request, flags, size].map(u32::to_le_bytes).concat();
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("half a head", vec![1, 0, 0, 0, 1]),
        ("a request that is none", head(9999, 1, 0)),
        ("another version", head(1, 2, 0)),
        ("a body of 4 GiB", head(5, 1, u32::MAX)),
        ("a body that is missing", head(5, 1, 40)),
        ("a table of memory without memory", [head(5, 1, 40), numbers(&[1, 0, MEMORY, 0, 0])].concat()),
        ("a table of very many regions", [head(5, 1, 8), numbers(&[u64::from(u32::MAX)])].concat()),
        ("bytes", (0..400_u32).map(|it| (it * 37 % 251) as u8).collect()),
    ];
    for (what, bytes) in broken {
        let mut front_end = FrontEnd::connect(&device.socket());
        front_end.send_raw(&bytes);
        nix::sys::socket::shutdown(front_end.raw(), nix::sys::socket::Shutdown::Write).unwrap();
        assert!(front_end.is_closed(), "{what}");
        serves(&mut device);
    }
    // What is a message, and cannot be done.
    let refused: [(&str, u32, Vec<u8>); 4] = [
        ("a ring of 3", SET_VRING_NUM, [0_u32, 3].map(u32::to_le_bytes).concat()),
        ("a ring of 32768", SET_VRING_NUM, [0_u32, 32_768].map(u32::to_le_bytes).concat()),
        ("a second ring", SET_VRING_NUM, [1_u32, 64].map(u32::to_le_bytes).concat()),
        ("a ring outside of memory", SET_VRING_ADDR, numbers(&[0, 0x10, 0x20, 0x40, 0])),
    ];
    for (what, request, bytes) in refused {
        let mut front_end = FrontEnd::set_up(&device.socket());
        assert_ne!(front_end.acknowledged(request, &bytes, &[]), 0, "{what}");
        drop(front_end);
        serves(&mut device);
    }
    // A region that overlaps another.
    let mut front_end = FrontEnd::set_up(&device.socket());
    let table =
        [&2_u64.to_le_bytes()[..], &numbers(&[0, MEMORY, 0, 0]), &numbers(&[4096, MEMORY, MEMORY, 0])]
            .concat();
    let memory = front_end.memory.as_raw_fd();
    assert_ne!(front_end.acknowledged(SET_MEM_TABLE, &table, &[memory, memory]), 0);
    drop(front_end);
    serves(&mut device);
}

#[test]
fn memory_that_disappears_ends_its_own_device() {
    let mut device = Device::start(&[]);
    let mut guest = Guest::attach(&device.socket(), 0);
    let memory = guest.front_end.memory.try_clone().unwrap();
    guest.front_end.write(AVAILABLE + 4, &0_u16.to_le_bytes());
    memory.set_len(DESCRIPTORS).unwrap();
    guest.front_end.kick();
    assert!(guest.front_end.is_closed());
    device.process.wait_for_log("the front-end took away memory");
    serves(&mut device);
}
