//! `<filesystem>`: the shares that libvirt itself makes over QEMU's local backend.

use std::path::Path;

use roxmltree::Node;

use super::arguments::{self, Domain, elements};
use super::file::File;
use crate::share::memory::Memory;
use crate::share::{ExportPath, Place, Share, Transport};
use crate::sources::format::{Document, Unreadable};

/// The shares over the local backend that the domains of a document have in libvirt's own words. The directory stands where a
/// proxy share's socket does.
pub(crate) fn filesystems(document: &Document) -> Result<Vec<Share>, Unreadable> {
    let file = File::open(document.bytes)?;
    let mut shares = Vec::new();
    for part in file.documents() {
        let xml = part.parse()?;
        for domain in arguments::domains(&part, &xml) {
            let devices = elements(domain.node, "devices");
            let all = devices.flat_map(|devices| elements(devices, "filesystem"));
            shares.extend(all.filter_map(|node| share(document.path, &part, &domain, node)));
        }
    }
    Ok(shares)
}

fn share(path: Option<&Path>, file: &File, domain: &Domain, node: Node) -> Option<Share> {
    let child = |name: &str| elements(node, name).next();
    let driver = child("driver").and_then(|driver| driver.attribute("type"));
    // virtiofs has no security model; libvirt's other types are of containers.
    if node.attribute("type").is_some_and(|kind| kind != "mount") || driver.is_some_and(|kind| kind != "path")
    {
        return None;
    }
    let directory = child("source")?.attribute("dir")?;
    let tag = child("target").and_then(|target| target.attribute("dir"));
    let model = match node.attribute("accessmode") {
        Some("mapped") => "mapped-xattr",
        Some("squash") => "none",
        _ => "passthrough",
    };
    Some(Share {
        fsdev: Vec::new(),
        mount_tag: tag.map(|tag| tag.as_bytes().to_vec()),
        transport: Transport::Socket(directory.into()),
        socket_on_host: None,
        model: Some(model.as_bytes().to_vec()),
        readonly: child("readonly").is_some(),
        writeout: false,
        device: None,
        place: Place {
            file: path.map(Path::to_owned),
            line: Some(file.line(node.range().start)),
            guest: domain.name.clone(),
            ..Place::default()
        },
        export: ExportPath::Unknown,
        memory: Memory::default(),
        notes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_over_the_local_backend_is_a_share_of_it() {
        let filesystem = |attributes: &str, inner: &str| {
            format!("<filesystem {attributes}>{inner}<source dir='/srv/a'/><target dir='t'/></filesystem>")
        };
        for (attributes, inner, model) in [
            ("type='mount' accessmode='mapped'", "", Some("mapped-xattr")),
            (
                "type='mount' accessmode='mapped'",
                "<driver type='path' wrpolicy='immediate'/>",
                Some("mapped-xattr"),
            ),
            ("accessmode='squash'", "", Some("none")),
            ("type='mount'", "", Some("passthrough")),
            ("type='mount' accessmode='passthrough'", "<driver type='virtiofs'/>", None),
            ("type='template'", "", None),
        ] {
            let element = filesystem(attributes, inner);
            let text = format!("<domain><name>web</name>\n<devices>{element}</devices></domain>");
            let found = filesystems(&Document { path: None, bytes: text.as_bytes() }).unwrap();
            let said: Vec<_> = found.iter().map(|share| share.model.clone().unwrap()).collect();
            let expected: Vec<_> = model.into_iter().map(|model| model.as_bytes().to_vec()).collect();
            assert_eq!(said, expected, "{text}");
            for share in found {
                assert_eq!(share.transport, Transport::Socket("/srv/a".into()));
                assert_eq!(share.place.guest.as_deref(), Some(&b"web"[..]));
                assert_eq!((share.place.line, share.readonly), (Some(2), false));
            }
        }
    }
}
