//! A rewritten YAML file, read by PyYAML, which is of YAML 1.1: what the same file as JSON says.

use std::fs;

use super::{config, text};
use crate::tools::python;

/// Names of exported directories.
const NAMES: &[&str] = &[
    "on",
    "1_000",
    "12:30",
    "2024-01-01",
    "=",
    "<<",
    "~",
    "0x1F",
    "a: b",
    "a #b",
    " a",
    "a ",
    "'",
    "\"",
    "it's",
    "\\",
    "a\tb",
    "[a]",
    "{a}",
    "&a",
    "*a",
    "!a",
    "a,b",
    "%41",
    "\u{e9}",
    "\u{2028}",
    "\u{85}",
    "\u{feff}",
    "\u{9f}",
    "\u{1}",
    "#",
    ": ",
    "- a",
    "|",
    ">",
    "`a`",
    "@",
];

/// Ways to write the same list.
const FORMS: &[&str] = &[
    "a: [-virtfs, \"OPTION\"]\n",
    "a: [-virtfs, 'OPTION']\n",
    "a:\n- -virtfs\n- OPTION\n",
    "a:\n- -virtfs\n- OPTION # x\n",
    "a:\n  - '-virtfs'\n  - \"OPTION\"\n",
    "{\"a\": [\"-virtfs\", \"OPTION\"]}\n",
];

#[test]
fn pyyaml_reads_what_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let mut documents = Vec::new();
    let mut refused = Vec::new();
    for name in NAMES {
        let path = format!("/srv/{name}");
        for form in FORMS {
            let file = folder.path().join(if form.starts_with('{') { "a.json" } else { "a.yml" });
            fs::write(&file, form.replace("OPTION", "proxy,id=f,mount_tag=t,socket=/a")).unwrap();
            let output = config([&format!("--export=t={path}"), file.to_str().unwrap()], b"");
            if output.status.code() == Some(1) {
                refused.push((*name, *form, text(&output.stderr)));
                continue;
            }
            let option = format!(
                "local,id=f,mount_tag=t,path={},security_model=mapped-xattr",
                path.replace(',', ",,")
            );
            let expected = serde_json::json!({ "a": ["-virtfs", option] });
            documents.push((text(&output.stdout), expected));
        }
    }
    let program = "
import json, sys, yaml
for text, expected in json.load(sys.stdin):
    found = yaml.safe_load(text)
    if found != expected:
        print(ascii(text), ascii(found))
";
    let differences = python(program, &serde_json::to_vec(&documents).unwrap());
    assert!(differences.is_empty(), "{differences}");
    // Some characters can't be written without double quotes, some not without any.
    let is_hard = |name: &str, form: &str| {
        name.contains(['\u{1}', '\u{2028}', '\u{85}', '\u{feff}', '\u{9f}', '\t'])
            || [": ", " #"].iter().any(|mark| name.contains(mark)) && form.contains("- OPTION")
    };
    assert!(refused.iter().all(|(name, form, _)| is_hard(name, form)), "{refused:#?}");
}
