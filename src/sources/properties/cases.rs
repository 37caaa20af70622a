//! Small files that were once read or rewritten wrongly, with other names, quotes, orders and line ends: the answer stays the same.

use std::path::Path;

use crate::share::rewrite::{Refusal, Rewrite};
use crate::share::{ExportPath, Share, Transport};
use crate::sources::format::Reading;
use crate::sources::registry::recognise_named;
use crate::sources::{Document, mention, proved};

/// Names for `T` (tag), `I` (id) and `S` (the socket's file).
const NAMES: &[(&str, &str, &str)] =
    &[("t", "i", "s"), ("data0", "fs-1", "my.vm"), ("a.b_c", "x_9", "proxy"), ("socket", "path", "local")];

/// What is read of a file, with an assertion that nothing of it is passed over.
fn read(name: &str, text: &str) -> Reading {
    let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
    let reading = recognise_named(&document).unwrap().read(&document).unwrap();
    let lines: Vec<_> = reading.shares.iter().map(|share| share.place.line).collect();
    assert_eq!(mention::first_unread(text.as_bytes(), &lines), None, "{name}: {text}");
    reading
}

/// The share of a document that has to have exactly one.
fn only_share(name: &str, text: &str) -> Share {
    let shares = read(name, text).shares;
    let [share] = shares.as_slice() else { panic!("{name}: {} shares: {text}", shares.len()) };
    share.clone()
}

/// The file with its shares over local, exporting /srv/n.
fn rewritten(name: &str, text: &str, id: &str, readonly: Option<bool>) -> Result<String, Refusal> {
    let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
    let format = recognise_named(&document).unwrap();
    let shares = format.read(&document).unwrap().shares;
    let how = Rewrite {
        exports: vec![(id.as_bytes().to_vec(), "/srv/n".into())],
        readonly: readonly.map(|readonly| (id.as_bytes().to_vec(), readonly)).into_iter().collect(),
        in_place_args: true,
        ..Rewrite::default()
    };
    let rewritten = proved::rewrite(format, &document, &shares, &how, None, &|_| Vec::new())?;
    Ok(String::from_utf8(rewritten.text).unwrap())
}

/// Each variation of a template: `T`, `I` and `S` between `@`s are names, `"` is a quote of these; with both line ends.
fn variations(template: &str, quotes: &[&str]) -> Vec<(String, (&'static str, &'static str, &'static str))> {
    let mut all = Vec::new();
    for names @ (tag, id, socket) in NAMES.iter().copied() {
        for quote in quotes {
            let text = template.replace('"', quote);
            let text = text.replace("@T@", tag).replace("@I@", id).replace("@S@", socket);
            all.push((text.replace('\n', "\r\n"), names));
            all.push((text, names));
        }
    }
    all
}

const BOTH: &[&str] = &["\"", "'"];

/// A template's expression is refused or goes as a whole.
#[test]
fn an_expression_of_a_template_is_never_cut() {
    let share = "-fsdev proxy,id=@I@,socket=EXPR -device virtio-9p-pci,fsdev=@I@,mount_tag=@T@";
    let first = "-device virtio-9p-pci,mount_tag=@T@,fsdev=@I@ -fsdev proxy,socket=EXPR,id=@I@";
    let jinja = [
        "{{ sock }}",
        "{{sock}}",
        "{{ vm['a b'] | default(x) }}",
        "{{- a.b -}}",
        "/run/{{ a }}/{{ b }}.sock",
    ];
    let erb = ["<%= @sock %>", "<%= a['b c'] -%>", "/run/<%= x %>.sock"];
    let hcl = ["${join('/', [a, b])}", "${var.sock}", "/run/${a}-${b}.sock"];
    for (name, frame, quotes, expressions) in [
        ("/a.yml", "a: \"ARGS\"\n", BOTH, &jinja[..]),
        ("/a.yml", "a:\n  - b: >-\n      qemu ARGS\n", &["\""][..], &jinja),
        ("/a.json", "{\"a\": \"ARGS\"}\n", &["\""], &jinja[..2]),
        ("/a.service", "[Service]\nExecStart=/usr/bin/qemu ARGS\n", &["\""], &jinja),
        ("/a.service.j2", "[Service]\nExecStart=/usr/bin/qemu \"ARGS\"\n", BOTH, &jinja[..2]),
        ("/vm.j2", "X=\"ARGS\"\n", &["\""], &jinja),
        ("/a.sh.erb", "qemu ARGS\n", &["\""], &erb),
        ("/a.sh.erb", "X=\"ARGS\"\n", BOTH, &erb[..1]),
        ("/a.tf", "a = \"ARGS\"\n", &["\""], &hcl),
    ] {
        for (args, expression) in
            [share, first].iter().flat_map(|args| expressions.iter().map(move |it| (args, it)))
        {
            for (text, (tag, id, _)) in variations(&frame.replace("ARGS", args), quotes) {
                let text = text.replace("EXPR", expression);
                let share = only_share(name, &text);
                assert!(matches!(share.transport, Transport::Unknown(_)), "{name}: {text}");
                assert_eq!(
                    (share.fsdev.as_slice(), share.mount_tag.as_deref()),
                    (id.as_bytes(), Some(tag.as_bytes())),
                    "{text}"
                );
                let expected = text.replacen("-fsdev proxy", "-fsdev local", 1).replacen(
                    &format!("socket={expression}"),
                    "path=/srv/n,security_model=mapped-xattr",
                    1,
                );
                if let Ok(new) = rewritten(name, &text, id, Some(false)) {
                    assert_eq!(new, expected, "{name}");
                }
            }
        }
    }
}

/// The directory of a share is its own variant's.
#[test]
fn a_variant_has_its_own_directory() {
    let proxy = ["9p_fs_driver = \"proxy\"", "9p_export_dir = \"/srv/@T@\"", "9p_socket_name = \"/run/@S@\""];
    let local = "    - other:\n        9p_fs_driver = local\n        9p_export_dir = /srv/wrong\n";
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let own = order.map(|at| format!("        {}\n", proxy[at])).concat();
        let own = format!("    - @I@:\n{own}");
        for frame in [format!("variants:\n{own}{local}"), format!("variants:\n{local}{own}")] {
            for (text, (tag, _, socket)) in variations(&frame, &["", "\"", "'"]) {
                let share = only_share("/tests.cfg", &text);
                assert_eq!(share.transport, Transport::Socket(format!("/run/{socket}").into()), "{text}");
                let path = format!("/srv/{tag}");
                let is_own = matches!(&share.export, ExportPath::Known { path: known, .. } if *known == Path::new(&path));
                assert!(is_own, "{:?}: {text}", share.export);
            }
        }
    }
}

/// A tag that a program makes is not known, and the share is found all the same.
#[test]
fn a_tag_that_is_made_is_not_known() {
    for made in [
        "mount_tag=%s\" % tag",
        "mount_tag=\" + tag",
        "mount_tag={}\".format(tag)",
        "mount_tag=%(tag)s\" % x",
    ] {
        let text = format!(
            "args += [\"-fsdev\", \"proxy,id=@I@,socket=/run/@S@\"]\nargs += [\"-device\", \"virtio-9p-pci,fsdev=@I@,{made}]\n"
        );
        for (text, (_, id, socket)) in variations(&text, BOTH) {
            let share = only_share("/vm.py", &text);
            assert_eq!(share.fsdev, id.as_bytes(), "{text}");
            assert_eq!(share.mount_tag, None, "{text}");
            assert!(share.device.is_some(), "the device is there: {text}");
            assert_eq!(share.transport, Transport::Socket(format!("/run/{socket}").into()), "{text}");
        }
    }
}

/// A variable in the socket's place may hold `,readonly=on`: without an answer, it is kept or refused.
#[test]
fn what_a_variable_may_hold_is_not_lost() {
    for template in [
        "#!/bin/sh\n: ${SOCK:=/run/@S@}\nqemu-system-x86_64 -virtfs proxy,id=@I@,socket=$SOCK,mount_tag=@T@\n",
        "#!/bin/sh\nqemu-system-x86_64 -virtfs \"proxy,socket=${SOCK},id=@I@,mount_tag=@T@\"\n",
        "#!/bin/sh\nqm set 100 --args \"-fsdev proxy,id=@I@,socket=$SOCK -device virtio-9p-pci,fsdev=@I@,mount_tag=@T@\"\n",
        "#!/bin/sh\nset -- -virtfs proxy,mount_tag=@T@,id=@I@,socket=\"$SOCK\"\nexec qemu \"$@\"\n",
        "#!/bin/bash\na=(-virtfs \"proxy,id=@I@,mount_tag=@T@,socket=$SOCK\")\nqemu \"${a[@]}\"\n",
    ] {
        for (text, (tag, id, _)) in variations(template, &["\""]) {
            let share = only_share("/vm.sh", &text);
            assert_eq!(
                (share.fsdev.as_slice(), share.mount_tag.as_deref()),
                (id.as_bytes(), Some(tag.as_bytes())),
                "{text}"
            );
            let is_default = text.contains(":=");
            let known = matches!(share.transport, Transport::Socket(_));
            assert!(matches!(share.transport, Transport::Unknown(_)) || known && is_default, "{text}");
            let with_answer = rewritten("/vm.sh", &text, id, Some(true));
            if let Ok(new) = with_answer {
                assert!(new.contains("readonly=on") && !new.contains("proxy,"), "{new}");
            }
        }
    }
}

/// A hook's list of arguments in a program: what a variable holds is no directory of the name of the next option.
#[test]
fn a_directory_in_a_variable_is_not_known() {
    for (name, template) in [
        (
            "/hook.pl",
            "system(\"/usr/lib/kvm/virtfs-proxy-helper\", \"-p\", $export{$id}, \"-s\", \"/run/@S@\", \"-u\", \"0\");\n",
        ),
        ("/hook.pl", "system(\"virtfs-proxy-helper\", \"-s\", \"/run/@S@\", \"-p\", $dir->{x}, \"-n\");\n"),
        ("/hook.py", "call([\"virtfs-proxy-helper\", \"-p\", share.path, \"-s\", \"/run/@S@\"])\n"),
        ("/hook.rb", "system(\"virtfs-proxy-helper\", \"-p\", dir, \"-s\", \"/run/@S@\")\n"),
        ("/hook.sh", "#!/bin/sh\nvirtfs-proxy-helper -p \"$DIR\" -s \"/run/@S@\"\n"),
    ] {
        for (text, (_, _, socket)) in variations(template, if name == "/hook.sh" { &["\""] } else { BOTH }) {
            let reading = read(name, &text);
            let [helper] = reading.helpers.as_slice() else {
                panic!("{} helpers: {text}", reading.helpers.len())
            };
            assert_eq!(helper.export, None, "{text}");
            assert_eq!(helper.socket.as_deref(), Some(Path::new(&format!("/run/{socket}"))), "{text}");
        }
    }
}

/// A synopsis is no share.
#[test]
fn a_synopsis_is_no_share() {
    for synopsis in [
        "-virtfs proxy,mount_tag=TAG,socket=SOCKET[,id=ID][,readonly=on]",
        "-fsdev proxy,id=id,socket=socket[,writeout=immediate][,readonly=on]",
        "-virtfs proxy,socket=<path>,mount_tag=<tag>",
    ] {
        for (name, template) in [
            ("/usage.py", "HELP = \"SYNOPSIS\"\n"),
            ("/usage.py", "\"\"\"\nSYNOPSIS\n\"\"\"\n"),
            ("/options.hx", "    \"SYNOPSIS\\n\"\n"),
            ("/vm.sh", "#!/bin/sh\n# SYNOPSIS\necho \"usage: SYNOPSIS\"\n"),
        ] {
            let quotes = if template.contains("\"\"\"") || name != "/usage.py" { &["\""][..] } else { BOTH };
            for (text, _) in variations(&template.replace("SYNOPSIS", synopsis), quotes) {
                let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
                let shares = recognise_named(&document).map(|format| format.read(&document).unwrap().shares);
                assert_eq!(shares.unwrap_or_default(), [], "{text}");
                assert_eq!(mention::first_unread(text.as_bytes(), &[]), None, "{text}");
            }
        }
    }
}

/// A string may go over several lines, and may be taken apart by its blanks.
#[test]
fn a_string_over_lines_is_read() {
    for (name, template, quotes) in [
        (
            "/vm.rb",
            "x = \"-fsdev proxy,id=@I@,socket=/run/@S@\n     -device virtio-9p-pci,fsdev=@I@,mount_tag=@T@\".split\n",
            BOTH,
        ),
        (
            "/vm.rb",
            "x = %w(-fsdev proxy,id=@I@,socket=/run/@S@\n  -device virtio-9p-pci,fsdev=@I@,mount_tag=@T@)\n",
            &["\""][..],
        ),
        ("/vm.nix", "{ y = \"-virtfs proxy,id=@I@,socket=/run/@S@,mount_tag=@T@\"; }\n", &["''", "\""]),
        (
            "/vm.nix",
            "{ y = ''\n  -fsdev proxy,id=@I@,socket=/run/@S@\n  -device virtio-9p-pci,fsdev=@I@,mount_tag=@T@\n''; }\n",
            &["\""],
        ),
        (
            "/run.mk",
            "run:\n\tqemu -fsdev proxy,id=@I@,socket=/run/@S@ -device virtio-9p-pci,fsdev=@I@,mount_tag=@T@\n",
            &["\""],
        ),
        (
            "/vm.go",
            "package a\nvar x = `-fsdev proxy,id=@I@,socket=/run/@S@\n-device virtio-9p-pci,fsdev=@I@,mount_tag=@T@`\n",
            &["\""],
        ),
    ] {
        for (text, (tag, id, socket)) in variations(template, quotes) {
            let share = only_share(name, &text);
            assert_eq!(
                (share.fsdev.as_slice(), share.mount_tag.as_deref()),
                (id.as_bytes(), Some(tag.as_bytes())),
                "{text}"
            );
            assert_eq!(share.transport, Transport::Socket(format!("/run/{socket}").into()), "{text}");
            let expected = text.replacen("proxy,", "local,", 1).replacen(
                &format!("socket=/run/{socket}"),
                "path=/srv/n,security_model=mapped-xattr",
                1,
            );
            assert_eq!(
                rewritten(name, &text, id, None).map_err(|refusal| refusal.message),
                Ok(expected),
                "{name}"
            );
        }
    }
}

/// A listing of processes is read, and not rewritten.
#[test]
fn a_listing_is_not_rewritten() {
    let header = "USER PID COMMAND\n";
    let helper = "root 812 /usr/lib/qemu/virtfs-proxy-helper -n -p /srv/@T@ -s /run/@S@ -u 0 -g 0\n";
    let qemu = "root 930 /usr/bin/qemu-system-x86_64 -fsdev proxy,id=@I@,socket=/run/@S@ -device virtio-9p-pci,fsdev=@I@,mount_tag=@T@\n";
    for (name, lines) in [("/ps_auxwww", [header, helper, qemu]), ("/ps.txt", [header, qemu, helper])] {
        for (text, (tag, id, _)) in variations(&lines.concat(), &["\""]) {
            let reading = read(name, &text);
            assert_eq!((reading.shares.len(), reading.helpers.len()), (1, 1), "{text}");
            assert_eq!(
                reading.helpers[0].export.as_deref(),
                Some(Path::new(&format!("/srv/{tag}"))),
                "{text}"
            );
            assert!(rewritten(name, &text, id, None).is_err(), "{text}");
        }
    }
}

/// A document without a word of ours is not looked at, whatever else is wrong with it.
#[test]
fn a_document_type_is_no_reason_to_be_unread() {
    for root in ["catalog", "refentry", "book"] {
        for text in [
            format!(
                "<?xml version=\"1.0\"?>\n<!DOCTYPE {root} PUBLIC \"-//X//DTD\" \"http://x/x.dtd\">\n<{root} xmlns='urn:x'/>\n"
            ),
            format!("<!DOCTYPE {root} [<!ENTITY a \"b\">]>\n<{root}>&a;</{root}>\n"),
            format!("<!DOCTYPE {root} SYSTEM 'a'>\r\n<{root}>\r\n"),
        ] {
            assert!(!mention::can_hold(text.as_bytes()), "{text}");
        }
    }
}
