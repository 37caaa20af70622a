//! Several documents in one file: the rewrite of all is the rewrite of each, one behind the other.

use std::path::Path;

use crate::share::rewrite::Rewrite;
use crate::sources::registry::recognise_named;
use crate::sources::{Document, proved};

macro_rules! golden {
    ($($name:literal),*) => { &[$(include_str!(concat!("../../../tests/golden/config/", $name))),*] };
}

/// libvirt's documents, in many layouts.
const XML: &[&str] = golden![
    "plain/in.xml",
    "crlf/in.xml",
    "one_line/in.xml",
    "several/in.xml",
    "snapshot/in.xml",
    "no_devices/in.xml",
    "empty_devices/in.xml",
    "default_namespace/in.xml",
    "json_device/in.xml",
    "two_command_lines/in.xml",
    "not_a_share/in.xml"
];

const YAML: &[&str] = &[
    "a: [\"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\"]\n",
    "a:\r\n- -virtfs\r\n- proxy,id=m,socket=/run/m,mount_tag=m\r\n",
    "a: |\n  qemu \\\n    -virtfs 'proxy,id=o,socket=/a,mount_tag=o'\nb: 1\n",
    "services:\n  q:\n    image: q\n    command: -virtfs proxy,id=p,socket=/run/p,mount_tag=p\n",
    "# nothing\na: 1\n",
    "a: &x proxy,id=q,socket=/run/q,mount_tag=q\nb: [-virtfs, *x]\n",
    "a: \"-virtfs proxy,id=r,socket={{ s }},mount_tag=r\"\n",
];

/// A file's text after the rewrite of all of its shares; `None` where that is refused.
fn rewritten(name: &str, text: &str) -> Option<String> {
    let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
    let format = recognise_named(&document)?;
    let reading = format.read(&document).ok()?;
    if reading.shares.is_empty() && reading.unread.is_empty() {
        return Some(text.to_owned());
    }
    let mut how = Rewrite::default();
    for share in &reading.shares {
        how.exports.extend(share.handle().map(|name| (name, "/srv/x".into())));
    }
    let done = proved::rewrite(format, &document, &reading.shares, &how, None, &|_| Vec::new()).ok()?;
    Some(String::from_utf8(done.text).unwrap())
}

fn shares(name: &str, text: &str) -> (usize, usize) {
    let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
    match recognise_named(&document).unwrap().read(&document) {
        Ok(reading) => (reading.shares.len(), reading.unread.len()),
        Err(_) => (0, 1),
    }
}

fn holds_for(name: &str, all: &[&str], between: &[&str], broken: &[&str]) {
    let mut done = 0;
    for (at, first) in all.iter().enumerate() {
        for (index, second) in all.iter().enumerate() {
            // Each pair once, and each text between them behind and before each document.
            let between = between[(at + index) % between.len()];
            let together = format!("{first}{between}{second}");
            let expected = rewritten(name, first).zip(rewritten(name, second));
            let expected = expected.map(|(first, second)| format!("{first}{between}{second}"));
            done += usize::from(expected.as_ref().is_some_and(|new| *new != together));
            assert_eq!(rewritten(name, &together), expected, "{together}");
            let count = |text: &str| shares(name, text).0;
            assert_eq!(shares(name, &together), (count(first) + count(second), 0), "{together}");
        }
        // A broken one hides none of the others, and nothing of the file is rewritten.
        let between = between[at % between.len()];
        for broken in broken {
            for text in [format!("{first}{between}{broken}"), format!("{broken}{between}{first}")] {
                let own = shares(name, first).0;
                assert_eq!(shares(name, &text), (own, 1), "{text}");
                assert_eq!(rewritten(name, &text), None, "{text}");
            }
        }
    }
    assert!(done > all.len() * all.len() / 2, "{done}");
}

#[test]
fn xml_documents_in_a_row_are_rewritten_one_by_one() {
    let between = [
        "",
        "\n",
        "\r\n\r\n",
        "<!-- proxy -->\n",
        "<?xml version='1.0' encoding='UTF-8'?>\n",
        "\n<!--\n-->  ",
    ];
    // Ill-formed, and not closed.
    let broken = [
        "<domain type='kvm'><name>proxy,id=x,socket=/x</nam></domain>\n",
        "<domain type='kvm'>\n  <name>proxy,id=x,socket=/x</name>\n",
    ];
    let plain: Vec<_> =
        XML.iter().map(|text| text.split_once("?>").map_or(*text, |(_, rest)| rest.trim_start())).collect();
    holds_for("/a.xml", &plain, &between, &broken[..1]);
    holds_for("/a.xml", &plain[..4], &["\n"], &broken);
    holds_for("/a.xml", &XML[..4], &[""], &broken);
}

#[test]
fn yaml_documents_in_a_row_are_rewritten_one_by_one() {
    let between = ["---\n", "--- # proxy\n", "...\n---\n", "\n\n---\n\n", "---\r\n"];
    holds_for("/a.yml", YAML, &between, &["a: \"-virtfs proxy,id=x,socket=/x\nb: ]\n"]);
}
