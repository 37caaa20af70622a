//! The YAML documents, read by PyYAML, which is of YAML 1.1: the same values as in the JSON.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use crate::run::{audit, plain, write};
use crate::tools::python;

/// What YAML 1.1 reads as another type, what YAML has marks for, and bytes that are no text.
const NAMES: &[&[u8]] = &[
    b"on",
    b"On",
    b"no",
    b"y",
    b"N",
    b"null",
    b"~",
    b"true",
    b"1_000",
    b"12:30",
    b"1:20:30.5",
    b"2024-01-01",
    b"2001-12-14t21:59:43.10-05:00",
    b"=",
    b"<<",
    b"0x1F",
    b"0o7",
    b"017",
    b"0b1",
    b"1e3",
    b"1.5e+3",
    b".inf",
    b"-.INF",
    b".nan",
    b"+1",
    b"-",
    b"?",
    b":",
    b"a: b",
    b"a #b",
    b"#",
    b"&a",
    b"*a",
    b"!t",
    b"!!int",
    b"%d",
    b"@a",
    b"[a]",
    b"{a}",
    b"|",
    b">",
    b"'",
    b"\"",
    b"it's",
    b"\\",
    b"---",
    b"...",
    b" on",
    b"on ",
    b"  ",
    b"\t",
    b"a\tb",
    b"a\nb",
    b"\r",
    b"\x01",
    b"\x1b[1m",
    b"\x7f",
    b"\xff",
    b"caf\xe9",
    "\u{85}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{feff}x".as_bytes(),
    "\u{fffe}".as_bytes(),
    "\u{1f600}".as_bytes(),
    "\u{e9}".as_bytes(),
    b"- a",
    b"? a",
    b"a:",
    b"None",
    b"NULL",
];

/// Prints the keys under which the documents differ, and how many strings they have.
const COMPARE: &str = "
import json, sys, yaml
text = sys.stdin.buffer.read().split(b'\\0')
def differ(a, b, at):
    if type(a) is not type(b):
        yield at, a, b
    elif isinstance(a, dict):
        if list(a) != list(b):
            yield at, list(a), list(b)
        for key in a:
            if at + key == 'time': continue # Two runs, perhaps in two seconds.
            yield from differ(a[key], b.get(key), at + '/' + str(key))
    elif isinstance(a, list):
        if len(a) != len(b):
            yield at, len(a), len(b)
        for index, (one, other) in enumerate(zip(a, b)):
            yield from differ(one, other, at + '/' + str(index))
    elif a != b:
        yield at, a, b
for found in differ(json.loads(text[0]), yaml.safe_load(text[1].decode('utf-8')), ''):
    print(ascii(found))
";

/// A script whose shares have these tags, in guests of the same names.
fn script(names: &[Vec<u8>]) -> Vec<u8> {
    let mut text = b"#!/bin/sh\n".to_vec();
    for (number, name) in names.iter().enumerate() {
        let quoted = |bytes: &[u8]| {
            bytes
                .iter()
                .flat_map(|byte| match byte {
                    b'\'' => b"'\\''".to_vec(),
                    b',' => b",,".to_vec(),
                    byte => vec![*byte],
                })
                .collect::<Vec<u8>>()
        };
        text.extend(
            format!("qemu-system-x86_64 -virtfs 'proxy,id=f{number},socket=/run/{number},mount_tag=").bytes(),
        );
        text.extend([&quoted(name), &b"' -name '"[..], &quoted(name), b"'\n"].concat());
    }
    text
}

/// Audits a file with these names in both formats. The tags, as JSON has them.
fn compared(folder: &Path, names: &[Vec<u8>]) -> Vec<Value> {
    let file = folder.join(OsStr::from_bytes(b"on: \xff's #.sh"));
    write(&file, script(names));
    let path = file.as_os_str();
    let json = plain([OsStr::new("--format=json"), path]).stdout;
    let yaml = plain([OsStr::new("--format=yaml"), path]).stdout;
    let differences = python(COMPARE, &[&json, &b"\0"[..], &yaml].concat());
    assert!(differences.is_empty(), "{differences}");
    audit([path]).list("shares").iter().map(|share| share["mount_tag"].clone()).collect()
}

#[test]
fn pyyaml_reads_the_values_of_the_json() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = NAMES.iter().map(|name| name.to_vec()).collect();
    let tags = compared(folder.path(), &names);
    assert_eq!(tags.len(), names.len());
    for name in [
        "on", "1_000", "12:30", "=", "<<", "~", "0x1F", "0o7", "1e3", ".inf", " on", "on ", "\\x1b[1m",
        "\\xff",
    ] {
        assert!(tags.iter().any(|tag| tag == name), "{name:?} is not in {tags:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, max_shrink_iters: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pyyaml_reads_made_up_values(
        names in proptest::collection::vec(
            prop_oneof!["[-+.0-9:_eExXo]{1,8}", "[ -~]{1,6}", "\\PC{1,6}", "[^\\x00]{1,4}"].prop_map(String::into_bytes),
            300..400,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        // A tag may look like something that is filled in: then it is not known.
        prop_assert!(compared(folder.path(), &names).len() > names.len() / 2);
    }
}
