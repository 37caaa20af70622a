//! Documents as people write them.

use super::Documents;
use crate::share::Transport;
use crate::share::rewrite::{Rewrite, apply};
use crate::sources::format::{Document, Format};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn shown(name: &str, text: &str) -> Vec<String> {
    let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
    assert!(Documents.recognises(&document), "{text}");
    let reading = Documents.read(&document).unwrap_or_else(|error| panic!("{error}: {text}"));
    let shares = reading.shares.iter().map(|share| {
        let transport = match &share.transport {
            Transport::Socket(path) => String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned(),
            Transport::Fd(fd) => fd.to_string(),
            Transport::Unknown(text) => format!("? {}", String::from_utf8_lossy(text)),
        };
        let tag = share.mount_tag.clone().unwrap_or_default();
        format!("{}: {} {transport}", share.place.line.unwrap(), String::from_utf8_lossy(&tag))
    });
    let helpers = reading.helpers.iter().map(|helper| {
        format!("{}: helper {}", helper.place.line.unwrap(), helper.export.as_deref().unwrap().display())
    });
    shares.chain(helpers).collect()
}

fn rewritten(text: &str, export: &str) -> Result<String, String> {
    let how = Rewrite { exports: vec![(b"f".to_vec(), export.into())], ..Rewrite::default() };
    let document = Document { path: Some(Path::new("/x.yaml")), bytes: text.as_bytes() };
    let edits = Documents.rewrite(&document, &how).map_err(|refusal| refusal.message)?;
    Ok(String::from_utf8(apply(text.as_bytes(), &edits.edits)).unwrap())
}

const COMPOSE_LIST: &str = "services:\n  vm:\n    command:\n      - qemu-system-x86_64\n      - -fsdev\n      - \
                            proxy,id=f,socket=/a # over the helper\n      - \"-device\"\n      - \
                            'virtio-9p-pci,fsdev=f,mount_tag=t'\n";
const COMPOSE_STRING: &str = "services:\n  vm:\n    command: qemu-system-x86_64 -fsdev proxy,id=f,socket=/a -device \
                              virtio-9p-pci,fsdev=f,mount_tag=t\n";
const COMPOSE_FOLDED: &str = "services:\n  vm:\n    command: >-\n      qemu-system-x86_64\n      -fsdev \
                              proxy,id=f,socket=/a\n      -device virtio-9p-pci,fsdev=f,mount_tag=t\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: vm\n    env:\n    - name: SOCK\n      \
                   value: /run/a.sock\n    command: [qemu-system-x86_64]\n    args: [\"-virtfs\", \
                   \"proxy,id=f,mount_tag=t,socket=$(SOCK)\"]\n  - name: helper\n    command: \
                   [virtfs-proxy-helper, -n]\n    args: [-p, /srv, -s, /run/a.sock]\n";
const SHELL: &str = "- hosts: all\n  tasks:\n  - shell: |\n      #!/bin/sh\n      exec qemu-system-x86_64 \\\n        \
                     -virtfs proxy,id=f,mount_tag=t,socket=/a\n  - command:\n      argv:\n        - qemu\n        - \
                     -virtfs\n        - proxy,id=f,mount_tag=u,socket=/b\n";
const PACKER: &str = "{\n\t\"builders\": [{\n\t\t\"qemuargs\": [\n\t\t\t[\"-fsdev\", \"proxy,id=f,socket=\\/a\"],\n\t\t\t\
                      [\"-device\", \"virtio-9p-pci,fsdev=f,mount_tag=t\"]\n\t\t]\n\t}]\n}\n";

#[test]
fn shares_are_found_in_documents() {
    for (name, text, expected) in [
        ("/compose.yaml", COMPOSE_LIST, vec!["6: t /a"]),
        ("/compose.yml", COMPOSE_STRING, vec!["3: t /a"]),
        ("/compose", COMPOSE_FOLDED, vec!["5: t /a"]),
        ("/pod.yaml", POD, vec!["10: t /run/a.sock", "12: helper /srv"]),
        ("/play.yml", SHELL, vec!["11: u /b", "6: t /a"]),
        ("/packer.json", PACKER, vec!["4: t /a"]),
        (
            "/vars.yaml",
            "qemu_args:\n- -fsdev proxy,id=f,socket={{ sock }}\n- -device virtio-9p-pci,fsdev=f,mount_tag=t\n",
            vec!["2: t ? {{ sock }}"],
        ),
        (
            "/cm.yaml",
            "data:\n  run.sh: |\n    qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\n  vm.service: |\n    [Service]\n    \
             ExecStart=/usr/bin/qemu -virtfs proxy,id=f,mount_tag=u,socket=%t/b\n",
            vec!["3: t /a", "6: u /run/b"],
        ),
        (
            "/lxd.yaml",
            "devices:\n  p:\n    type: proxy\n    connect: tcp:1\ndescription: -virtfs proxy,socket=/a\n",
            vec![],
        ),
        (
            "/lists.yaml",
            "x: &fs [-fsdev, \"proxy,id=f,socket=/a\"]\ny: &dev\n- -device\n- virtio-9p-pci,fsdev=f,mount_tag=t\n\
             args: [qemu, *fs, *dev]\n",
            vec!["1: t /a"],
        ),
        (
            "/merged.yaml",
            "a: &a\n  command: [qemu, -fsdev, \"proxy,id=f,socket=/a\"]\nb:\n  <<: *a\n  args: [-device, \
             \"virtio-9p-pci,fsdev=f,mount_tag=t\"]\n",
            vec!["2: t /a"],
        ),
        (
            "/commented.json",
            "{ // the guest\n  \"args\": [\"-virtfs\", /* \" */ \"proxy,id=f,mount_tag=t,socket=/a\",]\n}\n",
            vec!["2: t /a"],
        ),
        (
            "/helm.yaml",
            "{{- if .Values.on }}\nname: {{ .Release.Name }}\nargs:\n- -virtfs\n- proxy,id=f,mount_tag=t,socket={{ .s \
             }}\n{{- end }}\n",
            vec!["5: t ? {{ .s }}"],
        ),
        ("/é.yaml", "# é\nx: [\"é\", -virtfs, \"proxy,id=f,mount_tag=t,socket=/é\"]\n", vec!["2: t /é"]),
    ] {
        assert_eq!(shown(name, text), expected, "{name}");
    }
}

#[test]
fn rewriting_touches_nothing_else() {
    let to = "path=/x,security_model=mapped-xattr";
    for text in [COMPOSE_LIST, COMPOSE_STRING, COMPOSE_FOLDED, PACKER] {
        let expected = text.replace("proxy,", "local,").replace("socket=/a", to).replace("socket=\\/a", to);
        assert_eq!(rewritten(text, "/x").unwrap(), expected);
        assert_eq!(rewritten(&expected, "/x").unwrap(), expected);
    }
    assert!(rewritten(COMPOSE_STRING, "/a\nb").is_err(), "a line break");
    let folded = "a: >\n  date é\n\n  qemu -virtfs\n  \"proxy,id=f,mount_tag=t,socket=/a\"\n    -m 1\n\n    -x\n  -y\n";
    assert_eq!(rewritten(folded, "/x").unwrap(), folded.replace("proxy,", "local,").replace("socket=/a", to));
    let anchors = "x: &a proxy,id=f,socket=/a\ny: &b |\n  qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\nz: [qemu, \
                   -fsdev, *a] # é\n";
    let new = rewritten(anchors, "/x").unwrap();
    assert_eq!(new, anchors.replace("proxy,", "local,").replace("socket=/a", to));
    let commented = "{ \"a\": [ // é\n\"-virtfs\", \"proxy,id=f,mount_tag=t,socket=/a\" ] }\n";
    let new = rewritten(commented, "/x").unwrap();
    assert_eq!(new, commented.replace("proxy,", "local,").replace("socket=/a", to));
    let new = rewritten(POD, "/x").unwrap();
    assert_eq!(new, POD.replace("\"proxy,", "\"local,").replace("socket=$(SOCK)", to));
    let xml = "xml: |\n  <domain type='kvm' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\n    <name>x</name>\n    \
               <q:commandline>\n      <q:arg value='-virtfs'/>\n      <q:arg \
               value='proxy,id=f,mount_tag=t,socket=/a'/>\n    </q:commandline>\n  </domain>\n";
    let new = rewritten(xml, "/x").unwrap();
    assert!(new.contains("\n    <devices>\n      <filesystem "), "{new}");
    assert!(crate::yaml::from_slice::<crate::yaml::Value>(new.as_bytes()).is_ok(), "{new}");
    let new = rewritten("a: ['-virtfs', 'proxy,id=f,mount_tag=t,socket=/a']\n", "/it's").unwrap();
    let model = "security_model=mapped-xattr";
    assert_eq!(new, format!("a: ['-virtfs', 'local,id=f,mount_tag=t,path=/it''s,{model}']\n"));
}

#[test]
fn what_is_no_yaml_is_unreadable() {
    for (text, line) in [("a: [proxy\n", None), ("a: b\n proxy: c: d\n", Some(2))] {
        let document = Document { path: Some(Path::new("/x.yaml")), bytes: text.as_bytes() };
        let error = Documents.read(&document).unwrap_err();
        if line.is_some() {
            assert_eq!(error.line, line, "{error}");
        }
    }
    let mut bomb = String::from("a0: &a0 [proxy]\n");
    for level in 1..30 {
        let before = format!("*a{},", level - 1).repeat(9);
        bomb.extend([&format!("a{level}: &a{level} ["), before.as_str(), "]\n"]);
    }
    let document = Document { path: Some(Path::new("/x.yaml")), bytes: bomb.as_bytes() };
    // One that went off would hold 9 to the power of 28 words: this line would never return.
    let shares = Documents.read(&document).map_or(0, |reading| reading.shares.len());
    assert!(shares < 2, "{shares} shares in an alias bomb");
}

#[test]
fn brackets_that_nest_without_end_are_unreadable() {
    let text = format!("a: proxy\nb: {}", "[".repeat(1_000_000));
    let document = Document { path: Some(Path::new("/x.yaml")), bytes: text.as_bytes() };
    assert_eq!(Documents.read(&document).unwrap_err().line, Some(2));
}
