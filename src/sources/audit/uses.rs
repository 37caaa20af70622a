//! A share whose text is in one file and whose command is in another: what each of them says of it.

use super::scan::About;
use crate::report::audit::{DeviceRow, ShareRow};
use crate::report::rows::bytes;
use crate::share::{Note, Share, Transport};
use crate::sources::elsewhere;

/// Takes from a share's users what its own text does not say: a socket in a variable, and that there is a device.
pub(super) fn complete(share: &mut Share, users: &[Share]) {
    let Some(user) = users.first() else { return };
    if matches!(share.transport, Transport::Unknown(_)) {
        share.transport = user.transport.clone();
    }
    if users.iter().any(|user| user.device.is_some()) {
        share.notes.retain(|note| *note != Note::DeviceElsewhere);
    }
    if share.place.guest.is_none() && users.len() == 1 {
        share.place.guest.clone_from(&user.place.guest);
    }
}

/// Fills in a share's row what its users say: the tag, the device, and where they are.
pub(super) fn fill(row: &mut ShareRow, about: &About) {
    let places = about.users.iter().map(|user| &user.place).chain(&about.text);
    row.other_places = places.filter_map(elsewhere::told).collect();
    if let Some(user) = about.users.iter().find(|user| user.device.is_some()) {
        row.device = row.device.take().or_else(|| row_of_device(user));
        row.mount_tag = row.mount_tag.take().or_else(|| user.mount_tag.as_deref().map(bytes));
    }
}

/// Where else a share is, as a part of a sentence.
pub(super) fn told(about: &About) -> Option<String> {
    if let Some(text) = about.text.as_ref().and_then(elsewhere::told) {
        return Some(format!("its text is in {text}"));
    }
    let users: Vec<_> = about.users.iter().filter_map(|user| elsewhere::told(&user.place)).collect();
    let verb = if users.len() == 1 { "uses" } else { "use" };
    (!users.is_empty()).then(|| format!("{} {verb} this text", users.join(" and ")))
}

/// The device of a share.
pub(super) fn row_of_device(share: &Share) -> Option<DeviceRow> {
    share.device.as_ref().map(|device| DeviceRow {
        driver: bytes(&device.driver),
        bus: device.bus.as_deref().map(bytes),
        addr: device.addr.as_deref().map(bytes),
        id: device.id.as_deref().map(bytes),
        properties: device.properties.iter().map(|(key, value)| (bytes(key), bytes(value))).collect(),
    })
}
