//! Every golden rewrite of a domain: valid, defined, and started with the arguments that it should be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use virtfs_proxy_helper::internals::share::argv::{self, Arg};
use virtfs_proxy_helper::internals::share::{Share, bus_number, pci_slot, qemu_opts};
use virtfs_proxy_helper::internals::sources::{Document, Format as _, Libvirt};

use crate::instance::Instance;

/// The golden cases whose rewrite is a domain: the case's name, the file that went in and the one that comes out.
fn rewrites() -> Vec<(String, PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config");
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).expect("the golden cases") {
        let case = entry.expect("a case").path();
        let after = case.join("out.xml");
        if fs::read_to_string(&after).is_ok_and(|text| {
            text.contains("<domain ")
                && !text.contains("<name>before</name>")
                && !text.starts_with("<domaincheckpoint")
        }) {
            let name = case.file_name().expect("a name").to_string_lossy().into_owned();
            cases.push((name, case.join("in.xml"), after));
        }
    }
    cases.sort();
    cases
}

fn shares(file: &Path) -> Vec<Share> {
    let bytes = fs::read(file).expect("a case");
    Libvirt.read(&Document { path: None, bytes: &bytes }).expect("domain XML").shares
}

#[test]
fn every_rewrite_is_valid() {
    let cases = rewrites();
    assert!(cases.len() > 20, "only {} cases", cases.len());
    let files = cases.iter().map(|(_, _, after)| after);
    let output = Command::new("virt-xml-validate").arg(files.clone().next().expect("a file")).output();
    let _ = output
        .expect("virt-xml-validate, of Debian's package libvirt-clients, and xmllint, of libxml2-utils");
    for file in files {
        let output = Command::new("virt-xml-validate").arg(file).output().expect("virt-xml-validate");
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn libvirt_starts_every_rewrite_with_the_same_devices() {
    let libvirt = Instance::start();
    for (name, before, after) in rewrites() {
        // Debian's qemu-system-x86 has no s390x; the schema has seen that case.
        if name == "s390x" {
            continue;
        }
        let text = fs::read_to_string(&after).expect("a case");
        let is_virtiofs = text.contains("<driver type='virtiofs'/>");
        if is_virtiofs && text.contains("<readonly/>") {
            // Debian 12's libvirt can't, and must not ignore it.
            let refused = libvirt.try_virsh(["define".as_ref(), after.as_os_str()]);
            assert!(!refused.status.success(), "{name}: libvirt takes <readonly/>");
            continue;
        }
        libvirt.virsh(["define".as_ref(), after.as_os_str()]);
        if text.contains("<hugepages/>") {
            // libvirt makes arguments of it only where a hugetlbfs is mounted.
            libvirt.virsh(["undefine", "vm"]);
            continue;
        }
        let native = libvirt.native(&after);
        check_ids(&name, &native);
        if is_virtiofs {
            for share in &shares(&before) {
                check_virtiofs(&name, share, &native);
            }
            libvirt.virsh(["undefine", "vm"]);
            continue;
        }
        let devices = devices(&native);
        for share in shares(&before) {
            let Some(tag) = &share.mount_tag else { continue };
            let tag = String::from_utf8_lossy(tag);
            let found: Vec<_> = devices.iter().filter(|device| device.tag == tag).collect();
            assert_eq!(found.len(), 1, "{name}: {tag} in {native:?}");
            check_share(&name, &share, found[0]);
        }
        libvirt.virsh(["undefine", "vm"]);
    }
}

/// A 9p device of QEMU's arguments, with its fsdev's options.
struct Native {
    tag: String,
    bus: String,
    addr: String,
    fsdev: Vec<qemu_opts::Opt>,
}

/// Finds a property's value.
type Lookup = Box<dyn Fn(&str) -> Option<String>>;

fn devices(native: &[String]) -> Vec<Native> {
    let after = |option: &'static str| {
        native.windows(2).filter(move |pair| pair[0] == option).map(|pair| pair[1].clone())
    };
    let fsdevs: Vec<_> =
        after("-fsdev").map(|value| qemu_opts::parse(value.as_bytes(), &[], Some(b"fsdriver"))).collect();
    let text = |opts: &[qemu_opts::Opt], key: &str| {
        qemu_opts::last(opts, key.as_bytes()).map(|opt| String::from_utf8(opt.value.clone()).expect("text"))
    };
    let mut found = Vec::new();
    for value in after("-device").chain(after("-virtfs")) {
        let get: Lookup = if value.starts_with('{') {
            let json: serde_json::Value = serde_json::from_str(&value).expect("JSON of libvirt's");
            Box::new(move |key| json.get(key).map(|value| value.as_str().expect("text").to_owned()))
        } else {
            let opts = qemu_opts::parse(value.as_bytes(), &[], Some(b"driver"));
            Box::new(move |key| text(&opts, key))
        };
        let Some(tag) = get("mount_tag") else { continue };
        let own = get("fsdev").expect("an fsdev");
        let fsdev = fsdevs.iter().find(|opts| text(opts, "id").as_deref() == Some(&own));
        let fsdev = fsdev.unwrap_or_else(|| panic!("no fsdev {own} in {native:?}")).clone();
        found.push(Native {
            tag,
            bus: get("bus").unwrap_or_default(),
            addr: get("addr").unwrap_or_default(),
            fsdev,
        });
    }
    found
}

fn check_share(name: &str, share: &Share, native: &Native) {
    let get = |key: &str| {
        qemu_opts::last(&native.fsdev, key.as_bytes())
            .map(|opt| String::from_utf8_lossy(&opt.value).into_owned())
    };
    assert_eq!(get("fsdriver").as_deref(), Some("local"), "{name}");
    assert!(get("path").is_some_and(|path| path.starts_with("/srv/")), "{name}: {:?}", get("path"));
    let model = get("security_model").expect("a security model");
    assert!(["mapped", "mapped-xattr", "mapped-file"].contains(&model.as_str()), "{name}: {model}");
    let readonly = get("readonly").and_then(|value| qemu_opts::boolean(value.as_bytes())).unwrap_or(false);
    assert_eq!(readonly, share.readonly, "{name}");
    assert_eq!(get("writeout").is_some(), share.writeout, "{name}");
    let device = share.device.clone().unwrap_or_default();
    if let Some(addr) = &device.addr {
        assert_eq!(pci_slot(native.addr.as_bytes()), pci_slot(addr), "{name}: {}", native.addr);
        let bus = device.bus.as_deref().map_or(Some(0), bus_number);
        assert_eq!(bus_number(native.bus.as_bytes()).or(bus), bus, "{name}: {}", native.bus);
    }
}

/// The share is a vhost-user-fs device at the same address, and all memory is shared.
fn check_virtiofs(name: &str, share: &Share, native: &[String]) {
    let tag = String::from_utf8_lossy(share.mount_tag.as_deref().expect("a tag"));
    let json = |value: &String| serde_json::from_str::<serde_json::Value>(value).ok();
    let values = |option: &'static str| {
        native.windows(2).filter(move |pair| pair[0] == option).filter_map(move |pair| json(&pair[1]))
    };
    let devices: Vec<_> = values("-device").filter(|device| device["tag"] == *tag).collect();
    let [device] = devices.as_slice() else { panic!("{name}: {tag} in {native:?}") };
    assert_eq!(device["driver"], "vhost-user-fs-pci", "{name}");
    let addr = share.device.as_ref().and_then(|device| device.addr.clone());
    if let Some(addr) = addr {
        let own = device["addr"].as_str().expect("an address");
        assert_eq!(pci_slot(own.as_bytes()), pci_slot(&addr), "{name}: {own}");
    }
    let chardev = device["chardev"].as_str().expect("a chardev");
    let socket = |value: &&String| value.starts_with("socket,") && value.contains(&format!("id={chardev},"));
    assert_eq!(native.iter().filter(socket).count(), 1, "{name}: {native:?}");
    let memories: Vec<_> = values("-object")
        .filter(|object| object["qom-type"].as_str().is_some_and(|kind| kind.starts_with("memory-backend-")))
        .collect();
    assert!(!memories.is_empty(), "{name}: {native:?}");
    for memory in memories {
        assert_eq!(memory["share"], true, "{name}: {memory}");
        assert_ne!(memory["qom-type"], "memory-backend-ram", "{name}: {memory}");
    }
}

/// Two fsdevs or two devices with one id, and the domain does not start.
fn check_ids(name: &str, native: &[String]) {
    let args: Vec<_> =
        native.iter().map(|value| Arg { value: value.as_bytes().to_vec(), ..Arg::default() }).collect();
    let ids = argv::ids(&args, |_| true);
    let unique: BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "{name}: an id is taken twice in {native:?}");
}
