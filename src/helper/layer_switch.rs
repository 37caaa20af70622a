//! Which isolation layers are built: all, but in the tests that try each by itself.

/// Whether the layer of this name is built.
#[cfg(not(feature = "break-in"))]
pub const fn layer_enabled(_: &str) -> bool {
    true
}

#[cfg(feature = "break-in")]
pub use super::break_in::layer_enabled;
