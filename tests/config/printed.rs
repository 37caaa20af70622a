//! What surrounds QEMU is told beside every output: rewritten files, printed forms, libvirt XML.

use std::fs;
use std::process::Command;

use crate::{cases, config, text};

const QEMU: &str = "/usr/bin/qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n.sock,mount_tag=n";

/// What `config` says of a file, and what it prints.
fn said(name: &str, content: &str, options: &[&str]) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, content.replace('@', QEMU)).unwrap();
    let args = [&["--export", "n=/srv/x"], options, &[file.to_str().unwrap()]].concat();
    let output = config(args, b"");
    let told = text(&output.stderr).replace(&format!("{}/", folder.path().display()), "");
    assert!(output.status.success(), "{told}");
    (text(&output.stdout), told)
}

#[test]
fn printed_forms_name_what_surrounds_qemu() {
    let unit = "[Service]\nProtectSystem=strict\nExecStart=@\n";
    for form in ["qemu-args", "readconfig"] {
        let (out, told) = said("vm.service", unit, &["--to", form]);
        assert!(out.contains("path"), "{out}");
        assert!(told.contains("warning: vm.service:2: ") && told.contains("[export-locked]"), "{told}");
        assert!(told.contains("add ReadWritePaths=/srv/x"), "{told}");
    }
    // libvirt is to start QEMU then, and not this unit.
    let (_, told) = said("vm.service", unit, &["--to", "libvirt"]);
    assert!(!told.contains("vm.service:2"), "{told}");
    let (_, told) =
        said("vm.service", &unit.replace("strict", "strict\nReadWritePaths=/srv"), &["--to", "qemu-args"]);
    assert!(!told.contains("[export-"), "{told}");

    let unit = "[Unit]\nRequires=virtfs-proxy-helper.service\n[Service]\nExecStart=@\n";
    let (_, told) = said("vm.service", unit, &["--to", "qemu-args"]);
    assert!(told.contains("vm.service:2: ") && told.contains("[helper-required]"), "{told}");

    let container = "[Container]\nImage=img\nExec=@\nVolume=/run:/run\n";
    let (_, told) = said("vm.container", container, &["--to", "qemu-args"]);
    assert!(told.contains("vm.container:2: ") && told.contains("add Volume=/srv/x:/srv/x"), "{told}");
    let (out, told) =
        said("vm.container", &format!("{container}Volume=/srv/x:/data\n"), &["--to", "qemu-args"]);
    assert!(out.contains("path=/data,") && !told.contains("[export-"), "{out}{told}");
    let (out, told) = said("vm.sh", "#!/bin/sh\npodman run img @\n", &["--to", "qemu-args"]);
    assert!(out.contains("path=/srv/x,") && told.contains("add -v /srv/x:/srv/x"), "{told}");
}

#[test]
fn virtiofs_needs_its_socket_in_qemus_view() {
    let options = ["--backend", "virtiofs", "--to", "qemu-args"];
    let container = "[Container]\nImage=img\nExec=@ -m 1G\n";
    let (_, told) = said("vm.container", container, &options);
    assert!(told.contains("[export-hidden]") && told.contains("/run/virtiofsd-"), "{told}");
    let (_, told) = said("vm.container", &format!("{container}Volume=/run:/run\n"), &options);
    assert!(!told.contains("[export-"), "{told}");
    let (_, told) = said("vm.service", "[Service]\nProtectSystem=strict\nExecStart=@ -m 1G\n", &options);
    assert!(!told.contains("[export-"), "{told}");
}

#[test]
fn a_domains_labels_are_told() {
    let domain = fs::read_to_string(cases().join("plain/in.xml")).unwrap();
    let labelled =
        |label: &str| domain.replace("  <os>", &format!("  {label}\n  <os>")).replace("=share", "=n");
    for (label, part) in [
        (
            "<seclabel type='static' model='selinux' relabel='no'><label>system_u:system_r:my_t:s0</label></seclabel>",
            "SELinux context system_u:system_r:my_t:s0",
        ),
        (
            "<seclabel type='static' model='apparmor'><label>my-profile</label></seclabel>",
            "AppArmor profile my-profile",
        ),
    ] {
        let options: [&[&str]; 4] = [&[], &["--to", "libvirt"], &["--to", "qemu-args"], &["--in-place-args"]];
        for options in options {
            let (_, told) = said("vm.xml", &labelled(label), options);
            assert!(told.contains("vm.xml:4: ") && told.contains("[qemu-confined]"), "{options:?}: {told}");
            assert!(told.contains(part) && told.contains("/srv/x"), "{told}");
        }
    }
    for label in ["<seclabel type='none'/>", "<seclabel type='dynamic' model='dac'/>", ""] {
        let (_, told) = said("vm.xml", &labelled(label), &[]);
        assert!(!told.contains("vm.xml:4: "), "{told}");
    }
}

/// Runs `config` on a domain where the files of this machine are others: `before` makes them.
fn on_host(before: &str, export: &str, options: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let domain = fs::read_to_string(cases().join("plain/in.xml")).unwrap();
    fs::write(folder.path().join("vm.xml"), domain).unwrap();
    let program = env!("CARGO_BIN_EXE_virtfs-proxy-helper");
    let script = format!(
        "set -e\n\
         mkdir {0}/etc\n\
         if [ -d /etc/systemd/system ] && [ -d /etc/libvirt ]; then\n\
         mount -t tmpfs none /etc/systemd/system; mount --bind {0}/etc /etc/libvirt\n\
         else cp -a /etc/. {0}/etc; mount --bind {0}/etc /etc; mkdir -p /etc/libvirt /etc/systemd/system; fi\n\
         {before}\n{program} migrate config {0}/vm.xml --export share={export} {options}",
        folder.path().display(),
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn the_unit_of_libvirts_daemon_counts_for_its_guests() {
    let unit = |settings: &str| {
        format!(
            "printf '[Service]\\nExecStart=/usr/sbin/libvirtd\\n{settings}\\n' >/etc/systemd/system/libvirtd.service"
        )
    };
    for options in ["", "--to libvirt", "--backend virtiofs"] {
        let told = on_host(&unit("ProtectHome=yes"), "/home/a/x", options);
        assert!(told.contains("/etc/systemd/system/libvirtd.service:3: "), "{options}: {told}");
        assert!(
            told.contains("ProtectHome=yes hides /home/a/x") && told.contains("[export-hidden]"),
            "{told}"
        );
    }
    let told = on_host(&unit("ProtectSystem=strict"), "/srv/x", "");
    assert!(told.contains("add ReadWritePaths=/srv/x by `systemctl edit`"), "{told}");
    for settings in ["ProtectSystem=strict\\nReadWritePaths=/srv", "ProtectHome=yes", ""] {
        let told = on_host(&unit(settings), "/srv/x", "");
        assert!(!told.contains("[export-"), "{told}");
    }
}

#[test]
fn a_directory_in_dev_is_not_in_qemus_dev() {
    for (conf, export, told) in [
        ("", "/dev/share", true),
        ("namespaces = [ ]", "/dev/share", false),
        ("namespaces = [ \"mount\" ]", "/dev/share", true),
        ("", "/dev/shm/x", false),
        ("", "/srv/x", false),
    ] {
        let said = on_host(&format!("echo '{conf}' >/etc/libvirt/qemu.conf"), export, "");
        assert_eq!(said.contains("a /dev of its own"), told, "{conf} {export}: {said}");
    }
}
