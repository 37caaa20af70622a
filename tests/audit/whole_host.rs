//! `--root`: another host's file system, and nothing but it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

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

/// Places of a whole machine, each with a file that starts QEMU, and what has to be around it to be found.
fn everywhere() -> Vec<(&'static str, &'static str)> {
    const SCRIPT: &str = "#!/bin/sh\nexec qemu-system-x86_64 -m 1G OPTIONS\n";
    const BARE: &str = "qemu-system-x86_64 -m 1G OPTIONS\n";
    const UNIT: &str = "[Service]\nExecStart=/usr/bin/qemu-system-x86_64 OPTIONS\n";
    const NIX: &str = "{ pkgs, ... }:\n{\n  systemd.services.vm.script = \'\'\n    qemu-system-x86_64 OPTIONS\n  \'\';\n}\n";
    vec![
        // Below /etc, in folders of many programs and in the admin's own.
        ("/etc/service/vm/run", SCRIPT),
        ("/etc/sv/vm/run", SCRIPT),
        ("/etc/s6/services/vm/run", SCRIPT),
        ("/etc/supervisor/conf.d/vm.conf", "[program:vm]\ncommand=qemu-system-x86_64 OPTIONS\n"),
        ("/etc/supervisord.conf", "[program:vm]\ncommand=qemu-system-x86_64 OPTIONS\n"),
        ("/etc/init/vm.conf", "start on runlevel [2345]\nexec qemu-system-x86_64 OPTIONS\n"),
        ("/etc/init.d/vm", SCRIPT),
        ("/etc/nixos/configuration.nix", NIX),
        ("/etc/vms/web.sh", SCRIPT),
        ("/etc/vms/web", BARE),
        ("/etc/cron.daily/vm", SCRIPT),
        ("/etc/cron.d/vm", "@reboot root qemu-system-x86_64 OPTIONS\n"),
        ("/etc/crontab", "@reboot root qemu-system-x86_64 OPTIONS\n"),
        ("/etc/network/if-up.d/vm", SCRIPT),
        ("/etc/NetworkManager/dispatcher.d/50-vm", SCRIPT),
        ("/etc/profile.d/vm.sh", "alias vm=\'qemu-system-x86_64 OPTIONS\'\n"),
        ("/etc/bash.bashrc", "vm() { qemu-system-x86_64 OPTIONS; }\n"),
        ("/etc/udev/rules.d/90-vm.rules", "ACTION==\"add\", RUN+=\"/usr/bin/qemu-system-x86_64 OPTIONS\"\n"),
        (
            "/etc/monit/conf.d/vm",
            "check process vm\n  start program = \"/usr/bin/qemu-system-x86_64 OPTIONS\"\n",
        ),
        ("/etc/inittab", "vm:2345:respawn:/usr/bin/qemu-system-x86_64 OPTIONS\n"),
        (
            "/etc/xen/web.cfg",
            "name = \"web\"\ndevice_model_args = [ \"-fsdev\", \"proxy,id=f,socket=/a\", \"-device\", \"virtio-9p-pci,fsdev=f,mount_tag=t\" ]\n",
        ),
        (
            "/etc/xen/web",
            "name = \"web\"\ndevice_model_args = [ \"-fsdev\", \"proxy,id=f,socket=/a\", \"-device\", \"virtio-9p-pci,fsdev=f,mount_tag=t\" ]\n",
        ),
        ("/etc/systemd/user/vm.service", UNIT),
        ("/etc/systemd/system-generators/vm", SCRIPT),
        // Homes.
        ("/root/vm.sh", SCRIPT),
        ("/root/bin/vm", SCRIPT),
        ("/root/.bashrc", "alias vm=\'qemu-system-x86_64 OPTIONS\'\n"),
        ("/home/joe/vm/run.sh", SCRIPT),
        ("/home/joe/.bash_aliases", "alias vm=\'qemu-system-x86_64 OPTIONS\'\n"),
        ("/home/joe/.zshrc", "alias vm=\'qemu-system-x86_64 OPTIONS\'\n"),
        ("/home/joe/project/Makefile", "run:\n\tqemu-system-x86_64 OPTIONS\n"),
        (
            "/home/joe/project/Vagrantfile",
            "Vagrant.configure(\"2\") do |c|\n  q.extra_qemu_args = %w(OPTIONS)\nend\n",
        ),
        (
            "/home/joe/project/main.go",
            "package main\nfunc main() {\n\texec.Command(\"sh\", \"-c\", \"qemu-system-x86_64 OPTIONS\").Run()\n}\n",
        ),
        ("/home/joe/.config/autostart/vm.desktop", "[Desktop Entry]\nExec=qemu-system-x86_64 OPTIONS\n"),
        ("/home/joe/.config/systemd/user/vm.service", UNIT),
        ("/home/joe/.local/bin/vm", SCRIPT),
        ("/home/joe/.xinitrc", BARE),
        // Software of the site's own.
        ("/opt/vm/bin/start", SCRIPT),
        (
            "/opt/vm/etc/vm.yaml",
            "args: [qemu-system-x86_64, -virtfs, \"proxy,id=f,mount_tag=t,socket=/a\"]\n",
        ),
        ("/srv/vm/start.sh", SCRIPT),
        ("/usr/local/lib/vm/start", SCRIPT),
        ("/usr/local/libexec/vm", SCRIPT),
        ("/usr/local/share/vm/vm.sh", SCRIPT),
        ("/usr/bin/start-vm", SCRIPT),
        ("/usr/sbin/start-vm", SCRIPT),
        ("/usr/libexec/start-vm", SCRIPT),
        ("/usr/lib/systemd/system/vm.service", UNIT),
        (
            "/usr/lib/udev/rules.d/90-vm.rules",
            "ACTION==\"add\", RUN+=\"/usr/bin/qemu-system-x86_64 OPTIONS\"\n",
        ),
        ("/usr/share/applications/vm.desktop", "[Desktop Entry]\nExec=qemu-system-x86_64 OPTIONS\n"),
        // State.
        ("/var/lib/vms/web/run", SCRIPT),
        ("/var/lib/jenkins/jobs/vm/vm.sh", SCRIPT),
        ("/var/lib/docker/volumes/vm/_data/vm.sh", SCRIPT),
        ("/var/spool/cron/crontabs/root", "@reboot qemu-system-x86_64 OPTIONS\n"),
        ("/var/spool/at/a0001", SCRIPT),
        ("/run/systemd/transient/vm.service", UNIT),
        ("/run/user/1000/systemd/transient/vm.service", UNIT),
    ]
}

#[test]
fn a_command_that_starts_qemu_is_found_in_each_place() {
    for (file, text) in everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let text = text.replace("OPTIONS", "-virtfs proxy,id=f,mount_tag=t,socket=/a");
        write(&dir.path().join(&file[1..]), text);
        let audit = audit(["--root", dir.path().to_str().unwrap()]);
        assert_eq!(audit.list("shares").len(), 1, "{file}: {:#}", audit.document);
        assert_eq!(audit.share("t")["file"], file);
        assert_eq!(audit.status, 3, "{file}");
    }
}

#[test]
fn what_units_tables_and_scripts_start_is_read_wherever_it_is() {
    for (file, text) in [
        ("/etc/systemd/system/vm.service", "[Service]\nExecStart=/data/vm/run.sh\n"),
        ("/etc/systemd/system/vm.service", "[Service]\nExecStart=/bin/sh -c \"cd /data/vm && ./run.sh\"\n"),
        (
            "/etc/systemd/system/vm.service",
            "[Service]\nWorkingDirectory=/data/vm\nExecStart=/bin/sh run.sh\n",
        ),
        ("/etc/crontab", "@reboot root /data/vm/run.sh\n"),
        ("/var/spool/cron/crontabs/joe", "@reboot /data/vm/run.sh\n"),
        ("/etc/init.d/vm", "#!/bin/sh\nstart-stop-daemon --start --exec /data/vm/run.sh\n"),
        ("/etc/rc.local", "#!/bin/sh\n/data/vm/run.sh &\n"),
        ("/etc/libvirt/hooks/qemu", "#!/bin/sh\n. /data/vm/run.sh\n"),
        ("/home/joe/.config/autostart/vm.desktop", "[Desktop Entry]\nExec=/data/vm/run.sh\n"),
        ("/opt/vm/start", "#!/bin/sh\n/data/first\n"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(&file[1..]), text);
        write(&dir.path().join("data/first"), "#!/bin/sh\n/data/second\n");
        write(&dir.path().join("data/second"), "#!/bin/sh\n/data/vm/run.sh\n");
        let start = "#!/bin/sh\nqemu-system-x86_64 -virtfs proxy,id=f,mount_tag=t,socket=/a\n";
        write(&dir.path().join("data/vm/run.sh"), start);
        let audit = audit(["--root", dir.path().to_str().unwrap()]);
        assert_eq!(audit.list("shares").len(), 1, "{file}: {text}: {:#}", audit.document);
        assert!(audit.list("followed").contains(&"/data/vm/run.sh".into()), "{file}: {text}");
    }
}

/// A place is read, or the report names it.
#[test]
fn odd_places_are_read_or_named() {
    let start = "#!/bin/sh\nqemu-system-x86_64 -virtfs proxy,id=f,mount_tag=t,socket=/a\n";
    let cloud = "#cloud-config\nruncmd:\n - qemu-system-x86_64 -virtfs proxy,id=f,mount_tag=t,socket=/a\n";
    for (file, text, is_read) in [
        ("service/vm/run", start, true),
        ("var/service/vm/run", start, true),
        ("usr/games/vm", start, true),
        ("boot/vm.sh", start, true),
        ("var/backups/vm.sh", start, true),
        ("var/lib/cloud/instance/user-data.txt", cloud, true),
        ("data/vm.sh", start, false),
        ("mnt/disk/vm.sh", start, false),
        ("vm.sh", start, true),
        ("var/snap/qemu/common/vm.sh", start, true),
        ("var/cache/x/vm.sh", start, false),
        ("var/vms/vm.sh", start, false),
        ("usr/share/x/vm.sh", start, false),
        ("usr/src/x/vm.sh", start, false),
        ("usr/lib/x/vm.sh", start, false),
        ("usr/lib64/x/vm.sh", start, false),
        ("lib64/x/vm.sh", start, false),
        ("tmp/vm.sh", start, false),
        ("var/tmp/vm.sh", start, false),
        ("dev/shm/vm.sh", start, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(file), text);
        let audit = audit(["--root", dir.path().to_str().unwrap()]);
        assert_eq!(audit.list("shares").len(), usize::from(is_read), "{file}: {:#}", audit.document);
        let around = |list: &str| {
            let named = audit.list(list);
            named.iter().any(|named| Path::new(&format!("/{file}")).starts_with(named.as_str().unwrap()))
        };
        assert_eq!((around("looked_in"), around("left_out")), (is_read, !is_read), "{file}");
        assert_eq!(audit.status, if is_read { 3 } else { 0 }, "{file}");
    }
}

#[test]
fn images_and_caches_are_left_out_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let start = "#!/bin/sh\nqemu-system-x86_64 -virtfs proxy,id=f,mount_tag=t,socket=/a\n";
    let folders = ["/home/joe/.cache/x", "/home/joe/vm/.git/objects", "/var/lib/docker/overlay2"];
    for folder in folders {
        write(&dir.path().join(&folder[1..]).join("vm.sh"), start);
    }
    let root = dir.path().to_str().unwrap();
    let whole = audit(["--root", root]);
    assert_eq!(whole.status, 0, "{:#}", whole.document);
    assert_eq!(whole.list("left_out"), folders);
    assert_eq!(whole.list("looked_in"), ["/home", "/var/lib"]);
    let text = crate::run::plain(["--root", root]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("looked in: /home, /var/lib\n"), "{text}");
    assert!(text.contains("(images, caches, object stores, other folders): /home/joe/.cache/x, "), "{text}");
    // What is named is read.
    for folder in folders {
        assert_eq!(audit(["--root", root, folder]).status, 3, "{folder}");
    }
    assert_eq!(audit(["--root", root, "/"]).list("shares").len(), 3);
}
