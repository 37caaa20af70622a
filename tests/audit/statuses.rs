//! Exit statuses and documents, the same in every format.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::program::ours;
use crate::run::{audit, domain, plain, write};

const SCRIPT: &str = "qemu -name web -virtfs proxy,id=f,mount_tag=t,socket=/run/a.sock,readonly=on\n";

#[test]
fn the_status_is_the_same_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("found/a.sh"), SCRIPT);
    write(&dir.path().join("found/b.xml"), "<domain>-fsdev proxy");
    write(&dir.path().join("broken/b.xml"), "<domain>-fsdev proxy");
    write(&dir.path().join("clean/c.xml"), "<domain/>");
    for (name, status) in [("clean", 0), ("found", 3), ("broken", 4)] {
        for format in ["text", "json", "yaml"] {
            let folder = dir.path().join(name);
            let folder = folder.to_str().unwrap();
            let run = |more: &[&str]| plain([&["--format", format, folder][..], more].concat()).status.code();
            assert_eq!(run(&[]), Some(status), "{name} {format}");
            assert_eq!(run(&["--exit-zero"]), Some(0), "{name} {format}");
        }
    }
}

/// An empty file that is named is no clean one: the command that should have written it failed. In a folder, it is nothing.
#[test]
fn empty_input_is_unread() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["", "\n \n"] {
        let file = dir.path().join("vm.xml");
        write(&file, text);
        let found = audit([file.to_str().unwrap()]);
        assert_eq!(found.status, 4, "{:#}", found.document);
        assert!(found.document["unread"][0]["reason"].as_str().unwrap().starts_with("it is empty"));
        assert_eq!(audit([dir.path().to_str().unwrap()]).status, 0);
    }
    let output = Command::new(ours()).args(["migrate", "audit", "-"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
}

/// Text in UTF-16 or UTF-32 is unread if it names a share, however long it is, and clean if it does not.
#[test]
fn text_in_wide_characters_is_unread() {
    let wide = |text: &str, width: usize, big: bool| -> Vec<u8> {
        let units = text.chars().map(|c| u32::from(c).to_le_bytes());
        let order = |unit: [u8; 4]| -> Vec<u8> {
            let mut unit = unit[..width].to_vec();
            if big {
                unit.reverse();
            }
            unit
        };
        units.flat_map(order).collect()
    };
    let script = format!("#!/bin/sh\n{SCRIPT}");
    let long = format!("{}{script}", "# a comment\n".repeat(20_000));
    for (text, status) in [(script.as_str(), 4), (&long, 4), ("#!/bin/sh\nqemu -fsdev local,id=f\n", 0)] {
        for (mark, width, big) in
            [("\u{feff}", 2, false), ("\u{feff}", 2, true), ("", 2, false), ("\u{feff}", 4, false)]
        {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("vm.sh");
            fs::write(&file, wide(&format!("{mark}{text}"), width, big)).unwrap();
            for named in [&file, dir.path()] {
                let found = audit([named.to_str().unwrap()]);
                assert_eq!(found.status, status, "{width} {big}: {:#}", found.document);
            }
        }
    }
}

#[test]
fn wrong_usage_and_failures_have_their_own() {
    assert_eq!(plain(["--qemu", "new"]).status.code(), Some(2));
    assert_eq!(plain(["--format", "xml"]).status.code(), Some(2));
    assert_eq!(plain(["--root", "/no/such/folder"]).status.code(), Some(1));
}

#[test]
fn json_and_yaml_say_the_same_and_fit_the_schema() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.sh"), SCRIPT);
    write(&dir.path().join("b.xml"), "<domain>-fsdev proxy");
    let folder = dir.path().to_str().unwrap();
    let json: Value = serde_json::from_slice(&plain(["--format=json", folder]).stdout).unwrap();
    let mut yaml: Value = serde_yaml::from_slice(&plain(["--format=yaml", folder]).stdout).unwrap();
    // Two runs, of which the second may be in another second.
    assert!(yaml["time"].is_string(), "{yaml:#}");
    yaml["time"] = json["time"].clone();
    assert_eq!(json, yaml);
    let schema: Value = serde_json::from_slice(&plain(["--schema"]).stdout).unwrap();
    let named: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
    let present: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(named, present);
    let share = schema["$defs"]["ShareRow"]["properties"].as_object().unwrap();
    assert_eq!(
        share.keys().collect::<Vec<_>>(),
        json["shares"][0].as_object().unwrap().keys().collect::<Vec<_>>()
    );
}

#[test]
fn a_share_is_described_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.sh");
    write(&file, SCRIPT);
    let audit = audit([file.to_str().unwrap(), "--qemu=9.2"]);
    let share = audit.share("t");
    for (field, value) in [
        ("file", Value::from(file.to_str().unwrap())),
        ("line", Value::from(1)),
        ("kind", Value::from("shell")),
        ("guest", Value::from("web")),
        ("fsdev", Value::from("f")),
        ("socket", Value::from("/run/a.sock")),
        ("sock_fd", Value::Null),
        ("readonly", Value::from(true)),
        ("writeout", Value::from(false)),
        ("export", Value::Null),
        ("resolved", Value::from(false)),
        ("rewritable", Value::from(true)),
    ] {
        assert_eq!(share[field], value, "{field}");
    }
    assert_eq!(share["notes"], serde_json::json!(["export-unknown"]));
    assert_eq!(
        (audit.document["schema"].clone(), audit.document["target_qemu"].clone()),
        (1.into(), "9.2".into())
    );
}

#[test]
fn the_target_decides_how_much_it_matters() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.sh"), SCRIPT);
    for (version, severity) in [("8.0", "info"), ("8.1", "warning"), ("9.1.2", "warning"), ("9.2", "error")] {
        let audit = audit(["--qemu", version, dir.path().to_str().unwrap()]);
        let finding = audit.list("findings").iter().find(|finding| finding["id"] == "proxy-share").unwrap();
        assert_eq!(finding["severity"], severity, "{version}");
        assert_eq!(audit.status, 3, "{version}");
    }
}

#[test]
fn every_format_is_read_from_standard_input() {
    for (kind, text) in [
        ("libvirt", domain("web", "t", "/a")),
        ("shell", format!("#!/bin/sh\n{SCRIPT}")),
        ("systemd", format!("[Service]\nExecStart=/usr/bin/{SCRIPT}")),
        ("proxmox", "args: -virtfs proxy,id=f,mount_tag=t,socket=/a\nname: web\nmemory: 512\n".to_owned()),
        ("readconfig", "[fsdev \"f\"]\n  fsdriver = \"proxy\"\n  socket = \"/a\"\n[device \"d\"]\n  driver = \"virtio-9p-pci\"\n  fsdev = \"f\"\n  mount_tag = \"t\"\n".to_owned()),
        ("yaml", "services:\n  vm:\n    command: [qemu, -virtfs, \"proxy,id=f,mount_tag=t,socket=/a\"]\n".to_owned()),
        ("yaml", "{\"args\": [\"-virtfs\", \"proxy,id=f,mount_tag=t,socket=/a\"]}\n".to_owned()),
    ] {
        let mut child = Command::new(ours())
            .args(["migrate", "audit", "--format=json", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["shares"][0]["kind"], kind, "{text}: {document:#}");
        assert_eq!(document["shares"][0]["mount_tag"], "t", "{text}");
        assert_eq!(document["shares"][0]["file"], Value::Null);
    }
}

#[test]
fn names_reach_no_terminal_raw() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a\x1b[2J\n.sh"), SCRIPT);
    for format in ["text", "json", "yaml"] {
        let output = plain(["--format", format, dir.path().to_str().unwrap()]);
        assert!(!output.stdout.contains(&0x1b), "{format}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(r"x1b[2J"), "{format}");
    }
}

#[test]
fn prose_logs_and_other_proxies_are_no_setups() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("README.md", SCRIPT),
        ("notes.txt", SCRIPT),
        ("vm.log", SCRIPT),
        (".bash_history", SCRIPT),
        ("nginx.conf", "proxy_pass http://x;\n"),
        ("ssh_config", "ProxyCommand nc -X connect %h %p\n"),
        ("build.sh", "./configure --enable-virtfs --enable-virtfs-proxy-helper\n"),
        ("dev.sh", "qemu-system-x86_64 -accel devproxy -m 1G\n"),
        ("v86.sh", "v86-system -virtfs proxy,ws://localhost\n"),
        ("lxd.yaml", "devices:\n  web:\n    type: proxy\n    listen: tcp:0.0.0.0:80\n"),
        ("check.sh", "pgrep -f virtfs-proxy-helper || systemctl start virtfs-proxy-helper\n"),
        ("comment.sh", "# qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\necho hi\n"),
    ] {
        write(&dir.path().join(name), text);
    }
    let audit = audit([dir.path()]);
    assert_eq!(audit.list("shares").len() + audit.list("helpers").len(), 0, "{:#}", audit.document);
    assert_eq!(audit.status, 0);
}

#[test]
fn a_named_file_is_never_passed_over_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("#!/bin/sh\n{SCRIPT}");
    write(&dir.path().join("start-vm.sh"), &script);
    write(&dir.path().join("web.xml"), domain("web", "t", "/run/a.sock"));
    write(&dir.path().join("clean.sh"), "#!/bin/sh\necho hello\n");
    write(
        &dir.path().join("binary"),
        [b"\x7fELF\0\0\x01 -fsdev proxy,id=f,socket=/a", &[0; 100][..]].concat(),
    );
    write(&dir.path().join("other"), [&b"\x7fELF\0\0\x01 hello"[..], &[0; 100]].concat());
    let shell = |command: &str| {
        let status = Command::new("sh").arg("-c").arg(command).current_dir(dir.path()).status().unwrap();
        assert!(status.success(), "{command}");
    };
    shell("gzip -k start-vm.sh clean.sh && xz -k start-vm.sh && zstd -q start-vm.sh");
    shell(
        "gzip -c web.xml >web.xml.gz && tar cf web.tar web.xml && tar czf web.tgz web.xml && tar cf clean.tar clean.sh",
    );
    shell("head -c 60 start-vm.sh.gz >cut.gz && head -c 20000000 /dev/zero >long && cat web.xml >>long");
    shell(
        "printf 'BZh91AY' >a.bz2 && head -c 20000000 /dev/zero | gzip >long.gz && head -c 20000000 /dev/zero >zeros",
    );
    for (name, status, shares) in [
        ("start-vm.sh.gz", 3, 1),
        ("start-vm.sh.xz", 4, 0),
        ("start-vm.sh.zst", 4, 0),
        ("web.xml.gz", 3, 1),
        ("clean.sh.gz", 0, 0),
        ("web.tar", 4, 0),
        ("web.tgz", 4, 0),
        ("clean.tar", 0, 0),
        ("binary", 4, 0),
        ("other", 0, 0),
        ("cut.gz", 4, 0),
        ("a.bz2", 4, 0),
        ("long", 4, 0),
        ("long.gz", 4, 0),
        ("zeros", 0, 0),
    ] {
        let file = dir.path().join(name);
        let found = audit([&file]);
        assert_eq!(found.status, status, "{name}: {:#}", found.document);
        assert_eq!(found.list("shares").len(), shares, "{name}");
        assert!(found.list("shares").iter().all(|share| share["file"] == file.to_str().unwrap()), "{name}");
        if name == "long" || name == "zeros" {
            continue;
        }
        let input = std::fs::File::open(&file).unwrap();
        let piped = Command::new(ours()).args(["migrate", "audit", "-"]).stdin(input).output().unwrap();
        assert_eq!(piped.status.code(), Some(status), "{name} on standard input");
    }
    // In a folder they are passed over.
    let folder = tempfile::tempdir().unwrap();
    for name in ["start-vm.sh.gz", "web.tar", "binary"] {
        std::fs::copy(dir.path().join(name), folder.path().join(name)).unwrap();
    }
    assert_eq!(audit([folder.path()]).status, 0);
}

#[test]
fn what_can_hold_no_share_is_not_unread() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "catalog.xml",
            "<?xml version=\"1.0\"?>\n<!DOCTYPE catalog PUBLIC \"-//OASIS//DTD XML Catalogs V1.0//EN\" \"catalog.dtd\">\n<catalog/>\n",
        ),
        (
            "manual.xml",
            "<!DOCTYPE refentry [<!ENTITY % e SYSTEM \"e.ent\"> %e;]>\n<refentry>&version;&#8212;</refentry>\n",
        ),
        ("page.xml", "<!DOCTYPE html [<!ENTITY e \"x\">]>\n<p>your domain, by a http-proxy</p>\n"),
        ("broken.yaml", "a: [b\n{ proxy: {{ x }}\n"),
        ("broken.json", "{\"http_proxy\": \n"),
        ("broken.xml", "<domain>\n"),
        ("quote.sh", "#!/bin/sh\nexport http_proxy=\"http://\n"),
        ("latin.xml", "<a>proxy</b>\n"),
    ] {
        write(&dir.path().join(name), text);
    }
    let whole = audit([dir.path()]);
    assert_eq!(whole.status, 0, "{:#}", whole.document);
    // An escape that could spell the word is looked at, or told.
    for (name, text, status) in [
        ("a.yaml", "args: [-virtfs, \"\\u0070roxy,id=f,mount_tag=t,socket=/a\"]\n", 3),
        ("a.json", "{\"args\": [\"-virtfs\", \"pro\\u0078y,id=f,mount_tag=t,socket=/a\"]}\n", 3),
        ("a.sh", "#!/bin/sh\nqemu -virtfs $'\\x70roxy,id=f,mount_tag=t,socket=/a'\n", 3),
        ("a.py", "run(['-virtfs', '\\x70roxy,id=f,mount_tag=t,socket=/a'])\n", 3),
        ("a.xml", &domain("web", "t", "/a").replace("proxy", "pro&#120;y"), 3),
        ("b.xml", "<!DOCTYPE domain [<!ENTITY p \"proxy\">]>\n<domain>-fsdev &p;</domain>\n", 4),
        ("a.cgi", "run -virtfs %70roxy,id=f,mount_tag=t,socket=/a\n", 4),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join(name), text);
        let found = audit([folder.path()]);
        assert_eq!(found.status, status, "{name}: {:#}", found.document);
    }
}

#[test]
fn documents_in_one_file_are_read_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.xml");
    let one =
        |name: &str| format!("<?xml version='1.0'?>\n{}\n", domain(name, name, &format!("/run/{name}")));
    write(&file, ["web", "db", "mail"].map(one).concat());
    let found = audit([&file]);
    assert_eq!(found.list("shares").len(), 3, "{:#}", found.document);
    for (name, line) in [("web", 6), ("db", 17), ("mail", 28)] {
        assert_eq!(found.share(name)["guest"], name);
        assert_eq!(found.share(name)["line"], line, "{name}");
        assert_eq!(found.share(name)["rewritable"], true, "{name}");
    }
    // A clean domain before one that has a share hides nothing.
    write(&file, ["<domain/>\n".to_owned(), one("web")].concat());
    assert_eq!(audit([&file]).list("shares").len(), 1);
}

#[test]
fn a_share_in_an_unknown_form_is_unread_and_a_synopsis_is_not() {
    for (name, text, status) in [
        ("vm.tcl", "set args {-virtfs proxy,id=f,mount_tag=t,socket=/a}\n", Some(4)),
        ("vm.kts", "val a = \"proxy,id=f,socket=/a\"\n", Some(4)),
        ("vm.go", "var s = \"proxy,id=f,socket=/a\"\n", Some(4)),
        ("usage.py", "print('-fsdev proxy,id=ID[,readonly=on],socket=SOCKET')\n", None),
        ("comment.go", "// -virtfs proxy,id=f,socket=/a\npackage main\n", Some(0)),
        ("comment.nix", "# -virtfs proxy,id=f,socket=/a\n{ }\n", Some(0)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join(name), text);
        let found = audit([folder.path()]);
        match status {
            Some(status) => assert_eq!(found.status, status, "{name}: {:#}", found.document),
            None => assert!(found.list("unread").is_empty(), "{name}: {:#}", found.document),
        }
    }
}

/// A share that is read hides no other one of its file.
#[test]
fn a_share_in_an_unknown_form_beside_one_that_is_read_is_unread() {
    let read = "qemu -virtfs proxy,id=f,mount_tag=t,socket=/run/a.sock\n";
    for (name, text, line) in [
        ("a.sh", format!("{read}cat <<EOF >x\n[vm]\nopts: proxy,id=g,socket=/b\nEOF\n"), 4),
        ("a.sh", "virtfs-proxy-helper -p /a -s /a.sock\nx: proxy,id=g,socket=/b\n".to_owned(), 2),
        (
            "a.py",
            "a = [\"qemu\", \"-fsdev\", \"proxy,id=f,socket=/a\"]\nb = f(\"proxy,id=g,socket=/b\")\n"
                .to_owned(),
            2,
        ),
        (
            "a.yaml",
            "a: [qemu, -fsdev, \"proxy,id=f,socket=/a\"]\nb: {opts: \"proxy,id=g,socket=/b\"}\n".to_owned(),
            2,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(name), &text);
        let found = audit([dir.path()]);
        let reason = format!(
            "{name}: line {line}: it names a proxy share in a form that is not known: look at it yourself"
        );
        assert_eq!(found.unread(dir.path()), [reason], "{text}: {:#}", found.document);
        assert_eq!(found.status, 3, "{text}");
    }
    // Every share is read: in one command of several lines, twice on a line, by a variable.
    for text in [
        "qemu \\\n  -fsdev proxy,id=f,socket=/a \\\n  -fsdev proxy,id=g,socket=/b\n",
        "qemu -fsdev proxy,id=f,socket=/a -fsdev proxy,id=g,socket=/b\n",
        "o=proxy,id=f,socket=/a\nqemu -fsdev $o\n",
        "o=proxy,id=f,socket=/a\nif x; then o=proxy,id=g,socket=/b; fi\nqemu -fsdev $o\n",
    ] {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("a.sh"), text);
        let found = audit([dir.path()]);
        assert_eq!(found.unread(dir.path()), [""; 0], "{text}: {:#}", found.document);
        assert_eq!(found.status, 3, "{text}");
    }
}
