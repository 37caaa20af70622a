//! How paths, which need not be UTF-8, and kinds of findings are packed with what speaks of them.

#![forbid(unsafe_code)]

/// A path by its bytes.
pub mod path {
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Packs one.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().serialize(serializer)
    }

    /// Unpacks one.
    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<PathBuf, D::Error> {
        OsString::deserialize(deserializer).map(PathBuf::from)
    }
}

/// A path by its bytes, where there is one.
pub mod optional_path {
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Packs one.
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Path::as_os_str).serialize(serializer)
    }

    /// Unpacks one.
    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<OsString>::deserialize(deserializer)?.map(PathBuf::from))
    }
}

/// A kind of finding by its id.
pub mod kind {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::report::finding::{KINDS, Kind};

    /// Packs one.
    pub fn serialize<S: Serializer>(kind: &&'static Kind, serializer: S) -> Result<S::Ok, S::Error> {
        kind.id.serialize(serializer)
    }

    /// Unpacks one.
    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<&'static Kind, D::Error> {
        let id = String::deserialize(deserializer)?;
        KINDS.iter().copied().find(|kind| kind.id == id).ok_or_else(|| D::Error::custom("no kind of finding"))
    }
}
