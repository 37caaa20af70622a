//! What the target and the installed QEMU mean for a share once it is local.

use std::path::Path;

use serde_json::Value;

use crate::run::{Audit, audit, domain, plain, write};

const SCRIPT: &str = "qemu -virtfs proxy,id=f,mount_tag=t,socket=/run/a.sock\n";

/// The findings about QEMU's versions: id, severity, and the row's name.
fn advice(audit: &Audit) -> Vec<(String, String, String)> {
    let rows = audit.list("findings").iter().filter(|row| {
        matches!(row["id"].as_str(), Some("qemu-vulnerability" | "qemu-fault" | "qemu-difference"))
    });
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rows.map(|row| {
        let message = text(&row["message"]);
        let name = message.split(": ").nth(1).unwrap().to_owned();
        (text(&row["id"]), text(&row["severity"]), name)
    })
    .collect()
}

fn names(audit: &Audit) -> Vec<String> {
    advice(audit).into_iter().map(|(_, _, name)| name).collect()
}

fn judged(folder: &Path, version: &str) -> Audit {
    audit(["--qemu", version, folder.to_str().unwrap()])
}

#[test]
fn the_target_is_judged_by_the_table() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.sh"), SCRIPT);
    let unlinked = ["ftruncate of an unlinked file", "fchmod of an unlinked file"];
    let table: &[(&str, &[&str])] = &[
        (
            "10.0.10",
            &[
                "CVE-2026-93834",
                "CVE-2026-63318",
                "CVE-2026-9238",
                "CVE-2026-8348",
                "CVE-2026-48004",
                "multidevs",
            ],
        ),
        ("10.0.13", &["CVE-2026-93834", "multidevs", "max_xattr"]),
        ("11.1.1", &["CVE-2026-93834", "multidevs", "max_xattr"]),
        ("11.1.2", &["multidevs", "max_xattr"]),
        ("11.1.3", &["O_RDONLY|O_TRUNC", "multidevs", "max_xattr"]),
    ];
    for (version, expected) in table {
        let unlinked = if version.starts_with("10.0") { &unlinked[..] } else { &unlinked[1..] };
        assert_eq!(names(&judged(dir.path(), version)), [*expected, unlinked].concat(), "{version}");
    }
    let found = judged(dir.path(), "10.0.13");
    let row = found.list("findings").iter().find(|row| row["id"] == "qemu-vulnerability").unwrap();
    assert_eq!(
        row["message"],
        "QEMU 10.0.13 (the target): CVE-2026-93834: a guest can leave the share and use the host's files as QEMU's user \
         (CVSS 8.8): not fixed upstream in this version; see your distribution"
    );
    let found = judged(dir.path(), "11.1");
    let messages: Vec<_> =
        found.list("findings").iter().map(|row| row["message"].as_str().unwrap()).collect();
    for part in [
        "QEMU 11.1 (the target; unless it is 11.1.2 or newer): CVE-2026-93834",
        "if it is 11.1.3 or newer): O_RDONLY",
    ] {
        assert!(messages.iter().any(|message| message.contains(part)), "{part}: {messages:#?}");
    }
    write(&dir.path().join("a.sh"), "qemu -hda a\n");
    assert_eq!(names(&judged(dir.path(), "10.0.10")), [""; 0], "there is no share");
}

#[test]
fn the_installed_qemu_is_judged_beside_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("usr/local/bin/vm"), format!("#!/bin/sh\n{SCRIPT}"));
    write(&root.join("usr/bin/qemu-system-x86_64"), "\x7fELF\0QEMU emulator version 10.0.11%s\0sock_fd\0");
    let found = audit(["--root", root.to_str().unwrap(), "--qemu", "11.1.1"]);
    let row = |name: &str| {
        let rows = found.list("findings");
        rows.iter()
            .find(|row| row["message"].as_str().unwrap().contains(name))
            .unwrap_or(&Value::Null)
            .clone()
    };
    let both = row("CVE-2026-93834");
    assert!(
        both["message"]
            .as_str()
            .unwrap()
            .starts_with("QEMU 10.0.11 (installed) and QEMU 11.1.1 (the target): "),
        "{both}"
    );
    assert_eq!(
        (&both["file"], &both["severity"]),
        (&"/usr/bin/qemu-system-x86_64".into(), &"warning".into())
    );
    let installed = row("CVE-2026-8348");
    assert!(installed["message"].as_str().unwrap().starts_with("QEMU 10.0.11 (installed): "), "{installed}");
    assert_eq!(row("CVE-2026-48004"), Value::Null);
}

/// A vulnerability is an error where QEMU runs as root; nothing else changes.
#[test]
fn root_makes_it_worse() {
    let unit = |user: &str| {
        format!("[Service]\n{user}ExecStart=/usr/bin/qemu -virtfs proxy,id=f,socket=/a,mount_tag=t\n")
    };
    let proxmox = "args: -virtfs proxy,id=f,socket=/a,mount_tag=t\n".to_owned();
    let libvirt = domain("a", "t", "/a");
    let cases: &[(&[(&str, String)], &str)] = &[
        (&[("etc/pve/qemu-server/100.conf", proxmox)], "error"),
        (&[("etc/libvirt/qemu/a.xml", libvirt.clone())], "warning"),
        (
            &[
                ("etc/libvirt/qemu/a.xml", libvirt.clone()),
                ("etc/libvirt/qemu.conf", "user = \"root\"\n".into()),
            ],
            "error",
        ),
        (
            &[
                ("etc/libvirt/qemu/a.xml", libvirt.clone()),
                ("etc/libvirt/qemu.conf", "user = \"+0\"\n".into()),
            ],
            "error",
        ),
        (
            &[("etc/libvirt/qemu/a.xml", libvirt), ("etc/libvirt/qemu.conf", "#user = \"root\"\n".into())],
            "warning",
        ),
        (&[("etc/systemd/system/vm.service", unit(""))], "error"),
        (&[("etc/systemd/system/vm.service", unit("User=root\n"))], "error"),
        (&[("etc/systemd/system/vm.service", unit("User=vm\n"))], "warning"),
        (&[("etc/systemd/system/vm.service", unit("DynamicUser=yes\n"))], "warning"),
        (
            &[
                ("etc/systemd/system/vm.service", unit("")),
                ("etc/systemd/system/vm.service.d/user.conf", "[Service]\nUser=vm\n".into()),
            ],
            "warning",
        ),
        (&[("usr/local/bin/vm", format!("#!/bin/sh\n{SCRIPT}"))], "warning"),
    ];
    for (files, severity) in cases {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in *files {
            write(&dir.path().join(name), text);
        }
        let found = audit(["--root", dir.path().to_str().unwrap(), "--qemu", "11.1.1"]);
        assert_eq!(found.list("shares").len(), 1, "{files:?}");
        let judged = advice(&found);
        let of = |id: &str| judged.iter().find(|row| row.0 == id).map(|row| row.1.as_str());
        assert_eq!(
            (of("qemu-vulnerability"), of("qemu-difference")),
            (Some(*severity), Some("info")),
            "{files:?}"
        );
        let says = found.document.to_string().contains("QEMU runs as root here (");
        assert_eq!(says, *severity == "error", "{files:?}");
    }
}

/// The text has one block for each QEMU: a heading, and a line for each row, behind the shares.
#[test]
fn the_text_has_one_block_a_qemu() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.sh"), SCRIPT);
    let folder = dir.path().to_str().unwrap();
    let output = plain(["--qemu", "10.0.13", folder]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let heading = "QEMU 10.0.13 (the target): what it means for shares over the local backend. Update QEMU; the CVEs are \
                   not fixed upstream in this version, see your distribution:";
    let at = lines.iter().position(|line| *line == heading).unwrap_or_else(|| panic!("{text}"));
    assert!(lines[..at].iter().any(|line| line.contains("[export-unknown]")), "{text}");
    let block: Vec<_> = lines[at + 1..].iter().take_while(|line| line.starts_with("    ")).collect();
    assert_eq!(block.len(), advice(&judged(dir.path(), "10.0.13")).len(), "{text}");
    assert_eq!(
        *block[0],
        "    warning: CVE-2026-93834: a guest can leave the share and use the host's files as QEMU's user (CVSS 8.8) \
         [qemu-vulnerability]"
    );
    let infos = block.iter().position(|line| line.starts_with("    info: ")).unwrap();
    assert!(block[..infos].iter().all(|line| line.starts_with("    warning: ")), "{text}");
    assert!(block[infos..].iter().all(|line| line.starts_with("    info: ")), "{text}");
    assert_eq!(text.matches("CVE-2026-93834").count(), 1, "{text}");
    let found = plain(["--qemu", "11.1", folder]);
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(text.contains("    warning: CVE-2026-93834 (unless it is 11.1.2 or newer): "), "{text}");
}
