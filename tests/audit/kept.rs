//! The files that `migrate config --in-place` keeps are told of, and nothing else is left out for its name.

use std::fs;
use std::process::Command;

use crate::run::{plain, write};

const QEMU: &str = "qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n.sock,mount_tag=n\n";

fn status(folder: &std::path::Path) -> (Option<i32>, String) {
    let output = plain(["--qemu", "9.2", folder.to_str().unwrap()]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_folder_is_clean_after_the_rewrite_of_its_file() {
    for (name, content) in [
        ("vm.sh", format!("#!/bin/sh\nvirtfs-proxy-helper -p /srv/x -s /run/n.sock\n{QEMU}")),
        ("vm.service", format!("[Service]\nExecStart=/usr/bin/{QEMU}")),
        ("vm.xml", include_str!("../golden/config/plain/in.xml").to_owned()),
        ("qemu-server/100.conf", format!("name: x\nargs: {}", QEMU.replace("qemu-system-x86_64 ", ""))),
        ("vm.yml", "args: [\"-virtfs\", \"proxy,id=n,socket=/run/n.sock,mount_tag=n\"]\n".to_owned()),
        ("vm.json", "{\"args\": [\"-virtfs\", \"proxy,id=n,socket=/run/n.sock,mount_tag=n\"]}\n".to_owned()),
        ("vm.py", "run([\"qemu\", \"-virtfs\", \"proxy,id=n,socket=/run/n.sock,mount_tag=n\"])\n".to_owned()),
        ("vm.nix", "[ \"-virtfs\" \"proxy,id=n,socket=/run/n.sock,mount_tag=n\" ]\n".to_owned()),
        ("Makefile", format!("run:\n\t{QEMU}")),
        ("crontab", format!("@reboot {QEMU}")),
        ("vm", QEMU.to_owned()),
        (
            "vm.cfg",
            "[fsdev \"n\"]\n  fsdriver = \"proxy\"\n  socket = \"/run/n.sock\"\n[device \"d\"]\n  driver = \
             \"virtio-9p-pci\"\n  fsdev = \"n\"\n  mount_tag = \"n\"\n"
                .to_owned(),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        write(&file, &content);
        assert_eq!(status(folder.path()).0, Some(3));
        let rewritten = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"))
            .args(["migrate", "config", "--in-place", "--export", "n=/srv/x", "--export", "share=/srv/x"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(rewritten.status.success());
        let (code, said) = status(folder.path());
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("kept-original"), "{said}");
        // Who names the file asks about it.
        assert_eq!(status(&folder.path().join(format!("{name}.orig"))).0, Some(3));
        // Put back under its name, or grown since, it counts.
        let kept = folder.path().join(format!("{name}.orig"));
        fs::write(
            &kept,
            content
                .replace("mount_tag=n", "mount_tag=m")
                .replace("mount_tag = \"n\"", "mount_tag = \"m\"")
                .replace("'share'", "'other'")
                .replace("mount_tag=share", "mount_tag=other"),
        )
        .unwrap();
        assert_eq!(status(folder.path()).0, Some(3), "{name}");
    }
}

#[test]
fn a_name_alone_hides_nothing() {
    let local = QEMU
        .replace("proxy", "local")
        .replace("socket=/run/n.sock", "path=/srv/x,security_model=mapped-xattr");
    let second = QEMU.replace("=n", "=m");
    for (kept, current) in [
        ("vm.sh.orig", None),
        ("vm.sh.orig", Some(QEMU.to_owned())),
        ("vm.sh.orig", Some("#!/bin/sh\n".to_owned())),
        ("vm.sh.orig", Some(format!("{local}{second}"))),
        ("vm.sh.orig", Some(local.replace("mount_tag=n", "mount_tag=m"))),
        ("vm.sh.orig.x", Some(local.clone())),
        ("vm.sh.bak", Some(local.clone())),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join(kept), format!("#!/bin/sh\n{QEMU}"));
        if let Some(current) = &current {
            write(&folder.path().join("vm.sh"), current);
        }
        let (code, said) = status(folder.path());
        assert_eq!(code, Some(3), "{kept} {current:?}: {said}");
        assert!(!said.contains("kept-original"), "{said}");
    }
}

/// A plan holds the shares that it is about. It is no place where they are configured, unless who names it says so.
#[test]
fn a_plan_is_no_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("vm.sh");
    write(&script, format!("#!/bin/sh\nvirtfs-proxy-helper -p /srv/x -s /run/n.sock\n{QEMU}"));
    let plans = folder.path().join("plans");
    fs::create_dir(&plans).unwrap();
    for (name, format) in [("plan.yaml", "yaml"), ("plan.json", "json")] {
        let made = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"))
            .args(["migrate", "plan", "--owner", "nobody", "--format", format, "--output"])
            .args([&plans.join(name), &script])
            .output()
            .unwrap();
        let text = fs::read_to_string(plans.join(name)).unwrap();
        assert!(text.contains("fsdev proxy") || text.contains("-virtfs proxy"), "{made:?}\n{text}");
        let (code, said) = status(&plans);
        assert_eq!(code, Some(0), "{name}: {said}");
        assert_eq!(status(&plans.join(name)).0, Some(3), "{name}");
        // Notes in front of it change nothing; a part of it is no plan.
        fs::write(plans.join(name), format!("# for web\n---\n{text}")).unwrap();
        assert_eq!(status(&plans).0, Some(0), "{name}");
        fs::write(plans.join(name), text.replace("moves", "guests")).unwrap();
        assert_eq!(status(&plans).0, Some(3), "{name}");
        fs::remove_file(plans.join(name)).unwrap();
    }
}
