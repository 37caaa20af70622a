//! The device that the front-end sets up: features, configuration, guest memory, one queue.
//!
//! The front-end is QEMU. What it says is checked all the same: an index that is none, memory that is not there and a queue
//! that is too large are errors, which end the connection.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// The most requests in the queue.
pub(crate) const MOST_REQUESTS: u16 = 1024;
/// The most regions of memory.
const MOST_REGIONS: u64 = 64;

/// `VIRTIO_9P_MOUNT_TAG`, `VIRTIO_RING_F_INDIRECT_DESC`, `VIRTIO_RING_F_EVENT_IDX`, `VIRTIO_F_VERSION_1`: numbers of bits in the virtio
/// specification.
const FEATURES: u64 = 1 | 1 << 28 | EVENT_INDEX | 1 << 32;
const EVENT_INDEX: u64 = 1 << 29;

/// A region of the guest's memory.
struct Region {
    /// Where it is in the front-end's own address space.
    front_end: u64,
    /// Where it is in the guest's.
    guest: u64,
    size: u64,
}

/// The queue, and how the guest and the device tell each other.
pub(crate) struct Ring {
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// The queue.
    pub queue: Queue,
    /// Readable when there are requests.
    pub kick: Option<Arc<File>>,
    /// To be written to when there are replies.
    call: Option<File>,
    /// Whether the front-end lets the device serve.
    enabled: bool,
}

impl Ring {
    /// Whether requests are to be served.
    pub(crate) fn is_running(&self) -> bool {
        self.queue.ready() && self.enabled && self.kick.is_some()
    }

    /// Gives a request back to the guest, with `length` bytes of a reply, and tells it where it waits for that.
    pub(crate) fn give_back(&mut self, memory: &GuestMemoryMmap, head: u16, length: usize) {
        let length = u32::try_from(length).unwrap_or(0);
        // A guest that has no such request, or no such memory, hears nothing.
        if self.queue.add_used(memory, head, length).is_err() {
            return;
        }
        if self.queue.needs_notification(memory).unwrap_or(true)
            && let Some(mut call) = self.call.as_ref()
        {
            // Its counter is full where it was told already.
            let _ = call.write(&1_u64.to_ne_bytes());
        }
    }
}

/// The device.
pub(crate) struct Device {
    tag: Vec<u8>,
    regions: Vec<Region>,
    /// Its one queue.
    ring: Arc<Mutex<Ring>>,
    /// Returns when all requests that were taken off the queue have been given back.
    drain: Box<dyn Fn() + Send>,
}

fn failed(what: &'static str) -> Error {
    Error::InvalidOperation(what)
}

/// The queue of a device that is not set up.
pub(crate) fn new_ring() -> std::result::Result<Arc<Mutex<Ring>>, virtio_queue::Error> {
    let queue = Queue::new(MOST_REQUESTS)?;
    let memory = Arc::new(GuestMemoryMmap::new());
    Ok(Arc::new(Mutex::new(Ring { memory, queue, kick: None, call: None, enabled: false })))
}

impl Device {
    /// A device with this mount tag and queue. `drain` returns when all requests that were taken off the queue have been given back.
    pub(crate) fn new(tag: &[u8], ring: Arc<Mutex<Ring>>, drain: Box<dyn Fn() + Send>) -> Self {
        Self { tag: tag.to_vec(), regions: Vec::new(), ring, drain }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration space: the length of the tag, then the tag.
    fn configuration(&self) -> Vec<u8> {
        let length = u16::try_from(self.tag.len()).unwrap_or(0);
        [&length.to_le_bytes(), &self.tag[..]].concat()
    }

    fn guest_address(&self, front_end: u64) -> Result<u64> {
        let region =
            self.regions.iter().find(|it| front_end.checked_sub(it.front_end).is_some_and(|at| at < it.size));
        region
            .map(|it| front_end - it.front_end + it.guest)
            .ok_or(failed("a queue outside of the guest's memory"))
    }

    fn only(index: impl Into<u32>) -> Result<()> {
        if index.into() == 0 { Ok(()) } else { Err(Error::InvalidParam) }
    }

    /// Stops the queue: no request is taken off it any more, and those that were are done.
    fn stop(&mut self) {
        self.ring().queue.set_ready(false);
        (self.drain)();
    }
}

fn map(region: &VhostUserMemoryRegion, file: File) -> Result<(Region, GuestRegionMmap)> {
    let mapped = GuestRegionMmap::new(region.mmap_region(file)?, GuestAddress(region.guest_phys_addr));
    let mapped = mapped.ok_or(failed("a region of memory at no address"))?;
    let region =
        Region { front_end: region.user_addr, guest: region.guest_phys_addr, size: region.memory_size };
    Ok((region, mapped))
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop();
        self.ring().enabled = false;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !(FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()) != 0 {
            return Err(Error::InvalidParam);
        }
        let mut ring = self.ring();
        // Without this feature there is no request that enables a ring.
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            ring.enabled = true;
        }
        ring.queue.set_event_idx(features & EVENT_INDEX != 0);
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mapped = regions.iter().zip(files).map(|(region, file)| map(region, file));
        let (known, mapped): (Vec<_>, Vec<_>) = mapped.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let memory =
            GuestMemoryMmap::from_regions(mapped).map_err(|_| failed("regions of memory that overlap"))?;
        self.ring().memory = Arc::new(memory);
        self.regions = known;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        Self::only(index)?;
        let size = u16::try_from(num).ok().filter(|it| it.is_power_of_two() && *it <= MOST_REQUESTS);
        self.ring().queue.set_size(size.ok_or(Error::InvalidParam)?);
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> Result<()> {
        Self::only(index)?;
        let addresses = [descriptor, available, used].map(|it| self.guest_address(it));
        let [descriptor, available, used] = addresses;
        let ring = &mut *self.ring();
        let queue = &mut ring.queue;
        queue.try_set_desc_table_address(GuestAddress(descriptor?)).map_err(|_| Error::InvalidParam)?;
        queue.try_set_avail_ring_address(GuestAddress(available?)).map_err(|_| Error::InvalidParam)?;
        queue.try_set_used_ring_address(GuestAddress(used?)).map_err(|_| Error::InvalidParam)?;
        let next = queue.used_idx(&*ring.memory, std::sync::atomic::Ordering::Acquire);
        queue.set_next_used(next.map_err(|_| Error::InvalidParam)?.0);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        Self::only(index)?;
        self.ring().queue.set_next_avail(u16::try_from(base).map_err(|_| Error::InvalidParam)?);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        Self::only(index)?;
        self.stop();
        let mut ring = self.ring();
        (ring.kick, ring.call) = (None, None);
        Ok(VhostUserVringState::new(index, ring.queue.next_avail().into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Self::only(index)?;
        let mut ring = self.ring();
        ring.kick = Some(Arc::new(fd.ok_or(failed("a queue that is to be polled"))?));
        ring.queue.set_ready(true);
        if ring.queue.is_valid(&*ring.memory) {
            return Ok(());
        }
        ring.queue.set_ready(false);
        Err(failed("a queue outside of the guest's memory"))
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Self::only(index)?;
        self.ring().call = fd;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _: Option<File>) -> Result<()> {
        Self::only(index)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        Self::only(index)?;
        self.ring().enabled = enable;
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let configuration = self.configuration();
        let start = usize::try_from(offset).map_err(|_| Error::InvalidParam)?;
        let size = usize::try_from(size).map_err(|_| Error::InvalidParam)?;
        let mut bytes = configuration.get(start..).ok_or(Error::InvalidParam)?.to_vec();
        // A front-end that was told of a longer tag gets zeros behind this one.
        bytes.resize(size, 0);
        Ok(bytes)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(failed("a configuration that cannot be written"))
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(failed("a request for another device"))
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(failed("a request for another device"))
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(failed("a feature that was not offered"))
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(failed("a feature that was not offered"))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MOST_REGIONS)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        if self.regions.len() as u64 >= MOST_REGIONS {
            return Err(failed("more regions of memory than there may be"));
        }
        let (region, mapped) = map(region, file)?;
        {
            let mut ring = self.ring();
            let memory = ring.memory.insert_region(Arc::new(mapped));
            ring.memory = Arc::new(memory.map_err(|_| failed("regions of memory that overlap"))?);
        }
        self.regions.push(region);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        {
            let mut ring = self.ring();
            let removed = ring.memory.remove_region(GuestAddress(region.guest_phys_addr), region.memory_size);
            let (memory, _) = removed.map_err(|_| failed("a region of memory that is not there"))?;
            ring.memory = Arc::new(memory);
        }
        self.regions.retain(|it| it.guest != region.guest_phys_addr);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(failed("a device that cannot be migrated"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(failed("a device that cannot be migrated"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(failed("a feature that was not offered"))
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(failed("a device that cannot be migrated"))
    }
}
