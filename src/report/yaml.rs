//! Documents as YAML that readers of YAML 1.1 (PyYAML, Ansible) and of 1.2 take for the same values: what one of them
//! could read as a boolean, a number or a date is quoted.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::yaml::Value;
use serde::Serialize;

/// Words that are no strings in YAML 1.1, in any case.
const RESERVED: &[&str] = &["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// The longest key that stands before its colon without a mark: readers look no further than 1,024 characters.
const LONGEST_KEY: usize = 512;

/// Writes `document`.
pub(super) fn write<D: Serialize>(document: &D, out: &mut dyn Write) -> io::Result<()> {
    let value = crate::yaml::to_value(document).map_err(io::Error::other)?;
    match &value {
        Value::Mapping(pairs) if !pairs.is_empty() => node(&value, 0, out),
        Value::Sequence(items) if !items.is_empty() => node(&value, 0, out),
        scalar => writeln!(out, "{}", flat(scalar)),
    }
}

/// Writes the list of a document that has the name, behind that name, and says whether there is one with something in it.
type List<'a> = &'a mut dyn FnMut(&str, &mut dyn Write) -> io::Result<bool>;

/// Writes `document`, in which some lists are empty: those that `list` writes stand in their places.
pub(super) fn write_with_lists<D: Serialize>(
    document: &D,
    out: &mut dyn Write,
    list: List,
) -> io::Result<()> {
    let Value::Mapping(pairs) = crate::yaml::to_value(document).map_err(io::Error::other)? else {
        return write(document, out);
    };
    for (key, value) in pairs {
        if value.as_sequence().is_some_and(Vec::is_empty)
            && let Some(name) = key.as_str()
            && list(name, out)?
        {
            continue;
        }
        let pair = std::iter::once((key, value)).collect();
        node(&Value::Mapping(pair), 0, out)?;
    }
    Ok(())
}

/// Writes the rows of the list `name` of a document. `false`: there is none.
pub(super) fn write_list<D: Serialize>(
    name: &str,
    rows: impl Iterator<Item = io::Result<D>>,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let mut is_first = true;
    for row in rows {
        if std::mem::take(&mut is_first) {
            writeln!(out, "{}:", flat(&Value::String(name.to_owned())))?;
        }
        let row = crate::yaml::to_value(row?).map_err(io::Error::other)?;
        node(&Value::Sequence(vec![row]), 0, out)?;
    }
    Ok(!is_first)
}

/// A block at an indentation; its first line is indented already.
fn node(value: &Value, indent: usize, out: &mut dyn Write) -> io::Result<()> {
    match value {
        Value::Mapping(pairs) => {
            for (index, (key, value)) in pairs.iter().enumerate() {
                if index > 0 {
                    write!(out, "{:indent$}", "")?;
                }
                let key = flat(key);
                if key.len() > LONGEST_KEY {
                    write!(out, "? {key}\n{:indent$}:", "")?;
                } else {
                    write!(out, "{key}:")?;
                }
                match value {
                    Value::Mapping(inner) if !inner.is_empty() => {
                        write!(out, "\n{:1$}", "", indent + 2)?;
                        node(value, indent + 2, out)?;
                    }
                    Value::Sequence(inner) if !inner.is_empty() => {
                        write!(out, "\n{:indent$}", "")?;
                        node(value, indent, out)?;
                    }
                    scalar => writeln!(out, " {}", flat(scalar))?,
                }
            }
            Ok(())
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    write!(out, "{:indent$}", "")?;
                }
                match item {
                    Value::Mapping(inner) if !inner.is_empty() => {
                        write!(out, "- ")?;
                        node(item, indent + 2, out)?;
                    }
                    Value::Sequence(inner) if !inner.is_empty() => {
                        write!(out, "- ")?;
                        node(item, indent + 2, out)?;
                    }
                    scalar => writeln!(out, "- {}", flat(scalar))?,
                }
            }
            Ok(())
        }
        scalar => writeln!(out, "{}", flat(scalar)),
    }
}

/// What stands on one line.
fn flat(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => scalar(text),
        Value::Sequence(_) => "[]".to_owned(),
        Value::Mapping(_) => "{}".to_owned(),
        Value::Tagged(tagged) => flat(&tagged.value),
    }
}

/// A string, quoted unless it can be nothing else.
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./@+-".contains(c);
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '/';
    let reserved = RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text));
    if text.starts_with(starts) && text.chars().all(is_plain) && !reserved {
        return text.to_owned();
    }
    let is_printable = |c: char| {
        matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
            && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    if text.chars().all(is_printable) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            // Writing to a String does not fail.
            c => drop(write!(out, "\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_yaml_1_1_reads_otherwise_is_quoted() {
        for (text, expected) in [
            ("on", "'on'"),
            ("No", "'No'"),
            ("Y", "'Y'"),
            ("1_000", "'1_000'"),
            ("12:30", "'12:30'"),
            ("2024-01-01", "'2024-01-01'"),
            ("=", "'='"),
            ("<<", "'<<'"),
            ("~", "'~'"),
            (".5", "'.5'"),
            ("0x10", "'0x10'"),
            ("", "''"),
            ("it's", "'it''s'"),
            ("a: b", "'a: b'"),
            ("a\n", "\"a\\n\""),
            ("\u{7f}", "\"\\U0000007f\""),
            ("/srv/x", "/srv/x"),
            ("virtio-9p-pci", "virtio-9p-pci"),
            ("once", "once"),
        ] {
            assert_eq!(scalar(text), expected);
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(|number| Value::Number(number.into())),
            any::<String>().prop_map(Value::String),
            "[a-z0-9:=<~.-]{0,5}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Sequence),
                proptest::collection::vec((any::<String>(), inner), 0..4).prop_map(|pairs| {
                    Value::Mapping(
                        pairs.into_iter().map(|(key, value)| (Value::String(key), value)).collect(),
                    )
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_back(value in value()) {
            let mut text = Vec::new();
            write(&value, &mut text).unwrap();
            prop_assert_eq!(crate::yaml::from_slice::<Value>(&text).unwrap(), value);
        }
    }
}
