//! The helper as a 9p device of its own: 9P2000.L over virtio, spoken to by vhost-user.
//!
//! QEMU 10.2 and newer let a process of its own be a virtio device (`vhost-user-test-device-pci`). The guest's memory is mapped
//! here, its requests are taken off the virtqueue and answered from the export's files. QEMU itself has no part in that.
//!
//! | room | what |
//! |---|---|
//! | [`wire`] | the messages of 9P2000.L: table and codec |
//! | [`names`] | names of files off the wire |
//! | [`node`] | files of the export, held by descriptors |
//! | [`qid`] | numbers by which the guest tells files apart |
//! | [`directory`] | reading directories |
//! | [`locks`] | the guest's locks on the host's files |
//! | [`session`], [`requests`] | what the guest holds, and what its requests do |
//! | [`memory`] | requests and replies in the guest's memory |
//! | [`device`] | the device that the front-end sets up |
//! | [`serve`] | the loop: events, requests, threads for those that wait |
//!
//! Everything in the guest's memory is hostile, and can change while it is looked at: a request is copied before it is
//! decoded, but for the data of a write, which only the kernel reads.

pub(crate) mod device;
pub(crate) mod directory;
pub(crate) mod locks;
pub(crate) mod memory;
pub(crate) mod names;
pub(crate) mod node;
pub(crate) mod qid;
pub(crate) mod requests;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod wire;
