//! Small files of which an audit once said something wrong.

use std::fs;

use serde_json::Value;

use crate::run::audit;

/// What an audit says of files below a root.
fn audited(files: &[(&str, &str)]) -> (Vec<Value>, Vec<Value>, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    let root = folder.path().to_str().unwrap().to_owned();
    let audit = audit(["--root", &root, "--qemu", "9.2", "/"]);
    let findings = serde_json::to_string(audit.list("findings")).unwrap();
    (audit.list("shares").to_vec(), audit.list("helpers").to_vec(), findings)
}

#[test]
fn later_versions_of_lxd_and_incus_name_their_devices_otherwise() {
    let long = "a-disk-of-which-the-name-is-longer-than-any-identifier-can-be";
    // The first part of the SHA-256 of the encoded name, in base64 for file names.
    for (file, backup, prefix, device, own) in [
        (
            "var/snap/lxd/common/lxd/logs/web/qemu.conf",
            "var/snap/lxd/common/lxd",
            "dev-lxd_",
            "pkg-cache",
            "pkg--cache",
        ),
        ("var/log/lxd/web/qemu.conf", "var/lib/lxd", "dev-lxd_", "a/b", "a-b"),
        ("run/incus/web/qemu.conf", "var/lib/incus", "dev-incus_", "data", "data"),
        ("run/incus/web/qemu.conf", "var/lib/incus", "dev-incus_", long, LONG_HASH),
    ] {
        let configuration = format!(
            "[fsdev \"{prefix}{own}-9p\"]\nfsdriver = \"proxy\"\nsock_fd = \"6\"\n\n[device \"{prefix}{own}-9p\"]\ndriver = \
             \"virtio-9p-pci\"\nmount_tag = \"t\"\nfsdev = \"{prefix}{own}-9p\"\n"
        );
        let yaml = format!(
            "instance:\n  name: web\n  devices:\n    {device}:\n      type: disk\n      source: /var/cache/apt\n      path: /x\n"
        );
        let backup = format!("{backup}/virtual-machines/web/backup.yaml");
        let (shares, _, findings) = audited(&[(file, &configuration), (&backup, &yaml)]);
        assert_eq!(shares.len(), 1, "{device}");
        assert_eq!(shares[0]["export"], "/var/cache/apt", "{device}: {findings}");
    }
}

/// Of `a--disk--of--which--…`.
const LONG_HASH: &str = "IX3B_cfOfy1rK6fm8Rdnvp64KtzYFB7IBpIQ2jwMdds";

#[test]
fn a_device_that_is_elsewhere_is_no_reason_to_remove_the_fsdev() {
    for files in [
        &[(
            "vm.py",
            "args += [\"-fsdev\", \"proxy,id=data0,socket=/run/d.sock\"]\nargs += [\"-device\", \"virtio-9p-pci,fsdev=data0,mount_tag=%s\" % tag]\n",
        )][..],
        &[
            ("opts.sh", "OPTS=\"-fsdev proxy,id=data0,socket=/run/d.sock\"\n"),
            (
                "start.sh",
                ". ./opts.sh\nqemu-system-x86_64 $OPTS -device virtio-9p-pci,fsdev=data0,mount_tag=data\n",
            ),
        ],
    ] {
        let (shares, _, findings) = audited(files);
        assert_eq!(shares.len(), 1, "{findings}");
        assert!(!findings.contains("remove it"), "{findings}");
    }
    let (_, _, findings) =
        audited(&[("vm.sh", "qemu-system-x86_64 -fsdev proxy,id=data0,socket=/run/d.sock\n")]);
    assert!(findings.contains("remove it"), "{findings}");
}

#[test]
fn a_usage_message_is_no_share() {
    for (name, content) in [
        ("usage.py", "HELP = \"-virtfs proxy,mount_tag=TAG,socket=SOCKET[,id=ID][,readonly=on]\"\n"),
        ("options.hx", "    \"-virtfs proxy,mount_tag=tag,socket=socket[,id=id][,writeout=immediate]\\n\"\n"),
        ("usage.sh", "usage='-fsdev proxy,id=id,socket=socket[,readonly=on]'\n"),
        ("usage.py", "print('-virtfs proxy,mount_tag=<tag>,socket=<socket>')\n"),
    ] {
        let (shares, _, findings) = audited(&[(name, content)]);
        assert!(shares.is_empty(), "{content}: {findings}");
    }
}

#[test]
fn an_argument_that_is_not_known_is_no_option_of_the_next() {
    for directory in ["$export{$vmid}", "$dir", "$conf->{dir}[0]", "dir_of(vmid)", "@dirs"] {
        let content = format!(
            "system('/usr/lib/kvm/virtfs-proxy-helper', '-p', {directory}, '-s', '/run/a.sock', '-u', '0');\n"
        );
        let (_, helpers, findings) = audited(&[("hook.pl", &content)]);
        assert_eq!(helpers.len(), 1, "{findings}");
        assert_eq!(
            (&helpers[0]["export"], &helpers[0]["socket"]),
            (&Value::Null, &"/run/a.sock".into()),
            "{directory}"
        );
    }
}

#[test]
fn a_socket_in_a_variable_is_rewritable_with_an_answer() {
    for content in [
        "#!/bin/sh\nqemu-system-x86_64 -virtfs proxy,socket=$S,mount_tag=w\n",
        "#!/bin/sh\nqm set 1 --args \"-virtfs proxy,socket=$S,mount_tag=w\"\n",
    ] {
        let (shares, _, findings) = audited(&[("vm.sh", content)]);
        assert_eq!(
            (&shares[0]["rewritable"], &shares[0]["socket"]),
            (&true.into(), &Value::Null),
            "{findings}"
        );
        assert!(findings.contains("--export w=PATH") && findings.contains("--readonly w"), "{findings}");
    }
}
