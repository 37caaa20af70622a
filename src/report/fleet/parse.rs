//! Documents of other machines: parsed as JSON or YAML, of a version that is known, and safe to print.

use anyhow::{Result, bail};
use serde::de::DeserializeOwned;

use crate::report::SCHEMA;
use crate::text::printable;

/// Reads one document: JSON where it begins so, YAML otherwise.
pub(super) fn parse<D: DeserializeOwned>(bytes: &[u8]) -> Result<D> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => bail!("it is empty: the audit said nothing"),
        Some(b'{') => Ok(serde_json::from_slice(bytes)?),
        Some(_) => Ok(crate::yaml::from_slice(bytes)?),
    }
}

/// Stops at a document of a later version.
pub(super) fn known(schema: u32) -> Result<()> {
    if schema > SCHEMA {
        bail!("its schema is {schema}, and this program knows {SCHEMA}: use a newer one for the report")
    }
    Ok(())
}

/// Text of another machine's, safe to print.
pub(super) fn clean(text: String) -> String {
    match printable(&text) {
        std::borrow::Cow::Borrowed(_) => text,
        std::borrow::Cow::Owned(safe) => safe,
    }
}
