//! Files that libvirt writes itself. It keeps their content in memory and does not see an edit: each is changed by virsh.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::format::Document;
use super::super::libvirt::{self, Held, Holder};
use crate::text::{escape, shell_word};

/// Where libvirt keeps its files: below / and below a user's home.
const FOLDERS: [&[u8]; 4] =
    [b"/etc/libvirt/qemu/", b"/run/libvirt/qemu/", b"/var/lib/libvirt/qemu/", b"/.config/libvirt/qemu/"];

/// What to do in place of an edit of the file; `None` where libvirt does not write the file.
pub(super) fn way(path: &Path, bytes: &[u8]) -> Option<String> {
    let start = bytes.get(..bytes.len().min(4096)).unwrap_or_default();
    let has = |text: &[u8]| memchr::memmem::find(start, text).is_some();
    let below = |folder: &&[u8]| memchr::memmem::find(path.as_os_str().as_bytes(), folder).is_some();
    let placed = path.extension().is_some_and(|it| it == "xml" || it == "save") && FOLDERS.iter().any(below);
    let generated = has(b"WARNING: THIS IS AN AUTO-GENERATED FILE") && has(b"virsh");
    if !(placed || generated) {
        return None;
    }
    let stem = || path.file_stem().map(|name| name.as_bytes().to_vec());
    let held = libvirt::held(&Document { path: Some(path), bytes });
    let held = held.unwrap_or(Held { holder: Holder::Domain, domain: None, name: None });
    let word = |name: Option<Vec<u8>>| escape(&shell_word(&name.unwrap_or_default())).into_owned();
    let outer = word(held.name.or_else(stem));
    let domain = word(held.domain.or_else(stem));
    let (dump, define) = match held.holder {
        Holder::Snapshot => (
            format!("snapshot-dumpxml --security-info {domain} {outer}"),
            format!("snapshot-create {domain} NEW.xml --redefine"),
        ),
        Holder::Checkpoint => (
            format!("checkpoint-dumpxml --security-info {domain} {outer}"),
            format!("checkpoint-create {domain} NEW.xml --redefine"),
        ),
        Holder::SavedImage => {
            let image = word(Some(path.as_os_str().as_bytes().to_vec()));
            let dump = format!("save-image-dumpxml --security-info {image}");
            return Some(sentence(&dump, "--in-place-args ", &format!("save-image-define {image} NEW.xml")));
        }
        Holder::Domain | Holder::Status | Holder::Stylesheet | Holder::Other => {
            (format!("dumpxml --inactive --security-info {domain}"), "define NEW.xml".to_owned())
        }
    };
    Some(sentence(&dump, "", &define))
}

fn sentence(dump: &str, option: &str, define: &str) -> String {
    format!(
        "Do this instead: virsh {dump} > NEW.xml; virtfs-proxy-helper migrate config --in-place {option}NEW.xml; virsh {define}"
    )
}
