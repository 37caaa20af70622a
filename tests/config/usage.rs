//! Options, exit statuses and what is said after a rewrite.

use std::fs;

use crate::{cases, config, text};

fn plain() -> Vec<u8> {
    fs::read(cases().join("plain/in.xml")).unwrap()
}

#[test]
fn exit_statuses_are_for_scripts() {
    let share = ["--export", "share=/srv/share"];
    let clean = fs::read(cases().join("plain/out.xml")).unwrap();
    let table: &[(&[&str], &[u8], i32)] = &[
        (&["-", share[0], share[1]], &plain(), 0),
        (&["-", share[0], share[1], "--check"], &plain(), 3),
        (&["-", share[0], share[1], "--check", "--diff"], &plain(), 3),
        (&["-", share[0], share[1], "--diff"], &plain(), 0),
        (&["-", "--check"], &clean, 0),
        (&["-", "--check"], &plain(), 1),
        (&["-"], &plain(), 1),
        (&["-", share[0], share[1], "--in-place"], &plain(), 2),
        (&["-", "--export", "share"], &plain(), 2),
        (&["-", "--export", "share=relative"], &plain(), 2),
        (&["-", "--fmode", "999"], &plain(), 2),
        (&["-", "--to", "libvirt", "--diff"], &plain(), 2),
        (&[], b"", 2),
        (&["/nonexistent/vm.xml"], b"", 1),
        (&["-"], b"nothing of interest\n", 0),
        (&["-"], b"Documentation of `-fsdev proxy`.\n", 0),
    ];
    for (args, input, expected) in table {
        let output = config(*args, input);
        assert_eq!(output.status.code(), Some(*expected), "{args:?}: {}", text(&output.stderr));
        if *expected != 0 && !args.contains(&"--diff") {
            assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
        }
    }
}

#[test]
fn a_difference_can_be_applied() {
    let output = config(["-", "--export", "share=/srv/share", "--diff"], &plain());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm.xml");
    fs::write(&file, plain()).unwrap();
    fs::write(folder.path().join("diff"), &output.stdout).unwrap();
    let patch = std::process::Command::new("patch")
        .args(["-s", "vm.xml", "diff"])
        .current_dir(folder.path())
        .status()
        .expect("patch, of Debian's package patch");
    assert!(patch.success());
    assert_eq!(fs::read(&file).unwrap(), fs::read(cases().join("plain/out.xml")).unwrap());
}

#[test]
fn a_share_is_printed_in_every_form() {
    let export = ["--export", "share=/srv/a b,c"];
    let table = [
        (
            "libvirt",
            "<filesystem type='mount' accessmode='mapped'>\n  <source dir='/srv/a b,c'/>\n  <target dir='share'/>\n  \
             <address type='pci' domain='0x0000' bus='0x00' slot='0x07' function='0x0'/>\n</filesystem>\n",
        ),
        (
            "qemu-args",
            "-fsdev 'local,id=fs0,path=/srv/a b,,c,security_model=mapped-xattr'\n\
             -device virtio-9p-pci,fsdev=fs0,mount_tag=share,bus=pci.0,addr=0x7\n",
        ),
        (
            "readconfig",
            "[fsdev \"fs0\"]\n  fsdriver = \"local\"\n  path = \"/srv/a b,c\"\n  security_model = \"mapped-xattr\"\n\n\
             [device]\n  driver = \"virtio-9p-pci\"\n  fsdev = \"fs0\"\n  mount_tag = \"share\"\n  bus = \"pci.0\"\n  \
             addr = \"0x7\"\n",
        ),
    ];
    for (form, expected) in table {
        let output = config(["-", "--to", form, export[0], export[1]], &plain());
        assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    }
}

#[test]
fn what_is_left_to_do_follows_the_rewrite() {
    let output = config(["-", "--export", "share=/srv/it's"], &plain());
    let said = text(&output.stderr);
    for part in [
        "Shut down the guest vm",
        r"migrate convert '/srv/it'\\''s' --owner ",
        "--security-model mapped-xattr --apply",
        "virsh define NEW-FILE",
        "virsh dumpxml --inactive --security-info vm",
        "virsh managedsave-remove vm",
        "helper on /run/vm.sock",
    ] {
        assert!(said.contains(part), "{part} is missing in\n{said}");
    }
    let snapshot = fs::read(cases().join("snapshot/in.xml")).unwrap();
    let said = text(&config(["-", "--export", "share=/srv/share"], &snapshot).stderr);
    assert!(said.contains("virsh snapshot-create vm NEW-FILE --redefine"), "{said}");
    let readconfig = fs::read(cases().join("readconfig/in.conf")).unwrap();
    let said = text(&config(["-", "--export", "tag=/srv/share"], &readconfig).stderr);
    assert!(said.contains("--owner USER") && !said.contains("virsh"), "{said}");
}

#[test]
fn what_a_file_says_never_reaches_the_terminal_raw() {
    let input = text(&plain()).replace("<name>vm</name>", "<name>v\u{9b}2Jm\u{202e}</name>");
    let output = config(["-", "--export", "share=/srv/\u{1b}[2Jx", "--in-place-args"], input.as_bytes());
    let said = text(&output.stderr);
    assert!(!said.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{said:?}");
}

#[test]
fn the_files_around_say_what_variables_stand_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("settings"), "SOCK=/run/a.sock\nEXPORT=/srv/a\n").unwrap();
    let device = "-device virtio-9p-pci,fsdev=f,mount_tag=t";
    for (name, text) in [
        (
            "vm.service",
            format!(
                "[Service]\nEnvironmentFile={}\nExecStartPre=/usr/bin/virtfs-proxy-helper -p ${{EXPORT}} -s ${{SOCK}}\n\
                 ExecStart=/usr/bin/qemu -fsdev proxy,id=f,socket=${{SOCK}} {device}\n",
                at("settings")
            ),
        ),
        (
            "vm.sh",
            format!(
                "#!/bin/sh\n. {}\nvirtfs-proxy-helper -p $EXPORT -s $SOCK\nqemu -fsdev proxy,id=f,socket=${{SOCK}} {device}\n",
                at("settings")
            ),
        ),
    ] {
        fs::write(at(name), &text).unwrap();
        let output = config([at(name)], b"");
        let local = "local,id=f,path=/srv/a,security_model=mapped-xattr";
        let expected = text.replace("proxy,id=f,socket=${SOCK}", local);
        assert_eq!(self::text(&output.stdout), expected, "{}", self::text(&output.stderr));
    }
}

#[test]
fn notes_are_taken_by_their_content_when_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm.txt");
    fs::write(&file, "qemu-system-x86_64 -virtfs proxy,id=f,mount_tag=t,socket=/a\n").unwrap();
    let output = config([file.to_str().unwrap(), "--export", "t=/srv/a", "--check"], b"");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}
