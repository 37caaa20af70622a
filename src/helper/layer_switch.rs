//! Which isolation layers are built: all, but in the tests that try each by itself.

/// Whether the layer of this name is built.
#[cfg(not(feature = "break-in"))]
pub(crate) const fn layer_enabled(_: &str) -> bool {
    true
}

#[cfg(feature = "break-in")]
pub(crate) use super::break_in::layer_enabled;
