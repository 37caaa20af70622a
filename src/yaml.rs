//! Reading YAML: the one door to serde_yaml, which is archived upstream. Another reader would be put in here.

use serde::de::DeserializeOwned;
pub(crate) use serde_yaml::{Error, Value};

/// Reads one document.
pub(crate) fn from_slice<D: DeserializeOwned>(bytes: &[u8]) -> Result<D, Error> {
    serde_yaml::from_slice(bytes)
}

/// What a value is in YAML.
pub(crate) fn to_value(value: impl serde::Serialize) -> Result<Value, Error> {
    serde_yaml::to_value(value)
}

/// Every document of a stream.
pub(crate) fn documents(text: &str) -> serde_yaml::Deserializer<'_> {
    serde_yaml::Deserializer::from_str(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The files below `folder` that name the crate.
    fn naming(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                naming(&path, found);
            } else if std::fs::read_to_string(&path).unwrap().contains("serde_yaml::") {
                found.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }

    #[test]
    fn one_module_uses_serde_yaml() {
        let mut found = Vec::new();
        naming(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert_eq!(found, ["yaml.rs"]);
    }
}
