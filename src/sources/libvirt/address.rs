//! Where a device that QEMU placed stays when libvirt places it.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::arguments::{Domain, elements};
use crate::share::argv::ArgvShare;
use crate::share::local::{bus_number, pci_slot};
use crate::share::{Device, Share};

/// Slots of a PCI Express root bus that neither libvirt's defaults nor its root ports take, then the others.
const ROOT_SLOTS: [u8; 30] = [
    0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x09,
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x1c, 0x1a, 0x1b, 0x1d, 0x1e, 0x02, 0x01,
];

/// The PCI buses of a domain.
pub(super) struct Buses {
    /// The root bus is PCI Express, on which libvirt puts a device only when told.
    express: bool,
    /// Controllers: index, model, alias.
    controllers: Vec<(u8, String, Option<String>)>,
    /// The root bus's slots that are taken.
    taken: BTreeSet<u8>,
}

impl Buses {
    pub(super) fn of(domain: &Domain, shares: &[ArgvShare]) -> Self {
        let devices = || elements(domain.node, "devices").flat_map(|devices| devices.children());
        let controllers: Vec<_> = devices().filter_map(controller).collect();
        let root = controllers.iter().find(|(index, ..)| *index == 0).map(|(_, model, _)| model.as_str());
        let express = root.map_or_else(|| has_express_machine(domain.node), |model| model == "pcie-root");
        let mut taken: BTreeSet<u8> = devices().filter_map(slot_on_root).collect();
        let given = shares.iter().filter_map(|share| share.share.device.as_ref());
        taken.extend(
            given
                .filter(|device| is_on_root(device))
                .filter_map(|device| Some(pci_slot(device.addr.as_ref()?)?.0)),
        );
        Self { express, controllers, taken }
    }

    /// The share with its device's bus as libvirt numbers it, and with an address where libvirt's own choice would
    /// move it to another kind of bus. Says what was chosen.
    pub(super) fn settle(&mut self, share: &Share) -> (Share, Option<String>) {
        let mut share = share.clone();
        let Some(device) = &mut share.device else { return (share, None) };
        if !device.driver.starts_with(b"virtio-9p")
            || device.driver.ends_with(b"-ccw")
            || device.driver.ends_with(b"-device")
        {
            return (share, None);
        }
        if let Some(name) = device.bus.as_deref().filter(|name| bus_number(name).is_none()) {
            let named = |alias: &Option<String>| alias.as_ref().is_some_and(|alias| alias.as_bytes() == name);
            if let Some((index, ..)) = self.controllers.iter().find(|(_, _, alias)| named(alias)) {
                device.bus = Some(format!("pci.{index}").into_bytes());
            }
        }
        if device.addr.is_some() {
            return (share, None);
        }
        let bus = device.bus.as_deref().map_or(Some(0), bus_number);
        let chosen = match bus {
            Some(0) if self.express => ROOT_SLOTS.into_iter().find(|slot| !self.taken.contains(slot)),
            Some(bus) if bus > 0 && self.has_one_slot(bus) => Some(0),
            _ => None,
        };
        let Some(slot) = chosen else {
            let note = "QEMU chose its PCI slot, and now libvirt does: the guest may see another one, and mounts by \
                        the tag all the same";
            return (share, Some(note.into()));
        };
        device.addr = Some(format!("{slot:x}").into_bytes());
        if bus != Some(0) {
            return (share, None);
        }
        self.taken.insert(slot);
        let note = format!(
            "it had no address; slot 0x{slot:02x} keeps it on the root bus, where old guests find it (libvirt would \
             put it behind a root port)"
        );
        (share, Some(note))
    }

    /// Whether a bus is the one below a PCI Express port.
    fn has_one_slot(&self, bus: u8) -> bool {
        let ports = ["pcie-root-port", "pcie-switch-downstream-port"];
        self.controllers.iter().any(|(index, model, _)| *index == bus && ports.contains(&model.as_str()))
    }
}

fn is_on_root(device: &Device) -> bool {
    device.bus.as_deref().is_none_or(|bus| bus_number(bus) == Some(0))
}

fn controller(node: Node) -> Option<(u8, String, Option<String>)> {
    if !node.has_tag_name("controller") || node.attribute("type") != Some("pci") {
        return None;
    }
    let alias = elements(node, "alias").next().and_then(|alias| alias.attribute("name"));
    let model = node.attribute("model").unwrap_or_default();
    Some((node.attribute("index")?.parse().ok()?, model.to_owned(), alias.map(str::to_owned)))
}

/// The slot that a device of libvirt's has on the root bus.
fn slot_on_root(device: Node) -> Option<u8> {
    let address = elements(device, "address").find(|address| address.attribute("type") == Some("pci"))?;
    let number = |name: &str| {
        let text = address.attribute(name)?;
        match text.strip_prefix("0x") {
            Some(hex) => u8::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    };
    (number("bus") == Some(0)).then(|| number("slot")).flatten()
}

/// Whether the machine's root bus is PCI Express.
fn has_express_machine(domain: Node) -> bool {
    let os = elements(domain, "os").flat_map(|os| os.children()).find(|node| node.has_tag_name("type"));
    let Some(os) = os else { return false };
    let machine = os.attribute("machine").unwrap_or_default();
    let arm = os.attribute("arch").is_some_and(|arch| !matches!(arch, "x86_64" | "i686" | "s390x"));
    machine.contains("q35") || arm && (machine == "virt" || machine.starts_with("virt-"))
}
