//! Names of systemd's units.

use std::path::Path;

/// The unit that a file or a drop-in of it describes, without suffix and instance.
pub(super) fn unit_of(file: &Path) -> Option<String> {
    let parent = file.parent().and_then(|parent| parent.file_name()?.to_str());
    let name = match parent.and_then(|parent| parent.strip_suffix(".d")) {
        Some(unit) if unit.ends_with(".service") || unit.ends_with(".socket") => unit,
        _ => file.file_name()?.to_str()?,
    };
    let name = name.rsplit_once('.').map_or(name, |(name, _)| name);
    Some(name.split('@').next().unwrap_or(name).to_owned())
}

/// `%I`: what a unit's instance stands for, a slash for each dash.
pub(super) fn unescape(instance: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = instance;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'-', _) => out.push(b'/'),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16));
                let value = digits.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                out.push(value.unwrap_or(b'\\'));
                if value.is_some() {
                    rest = after;
                }
            }
            _ => out.push(*byte),
        }
    }
    out
}
