//! A share's `local` equivalent as `-readconfig` takes it.

use std::path::Path;

use super::options::{Options, Unrepresentable, model_pairs, path_bytes};
use crate::share::Share;
use crate::text::escape;

/// The sections of a share's `local` equivalent: its fsdev, and its device where there is one.
pub(crate) fn readconfig(share: &Share, path: &Path, options: &Options) -> Result<Vec<u8>, Unrepresentable> {
    let mut out = section("fsdev", Some(&share.fsdev))?;
    line(&mut out, b"fsdriver", b"local")?;
    line(&mut out, b"path", path_bytes(path))?;
    for (key, value) in model_pairs(options) {
        line(&mut out, key.as_bytes(), value.as_bytes())?;
    }
    if share.readonly {
        line(&mut out, b"readonly", b"on")?;
    }
    if share.writeout {
        line(&mut out, b"writeout", b"immediate")?;
    }
    let Some(device) = &share.device else { return Ok(out) };
    out.push(b'\n');
    out.extend(section("device", device.id.as_deref())?);
    line(&mut out, b"driver", &device.driver)?;
    line(&mut out, b"fsdev", &share.fsdev)?;
    let known = [("mount_tag", &share.mount_tag), ("bus", &device.bus), ("addr", &device.addr)];
    for (key, value) in known {
        if let Some(value) = value {
            line(&mut out, key.as_bytes(), value)?;
        }
    }
    for (key, value) in &device.properties {
        line(&mut out, key, value)?;
    }
    Ok(out)
}

fn section(group: &str, id: Option<&[u8]>) -> Result<Vec<u8>, Unrepresentable> {
    let mut out = format!("[{group}").into_bytes();
    if let Some(id) = id {
        out.extend_from_slice(b" \"");
        out.extend_from_slice(quotable(id)?);
        out.push(b'"');
    }
    out.extend_from_slice(b"]\n");
    Ok(out)
}

fn line(out: &mut Vec<u8>, key: &[u8], value: &[u8]) -> Result<(), Unrepresentable> {
    out.extend_from_slice(b"  ");
    out.extend_from_slice(key);
    out.extend_from_slice(b" = \"");
    out.extend_from_slice(quotable(value)?);
    out.extend_from_slice(b"\"\n");
    Ok(())
}

/// A value that can stand between double quotes: the format knows no escapes, and QEMU reads lines of at most 1023
/// bytes.
pub(crate) fn quotable(value: &[u8]) -> Result<&[u8], Unrepresentable> {
    if value.is_empty() || value.len() > 900 || value.iter().any(|byte| b"\"\n\r\0".contains(byte)) {
        return Err(Unrepresentable(format!("a -readconfig file can't hold the value {}", escape(value))));
    }
    Ok(value)
}
