//! avocado-vt's Cartesian configurations: `9p_fs_driver = proxy` and the settings beside it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::share::bounds::spend;
use crate::share::{ExportFrom, ExportPath, Place, Share, Transport};
use crate::sources::{Document, path_of};

/// The share of a configuration.
pub fn shares(document: &Document) -> Vec<Share> {
    let mut shares = Vec::new();
    for (index, line) in document.bytes.split(|byte| *byte == b'\n').enumerate() {
        let Some((key, value)) = setting(line) else { continue };
        if key.ends_with(b"9p_fs_driver") && value == b"proxy" && spend(document.bytes.len()) {
            shares.push(share(document, index as u64 + 1));
        }
    }
    shares
}

fn share(document: &Document, line: u64) -> Share {
    let get = |name: &[u8]| {
        let settings = document.bytes.split(|byte| *byte == b'\n').filter_map(setting);
        settings.filter(|(key, _)| key.ends_with(name)).map(|(_, value)| value.to_vec()).next_back()
    };
    let place = Place { file: document.path.map(Into::into), line: Some(line), ..Place::default() };
    let known =
        |value: &Vec<u8>| !value.iter().any(|byte| matches!(byte, b'$' | b'%')) && value.starts_with(b"/");
    let export = get(b"9p_export_dir").filter(known);
    Share {
        fsdev: Vec::new(),
        mount_tag: get(b"9p_mount_tag").or_else(|| get(b"9p_tag")),
        transport: match get(b"9p_socket_name") {
            Some(socket) if known(&socket) => Transport::Socket(path_of(&socket)),
            Some(socket) => Transport::Unknown(socket),
            None => Transport::Unknown(Vec::new()),
        },
        socket_on_host: None,
        readonly: get(b"9p_readonly").is_some_and(|value| value == b"yes" || value == b"on"),
        writeout: get(b"9p_immediate_writeout").is_some_and(|value| value == b"yes" || value == b"on"),
        device: None,
        export: export.map_or(ExportPath::Unknown, |path| ExportPath::Known {
            path: OsStr::from_bytes(&path).into(),
            from: ExportFrom::Manager(place.clone()),
        }),
        place,
        notes: Vec::new(),
    }
}

fn setting(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let key = line.get(..equals)?.trim_ascii();
    let value = line.get(equals + 1..)?.trim_ascii();
    let quoted = |quote: &[u8]| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let value = quoted(b"\"").or_else(|| quoted(b"'")).unwrap_or(value);
    (!key.starts_with(b"#")).then_some((key, value))
}
