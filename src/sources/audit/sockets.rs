//! Which unix socket is connected to which: the kernel's sock_diag, over netlink.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::sources::format::path_of;
use netlink_packet_core::{
    Emitable as _, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::unix::nlas::Nla;
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};

/// The peer of each connected unix socket of a network namespace, by inodes.
pub(super) type Peers = HashMap<u64, u64>;

/// What each unix socket of a network namespace is bound to, by inode: one that was accepted has its listener's name.
pub(super) type Names = HashMap<u64, PathBuf>;

/// The names in `/proc/PID/net/unix`.
pub(super) fn names(text: &[u8]) -> Names {
    // Num RefCount Protocol Flags Type St Inode Path: numbers may be padded, a path may have blanks in it.
    let of_line = |line: &[u8]| {
        let mut rest = line;
        let mut inode = None;
        for _ in 0..7 {
            rest = rest.trim_ascii_start();
            let (field, behind) = rest.split_at(rest.iter().position(|byte| *byte == b' ')?);
            (inode, rest) = (Some(field), behind);
        }
        Some((std::str::from_utf8(inode?).ok()?.parse().ok()?, path_of(rest.get(1..)?)))
    };
    text.split(|byte| *byte == b'\n').filter_map(of_line).collect()
}

/// The file that each bound unix socket has, by inodes: of the file's number, the low 32 bits. One that was accepted has its listener's.
pub(super) type Files = HashMap<u64, u32>;

/// The peers in this process's own network namespace.
pub(super) fn peers() -> io::Result<Peers> {
    let peer = |nla: &Nla| match nla {
        Nla::Peer(peer) => Some(u64::from(*peer)),
        _ => None,
    };
    ask(StateFlags::ESTABLISHED, ShowFlags::PEER, peer)
}

/// The sockets' files in this process's own network namespace.
pub(super) fn files() -> io::Result<Files> {
    let file = |nla: &Nla| match nla {
        Nla::Vfs(file) => {
            // The number of the inode, then that of the device.
            let mut bytes = [0; 8];
            file.emit(&mut bytes);
            let [a, b, c, d, ..] = bytes;
            Some(u32::from_ne_bytes([a, b, c, d]))
        }
        _ => None,
    };
    ask(StateFlags::ESTABLISHED | StateFlags::LISTEN, ShowFlags::VFS, file)
}

/// Asks the kernel for something about every unix socket.
fn ask<T>(
    state_flags: StateFlags,
    show_flags: ShowFlags,
    of: impl Fn(&Nla) -> Option<T>,
) -> io::Result<HashMap<u64, T>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = UnixRequest { state_flags, inode: 0, show_flags, cookie: [0xff; 8] };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::UnixRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut found = HashMap::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if take(&datagram, &mut found, &of)? {
            return Ok(found);
        }
    }
}

/// Takes the messages of one datagram. Says whether they were the last.
fn take<T>(
    datagram: &[u8],
    found: &mut HashMap<u64, T>,
    of: &impl Fn(&Nla) -> Option<T>,
) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(response)) => {
                let value = response.nlas.iter().find_map(of);
                found.extend(value.map(|value| (u64::from(response.header.inode), value)));
            }
            _ => {}
        }
        // Messages are aligned to four bytes.
        let length = usize::try_from(message.header.length).unwrap_or(0).next_multiple_of(4);
        if length == 0 {
            return Ok(true);
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(datagram.is_empty())
}

/// The peers in another network namespace.
pub(super) fn peers_in(namespace: &File) -> io::Result<Peers> {
    inside(namespace, peers)
}

/// The sockets' files in another network namespace.
pub(super) fn files_in(namespace: &File) -> io::Result<Files> {
    inside(namespace, files)
}

/// Asks from a thread that enters a network namespace and ends.
fn inside<T: Send>(namespace: &File, ask: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            ask()
        });
        asked.join().unwrap_or_else(|_| Err(io::Error::other("the kernel's answer was not understood")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn names_may_have_blanks_and_numbers_be_padded() {
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            000000009d954e54: 00000003 00000000 00000000 0001 03 7003326\n\
            0000000028896be1: 00000003 00000000 00000000 0001 03   323 /run/my  vm.sock\n";
        assert_eq!(names(text), Names::from([(323, "/run/my  vm.sock".into())]));
    }

    #[test]
    fn a_pair_is_found() {
        let (one, other) = UnixStream::pair().unwrap();
        let inode = |socket: &UnixStream| {
            let fd = socket.try_clone().unwrap();
            File::from(std::os::fd::OwnedFd::from(fd)).metadata().unwrap().ino()
        };
        let peers = peers().unwrap();
        assert_eq!(peers.get(&inode(&one)), Some(&inode(&other)));
        assert_eq!(peers.get(&inode(&other)), Some(&inode(&one)));
    }
}
