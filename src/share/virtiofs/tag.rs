//! Tags of virtiofs.

#![forbid(unsafe_code)]

use crate::share::Share;
use crate::share::local::Unrepresentable;
use crate::text::escape;

/// The longest tag of a virtiofs device, in bytes.
const LONGEST_TAG: usize = 36;

/// The share's tag, which the guest mounts by.
pub(super) fn tag(share: &Share) -> Result<&[u8], Unrepresentable> {
    match &share.mount_tag {
        None => Err(Unrepresentable(format!("no device shows the fsdev {} to the guest", share.title()))),
        Some(tag) if tag.is_empty() || tag.len() > LONGEST_TAG => Err(Unrepresentable(format!(
            "virtiofs takes tags of 1 to {LONGEST_TAG} bytes, and not {}",
            escape(tag)
        ))),
        Some(tag) => Ok(tag),
    }
}
