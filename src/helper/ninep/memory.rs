//! Requests and replies in the guest's memory.
//!
//! A descriptor chain is a request's bytes, which the guest wrote, and room for its reply. The guest can change both at any time, so
//! bytes are copied before they are looked at. Data of reads and writes are not looked at: preadv2(2) and pwritev2(2)
//! move them between the file and the guest's memory.

use std::ops::Deref;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryMmap, VolatileSlice};

/// The most pieces of memory of one request: as many as the kernel takes in one call (`UIO_MAXIOV`).
const MOST_PIECES: usize = 1024;

/// The pieces of the guest's memory that are one request's.
pub(crate) struct Buffers<'m> {
    request: Vec<VolatileSlice<'m>>,
    reply: Vec<VolatileSlice<'m>>,
}

impl<'m> Buffers<'m> {
    /// Those of a descriptor chain. `EFAULT` where it has descriptors that point outside of the guest's memory, `EINVAL` where it has too
    /// many.
    pub(crate) fn of<M>(memory: &'m GuestMemoryMmap, chain: DescriptorChain<M>) -> Result<Self, Errno>
    where
        M: Deref<Target = GuestMemoryMmap>,
    {
        let (mut request, mut reply) = (Vec::with_capacity(4), Vec::with_capacity(4));
        for descriptor in chain {
            let pieces = if descriptor.is_write_only() { &mut reply } else { &mut request };
            let length = usize::try_from(descriptor.len()).map_err(|_| Errno::EFAULT)?;
            for piece in memory.get_slices(descriptor.addr(), length) {
                if pieces.len() == MOST_PIECES {
                    return Err(Errno::EINVAL);
                }
                pieces.push(piece.map_err(|_| Errno::EFAULT)?);
            }
        }
        Ok(Self { request, reply })
    }

    /// How many bytes of the request there are behind its first `at`.
    pub(crate) fn data_behind(&self, at: usize) -> usize {
        length(&self.request).saturating_sub(at)
    }

    /// How many bytes of the reply have room behind its first `at`.
    pub(crate) fn room_behind(&self, at: usize) -> usize {
        length(&self.reply).saturating_sub(at)
    }

    /// Copies bytes of the request from `at` on. `EFAULT` where there are not so many.
    pub(crate) fn take(&self, at: usize, into: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        for piece in behind(&self.request, at, into.len()) {
            done += piece.copy_to(&mut into[done..]);
        }
        if done == into.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Copies bytes to the reply, from `at` on. `EFAULT` where they have no room.
    pub(crate) fn put(&self, at: usize, bytes: &[u8]) -> Result<(), Errno> {
        if self.room_behind(at) < bytes.len() {
            return Err(Errno::EFAULT);
        }
        let mut done = 0;
        for piece in behind(&self.reply, at, bytes.len()) {
            piece.copy_from(&bytes[done..]);
            done += piece.len();
        }
        Ok(())
    }

    /// Reads up to `count` bytes of a file, from `offset` on, to the reply from `at` on. Where it may not wait, `EAGAIN` for what is not
    /// in memory, `EOPNOTSUPP` where the file system cannot tell.
    pub(crate) fn read_from(
        &self,
        file: BorrowedFd<'_>,
        at: usize,
        count: usize,
        offset: i64,
        may_wait: bool,
    ) -> Result<usize, Errno> {
        vectored(&behind(&self.reply, at, count).collect::<Vec<_>>(), |pieces, count| {
            // SAFETY: the pieces are mapped as long as the slices that they were made of live; the kernel writes to them, and what it
            // finds missing is EFAULT.
            unsafe { libc::preadv2(file.as_raw_fd(), pieces, count, offset, flags(may_wait)) }
        })
    }

    /// Writes `count` bytes of the request, from `at` on, to a file from `offset` on, as [`Self::read_from`].
    pub(crate) fn write_to(
        &self,
        file: BorrowedFd<'_>,
        at: usize,
        count: usize,
        offset: i64,
        may_wait: bool,
    ) -> Result<usize, Errno> {
        vectored(&behind(&self.request, at, count).collect::<Vec<_>>(), |pieces, count| {
            // SAFETY: as for read_from; the kernel only reads.
            unsafe { libc::pwritev2(file.as_raw_fd(), pieces, count, offset, flags(may_wait)) }
        })
    }
}

fn flags(may_wait: bool) -> libc::c_int {
    if may_wait { 0 } else { libc::RWF_NOWAIT }
}

/// Has `call` move bytes from or to some pieces.
fn vectored(
    pieces: &[VolatileSlice<'_>],
    call: impl FnOnce(*const libc::iovec, libc::c_int) -> isize,
) -> Result<usize, Errno> {
    let guards: Vec<_> = pieces.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<_> =
        guards.iter().map(|it| libc::iovec { iov_base: it.as_ptr().cast(), iov_len: it.len() }).collect();
    let count = libc::c_int::try_from(vectors.len()).map_err(|_| Errno::EINVAL)?;
    usize::try_from(call(vectors.as_ptr(), count)).map_err(|_| Errno::last())
}

fn length(pieces: &[VolatileSlice<'_>]) -> usize {
    pieces.iter().map(VolatileSlice::len).fold(0, usize::saturating_add)
}

/// The `count` bytes behind the first `at`, as far as there are.
fn behind<'s, 'm: 's>(
    pieces: &'s [VolatileSlice<'m>],
    mut at: usize,
    mut count: usize,
) -> impl Iterator<Item = VolatileSlice<'m>> + 's {
    pieces.iter().filter_map(move |piece| {
        let skipped = at.min(piece.len());
        at -= skipped;
        let taken = count.min(piece.len() - skipped);
        count -= taken;
        piece.subslice(skipped, taken).ok().filter(|it| !it.is_empty())
    })
}
