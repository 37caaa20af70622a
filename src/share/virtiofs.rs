//! The virtiofs equivalent of a share: QEMU's arguments, the unit of its virtiofsd, and what the guest mounts.
//!
//! virtiofsd serves the export's files as they are, as the proxy's helper did: nothing is converted.

#![forbid(unsafe_code)]

mod daemon;
mod libvirt;
mod tag;

pub(crate) use daemon::Daemon;
pub(crate) use libvirt::{Filesystem, MEMORY_BACKING};

use std::path::{Path, PathBuf};

use super::local::{Unrepresentable, path_bytes, push_option};
use super::memory::Memory;
use super::{Device, Share, Transport};
use crate::text::escape;
use tag::tag;

/// The id of the memory backend that is printed.
const MEMORY_ID: &str = "virtiofs-mem";

/// Properties of a 9p device that a vhost-user-fs device does not have: it is always modern virtio.
const OF_LEGACY: [&[u8]; 2] = [b"disable-legacy", b"disable-modern"];

/// QEMU's arguments of a share: a chardev of virtiofsd's socket and the device on it.
pub(crate) fn qemu_args(share: &Share) -> Result<Vec<Vec<u8>>, Unrepresentable> {
    let mut chardev = b"socket".to_vec();
    let id = chardev_id(share);
    push_option(&mut chardev, b"id", &id);
    push_option(&mut chardev, b"path", path_bytes(&socket(share)));
    let device = device_option(share, &id)?;
    Ok(vec![b"-chardev".to_vec(), chardev, b"-device".to_vec(), device])
}

fn device_option(share: &Share, chardev: &[u8]) -> Result<Vec<u8>, Unrepresentable> {
    let tag = tag(share)?;
    let pci = Device { driver: b"virtio-9p-pci".to_vec(), ..Device::default() };
    let device = share.device.as_ref().unwrap_or(&pci);
    let mut out = driver(device)?.to_vec();
    if let Some(id) = &device.id {
        push_option(&mut out, b"id", id);
    }
    push_option(&mut out, b"chardev", chardev);
    push_option(&mut out, b"tag", tag);
    for (key, value) in [("bus", &device.bus), ("addr", &device.addr)] {
        if let Some(value) = value {
            push_option(&mut out, key.as_bytes(), value);
        }
    }
    for (key, value) in &device.properties {
        if !OF_LEGACY.contains(&key.as_slice()) {
            push_option(&mut out, key, value);
        }
    }
    Ok(out)
}

/// The vhost-user-fs device on the same bus as a 9p device.
fn driver(device: &Device) -> Result<&'static [u8], Unrepresentable> {
    match device.driver.as_slice() {
        b"virtio-9p-ccw" => Ok(b"vhost-user-fs-ccw"),
        b"virtio-9p" if device.properties.iter().any(|(key, _)| key == b"devno") => Ok(b"vhost-user-fs-ccw"),
        b"virtio-9p-device" => Ok(b"vhost-user-fs-device"),
        b"virtio-9p"
        | b"virtio-9p-pci"
        | b"virtio-9p-pci-transitional"
        | b"virtio-9p-pci-non-transitional" => Ok(b"vhost-user-fs-pci"),
        other => {
            Err(Unrepresentable(format!("no vhost-user-fs device is known in place of {}", escape(other))))
        }
    }
}

/// The arguments that make the guest's memory shared; none where it is already. `Err`: it can't be made so here.
pub(crate) fn memory_args(memory: &Memory) -> Result<Vec<String>, Unrepresentable> {
    match memory {
        Memory::Shared => Ok(Vec::new()),
        Memory::Conflict(why) => Err(Unrepresentable(why.clone())),
        Memory::Plain(plain) => {
            let size = plain.size.map_or_else(|| "SIZE".to_owned(), size_text);
            let numbered = |number: usize| {
                if number == 1 { MEMORY_ID.to_owned() } else { format!("{MEMORY_ID}{number}") }
            };
            let is_free = |id: &String| !plain.objects.contains(id);
            // One more number than objects is enough.
            let id = (1..=plain.objects.len() + 1).map(numbered).find(is_free).unwrap_or_default();
            Ok(vec![
                "-object".to_owned(),
                format!("memory-backend-memfd,id={id},size={size},share=on"),
                "-machine".to_owned(),
                format!("memory-backend={id}"),
            ])
        }
    }
}

/// A size as QEMU takes it, in the largest unit that needs no fraction.
fn size_text(bytes: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    let unit = units.into_iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// What the share's unit is called, without `virtiofsd-`: the guest's name and the fsdev's id, as file names hold them, and a number where
/// these may be another share's, too.
pub(crate) fn unit_name(share: &Share) -> String {
    let own = if share.fsdev.is_empty() { share.name() } else { &share.fsdev };
    let parts = share.place.guest.as_deref().into_iter().chain([own]);
    let plain = |byte: &u8| {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(byte) { char::from(*byte) } else { '_' }
    };
    let parts: Vec<String> =
        parts.filter(|part| !part.is_empty()).map(|part| part.iter().map(plain).collect()).collect();
    let name: String = if parts.is_empty() { "share".to_owned() } else { parts.join("-") };
    if is_unique(share, own) {
        name
    } else {
        format!("{}-{:08x}", name.get(..60).unwrap_or(&name), mark(share))
    }
}

/// Whether the guest's name and the id tell the share from all others of a host, as they stand.
fn is_unique(share: &Share, id: &[u8]) -> bool {
    let is_plain = |part: &[u8]| (1..=40).contains(&part.len()) && part.iter().all(u8::is_ascii_alphanumeric);
    share.place.guest.as_deref().is_some_and(is_plain) && is_plain(id)
}

/// A number that is another for another guest or share: FNV-1a of all that tells them apart.
fn mark(share: &Share) -> u32 {
    let transport = match &share.transport {
        Transport::Socket(path) => path_bytes(path).to_vec(),
        Transport::Fd(number) => number.to_string().into_bytes(),
        Transport::Unknown(text) => text.clone(),
    };
    // Where a guest has no name, its file tells it from others.
    let file = share.place.file.as_deref().filter(|_| share.place.guest.is_none()).map(path_bytes);
    let parts = [
        share.place.guest.as_deref().unwrap_or_default(),
        &share.fsdev,
        share.mount_tag.as_deref().unwrap_or_default(),
        &transport,
        file.unwrap_or_default(),
    ];
    let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0]));
    bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Where its virtiofsd listens.
pub(crate) fn socket(share: &Share) -> PathBuf {
    format!("/run/virtiofsd-{}/socket", unit_name(share)).into()
}

/// The chardev's id, which begins with a letter.
fn chardev_id(share: &Share) -> Vec<u8> {
    format!("virtiofs-{}", unit_name(share)).into_bytes()
}

/// The systemd unit of the share's virtiofsd, which takes the place of the proxy's helper. Paths that systemd's syntax
/// can't hold as they are, are refused.
pub(crate) fn unit(share: &Share, export: &Path, daemon: &Daemon) -> Result<String, Unrepresentable> {
    let path = unit_word(path_bytes(export))?;
    if daemon.of_qemu && path.contains(',') {
        return Err(Unrepresentable(format!(
            "the path {path} has a comma, at which QEMU's own virtiofsd ends it"
        )));
    }
    let (program, options) = (daemon.program.display(), daemon.options(&path));
    let name = unit_name(share);
    let tag = escape(tag(share)?).into_owned();
    let readonly = if share.readonly { format!("ReadOnlyPaths={path}\n") } else { String::new() };
    // virtiofsd ends with QEMU's connection, and QEMU connects once, at its start.
    Ok(format!(
        "# /etc/systemd/system/virtiofsd-{name}.service\n\
         [Unit]\n\
         Description=virtiofsd for the share {}\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         # It runs as root, to create files as the guest's users. GROUP: a group of the user that QEMU runs as.\n\
         RuntimeDirectory=virtiofsd-{name}\n\
         RuntimeDirectoryPreserve=restart\n\
         ExecStart={program} --socket-path=/run/virtiofsd-{name}/socket --socket-group=GROUP {options}\n\
         {readonly}\
         Restart=always\n\
         RestartSec=1\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        tag.replace('%', "%%"),
    ))
}

/// A path as a word of a unit's line: `%` doubled, `$` doubled.
fn unit_word(path: &[u8]) -> Result<String, Unrepresentable> {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"'\\;".contains(byte) || *byte >= 0x80;
    let text = std::str::from_utf8(path).ok().filter(|_| path.iter().all(plain));
    let text = text.ok_or_else(|| {
        Unrepresentable(format!(
            "the path {} needs quoting, which is not done here: write the unit by hand",
            escape(path)
        ))
    })?;
    Ok(text.replace('%', "%%").replace('$', "$$"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::{ExportPath, Place, Transport};

    fn share(device: Option<Device>) -> Share {
        Share {
            fsdev: b"f".to_vec(),
            mount_tag: Some(b"tag,1".to_vec()),
            transport: Transport::Fd(3),
            socket_on_host: None,
            model: None,
            readonly: false,
            writeout: false,
            device,
            place: Place { guest: Some(b"web".to_vec()), ..Place::default() },
            export: ExportPath::Unknown,
            memory: Memory::default(),
            notes: Vec::new(),
        }
    }

    fn device(driver: &str, properties: &[(&str, &str)]) -> Device {
        Device {
            driver: driver.into(),
            bus: Some(b"pci.0".to_vec()),
            addr: Some(b"5".to_vec()),
            id: Some(b"dev".to_vec()),
            properties: properties.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
        }
    }

    #[test]
    fn the_device_keeps_its_place_and_its_name() {
        let table = [
            (None, "vhost-user-fs-pci,chardev=virtiofs-web-f,tag=tag,,1"),
            (
                Some(device("virtio-9p-pci", &[("disable-legacy", "on"), ("vectors", "4")])),
                "vhost-user-fs-pci,id=dev,chardev=virtiofs-web-f,tag=tag,,1,bus=pci.0,addr=5,vectors=4",
            ),
            (
                Some(device("virtio-9p-device", &[])),
                "vhost-user-fs-device,id=dev,chardev=virtiofs-web-f,tag=tag,,1,bus=pci.0,addr=5",
            ),
            (
                Some(device("virtio-9p-ccw", &[("devno", "fe.0.0001")])),
                "vhost-user-fs-ccw,id=dev,chardev=virtiofs-web-f,tag=tag,,1,bus=pci.0,addr=5,devno=fe.0.0001",
            ),
        ];
        for (device, expected) in table {
            let args = qemu_args(&share(device)).unwrap();
            assert_eq!(args[1], b"socket,id=virtiofs-web-f,path=/run/virtiofsd-web-f/socket");
            assert_eq!(String::from_utf8_lossy(&args[3]), expected);
        }
    }

    #[test]
    fn what_virtiofs_cannot_say_is_told() {
        assert!(
            qemu_args(&share(Some(device("virtio-9p-foo", &[])))).unwrap_err().0.contains("virtio-9p-foo")
        );
        let mut other = share(None);
        other.mount_tag = Some(vec![b'x'; 37]);
        assert!(qemu_args(&other).unwrap_err().0.contains("36 bytes"));
        other.mount_tag = None;
        assert!(qemu_args(&other).unwrap_err().0.contains("no device"));
        assert!(
            unit(&share(None), Path::new("/srv/a b"), &Daemon::default()).unwrap_err().0.contains("quoting")
        );
    }

    #[test]
    fn a_unit_is_read_only_where_the_share_is() {
        let mut share = share(None);
        let daemon = Daemon::default();
        let text = unit(&share, Path::new("/srv/50%$"), &daemon).unwrap();
        assert!(text.contains("--socket-path=/run/virtiofsd-web-f/socket "), "{text}");
        assert!(text.contains("--shared-dir=/srv/50%%$$ "), "{text}");
        assert!(!text.contains("ReadOnlyPaths"), "{text}");
        share.readonly = true;
        assert!(unit(&share, Path::new("/srv/x"), &daemon).unwrap().contains("\nReadOnlyPaths=/srv/x\n"));
    }

    #[test]
    fn no_two_shares_of_a_host_have_one_socket() {
        let of = |guest: Option<&str>, id: &str, file: &str, socket: &str| {
            let mut share = share(None);
            share.place = Place { guest: guest.map(Into::into), file: Some(file.into()), ..Place::default() };
            (share.fsdev, share.transport) = (id.into(), Transport::Socket(socket.into()));
            unit_name(&share)
        };
        assert_eq!(of(Some("web"), "fs0", "/a", "/run/a"), "web-fs0");
        let long = "g".repeat(70);
        let names = [
            of(Some("web"), "fs0", "/a", "/run/a"),
            of(Some("web"), "fs1", "/a", "/run/a"),
            of(Some("db"), "fs0", "/a", "/run/a"),
            of(Some("a-b"), "c", "/a", "/run/a"),
            of(Some("a"), "b-c", "/a", "/run/a"),
            of(Some("web 1"), "f", "/a", "/run/a"),
            of(Some("web_1"), "f", "/a", "/run/a"),
            of(None, "fs0", "/etc/vm/a.sh", "/run/a"),
            of(None, "fs0", "/etc/vm/b.sh", "/run/a"),
            of(None, "fs0", "/etc/vm/a.sh", "/run/b"),
            of(Some(&long), "a", "/a", "/run/a"),
            of(Some(&long), "b", "/a", "/run/a"),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert!(names.iter().all(|name| format!("/run/virtiofsd-{name}/socket").len() < 108));
    }
}
