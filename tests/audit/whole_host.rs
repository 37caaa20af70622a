//! `--root`: another host's file system, and nothing but it.

use std::fs;
use std::os::unix::fs::symlink;

use crate::run::{audit, domain, write};

#[test]
fn paths_are_as_on_that_host() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("etc/libvirt/qemu/web.xml"), domain("web", "t", "/run/a.sock"));
    for arguments in [&[][..], &["/etc"], &["etc"], &["/"], &["/etc/libvirt/qemu/web.xml"]] {
        let audit = audit([&["--root", root.to_str().unwrap()][..], arguments].concat());
        assert_eq!(audit.share("t")["file"], "/etc/libvirt/qemu/web.xml", "{arguments:?}");
        assert!(!audit.document.to_string().contains(root.to_str().unwrap()), "{arguments:?}");
    }
}

#[test]
fn links_never_lead_out() {
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("secret.xml"), domain("secret", "secret", "/a"));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("etc/libvirt/qemu")).unwrap();
    let secret = outside.path().join("secret.xml");
    let up = format!("{}{}", "../".repeat(20), secret.display());
    symlink(&secret, root.join("etc/libvirt/qemu/absolute.xml")).unwrap();
    symlink(&up, root.join("etc/libvirt/qemu/relative.xml")).unwrap();
    symlink(outside.path(), root.join("etc/libvirt/qemu/folder")).unwrap();
    // Inside, such a link leads to what is below the root.
    write(&root.join("data/guest.xml"), domain("guest", "inside", "/a"));
    symlink("/data/guest.xml", root.join("etc/libvirt/qemu/inside.xml")).unwrap();
    let audit = audit(["--root", root.to_str().unwrap()]);
    assert_eq!(audit.list("shares").len(), 1, "{:#}", audit.document);
    assert_eq!(audit.share("inside")["file"], "/etc/libvirt/qemu/inside.xml");
}

#[test]
fn all_of_the_usual_places_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let args = "-virtfs proxy,id=f,socket=/a,mount_tag";
    for (file, text) in [
        ("etc/libvirt/qemu/a.xml", domain("a", "libvirt", "/a")),
        ("run/libvirt/qemu/a.xml", format!("<domstatus state='running'>{}</domstatus>", domain("a", "running", "/a"))),
        ("etc/pve/qemu-server/100.conf", format!("args: {args}=proxmox\nname: a\n")),
        ("etc/pve/nodes/pve2/qemu-server/101.conf", format!("args: {args}=node\nname: a\n")),
        ("etc/systemd/system/vm.service", format!("[Service]\nExecStart=/usr/bin/qemu {args}=unit\n")),
        ("usr/lib/systemd/system/vm.service.d/x.conf", format!("[Service]\nExecStart=/usr/bin/qemu {args}=dropin\n")),
        ("etc/containers/systemd/vm.container", format!("[Container]\nExec=qemu {args}=quadlet\n")),
        ("run/incus/vm/qemu.conf", "[fsdev \"f\"]\nfsdriver = \"proxy\"\nsock_fd = \"4\"\n[device \"d\"]\ndriver = \"virtio-9p-pci\"\nfsdev = \"f\"\nmount_tag = \"incus\"\n".to_owned()),
        ("etc/rc.local", format!("#!/bin/sh\nqemu {args}=rclocal\n")),
        ("etc/cron.d/vm", format!("@reboot root qemu {args}=cron\n")),
        ("usr/local/bin/start-vm", format!("#!/bin/bash\nqemu {args}=script\n")),
        ("home/joe/.config/libvirt/qemu/a.xml", domain("a", "session", "/a")),
    ] {
        write(&root.join(file), text);
    }
    let audit = audit(["--root", root.to_str().unwrap()]);
    for tag in [
        "libvirt", "running", "proxmox", "node", "unit", "dropin", "quadlet", "incus", "rclocal", "cron",
        "script", "session",
    ] {
        audit.share(tag);
    }
    assert_eq!(audit.list("shares").len(), 12);
}
