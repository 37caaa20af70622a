//! A share's `local` equivalent in libvirt's own words: `<filesystem>`.

use std::fmt::Write as _;
use std::path::Path;

use super::options::{Options, SecurityModel, Unrepresentable, path_bytes};
use crate::share::qemu_opts::boolean;
use crate::share::{Device, Share};
use crate::text::{escape, escape_path, markup};

/// A `<filesystem>` element that says a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// The exported directory.
    pub source: String,
    /// The mount tag.
    pub tag: String,
    /// The guest can't write.
    pub readonly: bool,
    /// `writeout=immediate`.
    pub writeout: bool,
    /// Modes of new files and what becomes of other file systems. The model is mapped-xattr.
    pub options: Options,
    /// `model=`, where it isn't virtio.
    pub model: Option<&'static str>,
    /// Further attributes of `<driver>`.
    pub driver: Vec<(&'static str, String)>,
    /// Where the guest sees the device; `None` leaves it to libvirt.
    pub address: Option<Address>,
    /// `<alias name=…>`, which must start with `ua-`.
    pub alias: Option<String>,
}

/// Where the guest sees a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// On a PCI bus.
    Pci {
        /// The controller's index.
        bus: u8,
        /// 0 to 31.
        slot: u8,
        /// 0 to 7.
        function: u8,
        /// `multifunction=on`.
        multifunction: bool,
    },
    /// On s390x: cssid, ssid and devno. `None`: libvirt picks it.
    Ccw(Option<(u8, u8, u16)>),
    /// A memory-mapped device: libvirt picks it.
    VirtioMmio,
}

/// The `<filesystem>` of a share, with lines ended by `\n` and no indentation of its own.
pub(crate) fn libvirt_filesystem(
    share: &Share,
    path: &Path,
    options: &Options,
) -> Result<String, Unrepresentable> {
    Ok(Filesystem::of(share, path, options)?.print("", "  ", "\n"))
}

impl Filesystem {
    /// The element that says `share`, or why there is none.
    pub fn of(share: &Share, path: &Path, options: &Options) -> Result<Self, Unrepresentable> {
        if options.security_model == SecurityModel::MappedFile {
            return Err(Unrepresentable("libvirt has no accessmode for mapped-file".into()));
        }
        let (Some(tag), Some(device)) = (&share.mount_tag, &share.device) else {
            return Err(Unrepresentable(format!(
                "no device shows the fsdev {} to the guest",
                escape(&share.fsdev)
            )));
        };
        let source = xml_text(path_bytes(path))
            .ok_or_else(|| Unrepresentable(format!("XML can't hold the path {}", escape_path(path))))?;
        let tag = xml_text(tag)
            .ok_or_else(|| Unrepresentable(format!("XML can't hold the tag {}", share.title())))?;
        let mut properties = Properties::of(device)?;
        let address = address(device, &mut properties)?;
        Ok(Self {
            source,
            tag,
            readonly: share.readonly,
            writeout: share.writeout,
            options: *options,
            model: properties.model,
            driver: properties.driver,
            address,
            alias: None,
        })
    }

    /// The element, each line behind `indent` and ended by `newline`, what is inside one `unit` further in.
    pub fn print(&self, indent: &str, unit: &str, newline: &str) -> String {
        let mut lines = vec![self.start_tag()];
        let inner = [
            self.driver_tag(),
            Some(format!("<source dir='{}'/>", markup(&self.source))),
            Some(format!("<target dir='{}'/>", markup(&self.tag))),
            self.readonly.then(|| "<readonly/>".to_owned()),
            self.alias.as_ref().map(|alias| format!("<alias name='{}'/>", markup(alias))),
            self.address.map(Address::tag),
        ];
        lines.extend(inner.into_iter().flatten().map(|tag| format!("{unit}{tag}")));
        lines.push("</filesystem>".to_owned());
        lines.iter().fold(String::new(), |text, line| text + indent + line + newline)
    }

    fn start_tag(&self) -> String {
        let mut tag = "<filesystem type='mount' accessmode='mapped'".to_owned();
        // Writing to a String does not fail.
        if let Some(model) = self.model {
            let _ = write!(tag, " model='{model}'");
        }
        for (key, mode) in [("fmode", self.options.fmode), ("dmode", self.options.dmode)] {
            if let Some(mode) = mode {
                let _ = write!(tag, " {key}='{mode:04o}'");
            }
        }
        if let Some(multidevs) = self.options.multidevs {
            let _ = write!(tag, " multidevs='{}'", multidevs.name());
        }
        tag + ">"
    }

    fn driver_tag(&self) -> Option<String> {
        if !self.writeout && self.driver.is_empty() {
            return None;
        }
        let mut tag = "<driver type='path'".to_owned();
        if self.writeout {
            tag += " wrpolicy='immediate'";
        }
        for (key, value) in &self.driver {
            let _ = write!(tag, " {key}='{value}'");
        }
        Some(tag + "/>")
    }
}

impl Address {
    /// libvirt's element.
    pub fn tag(self) -> String {
        match self {
            Self::Pci { bus, slot, function, multifunction } => format!(
                "<address type='pci' domain='0x0000' bus='0x{bus:02x}' slot='0x{slot:02x}' \
                 function='0x{function:x}'{}/>",
                if multifunction { " multifunction='on'" } else { "" }
            ),
            Self::Ccw(None) => "<address type='ccw'/>".to_owned(),
            Self::Ccw(Some((cssid, ssid, devno))) => {
                format!("<address type='ccw' cssid='0x{cssid:x}' ssid='0x{ssid:x}' devno='0x{devno:04x}'/>")
            }
            Self::VirtioMmio => "<address type='virtio-mmio'/>".to_owned(),
        }
    }
}

/// A device's properties in libvirt's words.
#[derive(Debug, Default)]
struct Properties {
    model: Option<&'static str>,
    driver: Vec<(&'static str, String)>,
    multifunction: bool,
    devno: Option<Vec<u8>>,
}

impl Properties {
    fn of(device: &Device) -> Result<Self, Unrepresentable> {
        let mut found = Self::default();
        let (mut no_legacy, mut no_modern) = (None, None);
        for (key, value) in &device.properties {
            let flag = || boolean(value).ok_or_else(|| unknown_property(key, value));
            let on_off = || flag().map(|on| if on { "on".to_owned() } else { "off".to_owned() });
            match key.as_slice() {
                b"multifunction" => found.multifunction = flag()?,
                b"iommu_platform" => found.driver.push(("iommu", on_off()?)),
                b"ats" => found.driver.push(("ats", on_off()?)),
                b"packed" => found.driver.push(("packed", on_off()?)),
                b"page-per-vq" => found.driver.push(("page_per_vq", on_off()?)),
                b"disable-legacy" => no_legacy = Some(value.as_slice()),
                b"disable-modern" => no_modern = Some(value.as_slice()),
                b"devno" => found.devno = Some(value.clone()),
                _ => return Err(unknown_property(key, value)),
            }
        }
        found.model = match device.driver.as_slice() {
            b"virtio-9p-pci-transitional" => Some("virtio-transitional"),
            b"virtio-9p-pci-non-transitional" => Some("virtio-non-transitional"),
            _ => None,
        };
        match (no_legacy, no_modern.map(boolean)) {
            (None | Some(b"auto"), None | Some(Some(false))) => {}
            (Some(b"on"), None | Some(Some(false))) => found.model = Some("virtio-non-transitional"),
            (Some(b"off"), Some(Some(false)) | None) => found.model = Some("virtio-transitional"),
            _ => return Err(Unrepresentable("libvirt has no device that is legacy virtio alone".into())),
        }
        Ok(found)
    }
}

fn unknown_property(key: &[u8], value: &[u8]) -> Unrepresentable {
    Unrepresentable(format!("libvirt has no element for the device's {}={}", escape(key), escape(value)))
}

fn address(device: &Device, properties: &mut Properties) -> Result<Option<Address>, Unrepresentable> {
    match device.driver.as_slice() {
        b"virtio-9p"
        | b"virtio-9p-pci"
        | b"virtio-9p-pci-transitional"
        | b"virtio-9p-pci-non-transitional"
            if properties.devno.is_none() =>
        {
            pci_address(device, properties.multifunction)
        }
        b"virtio-9p" | b"virtio-9p-ccw" if device.bus.is_none() && device.addr.is_none() => {
            let devno = properties.devno.as_deref();
            let address = devno.map(|text| {
                ccw_number(text).ok_or_else(|| Unrepresentable(format!("{} is no CCW address", escape(text))))
            });
            Ok(Some(Address::Ccw(address.transpose()?)))
        }
        b"virtio-9p-device"
            if device.bus.is_none() && device.addr.is_none() && properties.devno.is_none() =>
        {
            Ok(Some(Address::VirtioMmio))
        }
        b"virtio-9p-ccw" | b"virtio-9p-device" => Err(Unrepresentable(format!(
            "libvirt can't put the device {} on the bus that it names",
            escape(&device.driver)
        ))),
        other => Err(Unrepresentable(format!("libvirt knows no device {}", escape(other)))),
    }
}

fn pci_address(device: &Device, multifunction: bool) -> Result<Option<Address>, Unrepresentable> {
    let bus = match &device.bus {
        None => 0,
        Some(name) => bus_number(name)
            .ok_or_else(|| Unrepresentable(format!("{} is no PCI bus of libvirt's", escape(name))))?,
    };
    let Some(addr) = &device.addr else {
        if multifunction {
            return Err(Unrepresentable("libvirt wants an address where multifunction is on".into()));
        }
        // A bus behind a root port has one slot; for the others libvirt picks bus and slot.
        return Ok(None);
    };
    let (slot, function) =
        pci_slot(addr).ok_or_else(|| Unrepresentable(format!("{} is no PCI address", escape(addr))))?;
    Ok(Some(Address::Pci { bus, slot, function, multifunction }))
}

/// libvirt's number of a PCI bus: `pci.N`, or `pcie.0`.
pub fn bus_number(name: &[u8]) -> Option<u8> {
    if name == b"pcie.0" {
        return Some(0);
    }
    let digits = std::str::from_utf8(name.strip_prefix(b"pci.")?).ok()?;
    if digits.starts_with('+') { None } else { digits.parse().ok() }
}

/// Slot and function of QEMU's `SLOT[.FUNCTION]`, both hexadecimal with or without `0x`.
pub fn pci_slot(addr: &[u8]) -> Option<(u8, u8)> {
    let text = std::str::from_utf8(addr).ok()?;
    let hex = |part: &str| {
        let digits = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")).unwrap_or(part);
        if digits.starts_with('+') { None } else { u8::from_str_radix(digits, 16).ok() }
    };
    let (slot, function) = match text.split_once('.') {
        Some((slot, function)) => (hex(slot)?, hex(function)?),
        None => (hex(text)?, 0),
    };
    (slot < 32 && function < 8).then_some((slot, function))
}

/// `fe.0.0001`.
fn ccw_number(text: &[u8]) -> Option<(u8, u8, u16)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.split('.');
    let cssid = u8::from_str_radix(parts.next()?, 16).ok()?;
    let ssid = u8::from_str_radix(parts.next()?, 16).ok()?;
    let devno = u16::from_str_radix(parts.next()?, 16).ok()?;
    parts.next().is_none().then_some((cssid, ssid, devno))
}

/// Text that XML 1.0 can hold.
fn xml_text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let fits = |c: char| c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}') || matches!(c, '\t' | '\n' | '\r');
    text.chars().all(fits).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;
    use crate::share::local::Multidevs;
    use crate::share::{ExportPath, Place, Transport};

    fn share(device: Device) -> Share {
        Share {
            fsdev: b"f".to_vec(),
            mount_tag: Some(b"tag".to_vec()),
            transport: Transport::Fd(3),
            socket_on_host: None,
            model: None,
            readonly: false,
            writeout: false,
            device: Some(device),
            place: Place::default(),
            export: ExportPath::Unknown,
            memory: crate::share::memory::Memory::default(),
            notes: Vec::new(),
        }
    }

    fn device(driver: &str, bus: Option<&str>, addr: Option<&str>, properties: &[(&str, &str)]) -> Device {
        Device {
            driver: driver.into(),
            bus: bus.map(Into::into),
            addr: addr.map(Into::into),
            id: None,
            properties: properties.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
        }
    }

    #[test]
    fn all_that_libvirt_can_say_is_said() {
        let options = Options {
            fmode: Some(0o640),
            dmode: Some(0o750),
            multidevs: Some(Multidevs::Remap),
            ..Options::default()
        };
        let mut share =
            share(device("virtio-9p-pci", Some("pci.2"), Some("0x1e.3"), &[("multifunction", "on")]));
        share.readonly = true;
        share.writeout = true;
        let text = libvirt_filesystem(&share, Path::new("/srv/a 'b' & <c>,d"), &options).unwrap();
        assert_eq!(
            text,
            "<filesystem type='mount' accessmode='mapped' fmode='0640' dmode='0750' multidevs='remap'>\n  \
             <driver type='path' wrpolicy='immediate'/>\n  \
             <source dir='/srv/a &apos;b&apos; &amp; &lt;c&gt;,d'/>\n  <target dir='tag'/>\n  <readonly/>\n  \
             <address type='pci' domain='0x0000' bus='0x02' slot='0x1e' function='0x3' multifunction='on'/>\n\
             </filesystem>\n"
        );
    }

    #[test]
    fn devices_find_their_model_and_address() {
        let pci = |bus, slot, function| Some(Address::Pci { bus, slot, function, multifunction: false });
        let table = [
            (device("virtio-9p-pci", None, None, &[]), None, None),
            (device("virtio-9p", Some("pcie.0"), Some("5"), &[]), None, pci(0, 5, 0)),
            // Hexadecimal without saying so.
            (device("virtio-9p-pci", Some("pci.10"), Some("10"), &[]), None, pci(10, 16, 0)),
            (
                device("virtio-9p-pci", None, Some("05.0"), &[("disable-legacy", "on")]),
                Some("virtio-non-transitional"),
                pci(0, 5, 0),
            ),
            (
                device(
                    "virtio-9p-pci",
                    None,
                    Some("5"),
                    &[("disable-legacy", "off"), ("disable-modern", "off")],
                ),
                Some("virtio-transitional"),
                pci(0, 5, 0),
            ),
            (device("virtio-9p-pci-transitional", None, None, &[]), Some("virtio-transitional"), None),
            (
                device("virtio-9p-ccw", None, None, &[("devno", "fe.0.000a")]),
                None,
                Some(Address::Ccw(Some((0xfe, 0, 10)))),
            ),
            (device("virtio-9p-ccw", None, None, &[]), None, Some(Address::Ccw(None))),
            (device("virtio-9p-device", None, None, &[]), None, Some(Address::VirtioMmio)),
        ];
        for (device, model, address) in table {
            let filesystem = Filesystem::of(&share(device.clone()), Path::new("/x"), &Options::default());
            let filesystem = filesystem.unwrap_or_else(|error| panic!("{device:?}: {error:?}"));
            assert_eq!((filesystem.model, filesystem.address), (model, address), "{device:?}");
        }
    }

    #[test]
    fn what_libvirt_cannot_say_is_told() {
        for (device, why) in [
            (device("virtio-9p-pci", None, None, &[("vectors", "2")]), "vectors=2"),
            (device("virtio-9p-pci", Some("rp1"), Some("0"), &[]), "rp1"),
            (device("virtio-9p-pci", None, Some("20"), &[]), "20 is no PCI address"),
            (device("virtio-9p-pci", None, None, &[("disable-modern", "on")]), "legacy"),
            (device("virtio-9p-device", Some("virtio-mmio-bus.3"), None, &[]), "bus"),
            (device("virtio-9p-foo", None, None, &[]), "virtio-9p-foo"),
        ] {
            let Unrepresentable(reason) =
                Filesystem::of(&share(device), Path::new("/x"), &Options::default()).unwrap_err();
            assert!(reason.contains(why), "{reason}");
        }
        let options = Options { security_model: SecurityModel::MappedFile, ..Options::default() };
        let plain = share(device("virtio-9p-pci", None, None, &[]));
        assert!(libvirt_filesystem(&plain, Path::new("/x"), &options).is_err());
        let strange = Path::new(std::ffi::OsStr::from_bytes(b"/x\xff"));
        assert!(libvirt_filesystem(&plain, strange, &Options::default()).is_err());
    }
}
