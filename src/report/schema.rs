//! The JSON Schemas of the documents, for `--schema`.
//!
//! A schema is generated from its type, but not in the program: what generates it is larger than what it makes. A file in
//! `src/report/schema` holds it, and a test compares the two. `UPDATE_GOLDEN=1 cargo test --lib schema` writes the files.

/// A document whose JSON Schema can be printed.
pub(crate) trait HasSchema {
    /// The schema, without indentation.
    const SCHEMA: &'static str;
}

/// Prints the JSON Schema of a document.
pub(crate) fn print_schema<D: HasSchema>() -> anyhow::Result<()> {
    let schema: serde_json::Value = serde_json::from_str(D::SCHEMA)?;
    say!("{}", serde_json::to_string_pretty(&schema)?)
}

/// Declares that the schema of `$document` is in `src/report/schema/$name.json`.
macro_rules! has_schema {
    ($document:ty, $name:literal) => {
        impl crate::report::schema::HasSchema for $document {
            const SCHEMA: &'static str =
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/report/schema/", $name, ".json"));
        }

        #[cfg(test)]
        #[test]
        fn schema_is_that_of_the_type() {
            crate::report::schema::tests::compare::<$document>($name);
        }
    };
}

/// Compares the files with the types.
#[cfg(test)]
pub(crate) mod tests {
    use super::HasSchema;

    /// Compares the file with the type, or writes it where the variable `UPDATE_GOLDEN` is set.
    ///
    /// # Panics
    ///
    /// If they differ.
    pub(crate) fn compare<D: HasSchema + schemars::JsonSchema>(name: &str) {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"");
        let mut writer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(&schemars::schema_for!(D), &mut writer).unwrap();
        text.push(b'\n');
        let file = format!("{}/src/report/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &text).unwrap();
            return;
        }
        let text = String::from_utf8(text).unwrap();
        assert_eq!(D::SCHEMA, text, "UPDATE_GOLDEN=1 cargo test --lib schema writes {file}");
    }
}
